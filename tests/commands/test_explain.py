"""``deepbloom explain`` from end to end on a small run, and what the report takes from it."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepbloom.cli import main as cli
from deepbloom.explain.summary import CONTROLS, MEASURES

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


def test_the_sample_of_heatmaps_is_under_its_images_names(explained: Path) -> None:
    folder = explained / "explain" / "heatmaps"
    entries = json.loads((explained / "explain" / "explain.json").read_text())["heatmaps"]
    assert {entry["file"] for entry in entries} == {f"{entry['image_id']}.png" for entry in entries}
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")} == {e["file"] for e in entries}
    predictions = {row["image_id"]: row for row in rows(explained / "predictions.csv")}
    for entry in entries:
        assert entry["confidence"] == pytest.approx(float(predictions[entry["image_id"]]["confidence"]), abs=1e-4)
        assert Image.open(folder / entry["file"]).size == (2 * 48, 40)  # the image beside its heatmap


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
        (["masks=download"], "masks=download needs data=flowers102"),
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
