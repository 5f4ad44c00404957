"""The training loop: read `train` from top to bottom and you have seen an epoch happen."""

import logging
import math
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from deepbloom.config.settings import RunConfig
from deepbloom.data.augment import mix_batch
from deepbloom.data.batches import Batch, prefetch
from deepbloom.engine.evaluate import predict_logits
from deepbloom.engine.job import Job
from deepbloom.engine.optim import lr_factor, set_lr
from deepbloom.engine.precision import forward
from deepbloom.engine.state import Progress, State
from deepbloom.metrics import mean_cross_entropy, top_k_accuracy
from deepbloom.models.freezing import train_mode
from deepbloom.rng import generator, seed_everything
from deepbloom.runs import files as atomic_files
from deepbloom.runs import folder as run_dir

log = logging.getLogger("deepbloom")

HISTORY_COLUMNS = (
    "epoch",
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "lr",
    "seconds",
    "images_per_second",
)


def training_loss(
    network: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    num_classes: int,
    config: RunConfig,
    stream: torch.Generator,
    precision: str,
) -> tuple[Tensor, Tensor]:
    """Return the loss of one batch (scalar) and its logits, float32 of shape (B, C)."""
    inputs, targets = mix_batch(inputs, targets, num_classes, config.augment, stream)
    logits = forward(network, inputs, precision)
    return F.cross_entropy(logits, targets, label_smoothing=config.train.label_smoothing), logits


def train(job: Job, progress: Progress, saved: tuple[dict[str, Tensor], dict[str, Any]] | None = None) -> State:
    """Train to the last epoch, choosing the best epoch on the validation part.

    Parameters
    ----------
    job : Job
    progress : Progress
        A new one, or that of a stopped run, which then goes on exactly where it was.
    saved : (tensors, scaler state), optional
        What `read_progress` returned beside the progress.

    Returns
    -------
    State
        ``best`` holds the chosen weights; ``job.model`` those of the last step.

    Raises
    ------
    DivergedError
        The loss is not finite; the last good state is kept.
    Interrupted
        A signal came; the state is saved.
    """
    config, model = job.config, job.model
    state = State(job, progress)
    if saved is not None:
        state.restore(saved[0])
        state.scaler.load_state_dict(saved[1])
    group, network = job.group, _network(job)
    steps, num_classes = job.batches.steps_per_epoch, len(job.header["classes"])
    group.wait()  # until all have read the state that is written anew now
    state.save()  # what was chosen for this run is kept from here on, and a folder that cannot be written shows now
    job.stop.deferred = True  # from here on a signal stops the loop at its next safe point

    while progress.epoch <= config.train.epochs:
        epoch = progress.epoch
        train_mode(model, job.trainable)
        bar = tqdm(total=steps, initial=progress.step, desc=f"epoch {epoch}", unit="step", disable=None, leave=False)
        with bar:
            mark = time.perf_counter()
            for inputs, targets in _ahead(job.batches.epoch(epoch, start=progress.step), job.device):
                step = (epoch - 1) * steps + progress.step
                set_lr(state.optimizer, lr_factor(step, steps, config.train.epochs, config.scheduler))
                seed_everything(config.seed, "step", epoch, progress.step, group.rank)  # dropout
                stream = generator(config.seed, "mix", epoch, progress.step)
                loss, logits = training_loss(
                    network, inputs, targets, num_classes, config, stream, progress.choices["precision"]
                )
                hits = (logits.argmax(1) == targets).sum().item()
                loss_sum, correct, count, stop = group.sum(
                    loss.item() * len(targets), hits, len(targets), job.stop.requested
                )
                if not math.isfinite(loss_sum):
                    raise state.diverged(f"the loss is {loss_sum} at epoch {epoch}, step {progress.step + 1}")

                state.optimizer.zero_grad(set_to_none=True)
                share = len(targets) * group.size / count  # gradients are averaged over processes, not images
                state.scaler.scale(loss * share).backward()
                state.scaler.step(state.optimizer)
                state.scaler.update()
                state.average(step)

                progress.step += 1
                progress.loss_sum += loss_sum
                progress.correct += int(correct)
                progress.count += int(count)
                now = time.perf_counter()
                progress.seconds, mark = progress.seconds + now - mark, now
                bar.update()
                if stop or state.due():
                    _save(state, stop)
                    mark = time.perf_counter()

        _validate(state)
        stop = group.sum(job.stop.requested)[0]
        if stop or state.due():
            _save(state, stop)

    state.save()
    job.stop.deferred = False
    if group.sum(job.stop.requested)[0]:
        _stop(state)
    return state


