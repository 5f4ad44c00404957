"""Several processes that train one network together, started by ``torchrun``. A single process is a group of one.

The processes divide the batch of each step, and torch's DistributedDataParallel averages their gradients: a step sees
the same images as with one process. Only rank 0 writes.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar, cast

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from deepbloom.errors import DeepBloomError, DistributedError

T = TypeVar("T")

STOPPED = "Stopped, because another process of this run stopped; its message says why."


@dataclass(frozen=True)
class Group:
    """The processes of a run."""

    rank: int = 0
    """Number of this process, from 0."""
    size: int = 1
    local_rank: int = 0
    """Number of this process on its machine."""
    local_size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def together(self, work: Callable[[], T]) -> T:
        """Run ``work`` in every process and return its result; if it fails in one, none continues.

        Raises
        ------
        DeepBloomError
            ``work`` raised it here. If it failed in several processes, the others raise `DistributedError`.
        """
        if self.size == 1:
            return work()
        error: DeepBloomError | None = None
        try:
            result = work()
        except DeepBloomError as caught:
            error = caught
        failed: list[bool] = [False] * self.size
        distributed.all_gather_object(failed, error is not None)
        if error is not None and not any(failed[: self.rank]):
            raise error
        if any(failed):
            raise DistributedError(STOPPED)
        return result

    @property
    def shard(self) -> slice:
        """The part of a step's batch for this process: every ``size``-th image."""
        return slice(self.rank, None, self.size)

    def broadcast(self, choose: Callable[[], T]) -> T:
        """Return what ``choose`` returns in rank 0, in every process.

        Raises
        ------
        DeepBloomError
            ``choose`` raised it in rank 0; the others raise `DistributedError`.
        """
        result = [self.together(lambda: choose() if self.is_main else None)]
        if self.size > 1:
            distributed.broadcast_object_list(result)
        return cast("T", result[0])

    def sum(self, *values: float) -> list[float]:
        """Return the sum over all processes of each value."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=_reduce_device())
        distributed.all_reduce(total)
        return total.tolist()

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows (on the CPU) of all processes, in the same order in each of them."""
        if self.size == 1:
            return rows
        parts = [rows] * self.size
        distributed.all_gather_object(parts, rows)
        return torch.cat(parts)

    def barrier(self) -> None:
        """Wait until every process has reached this point."""
        if self.size > 1:
            distributed.barrier()

    def wrap(self, network: nn.Module) -> nn.Module:
        """Return ``network`` with gradients averaged over the processes; buffers follow rank 0's."""
        return network if self.size == 1 else DistributedDataParallel(network)

    def shared_file(self, folder: Path) -> IO[bytes]:
        """Return a new file open for reading and writing, the same in all processes of a machine.

        Its name is deleted at once: no other run can see it, and no crash leaves it behind.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if self.size == 1:
            return tempfile.TemporaryFile(dir=folder)
        own = tempfile.NamedTemporaryFile(dir=folder, delete=False) if self.local_rank == 0 else None  # noqa: SIM115
        names: list[str | None] = [None] * self.size
        distributed.all_gather_object(names, own.name if own else None)
        name = names[self.rank - self.local_rank]
        assert name is not None
        file = open(name, "r+b")  # noqa: SIM115 (the caller's)
        self.barrier()
        if own:
            own.close()
            with suppress(PermissionError):  # Windows keeps the file as long as it is open
                os.unlink(own.name)
        return file


@contextmanager
def join(device: torch.device) -> Iterator[Group]:
    """Join the process group that ``torchrun`` started, and leave it at the end; without torchrun a group of one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Group()
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # what "cuda" then means in this process
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Group(
            distributed.get_rank(),
            distributed.get_world_size(),
            int(os.environ["LOCAL_RANK"]),
            int(os.environ["LOCAL_WORLD_SIZE"]),
        )
    except RuntimeError as error:
        if isinstance(error, distributed.DistError) or "gloo" in str(error):  # a process of the group has left
            raise DistributedError(STOPPED) from error
        raise
    finally:
        distributed.destroy_process_group()


def _reduce_device() -> str:
    return "cuda" if distributed.get_backend() == "nccl" else "cpu"
