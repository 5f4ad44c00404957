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
from deepbloom.config.settings import RunConfig
from deepbloom.engine.checkpoint import FORMAT, STATE_KIND, read_tensors, write_tensors
from deepbloom.engine.job import Job
from deepbloom.engine.optim import make_optimizer, optimizer_tensors, restore_optimizer
from deepbloom.engine.precision import DTYPES
from deepbloom.errors import CheckpointError, ConfigError, DivergedError
from deepbloom.rng import environment
from deepbloom.runs import folder as run_dir

log = logging.getLogger("deepbloom")


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


class State:
    """Weights, averaged weights, optimizer and progress of a run, saved and restored together."""

    def __init__(self, job: Job, progress: Progress) -> None:
        config = job.config
        self.job, self.progress = job, progress
        self.optimizer = make_optimizer(job.model, config.optimizer)
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
        prefixes = self.job.trainable
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
        """Move the averaged weights toward the model's; the decay grows to its final value in the first steps."""
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

    def diverged(self, what: str) -> DivergedError:
        """Return the error that says ``what`` is no number any more, and what is kept."""
        return DivergedError(
            f"Training diverged: {what}. The last saved state is kept in {self.job.folder}. Lower "
            f"optimizer.lr={self.job.config.optimizer.lr:g}, or use train.precision=fp32."
        )

    def due(self) -> bool:
        return time.monotonic() - self._saved_at >= self.job.config.train.checkpoint_seconds

    def save(self) -> None:
        """Write everything that is needed to go on, then the best weights as a model file where they are new.

        In a group, the leader does.

        Raises
        ------
        DivergedError
            Weights are not finite; what was saved before stays.
        """
        if not self.job.group.leader:
            return
        for name, tensor in self.moving(self.job.model).items():
            if not tensor.isfinite().all():
                place = f"epoch {self.progress.epoch}, step {self.progress.step}"
                raise self.diverged(f"{name} is not finite after {place}")
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
            "environment": environment(self.job.device),
            "progress": progress,
            "scaler": self.scaler.state_dict(),
        }
        write_tensors(self.job.folder / run_dir.LAST, tensors, header, self.job.folder / run_dir.PREVIOUS)
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
        names = {parameter: name for name, parameter in self.job.model.named_parameters()}
        try:
            for full_name, tensor in tensors.items():
                part, name = full_name.split("/", 1)
                parts[part][name] = tensor
            self.job.model.load_state_dict(parts["model"])
            restore_optimizer(self.optimizer, parts["optimizer"], names)
            if self.averaged is not None:
                self.averaged.load_state_dict(parts["model"] | parts["averaged"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise CheckpointError(
                f"{self.job.folder / run_dir.LAST} does not fit this run's network: {error}"
            ) from error
        self.best = parts["best"]


def read_progress(
    folder: Path, config: RunConfig, device: torch.device
) -> tuple[Progress, dict[str, Tensor], dict[str, Any]] | None:
    """Return the progress, tensors and scaler state saved in ``folder``, or None where nothing was saved yet.

    Where the newest state is damaged, the one before it takes its place, and the log says so.

    Raises
    ------
    CheckpointError
        Both states are damaged, or the state belongs to a run with other settings.
    """
    path = folder / run_dir.LAST
    if not run_dir.holds_state(folder):
        return None
    tensors, header = _read_newest(folder)
    if header.get("run") != run_dir.run_hash(config):
        raise CheckpointError(f"{path} belongs to a run with other settings. Choose another output_dir=PATH.")
    try:
        content = dict(header["progress"])
        content["best_val_loss"] = float(content["best_val_loss"])
        progress, scaler = from_dict(Progress, content), dict(header["scaler"])
        _check_choices(progress.choices)
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} holds no training state of this version: {error}") from error
    _warn_of_changes(header.get("environment"), environment(device))
    return progress, tensors, scaler


def _check_choices(choices: Any) -> None:
    """Raise `ValueError` unless all is there that `prepare_job` chooses when a run begins."""
    found = choices if isinstance(choices, dict) else {}
    views, precisions = found.get("views"), (found.get("precision"), found.get("prefix_precision"))
    if type(views) is not int or views < 0 or not all(str(precision) in DTYPES for precision in precisions):
        raise ValueError(f"its choices are {str(choices)[:100]}")


def _read_newest(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    path, previous = folder / run_dir.LAST, folder / run_dir.PREVIOUS
    try:
        return read_tensors(path, STATE_KIND)
    except CheckpointError as error:
        if not previous.exists():
            raise CheckpointError(f"{error} No earlier state is there: delete {folder} to train anew.") from error
        found = read_tensors(previous, STATE_KIND)
        os.replace(previous, path)  # so that the next save does not put the damaged one in its place
        log.warning("%s cannot be read (%s) The run goes on from the state that was saved before it.", path, error)
        return found


def _warn_of_changes(saved: Any, now: dict[str, str | int]) -> None:
    before = saved if isinstance(saved, dict) else {}
    changed = [f"{name} was {before.get(name)}, is {value}" for name, value in now.items() if before.get(name) != value]
    if changed:
        log.warning("The result may differ in the last bits from that of a run without a stop: %s.", "; ".join(changed))
