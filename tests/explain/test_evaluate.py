"""The sample, its controls, and the masks and thresholds of an evaluation."""

import numpy as np
import pytest
import torch

from deepbloom.config.data_settings import SplitConfig
from deepbloom.data.dataset import PreparedData, choose_images
from deepbloom.data.masks import Masks
from deepbloom.data.pixel_cache import DecodedPixels
from deepbloom.data.preprocessing import Preprocessing
from deepbloom.data.split import make_split
from deepbloom.explain import evaluate
from deepbloom.explain.localization import choose_threshold, resize_mask
from deepbloom.explain.sanity import center_maps, random_maps
from deepbloom.explain.targets import Network
from deepbloom.models.registry import create_model
from drawn_flowers import drawn_flowers


def test_images_are_chosen_by_name_and_seed_whatever_their_order() -> None:
    source = drawn_flowers(2, 20)
    data = PreparedData(
        source, make_split(source, SplitConfig()), DecodedPixels(source, Preprocessing(), 0), Preprocessing()
    )
    test = data.split.test
    chosen = choose_images(data, test, 4, 0)
    assert len(set(chosen)) == 4
    assert set(chosen) <= set(test)
    assert np.array_equal(choose_images(data, test[::-1], 4, 0), chosen)
    assert not np.array_equal(choose_images(data, test, 4, 1), chosen)
    assert len(choose_images(data, test, 0, 0)) == len(test)


SIDE = 32


@pytest.fixture(scope="module")
def untrained() -> tuple[Network, PreparedData, evaluate.Sample]:
    """A network with random weights, drawn flowers, and maps of four test images."""
    source, preprocessing = drawn_flowers(2, 20), Preprocessing(size=SIDE)
    torch.manual_seed(0)
    network = Network("small", create_model("scratch_cnn", 2), source.class_names, preprocessing, ("block3",))
    data = PreparedData(
        source, make_split(source, SplitConfig()), DecodedPixels(source, preprocessing, 0), preprocessing
    )
    return network, data, evaluate.draw_sample(network, data, data.split.test[:4], ["layercam"], 0, 0)


def blob(threshold: float) -> np.ndarray:
    return (center_maps(1, (SIDE, SIDE))[0] >= threshold).numpy()


def test_the_threshold_of_the_iou_is_chosen_on_validation_images(untrained) -> None:
    network, data, sample = untrained
    small, large = blob(0.7), blob(0.3)
    masks = Masks(lambda index: small if index in data.split.val else large, "drawn")
    located, values = evaluate.locate(network, data, masks, sample, ["layercam"], 0)
    assert located.thresholds["center"] == pytest.approx(0.7)  # 0.3 would fit the test images, and give 1
    assert values["center"]["iou"] == pytest.approx(small.sum() / large.sum())
    assert located.note == ""


def test_without_masks_for_validation_only_the_iou_is_left_out(untrained) -> None:
    network, data, sample = untrained
    masks = Masks(lambda index: blob(0.5) if index in data.split.test else None, "drawn")
    located, values = evaluate.locate(network, data, masks, sample, ["layercam"], 0)
    assert (located.count, located.validation_count, located.thresholds) == (4, 0, {})
    assert values["center"].keys() == {"energy_inside", "pointing_hit", "area_share"}
    assert values["center"]["pointing_hit"].tolist() == [1, 1, 1, 1]
    assert "validation images, and none of them has a mask" in located.note


def test_without_any_mask_nothing_is_located(untrained) -> None:
    network, data, sample = untrained
    located, values = evaluate.locate(network, data, Masks(lambda index: None, ""), sample, ["layercam"], 0)
    assert (located.origin, located.count, located.note) == ("", 0, "")
    assert values == {}


def test_thresholds_are_chosen_with_the_same_random_weights_and_other_random_maps(untrained) -> None:
    network, data, sample = untrained
    validation = choose_images(data, data.split.val, 0, 0)
    masks = {int(index): blob(0.3 + 0.1 * (number % 4)) for number, index in enumerate([*validation, *sample.indices])}
    located, _ = evaluate.locate(network, data, Masks(masks.get, "drawn"), sample, ["layercam"], 0)
    tuned = evaluate.draw_sample(network, data, validation, ["layercam"], 0, 1)
    flowers = torch.stack([resize_mask(masks[int(index)], SIDE) for index in validation])
    assert located.thresholds == {kind: choose_threshold(maps, flowers) for kind, maps in tuned.maps.items()}

    assert sample.maps["random_weights"].any()
    again = evaluate.draw_sample(network, data, sample.indices, ["layercam"], 0, 1)
    assert torch.equal(again.maps["random_weights"], sample.maps["random_weights"])
    assert not torch.equal(again.maps["random_maps"], sample.maps["random_maps"])


def test_random_maps_are_as_smooth_as_the_layer(untrained) -> None:
    sample = untrained[2]
    assert torch.equal(sample.maps["random_maps"], random_maps(4, (SIDE, SIDE), 0, grid=(2, 2)))
