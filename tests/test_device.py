"""What the machine tells of itself."""

import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from deepbloom import device

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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
@pytest.mark.parametrize("shared", [True, False])
def test_threads_keep_freed_memory_if_it_is_shared(shared: bool) -> None:
    code = (
        "import resource, sys, threading; from deepbloom.device import share_freed_memory, use_cores\n"
        "use_cores(); sys.argv[1] == 'True' and share_freed_memory()\n"
        "def count():\n"
        "    for _ in range(5):\n"
        "        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "        both = [b'1' * count for count in (50_000_000, 60_000_000)]; del both\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
        "thread = threading.Thread(target=count); thread.start(); thread.join()"
    )
    done = subprocess.run([sys.executable, "-c", code, str(shared)], capture_output=True, text=True, check=True)
    assert (int(done.stdout) < 1000) == shared  # 110 MB are 26,855 pages of 4 KiB


@pytest.mark.parametrize(
    ("cpuinfo", "sets"),
    [
        ("flags\t\t: fpu sse2 avx avx2 fma", ["AVX2"]),
        ("flags\t\t: avx2 avx512f avx512_bf16 avx512_vnni", ["AVX2", "AVX-512", "VNNI", "bf16"]),
        ("flags\t\t: avx2 avx_vnni", ["AVX2", "VNNI"]),
        ("flags\t\t: avx2 avx512f avx512_vnni amx_tile amx_bf16", ["AVX2", "AVX-512", "VNNI", "bf16", "AMX"]),
        ("Features\t: fp asimd asimddp bf16", ["bf16", "NEON", "dot product"]),
        ("flags\t\t: avx2x xavx512f", []),
        ("", []),
    ],
)
def test_the_name_of_a_processor_says_its_instruction_sets(
    cpuinfo: str, sets: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = tmp_path / "cpuinfo"
    written.write_text(f"processor\t: 0\nmodel name\t: A Processor\n{cpuinfo}\n")
    monkeypatch.setattr(device, "CPUINFO", written)
    assert device.instruction_sets() == sets
    assert device.has_vnni() == ("VNNI" in sets)
    assert device.device_name(CPU) == (f"A Processor ({', '.join(sets)})" if sets else "A Processor")


def test_a_system_that_tells_nothing_of_its_processor_has_no_instruction_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "CPUINFO", tmp_path / "absent")
    assert device.instruction_sets() == []
    assert not device.has_vnni()
    assert device.device_name(CPU)
