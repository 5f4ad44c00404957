"""One training run, from images to test: read `train` from top to bottom and you have seen it happen."""

import logging
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from deepbloom.config.settings import RunConfig
from deepbloom.data.batches import ImageBatches, epoch_order, prefetch_on_gpu
from deepbloom.data.leakage import WatchedPixels
from deepbloom.data.pixel_cache import open_pixels
from deepbloom.device import available_cores, use_cores
from deepbloom.engine.distributed import Group
from deepbloom.engine.evaluate import predict_logits
from deepbloom.engine.feature_cache import FeatureBatches, make_features
from deepbloom.engine.freeze_check import hash_frozen
from deepbloom.engine.loss import training_loss
from deepbloom.engine.optim import lr_factor, set_lr
from deepbloom.engine.outcome import Outcome, finish
from deepbloom.engine.plan import Plan
from deepbloom.engine.state import TrainState
from deepbloom.metrics import mean_cross_entropy, top_k_accuracy
from deepbloom.models.cutting import Cut, cut
from deepbloom.models.freezing import train_mode
from deepbloom.models.registry import create_model
from deepbloom.progress import ProgressBar
from deepbloom.rng import seed_everything
from deepbloom.runs import files
from deepbloom.runs import folder as run_dir
from deepbloom.signals import StopRequest

log = logging.getLogger("deepbloom")

GPU_STEPS_PER_CHECK = 20
"""On a GPU the host reads the loss back, looks for signals and saves only every so many steps."""


Batch = tuple[Tensor, Tensor]
Batches = ImageBatches | FeatureBatches


def train(plan: Plan, folder: Path, group: Group, stop: StopRequest, on_epoch: Callable[[], None]) -> Outcome | None:
    """Train a network, choose its best epoch on the validation images, and test it once.

    A run that was interrupted resumes exactly where it stopped.

    Parameters
    ----------
    plan : Plan
    folder : Path
        The run directory, held by this process or by rank 0.
    group : Group
    stop : StopRequest
    on_epoch : function
        Called when an epoch's row is in history.csv.

    Returns
    -------
    Outcome or None
        None in all processes but rank 0.

    Raises
    ------
    DivergedError
        The loss is not finite; the last good state is kept.
    Interrupted
        A signal came; the state is saved.
    """
    config, device = plan.config, plan.device

    # Data: pixels are decoded once; readings of test images are counted.
    workers = _use_cores(config, group)
    plan.log_data()
    on_early = partial(run_dir.note, folder, "test_read_before_testing", True)
    decoded = open_pixels(plan.source, plan.preprocessing, config.data.pixel_cache, workers)
    pixels = WatchedPixels(decoded, len(plan.source), plan.split.test, on_early)
    images = plan.image_batches(pixels, group.shard)
    validation: Callable[[], Iterable[Batch]] = partial(plan.evaluation_batches, pixels, plan.split.val)

    # Model: random or given weights; only the trainable modules change.
    seed_everything(config.seed, "weights")
    model = create_model(config.model.arch, len(plan.source.class_names), plan.trainable, plan.weights)
    model = model.to(device).to(memory_format=torch.channels_last)
    frozen = hash_frozen(model, plan.trainable)
    state = TrainState(plan, model, folder, plan.model_header())
    resumed = state.resume()
    progress = state.progress
    plan.log(model)
    if resumed:
        log.info("resuming in epoch %d after step %d", progress.epoch, progress.step)

    # Features: the outputs of the frozen modules in front of the first trained one are computed once.
    batches: Batches = images
    network, evaluated = model, state.evaluated
    parts = _cut(plan, model, images)
    if parts:
        store = config.train.feature_cache == "auto"
        features = make_features(parts.prefix, images, validation, len(plan.split.val), plan.precision, group, store)
        batches, validation = features.train, features.validation
        network, evaluated = parts.tail, parts.tail_of(state.evaluated)
        progress.feature_seconds = features.seconds

    # Linear probe: the classifier is fitted to the features of the starting weights.
    if config.train.probe and not resumed:
        from deepbloom.engine.probe import fit_classifier

        progress.probe = fit_classifier(plan, model, network, batches.epoch(1), validation(), group)
        state.restart_average()

    # Fake quantization: training and validation see the rounding errors of int8.
    if bits := config.train.weight_bits:
        from deepbloom.engine.fake_quantize import FakeQuantized

        network, evaluated = FakeQuantized(network, bits), FakeQuantized(evaluated, bits)

    # Epochs: train, validate, keep the best weights.
    network = _compiled(group.wrap(network), config, device)
    group.barrier()  # every process has read the state that is saved again now
    _save(state, group)
    stop.deferred = True  # from here on a signal stops the loop at its next safe point
    steps = batches.steps_per_epoch
    with ProgressBar(
        total=config.train.epochs * steps,
        initial=(progress.epoch - 1) * steps + progress.step,
        unit="step",
        smoothing=0.05,
        disable=not group.is_main,
    ) as bar:
        while progress.epoch <= config.train.epochs:
            train_mode(model, plan.trainable)
            bar.set_description_str(f"epoch {progress.epoch}/{config.train.epochs}", refresh=False)
            _train_epoch(state, network, batches, group, stop, bar)
            _validate(state, evaluated, validation, stop if group.size == 1 else None)
            if group.is_main:
                files.write_csv(folder / run_dir.HISTORY, tuple(progress.history[0]), progress.history)
                on_epoch()
            progress.start_epoch()
            _save_and_stop(state, group, stop)
    _save(state, group)
    stop.deferred = False
    if group.sum(stop.requested)[0]:
        _stop(state, stop)

    # The best epoch's weights: calibrated on validation, and tested once, in fp32 and without augmentation.
    return finish(state, decoded, pixels, frozen) if group.is_main else None


