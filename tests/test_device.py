"""What the machine tells of itself."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

CPU = torch.device("cpu")
MEASURE = """
import resource
import torch
from deepbloom.device import peak_memory_bytes
print(peak_memory_bytes(torch.device("cpu")), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
LINUX = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")


@LINUX
def test_the_peak_memory_is_not_that_of_the_process_that_started_this_one() -> None:
    before = np.ones(1_500_000_000, np.uint8)
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    own, inherited = map(int, done.stdout.split())
    assert own < len(before) < inherited  # the figure of getrusage is the control


@LINUX
def test_the_peak_memory_counts_from_the_start_of_the_run() -> None:
    """In a process of its own: this one may keep freed memory, and then a new array takes no more."""
    code = (
        "import numpy as np, torch; from deepbloom.device import peak_memory_bytes, reset_peak_memory\n"
        "cpu = torch.device('cpu'); np.ones(500_000_000, np.uint8); reset_peak_memory(cpu)\n"
        "base = peak_memory_bytes(cpu); np.ones(300_000_000, np.uint8); print(peak_memory_bytes(cpu) - base)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 290_000_000 < int(done.stdout) < 400_000_000
