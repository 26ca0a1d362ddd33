"""One training step of a target run on processes that do not exist: no GPU, no memory, any number of ranks.

The model is built on the meta device and wrapped as the trainer does it (`mudit.train.parallel`), on torch's fake process group and
in FakeTensor mode, where every operation yields shapes and no numbers. What runs is counted: parameters, operations, what one rank
keeps, what passes through it. `mudit plan` has the same numbers by formula; tests hold the two together.

Differences to a real step on GPUs: this process is rank 0; operations are the CPU's, whose autocast keeps a few more tensors in
bf16; compilation is left out; DDP cannot wrap fake tensors, so the exchange of a replicated model is that of its gradients, by
arithmetic; a mean stands for the loss, which multiplies no matrices.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from mudit.config.cluster import TrainWorkers
from mudit.config.models import ModelSection
from mudit.config.schema import Config, Experiment
from mudit.errors import ConfigError
from mudit.jobs.distributed import World
from mudit.models.blocks import Mlp, gelu_tanh
from mudit.models.condition import Condition, TextCondition
from mudit.models.families import build
from mudit.plan import show
from mudit.plan.target import Step, target
from mudit.stages import experiments
from mudit.train.loss import aligns
from mudit.train.parallel import Layout, lighten, shard

_CPU = torch.device("cpu")


def laid_out(experiment: Experiment, ranks: int) -> Experiment:
    """The experiment with its target run on another number of ranks. Raises ConfigError if they do not divide the batch."""
    workers, batch = experiment.execution.train, experiment.train.batch_size
    if batch % ranks:
        raise ConfigError(f"plan --ranks {ranks}: does not divide train.batch_size {batch}; name another number")
    if workers is None:
        workers = TrainWorkers(
            nodes=1, per_node=1, parallel="replicated", micro_batch=None, checkpoint_activations=False, compile=False
        )
    share = batch // ranks
    micro = min(workers.micro_batch or share, share)
    changed = workers.model_copy(update={"nodes": 1, "per_node": ranks, "micro_batch": micro})
    return experiment.model_copy(update={"execution": experiment.execution.model_copy(update={"train": changed})})


def rehearse(experiment: Experiment) -> Step:
    """One step of the target run as `execution.train` lays it out (`laid_out`). Must not be called inside a process group."""
    workers, train = experiment.execution.train, experiment.train
    assert workers is not None and workers.micro_batch is not None
    ranks = workers.processes
    layout = Layout(
        World(0, ranks, 0),
        train.batch_size,
        sharded=workers.parallel == "sharded" and ranks > 1,
        micro_batch=workers.micro_batch,
        checkpoint_activations=workers.checkpoint_activations,
    )
    with _fake_group(ranks):
        return _step(experiment, layout)


def lines(config: Config, selection: str | None, ranks: Sequence[int]) -> Iterator[str]:
    """A line per target run and number of ranks: counted, and by the plan's formulas."""
    names = [name for name in experiments(config, selection) if config.experiments[name].has("train")]
    for name in names:
        experiment = config.experiments[name]
        workers = experiment.execution.train
        for count in ranks or [workers.processes if workers is not None else 1]:
            there = laid_out(experiment, count)
            counted, whole = rehearse(there), target(there)
            planned = whole.step
            yield f"{name}, width {experiment.train.width}, {count} ranks: {counted.parameters:,} parameters"
            for what, found, stated in (
                ("operations of a rank in a step", f"{show.tera(counted.flops)} TFLOP", f"{show.tera(planned.flops)} TFLOP"),
                ("weights, gradients, moments, average", show.size(counted.state), show.size(planned.state)),
                ("activations and casts that are kept", show.size(counted.kept), show.size(planned.kept)),
                ("exchanged in a step", show.size(counted.exchanged), show.size(planned.exchanged)),
            ):
                yield f"  {what:38}{found:>16}   planned {stated}"
            yield f"  {'in all, with what a block needs':38}{'':16}   planned {show.size(whole.memory)}"


