"""Audits of runs are shown, and a failed one is called failed."""

import copy
import json

import pytest

from deepbloom.report.audits import list_findings, list_without_near_duplicates
from deepbloom.report.groups import make_groups
from deepbloom.report.report import write_report
from deepbloom.runs.reading import CompleteRun, find_runs

CLEAN = {
    "freeze": {"frozen": 118, "changed": [], "declared": 10, "in_optimizer": 10, "undeclared": [], "missing": []},
    "split": {
        "in_two_splits": 0,
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


def group_of(folder):
    (group,) = make_groups([run for run in find_runs(folder) if isinstance(run, CompleteRun)])
    return group


def verdicts(group):
    return {finding.name: finding.verdict for finding in list_findings(group)}


def test_clean_runs_pass(make_run, tmp_path):
    for seed in (0, 1):
        make_run(f"s{seed}", seed=seed, num_images=40, audit=CLEAN)
    group = group_of(tmp_path / "runs")
    assert verdicts(group) == {"Freeze": "passed", "Split": "passed", "Test": "passed"}
    assert list_without_near_duplicates(group) == []


@pytest.mark.parametrize(
    ("path", "value", "name", "said"),
    [
        ("freeze.changed", ["bn1.running_mean"], "Freeze", "in bad, bn1.running_mean"),
        ("freeze.undeclared", ["conv1.weight"], "Freeze", "conv1.weight"),
        ("freeze.missing", ["fc.bias"], "Freeze", "fc.bias"),
        ("freeze.in_optimizer", 9, "Freeze", "In 1 of 2 runs"),
        ("split.in_two_splits", 3, "Split", "3 images are in two splits"),
        ("test.read_before_testing", True, "Test", "bad (read before the test)"),
        ("test.reads_per_image", [2, 2], "Test", "bad (read 2 times)"),
        ("test.reads_per_image", [0, 1], "Test", "bad (read 0 to 1 times)"),
        ("test.reads_per_image", None, "Test", "bad (number of reads unknown)"),
    ],
)
def test_one_bad_run_fails_the_audit_and_is_named(make_run, tmp_path, path, value, name, said):
    make_run("good", num_images=40, audit=CLEAN)
    make_run("bad", seed=1, num_images=40, audit=audit_with(path, value))
    group = group_of(tmp_path / "runs")
    assert verdicts(group)[name] == "failed"
    (finding,) = (finding for finding in list_findings(group) if finding.name == name)
    assert said in finding.text


def test_a_test_that_was_begun_again_is_a_remark(make_run, tmp_path):
    make_run("good", num_images=40, audit=CLEAN)
    make_run("again", seed=1, num_images=40, audit=audit_with("test.times_tested", 5))
    group = group_of(tmp_path / "runs")
    assert verdicts(group)["Test"] == "remark"
    assert "1 run started the test more than once (up to 5 times)" in list_findings(group)[2].text


def test_a_near_duplicate_counts_once_however_many_seeds_saw_it(make_run, tmp_path):
    for seed in (0, 1, 2):
        make_run(f"s{seed}", seed=seed, num_images=40, audit=audit_with("split.near_duplicates.test", 2))
    ((_, _, _, left_out),) = list_without_near_duplicates(group_of(tmp_path / "runs"))
    assert left_out == "2"


def test_near_duplicates_are_shown_with_the_accuracy_without_them(make_run, tmp_path):
    audit = audit_with("split.near_duplicates.test", 2)
    audit["split"] |= {"examples": [["a.jpg", "b.jpg"]], "test_without": {"top1_accuracy": 0.625, "count": 38}}
    make_run("run", num_images=40, audit=audit)
    report = write_report(tmp_path / "runs", tmp_path / "report")
    text = report.markdown.read_text(encoding="utf-8")
    assert "2 test images have a near-duplicate in train or validation, such as a.jpg and b.jpg" in text
    assert "| 62.5 % | 2 |" in text
    page = report.html.read_text(encoding="utf-8")
    assert 'class="badge look"' in page
    assert "Without near-duplicates" in page


def test_a_run_without_audits_is_no_fault_but_is_said(make_run, tmp_path):
    make_run("old", num_images=40)
    assert list_findings(group_of(tmp_path / "runs")) == []
    make_run("new", seed=1, num_images=40, audit=CLEAN)
    assert verdicts(group_of(tmp_path / "runs"))["Not audited"] == "remark"


def test_a_damaged_audit_makes_the_run_unreadable(make_run, tmp_path):
    folder = make_run("run", num_images=40, audit=audit_with("freeze.changed", "x"))
    (run,) = find_runs(tmp_path / "runs")
    assert run.state == "unreadable"
    assert "audit.freeze.changed" in run.problem
    assert json.loads((folder / "metrics.json").read_text())["audit"]
