"""Seconds of all attempts at a run."""

from pathlib import Path

import pytest

from deepbloom.runs.folder import ELAPSED
from deepbloom.runs.stopwatch import Stopwatch


def test_attempts_add_up(tmp_path: Path) -> None:
    (tmp_path / ELAPSED).write_text("1000.5")
    for _ in range(2):
        watch = Stopwatch()
        with watch.kept(tmp_path):
            assert watch.seconds >= 1000.5
    assert float((tmp_path / ELAPSED).read_text()) >= 1000.5


@pytest.mark.parametrize("content", ["", "x", "-1000", "\0", None])
def test_a_damaged_record_counts_as_none(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / ELAPSED).write_text(content)
    watch = Stopwatch()
    with watch.kept(tmp_path):
        assert watch.seconds >= 0
