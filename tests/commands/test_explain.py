"""``deepbloom explain`` from end to end on a small run, and what the report takes from it."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deepbloom.cli import main as cli
from deepbloom.config.settings import SplitConfig
from deepbloom.data.dataset import PreparedData
from deepbloom.data.masks import Masks
from deepbloom.data.pixel_cache import DecodedPixels
from deepbloom.data.preprocessing import Preprocessing
from deepbloom.data.sources.synthetic.source import SyntheticFlowers
from deepbloom.data.split import make_split
from deepbloom.explain import evaluate
from deepbloom.explain.evaluate import choose_images
from deepbloom.explain.gallery import choose_predictions, quick_method, remove_old
from deepbloom.explain.localization import choose_threshold, resize_mask
from deepbloom.explain.sanity import center_maps, random_maps
from deepbloom.explain.summary import CONTROLS, MEASURES
from deepbloom.explain.targets import Network
from deepbloom.models.registry import create_model

Run = Callable[..., tuple[int, str, str]]


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def masks(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of masks, white in the upper left quarter."""
    folder = tmp_path_factory.mktemp("masks")
    pixels = np.zeros((40, 48), np.uint8)
    pixels[:20, :24] = 255
    for path in images.rglob("*.png"):
        file = folder / path.relative_to(images)
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(file)
    return folder


