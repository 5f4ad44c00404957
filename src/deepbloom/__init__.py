"""DeepBloom: train, compare and explain image classifiers.

``recipe``, ``train`` and ``load_model`` are imported on first use: ``import deepbloom`` loads neither torch nor hydra.
"""

from importlib import import_module

__version__ = "0.2.0"

_LAZY = {
    "load_model": "deepbloom.engine.checkpoint",
    "recipe": "deepbloom.cli.compose",
    "train": "deepbloom.commands.train",
}
__all__ = ["__version__", "load_model", "recipe", "train"]


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'deepbloom' has no attribute {name!r}")