@contextlib.contextmanager
def _fake_group(ranks: int) -> Iterator[None]:
    from torch.testing._internal.distributed.fake_pg import FakeStore

    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def _step(experiment: Experiment, layout: Layout) -> Step:
    from torch.distributed.device_mesh import init_device_mesh

    train, micro = experiment.train, layout.micro_batch
    assert micro is not None
    mesh = init_device_mesh("cpu", (layout.world.size,)) if layout.sharded else None
    with torch.device("meta"):
        model = build(experiment.model, train.width)
    _as_on_a_gpu(model)
    lighten(model, replace(layout, compile=False))
    counter, exchange = FlopCounterMode(display=False, custom_mapping=_ATTENTION), _Exchange(layout.world.size)
    with FakeTensorMode(allow_non_fake_inputs=True):
        if mesh is not None:
            shard(model, mesh)
        model.to_empty(device=_CPU)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
        images, condition = _inputs(experiment.model, micro)
        kept = _Kept(model)
        with counter, exchange, torch.autocast("cpu", torch.bfloat16, enabled=experiment.optimizer.precision == "bf16"):
            with kept:
                options = {"return_features": True} if aligns(model) else {}
                output = model(images, torch.zeros(micro, dtype=torch.long), condition, **options)
            held = kept.bytes()
            parts = output if isinstance(output, tuple) else (output,)
            sum((part.float().mean() for part in parts), torch.zeros(())).backward()
        gradients = sum(_local(parameter.grad) for parameter in model.parameters() if parameter.grad is not None)
        optimizer.step()
        moments = sum(
            _local(value)
            for state in optimizer.state.values()
            for name, value in state.items()
            if name in ("exp_avg", "exp_avg_sq")
        )
        weights = sum(_local(parameter) for parameter in model.parameters())
    sums = exchange.bytes * layout.passes if layout.sharded else 2 * gradients * (layout.world.size - 1) // layout.world.size
    return Step(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        flops=counter.get_total_flops() * layout.passes,
        state=2 * weights + gradients + moments,
        kept=held,
        exchanged=sums,
    )


def _inputs(model: ModelSection, images: int) -> tuple[Tensor, Condition]:
    x = torch.zeros(images, model.channels, model.image_size, model.image_size)
    if model.conditioning == "label":
        return x, torch.zeros(images, dtype=torch.long)
    sizes: dict[str, Any] = model.model_dump(include={"text_dim", "pooled_dim", "max_tokens"})
    return x, TextCondition(
        tokens=torch.zeros(images, sizes["max_tokens"], sizes["text_dim"]),
        mask=torch.ones(images, sizes["max_tokens"], dtype=torch.bool),
        pooled=torch.zeros(images, sizes.get("pooled_dim") or 1),
        dropped=torch.zeros(images, dtype=torch.bool),
    )


def _as_on_a_gpu(model: nn.Module) -> None:
    """torch's own GELU in place of the one that is made for CPUs, which keeps a tensor more."""
    for module in model.modules():
        if isinstance(module, Mlp) and module.activation is gelu_tanh:
            module.activation = functools.partial(F.gelu, approximate="tanh")


def _here(tensor: Tensor) -> Tensor:
    """What this rank holds of a plain tensor or a DTensor."""
    local: Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return local


def _local(tensor: Tensor) -> int:
    """Bytes that this rank holds."""
    return _here(tensor).numel() * tensor.element_size()


class _Kept:
    """Storages that autograd keeps for the backward pass, parameters aside, each once."""

    def __init__(self, model: nn.Module) -> None:
        self._storages: dict[int, torch.UntypedStorage] = {}
        self._own = {_here(parameter).untyped_storage()._cdata for parameter in model.parameters()}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._own:
            self._storages[storage._cdata] = storage
        return tensor

    def __enter__(self) -> None:
        self._hooks.__enter__()

    def __exit__(self, *exception: object) -> None:
        self._hooks.__exit__(*exception)

    def bytes(self) -> int:
        """As they are now: gathered weights are empty again after their block."""
        return sum(storage.nbytes() for storage in self._storages.values())


class _Exchange(TorchDispatchMode):
    """Bytes of FSDP2's collectives: a gathered or scattered tensor passes through each rank once, but for the rank's own share."""

    def __init__(self, ranks: int) -> None:
        super().__init__()
        self._ranks, self.bytes = ranks, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "c10d":
            whole = {"_allgather_base_": 0, "_reduce_scatter_base_": 1}[function._opname]  # which argument is the whole tensor
            self.bytes += args[whole].numel() * args[whole].element_size() * (self._ranks - 1) // self._ranks
        return function(*args, **(kwargs or {}))


def _attention(q: Any, k: Any, v: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Two products of the CPU's fused attention: q, k and v have shapes (batch, heads, tokens, channels)."""
    batch, heads, queries, channels = q
    return int(2 * 2 * batch * heads * queries * k[-2] * channels)


def _attention_backward(gradient: Any, q: Any, k: Any, v: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Four products; that the kernel computes one of the forward pass again is its own affair."""
    return 2 * _attention(q, k, v)


_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
