"""What a training run is made of, put together by the caller."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from deepbloom.config.settings import RunConfig
from deepbloom.engine.distributed import Group
from deepbloom.models.registry import Architecture
from deepbloom.signals import StopRequest


class Batches(Protocol):
    """Training batches: `deepbloom.data.batches.ImageBatches`, or the activations of the frozen part."""

    @property
    def steps_per_epoch(self) -> int: ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (inputs, targets) of the steps from ``start`` on."""
        ...


@dataclass(frozen=True)
class Job:
    """What is trained, on what, and where the state is kept."""

    model: nn.Module
    architecture: Architecture
    trainable: tuple[str, ...]
    """Paths of the modules that train."""
    config: RunConfig
    batches: Batches
    validation: Callable[[], Iterable[tuple[Tensor, Tensor]]]
    as_network: Callable[[nn.Module], nn.Module]
    """From the whole model to the part that takes what ``batches`` yields."""
    header: dict[str, Any]
    """Header of the model file that is written."""
    folder: Path
    device: torch.device
    group: Group
    stop: StopRequest
    on_epoch: Callable[[], None] = lambda: None
    """Called when an epoch's row is in the history."""
