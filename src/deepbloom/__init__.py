"""DeepBloom: train, compare and explain image classifiers.

``recipe``, ``train``, ``load_model`` and ``predict`` are imported on first use: ``import deepbloom`` loads neither
torch nor hydra.
"""

from importlib import import_module

__version__ = "0.8.0"

_LAZY = {
    "load_model": "deepbloom.engine.checkpoint",
    "predict": "deepbloom.commands.predict",
    "recipe": "deepbloom.cli.compose",
    "train": "deepbloom.commands.train",
}
__all__ = ["__version__", "load_model", "predict", "recipe", "train"]


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'deepbloom' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
