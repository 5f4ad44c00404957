"""``model=timm model.arch=NAME`` from training to the report, with a network of convolutions and a transformer."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deepbloom import load_model
from deepbloom.engine.checkpoint import MODEL_KIND, read_tensors

Run = Callable[..., tuple[int, str, str]]
SMALL = ("train.num_threads=1", "train.batch_size=8", "train.epochs=1", "train.precision=fp32", "model.weights=none")


@pytest.mark.parametrize(
    ("arch", "trainable"),
    [
        pytest.param("test_convnext", ["stages.2", "stages.3", "head.norm", "head.fc"], marks=pytest.mark.long),
        ("test_vit", ["blocks.4", "blocks.5", "norm", "head"]),
    ],
)
def test_a_network_of_timm_goes_all_the_way(
    deepbloom: Run, images: Path, tmp_path: Path, arch: str, trainable: list[str]
) -> None:
    run, image = tmp_path / "runs" / "run", images / "lime" / "00.png"
    data = ("data=imagefolder", f"data.root={images}")
    code, _, err = deepbloom("train", "model=timm", f"model.arch={arch}", *data, *SMALL, f"output_dir={run}")
    assert code == 0, err

    _, header = read_tensors(run / "model.safetensors", MODEL_KIND)
    assert (header["model"], header["arch"], header["trainable"]) == (f"timm-{arch}", arch, trainable)
    assert header["preprocessing"]["size"] == 160
    network = load_model(run)
    assert {name for name, p in network.named_parameters() if p.requires_grad} == {
        name for name, _ in network.named_parameters() if name.startswith(tuple(f"{path}." for path in trainable))
    }

    code, _, err = deepbloom("predict", f"ckpt={run}", f"image={image}", f"output_dir={tmp_path / 'predict'}")
    assert code == 0, err
    code, _, err = deepbloom("eval", f"ckpt={run}", f"output_dir={tmp_path / 'eval'}")
    assert code == 0, err
    trained, again = (json.loads((path / "metrics.json").read_text()) for path in (run, tmp_path / "eval"))
    assert again["test"]["top1_accuracy"] == trained["test"]["top1_accuracy"]
    assert (trained["model"], trained["training_type"]) == (f"timm-{arch}", "partial")

    code, _, err = deepbloom(
        "gradcam", f"ckpt={run}", f"image={image}", "method=layercam", "save_raw=true", f"output_dir={tmp_path / 'cam'}"
    )
    assert code == 0, err
    heatmap = np.load(tmp_path / "cam" / "00_layercam.npy")
    assert heatmap.shape == (160, 160)
    assert (heatmap.min(), heatmap.max()) == (0, 1)

    code, _, err = deepbloom("report", f"runs={tmp_path / 'runs'}", f"output_dir={tmp_path / 'report'}")
    assert code == 0, err
    assert f"timm-{arch}" in (tmp_path / "report" / "report.csv").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "model.arch"),
        (["model.arch=convnext_ato"], "Did you mean 'convnext_atto'"),
        (["model.arch=hf-hub:timm/resnet18"], "Unknown model.arch"),
        (["model.arch=test_vit", "augment=crop", "model.weights=none"], "takes images of 160 pixels, but not of 144"),
        (["model.arch=test_vit", "model.trainable=[block.5]", "model.weights=none"], "Unknown module 'block.5'"),
        (["model.arch=test_vit", "model.trainable=last:9", "model.weights=none"], "this network has 7 blocks"),
        (["model.arch=ghostnet_050"], "Unknown model.weights 'imagenet'"),
    ],
)
def test_what_a_network_cannot_do_is_said(
    deepbloom: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = deepbloom("train", "model=timm", *arguments)
    assert code == 2
    assert message in err
    assert not (tmp_path / "outputs").exists()
