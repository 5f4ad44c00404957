"""Steps that take long say how far they are: a bar in a terminal, lines elsewhere."""

import io
import logging
import sys

import pytest

from deepbloom import progress
from deepbloom.progress import ProgressBar, describe


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_where_there_is_no_terminal_a_long_step_logs_lines_and_a_short_one_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "deepbloom")
    list(ProgressBar(range(50), "Decoding images", unit="image"))
    assert caplog.messages == []
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    list(ProgressBar(range(50), "Decoding images", unit="image"))
    assert caplog.messages[10].startswith("Decoding images: 11 of 50 images")
    list(ProgressBar(range(50), "Comparing images"))
    assert caplog.messages[-1].startswith("Comparing images: 50 of 50 steps")
    assert not any("\r" in line for line in caplog.messages)


def test_a_terminal_shows_a_bar_that_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    caplog.set_level(logging.INFO, "deepbloom")
    with ProgressBar(total=4, desc="epoch 1/2", unit="step", mininterval=0) as bar:
        bar.set_postfix_str("loss 0.500", refresh=False)
        bar.update(2)
        bar.refresh()
    assert "epoch 1/2" in terminal.getvalue()
    assert "2/4" in terminal.getvalue()
    assert "loss 0.500" in terminal.getvalue()
    assert caplog.messages == []


def test_a_line_says_how_much_is_done_and_left() -> None:
    state = {"n": 120, "initial": 0, "total": 400, "elapsed": 30.0, "rate": None, "prefix": "epoch 3/20"}
    assert describe(state | {"unit": "step", "postfix": "loss 1.250"}) == (
        "epoch 3/20: 120 of 400 steps, loss 1.250, 01:10 left"
    )
    assert describe(state | {"unit": "image", "postfix": "", "total": None}) == "epoch 3/20: 120 images"
