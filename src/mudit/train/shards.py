"""Tensors of which each process holds some rows, seen the same way as whole ones.

FSDP2 splits a parameter along its first dimension: rank r holds rows `first` to `first + len(local)`; a small one leaves the last
ranks without any. A plain tensor is one shard with all rows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

_PLAIN = (Tensor, nn.Parameter)  # known at once; importing DTensor takes half a second, which most processes need not spend


class Shard(NamedTuple):
    """What this process holds of one tensor."""

    local: Tensor  # rows of the whole, the very memory; a tensor without dimensions counts as one row
    first: int  # place of the first of them in the whole
    shape: tuple[int, ...]  # of the whole

    @property
    def rows(self) -> int:
        """How many rows are here."""
        return self.local.shape[0] if self.shape else 1

    @property
    def whole(self) -> bool:
        """Whether all of the tensor is here."""
        return self.local.shape == self.shape


def shard_of(tensor: Tensor) -> Shard:
    """The share of a plain tensor or of a DTensor on a mesh of one dimension, sharded along its rows."""
    if type(tensor) in _PLAIN:
        return Shard(tensor, 0, tuple(tensor.shape))
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor import Shard as AlongDimension

    assert isinstance(tensor, DTensor), f"a {type(tensor).__name__} has no known shards"
    (placement,), (size,) = tensor.placements, tensor.device_mesh.shape
    assert isinstance(placement, AlongDimension) and placement.dim == 0, f"sharded as {placement}"
    rows_each = -(-tensor.shape[0] // size)
    first = min(tensor.device_mesh.get_local_rank() * rows_each, tensor.shape[0])
    local = tensor.to_local()
    assert local.shape[0] == min(rows_each, tensor.shape[0] - first), "FSDP2 splits rows as torch.chunk does"
    return Shard(local, first, tuple(tensor.shape))


def local_parts(tensors: list[Tensor]) -> list[Tensor]:
    """The memory of each tensor in this process, for operations element by element over many at once."""
    return [shard_of(tensor).local for tensor in tensors]


@torch.no_grad()
def whole_tensor(tensor: Tensor) -> Tensor:
    """All rows on every rank, detached. Of a DTensor, every rank must ask for the same one at the same time."""
    if type(tensor) in _PLAIN:
        return tensor.detach()
    from torch.distributed.tensor import DTensor

    assert isinstance(tensor, DTensor), f"a {type(tensor).__name__} has no known shards"
    whole: Tensor = tensor.full_tensor()
    return whole
