"""The audit of a run: frozen weights stayed, the splits are disjoint, the test ran once."""

from dataclasses import dataclass

from deepbloom.runs import parsing as kinds
from deepbloom.runs.parsing import Fields


@dataclass(frozen=True)
class Audit:
    """The ``audit`` block of metrics.json.

    Attributes
    ----------
    frozen, changed : int, tuple of str
        Number of frozen weights and buffers, and those of them that changed.
    declared, in_optimizer, stray : int, int, tuple of str
        Parameters declared as trainable, parameters in the optimizer, and those that are in only one of these two.
    in_two_splits, near_test, near_val : int
        Images in two splits; test images with a near-duplicate in train or validation, validation images with one in
        train.
    examples : tuple of pairs of str
        Such images.
    accuracy_without : float or None
        Test accuracy without the test images that have a near-duplicate.
    times_tested, reads, read_early : int, tuple of int, bool
        Starts of the test; how often the least and the most read test image was read (empty if unknown); whether a
        test image was read before the test.
    """

    frozen: int
    changed: tuple[str, ...]
    declared: int
    in_optimizer: int
    stray: tuple[str, ...]
    in_two_splits: int
    near_test: int
    near_val: int
    examples: tuple[tuple[str, str], ...]
    accuracy_without: float | None
    times_tested: int
    reads: tuple[int, ...]
    read_early: bool

    @property
    def freeze_holds(self) -> bool:
        """Whether the optimizer held exactly the declared parameters and everything else stayed bit for bit."""
        return not self.changed and not self.stray and self.declared == self.in_optimizer

    @property
    def split_holds(self) -> bool:
        """Whether no image is in two splits."""
        return self.in_two_splits == 0

    @property
    def test_holds(self) -> bool:
        """Whether each test image was read once, by the test."""
        return not self.read_early and self.reads == (1, 1)


def read_audit(fields: Fields) -> Audit:
    """Return the ``audit`` block. Raises `RunError` if it is damaged."""
    freeze, split, test = (f"audit.{name}." for name in ("freeze", "split", "test"))
    stray = (fields.take(freeze + name, kinds.TEXTS) for name in ("undeclared", "missing"))
    return Audit(
        frozen=fields.take(freeze + "frozen", kinds.COUNT),
        changed=tuple(fields.take(freeze + "changed", kinds.TEXTS)),
        declared=fields.take(freeze + "declared", kinds.COUNT),
        in_optimizer=fields.take(freeze + "in_optimizer", kinds.COUNT),
        stray=tuple(name for names in stray for name in names),
        in_two_splits=fields.take(split + "in_two_splits", kinds.COUNT),
        near_test=fields.take(split + "near_duplicates.test", kinds.COUNT),
        near_val=fields.take(split + "near_duplicates.val", kinds.COUNT),
        examples=tuple((first, second) for first, second in fields.take(split + "examples", kinds.PAIRS)),
        accuracy_without=fields.take(split + "test_without.top1_accuracy", kinds.FRACTION, None),
        times_tested=fields.take(test + "times_tested", kinds.POSITIVE),
        reads=tuple(fields.take(test + "reads_per_image", kinds.COUNTS, ())),
        read_early=fields.get(test + "read_before_testing") is not False,
    )
