"""Where a run stands: saved as a whole, restored as a whole."""

import copy
import logging
import math
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deepbloom.config.schema import from_dict
from deepbloom.engine.best_epoch import choose_epoch
from deepbloom.engine.checkpoint import FORMAT, STATE_KIND, read_tensors, write_tensors
from deepbloom.engine.optim import make_optimizer, optimizer_tensors, restore_optimizer
from deepbloom.engine.plan import Plan
from deepbloom.errors import CheckpointError, ConfigError, DivergedError
from deepbloom.models.freezing import covers
from deepbloom.models.registry import get_architecture
from deepbloom.rng import environment
from deepbloom.runs import folder as run_dir

log = logging.getLogger("deepbloom")


@dataclass
class Progress:
    """The numbers of a `TrainState`."""

    epoch: int = 1
    """The epoch in progress, from 1."""
    step: int = 0
    """Its finished steps."""
    loss_sum: float = 0.0
    """Sum of the loss over the images of these steps."""
    correct: int = 0
    count: int = 0
    seconds: float = 0.0
    """Time of these steps, loading included, without validation and saving."""
    best_epoch: int = 0
    best_val_accuracy: float = -1.0
    best_val_loss: float = math.inf
    feature_seconds: float = 0.0
    """Time to fill the feature cache once: a resumed run fills it again."""
    probe: dict[str, float] = field(default_factory=dict)
    """Scores of the linear probe and its time; see `deepbloom.engine.probe`."""
    history: list[dict[str, float]] = field(default_factory=list)
    """A row per finished epoch, with the columns of history.csv."""

    def end_epoch(self, val_loss: float, val_accuracy: float, val_count: int, lr: float) -> dict[str, float]:
        """Add the row of the epoch in progress to the history, keep the best epoch so far, and return the row."""
        row = {
            "epoch": self.epoch,
            "train_loss": self.loss_sum / self.count,
            "train_accuracy": self.correct / self.count,
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "lr": lr,
            "seconds": self.seconds,
            "images_per_second": self.count / self.seconds,
        }
        self.history.append(row)
        if choose_epoch(self.history, val_count).best is row:
            self.best_epoch, self.best_val_accuracy, self.best_val_loss = self.epoch, val_accuracy, val_loss
        return row

    def start_epoch(self) -> None:
        """Move on to the first step of the next epoch."""
        self.epoch, self.step = self.epoch + 1, 0
        self.loss_sum, self.correct, self.count, self.seconds = 0.0, 0, 0, 0.0

    @property
    def train_seconds(self) -> float:
        """Time of the steps that the result is made of, of the feature cache and of the linear probe."""
        return self.feature_seconds + self.probe.get("seconds", 0.0) + sum(row["seconds"] for row in self.history)


