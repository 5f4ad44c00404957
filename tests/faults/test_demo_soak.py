"""Many uploads: every answer is that of predict, and memory does not grow."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from demo_page import Page, picture_bytes

AT_ONCE = 8
PICTURES = 20
GROWTH_BYTES = 48_000_000


def memory_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("uploads", [60, pytest.param(1000, marks=[pytest.mark.long, pytest.mark.timeout(900)])])
def test_uploads_are_answered_as_by_predict_without_growth(
    page: Page, deepbloom, tmp_path: Path, uploads: int, tally
) -> None:
    for number in range(PICTURES):
        (tmp_path / f"{number:03d}.png").write_bytes(picture_bytes(number))
    expected = []
    for place, checkpoint in enumerate(page.checkpoints):
        folder = tmp_path / f"out{place}"
        arguments = (f"ckpt={checkpoint}", f"image={tmp_path}", f"output_dir={folder}", "batch_size=1")
        code, _, messages = deepbloom("predict", *arguments)
        assert code == 0, messages
        expected.append([row["top5"] for row in json.loads((folder / "predictions.json").read_text())])
    assert expected[0][0] != expected[0][1]

    def upload(number: int) -> list:
        return [network["top5"] for network in page.answer(picture_bytes(number % PICTURES))["networks"]]

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(upload, range(40)))  # what is set aside once is no growth
        before, handles = memory_bytes(), len(os.listdir("/proc/self/fd"))
        answers = list(pool.map(upload, range(uploads)))
    grown = memory_bytes() - before
    assert answers == [[network[number % PICTURES] for network in expected] for number in range(uploads)]
    assert grown < GROWTH_BYTES
    assert len(os.listdir("/proc/self/fd")) <= handles + AT_ONCE
    tally("uploads to the demo answered as by predict", uploads)
