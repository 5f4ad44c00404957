"""Which layers of a network make, pass on and read the same channels, found by running it once."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

KEEP_CHANNELS = {
    "constant_pad_nd",
    "max_pool2d_with_indices",
    "avg_pool2d",
    "_adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "mean",
    "view",
    "_unsafe_view",
    "clone",
    "detach",
    "as_strided_",  # of global pooling where channels come last
}
"""Operations, besides pointwise ones, each output channel of which depends on one input channel if the sizes agree."""


@dataclass(frozen=True)
class Layer:
    """What a convolution or a linear layer takes."""

    positions: int
    """Places of one image that it is applied at."""
    macs: int
    """Multiply-accumulates of one image."""


@dataclass
class Group:
    """Channels that exist inside a network alone, with the paths of the layers that know of them."""

    channels: int
    makers: list[str] = field(default_factory=list)
    """Convolutions and linear layers that give them, or give the weights that squeeze-and-excitation has for them."""
    followers: list[str] = field(default_factory=list)
    """Batch normalizations and depthwise convolutions in between."""
    readers: list[str] = field(default_factory=list)
    """Convolutions and linear layers that take them, in the order of their execution."""


@torch.no_grad()
def find_groups(network: nn.Module, input_size: int) -> tuple[list[Group], dict[str, Layer]]:
    """Return the groups of channels that can be removed without changing any other, and the layers of a network.

    Channels that are summed with others (residual streams), that an operation other than those known to keep channels
    apart sees, or that leave the network are not among them.

    Parameters
    ----------
    network : nn.Module
        In eval mode; it takes images of shape (B, 3, input_size, input_size).
    input_size : int

    Returns
    -------
    groups : list of Group
        In the order of their readers.
    layers : dict of str to Layer
        By path; batch normalizations are left out.
    """
    recorder = _Recorder()
    paths = {module: path for path, module in network.named_modules() if _is_layer(module)}
    with ExitStack() as hooks:
        for module, path in paths.items():
            hooks.enter_context(module.register_forward_pre_hook(recorder.enter))
            hooks.enter_context(
                module.register_forward_hook(lambda module, x, y, path=path: recorder.leave(path, module, x[0], y))
            )
        images = next(network.parameters()).new_zeros(2, 3, input_size, input_size)  # two: a view shows what is merged
        with recorder:
            recorder.block([network(images)])
    return recorder.groups(), recorder.layers


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d | nn.Linear | _BatchNorm)


class _Recorder(TorchDispatchMode):
    """Follows channels from tensor to tensor: each has a number, and numbers that belong together are joined."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layers: dict[str, Layer] = {}
        self._joined: list[int] = []
        self._sizes: list[int] = []
        self._blocked: list[int] = []
        self._roles: list[tuple[int, str, str]] = []
        self._tensors: dict[int, tuple[Tensor, int]] = {}  # the tensor is kept, lest another gets its id
        self._inside = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self._inside:
            taken = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.numel() > 1]
            given = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
            if given:
                self._pass_on(func, taken, given[0], args)
        return result

    def enter(self, *_: Any) -> None:
        self._inside = True

    def leave(self, path: str, layer: nn.Conv2d | nn.Linear | _BatchNorm, taken: Tensor, given: Tensor) -> None:
        """Note what a layer does with channels."""
        self._inside = False
        number = self._number(taken)
        groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
        keeps = isinstance(layer, _BatchNorm) or 1 < groups == layer.in_channels == layer.out_channels
        again = path in self.layers
        if not isinstance(layer, _BatchNorm):
            positions = given[0].numel() // layer.weight.shape[0]
            self.layers[path] = Layer(positions, positions * layer.weight.numel())
        if again or not (keeps or (groups == 1 and (isinstance(layer, nn.Conv2d) or given.ndim == 2))):
            self.block([taken])
            return
        if number is not None:
            self._roles.append((number, "followers" if keeps else "readers", path))
        if not keeps:
            number = len(self._joined)
            self._joined.append(number)
            self._sizes.append(given.shape[1])
            self._roles.append((number, "makers", path))
        if number is not None:
            self._tensors[id(given)] = (given, number)

    def block(self, tensors: Iterable[Tensor]) -> None:
        """Note that the channels of these tensors must stay."""
        self._blocked += [number for tensor in tensors if (number := self._number(tensor)) is not None]

    def groups(self) -> list[Group]:
        """Return what was found."""
        found: dict[int, Group] = {}
        order: list[int] = []
        for number, role, path in self._roles:
            root = self._root(number)
            getattr(found.setdefault(root, Group(self._sizes[root])), role).append(path)
            if role == "readers" and root not in order:
                order.append(root)
        blocked = set(map(self._root, self._blocked))
        return [found[root] for root in order if root not in blocked]

    def _pass_on(self, func: Any, taken: Sequence[Tensor], given: Tensor, args: Sequence[Any]) -> None:
        numbers = [self._number(tensor) for tensor in taken]
        known = [number for number in numbers if number is not None]
        if not known:
            return
        name = func.overloadpacket.__name__
        apart = torch.Tag.pointwise in func.tags or name in KEEP_CHANNELS
        several = len(taken) > 1 and not (name.startswith("mul") and len(known) == len(taken))
        if name == "mean" and (len(args) < 2 or {1, 1 - taken[0].ndim} & set(args[1])):
            apart = False
        if not apart or several or not all(_same_channels(tensor, given) for tensor in taken):
            self.block(taken)
            return
        for number in known:
            self._joined[self._root(number)] = self._root(known[0])
        self._tensors[id(given)] = (given, known[0])

    def _number(self, tensor: Tensor) -> int | None:
        return self._tensors[id(tensor)][1] if id(tensor) in self._tensors else None

    def _root(self, number: int) -> int:
        while self._joined[number] != number:
            number = self._joined[number]
        return number


def _same_channels(taken: Tensor, given: Tensor) -> bool:
    """Return whether two tensors have the same channels, or the second has them flattened."""
    if taken.ndim < 2 or given.ndim < 2 or len(taken) != len(given):
        return False
    flat = given.ndim == 2 and given.shape[1] == prod(taken.shape[1:])
    return flat or taken.shape[1] == given.shape[1]
