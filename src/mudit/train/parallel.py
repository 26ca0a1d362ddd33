"""The model of one target run over its processes: alone, replicated (DDP) or sharded (FSDP2), with the same numbers to rounding.

Everything that muP does is done by name before wrapping: forward multipliers are pre-hooks of plain modules, and each parameter is
drawn from its own stream. A sharded model is never whole on any rank: it is built without memory, and each rank keeps its rows of
one drawn parameter after another, so that its memory is its share plus the largest parameter.

Matrix products follow `optimizer.precision` by autocast in all layouts; FSDP2 gathers float32 weights, twice the bytes that bf16
would need, so that no parameter that autocast leaves alone is rounded.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from mudit.config.cluster import TrainWorkers, Workers
from mudit.config.models import ExternalSection, ModelSection
from mudit.errors import ConfigError
from mudit.jobs.distributed import World
from mudit.models.families import build
from mudit.parametrization.apply import attach_multipliers, draw, parametrize
from mudit.parametrization.table import ParameterTable
from mudit.train.shards import shard_of

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


@dataclass(frozen=True)
class Layout:
    """How the processes of a run share its batch and its memory. The global batch is the same for all of them."""

    world: World
    batch_size: int  # images per optimizer step, of all processes
    sharded: bool = False
    micro_batch: int | None = None  # images per forward pass; None: the process's whole share
    checkpoint_activations: bool = False
    compile: bool = False

    @classmethod
    def of(cls, workers: Workers | None, batch_size: int) -> Self:
        """That of this process. Raises ConfigError if the batch does not divide evenly: a mean of uneven means is not the mean."""
        world = World.of_environment()
        if batch_size % world.size:
            raise ConfigError(f"a batch of {batch_size} images does not divide over {world.size} processes; change execution.train")
        if workers is None:
            return cls(world, batch_size)
        assert isinstance(workers, TrainWorkers)
        share = batch_size // world.size
        micro_batch = None if workers.micro_batch is None else min(workers.micro_batch, share)
        if micro_batch is not None and share % micro_batch:
            raise ConfigError(
                f"execution.train.micro_batch {micro_batch} does not divide the {share} images of each process "
                f"({batch_size} over {world.size})"
            )
        sharded = workers.parallel == "sharded" and world.size > 1
        return cls(world, batch_size, sharded, micro_batch, workers.checkpoint_activations, workers.compile)

    @property
    def places(self) -> range:
        """This process's places in the global batch."""
        share = self.batch_size // self.world.size
        return range(self.world.rank * share, (self.world.rank + 1) * share)

    @property
    def passes(self) -> int:
        """Forward passes of each process per optimizer step."""
        return 1 if self.micro_batch is None else len(self.places) // self.micro_batch

    def summed(self, values: list[float], device: torch.device) -> list[float]:
        """Sums over all processes, in float64: what one process alone has, as it is. NaN anywhere is NaN everywhere."""
        if self.world.size == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=device)
        distributed.all_reduce(total)
        result: list[float] = total.tolist()
        return result


