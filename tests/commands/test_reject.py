"""``deepbloom predict reject=auto evidence=3``: none of these, with a reason, and training images alike."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepbloom.calibration.rejection import Rejection
from deepbloom.engine.checkpoint import MODEL_KIND, read_tensors, write_tensors
from deepbloom.engine.training_images import KIND
from deepbloom.runs import folder as run_dir

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def sure_run(trained_run: Path, tmp_path: Path) -> Path:
    """The small run, as if 400 validation images had shown that confidences above 0.5 can be trusted."""
    folder = tmp_path / "sure"
    shutil.copytree(trained_run, folder)
    tensors, header = read_tensors(folder / run_dir.MODEL, MODEL_KIND)
    confidences = np.linspace(1, 0.2, 400)
    distances = np.full(400, 0.01)
    rejection = Rejection.from_validation(
        confidences, confidences > 0.5, distances, header["rejection"]["limit"] + 0.05
    )
    write_tensors(folder / run_dir.MODEL, tensors, header | {"rejection": rejection.as_header()})
    return folder


def read(folder: Path) -> list[dict[str, str]]:
    with open(folder / "predictions.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_predictions_become_none_of_these_with_a_reason(
    deepbloom: Run, sure_run: Path, images: Path, tmp_path: Path
) -> None:
    shown = tmp_path / "shown"
    shown.mkdir()
    shutil.copy(sorted((images / "lime").iterdir())[0], shown / "0.png")
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[::2] = 255
    Image.fromarray(stripes).save(shown / "1.png")
    out = tmp_path / "out"
    code, printed, err = deepbloom(
        "predict", f"ckpt={sure_run}", f"image={shown}", "reject=auto", "target=0.97", f"output_dir={out}"
    )
    assert code == 0, err
    assert "at least 97 %" in err
    known, strange = read(out)
    plain = deepbloom("predict", f"ckpt={sure_run}", f"image={shown}", f"output_dir={tmp_path / 'plain'}")[1]
    assert "none of these" not in plain
    same = read(tmp_path / "plain")
    assert [row["confidence"] for row in same] == [known["confidence"], strange["confidence"]]
    assert [row["top5"] for row in same] == [known["top5"], strange["top5"]]
    assert list(same[0]) == ["path", "prediction", "class_name", "confidence", "top5", "error"]
    unsure = float(known["confidence"]) <= 0.5
    assert known["reason"] == ("unsure" if unsure else "")
    assert (known["prediction"] == "") == unsure
    assert (strange["prediction"], strange["class_name"]) == ("", "none of these")
    assert strange["reason"] == "unlike the training images"
    assert "none of these (unlike the training images)" in printed
    entries = json.loads((out / "predictions.json").read_text())
    assert entries[1]["reason"] == "unlike the training images"
    assert len(entries[1]["top5"]) == 3


def test_evidence_names_training_images_with_their_classes(
    deepbloom: Run, trained_run: Path, images: Path, tmp_path: Path
) -> None:
    tensors, header = read_tensors(trained_run / run_dir.TRAINING_IMAGES, KIND)
    name = header["image_ids"][5]
    out = tmp_path / "out"
    code, printed, err = deepbloom(
        "predict", f"ckpt={trained_run}", f"image={images / name}", "evidence=3", f"output_dir={out}"
    )
    assert code == 0, err
    (entry,) = json.loads((out / "predictions.json").read_text())
    assert len(entry["evidence"]) == 3
    assert entry["evidence"][0] == {
        "image_id": name,
        "class_name": name.split("/")[0],
        "similarity": pytest.approx(1, abs=1e-3),
    }
    similarities = [image["similarity"] for image in entry["evidence"]]
    assert similarities == sorted(similarities, reverse=True)
    assert read(out)[0]["evidence"].split()[0] == name
    assert f"like {name}" in printed
    assert len(tensors["targets"]) == len(header["image_ids"]) == 27


def test_validation_that_is_too_small_says_what_is_reachable(deepbloom: Run, trained_run: Path, images: Path) -> None:
    code, _, err = deepbloom("predict", f"ckpt={trained_run}", f"image={images}", "reject=auto")
    assert code == 2
    assert "at least 299" in err
    assert "target=0.99 cannot be shown with" in err


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("95", "target is a share, not a percentage: write target=0.95."),
        ("2", "target=2 is out of range: give a number of at least 0.5 and at most 0.9999."),
        ("95%", "give a number"),
    ],
)
def test_targets_that_are_no_shares_are_explained(target: str, said: str, deepbloom: Run, images: Path) -> None:
    code, _, err = deepbloom("predict", "ckpt=RUN", f"image={images}", "reject=auto", f"target={target}")
    assert (code, said in err) == (2, True), err


def test_validation_without_an_error_accepts_any_confidence(deepbloom: Run, sure_run: Path, images: Path) -> None:
    tensors, header = read_tensors(sure_run / run_dir.MODEL, MODEL_KIND)
    always = Rejection.from_validation(np.linspace(1, 0.2, 400), np.ones(400, dtype=bool), np.full(400, 0.01), 0.5)
    write_tensors(sure_run / run_dir.MODEL, tensors, header | {"rejection": always.as_header()})
    code, _, err = deepbloom("predict", f"ckpt={sure_run}", f"image={images / 'lime'}", "reject=auto")
    assert (code, "Accepting any confidence: with 95 %" in err, "100.0 % are accepted" in err) == (0, True, True), err


def test_a_model_file_alone_still_predicts_and_rejects(
    deepbloom: Run, sure_run: Path, images: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "alone" / "m.safetensors"
    alone.parent.mkdir()
    shutil.copy(sure_run / run_dir.MODEL, alone)
    image = sorted((images / "lime").iterdir())[0]
    assert deepbloom("predict", f"ckpt={alone}", f"image={image}")[0] == 0
    code, _, err = deepbloom("predict", f"ckpt={alone}", f"image={image}", "reject=auto", "target=0.97")
    assert code == 0
    assert "not noticed" in err
    code, _, err = deepbloom("predict", f"ckpt={alone}", f"image={image}", "evidence=3")
    assert code == 2
    assert run_dir.TRAINING_IMAGES in err


def test_several_networks_and_mirror_images_have_no_guarantee(deepbloom: Run, trained_run: Path, images: Path) -> None:
    for ckpt, tta in ((f"ckpt=[{trained_run},{trained_run}]", "none"), (f"ckpt={trained_run}", "mirror")):
        for wrong in ("reject=auto", "evidence=1"):
            code, _, err = deepbloom("predict", ckpt, f"image={images}", f"tta={tta}", wrong)
            assert (code, "a single network" in err) == (2, True)


def test_keys_that_nothing_reads_are_refused(deepbloom: Run, trained_run: Path, images: Path) -> None:
    for wrong in ("target=0.9", "reject=yes", "evidence=-1"):
        code, _, err = deepbloom("predict", f"ckpt={trained_run}", f"image={images}", wrong)
        assert (code, wrong.split("=")[0] in err) == (2, True)


def test_training_images_of_another_run_are_refused(deepbloom: Run, sure_run: Path, images: Path) -> None:
    tensors, header = read_tensors(sure_run / run_dir.TRAINING_IMAGES, KIND)
    write_tensors(sure_run / run_dir.TRAINING_IMAGES, tensors, header | {"run_id": "other"})
    code, _, err = deepbloom("predict", f"ckpt={sure_run}", f"image={images}", "evidence=1")
    assert code == 2
    assert "two runs" in err
    (sure_run / run_dir.TRAINING_IMAGES).write_bytes(b"broken")
    assert deepbloom("predict", f"ckpt={sure_run}", f"image={images}", "evidence=1")[0] == 2
