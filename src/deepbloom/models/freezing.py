"""Which modules of a network train. Every other module keeps its weights and its BatchNorm statistics bit for bit."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import nn

from deepbloom.errors import ConfigError

if TYPE_CHECKING:
    from deepbloom.models.registry import ModelSpec


def freeze(model: nn.Module, trainable: Iterable[str]) -> None:
    """Let gradients reach the parameters of the modules at the paths ``trainable`` and no others.

    A frozen module behind a trained one passes gradients on.

    Parameters
    ----------
    model : nn.Module
    trainable : iterable of str
        Module paths such as ``layer4`` or ``features.6``; the empty path is the whole network.

    Raises
    ------
    ConfigError
        The network has no such module.
    """
    modules = _modules(model, trainable)
    model.requires_grad_(False)
    for module in modules:
        module.requires_grad_(True)


def train_mode(model: nn.Module, trainable: Iterable[str]) -> None:
    """Put the modules at the paths ``trainable`` into train mode and every other module into eval mode.

    ``requires_grad=False`` alone does not stop BatchNorm's running statistics or dropout, and ``model.train()`` would
    start them in frozen parts too: call this before each epoch instead.

    Raises
    ------
    ConfigError
        The network has no such module.
    """
    modules = _modules(model, trainable)
    model.eval()
    for module in modules:
        module.train()


def split_model(model: nn.Module, spec: "ModelSpec") -> tuple[nn.Sequential, nn.Sequential]:
    """Cut a network before its first stage that trains: ``tail(prefix(x))`` equals ``model(x)``.

    The output of ``prefix`` for a given input never changes in training, so it can be computed once. Both halves hold
    the network's own modules: training ``tail`` trains ``model``, and `train_mode` on ``model`` holds for ``tail``.

    Returns
    -------
    prefix : nn.Sequential
        The stages before the first that holds a parameter with ``requires_grad``; empty where that is the first.
    tail : nn.Sequential
        The rest.
    """
    stages = [stage for _, stage in spec.stages(model)]
    trains = (any(parameter.requires_grad for parameter in stage.parameters()) for stage in stages)
    cut = next((index for index, found in enumerate(trains) if found), len(stages))
    return nn.Sequential(*stages[:cut]), nn.Sequential(*stages[cut:])


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Return how many numbers a network learned (``total``) and how many of them train (``trainable``)."""
    parameters = list(model.parameters())
    return {
        "total": sum(parameter.numel() for parameter in parameters),
        "trainable": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
    }


def _modules(model: nn.Module, paths: Iterable[str]) -> list[nn.Module]:
    modules = []
    for path in paths:
        try:
            modules.append(model.get_submodule(path))
        except AttributeError:
            known = ", ".join(name for name, _ in model.named_children())
            raise ConfigError(
                f"The network has no module {path!r}. Give the path of one of its modules; at the top are: {known}."
            ) from None
    return modules
