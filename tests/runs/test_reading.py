"""Run directories are read whole or listed with what is wrong, never with a traceback."""

import json

import numpy as np
import pytest

from deepbloom.errors import RunError
from deepbloom.report.columns import COLUMNS, fields
from deepbloom.runs.parsing import FRACTION, NUMBER
from deepbloom.runs.reading import CompleteRun, Field, find_runs, read_run


def change_metrics(folder, **changes):
    path = folder / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_complete_run_is_read_with_its_types(make_run):
    run = read_run(make_run("one", model="mini_resnet", seed=3, num_images=50))
    assert run.metrics.model == "mini_resnet"
    assert run.metrics.seed == 3
    assert run.metrics.class_names == ("daisy", "iris", "lily", "poppy", "rose")
    assert run.metrics.git_commit is None
    assert run.metrics.identity["optimizer.lr"] == "0.001"
    assert [row["epoch"] for row in run.history] == [1, 2, 3, 4, 5, 6]
    assert run.predictions.correct.mean() == run.metrics.top1_accuracy
    assert list(run.predictions.image_ids) == sorted(run.predictions.image_ids)


def test_predictions_do_not_depend_on_the_order_of_their_rows(make_run):
    folder = make_run("one", num_images=40)
    before = read_run(folder).predictions
    path = folder / "predictions.csv"
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *reversed(rows)]) + "\n")
    after = read_run(folder).predictions
    assert before.image_ids == after.image_ids
    np.testing.assert_array_equal(before.predicted, after.predicted)
    np.testing.assert_array_equal(before.confidences, after.confidences)


def test_what_seeds_and_folds_differ_in_is_not_part_of_a_model(make_run):
    run = read_run(make_run("one"))
    assert run.metrics.identity.keys() - run.model_identity.keys() == {"seed", "split_fingerprint"}
    assert run.model_identity["optimizer.lr"] == "0.001"


def test_fields_are_read_by_their_path(make_run):
    folder = make_run("one")
    fields = {
        "f1": Field("test.macro_f1", FRACTION, required=True),
        "absent": Field("test.absent", NUMBER, required=False),
    }
    run = read_run(folder, fields=fields)
    assert run.values == {"f1": pytest.approx(run.metrics.top1_accuracy - 0.01), "absent": None}
    with pytest.raises(RunError, match=r"'test.absent' is missing; expected a number of at least 0"):
        read_run(folder, fields={"absent": Field("test.absent", NUMBER, required=True)})


def test_runs_are_found_at_any_depth_with_their_state(make_run, tmp_path):
    make_run("sweep/a")
    make_run("b")
    for name, files in (("sweep/stopped", ["config.yaml", "last.ckpt"]), ("crashed", ["config.yaml", "failed.txt"])):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        for file in files:
            (folder / file).write_text("DivergedError: the loss became nan\nmore")
    (tmp_path / "runs" / "report" / "figures").mkdir(parents=True)
    (tmp_path / "runs" / ".hidden").mkdir()
    (tmp_path / "runs" / ".hidden" / "config.yaml").write_text("seed: 0")
    runs = find_runs(tmp_path / "runs")
    assert [(run.name, run.state) for run in runs] == [
        ("b", "complete"),
        ("crashed", "failed"),
        ("sweep/a", "complete"),
        ("sweep/stopped", "partial"),
    ]
    assert runs[1].problem == "DivergedError: the loss became nan"
    assert isinstance(runs[0], CompleteRun)


def test_a_run_directory_itself_can_be_given(make_run):
    assert [run.state for run in find_runs(make_run("only"))] == ["complete"]


def test_what_eval_wrote_is_no_run(make_run, tmp_path):
    make_run("run")
    folder = tmp_path / "runs" / "eval-run"
    folder.mkdir()
    (folder / "metrics.json").write_text('{"model": "mini_resnet", "test": {"top1_accuracy": 1.0}}')
    assert [run.name for run in find_runs(tmp_path / "runs")] == ["run"]


def test_a_folder_without_runs_says_what_was_looked_for(tmp_path):
    with pytest.raises(RunError, match=r"metrics\.json"):
        find_runs(tmp_path)
    with pytest.raises(RunError, match="no folder"):
        find_runs(tmp_path / "absent")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": None}, "'model' is missing"),
        ({"seed": "0"}, "'seed' is '0'"),
        ({"seed": True}, "'seed' is 'True'"),
        ({"seed": -1}, "at least 0"),
        ({"epochs": 0}, "at least 1"),
        ({"test": {}}, "'test.top1_accuracy' is missing"),
        ({"test": 3}, "'test.top1_accuracy' is missing"),
        ({"val": {"top1_accuracy": 1.5}}, r"'val.top1_accuracy' is '1.5'; expected a number in \[0, 1\]"),
        ({"train_seconds": float("nan")}, "'train_seconds' is 'nan'"),
        ({"train_seconds": 10**400}, "'train_seconds'"),
        ({"params": {"total": 1.5, "trainable": 1}}, "'params.total'"),
        ({"classes": []}, "'classes'"),
        ({"split_fingerprint": 7}, "'split_fingerprint'"),
        ({"identity": None}, "'identity' is missing"),
    ],
)
def test_a_wrong_field_is_named_with_its_file(make_run, changes, said):
    folder = make_run("one")
    change_metrics(folder, **changes)
    with pytest.raises(RunError, match=said) as caught:
        read_run(folder, fields=fields(COLUMNS))
    assert "metrics.json" in str(caught.value)


