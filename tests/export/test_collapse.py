"""int8 of a network with squeeze-and-excitation and SiLU whose activations collapse: seen, and mended."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from deepbloom.data.preprocessing import Preprocessing, resize, to_inputs
from deepbloom.engine.checkpoint import model_header, write_tensors
from deepbloom.export import quantize, verify
from deepbloom.models.registry import create_model
from small_data import COLORS

pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")

SIZE, STEPS, RANGE = 64, 25, 1000.0


def write_network(path: Path, images: Path, collapses: bool) -> None:
    """Write an EfficientNet-B0 that was trained from random weights to tell the colors apart.

    Where it ``collapses``, one channel between the first two stages has values `RANGE` times as large, and the next
    convolution divides by as much. No prediction changes, but steps of 8 bits are too coarse for the other channels.
    """
    torch.set_num_threads(1)  # an export before may have taken more
    preprocessing, names = Preprocessing(SIZE), tuple(sorted(COLORS))
    pixels = np.stack(
        [resize(Image.open(file), preprocessing) for name in names for file in sorted((images / name).iterdir())]
    )
    targets = torch.arange(len(names)).repeat_interleave(len(pixels) // len(names))
    inputs = to_inputs(pixels, preprocessing, torch.device("cpu"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = create_model("efficientnet_b0", len(names)).train()
        optimizer = torch.optim.Adam(network.parameters(), lr=0.001)
        for _ in range(STEPS):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(inputs), targets).backward()
            optimizer.step()
    with torch.no_grad():
        for norm in (module for module in network.eval().modules() if isinstance(module, nn.BatchNorm2d)):
            norm.reset_running_stats()
            norm.momentum = None  # the statistics of these images
            norm.train()
        network(inputs)
        network.eval()
        before, after = network.features[1][0].block[-1][1], network.features[2][0].block[0][0]
        if collapses:
            expected = network(inputs)
            before.weight[0] *= RANGE
            before.bias[0] *= RANGE
            after.weight[:, 0] /= RANGE
            torch.testing.assert_close(network(inputs), expected, rtol=1e-3, atol=1e-3)
        assert (network(inputs).argmax(1) == targets).all()
    write_tensors(path, network.state_dict(), model_header("efficientnet_b0", names, preprocessing))


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("collapses", [True, False], ids=["collapses", "control"])
def test_operators_that_collapse_stay_in_float_and_the_file_agrees(
    collapses: bool, images: Path, deepbloom: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "PASSES", 2)
    monkeypatch.setattr(quantize, "RANKED_ON", 8)
    write_network(tmp_path / "model.safetensors", images, collapses)
    words = [f"ckpt={tmp_path / 'model.safetensors'}", f"image={images}", f"output_dir={tmp_path / 'out'}"]
    code, _, err = deepbloom("export", "precision=int8", *words)
    assert code == 0, err
    found = json.loads((tmp_path / "out" / "export.json").read_text("utf-8"))
    assert found["verified"]
    assert found["agreement"] >= quantize.LEAST_AGREEMENT
    notes = " ".join(found["notes"])
    assert ("int8 in all operators changes" in notes) == collapses
    assert ("operators stay in float" in notes) == collapses
    assert ("operators stay in float" in err) == collapses
    assert ("stay in float" in (tmp_path / "out" / "README.md").read_text("utf-8")) == collapses
