"""Augmentation of training images: a registry of operations, and how a batch goes through them.

An operation is one function with its decorator, named in ``augment.ops``. Images go through the operations of a config
in the order in which they are listed there: geometric ones first, then those on pixels, then those on batches.
"""

from deepbloom.data.augment import ops  # noqa: F401 (registers them)
from deepbloom.data.augment.apply import augment, mix_batch, training_inputs
from deepbloom.data.augment.registry import augmentation, changes_labels, chosen_ops, is_random

__all__ = [
    "augment",
    "augmentation",
    "changes_labels",
    "chosen_ops",
    "is_random",
    "mix_batch",
    "training_inputs",
]
