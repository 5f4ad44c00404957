"""Each command from end to end, as a user types it: what it writes, what it prints, and its exit code."""

import csv
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from deepbloom import recipe
from deepbloom.commands.train import log, train
from deepbloom.config.schema import flatten
from deepbloom.engine.checkpoint import MODEL_KIND, read_tensors, write_tensors
from deepbloom.runs import folder as run_dir

Run = Callable[..., tuple[int, str, str]]


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_train_leaves_the_documented_run_directory(trained_run: Path) -> None:
    names = {path.name for path in trained_run.iterdir()}
    assert {
        "config.yaml",
        "model.safetensors",
        "last.ckpt",
        "metrics.json",
        "history.csv",
        "predictions.csv",
        "plots",
        "train.log",
    } <= names
    metrics = json.loads((trained_run / "metrics.json").read_text())
    assert {"model", "dataset", "seed", "epochs", "best_epoch", "device", "precision", "num_threads"} <= metrics.keys()
    assert {"top1_accuracy", "top5_accuracy", "macro_f1", "loss", "count"} <= metrics["test"].keys()
    assert {"train_seconds", "images_per_second", "peak_memory_bytes", "macs", "git_commit"} <= metrics.keys()
    assert {"dataset_fingerprint", "split_fingerprint", "versions"} <= metrics.keys()
    assert metrics["params"]["total"] == metrics["params"]["trainable"]
    assert 0 <= metrics["test"]["top1_accuracy"] <= 1
    for plot in (trained_run / "plots").iterdir():
        assert Image.open(plot).size > (300, 200)


def test_the_log_of_a_run_is_complete_at_any_level_of_the_caller(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, log.name)
    options = {"epochs": 1, "batch_size": 8, "num_threads": 1, "precision": "fp32"}
    data = {"data": "imagefolder", "data.root": images}
    folder = train(recipe("scratch_cnn", output_dir=tmp_path / "run", train=options, **data))
    assert " INFO epoch   1/1" in (folder / "train.log").read_text()
    assert log.level == logging.ERROR


def test_eval_gives_the_figures_of_the_metrics_file_again(deepbloom: Run, trained_run: Path, tmp_path: Path) -> None:
    code, out, _ = deepbloom("eval", f"ckpt={trained_run}", f"output_dir={tmp_path}", "batch_size=5")
    assert code == 0
    again = json.loads((tmp_path / "metrics.json").read_text())["test"]
    stored = json.loads((trained_run / "metrics.json").read_text())["test"]
    assert flatten(again) == pytest.approx(flatten(stored), rel=1e-4, abs=1e-9)  # other batches round differently
    deepbloom("eval", f"ckpt={trained_run}", f"output_dir={tmp_path / 'same'}")
    assert json.loads((tmp_path / "same" / "metrics.json").read_text())["test"] == stored
    assert rows(tmp_path / "predictions.csv")[0].keys() == rows(trained_run / "predictions.csv")[0].keys()
    assert f"{stored['top1_accuracy']:.4f}" in out


def test_eval_refuses_another_split(deepbloom: Run, trained_run: Path, tmp_path: Path) -> None:
    code, _, err = deepbloom("eval", f"ckpt={trained_run}", "data.split.seed=7", f"output_dir={tmp_path}")
    assert code == 2
    assert "another split" in err
    assert not (tmp_path / "metrics.json").exists()


def test_eval_refuses_other_classes(deepbloom: Run, trained_run: Path, images: Path, tmp_path: Path) -> None:
    other = shutil.copytree(images, tmp_path / "other")
    (other / "lime").rename(other / "lemon")
    code, _, err = deepbloom("eval", f"ckpt={trained_run}", f"data.root={other}")
    assert code == 2
    assert "classes" in err


