"""What runs prove about themselves is shown, and what they fail to prove is called failed."""

import copy
import json

import pytest
from PIL import Image

from deepbloom.report.audits import describe_audits, list_without_twins
from deepbloom.report.compare import make_tables
from deepbloom.report.heatmaps import find_heatmaps
from deepbloom.report.report import write_report
from deepbloom.runs.reading import find_runs

CLEAN = {
    "freeze": {"frozen": 118, "changed": [], "declared": 10, "in_optimizer": 10, "undeclared": [], "missing": []},
    "split": {
        "in_two_parts": 0,
        "near_duplicates": {"test": 0, "val": 0},
        "examples": [],
        "test_without": {"top1_accuracy": 0.8, "count": 40},
    },
    "test": {"times_tested": 1, "reads_per_image": [1, 1], "read_before_testing": False},
}


def audit_with(path, value):
    audit = copy.deepcopy(CLEAN)
    block, *rest, key = path.split(".")
    place = audit[block]
    for name in rest:
        place = place[name]
    place[key] = value
    return audit


def table_of(folder):
    (table,) = make_tables(find_runs(folder))
    return table


def verdicts(table):
    return {finding.name: finding.verdict for finding in describe_audits(table)}


def test_clean_runs_pass(make_run, tmp_path):
    for seed in (0, 1):
        make_run(f"s{seed}", seed=seed, num_images=40, audit=CLEAN)
    table = table_of(tmp_path / "runs")
    assert verdicts(table) == {"Freeze": "passed", "Split": "passed", "Test": "passed"}
    assert list_without_twins(table) == []


@pytest.mark.parametrize(
    ("path", "value", "name", "said"),
    [
        ("freeze.changed", ["bn1.running_mean"], "Freeze", "in bad, bn1.running_mean"),
        ("freeze.undeclared", ["conv1.weight"], "Freeze", "conv1.weight"),
        ("freeze.missing", ["fc.bias"], "Freeze", "fc.bias"),
        ("freeze.in_optimizer", 9, "Freeze", "In 1 of 2 runs"),
        ("split.in_two_parts", 3, "Split", "3 images are in two parts"),
        ("test.read_before_testing", True, "Test", "bad (read before the test)"),
        ("test.reads_per_image", [2, 2], "Test", "bad (read 2 times)"),
        ("test.reads_per_image", [0, 1], "Test", "bad (read 0 to 1 times)"),
        ("test.reads_per_image", None, "Test", "bad (it does not say how often)"),
    ],
)
def test_one_bad_run_fails_the_audit_and_is_named(make_run, tmp_path, path, value, name, said):
    make_run("good", num_images=40, audit=CLEAN)
    make_run("bad", seed=1, num_images=40, audit=audit_with(path, value))
    table = table_of(tmp_path / "runs")
    assert verdicts(table)[name] == "failed"
    (finding,) = (finding for finding in describe_audits(table) if finding.name == name)
    assert said in finding.text


def test_a_test_that_was_begun_again_is_a_remark(make_run, tmp_path):
    make_run("good", num_images=40, audit=CLEAN)
    make_run("again", seed=1, num_images=40, audit=audit_with("test.times_tested", 5))
    table = table_of(tmp_path / "runs")
    assert verdicts(table)["Test"] == "remark"
    assert "1 run began the test more than once (up to 5 times)" in describe_audits(table)[2].text


def test_a_near_duplicate_counts_once_however_many_seeds_saw_it(make_run, tmp_path):
    for seed in (0, 1, 2):
        make_run(f"s{seed}", seed=seed, num_images=40, audit=audit_with("split.near_duplicates.test", 2))
    ((_, _, _, left_out),) = list_without_twins(table_of(tmp_path / "runs"))
    assert left_out == 2


def test_near_duplicates_are_shown_with_the_accuracy_without_them(make_run, tmp_path):
    audit = audit_with("split.near_duplicates.test", 2)
    audit["split"] |= {"examples": [["a.jpg", "b.jpg"]], "test_without": {"top1_accuracy": 0.625, "count": 38}}
    make_run("run", num_images=40, audit=audit)
    report = write_report(tmp_path / "runs", tmp_path / "report")
    text = report.markdown.read_text(encoding="utf-8")
    assert "2 test images have a near-duplicate in training or validation, such as a.jpg and b.jpg" in text
    assert "| 62.5 % | 2 |" in text
    page = report.html.read_text(encoding="utf-8")
    assert 'class="remark"' in page
    assert "Accuracy without near-duplicates" in page


def test_a_run_without_audits_is_no_fault_but_is_said(make_run, tmp_path):
    make_run("old", num_images=40)
    assert describe_audits(table_of(tmp_path / "runs")) == []
    make_run("new", seed=1, num_images=40, audit=CLEAN)
    assert verdicts(table_of(tmp_path / "runs"))["Not audited"] == "remark"


def test_a_damaged_audit_makes_the_run_unreadable(make_run, tmp_path):
    folder = make_run("run", num_images=40, audit=audit_with("freeze.changed", "x"))
    (run,) = find_runs(tmp_path / "runs")
    assert run.state == "unreadable"
    assert "audit.freeze.changed" in run.problem
    assert json.loads((folder / "metrics.json").read_text())["audit"]


def test_heatmaps_of_the_same_images_stand_side_by_side(make_run, tmp_path):
    for model in ("mini_resnet", "scratch_cnn"):
        folder = make_run(model, model=model, num_images=40)
        shown = ["daisy/0000", "iris/0001", *(["lily/0002"] if model == "mini_resnet" else [])]
        for image_id in shown:
            path = folder / "explain" / "heatmaps" / f"{image_id}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), "red").save(path)
    (folder / "explain" / "heatmaps" / "fake.png").write_text("no image")
    rows = find_heatmaps(table_of(tmp_path / "runs"))
    assert [row.image_id for row in rows] == ["daisy/0000", "iris/0001", "lily/0002"]
    assert [row.class_name for row in rows] == ["daisy", "iris", "lily"]
    assert all(item.path and item.verdict for item in rows[0].heatmaps)
    assert [item.path is None for item in rows[2].heatmaps].count(True) == 1
    report = write_report(tmp_path / "runs", tmp_path / "report")
    page = report.html.read_text(encoding="utf-8")
    assert page.count('class="photo"') == 5
    assert "Where mini_resnet looks in daisy/0000" in page


def test_the_verdict_under_a_heatmap_is_of_the_run_that_drew_it(make_run, tmp_path):
    for seed in (0, 1):
        folder = make_run(f"s{seed}", seed=seed, num_images=10)
        runs = {run.name: run for run in find_runs(tmp_path / "runs")}
    place = folder / "explain" / "heatmaps" / "daisy"
    place.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(place / "0000.png")
    (table,) = make_tables(list(runs.values()))
    for name, answer in (("s0", 0), ("s1", 3)):
        predictions = runs[name].predictions
        predictions.answers[predictions.image_ids.index("daisy/0000")] = answer
    ((heatmap,),) = (row.heatmaps for row in find_heatmaps(table))
    assert heatmap.verdict == "wrong: taken for poppy"
    assert heatmap.model == "mini_resnet, seed 1"


def test_without_heatmaps_the_report_says_how_to_get_them(make_run, tmp_path):
    make_run("only", num_images=40)
    report = write_report(tmp_path / "runs", tmp_path / "report")
    for path in (report.html, report.markdown):
        assert "deepbloom explain ckpt=RUN" in path.read_text(encoding="utf-8")
