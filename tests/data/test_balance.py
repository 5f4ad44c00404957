"""Classes of unequal size: weights and orders by hand, and what a step of training makes of them."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deepbloom import recipe
from deepbloom.config.settings import AugmentConfig
from deepbloom.data.balance import balanced_order, class_weights
from deepbloom.data.batches import ImageBatches, epoch_order
from deepbloom.data.pixel_cache import Pixels
from deepbloom.data.preprocessing import Preprocessing
from deepbloom.data.resolution import CopySchedule
from deepbloom.engine.distributed import Group
from deepbloom.engine.loss import training_loss
from deepbloom.engine.probe import Linear, fit
from deepbloom.engine.resolve import resolve
from deepbloom.rng import generator

SIZES = (30, 12, 3)
TARGETS = np.random.default_rng(0).permutation(np.repeat(np.arange(3), SIZES))


def test_weights_are_the_mean_size_over_the_size() -> None:
    assert class_weights(np.array([0, 0, 0, 0, 0, 1]), 2).tolist() == pytest.approx([0.6, 3])
    assert class_weights(np.array([0, 0, 2, 2]), 3).tolist() == [1, 0, 1]  # a class without training images
    assert class_weights(TARGETS, 3)[TARGETS].mean() == pytest.approx(1)


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_balanced_order_shows_classes_equally_often_and_images_in_turn(epoch: int) -> None:
    order = balanced_order(TARGETS, generator(0, "order", epoch))
    assert Counter(TARGETS[order].tolist()) == {0: 15, 1: 15, 2: 15}
    for label, size in enumerate(SIZES):
        times = np.bincount(order, minlength=45)[label == TARGETS]
        assert times.max() - times.min() <= 1, size
        assert times.sum() == 15
    assert np.abs(np.diff(TARGETS[order])).any()


def test_what_is_left_over_goes_to_other_classes_each_epoch() -> None:
    left_over = {
        tuple(np.bincount(TARGETS[:44][balanced_order(TARGETS[:44], generator(0, "order", epoch))]))
        for epoch in range(20)
    }
    assert {sum(counts) for counts in left_over} == {44}
    assert left_over == {(14, 15, 15), (15, 14, 15), (15, 15, 14)}


def test_large_classes_are_shown_whole_over_the_epochs() -> None:
    shown = np.concatenate([balanced_order(TARGETS, generator(0, "order", epoch)) for epoch in range(8)])
    assert set(shown.tolist()) == set(range(45))


def test_a_balanced_epoch_follows_from_seed_and_epoch_and_has_the_usual_batches() -> None:
    first = epoch_order(45, 8, 0, 1, TARGETS)
    assert all(map(np.array_equal, first, epoch_order(45, 8, 0, 1, TARGETS)))
    assert [*map(len, first)] == [*map(len, epoch_order(45, 8, 0, 1))]
    for other in (epoch_order(45, 8, 0, 2, TARGETS), epoch_order(45, 8, 1, 1, TARGETS)):
        assert not np.array_equal(np.concatenate(first), np.concatenate(other))


class Shades(Pixels):
    """Image i is uniformly of shade i."""

    def read(self, indices: np.ndarray) -> np.ndarray:
        return np.broadcast_to(indices.astype(np.uint8)[:, None, None, None], (len(indices), 4, 4, 3)).copy()


def test_batches_resume_and_are_sharded_as_unbalanced_ones() -> None:
    def batches(share: slice = slice(None)) -> ImageBatches:
        indices, schedule = np.arange(5, 50), CopySchedule(3, (4,))
        targets = np.concatenate([np.zeros(5, np.int64), TARGETS])
        settings = (Preprocessing(size=4), AugmentConfig({}), 0, 8, torch.device("cpu"), schedule)
        return ImageBatches(Shades(), indices, targets, *settings, share, balanced=True)

    whole = list(batches().epoch(2))
    assert Counter(torch.cat([targets for _, targets in whole]).tolist()) == {0: 15, 1: 15, 2: 15}
    rest = list(batches().epoch(2, start=3))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(whole[3:], rest, strict=True))
    shards = [list(batches(Group(rank, 2).shard).epoch(2)) for rank in range(2)]
    for (inputs, _), *parts in zip(whole, *shards, strict=True):
        together = torch.cat([part for part, _ in parts])
        assert sorted(together[:, 0, 0, 0].tolist()) == sorted(inputs[:, 0, 0, 0].tolist())


WEIGHTS = torch.tensor([0.5, 1.0, 4.0])


@pytest.mark.parametrize("ops", [{}, {"mixup": {"alpha": 1.0}}, {"cutmix": {"alpha": 1.0}}])
def test_weights_multiply_the_loss_of_each_image(ops: dict) -> None:
    config = recipe("scratch_cnn", augment={"ops": ops}, train={"label_smoothing": 0.1})
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    inputs, targets = torch.randn(6, 3, 2, 2, generator=generator(0)), torch.tensor([0, 0, 0, 1, 2, 2])

    def loss(weights: torch.Tensor | None) -> torch.Tensor:
        plan = SimpleNamespace(
            config=config,
            source=SimpleNamespace(class_names="abc"),
            precision="fp32",
            class_weights=weights,
            teacher=None,
        )
        return training_loss(plan, network, inputs, targets, 1, 0)[0]  # type: ignore[arg-type]  # what it reads of one

    torch.testing.assert_close(loss(torch.ones(3)), loss(None))
    torch.testing.assert_close(loss(3 * WEIGHTS), 3 * loss(WEIGHTS))
    if ops:
        assert not torch.allclose(loss(WEIGHTS), loss(None))
        return
    log_probabilities = network(inputs).log_softmax(1)
    smooth = 0.9 * F.one_hot(targets, 3) + 0.1 / 3
    by_hand = -(smooth * log_probabilities).sum(1) * torch.tensor([0.5, 0.5, 0.5, 1, 4, 4])
    torch.testing.assert_close(loss(WEIGHTS), by_hand.mean())


def test_a_plan_takes_weights_from_the_training_images_alone() -> None:
    data = {"num_classes": 3, "images_per_class": 40, "imbalance": 4.0}
    plans = {
        balance: resolve(recipe("scratch_cnn", data=data, train={"balance": balance}))
        for balance in ("none", "weights", "sampling")
    }
    assert len({plan.run_id for plan in plans.values()}) == 3
    plan = plans["weights"]
    sizes = np.bincount(plan.source.targets[plan.split.train])
    assert sizes.max() > 2 * sizes.min()
    assert plan.class_weights is not None
    np.testing.assert_allclose(plan.class_weights.numpy() * sizes, sizes.mean(), rtol=1e-6)
    assert plans["none"].class_weights is None
    assert plans["sampling"].class_weights is None


def test_the_linear_probe_weights_classes_as_training_does() -> None:
    stream = generator(0)
    targets = torch.from_numpy(TARGETS)
    features = torch.randn(45, 4, generator=stream) + F.one_hot(targets, 4)  # classes overlap
    weights = torch.from_numpy(class_weights(TARGETS, 3))
    plain, weighted = (fit(features, targets, 3, 1e-2, 0.0, weights=given) for given in (None, weights))
    repeated = np.concatenate([np.flatnonzero(label == TARGETS).repeat(60 // size) for label, size in enumerate(SIZES)])
    oversampled = fit(features[repeated], targets[repeated], 3, 1e-2, 0.0)  # 60 of each class: the same loss
    small = targets == 2

    def found(fitted: Linear) -> torch.Tensor:
        return fitted(features).argmax(1)[small] == 2

    assert found(weighted).sum() > found(plain).sum()
    torch.testing.assert_close(weighted(features).softmax(1), oversampled(features).softmax(1), atol=0.03, rtol=0)
