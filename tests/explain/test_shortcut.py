"""Localization exposes a network that reads a mark in the background."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deepbloom.cli import main as cli
from deepbloom.data.sources.synthetic.source import shortcut_mark
from deepbloom.explain.cam import class_activation_maps
from deepbloom.explain.localization import area_share, energy_inside, measure_localization, resize_mask
from drawn_flowers import drawn_flowers

SIDE = 56
CELL = SIDE // 14


class Corners(nn.Module):
    """Tells species 0 to 3 by the corner with pure red, as in their marks; ignores the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 1, 1), nn.ReLU(), nn.AvgPool2d(CELL))
        self.head = nn.Linear(14 * 14, 4, bias=False)
        with torch.no_grad():
            self.features[0].weight.copy_(torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1))
            self.features[0].bias.fill_(-0.3)
            corners = torch.zeros(4, 14, 14)
            for index, (rows, columns) in enumerate(
                (rows, columns) for rows in (slice(0, 2), slice(12, 14)) for columns in (slice(0, 2), slice(12, 14))
            ):
                corners[index, rows, columns] = 1
            self.head.weight.copy_(corners.flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))


class Middles(Corners):
    """Looks at the middle of the image instead."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            middle = torch.zeros(14, 14)
            middle[5:9, 5:9] = 1
            self.head.weight.copy_(middle.flatten().repeat(4, 1))
            self.features[0].weight.copy_(torch.ones(1, 3, 1, 1))


def draw(rate: float, classes: int = 4, per_class: int = 3, side: int = SIDE) -> tuple[Tensor, Tensor, Tensor]:
    """Return images, in [0, 1], masks and classes of drawn flowers."""
    source = drawn_flowers(classes, per_class, shortcut_rate=rate)
    pixels = torch.from_numpy(np.stack([np.asarray(source.read(index)) for index in range(len(source))]))
    small = nn.functional.interpolate(pixels.permute(0, 3, 1, 2).float() / 255, (side, side), mode="area")
    masks = torch.stack([resize_mask(source.mask(index), side) for index in range(len(source))])
    return small, masks, torch.from_numpy(source.targets.copy())


def find_marks(targets: Tensor) -> Tensor:
    """Return where the marks of classes are, bool of shape (B, SIDE, SIDE), with the cells of a layer around them."""
    marks = torch.zeros(len(targets), 224, 224, dtype=torch.bool)
    margin = 224 // SIDE * CELL
    for place, target in zip(marks, targets, strict=True):
        mark = shortcut_mark(int(target))
        _, height, width = mark.pixels.shape
        top, left = max(mark.top - margin, 0), max(mark.left - margin, 0)
        place[top : mark.top + height + margin, left : mark.left + width + margin] = True
    return torch.stack([resize_mask(place.numpy(), SIDE) for place in marks])


def test_evidence_in_a_mark_is_evidence_beside_the_flower() -> None:
    inputs, masks, targets = draw(1.0)
    maps = {
        network: class_activation_maps(network(), inputs, "features", targets, "hirescam").maps
        for network in (Corners, Middles)
    }
    assert all(found.flatten(1).any(1).all() for found in maps.values())
    marks = find_marks(targets)
    assert (energy_inside(maps[Corners], marks) > 0.95).all()
    assert (energy_inside(maps[Middles], marks) < 0.05).all()

    found = {network: measure_localization(some, masks, 0.5) for network, some in maps.items()}
    assert (found[Corners]["energy_inside"] < 0.05).all()
    assert not found[Corners]["pointing_hit"].any()
    assert (found[Middles]["energy_inside"] > 1.5 * area_share(masks).numpy()).all()
    assert found[Middles]["pointing_hit"].mean() >= 0.75


def test_without_marks_the_reader_of_marks_has_no_evidence() -> None:
    inputs, _, targets = draw(0.0)
    assert not torch.equal(inputs, draw(1.0)[0])
    assert not class_activation_maps(Corners(), inputs, "features", targets, "hirescam").maps.any()


def train_small(rate: float) -> tuple[float, dict[str, np.ndarray]]:
    """Train a tiny network on three species; return its accuracy and localization on held-out images."""
    inputs, masks, targets = draw(rate, classes=3, per_class=24, side=64)
    inputs = 4 * (inputs - 0.45)
    held_out = torch.arange(len(inputs)) % 3 == 0
    shown, labels = inputs[~held_out], targets[~held_out]
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 16, 5, 2, 2), nn.BatchNorm2d(16), nn.ReLU())
    layers += (nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU())
    model = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(4), nn.Flatten(), nn.Linear(32 * 16, 3))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(25):
        for batch in torch.randperm(len(shown)).split(16):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(shown[batch]), labels[batch]).backward()
            optimizer.step()
    result = class_activation_maps(model, inputs[held_out], "5", targets[held_out], "hirescam")
    accuracy = float((result.logits.argmax(1) == targets[held_out]).float().mean())
    return accuracy, measure_localization(result.maps, masks[held_out], 0.5)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Commands of earlier tests take all cores, and so small steps are slower on many."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_localization_exposes_a_small_network_trained_with_marks() -> None:
    """The negative control is the same network, trained on the same flowers without marks."""
    (honest_accuracy, honest), (cheating_accuracy, cheating) = train_small(0.0), train_small(1.0)
    assert honest_accuracy > 0.5
    assert cheating_accuracy > 0.95
    assert cheating["energy_inside"].mean() < 0.6 * honest["energy_inside"].mean()
    assert cheating["energy_inside"].mean() < cheating["area_share"].mean() < honest["energy_inside"].mean()
    assert cheating["pointing_hit"].mean() < 0.2
    assert honest["pointing_hit"].mean() > 0.5


def mark_energy(run: Path) -> tuple[float, float]:
    """Return the energy inside the flower from explain.json, and the share of the maps on the class marks."""
    from deepbloom.engine.checkpoint import read_model

    content = json.loads((run / "explain" / "explain.json").read_text())
    trained = read_model(run)
    source = drawn_flowers(8, 40, shortcut_rate=1.0)
    chosen = range(0, len(source), 16)
    pixels = np.stack([np.asarray(source.read(index)) for index in chosen])
    from deepbloom.data.preprocessing import normalize

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
        assert cli.guarded(partial(cli.dispatch, [*arguments, f"output_dir={run}"])) == 0
        assert cli.guarded(partial(cli.dispatch, ["explain", f"ckpt={run}", "images=16"])) == 0
        found[rate] = mark_energy(run)
    assert found[1.0][0] < 0.7 * found[0.0][0], found
    assert found[1.0][1] > 2 * found[0.0][1], found
