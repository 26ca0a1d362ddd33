"""Pack K models of one shape into one module: parameters stacked as [K, ...], activations [K, B, ...], one kernel for K products.

Any module whose forward accepts leading dimensions can be packed if its parameters live in the leaf types below, or are bare ones
that its class names in `bare_parameters` and broadcasts with `mudit.models.blocks.align`. The
trials do not meet: every operation is elementwise, row-wise or batched over K, so a packed trial takes the steps of its solo run
(tests/unit/train/test_packed.py states how closely).

Legend: K trials, B batch, R rows (batch and tokens), I O input and output channels, D width, V rows of an embedding table.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mudit.errors import ParametrizationError
from mudit.models.blocks import ImageConv, PatchProjection, align
from mudit.models.condition import Condition, map_condition
from mudit.models.external import Adapter
from mudit.parametrization.apply import InputMultiplier


class _LoopedLinear(torch.autograd.Function):
    """K linear layers as K plain products, in the order of operations that autograd uses for one: bit for bit its solo run.

    The batched product of the CPU's BLAS rounds differently from the plain one and is no faster here; what packing saves on a CPU
    is the dispatch of the pointwise operations around the products.
    """

    @staticmethod
    def forward(ctx: Any, x_KRI: Tensor, weight_KOI: Tensor, bias_KO: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_KRI, weight_KOI)
        y_KRO = x_KRI.new_empty(x_KRI.shape[0], x_KRI.shape[1], weight_KOI.shape[1])
        for k, (x_RI, weight_OI, y_RO) in enumerate(zip(x_KRI, weight_KOI, y_KRO, strict=True)):
            if bias_KO is None:
                torch.mm(x_RI, weight_OI.t(), out=y_RO)
            else:
                torch.addmm(bias_KO[k], x_RI, weight_OI.t(), out=y_RO)
        return y_KRO

    @staticmethod
    def backward(ctx: Any, grad_KRO: Tensor) -> tuple[Tensor | None, ...]:
        x_KRI, weight_KOI = ctx.saved_tensors
        grad_x = torch.empty_like(x_KRI) if ctx.needs_input_grad[0] else None
        grad_weight = torch.empty_like(weight_KOI)
        grad_bias = grad_KRO.new_empty(grad_KRO.shape[0], grad_KRO.shape[2]) if ctx.needs_input_grad[2] else None
        for k, grad_RO in enumerate(grad_KRO):
            if grad_x is not None:
                torch.mm(grad_RO, weight_KOI[k], out=grad_x[k])
            torch.mm(grad_RO.t(), x_KRI[k], out=grad_weight[k])
            if grad_bias is not None:
                torch.sum(grad_RO, 0, out=grad_bias[k])
        return grad_x, grad_weight, grad_bias


class PackedLinear(nn.Module):
    """K linear layers: x (K, ..., I) -> (K, ..., O). Plain products one by one on the CPU, one batched product elsewhere."""

    def __init__(self, weight_KOI: Tensor, bias_KO: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight_KOI)
        self.bias = None if bias_KO is None else nn.Parameter(bias_KO)

    def forward(self, x: Tensor) -> Tensor:
        k, *lead, size = x.shape
        x_KRI = x.reshape(k, -1, size)
        y_KRO = self.one_by_one(x_KRI) if x.device.type == "cpu" else self.at_once(x_KRI)
        return y_KRO.view(k, *lead, -1)

    def one_by_one(self, x_KRI: Tensor) -> Tensor:
        """Bit for bit the solo runs in float32. Under autocast in its type: it does not see inside our function."""
        weight_KOI: Tensor = self.weight.flatten(2)
        bias_KO: Tensor | None = self.bias
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            x_KRI, weight_KOI = x_KRI.to(dtype), weight_KOI.to(dtype)
            bias_KO = None if bias_KO is None else bias_KO.to(dtype)
        return _LoopedLinear.apply(x_KRI, weight_KOI, bias_KO)

    def at_once(self, x_KRI: Tensor) -> Tensor:
        """One batched product; autocast and TF32 treat it as they do plain ones."""
        weight_KIO = self.weight.flatten(2).transpose(1, 2)
        if self.bias is None:
            return torch.bmm(x_KRI, weight_KIO)
        return torch.baddbmm(self.bias.unsqueeze(1), x_KRI, weight_KIO)


class PackedEmbedding(nn.Module):
    """K embedding tables: labels (K, B) -> (K, B, D)."""

    def __init__(self, weight_KVD: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight_KVD)

    def forward(self, labels_KB: Tensor) -> Tensor:
        k, rows, width = self.weight.shape
        offset_K1 = torch.arange(k, device=labels_KB.device)[:, None] * rows
        return F.embedding(labels_KB + offset_K1, self.weight.view(k * rows, width))


class PackedNorm(nn.Module):
    """K layer or RMS norms with gains over the last dimension: x (K, ..., D) -> the same. Bit for bit on the CPU, one by one."""

    def __init__(self, norm: nn.LayerNorm | nn.RMSNorm, weight_KD: Tensor, bias_KD: Tensor | None) -> None:
        super().__init__()
        self.shape, self.eps, self.centred = norm.normalized_shape, norm.eps, isinstance(norm, nn.LayerNorm)
        self.weight = nn.Parameter(weight_KD)
        self.bias = None if bias_KD is None else nn.Parameter(bias_KD)

    def forward(self, x: Tensor) -> Tensor:
        return self.one_by_one(x) if x.device.type == "cpu" else self.at_once(x)

    def one_by_one(self, x: Tensor) -> Tensor:
        """Bit for bit the solo runs."""
        biases = [None] * x.shape[0] if self.bias is None else self.bias.unbind(0)
        return torch.stack([self._norm(*trial) for trial in zip(x.unbind(0), self.weight.unbind(0), biases, strict=True)])

    def at_once(self, x: Tensor) -> Tensor:
        """One kernel for all trials, then their gains."""
        gain = align(self.weight, 1, x, 1)
        normed = self._norm(x, None, None)
        return normed * gain if self.bias is None else torch.addcmul(align(self.bias, 1, x, 1), normed, gain)

    def _norm(self, x: Tensor, weight_D: Tensor | None, bias_D: Tensor | None) -> Tensor:
        if self.centred:
            return F.layer_norm(x, self.shape, weight_D, bias_D, self.eps or 0.0)
        return F.rms_norm(x, self.shape, weight_D, self.eps)


class PackedImageConv(nn.Module):
    """K convolutions of whole images: x (K, ..., C, h, w) -> (K, ..., C', h, w), one by one on the CPU, grouped elsewhere."""

    def __init__(self, conv: nn.Conv2d, weight_KOCkk: Tensor, bias_KO: Tensor) -> None:
        super().__init__()
        self.padding = conv.padding
        self.weight = nn.Parameter(weight_KOCkk)
        self.bias = nn.Parameter(bias_KO)

    def forward(self, x: Tensor) -> Tensor:
        k, *lead, c, h, w = x.shape
        x_KBChw = x.reshape(k, -1, c, h, w)
        y_KBChw = self.one_by_one(x_KBChw) if x.device.type == "cpu" else self.at_once(x_KBChw)
        return y_KBChw.reshape(k, *lead, -1, h, w)

    def one_by_one(self, x_KBChw: Tensor) -> Tensor:
        """Bit for bit the solo runs."""
        trials = zip(x_KBChw.unbind(0), self.weight.unbind(0), self.bias.unbind(0), strict=True)
        return torch.stack([F.conv2d(*trial, padding=self.padding) for trial in trials])

    def at_once(self, x_KBChw: Tensor) -> Tensor:
        """One grouped convolution, trials as groups of channels."""
        k = x_KBChw.shape[0]
        stacked = x_KBChw.transpose(0, 1).flatten(1, 2)
        y = F.conv2d(stacked, self.weight.flatten(0, 1), self.bias.flatten(), padding=self.padding, groups=k)
        return y.unflatten(1, (k, -1)).transpose(0, 1)


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

    Weights are copied. Raises ParametrizationError for a module whose parameters have no packed form.
    """
    if isinstance(models[0], Adapter):  # a module from elsewhere need not accept leading dimensions
        raise _no_form("the model", models[0].module)
    packed = copy.deepcopy(models[0])
    _stack_bare(packed, models, "the model")
    _replace_leaves(packed, models, prefix="")
    return packed


class Alone(nn.Module):
    """A group of one, for a model without a packed form: inputs and outputs have the leading 1, its parameters do not."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self.model(x[0], t[0], map_condition(lambda tensor: tensor[0], condition)).unsqueeze(0)


def packable(model: nn.Module) -> bool:
    """Whether all of the model's parameters have a packed form."""
    try:
        pack([model])
    except ParametrizationError:
        return False
    return True


def unpack_into(packed: nn.Module, index: int, model: nn.Module) -> None:
    """Copy trial `index` of a packed module into a plain one."""
    with torch.no_grad():
        stacked = dict(packed.named_parameters())
        for name, parameter in model.named_parameters():
            parameter.copy_(stacked[name][index].view_as(parameter))


def trial_views(packed: nn.Module, count: int) -> list[dict[str, Tensor]]:
    """For each trial, name -> detached view of its slice of every stacked parameter: what an optimizer may update in place."""
    return _by_trial(packed, count, lambda parameter: parameter.detach())


def trial_gradients(packed: nn.Module, count: int) -> list[dict[str, Tensor]]:
    """For each trial, name -> its slice of the gradient. A parameter that the loss does not reach has none."""
    return _by_trial(packed, count, lambda parameter: parameter.grad)


def _by_trial(packed: nn.Module, count: int, value: Callable[[nn.Parameter], Tensor | None]) -> list[dict[str, Tensor]]:
    if isinstance(packed, Alone):
        assert count == 1, "a model without a packed form runs alone"
        named = {name: value(parameter) for name, parameter in packed.model.named_parameters() if parameter.requires_grad}
        return [{name: tensor for name, tensor in named.items() if tensor is not None}]
    slices: list[dict[str, Tensor]] = [{} for _ in range(count)]
    for name, parameter in packed.named_parameters():
        stacked = value(parameter)
        for index, part in enumerate(() if stacked is None else stacked.unbind(0)):
            slices[index][name] = part
    return slices


def _replace_leaves(node: nn.Module, models: Sequence[nn.Module], prefix: str) -> None:
    for name, child in list(node.named_children()):
        path = f"{prefix}{name}"
        originals = [model.get_submodule(path) for model in models]
        if hasattr(child, "bare_parameters") or next(child.parameters(recurse=False), None) is None:
            _stack_bare(child, originals, path)
            _replace_leaves(child, models, f"{path}.")
            continue
        leaf = _pack_leaf(path, originals)
        _pack_hooks(leaf, originals)
        setattr(node, name, leaf)


def _stack_bare(node: nn.Module, originals: Sequence[nn.Module], path: str) -> None:
    """Stack the parameters that a module holds itself; its class must have named them, and so promised to broadcast them."""
    declared = getattr(node, "bare_parameters", ())
    for name, _ in list(node.named_parameters(recurse=False)):
        if name not in declared:
            raise _no_form(path, node)
        setattr(node, name, nn.Parameter(torch.stack([getattr(original, name).detach() for original in originals])))


def _pack_leaf(path: str, originals: Sequence[nn.Module]) -> nn.Module:
    first = originals[0]

    def stacked(name: str) -> Tensor:
        return torch.stack([getattr(module, name).detach() for module in originals])

    def bias() -> Tensor | None:
        return None if getattr(first, "bias", None) is None else stacked("bias")

    if type(first) in (nn.Linear, PatchProjection):
        return PackedLinear(stacked("weight"), bias())
    if type(first) is nn.Embedding:
        return PackedEmbedding(stacked("weight"))
    if isinstance(first, nn.LayerNorm | nn.RMSNorm) and len(first.normalized_shape) == 1:
        return PackedNorm(first, stacked("weight"), bias())
    if type(first) is ImageConv:
        return PackedImageConv(first, stacked("weight"), stacked("bias"))
    raise _no_form(path, first)


def _no_form(path: str, module: nn.Module) -> ParametrizationError:
    return ParametrizationError(f"{path}: {type(module).__name__} has no packed form; run this model's trials one after another")


def _pack_hooks(leaf: nn.Module, originals: Sequence[nn.Module]) -> None:
    factors = [
        next((hook.factor for hook in module._forward_pre_hooks.values() if isinstance(hook, InputMultiplier)), 1.0)
        for module in originals
    ]
    if any(factor != 1.0 for factor in factors):
        leaf.register_forward_pre_hook(PackedInputMultiplier(factors))
