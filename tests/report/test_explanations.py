"""What ``deepbloom explain`` left in run directories becomes columns and heatmaps side by side."""

import csv
import json

import pytest
from PIL import Image

from deepbloom.report.evidence import list_heatmaps
from deepbloom.report.explanations import explanation_columns, heatmap_table
from deepbloom.report.groups import make_groups
from deepbloom.report.report import write_report
from deepbloom.runs.reading import CompleteRun, find_runs, read_run


def write_heatmap(folder, image_id):
    path = folder / "explain" / "heatmaps" / f"{image_id}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 32), "red").save(path)


def group_of(folder):
    (group,) = make_groups([run for run in find_runs(folder) if isinstance(run, CompleteRun)])
    return group


def test_heatmaps_of_the_same_images_stand_side_by_side(make_run, tmp_path):
    for model in ("mini_resnet", "scratch_cnn"):
        folder = make_run(model, model=model, num_images=40)
        for image_id in ["daisy/0000", "iris/0001", *(["lily/0002"] if model == "mini_resnet" else [])]:
            write_heatmap(folder, image_id)
    (folder / "explain" / "heatmaps" / "fake.png").write_text("no image")
    table = heatmap_table(group_of(tmp_path / "runs"))
    assert [row[0] for row in table.rows] == ["daisy/0000\ndaisy", "iris/0001\niris", "lily/0002\nlily"]
    assert all(photo.image and photo.text for photo in table.rows[0][1:])
    assert [photo.image == b"" for photo in table.rows[2][1:]].count(True) == 1
    page = write_report(tmp_path / "runs", tmp_path / "report").html.read_text(encoding="utf-8")
    assert page.count('class="photo"') == 5
    assert "Where mini_resnet looks in daisy/0000" in page
    without = write_report(tmp_path / "runs", tmp_path / "without", thumbnails=False).html.read_text(encoding="utf-8")
    assert 'class="photo"' not in without
    assert "webp;base64,U" not in without


def test_the_text_under_a_heatmap_is_of_the_run_that_drew_it(make_run, tmp_path):
    for seed in (0, 1):
        folder = make_run(f"s{seed}", seed=seed, num_images=10)
    write_heatmap(folder, "daisy/0000")
    group = group_of(tmp_path / "runs")
    for run, predicted in zip(group.models[0].runs, (0, 3), strict=True):
        run.predictions.predicted[run.predictions.image_ids.index("daisy/0000")] = predicted
    table = heatmap_table(group)
    assert table.headings == ["Image", "mini_resnet, seed 1"]
    assert table.rows[0][1].text == "confused with poppy"


def test_without_heatmaps_the_report_says_how_to_get_them(make_run, tmp_path):
    make_run("only", num_images=40)
    report = write_report(tmp_path / "runs", tmp_path / "report")
    for path in (report.html, report.markdown):
        assert "deepbloom explain ckpt=RUN" in path.read_text(encoding="utf-8")


def write_explanation(folder, **changes):
    content = {
        "methods": ["gradcam", "layercam"],
        "measures": {
            "gradcam": {name: {"mean": 0.25, "low": 0.2, "high": 0.3} for name in ("road_score", "iou")},
            "layercam": {"road_score": {"mean": 0.9, "low": 0.9, "high": 0.9}},
        },
        "described": {name: {"title": name[:4], "meaning": f"About {name[:4]}."} for name in ("road_score", "iou")},
    }
    (folder / "explain").mkdir()
    (folder / "explain" / "explain.json").write_text(json.dumps(content | changes))


def test_measures_of_the_first_method_become_columns(make_run, tmp_path):
    write_explanation(make_run("a", num_images=20))
    make_run("b", model="scratch_cnn", num_images=20)
    report = write_report(tmp_path / "runs", tmp_path / "report")
    text = report.markdown.read_text(encoding="utf-8")
    assert "| 0.25 \\[0.20, 0.30\\] |" in text
    assert "- **Road**: About road." in text
    with open(report.csv, newline="", encoding="utf-8") as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert (rows["a"]["explain_iou"], rows["b"]["explain_iou"]) == ("0.25", "")


NO_MEANING = {"iou": {"title": "no meaning"}}


@pytest.mark.parametrize("damage", [{"methods": []}, {"measures": 3}, {"described": {}}, {"described": NO_MEANING}])
def test_a_damaged_explanation_adds_no_column(make_run, tmp_path, damage):
    write_explanation(make_run("a", num_images=20), **damage)
    assert explanation_columns([run for run in find_runs(tmp_path / "runs") if isinstance(run, CompleteRun)]) == []


def test_a_folder_that_is_called_like_an_image_is_no_heatmap(make_run):
    folder = make_run("a", num_images=20)
    (folder / "explain" / "heatmaps" / "rose.png").mkdir(parents=True)
    assert list_heatmaps(read_run(folder)) == {}
