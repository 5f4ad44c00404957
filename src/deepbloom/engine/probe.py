"""The linear probe: the classifier is fitted to the features of the starting weights before anything is fine-tuned.

A new classifier sends large, random gradients into pretrained modules, which distorts what they have learned. Fitted
first, it does not (Kumar et al. 2022, https://arxiv.org/abs/2202.10054).
"""

import logging
import math
import time
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepbloom.engine.distributed import Group
from deepbloom.engine.evaluate import Batches, last_layer, predict_logits, record_inputs
from deepbloom.engine.loss import cross_entropy
from deepbloom.engine.plan import Plan
from deepbloom.errors import ConfigError
from deepbloom.models.registry import get_architecture

log = logging.getLogger("deepbloom")

PENALTIES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4)
"""Weights of the squared norm, strongest first: one after the other, as long as the validation loss falls."""
ITERATIONS = 100
"""Most steps of L-BFGS for each of them."""


@dataclass(frozen=True)
class Linear:
    """A linear classifier of features: its weight (C, F), its bias (C,) and the penalty that it was fitted with."""

    weight: Tensor
    bias: Tensor
    penalty: float

    def __call__(self, features: Tensor) -> Tensor:
        return F.linear(features, self.weight, self.bias)


def fit_classifier(
    plan: Plan, model: nn.Module, network: nn.Module, train: Batches, validation: Batches, group: Group
) -> dict[str, float]:
    """Fit the last layer of ``model`` to its features; nothing else changes.

    Parameters
    ----------
    plan : Plan
    model : nn.Module
    network : nn.Module
        Maps the inputs of the batches to logits with the modules of ``model``.
    train, validation : iterable of (inputs, targets)
    group : Group
        Its processes see a part of ``train`` each, and fit to all of it.

    Returns
    -------
    dict
        ``penalty``, ``val_accuracy``, ``val_loss`` and ``seconds``.

    Raises
    ------
    ConfigError
        The classifier is not linear in one vector of features.
    """
    started = time.perf_counter()
    layers = [last_layer(model.get_submodule(path)) for path in get_architecture(plan.config.model.arch).head]
    train_features, train_targets = _features(plan, network, layers, train, group)
    val_features, val_targets = _features(plan, network, layers, validation, Group())
    smoothing, weights = plan.config.train.label_smoothing, plan.class_weights
    for layer, features, held_out in zip(layers, train_features, val_features, strict=True):
        weight, bias = layer.get_parameter("weight"), dict(layer.named_parameters()).get("bias")
        if weight[0].numel() != features.shape[1]:
            raise ConfigError(
                f"train.probe=true: the classifier of {plan.config.model.arch} does not take one vector of features. "
                "Leave it out."
            )
        num_classes = len(plan.source.class_names)
        fitted = choose_fit(features, train_targets, held_out, val_targets, num_classes, smoothing, weights)
        with torch.no_grad():
            weight.copy_(fitted.weight.view_as(weight))
            if bias is not None:
                bias.copy_(fitted.bias)
    logits = fitted(held_out)
    scores = {
        "penalty": fitted.penalty,
        "val_accuracy": float((logits.argmax(1) == val_targets).float().mean()),
        "val_loss": float(F.cross_entropy(logits, val_targets)),
        "seconds": time.perf_counter() - started,
    }
    log.info("linear probe: val loss %(val_loss).3f accuracy %(val_accuracy).3f, %(seconds).0f s", scores)
    return scores


def choose_fit(
    features: Tensor,
    targets: Tensor,
    val_features: Tensor,
    val_targets: Tensor,
    num_classes: int,
    smoothing: float,
    weights: Tensor | None = None,
) -> Linear:
    """Return the fit with the penalty, of `PENALTIES`, from which on the loss on the validation features rises."""
    best, lowest = None, math.inf
    for penalty in PENALTIES:
        fitted = fit(features, targets, num_classes, penalty, smoothing, best, weights)
        loss = float(F.cross_entropy(fitted(val_features), val_targets))
        if best is not None and loss >= lowest:
            return best
        best, lowest = fitted, loss
    assert best is not None
    return best


def fit(
    features: Tensor,
    targets: Tensor,
    num_classes: int,
    penalty: float,
    smoothing: float,
    start: Linear | None = None,
    weights: Tensor | None = None,
) -> Linear:
    """Fit a multinomial logistic regression with L-BFGS.

    The loss is the mean cross-entropy with label smoothing, plus ``penalty`` / 2 times the squared norm of the weights
    of features that are centered and scaled to a root mean square of one: a penalty means the same for any network.
    The bias is not penalized.

    Parameters
    ----------
    features : float32 Tensor of shape (N, F)
    targets : int64 Tensor of shape (N,)
    num_classes : int
    penalty : float
    smoothing : float
        In [0, 1).
    start : Linear, optional
        A fit to start from; otherwise zeros.
    weights : float32 Tensor of shape (C,), optional
        Of classes in the loss.
    """
    mean = features.mean(0)
    centered = features - mean
    scale = centered.square().mean().sqrt().clamp_min(torch.finfo(features.dtype).tiny)
    centered = centered / scale
    weight = torch.zeros(num_classes, features.shape[1], device=features.device)
    bias = torch.zeros(num_classes, device=features.device)
    if start is not None:
        weight, bias = start.weight * scale, start(mean)
    weight.requires_grad_(True)
    bias.requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=ITERATIONS, tolerance_grad=1e-5, tolerance_change=1e-6, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = cross_entropy(F.linear(centered, weight, bias), targets, smoothing, weights)
        value = value + penalty / 2 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    weight, bias = weight.detach() / scale, bias.detach()
    return Linear(weight, bias - weight @ mean, penalty)


def _features(
    plan: Plan, network: nn.Module, layers: list[nn.Module], batches: Batches, group: Group
) -> tuple[list[Tensor], Tensor]:
    """Return the inputs (N, F) of each layer and the targets (N,), of all processes of the group."""
    with ExitStack() as hooks:
        found = [hooks.enter_context(record_inputs(layer)) for layer in layers]
        _, targets = predict_logits(network, batches, plan.device, plan.precision)
    features = [group.gather(torch.cat(inputs)).to(plan.device) for inputs in found]
    return features, group.gather(torch.from_numpy(targets)).to(plan.device)