class TrainState:
    """Everything that changes in training: weights, averaged weights, optimizer, scaler, best weights and progress.

    Parameters
    ----------
    plan : Plan
    model : nn.Module
        The whole network.
    folder : Path
        The run directory.
    header : dict
        Header of the model file that `save` writes.
    """

    def __init__(self, plan: Plan, model: nn.Module, folder: Path, header: dict[str, Any]) -> None:
        self.plan, self.model, self.folder, self.header = plan, model, folder, header
        self.progress = Progress()
        self.optimizer = make_optimizer(model, plan.config.optimizer, get_architecture(plan.config.model.arch).head)
        self.scaler = torch.amp.GradScaler(plan.device.type, enabled=plan.precision == "fp16")
        self.averaged = copy.deepcopy(model) if plan.config.train.ema_decay else None
        self.best: dict[str, Tensor] = {}
        if self.averaged is not None:
            source, target = self.moving(model), self.moving(self.averaged)
            self._averaged_pairs = [(target[name], source[name]) for name in source]
        self._published_epoch = 0
        self._saved_at = time.monotonic()

    def moving(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the tensors that training changes: parameters and buffers of the trained modules."""
        return {name: tensor for name, tensor in model.state_dict().items() if covers(self.plan.trainable, name)}

    @property
    def evaluated(self) -> nn.Module:
        """The model that is validated and kept: the averaged one where there is one."""
        return self.model if self.averaged is None else self.averaged

    def restart_average(self) -> None:
        """Let the averaged weights be the model's."""
        if self.averaged is not None:
            self.averaged.load_state_dict(self.model.state_dict())

    @torch.no_grad()
    def average(self, step: int) -> None:
        """Move the averaged weights toward the model's; the decay grows to its final value in the first steps."""
        if self.averaged is None:
            return
        decay = min(self.plan.config.train.ema_decay, (1 + step) / (10 + step))
        for target, source in self._averaged_pairs:
            if target.is_floating_point():
                target.lerp_(source, 1 - decay)
            else:
                target.copy_(source)

    def keep_best(self) -> None:
        """Copy the evaluated weights to `best`."""
        self.best = {name: tensor.detach().cpu().clone() for name, tensor in self.moving(self.evaluated).items()}

    def diverged(self, what: str) -> DivergedError:
        """Return the error for ``what`` that is not finite."""
        other = "" if self.plan.precision == "fp32" else ", or use train.precision=fp32"
        return DivergedError(
            f"Training diverged: {what}. The last saved state is kept in {self.folder}. Lower "
            f"optimizer.lr={self.plan.config.optimizer.lr:g}{other}."
        )

    @property
    def due(self) -> bool:
        """Whether the last save is old enough for another."""
        return time.monotonic() - self._saved_at >= self.plan.config.train.checkpoint_seconds

    def save(self) -> None:
        """Write last.ckpt with everything that a resumed run needs, then new best weights to the model file.

        Raises
        ------
        DivergedError
            Weights are not finite; the earlier state stays.
        """
        progress = self.progress
        for name, tensor in self.moving(self.model).items():
            if not tensor.isfinite().all():
                raise self.diverged(f"{name} is not finite after epoch {progress.epoch}, step {progress.step}")
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        parts = {
            "model": self.model.state_dict(),
            "optimizer": optimizer_tensors(self.optimizer, names),
            "averaged": {} if self.averaged is None else self.moving(self.averaged),
            "best": self.best,
        }
        tensors = {f"{part}/{name}": tensor for part, content in parts.items() for name, tensor in content.items()}
        header = {
            "kind": STATE_KIND,
            "format": FORMAT,
            "run_id": self.plan.run_id,
            "environment": environment(self.plan.device),
            "progress": asdict(progress) | {"best_val_loss": repr(progress.best_val_loss)},  # JSON has no infinity
            "scaler": self.scaler.state_dict(),
        }
        write_tensors(self.folder / run_dir.LAST, tensors, header, self.folder / run_dir.PREVIOUS)
        if self.best and self._published_epoch != progress.best_epoch:
            self.publish()
        self._saved_at = time.monotonic()

    def publish(self, **facts: object) -> None:
        """Write the best weights to the model file, and further facts to its header."""
        header = self.header | {"epoch": self.progress.best_epoch} | facts
        write_tensors(self.folder / run_dir.MODEL, self.model.state_dict() | self.best, header)
        self._published_epoch = self.progress.best_epoch

    def resume(self) -> bool:
        """Restore the saved state where there is one; return whether there was.

        Where the newest state is damaged, the one before takes its place, and the log says so.

        Raises
        ------
        CheckpointError
            Both states are damaged, or they belong to another run.
        """
        if not run_dir.holds_state(self.folder):
            return False
        path = self.folder / run_dir.LAST
        tensors, header = _read_newest(self.folder)
        if header.get("run_id") != self.plan.run_id:
            raise CheckpointError(f"{path} belongs to a run with other settings. Choose another output_dir=PATH.")
        try:
            content = dict(header["progress"])
            self.progress = from_dict(Progress, content | {"best_val_loss": float(content["best_val_loss"])})
            scaler, rows = dict(header["scaler"]), self.progress.history
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise ValueError("its history is not a list of rows")
        except (ConfigError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} holds no training state of this version: {error}") from error
        try:
            self._restore(tensors)
            self.scaler.load_state_dict(scaler)
        except (RuntimeError, KeyError, ValueError) as error:
            raise CheckpointError(f"{path} does not fit this run's network: {error}") from error
        _warn_of_changes(header.get("environment"), environment(self.plan.device))
        return True

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "averaged": {}, "best": {}}
        for full_name, tensor in tensors.items():
            part, name = full_name.split("/", 1)
            parts[part][name] = tensor
        self.model.load_state_dict(parts["model"])
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        restore_optimizer(self.optimizer, parts["optimizer"], names)
        if self.averaged is not None:
            self.averaged.load_state_dict(parts["model"] | parts["averaged"])
        self.best = parts["best"]


def _read_newest(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    path, previous = folder / run_dir.LAST, folder / run_dir.PREVIOUS
    try:
        return read_tensors(path, STATE_KIND)
    except CheckpointError as error:
        if not previous.exists():
            raise CheckpointError(f"{error} There is no earlier state: delete {folder} to train again.") from error
        found = read_tensors(previous, STATE_KIND)
        os.replace(previous, path)  # so that the next save does not put the damaged one in its place
        log.warning("%s cannot be read (%s) The run resumes from the state saved before it.", path, error)
        return found


def _warn_of_changes(saved: Any, now: dict[str, str | int]) -> None:
    before = saved if isinstance(saved, dict) else {}
    changed = [f"{name} was {before.get(name)}, is {value}" for name, value in now.items() if before.get(name) != value]
    if changed:
        log.warning("The result may differ in the last bits from that of an uninterrupted run: %s.", "; ".join(changed))
