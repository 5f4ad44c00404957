"""Measure maps of test images beside control maps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deepbloom.data.dataset import PreparedData, choose_images
from deepbloom.data.masks import Masks
from deepbloom.data.preprocessing import Preprocessing, normalize
from deepbloom.explain.cam import class_activation_maps
from deepbloom.explain.faithfulness import Columns, measure_faithfulness
from deepbloom.explain.localization import choose_threshold, measure_localization, resize_mask
from deepbloom.explain.sanity import center_maps, find_stages, random_maps, randomization_test, randomized_copy
from deepbloom.explain.summary import (
    CENTER,
    RANDOM_MAPS,
    RANDOM_WEIGHTS,
    Values,
    compare_with_controls,
    state_findings,
    summarize,
)
from deepbloom.explain.targets import Network
from deepbloom.progress import ProgressBar
from deepbloom.rng import derive_seed

RANDOMIZED_IMAGES = 8
MAX_VALIDATION = 50
"""Validation images that choose the threshold of the IoU."""


@dataclass(frozen=True)
class Sample:
    """N images, their predictions, and the maps to measure."""

    indices: np.ndarray
    inputs: Tensor
    """Shape (N, 3, S, S), float32."""
    targets: Tensor
    """The predicted classes, which all maps explain."""
    confidences: np.ndarray
    maps: dict[str, Tensor]
    """By method or control: shape (N, S, S), in [0, 1]."""


@dataclass(frozen=True)
class Located:
    """Masks of a sample and the thresholds chosen on others."""

    origin: str
    """Where the masks come from; empty where there are none."""
    count: int
    """Images with a mask."""
    validation_count: int
    thresholds: dict[str, float]
    """Of the IoU, by kind of map; empty where no validation image has a mask, and then there is no IoU."""
    flower_share: float | None
    """Mean share of the image that the flower covers."""

    @property
    def note(self) -> str:
        """Why IoU is missing although other measures of localization are there; otherwise empty."""
        if self.thresholds or not self.count:
            return ""
        return (
            "IoU is not measured: its threshold is chosen on validation images, and none of them has a mask. Energy "
            "inside and pointing game need no threshold."
        )


def evaluate(
    network: Network, data: PreparedData, masks: Masks, methods: Sequence[str], count: int, seed: int
) -> tuple[Sample, Values, dict[str, Any]]:
    """Return ``count`` test images (0: all), each measure of each of them, and what explain.json says of it all."""
    sample = draw_sample(network, data, choose_images(data, data.split.test, count, seed), methods, seed, seed)
    values, curves = measure(network, data, sample, seed)
    located, on_flower = locate(network, data, masks, sample, methods, seed)
    values = {kind: columns | on_flower.get(kind, {}) for kind, columns in values.items()}
    stages, correlations = randomize(network, sample, methods[0], seed)
    differences = compare_with_controls(values)
    means_of_curves = {
        kind: {name: part.mean(0).tolist() for name, part in found.items()} for kind, found in curves.items()
    }
    measured = {
        "images": len(sample.indices),
        "measures": summarize(values),
        "differences": differences,
        "findings": state_findings(differences) + [located.note] * bool(located.note),
        "curves": means_of_curves,
        "masks": located,
        "randomization": {"method": methods[0], "layers": stages, "rank_correlation": correlations.tolist()},
    }
    return sample, values, measured


def read_inputs(network: Network, data: PreparedData, indices: np.ndarray) -> Tensor:
    """Return images as inputs of the network, float32 of shape (N, 3, S, S), on its device."""
    pixels = torch.from_numpy(data.pixels.read(indices))
    return normalize(pixels, network.preprocessing).to(next(network.model.parameters()).device)


def draw_sample(
    network: Network, data: PreparedData, indices: np.ndarray, methods: Sequence[str], seed: int, noise_seed: int
) -> Sample:
    """Explain the predicted class of images by each method and by the controls.

    ``seed`` draws the random weights, ``noise_seed`` the random maps, which are as smooth as those of the network.
    """
    inputs = read_inputs(network, data, indices)
    explained = {name: class_activation_maps(network.model, inputs, network.layers, None, name) for name in methods}
    first = explained[methods[0]]
    randomized = randomized_copy(network.model, seed)
    size = (inputs.shape[2], inputs.shape[3])
    maps = {name: found.maps for name, found in explained.items()} | {
        RANDOM_WEIGHTS: class_activation_maps(randomized, inputs, network.layers, first.targets, methods[0]).maps,
        RANDOM_MAPS: random_maps(len(inputs), size, noise_seed, first.grid).to(inputs.device),
        CENTER: center_maps(len(inputs), size).to(inputs.device),
    }
    probabilities = (first.logits.cpu().double() / network.temperature).softmax(1)
    confidences = probabilities.gather(1, first.targets.cpu()[:, None])[:, 0].numpy()
    return Sample(indices, inputs, first.targets, confidences, maps)


def measure(
    network: Network, data: PreparedData, sample: Sample, seed: int
) -> tuple[dict[str, Columns], dict[str, Columns]]:
    """Return the measures of faithfulness, shape (N,), and the curves, shape (N, S), of each kind of map."""
    values: dict[str, Columns] = {}
    curves: dict[str, Columns] = {}
    for kind, maps in sample.maps.items():
        measured = [
            measure_faithfulness(
                network.model,
                sample.inputs[number, None],
                maps[number, None],
                sample.targets[number, None],
                derive_seed(seed, "explain", data.source.image_ids[index]) % 2**31,
            )
            for number, index in enumerate(ProgressBar(sample.indices, desc=kind, unit="image"))
        ]
        values[kind], curves[kind] = (
            {name: np.concatenate([one[name] for one in found]) for name in found[0]}
            for found in zip(*measured, strict=True)
        )
    return values, curves


def locate(
    network: Network, data: PreparedData, masks: Masks, sample: Sample, methods: Sequence[str], seed: int
) -> tuple[Located, dict[str, Columns]]:
    """Return what is known of the flower, and the measures of localization, NaN for images without a mask.

    The threshold of the IoU is chosen on validation images, with the same random weights as in ``sample``, which was
    drawn with the same ``seed``, and other random maps.
    """
    preprocessing = network.preprocessing
    numbers, flowers = _read_masks(masks, sample.indices, preprocessing)
    validation = choose_images(data, data.split.val, MAX_VALIDATION, seed)
    positions, validation_flowers = _read_masks(masks, validation, preprocessing)
    if not numbers:
        return Located("", 0, len(positions), {}, None), {}
    tuned = draw_sample(network, data, validation[positions], methods, seed, seed + 1).maps if positions else {}
    thresholds = {kind: choose_threshold(maps.cpu(), validation_flowers) for kind, maps in tuned.items()}
    values: dict[str, Columns] = {}
    for kind, maps in sample.maps.items():
        values[kind] = {}
        for name, column in measure_localization(maps[numbers].cpu(), flowers, thresholds.get(kind)).items():
            values[kind][name] = np.full(len(sample.indices), np.nan)
            values[kind][name][numbers] = column
    share = float(flowers.double().mean())
    return Located(masks.origin, len(numbers), len(positions), thresholds, share), values


def randomize(network: Network, sample: Sample, method: str, seed: int) -> tuple[list[str], Tensor]:
    """Return the network's stages from the top, and the `randomization_test` of the first images."""
    targets = sample.targets[:RANDOMIZED_IMAGES]

    def explain(model: nn.Module, inputs: Tensor) -> Tensor:
        return class_activation_maps(model, inputs, network.layers, targets, method).maps

    stages = find_stages(network.model)
    return stages, randomization_test(network.model, sample.inputs[:RANDOMIZED_IMAGES], explain, stages, seed)


def _read_masks(masks: Masks, indices: np.ndarray, preprocessing: Preprocessing) -> tuple[list[int], Tensor]:
    """Return which of the images have a mask, and these masks, bool of shape (M, S, S)."""
    side = preprocessing.size
    found = {number: mask for number, index in enumerate(indices) if (mask := masks.read(int(index))) is not None}
    resized = [resize_mask(mask, side, preprocessing.fit) for mask in found.values()]
    return list(found), torch.stack(resized) if resized else torch.empty(0, side, side, dtype=torch.bool)
