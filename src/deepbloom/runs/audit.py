"""The audit of a run: frozen weights stayed, the splits are disjoint, the test ran once."""

from dataclasses import dataclass

from deepbloom.runs.parsing import COUNT, COUNTS, FLAG, FRACTION, PAIRS, POSITIVE, TEXTS, at


@dataclass(frozen=True)
class Audit:
    """The ``audit`` block of metrics.json."""

    frozen: int = at("audit.freeze.frozen", COUNT)
    """Number of frozen weights and buffers."""
    changed: tuple[str, ...] = at("audit.freeze.changed", TEXTS)
    """Those of them that changed."""
    declared: int = at("audit.freeze.declared", COUNT)
    """Number of parameters declared as trainable."""
    in_optimizer: int = at("audit.freeze.in_optimizer", COUNT)
    """Number of parameters in the optimizer."""
    undeclared: tuple[str, ...] = at("audit.freeze.undeclared", TEXTS)
    """Parameters that only the optimizer has."""
    missing: tuple[str, ...] = at("audit.freeze.missing", TEXTS)
    """Parameters that are declared and not in the optimizer."""
    in_two_splits: int = at("audit.split.in_two_splits", COUNT)
    """Number of images in two splits."""
    near_test: int = at("audit.split.near_duplicates.test", COUNT)
    """Number of test images with a near-duplicate in train or validation."""
    near_val: int = at("audit.split.near_duplicates.val", COUNT)
    """Number of validation images with a near-duplicate in train."""
    examples: tuple[tuple[str, str], ...] = at("audit.split.examples", PAIRS)
    """Pairs of near-duplicates."""
    accuracy_without: float | None = at("audit.split.test_without.top1_accuracy", FRACTION, None)
    """Test accuracy without the test images that have a near-duplicate."""
    times_tested: int = at("audit.test.times_tested", POSITIVE)
    """Starts of the test."""
    reads: tuple[int, ...] = at("audit.test.reads_per_image", COUNTS, ())
    """How often the least and the most read test image was read; empty if unknown."""
    read_early: bool = at("audit.test.read_before_testing", FLAG, True)
    """Whether a test image was read before the test."""

    @property
    def freeze_holds(self) -> bool:
        """Whether the optimizer held exactly the declared parameters and everything else stayed bit for bit."""
        return not (self.changed or self.undeclared or self.missing) and self.declared == self.in_optimizer

    @property
    def split_holds(self) -> bool:
        """Whether no image is in two splits."""
        return self.in_two_splits == 0

    @property
    def test_holds(self) -> bool:
        """Whether each test image was read once, by the test."""
        return not self.read_early and self.reads == (1, 1)