def _train_epoch(
    state: TrainState, network: nn.Module, batches: Batches, group: Group, stop: StopRequest, bar: ProgressBar
) -> None:
    """Run the remaining steps of the epoch in progress.

    Loss and correct predictions are summed on the device. The host reads them back, looks for signals and saves at
    every step on a CPU, and every `GPU_STEPS_PER_CHECK` steps on a GPU.
    """
    plan, progress, config = state.plan, state.progress, state.plan.config
    steps, epoch = batches.steps_per_epoch, progress.epoch
    sizes = [len(part) for part in epoch_order(len(plan.split.train), config.train.batch_size, config.seed, epoch)]
    sums = _zero_sums(plan.device)
    count = 0
    check_every = 1 if plan.device.type == "cpu" else GPU_STEPS_PER_CHECK
    started = time.perf_counter()
    for inputs, targets in prefetch_on_gpu(batches.epoch(epoch, start=progress.step), plan.device):
        step = (epoch - 1) * steps + progress.step
        set_lr(state.optimizer, lr_factor(step, steps, config.train.epochs, config.scheduler))
        seed_everything(config.seed, "step", epoch, progress.step, group.rank)  # dropout
        loss, logits = training_loss(plan, network, inputs, targets, epoch, progress.step)
        sums += torch.stack([loss.detach() * len(targets), (logits.argmax(1) == targets).sum()]).to(sums)
        count += len(targets)
        check = (progress.step + 1) % check_every == 0 or progress.step + 1 == steps
        if check:  # before the step is taken: on a CPU, weights never take a step that is not finite
            loss_sum, correct, images = group.sum(*sums.tolist(), count)
            if not math.isfinite(loss_sum):
                raise state.diverged(f"the loss is {loss_sum} at epoch {epoch}, step {progress.step + 1}")

        state.optimizer.zero_grad(set_to_none=True)
        share = len(targets) * group.size / sizes[progress.step]  # gradients are averaged by process
        state.scaler.scale(loss * share).backward()
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.average(step)

        progress.step += 1
        bar.update()
        if check:
            progress.loss_sum += loss_sum
            progress.correct += int(correct)
            progress.count += int(images)
            bar.set_postfix_str(f"loss {progress.loss_sum / progress.count:.3f}", refresh=False)
            sums, count = _zero_sums(plan.device), 0
            progress.seconds += time.perf_counter() - started
            _save_and_stop(state, group, stop)
            started = time.perf_counter()


