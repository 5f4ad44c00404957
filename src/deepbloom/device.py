"""The machine: which device, how many cores are available, how much memory was used."""

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from deepbloom.errors import ConfigError

if TYPE_CHECKING:  # an exported file is used without torch
    import torch

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h
GLIBC_TRIM_THRESHOLD, GLIBC_MMAP_MAX = 128 * 1024, 65536  # its defaults
CPUINFO = Path("/proc/cpuinfo")
INSTRUCTION_SETS = {
    "AVX2": {"avx2"},
    "AVX-512": {"avx512f"},
    "VNNI": {"avx512_vnni", "avx_vnni"},
    "bf16": {"avx512_bf16", "amx_bf16", "bf16"},
    "AMX": {"amx_tile"},
    "NEON": {"asimd"},
    "dot product": {"asimddp"},
}
"""Of x86 and ARM processors: the names of those that decide how fast a network is, and Linux's flags for them."""


def use_cores(count: int = 0) -> None:
    """Let CPU arithmetic take ``count`` threads, or one per available core where it is 0, and keep freed memory.

    glibc gives every freed array of more than 32 MB back to the system, and the next one is cleared page by page:
    half of the time of an EfficientNet's forward pass. Where the C library is another one, nothing is changed.
    """
    import torch

    torch.set_num_threads(count or available_cores())
    _set_malloc({M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1})


def share_freed_memory() -> None:
    """Let threads take memory from one pool. Call it before the first one starts: glibc reads the setting only once.

    glibc gives each thread a pool of its own, of which freed parts go back to the system whatever `use_cores` says: a
    quarter of the time of an EfficientNet's forward pass. Where the C library is another one, nothing is changed.
    """
    _set_malloc({M_ARENA_MAX: 1})


def _set_malloc(options: dict[int, int]) -> None:
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for option, value in options.items():
            libc.mallopt(option, value)


@contextmanager
def left_as_found(device: "torch.device") -> Iterator[None]:
    """Give the caller back its threads, glibc's usual treatment of freed memory and torch's random streams."""
    import torch

    threads = torch.get_num_threads()
    try:
        with torch.random.fork_rng([torch.cuda.current_device()] if device.type == "cuda" else []):
            yield
    finally:
        torch.set_num_threads(threads)
        _set_malloc({M_MMAP_MAX: GLIBC_MMAP_MAX, M_TRIM_THRESHOLD: GLIBC_TRIM_THRESHOLD})


def choose_device(name: str) -> "torch.device":
    """Return the device for ``auto``, ``cpu``, ``cuda`` or ``mps``; ``auto`` takes CUDA where available.

    Raises
    ------
    ConfigError
        The requested device is not available.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("train.device=cuda, but torch finds no CUDA device here. Use train.device=cpu or auto.")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("train.device=mps, but torch finds no Apple GPU here. Use train.device=cpu or auto.")
    return torch.device(name)


def _container_cores() -> float:
    """Return the CPU quota of a Linux container in cores (cgroup v2, then v1), infinity where there is none."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text("ascii").split()
        return float("inf") if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        quota_us = int(Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text("ascii"))
        period_us = int(Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text("ascii"))
        return quota_us / period_us if quota_us > 0 else float("inf")
    except (OSError, ValueError):
        return float("inf")


def available_cores() -> int:
    """Return the cores that this process may use: affinity and container limits count."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return max(1, int(min(affinity, _container_cores())))


def has_vnni() -> bool:
    """Return whether the processor multiplies 8-bit integers without overflow; False where the system does not tell."""
    return "VNNI" in instruction_sets()


def instruction_sets() -> list[str]:
    """Return those of `INSTRUCTION_SETS` that the processor has; none where the system does not tell."""
    flags = set((_processor("flags") or _processor("Features")).split())
    return [name for name, any_of in INSTRUCTION_SETS.items() if flags & any_of]


def _processor(field: str) -> str:
    """Return what Linux says of the first core; empty elsewhere."""
    try:
        lines = CPUINFO.read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == field), "")


def device_name(device: "torch.device") -> str:
    """Return a readable name of the GPU, or of the processor with its instruction sets: times depend on these."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name, sets = _processor("model name") or platform.processor() or platform.machine(), instruction_sets()
    return f"{name} ({', '.join(sets)})" if sets else name


def reset_peak_memory(device: "torch.device") -> None:
    """Let `peak_memory_bytes` count from now on, as far as the system allows it."""
    import torch

    with suppress(OSError):
        Path("/proc/self/clear_refs").write_bytes(b"5")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes(device: "torch.device | None" = None) -> int | None:
    """Return the most memory that this process has used, in bytes; None where the system does not tell.

    On a CPU this is resident memory, including mapped files in use; on a CUDA device, what torch allocated there.
    Without a device it is that of the CPU.
    """
    if device is not None and device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    with suppress(OSError):  # Linux, where the figure that resource gives may be that of the parent process
        for line in Path("/proc/self/status").read_text("ascii", "replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def synchronize(device: "torch.device") -> None:
    """Wait until the device has finished its work; does nothing on a CPU."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
