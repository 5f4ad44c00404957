"""A network that reads a mark in the background is found out by where its evidence lies."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deepbloom import cli
from deepbloom.data.synthetic import SyntheticFlowers, shortcut_mark
from deepbloom.explain.cam import class_activation_maps
from deepbloom.explain.localization import area_share, resize_mask
from deepbloom.explain.measuring import measure_localization

SIDE = 56
RED, GREEN = 0, 1


class Corners(nn.Module):
    """Knows species 0 to 3 by the corner in which there is red beside blue, as their marks have it; blind elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(3, 1, 1), nn.ReLU())
        self.head = nn.Linear(14 * 14, 4, bias=False)
        with torch.no_grad():
            self.features[1].weight.copy_(torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1))
            self.features[1].bias.zero_()
            corners = torch.zeros(4, 14, 14)
            for index, (rows, columns) in enumerate(
                (rows, columns) for rows in (slice(0, 2), slice(12, 14)) for columns in (slice(0, 2), slice(12, 14))
            ):
                corners[index, rows, columns] = 1
            self.head.weight.copy_(corners.flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))


class Middles(Corners):
    """The same, but what it looks at is the middle of the picture."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            middle = torch.zeros(14, 14)
            middle[5:9, 5:9] = 1
            self.head.weight.copy_(middle.flatten().repeat(4, 1))
            self.features[1].weight.copy_(torch.ones(1, 3, 1, 1))


def draw(rate: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return pictures, masks and classes of four species, one picture each."""
    source = SyntheticFlowers.create(4, 3, shortcut_rate=rate)
    chosen = range(0, len(source), 3)
    pixels = torch.from_numpy(np.stack([np.asarray(source.read(index)) for index in chosen]))
    small = nn.functional.interpolate(pixels.permute(0, 3, 1, 2).float() / 255, (SIDE, SIDE), mode="area")
    masks = torch.stack([resize_mask(source.mask(index), (SIDE, SIDE)) for index in chosen])
    return small, masks, torch.from_numpy(source.targets[::3].copy())


def test_evidence_in_a_mark_is_evidence_beside_the_flower() -> None:
    inputs, masks, targets = draw(1.0)
    found = {
        network: measure_localization(
            class_activation_maps(network(), inputs, "features", targets, "hirescam").maps, masks, 0.5
        )
        for network in (Corners, Middles)
    }
    shares = area_share(masks).numpy()
    assert (found[Corners]["energy_inside"] < 0.05).all()
    assert not found[Corners]["pointing_hit"].any()
    assert (found[Middles]["energy_inside"] > 1.5 * shares).all()
    assert found[Middles]["pointing_hit"].mean() >= 0.75


def mark_energy(run: Path) -> tuple[float, float]:
    """Return what explain.json says of the energy inside the flower, and what the class marks hold of the maps."""
    from deepbloom.engine.checkpoint import read_model

    content = json.loads((run / "explain" / "explain.json").read_text())
    trained = read_model(run)
    source = SyntheticFlowers.create(8, 40, shortcut_rate=1.0)
    chosen = range(0, len(source), 16)
    pixels = np.stack([np.asarray(source.read(index)) for index in chosen])
    from deepbloom.data.transforms import normalize

    inputs = normalize(torch.from_numpy(pixels), trained.preprocessing)
    targets = torch.from_numpy(source.targets[list(chosen)])
    maps = class_activation_maps(trained.network, inputs, "block3", targets).maps
    shares = []
    for heatmap, target in zip(maps, targets, strict=True):
        mark = shortcut_mark(int(target))
        _, height, width = mark.pixels.shape
        top, left = max(mark.top - 16, 0), max(mark.left - 16, 0)  # a cell of the layer is 16 pixels wide
        region = heatmap[top : mark.top + height + 16, left : mark.left + width + 16]
        shares.append(float(region.sum() / heatmap.sum().clamp(min=1e-6)))
    return content["measures"]["gradcam"]["energy_inside"]["mean"], float(np.mean(shares))


@pytest.mark.long
def test_a_network_trained_with_the_shortcut_looks_at_the_mark(tmp_path: Path) -> None:
    """The negative control is the same network, trained on the same flowers without marks."""
    found = {}
    for rate in (0.0, 1.0):
        run = tmp_path / f"rate{rate}"
        arguments = ["train", "model=scratch_cnn", "data.num_classes=8", "data.images_per_class=40"]
        arguments += [f"data.shortcut_rate={rate}", "augment=none", "train.epochs=8", "train.precision=fp32"]
        assert cli.guarded(lambda a=[*arguments, f"output_dir={run}"]: cli.dispatch(a)) == 0
        assert cli.guarded(lambda r=run: cli.dispatch(["explain", f"ckpt={r}", "images=16"])) == 0
        found[rate] = mark_energy(run)
    assert found[1.0][0] < 0.7 * found[0.0][0], found
    assert found[1.0][1] > 2 * found[0.0][1], found
