"""Cutting a network in two in front of its first trainable parameter, for the feature cache.

``cut(model, trainable, example)`` gives ``prefix`` and ``tail`` with ``tail(prefix(x))`` equal to ``model(x)``, bit for
bit. The prefix's output for an image never changes in training, so it can be computed once. Both halves hold the
network's own modules: training the tail trains the network, and `deepbloom.models.freezing.train_mode` on the network
holds for both.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn

from deepbloom.models.freezing import covers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cut:
    """The two halves of a network."""

    prefix: nn.Module
    """From images (B, 3, H, W) to features (B, ...); nothing in it trains or is random."""
    tail: fx.GraphModule
    """From features to logits (B, C)."""

    def tail_of(self, model: nn.Module) -> nn.Module:
        """Return the tail of a copy of the network, such as its averaged weights."""
        return fx.GraphModule(model, self.tail.graph)


def cut(model: nn.Module, trainable: Sequence[str], example: Tensor) -> Cut | None:
    """Cut a network at the latest point that a single tensor crosses and before which nothing trains.

    Only modules that train, and those around them, are traced (``torch.fx``); all others are called as they are.

    Parameters
    ----------
    model : nn.Module
    trainable : sequence of str
        Paths of the modules that train.
    example : Tensor, shape (B, 3, H, W)
        Images to try the halves with.

    Returns
    -------
    Cut or None
        None where the network cannot be traced, or where no module with parameters lies before such a point.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        for inside in (True, False):  # a trained module whose inside cannot be traced stays whole
            try:
                graph = _Tracer(trainable, inside).trace(model)
                return _cut_graph(model, graph, trainable, example)
            except Exception as error:  # whatever tracing leads a network's code to
                log.debug("cannot trace %s: %s", type(model).__name__, error)
        return None
    finally:
        for module, mode in modes.items():
            module.training = mode


class _Tracer(fx.Tracer):
    """Traces modules that contain trained ones; where ``inside``, trained ones too. All others are called whole."""

    def __init__(self, trainable: Sequence[str], inside: bool) -> None:
        super().__init__()
        self._trainable, self._inside = trainable, inside

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if not covers(self._trainable, module_qualified_name):
            return not any(covers([module_qualified_name], path) for path in self._trainable)
        # Tracing would fix the mode that a module reads, and the mode of trained modules changes.
        return not self._inside or not list(m.children()) or _reads_mode(m)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """Give the forward pass images alone: its other arguments keep their defaults."""
        return root_fn, [self.root, self.create_proxy("placeholder", "images", (), {})]


def _cut_graph(model: nn.Module, graph: fx.Graph, trainable: Sequence[str], example: Tensor) -> Cut | None:
    nodes = list(graph.nodes)
    place = {node: index for index, node in enumerate(nodes)}
    last_use = [max((place[user] for user in node.users), default=-1) for node in nodes]
    first = next((index for index, node in enumerate(nodes) if _trains(model, node, trainable)), len(nodes) - 1)
    with torch.no_grad():
        for end in range(first, 0, -1):
            crossing = [node for node, last in zip(nodes[:end], last_use, strict=False) if last >= end]
            crossing = [node for node in crossing if node.op != "get_attr"]  # both halves hold what they need of these
            if len(crossing) != 1:
                continue
            if not any(_has_parameters(model, node) for node in nodes[:end]):
                return None
            prefix = fx.GraphModule(model, _copy(nodes[:end], crossing[0]))
            features = prefix(example)
            if not isinstance(features, Tensor) or not features.is_floating_point() or len(features) != len(example):
                continue
            tail = fx.GraphModule(model, _copy(nodes[end:], None, crossing[0]))
            if not torch.equal(tail(features), model(example)):
                raise RuntimeError("the traced network computes something else")
            return Cut(prefix, tail)
    return None


def _copy(nodes: list[fx.Node], result: fx.Node | None, given: fx.Node | None = None) -> fx.Graph:
    """Return a graph of these nodes, which takes the value of ``given`` and returns that of ``result``."""
    graph = fx.Graph()
    copies = {given: graph.placeholder("features")} if given else {}

    def copy(node: fx.Node) -> fx.Node:
        if node not in copies:
            copies[node] = graph.node_copy(node)
        return copies[node]

    for node in nodes:
        if node.op != "get_attr":  # a parameter is read where it is used
            copies[node] = graph.node_copy(node, copy)
    if result:
        graph.output(copies[result])
    return graph


def _trains(model: nn.Module, node: fx.Node, trainable: Sequence[str]) -> bool:
    """Return whether a node's value may differ from one training step to the next, given equal inputs."""
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        if any(parameter.requires_grad for parameter in module.parameters()):
            return True
        return covers(trainable, str(node.target)) and any(map(_reads_mode, module.modules()))
    return any(
        isinstance(value := _attribute(model, source), Tensor) and value.requires_grad
        for source in node.all_input_nodes
        if source.op == "get_attr"
    )


def _has_parameters(model: nn.Module, node: fx.Node) -> bool:
    return node.op == "call_module" and any(True for _ in model.get_submodule(str(node.target)).parameters())


def _attribute(model: nn.Module, node: fx.Node) -> Any:
    return attrgetter(str(node.target))(model)


def _reads_mode(module: nn.Module) -> bool:
    """Return whether a method of the module reads ``self.training``, as dropout and normalization do."""
    functions = (
        value
        for kind in type(module).__mro__
        if kind is not nn.Module
        for value in vars(kind).values()
        if isinstance(value, FunctionType)
    )
    return any("training" in function.__code__.co_names for function in functions)