def _validate(
    state: TrainState, network: nn.Module, validation: Callable[[], Iterable[Batch]], stop: StopRequest | None
) -> None:
    """End the epoch in progress: validate, keep the weights if they are the best, add the history row.

    In a group each process does so by itself, which takes no longer than waiting for one of them.
    """
    plan, progress, config = state.plan, state.progress, state.plan.config

    def stoppable() -> Iterator[Batch]:
        for batch in validation():
            if stop and stop.requested:  # the resumed run validates this epoch again
                state.save()
                _stop(state, stop)
            yield batch

    logits, targets = predict_logits(network, stoppable(), plan.device, plan.precision)
    if not np.isfinite(logits).all():
        raise state.diverged(f"logits are not finite in the validation of epoch {progress.epoch}")
    val_accuracy, val_loss = top_k_accuracy(logits, targets), mean_cross_entropy(logits, targets)
    last = progress.epoch * progress.step - 1
    factor = lr_factor(last, progress.step, config.train.epochs, config.scheduler)
    row = progress.end_epoch(val_loss, val_accuracy, len(targets), config.optimizer.lr * factor)
    if progress.best_epoch == progress.epoch:
        state.keep_best()
    log.info(
        "epoch %3d/%d  train loss %.3f accuracy %.3f  val loss %.3f accuracy %.3f%s  %.0f images/s",
        progress.epoch,
        config.train.epochs,
        row["train_loss"],
        row["train_accuracy"],
        val_loss,
        val_accuracy,
        " *" if progress.best_epoch == progress.epoch else "  ",
        row["images_per_second"],
    )


def _use_cores(config: RunConfig, group: Group) -> int:
    """Set the threads of CPU arithmetic and return the number of workers that decode images."""
    cores = max(1, available_cores() // group.local_size)
    use_cores(config.train.num_threads or cores)
    return cores if config.train.num_workers < 0 else config.train.num_workers


def _cut(plan: Plan, model: nn.Module, images: ImageBatches) -> Cut | None:
    if not plan.splits_network:
        return None
    train_mode(model, plan.trainable)
    largest = images.inputs(images.indices[:1], plan.schedule.copy(plan.config.train.epochs))
    return cut(model, plan.trainable, largest)


def _compiled(network: nn.Module, config: RunConfig, device: torch.device) -> nn.Module:
    if config.train.compile:
        network.compile(mode="reduce-overhead" if device.type == "cuda" else "default")
    return network


def _zero_sums(device: torch.device) -> Tensor:
    return torch.zeros(2, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)


def _save(state: TrainState, group: Group) -> None:
    if group.is_main:
        state.save()


def _save_and_stop(state: TrainState, group: Group, stop: StopRequest) -> None:
    """Save where the last save is old enough or a signal came to a process of the group; then leave."""
    stopped = group.sum(stop.requested)[0]
    if stopped or state.due:
        _save(state, group)
    if stopped:
        _stop(state, stop)


def _stop(state: TrainState, stop: StopRequest) -> None:
    stop.signal_number = stop.signal_number or signal.SIGTERM
    again = f" with output_dir={state.folder} train.resume=auto" if state.plan.config.train.resume == "never" else ""
    epoch, step = state.progress.epoch, state.progress.step
    place = f"in epoch {epoch} after step {step}" if epoch <= state.plan.config.train.epochs else "before the test"
    stop.check(f"Stopped {place}; the state is saved. Run the same command{again} to resume.")