@pytest.fixture(scope="module")
def explained(trained_run: Path, masks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run, explained."""
    run = shutil.copytree(trained_run, tmp_path_factory.mktemp("explained") / "run")
    assert cli.guarded(lambda: cli.dispatch(["explain", f"ckpt={run}", "images=2", f"masks={masks}"])) == 0
    return run


def test_measures_stand_beside_those_of_controls_with_intervals(explained: Path) -> None:
    content = json.loads((explained / "explain" / "explain.json").read_text())
    assert content["measures"].keys() == {"gradcam", *CONTROLS}
    for columns in content["measures"].values():
        assert columns.keys() == MEASURES.keys()
        assert all(one["low"] <= one["mean"] <= one["high"] and one["count"] == 2 for one in columns.values())
    assert content["differences"]["gradcam"].keys() == CONTROLS.keys()
    assert len(content["findings"]) == 3
    assert content["masks"]["flower_share"] == pytest.approx(0.25, abs=0.01)
    assert content["masks"]["thresholds"].keys() == content["measures"].keys()
    assert content["split_fingerprint"] == json.loads((explained / "metrics.json").read_text())["split_fingerprint"]


def test_means_are_those_of_the_rows_per_image(explained: Path) -> None:
    content = json.loads((explained / "explain" / "explain.json").read_text())
    table = rows(explained / "explain" / "explain.csv")
    assert len(table) == 2 * 4
    for kind, columns in content["measures"].items():
        for name, found in columns.items():
            values = [float(row[name]) for row in table if row["map"] == kind]
            assert found["mean"] == pytest.approx(np.mean(values), abs=1e-5), (kind, name)


def test_the_network_is_randomized_from_the_top(explained: Path) -> None:
    test = json.loads((explained / "explain" / "explain.json").read_text())["randomization"]
    assert test["layers"] == ["fc", "hidden", "block3", "block2", "block1"]
    assert np.array(test["rank_correlation"]).shape == (5, 2)


def test_images_are_chosen_by_name_and_seed_whatever_their_order() -> None:
    source = SyntheticFlowers.create(2, 20)
    data = PreparedData(source, make_split(source, SplitConfig()), DecodedPixels(source, Preprocessing(), 0))
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
    source, preprocessing = SyntheticFlowers.create(2, 20), Preprocessing(size=SIDE)
    torch.manual_seed(0)
    network = Network("small", create_model("scratch_cnn", 2), source.class_names, preprocessing, ("block3",))
    data = PreparedData(source, make_split(source, SplitConfig()), DecodedPixels(source, preprocessing, 0))
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
    flowers = torch.stack([resize_mask(masks[int(index)], (SIDE, SIDE)) for index in validation])
    assert located.thresholds == {kind: choose_threshold(maps, flowers) for kind, maps in tuned.maps.items()}

    assert sample.maps["random_weights"].any()
    again = evaluate.draw_sample(network, data, sample.indices, ["layercam"], 0, 1)
    assert torch.equal(again.maps["random_weights"], sample.maps["random_weights"])
    assert not torch.equal(again.maps["random_maps"], sample.maps["random_maps"])


def test_random_maps_are_as_smooth_as_the_layer(untrained) -> None:
    sample = untrained[2]
    assert torch.equal(sample.maps["random_maps"], random_maps(4, (SIDE, SIDE), 0, grid=(2, 2)))


def test_the_most_confident_correct_predictions_come_before_the_wrong_ones() -> None:
    correct = [0.6, 0.9, 0.7]  # places 0 to 2
    wrong = [0.55, 0.8]  # places 4 and 5
    probabilities = np.array([[p, 1 - p, 0] for p in correct] + [[0.95, 0.05, 0]] + [[0, p, 1 - p] for p in wrong])
    targets = np.array([0, 0, 0, 1, 0, 0])
    assert choose_predictions(probabilities, targets, 0) == [1, 2, 5, 4]
    assert choose_predictions(probabilities, targets, 1) == [None, None, 3, None]


def test_galleries_use_a_method_that_is_not_slow() -> None:
    assert quick_method(["scorecam", "layercam"]) == "layercam"
    assert quick_method(["ablationcam"]) == "gradcam"


def test_files_of_an_earlier_explanation_are_removed_and_nothing_else(tmp_path: Path) -> None:
    files = ("heatmaps/a/1.png", "heatmaps/mine.png", "figures/gallery_7.png", "figures/mine.png", "keep.png")
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    remove_old(tmp_path)
    entries = [{"file": name} for name in ("a/1.png", "../keep.png", "gone.png")]
    (tmp_path / "explain.json").write_text(json.dumps({"heatmaps": entries}))
    remove_old(tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")}
    assert left == {"heatmaps/mine.png", "figures/mine.png", "keep.png"}


def test_the_sample_of_heatmaps_is_under_its_images_names(explained: Path) -> None:
    folder = explained / "explain" / "heatmaps"
    entries = json.loads((explained / "explain" / "explain.json").read_text())["heatmaps"]
    assert {entry["file"] for entry in entries} == {f"{entry['image_id']}.png" for entry in entries}
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")} == {e["file"] for e in entries}
    predictions = {row["image_id"]: row for row in rows(explained / "predictions.csv")}
    for entry in entries:
        assert entry["confidence"] == pytest.approx(float(predictions[entry["image_id"]]["confidence"]), abs=1e-4)
        assert Image.open(folder / entry["file"]).size == (48, 40)


@pytest.mark.long
def test_heatmaps_of_a_split_are_always_of_the_same_images(deepbloom: Run, explained: Path, tmp_path: Path) -> None:
    code, _, _ = deepbloom("explain", f"ckpt={explained}", "images=1", "seed=5", "masks=off", f"output_dir={tmp_path}")
    assert code == 0
    first, other = (json.loads((f / "explain.json").read_text()) for f in (explained / "explain", tmp_path))
    assert [entry["image_id"] for entry in first["heatmaps"]] == [entry["image_id"] for entry in other["heatmaps"]]
    assert "iou" not in other["measures"]["gradcam"]
    assert "no masks" in (tmp_path / "explain.html").read_text()


def test_the_page_stands_alone_and_shows_every_figure(explained: Path) -> None:
    page = (explained / "explain" / "explain.html").read_text()
    figures = {path.name for path in (explained / "explain" / "figures").iterdir()}
    assert figures == {"measures.png", "curves.png", "randomization.png", "gallery_1.png"}
    assert page.count("<img ") == len(figures)
    assert 'src="http' not in page
    for word in ("random weights", "insertion", "ROAD", "azure"):
        assert word in page


def test_the_report_has_columns_of_the_measures(
    deepbloom: Run, explained: Path, trained_run: Path, tmp_path: Path
) -> None:
    code, _, _ = deepbloom("report", f"runs={explained.parent}", f"output_dir={tmp_path / 'with'}")
    assert code == 0
    content = json.loads((explained / "explain" / "explain.json").read_text())["measures"]["gradcam"]
    assert float(rows(tmp_path / "with" / "report.csv")[0]["explain_energy_inside"]) == pytest.approx(
        content["energy_inside"]["mean"]
    )
    assert "Energy inside" in (tmp_path / "with" / "report.md").read_text()
    deepbloom("report", f"runs={trained_run.parent}", f"output_dir={tmp_path / 'without'}")
    assert "Energy inside" not in (tmp_path / "without" / "report.md").read_text()


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        (["method=guesscam"], "Unknown method"),
        (["layer=nowhere"], "nowhere"),
        (["masks=nowhere"], "masks=nowhere is not a folder"),
        (["masks=download"], "for data=flowers102"),
        (["data.split.seed=9"], "another split"),
        (["images=-1"], "images=-1"),
    ],
)
def test_errors_name_the_value_and_the_choices(
    deepbloom: Run, trained_run: Path, tmp_path: Path, changes: list[str], part: str
) -> None:
    code, _, err = deepbloom("explain", f"ckpt={trained_run}", f"output_dir={tmp_path / 'out'}", *changes)
    assert code == 2
    assert part in err
    assert "Traceback" not in err