def _ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Prepare the next batch while a GPU works on this one; beside CPU training a thread only slows it down."""
    return prefetch(batches) if device.type == "cuda" else batches


def _network(job: Job) -> nn.Module:
    """Return what is trained, as it is called in training."""
    network = job.group.wrap(job.as_network(job.model))
    if job.config.train.compile:
        network.compile(mode="reduce-overhead" if job.device.type == "cuda" else "default")
    return network


def _save(state: State, stop: float) -> None:
    """Save, and leave if a signal came to this process or another of its group."""
    state.save()
    if stop:
        _stop(state)


def _stop(state: State) -> None:
    state.job.stop.signal_number = state.job.stop.signal_number or signal.SIGTERM
    state.job.stop.check(_stopped_message(state))


def _validate(state: State) -> None:
    """End the epoch under way: validate, keep the weights if they are the best, add the history row.

    In a group each process does so by itself, which takes no longer than waiting for one of them.
    """
    job, progress = state.job, state.progress

    def stoppable() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in job.validation():
            if job.stop.requested and job.group.size == 1:  # nothing is lost: it begins again when the run goes on
                state.save()
                job.stop.check(_stopped_message(state))
            yield batch

    network, precision = job.as_network(state.evaluated), progress.choices["precision"]
    logits, targets = predict_logits(network, stoppable(), job.device, precision)
    if not np.isfinite(logits).all():
        raise state.diverged(f"logits are not finite in the validation of epoch {progress.epoch}")
    val_accuracy, val_loss = top_k_accuracy(logits, targets), mean_cross_entropy(logits, targets)
    if (val_accuracy, -val_loss) > (progress.best_val_accuracy, -progress.best_val_loss):
        progress.best_epoch, progress.best_val_accuracy, progress.best_val_loss = progress.epoch, val_accuracy, val_loss
        state.keep_best()
    steps, epochs = job.batches.steps_per_epoch, job.config.train.epochs
    last_factor = lr_factor(progress.epoch * steps - 1, steps, epochs, job.config.scheduler)
    row = {
        "epoch": progress.epoch,
        "train_loss": progress.loss_sum / progress.count,
        "train_accuracy": progress.correct / progress.count,
        "val_loss": val_loss,
        "val_accuracy": val_accuracy,
        "lr": job.config.optimizer.lr * last_factor,
        "seconds": progress.seconds,
        "images_per_second": progress.count / progress.seconds,
    }
    progress.history.append(row)
    if job.group.leader:
        atomic_files.write_csv(job.folder / run_dir.HISTORY, HISTORY_COLUMNS, progress.history)
    log.info(
        "epoch %3d/%d  train loss %.3f accuracy %.3f  val loss %.3f accuracy %.3f%s  %.0f images/s",
        progress.epoch,
        job.config.train.epochs,
        row["train_loss"],
        row["train_accuracy"],
        val_loss,
        val_accuracy,
        " *" if progress.best_epoch == progress.epoch else "  ",
        row["images_per_second"],
    )
    job.on_epoch()
    progress.epoch, progress.step = progress.epoch + 1, 0
    progress.loss_sum, progress.correct, progress.count, progress.seconds = 0.0, 0, 0, 0.0


def _stopped_message(state: State) -> str:
    again = f"output_dir={state.job.folder} train.resume=auto" if state.job.config.train.resume == "never" else ""
    epoch, step = state.progress.epoch, state.progress.step
    place = f"in epoch {epoch} after step {step}" if epoch <= state.job.config.train.epochs else "before the test"
    return (
        f"Stopped {place}; the state is saved. "
        f"The same command {'with ' + again + ' ' if again else ''}goes on from here."
    )
