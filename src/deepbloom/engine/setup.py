"""From settings and images to a job: the frozen part computed, the precision chosen."""

import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deepbloom.config.settings import RunConfig
from deepbloom.data.augment import changes_labels
from deepbloom.data.batches import ImageBatches, evaluation_batches
from deepbloom.data.cache_folder import cache_folder
from deepbloom.data.dataset import PreparedData
from deepbloom.data.resolution import CopySchedule, train_resolutions
from deepbloom.engine import feature_cache
from deepbloom.engine.distributed import Group
from deepbloom.engine.evaluate import EVALUATION_BATCH
from deepbloom.engine.job import Batches, Job
from deepbloom.engine.precision import choose_training_precision
from deepbloom.engine.state import Progress
from deepbloom.models.cutting import cut
from deepbloom.models.freezing import train_mode
from deepbloom.models.registry import get_architecture, resolved_trainable
from deepbloom.signals import StopRequest

log = logging.getLogger("deepbloom")

MIN_STEPS_TO_MEASURE = 100
"""Shorter runs take fp32: measuring would cost more than it gains."""


def prepare_job(
    config: RunConfig,
    model: nn.Module,
    data: PreparedData,
    folder: Path,
    device: torch.device,
    group: Group,
    stop: StopRequest,
    header: dict[str, Any],
    progress: Progress,
) -> Job:
    """Compute the frozen part where that pays, choose the precision, and put the job together.

    What was chosen when the run began is kept when it goes on.
    """
    architecture, split, choices = get_architecture(config.model.arch), data.split, progress.choices
    trainable = resolved_trainable(config.model.arch, tuple(config.model.trainable))
    epochs = config.train.epochs
    schedule = CopySchedule(epochs, train_resolutions(config.augment, architecture.preprocessing.size, epochs))
    if schedule.resolutions != (architecture.preprocessing.size,):
        log.info(schedule.describe())
    images = ImageBatches(
        data.pixels,
        split.train,
        data.source.targets,
        architecture.preprocessing,
        config.augment,
        config.seed,
        config.train.batch_size,
        device,
        schedule,
        share=group.share,
    )
    folder_of_activations = cache_folder() / "frozen_part"
    halves = None
    if config.train.feature_cache != "off" and "" not in trainable and not changes_labels(config.augment):
        halves = cut(model, trainable, images.inputs(images.indices[:1], schedule.copy(epochs)))
        if halves is None:
            log.info("the features of the frozen modules are not cached: the network cannot be cut behind them")
    prefix = halves.prefix if halves else nn.Identity()
    train_mode(model, trainable)
    if "views" not in choices:
        plan = group.agree(lambda: feature_cache.plan(prefix, images, len(split.val), config, folder_of_activations))
        choices |= {"views": plan.views, "prefix_precision": plan.precision}
    plan = feature_cache.Plan(choices["views"], choices["prefix_precision"])
    batches: Batches = images
    validation = partial(
        evaluation_batches, data.pixels, split.val, data.source.targets, architecture.preprocessing, EVALUATION_BATCH
    )
    as_network: Callable[[nn.Module], nn.Module] = _whole
    if plan.views and halves:
        started = time.perf_counter()
        batches, val = feature_cache.compute(prefix, images, split.val, plan, folder_of_activations, group)
        progress.prefix_seconds += time.perf_counter() - started
        val_targets = torch.from_numpy(data.source.targets[split.val])
        validation = partial(feature_cache.validation_batches, val, val_targets, EVALUATION_BATCH)
        as_network = halves.tail_of
    if "precision" not in choices:
        choices["precision"] = group.agree(lambda: _choose_precision(config, as_network(model), batches))
    return Job(
        model, architecture, trainable, config, batches, validation, as_network, header, folder, device, group, stop
    )


def _whole(model: nn.Module) -> nn.Module:
    return model


def _choose_precision(config: RunConfig, network: nn.Module, batches: Batches) -> str:
    if config.train.precision != "auto":
        return config.train.precision
    if batches.steps_per_epoch * config.train.epochs < MIN_STEPS_TO_MEASURE:
        return "fp32"
    inputs, targets = next(batches.epoch(config.train.epochs))  # the largest images take most of the time
    chosen, seconds = choose_training_precision(network, inputs, targets, inputs.device)
    if seconds:
        measured = ", ".join(f"{name} {len(targets) / value:.0f}" for name, value in seconds.items())
        log.info("precision %s (images/s in a training step: %s)", chosen, measured)
    return chosen
