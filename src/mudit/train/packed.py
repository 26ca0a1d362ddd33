"""Pack K models of one shape into one module: parameters stacked as [K, ...], activations [K, B, ...], one kernel for K products.

Any module whose own parameters live in the leaf types below, and whose forward accepts leading dimensions, can be packed. The
trials do not meet: every operation is elementwise, row-wise or batched over K, so a packed trial takes the steps of its solo run
(tests/unit/train/test_packed.py states how closely).

Legend: K trials, B batch, R rows (batch and tokens), I O input and output channels, D width, V rows of an embedding table.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mudit.errors import ParametrizationError
from mudit.models.blocks import PatchProjection
from mudit.parametrization.apply import InputMultiplier


class _LoopedLinear(torch.autograd.Function):
    """K linear layers as K plain products, in the order of operations that autograd uses for one: bit for bit its solo run.

    The batched product of the CPU's BLAS rounds differently from the plain one and is no faster here; what packing saves on a CPU
    is the dispatch of the pointwise operations around the products.
    """

    @staticmethod
    def forward(ctx: Any, x_KRI: Tensor, weight_KOI: Tensor, bias_KO: Tensor) -> Tensor:
        ctx.save_for_backward(x_KRI, weight_KOI)
        y_KRO = x_KRI.new_empty(x_KRI.shape[0], x_KRI.shape[1], weight_KOI.shape[1])
        for x_RI, weight_OI, bias_O, y_RO in zip(x_KRI, weight_KOI, bias_KO, y_KRO, strict=True):
            torch.addmm(bias_O, x_RI, weight_OI.t(), out=y_RO)
        return y_KRO

    @staticmethod
    def backward(ctx: Any, grad_KRO: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x_KRI, weight_KOI = ctx.saved_tensors
        grad_x = torch.empty_like(x_KRI) if ctx.needs_input_grad[0] else None
        grad_weight, grad_bias = torch.empty_like(weight_KOI), grad_KRO.new_empty(grad_KRO.shape[0], grad_KRO.shape[2])
        for k, grad_RO in enumerate(grad_KRO):
            if grad_x is not None:
                torch.mm(grad_RO, weight_KOI[k], out=grad_x[k])
            torch.mm(grad_RO.t(), x_KRI[k], out=grad_weight[k])
            torch.sum(grad_RO, 0, out=grad_bias[k])
        return grad_x, grad_weight, grad_bias


class PackedLinear(nn.Module):
    """K linear layers: x (K, ..., I) -> (K, ..., O). Plain products one by one on the CPU, one batched product elsewhere."""

    def __init__(self, weight_KOI: Tensor, bias_KO: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight_KOI)
        self.bias = nn.Parameter(bias_KO)

    def forward(self, x: Tensor) -> Tensor:
        k, *lead, size = x.shape
        x_KRI, weight_KOI = x.reshape(k, -1, size), self.weight.flatten(2)
        if x.device.type == "cpu":
            y_KRO = _LoopedLinear.apply(x_KRI, weight_KOI, self.bias)
        else:
            y_KRO = torch.baddbmm(self.bias.unsqueeze(1), x_KRI, weight_KOI.transpose(1, 2))
        return y_KRO.view(k, *lead, -1)


class PackedEmbedding(nn.Module):
    """K embedding tables: labels (K, B) -> (K, B, D)."""

    def __init__(self, weight_KVD: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight_KVD)

    def forward(self, labels_KB: Tensor) -> Tensor:
        k, rows, width = self.weight.shape
        offset_K1 = torch.arange(k, device=labels_KB.device)[:, None] * rows
        return F.embedding(labels_KB + offset_K1, self.weight.view(k * rows, width))


class PackedInputMultiplier:
    """A forward pre-hook that multiplies trial k's input by its own float."""

    def __init__(self, factors: Sequence[float]) -> None:
        self.factors = tuple(factors)

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = inputs[0]
        factors = torch.tensor(self.factors, dtype=x.dtype, device=x.device).view(-1, *[1] * (x.ndim - 1))
        return (x * factors, *inputs[1:])


def pack(models: Sequence[nn.Module]) -> nn.Module:
    """One module that computes all `models` (same architecture) at once; inputs and outputs gain a leading K.

    Weights are copied. Raises ParametrizationError for a module whose parameters are in a leaf that has no packed form.
    """
    packed = copy.deepcopy(models[0])
    _replace_leaves(packed, models, prefix="")
    return packed


def unpack_into(packed: nn.Module, index: int, model: nn.Module) -> None:
    """Copy trial `index` of a packed module into a plain one."""
    with torch.no_grad():
        stacked = dict(packed.named_parameters())
        for name, parameter in model.named_parameters():
            parameter.copy_(stacked[name][index].view_as(parameter))


def trial_views(packed: nn.Module, count: int) -> list[dict[str, Tensor]]:
    """For each trial, name -> detached view of its slice of every stacked parameter: what an optimizer may update in place."""
    views: list[dict[str, Tensor]] = [{} for _ in range(count)]
    for name, parameter in packed.named_parameters():
        for index, view in enumerate(parameter.detach().unbind(0)):
            views[index][name] = view
    return views


def _replace_leaves(node: nn.Module, models: Sequence[nn.Module], prefix: str) -> None:
    for name, child in list(node.named_children()):
        path = f"{prefix}{name}"
        if next(child.parameters(recurse=False), None) is None:
            _replace_leaves(child, models, f"{path}.")
            continue
        originals = [model.get_submodule(path) for model in models]
        leaf = _pack_leaf(path, originals)
        _pack_hooks(leaf, originals)
        setattr(node, name, leaf)


def _pack_leaf(path: str, originals: Sequence[nn.Module]) -> nn.Module:
    kind = type(originals[0])

    def stacked(name: str) -> Tensor:
        return torch.stack([getattr(module, name).detach() for module in originals])

    if kind in (nn.Linear, PatchProjection) and originals[0].bias is not None:
        return PackedLinear(stacked("weight"), stacked("bias"))
    if kind is nn.Embedding:
        return PackedEmbedding(stacked("weight"))
    raise ParametrizationError(f"{path}: {kind.__name__} has no packed form; run this model's trials one after another")


def _pack_hooks(leaf: nn.Module, originals: Sequence[nn.Module]) -> None:
    factors = [
        next((hook.factor for hook in module._forward_pre_hooks.values() if isinstance(hook, InputMultiplier)), 1.0)
        for module in originals
    ]
    if any(factor != 1.0 for factor in factors):
        leaf.register_forward_pre_hook(PackedInputMultiplier(factors))
