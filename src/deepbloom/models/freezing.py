"""Which modules of a network train. Every other module keeps its weights and its BatchNorm statistics bit for bit."""

import re
from collections.abc import Iterable, Sequence

from torch import nn

from deepbloom.errors import ConfigError, unknown

LARGE_SHARE = 3 / 4
"""A container with more than this share of a network's parameter tensors counts by its own children."""


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
    modules = [find_module(model, path) for path in trainable]
    model.requires_grad_(False)
    for module in modules:
        module.requires_grad_(True)


def train_mode(model: nn.Module, trainable: Iterable[str]) -> None:
    """Put the modules at the paths ``trainable`` into train mode and every other module into eval mode.

    ``requires_grad=False`` alone does not stop BatchNorm's running statistics or dropout, and ``model.train()`` would
    start them in frozen modules too: call this before each epoch instead.

    Raises
    ------
    ConfigError
        The network has no such module.
    """
    modules = [find_module(model, path) for path in trainable]
    model.eval()
    for module in modules:
        module.train()


def resolve_trainable(model: nn.Module, head: Sequence[str], trainable: Iterable[str]) -> tuple[str, ...]:
    """Return the module paths that the names in ``trainable`` stand for, in the network's order, none inside another.

    Parameters
    ----------
    model : nn.Module
    head : sequence of str
        Paths of the classifier.
    trainable : iterable of str
        Each a module path, ``head``, ``last:N`` (the classifier and the last N of `blocks`) or ``all``.

    Returns
    -------
    tuple of str
        ``("",)``, the whole network, where every parameter trains. Resolving the paths again gives the same.

    Raises
    ------
    ConfigError
        There is no such module, it has no parameters, or the network has fewer than N blocks.
    """
    wanted: set[str] = set()
    for name in trainable:
        if name == "all":
            return ("",)
        if name == "head":
            wanted.update(head)
        elif re.fullmatch(r"last:\d+", name):
            wanted.update(_last(model, head, int(name[5:])))
        elif next(find_module(model, name).parameters(), None) is None:
            raise ConfigError(f"model.trainable: the module {name!r} has no parameters to train.")
        else:
            wanted.add(name)
    if not wanted:
        raise ConfigError("model.trainable is empty: give module paths, head, last:N or all.")
    if all(covers(wanted, name) for name, _ in model.named_parameters()):
        return ("",)
    return tuple(path for path, _ in model.named_modules() if path in wanted and not covers(wanted - {path}, path))


def blocks(model: nn.Module, head: Sequence[str]) -> list[list[str]]:
    """Return the paths of a network's blocks in the order of their definition, without the classifier.

    Blocks are the network's children; a container that holds more than three quarters of the parameter tensors (the
    ``features`` of an EfficientNet, the ``blocks`` of a transformer) counts by its own children. What holds only
    vectors, such as a normalization layer, belongs to the block before it.
    """
    found: list[list[str]] = []
    for path in _open(model, "", len(list(model.parameters()))):
        parameters = list(model.get_submodule(path).parameters())
        if _holds_head(path, head) or not parameters:
            continue
        if found and all(parameter.ndim < 2 for parameter in parameters):
            found[-1].append(path)
        else:
            found.append([path])
    return found


def trained_depths(model: nn.Module, head: Sequence[str]) -> dict[str, int]:
    """Return how many of a network's trained `blocks` lie from the classifier to each parameter that trains.

    0 for the classifier and what stands beside it, 1 for the last block, 2 for the one before it, and so on; blocks
    that are frozen as a whole do not count.
    """
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    depths = dict.fromkeys(trained, 0)
    depth = 0
    for block in reversed(blocks(model, head)):
        inside = [name for name in trained if covers(block, name)]
        depth += bool(inside)
        depths |= dict.fromkeys(inside, depth)
    return depths


def covers(paths: Iterable[str], name: str) -> bool:
    """Return whether a module or parameter is, or lies inside, a module at one of ``paths``."""
    return any(path in ("", name) or name.startswith(f"{path}.") for path in paths)


def find_module(model: nn.Module, path: str) -> nn.Module:
    """Return the module at a path.

    Raises
    ------
    ConfigError
        The network has no such module.
    """
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if path not in modules:
        inside = next((outer for outer in _outer_paths(path) if outer in modules), "")
        children = [f"{inside}.{name}".lstrip(".") for name, _ in modules[inside].named_children()]
        raise ConfigError(unknown("module", path, children))
    return modules[path]


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Return the number of a network's parameters (``total``) and of those that train (``trainable``)."""
    parameters = list(model.parameters())
    return {
        "total": sum(parameter.numel() for parameter in parameters),
        "trainable": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
    }


def _last(model: nn.Module, head: Sequence[str], count: int) -> list[str]:
    found = blocks(model, head)
    if not 1 <= count <= len(found):
        raise ConfigError(f"model.trainable=last:{count}: this network has {len(found)} blocks; give last:1 or more.")
    paths = [path for block in found[-count:] for path in block]
    for path in _open(model, "", len(list(model.parameters()))):
        if path in head:
            paths.append(path)
        elif _holds_head(path, head):  # with the classifier, the normalization in front of it
            children = model.get_submodule(path).named_children()
            paths += [f"{path}.{name}" for name, child in children if any(True for _ in child.parameters())]
    return paths


def _holds_head(path: str, head: Sequence[str]) -> bool:
    return covers(head, path) or any(covers([path], classifier) for classifier in head)


def _open(module: nn.Module, path: str, total: int) -> Iterable[str]:
    """Yield the paths of a module's children; those of a large container instead of the container."""
    for name, child in module.named_children():
        inner = f"{path}.{name}".lstrip(".")
        is_container = isinstance(child, nn.Sequential | nn.ModuleList)
        if is_container and len(list(child.parameters())) > LARGE_SHARE * total:
            yield from _open(child, inner, total)
        else:
            yield inner


def _outer_paths(path: str) -> Iterable[str]:
    while "." in path:
        path = path.rpartition(".")[0]
        yield path
