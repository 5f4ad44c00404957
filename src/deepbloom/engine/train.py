"""The training loop: read `train` from top to bottom and you have seen an epoch happen."""

import copy
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from deepbloom import run_dir
from deepbloom.config import RunConfig
from deepbloom.data.loaders import prefetch
from deepbloom.engine.checkpoint import FORMAT, STATE_KIND, read_tensors, write_tensors
from deepbloom.engine.evaluate import predict_logits
from deepbloom.engine.optim import lr_factor, make_optimizer, optimizer_tensors, restore_optimizer, set_lr
from deepbloom.engine.precision import autocast
from deepbloom.errors import CheckpointError, DivergedError
from deepbloom.metrics import mean_cross_entropy, top_k_accuracy
from deepbloom.models.freezing import train_mode
from deepbloom.models.registry import ModelSpec
from deepbloom.reproducibility import generator, seed_everything
from deepbloom.signals import StopRequest

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


class Batches(Protocol):
    """Training batches: `deepbloom.data.loaders.PictureBatches`, or the activations of the frozen part."""

    @property
    def steps_per_epoch(self) -> int: ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (inputs, targets) of the steps from ``start`` on."""
        ...


@dataclass
class Progress:
    """Where a run stands; all that is not a tensor."""

    epoch: int = 1
    """The epoch under way, from 1."""
    step: int = 0
    """Steps of it that are done."""
    loss_sum: float = 0.0
    correct: int = 0
    count: int = 0
    seconds: float = 0.0
    """Time of this epoch's steps, loading included; validation and saving are left out."""
    best_epoch: int = 0
    best_val_accuracy: float = -1.0
    best_val_loss: float = math.inf
    prefix_seconds: float = 0.0
    """Time spent on the frozen part before the first step."""
    history: list[dict[str, float]] = field(default_factory=list)
    choices: dict[str, Any] = field(default_factory=dict)
    """What was measured and chosen when the run began (precision, views): kept when it goes on."""


@dataclass(frozen=True)
class Job:
    """What is trained, on what, and where the state is kept."""

    model: nn.Module
    spec: ModelSpec
    config: RunConfig
    batches: Batches
    validation: Callable[[], Iterable[tuple[Tensor, Tensor]]]
    as_network: Callable[[nn.Module], nn.Module]
    """From the whole model to the part that takes what ``batches`` yields."""
    header: dict[str, Any]
    """Header of the model file that is written."""
    folder: Path
    device: torch.device
    stop: StopRequest