def test_fields_beyond_the_contract_may_be_missing(make_run):
    folder = make_run("one")
    content = json.loads((folder / "metrics.json").read_text())
    for name in ("description", "weights"):
        del content[name]
    (folder / "metrics.json").write_text(json.dumps(content | {"peak_memory_bytes": None, "macs": None}))
    values = read_run(folder, fields=fields(COLUMNS)).values
    assert {values[name] for name in ("description", "weights", "peak_memory_bytes", "macs")} == {None}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("metrics.json", b'{"model": "mini', "damaged"),
        ("metrics.json", b"[1]", "damaged"),
        ("metrics.json", b"\xff\xfe", "cannot be read"),
        ("metrics.json", b"[" * 100_000, "damaged"),
        ("history.csv", b"", "column 'epoch' is missing"),
        ("history.csv", b"epoch,train_loss\n1,2\n", "column 'train_accuracy' is missing"),
        ("history.csv", b"epoch,train_loss,train_accuracy,val_loss,val_accuracy\n1,2,3,4,x\n", "'val_accuracy'"),
        ("predictions.csv", b"image_id,target,prediction,confidence,top5\n", "no rows"),
        ("predictions.csv", b"image_id,target,prediction,confidence,top5\na,0\n", "row 1 has 2 values"),
        ("predictions.csv", b"image_id,target,prediction,confidence,top5\na,0,0.5,1,0\n", "'prediction'"),
        ("predictions.csv", b"image_id,target,prediction,confidence,top5\na,0,77,1,0\n", "does not list"),
        (
            "predictions.csv",
            b"image_id,target,prediction,confidence,top5\na,0,99999999999999999999,1,0\n",
            "'prediction'",
        ),
        ("predictions.csv", b"image_id,target,prediction,confidence,top5\na,0,0,1.5,0\n", "'confidence'"),
        ("predictions.csv", b"image_id,target,prediction,confidence,top5\na,0,0,1,0\na,0,0,1,0\n", "twice"),
        ("predictions.csv", b"image_id,target,prediction,confidence,top5\na,0,0,1,0\n", "was changed"),
    ],
)
def test_a_damaged_file_is_named_and_the_run_is_listed(make_run, tmp_path, name, content, said):
    make_run("good")
    folder = make_run("bad")
    (folder / name).write_bytes(content)
    with pytest.raises(RunError, match=said) as caught:
        read_run(folder)
    assert name in str(caught.value)
    bad, good = find_runs(tmp_path / "runs")
    assert (bad.state, good.state) == ("unreadable", "complete")
    assert bad.problem == str(caught.value)


def test_one_changed_prediction_is_noticed(make_run):
    folder = make_run("one", num_images=500)
    path = folder / "predictions.csv"
    lines = path.read_text().splitlines()
    image_id, target, _, confidence, top5 = lines[1].split(",")
    prediction = (int(target) + 1) % 5 if lines[1].split(",")[2] == target else target
    lines[1] = f"{image_id},{target},{prediction},{confidence},{top5}"
    path.write_text("\n".join(lines))
    with pytest.raises(RunError, match="was changed"):
        read_run(folder)


def test_a_missing_file_is_named_unless_the_run_can_be_read_without_it(make_run):
    folder = make_run("one")
    (folder / "config.yaml").unlink()
    (folder / "history.csv").unlink()
    assert read_run(folder).history == []
    (folder / "predictions.csv").unlink()
    with pytest.raises(RunError, match=r"predictions\.csv is missing"):
        read_run(folder)


def test_names_of_images_may_hold_anything(make_run):
    folder = make_run("one", num_images=2)
    rows = [b'"a,""b""\n\xff",0,0,0.9,0 1', "\u2028<b>,1,2,0.5,2".encode()]
    (folder / "predictions.csv").write_bytes(b"image_id,target,prediction,confidence,top5\r\n" + b"\r\n".join(rows))
    change_metrics(folder, test={"top1_accuracy": 0.5, "top5_accuracy": 1, "macro_f1": 0.4, "loss": 1, "count": 2})
    assert read_run(folder).predictions.image_ids == ('a,"b"\n\udcff', "\u2028<b>")


def test_links_to_runs_elsewhere_are_followed_once(make_run, tmp_path):
    outside = make_run("one").parent
    make_run("more/two")
    runs = tmp_path / "links"
    runs.mkdir()
    for name, target in {"a": outside / "one", "b": outside, "again": outside / "one", "up": tmp_path}.items():
        (runs / name).symlink_to(target)
    (outside / "back").symlink_to(runs)
    assert sorted(run.path.resolve().name for run in find_runs(runs)) == ["one", "two"]
