"""The processes of one job: ranks as torchrun names them, and the few things that they tell each other. Imports torch on use.

One process is the normal case and costs nothing: `World.of_environment()` is rank 0 of 1, and every function below is the identity.
Processes talk through torch.distributed: NCCL for tensors on GPUs, gloo for everything else.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self, TypeVar

T = TypeVar("T")

_TIMEOUT = timedelta(minutes=60)  # rank 0 may hash inputs, decode or validate alone for a while


@dataclass(frozen=True)
class World:
    """This process among those of its job."""

    rank: int
    size: int
    local_rank: int

    @classmethod
    def of_environment(cls) -> Self:
        """From RANK, WORLD_SIZE and LOCAL_RANK, which torchrun sets; without them the only process."""
        rank, size, local_rank = (int(os.environ.get(name, default)) for name, default in _VARIABLES)
        return cls(rank, size, local_rank)

    @property
    def main(self) -> bool:
        """Whether this process writes what all share."""
        return self.rank == 0


_VARIABLES = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))


@contextlib.contextmanager
def joined() -> Iterator[World]:
    """The processes of the job, connected. Does nothing for a single process."""
    world = World.of_environment()
    if world.size == 1:
        yield world
        return
    import torch
    from torch import distributed

    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(world.local_rank)
    # Objects travel through gloo, so that they need no GPU memory.
    distributed.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=_TIMEOUT)
    try:
        yield world
    finally:
        distributed.destroy_process_group()


def broadcast(value: T) -> T:
    """Rank 0's value on every rank; what the others pass is not looked at."""
    if World.of_environment().size == 1:
        return value
    from torch import device, distributed

    box: list[Any] = [value]
    distributed.broadcast_object_list(box, src=0, device=device("cpu"))
    result: T = box[0]
    return result


def gather(value: T) -> list[T]:
    """Every rank's value, in order of ranks, on every rank."""
    world = World.of_environment()
    if world.size == 1:
        return [value]
    from torch import distributed

    values: list[Any] = [None] * world.size
    distributed.all_gather_object(values, value)
    return values


def count(key: str, by: int = 0) -> int:
    """Add to a counter that all ranks share, and return its value. Waits for nobody, so ranks that work alone can be told things.

    Every counter starts at 0 with the job. Only for several processes.
    """
    from torch.distributed.distributed_c10d import _get_default_store  # the ranks' meeting point; torch has no public name for it

    value: int = _get_default_store().add(f"mudit/{key}", by)
    return value


def barrier() -> None:
    """Returns when every rank has called it."""
    gather(None)