class State:
    """Weights, averaged weights, optimizer and progress of a run, saved and restored together."""

    def __init__(self, job: Job, progress: Progress) -> None:
        config = job.config
        self.job, self.progress = job, progress
        self.optimizer = make_optimizer(job.model, job.spec.head, config.model.weights != "none", config.optimizer)
        self.scaler = torch.amp.GradScaler(job.device.type, enabled=progress.choices["precision"] == "fp16")
        self.averaged = copy.deepcopy(job.model) if config.train.ema_decay else None
        self.best: dict[str, Tensor] = {}
        if self.averaged is not None:
            source, target = self.moving(job.model), self.moving(self.averaged)
            self._averaged_pairs = [(target[name], source[name]) for name in source]
        self._published_epoch = 0
        self._saved_at = time.monotonic()

    def moving(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the tensors that training changes: parameters and buffers of the trained modules."""
        prefixes = self.job.spec.trainable
        return {
            name: tensor
            for name, tensor in model.state_dict().items()
            if any(prefix == "" or name.startswith(f"{prefix}.") for prefix in prefixes)
        }

    @property
    def evaluated(self) -> nn.Module:
        """The model that is validated and kept: the averaged one where there is one."""
        return self.job.model if self.averaged is None else self.averaged

    @torch.no_grad()
    def average(self, step: int) -> None:
        """Move the averaged weights towards the model's; the decay grows to its final value in the first steps."""
        if self.averaged is None:
            return
        decay = min(self.job.config.train.ema_decay, (1 + step) / (10 + step))
        for target, source in self._averaged_pairs:
            if target.is_floating_point():
                target.lerp_(source, 1 - decay)
            else:
                target.copy_(source)

    def keep_best(self) -> None:
        """Remember a copy of the evaluated weights."""
        self.best = {name: tensor.detach().cpu().clone() for name, tensor in self.moving(self.evaluated).items()}

    def due(self) -> bool:
        return time.monotonic() - self._saved_at >= self.job.config.train.checkpoint_seconds

    def save(self) -> None:
        """Write everything that is needed to go on, then the best weights as a model file where they are new."""
        names = {parameter: name for name, parameter in self.job.model.named_parameters()}
        parts = {
            "model": self.job.model.state_dict(),
            "optimizer": optimizer_tensors(self.optimizer, names),
            "averaged": {} if self.averaged is None else self.moving(self.averaged),
            "best": self.best,
        }
        tensors = {f"{part}/{name}": tensor for part, content in parts.items() for name, tensor in content.items()}
        progress = asdict(self.progress)
        progress["best_val_loss"] = repr(self.progress.best_val_loss)  # JSON has no infinity
        header = {
            "kind": STATE_KIND,
            "format": FORMAT,
            "run": run_dir.run_hash(self.job.config),
            "progress": progress,
            "scaler": self.scaler.state_dict(),
        }
        write_tensors(self.job.folder / run_dir.LAST, tensors, header)
        if self.best and self._published_epoch != self.progress.best_epoch:
            model_tensors = self.job.model.state_dict() | self.best
            write_tensors(
                self.job.folder / run_dir.MODEL, model_tensors, self.job.header | {"epoch": self.progress.best_epoch}
            )
            self._published_epoch = self.progress.best_epoch
        self._saved_at = time.monotonic()

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put back the tensors that `save` wrote."""
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "averaged": {}, "best": {}}
        for full_name, tensor in tensors.items():
            part, name = full_name.split("/", 1)
            parts[part][name] = tensor
        names = {parameter: name for name, parameter in self.job.model.named_parameters()}
        try:
            self.job.model.load_state_dict(parts["model"])
            restore_optimizer(self.optimizer, parts["optimizer"], names)
            if self.averaged is not None:
                self.averaged.load_state_dict(parts["model"] | parts["averaged"])
        except (RuntimeError, KeyError) as error:
            raise CheckpointError(
                f"{self.job.folder / run_dir.LAST} does not fit this run's network: {error}"
            ) from error
        self.best = parts["best"]


def read_progress(folder: Path, config: RunConfig) -> tuple[Progress, dict[str, Tensor], dict[str, Any]] | None:
    """Return the progress, tensors and scaler state saved in ``folder``, or None where nothing was saved yet.

    Raises
    ------
    CheckpointError
        The state is damaged, or belongs to a run with other settings.
    """
    path = folder / run_dir.LAST
    if not path.exists():
        return None
    tensors, header = read_tensors(path, STATE_KIND)
    if header["run"] != run_dir.run_hash(config):
        raise CheckpointError(f"{path} belongs to a run with other settings. Choose another output_dir=PATH.")
    content = dict(header["progress"])
    content["best_val_loss"] = float(content["best_val_loss"])
    return Progress(**content), tensors, header["scaler"]


def mix(inputs: Tensor, alpha: float, stream: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """Blend every input with another of the batch (MixUp, Zhang et al. 2018, https://arxiv.org/abs/1710.09412).

    x' = lambda x_i + (1 - lambda) x_j with one lambda ~ Beta(alpha, alpha) for the batch, taken as at least 1/2, so
    that x_i is the larger share. On activations of a frozen part it is Manifold MixUp (Verma et al. 2019) there.

    Returns
    -------
    mixed : Tensor, shape of ``inputs``
    partners : int64 Tensor, shape (B,)
        j for every i.
    share : float
        lambda, in [1/2, 1].
    """
    beta = np.random.default_rng(stream.initial_seed()).beta(alpha, alpha)
    share = max(beta, 1 - beta)
    partners = torch.randperm(len(inputs), generator=stream).to(inputs.device)
    return torch.lerp(inputs[partners], inputs, share), partners, share


def training_loss(
    network: nn.Module, inputs: Tensor, targets: Tensor, config: RunConfig, stream: torch.Generator, precision: str
) -> tuple[Tensor, Tensor]:
    """Return the loss of one batch (scalar) and its logits, float32 of shape (B, C)."""
    smoothing = config.train.label_smoothing
    alpha = config.augment.mixup_alpha
    if alpha:
        inputs, partners, share = mix(inputs, alpha, stream)
    with autocast(inputs.device, precision):
        logits = network(inputs)
    logits = logits.float()
    loss = F.cross_entropy(logits, targets, label_smoothing=smoothing)
    if alpha:
        loss = share * loss + (1 - share) * F.cross_entropy(logits, targets[partners], label_smoothing=smoothing)
    return loss, logits


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
    network = job.as_network(model)
    steps = job.batches.steps_per_epoch
    job.stop.deferred = True  # from here on a signal stops the loop at its next safe point

    while progress.epoch <= config.train.epochs:
        epoch = progress.epoch
        train_mode(model, job.spec.trainable)
        bar = tqdm(total=steps, initial=progress.step, desc=f"epoch {epoch}", unit="step", disable=None, leave=False)
        with bar:
            mark = time.perf_counter()
            for inputs, targets in prefetch(job.batches.epoch(epoch, start=progress.step)):
                step = (epoch - 1) * steps + progress.step
                set_lr(state.optimizer, lr_factor(step, steps, config.train.epochs, config.scheduler))
                seed_everything(config.seed, "step", epoch, progress.step)  # dropout
                stream = generator(config.seed, "mix", epoch, progress.step)
                loss, logits = training_loss(network, inputs, targets, config, stream, progress.choices["precision"])
                loss_value = loss.item()
                if not math.isfinite(loss_value):
                    _stop_diverged(state, loss_value)

                state.optimizer.zero_grad(set_to_none=True)
                state.scaler.scale(loss).backward()
                state.scaler.step(state.optimizer)
                state.scaler.update()
                state.average(step)

                progress.step += 1
                progress.loss_sum += loss_value * len(targets)
                progress.correct += int((logits.argmax(1) == targets).sum())
                progress.count += len(targets)
                now = time.perf_counter()
                progress.seconds, mark = progress.seconds + now - mark, now
                bar.update()
                if job.stop.requested or state.due():
                    state.save()
                    job.stop.check(_stopped_message(progress))
                    mark = time.perf_counter()

        _validate(state)
        if job.stop.requested or state.due():
            state.save()
            job.stop.check(_stopped_message(progress))

    state.save()
    job.stop.deferred = False
    return state


def _validate(state: State) -> None:
    """End the epoch under way: validate, keep the weights if they are the best, add the history row."""
    job, progress = state.job, state.progress

    def stoppable() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in job.validation():
            if job.stop.requested:  # nothing is lost: validation starts again when the run goes on
                state.save()
                job.stop.check(_stopped_message(progress))
            yield batch

    logits, targets = predict_logits(job.as_network(state.evaluated), stoppable(), job.device)
    if not np.isfinite(logits).all():
        _stop_diverged(state, math.nan)
    val_accuracy, val_loss = top_k_accuracy(logits, targets), mean_cross_entropy(logits, targets)
    if (val_accuracy, -val_loss) > (progress.best_val_accuracy, -progress.best_val_loss):
        progress.best_epoch, progress.best_val_accuracy, progress.best_val_loss = progress.epoch, val_accuracy, val_loss
        state.keep_best()
    row = {
        "epoch": progress.epoch,
        "train_loss": progress.loss_sum / progress.count,
        "train_accuracy": progress.correct / progress.count,
        "val_loss": val_loss,
        "val_accuracy": val_accuracy,
        "lr": max(group["lr"] for group in state.optimizer.param_groups),
        "seconds": progress.seconds,
        "images_per_second": progress.count / progress.seconds,
    }
    progress.history.append(row)
    run_dir.write_csv(job.folder / run_dir.HISTORY, HISTORY_COLUMNS, progress.history)
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
    progress.epoch, progress.step = progress.epoch + 1, 0
    progress.loss_sum, progress.correct, progress.count, progress.seconds = 0.0, 0, 0, 0.0


def _stop_diverged(state: State, value: float) -> None:
    progress = state.progress
    if all(tensor.isfinite().all() for tensor in state.job.model.state_dict().values()):
        state.save()
    raise DivergedError(
        f"Training diverged: the loss is {value} at epoch {progress.epoch}, step {progress.step + 1}. The last good "
        f"state is kept in {state.job.folder}. Lower optimizer.lr={state.job.config.optimizer.lr:g}, or use "
        "train.precision=fp32."
    )


def _stopped_message(progress: Progress) -> str:
    return (
        f"Stopped in epoch {progress.epoch} after step {progress.step}; the state is saved. "
        "The same command goes on from here."
    )
