"""``ckpt=[A,B]`` and ``tta=mirror`` in ``predict`` and ``eval``."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from deepbloom.data.images import read_image
from deepbloom.data.preprocessing import resize
from deepbloom.engine.checkpoint import MODEL_KIND, read_model, read_tensors, write_tensors

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def other_run(trained_run: Path, tmp_path: Path) -> Path:
    """A run like the trained one with other weights, and another preprocessing."""
    return changed(trained_run, tmp_path / "other", fit="crop")


def changed(trained_run: Path, folder: Path, fit: str, **header: object) -> Path:
    tensors, found = read_tensors(trained_run / "model.safetensors", MODEL_KIND)
    stream = torch.Generator().manual_seed(0)
    noisy = {
        name: tensor + 0.3 * torch.randn(tensor.shape, generator=stream) if name.endswith("weight") else tensor
        for name, tensor in tensors.items()
    }
    folder.mkdir()
    parts = {"preprocessing": found["preprocessing"] | {"fit": fit}, "data": found["data"] | {"fit": fit}}
    write_tensors(folder / "model.safetensors", noisy, found | parts | header)
    return folder


def confidences(folder: Path) -> dict[str, dict[str, float]]:
    entries = json.loads((folder / "predictions.json").read_text())
    return {entry["path"]: {guess["class_name"]: guess["confidence"] for guess in entry["top5"]} for entry in entries}


@pytest.mark.parametrize("tta", ["none", "mirror"])
def test_predict_gives_the_mean_of_the_probabilities(
    deepbloom: Run, trained_run: Path, other_run: Path, images: Path, tmp_path: Path, tta: str
) -> None:
    paths = sorted((images / "lime").iterdir())[:3]
    listed = ",".join(map(str, paths))
    arguments = (f"ckpt=[{trained_run},{other_run}]", f"image=[{listed}]", f"output_dir={tmp_path / 'out'}")
    assert deepbloom("predict", *arguments, f"tta={tta}")[0] == 0
    found = confidences(tmp_path / "out")
    for path in paths:
        expected = []
        for run in (trained_run, other_run):
            trained = read_model(run)
            pixels = resize(read_image(path), trained.preprocessing)[None]
            expected.append(trained.probabilities(pixels)[0])
            if tta == "mirror":
                expected.append(trained.probabilities(np.ascontiguousarray(pixels[:, :, ::-1]))[0])
        mean = dict(zip(trained.classes, np.mean(expected, axis=0), strict=True))
        assert found[str(path)] == pytest.approx(mean, abs=2e-5)


def test_eval_measures_the_ensemble(deepbloom: Run, trained_run: Path, other_run: Path, tmp_path: Path) -> None:
    for name, ckpt in (("one", trained_run), ("two", other_run), ("both", f"[{trained_run},{other_run}]")):
        assert deepbloom("eval", f"ckpt={ckpt}", f"output_dir={tmp_path / name}")[0] == 0
    metrics = json.loads((tmp_path / "both" / "metrics.json").read_text())
    assert metrics["model"] == "ensemble of scratch_cnn + scratch_cnn"
    assert len(metrics["checkpoint"]) == 2
    tables = []
    for name in ("one", "two", "both"):
        with (tmp_path / name / "predictions.csv").open(newline="") as file:
            tables.append(list(csv.DictReader(file)))
    assert [row["image_id"] for row in tables[2]] == [row["image_id"] for row in tables[0]]
    for one, two, both in zip(*tables, strict=True):
        if one["prediction"] == two["prediction"]:
            mean = (float(one["confidence"]) + float(two["confidence"])) / 2
            assert float(both["confidence"]) == pytest.approx(mean, abs=2e-5)


def test_runs_that_do_not_belong_together_are_refused(deepbloom: Run, trained_run: Path, tmp_path: Path) -> None:
    split = changed(trained_run, tmp_path / "split", "squash", split_fingerprint="another")
    code, _, err = deepbloom("eval", f"ckpt=[{trained_run},{split}]")
    assert code == 2
    assert "was trained with other splits than" in err
    names = changed(trained_run, tmp_path / "names", "squash", classes=["a", "b", "c"])
    code, _, err = deepbloom("predict", f"ckpt=[{trained_run},{names}]", "image=x.png")
    assert code == 2
    assert "does not tell the same classes apart" in err
    code, _, err = deepbloom("predict", f"ckpt={trained_run}", "image=x.png", "tta=flip")
    assert code == 2
    assert "mirror" in err