class Network:
    """The model of a run and its second copy for the average.

    model: its parameters are what the optimizer steps; sharded, they are DTensors.
    average: the same values at the start, without gradients.
    """

    def __init__(self, section: ModelSection, table: ParameterTable, seed: int, layout: Layout, device: torch.device) -> None:
        self._layout = layout
        if layout.sharded:
            self.model = _sharded(section, table, layout, device)
            self.average = _sharded(section, table, layout, device)
            _draw_own_rows(self.model, table, seed)
            _copy_own_rows(self.average, self.model)
        else:
            self.model = parametrize(build(section, table.width), table, seed).to(device)
            self.average = copy.deepcopy(self.model)
            lighten(self.model, layout)
        self.average.requires_grad_(False).eval()
        self.call: nn.Module = self.model  # what a training step calls
        if layout.world.size > 1 and not layout.sharded:
            self.call = DistributedDataParallel(
                self.model,
                device_ids=[device] if device.type == "cuda" else None,
                forward_sync_buffers=False,  # constants
                gradient_as_bucket_view=True,
                # Our families' losses reach every parameter; a model of your own may have others.
                find_unused_parameters=isinstance(section, ExternalSection),
            )

    def accumulating(self, last: bool) -> contextlib.AbstractContextManager[object]:
        """Around forward and backward of one micro-batch: gradients are exchanged with the `last` one.

        Sharded gradients are exchanged every time, because whole ones would take the memory that sharding saves.
        """
        if last or not isinstance(self.call, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.call.no_sync()


def blocks(model: nn.Module) -> list[nn.Module]:
    """The repeated layers: outermost modules of the classes that the model's outermost lists of modules hold, in its order."""
    kinds = {type(block) for block in _listed(model) if next(block.children(), None) is not None}
    return list(_outermost(model, kinds))


def compile_blocks(model: nn.Module) -> None:
    """Compile each of the repeated layers, once for all of their kind. Names stay."""
    for block in blocks(model):
        block.forward = torch.compile(block.forward)


def lighten(model: nn.Module, layout: Layout) -> None:
    """Compile the blocks, and compute their activations again in the backward pass, as the layout says. Names stay."""
    if layout.compile:
        compile_blocks(model)
    for block in blocks(model):
        if layout.checkpoint_activations:
            # Nothing in a forward pass is random here, so no generator's state is kept.
            again = functools.partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
            block.forward = again


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Make the parameters DTensors, one group per block and one for the rest, in place. They may lie on the meta device."""
    from torch.distributed.fsdp import fully_shard  # takes half a second, which most processes need not spend

    for block in blocks(model):
        fully_shard(block, mesh=mesh)
    # By default the rest would stay whole after a validation.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


@contextlib.contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Modules that are built inside have parameters without memory, one real parameter at a time; their buffers are real."""
    register = nn.Module.register_parameter

    def on_meta(self: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None:
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
        register(self, name, parameter)

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def _sharded(section: ModelSection, table: ParameterTable, layout: Layout, device: torch.device) -> nn.Module:
    """A sharded model whose trained parameters are yet to be drawn. Raises ConfigError if a model of your own cannot be sharded."""
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh(device.type, (layout.world.size,))
    if isinstance(section, ExternalSection):
        # What a factory of someone else's leaves as built has no stream of its own, so the model is built whole, in main memory.
        model = build(section, table.width)
        for name, parameter in model.named_parameters():
            if parameter.ndim == 0:
                raise ConfigError(f"{name} has no dimension to shard along; set execution.train.parallel to replicated")
    else:
        with parameters_on_meta():
            model = build(section, table.width)
    attach_multipliers(model, table)
    lighten(model, layout)
    shard(model, mesh)
    if not isinstance(section, ExternalSection):
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        model.to_empty(device=device)
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    return model


@torch.no_grad()
def _draw_own_rows(model: nn.Module, table: ParameterTable, seed: int) -> None:
    """The values of `initialise`, of which each rank keeps its rows: one whole parameter is in memory at a time."""
    rows = {row.name: row for row in table.rows}
    for name, parameter in model.named_parameters():
        if name not in rows or rows[name].init_distribution == "as built":
            continue
        mine = shard_of(parameter)
        mine.local.copy_(draw(rows[name], seed, name)[mine.first : mine.first + mine.rows])


@torch.no_grad()
def _copy_own_rows(target: nn.Module, source: nn.Module) -> None:
    for copied, parameter in zip(target.parameters(), source.parameters(), strict=True):
        shard_of(copied).local.copy_(shard_of(parameter).local)


def _listed(model: nn.Module) -> Iterator[nn.Module]:
    for child in model.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from _listed(child)


def _outermost(model: nn.Module, kinds: set[type[nn.Module]]) -> Iterator[nn.Module]:
    for child in model.children():
        if type(child) in kinds:
            yield child
        else:
            yield from _outermost(child, kinds)
