"""The measures of maps: what each is called and how it is read. Computed in `deepbloom.explain.measuring`."""

from dataclasses import dataclass

STEPS = 10
"""Of deletion and insertion."""
ROAD_FRACTIONS = (0.2, 0.4, 0.6)
REMOVED = {
    "deletion": tuple(step / STEPS for step in range(STEPS + 1)),
    "insertion": tuple(step / STEPS for step in range(STEPS + 1)),
    "most_relevant_first": ROAD_FRACTIONS,
    "least_relevant_first": ROAD_FRACTIONS,
}
"""Share of the pixels at each point of the curves."""


@dataclass(frozen=True)
class Measure:
    """What a measure is called and how it is read.

    Attributes
    ----------
    title, meaning : str
    higher_is_better : bool
    needs_mask : bool
    """

    title: str
    meaning: str
    higher_is_better: bool
    needs_mask: bool = False


MEASURES = {
    "deletion_area": Measure(
        "deletion",
        "Mean probability of the class while the marked pixels are replaced by the mean color, most evidence first; "
        "lower is better (Petsiuk et al. 2018).",
        higher_is_better=False,
    ),
    "insertion_area": Measure(
        "insertion",
        "Mean probability of the class while the blurred image becomes sharp, most evidence first; higher is better "
        "(Petsiuk et al. 2018).",
        higher_is_better=True,
    ),
    "road_score": Measure(
        "ROAD",
        "Probability after the least relevant pixels were interpolated from their surroundings, minus that after the "
        "most relevant ones were; 0 is what chance gets, higher is better (Rong et al. 2022).",
        higher_is_better=True,
    ),
    "average_drop": Measure(
        "average drop",
        "Share of the probability that is lost when the image is dimmed by its map; lower is better, and a map that "
        "is bright everywhere is best of all (Chattopadhay et al. 2018).",
        higher_is_better=False,
    ),
    "increase": Measure(
        "increase",
        "Share of the images whose probability grows when they are dimmed by their maps; higher is better "
        "(Chattopadhay et al. 2018).",
        higher_is_better=True,
    ),
    "energy_inside": Measure(
        "energy inside",
        "Share of the map's sum that lies on the flower; a map that is bright everywhere gets the flower's share of "
        "the image (Wang et al. 2020).",
        higher_is_better=True,
        needs_mask=True,
    ),
    "pointing_hit": Measure(
        "pointing game",
        "Share of the images in which the strongest point lies on the flower or within 15 of 224 pixels of it "
        "(Zhang et al. 2016).",
        higher_is_better=True,
        needs_mask=True,
    ),
    "iou": Measure(
        "IoU",
        "Overlap of the flower with the part of the map above a threshold, over their union; the threshold is the best "
        "on validation images, for each kind of map its own.",
        higher_is_better=True,
        needs_mask=True,
    ),
}