def test_eval_refuses_other_images_of_the_same_names(
    deepbloom: Run, trained_run: Path, images: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(images, tmp_path / "other")
    shutil.copy(other / "lime" / "00.png", other / "lime" / "01.png")
    code, _, err = deepbloom("eval", f"ckpt={trained_run}", f"data.root={other}")
    assert code == 2
    assert "other images" in err


def test_predict_answers_for_each_image_and_survives_a_bad_one(
    deepbloom: Run, trained_run: Path, images: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mixed, with (signs) ü"
    shutil.copytree(images / "crimson", folder)
    (folder / "broken.jpg").write_bytes(b"no image")
    code, out, err = deepbloom("predict", f"ckpt={trained_run}", f"image={folder}", f"output_dir={tmp_path / 'out'}")
    assert code == 0
    table = rows(tmp_path / "out" / "predictions.csv")
    assert list(table[0]) == ["path", "prediction", "class_name", "confidence", "top5", "error"]
    assert len(table) == 13
    assert sum(row["class_name"] == "crimson" for row in table) >= 9
    assert all(row["prediction"] == row["top5"].split()[0] for row in table if not row["error"])
    (bad,) = (row for row in table if row["error"])
    assert bad["path"].endswith("broken.jpg")
    assert "broken.jpg" in err
    assert "crimson" in out
    best = json.loads((tmp_path / "out" / "predictions.json").read_text())[1]["top5"]
    assert sum(entry["confidence"] for entry in best) == pytest.approx(1, abs=1e-4)


def test_an_image_without_finite_logits_gets_an_error_and_no_class(
    deepbloom: Run, trained_run: Path, tmp_path: Path
) -> None:
    tensors, header = read_tensors(trained_run / run_dir.MODEL, MODEL_KIND)
    tensors["block1.0.weight"] *= 1e4
    header["preprocessing"] |= {"mean": [0.0] * 3, "std": [1e-38] * 3}  # only black stays in range
    model = tmp_path / "model.safetensors"
    write_tensors(model, tensors, header)
    for color in ("black", "white"):
        Image.new("RGB", (20, 20), color).save(tmp_path / f"{color}.png")
    code, _, err = deepbloom("predict", f"ckpt={model}", f"image={tmp_path}", f"output_dir={tmp_path / 'out'}")
    assert code == 0
    black, white = rows(tmp_path / "out" / "predictions.csv")
    assert (black["error"], white["prediction"]) == ("", "")
    assert "not finite" in white["error"]
    assert white["error"] in err
    for command in (["gradcam", f"image={tmp_path / 'white.png'}", f"output_dir={tmp_path / 'maps'}"], ["eval"]):
        code, _, err = deepbloom(*command, f"ckpt={model}")
        assert code == 2
        assert "not finite" in err


def test_predict_with_no_readable_image_is_an_error(deepbloom: Run, trained_run: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_text("no image")
    code, _, err = deepbloom("predict", f"ckpt={trained_run}", f"image={tmp_path / 'x.jpg'}")
    assert code == 2
    assert "x.jpg" in err


def test_gradcam_renders_each_image_and_the_raw_map_on_request(
    deepbloom: Run, trained_run: Path, images: Path, tmp_path: Path
) -> None:
    image = f"image=[{images / 'lime' / '00.png'},{images / 'azure' / '01.png'}]"
    code, out, _ = deepbloom(
        "gradcam", f"ckpt={trained_run}", image, f"output_dir={tmp_path}", "save_raw=true", "target=lime"
    )
    assert code == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "00_gradcam.png",
        "00_gradcam.npy",
        "01_gradcam.png",
        "01_gradcam.npy",
    }
    raw = np.load(tmp_path / "00_gradcam.npy")
    assert (raw.dtype, raw.shape) == (np.float32, (144, 144))
    assert raw.min() >= 0
    assert raw.max() == pytest.approx(1) or raw.max() == 0
    assert "lime" in out


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        (["target=tulip"], "Unknown target 'tulip'"),
        (["method=guesscam"], "Unknown method 'guesscam'"),
        (["layer=nowhere"], "nowhere"),
        (["target=9"], "classes 0 to 2"),
    ],
)
def test_gradcam_names_what_is_wrong(
    deepbloom: Run, trained_run: Path, images: Path, tmp_path: Path, changes: list[str], part: str
) -> None:
    image = f"image={images / 'lime' / '00.png'}"
    code, _, err = deepbloom("gradcam", f"ckpt={trained_run}", image, f"output_dir={tmp_path}", *changes)
    assert code == 2
    assert part in err
    assert "Traceback" not in err


