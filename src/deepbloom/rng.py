"""Random streams as functions of their place: nothing to save, nothing that depends on workers or restarts.

Every random decision is drawn from a stream named by (seed, purpose, epoch, step). A run that is stopped and
continued therefore draws the same numbers as one that is not.
"""

import hashlib

import numpy as np
import PIL
import torch


def derive_seed(seed: int, *place: str | int) -> int:
    """Return a 63-bit seed for the stream at ``place``, e.g. ``derive_seed(seed, "dropout", epoch, step)``."""
    text = "/".join(map(str, (seed, *place)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *place: str | int) -> torch.Generator:
    """Return a CPU generator for the stream at ``place``."""
    return torch.Generator().manual_seed(derive_seed(seed, *place))


def environment(device: torch.device) -> dict[str, str | int]:
    """Return what the last bits of a result depend on besides the settings."""
    return {
        "device": device.type,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "num_threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def seed_everything(seed: int, *place: str | int) -> None:
    """Set torch's global generators (CPU and CUDA) to the stream at ``place``."""
    torch.manual_seed(derive_seed(seed, *place))
