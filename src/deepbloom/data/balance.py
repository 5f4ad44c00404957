"""Classes of unequal size: weights in the loss, or an order of images that shows each class equally often."""

import numpy as np
import torch


def class_weights(targets: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the mean size of a class over the size of each, float32 of shape (C,); 0 for a class without images.

    The weights of the images ``targets``, int64 of shape (N,), are 1 on average.
    """
    sizes = np.bincount(targets, minlength=num_classes)
    mean = len(targets) / np.count_nonzero(sizes)
    weights: np.ndarray = np.where(sizes > 0, mean / np.maximum(sizes, 1), 0).astype(np.float32)
    return weights


def balanced_order(targets: np.ndarray, stream: torch.Generator) -> np.ndarray:
    """Return N positions of the images ``targets``, int64 of shape (N,), shuffled; the counts of classes differ by one.

    The images of a class take turns: none is shown once more before all of them were shown.
    """
    classes = np.unique(targets)
    shown = np.full(len(classes), len(targets) // len(classes))
    shown[_shuffled(len(classes), stream)[: len(targets) % len(classes)]] += 1
    chosen = []
    for label, count in zip(classes, shown.tolist(), strict=True):
        members = np.flatnonzero(targets == label)
        turns = [members[_shuffled(len(members), stream)] for _ in range(-(-count // len(members)))]
        chosen.append(np.concatenate(turns)[:count])
    order: np.ndarray = np.concatenate(chosen)[_shuffled(len(targets), stream)]
    return order


def _shuffled(count: int, stream: torch.Generator) -> np.ndarray:
    return np.asarray(torch.randperm(count, generator=stream))