def test_data_counts_and_draws(deepbloom: Run, images: Path, tmp_path: Path) -> None:
    code, out, _ = deepbloom("data", "data=imagefolder", f"data.root={images}", f"output_dir={tmp_path}")
    assert code == 0
    assert [row["total"] for row in rows(tmp_path / "counts.csv")] == ["12", "12", "12"]
    assert [row["test"] for row in rows(tmp_path / "counts.csv")] == ["2", "2", "2"]
    assert Image.open(tmp_path / "contact_sheet.png").size > (300, 300)
    assert "azure" in out


def test_standing_in_the_folder_of_images_output_is_never_taken_for_a_class(
    deepbloom: Run, trained_run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(images, tmp_path, dirs_exist_ok=True)
    shutil.copytree(trained_run, tmp_path / "best run")
    monkeypatch.chdir(tmp_path)
    image = f"image={Path('lime') / '00.png'}"
    assert deepbloom("gradcam", f"ckpt={trained_run}", image, "output_dir=heat")[0] == 0
    for _ in range(2):
        code, out, err = deepbloom("data", "data=imagefolder", "data.root=.")
        assert code == 0
        assert "36 in 3 classes" in out
        assert "Found 36 images of 3 classes (azure, crimson, lime)." in err
    assert "3 from DeepBloom (best run, heat, outputs/data)" in err
    assert deepbloom("predict", f"ckpt={trained_run}", "image=.")[1].count(".png") == 36


def test_a_run_says_what_it_found_in_the_folder_and_across_the_splits(trained_run: Path) -> None:
    log = (trained_run / "train.log").read_text()
    assert "Found 36 images of 3 classes (azure, crimson, lime)." in log
    assert "No near-duplicates in two splits." in log


def test_report_compares_the_runs_of_a_folder(deepbloom: Run, trained_run: Path, tmp_path: Path) -> None:
    code, out, _ = deepbloom("report", f"runs={trained_run.parent}", f"output_dir={tmp_path}")
    assert code == 0
    assert {"report.md", "report.csv", "report.html", "figures"} <= {path.name for path in tmp_path.iterdir()}
    accuracy = json.loads((trained_run / "metrics.json").read_text())["test"]["top1_accuracy"]
    assert float(rows(tmp_path / "report.csv")[0]["top1_accuracy"]) == pytest.approx(accuracy)
    assert "scratch_cnn" in (tmp_path / "report.md").read_text()
    assert "scratch_cnn" in out


def test_doctor_says_what_is_there(deepbloom: Run) -> None:
    code, out, _ = deepbloom("doctor")
    assert code == 0
    assert "torch" in out
    assert "efficientnet_b0" in out


@pytest.mark.hydra
def test_a_multirun_runs_every_combination_in_a_process_of_its_own_and_a_failing_job_does_not_stop_it(
    deepbloom: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("model=scratch_cnn", "data=imagefolder", f"data.root={images}", "train.epochs=1")
    code, out, err = deepbloom("train", "-m", *arguments, "train.batch_size=1,8")
    assert code == 2
    assert (out.count("refused"), out.count("done")) == (1, 1)
    assert "1 of 2 jobs are not done" in err
    (run,) = (path.parent for path in (tmp_path / "outputs").glob("*/metrics.json"))
    assert run_dir.read_state(run) == "complete"
    assert yaml.safe_load((run / "config.yaml").read_text())["train"]["batch_size"] == 8
