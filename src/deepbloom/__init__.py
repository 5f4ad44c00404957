"""DeepBloom: train, compare and explain image classifiers.

``load_model`` and ``train`` are imported on first use, so that ``import deepbloom`` loads neither torch nor hydra.
"""

from importlib import import_module

__version__ = "0.1.0"

_LAZY = {"load_model": "deepbloom.engine.checkpoint", "train": "deepbloom.commands.train"}
__all__ = ["__version__", "load_model", "train"]


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'deepbloom' has no attribute {name!r}")
