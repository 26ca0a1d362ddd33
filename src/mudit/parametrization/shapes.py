"""Which dimensions of each parameter grow with width: `mup`'s own inference, run on the meta device, and the roles that follow.

Roles (paper, Table 1; Yang et al. 2022, Table 8):
  input    one infinite dimension, fan-out (patch embedding, first layers of embedders, embedding tables)
  hidden   two infinite dimensions
  output   one infinite dimension, fan-in (the readout)
  vector   one infinite dimension, no fan-in (biases, scale-shift tables)
  finite   no infinite dimension (the readout's bias)

Shapes alone do not tell a readout (fan-in infinite) from a table of rows (an embedding, a learned position): the module that owns
the weight does. So a readout must be a Linear or a convolution; a bare parameter of that shape counts as a table, and if it is used
as a readout after all, the coordinate check fails.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from mudit.errors import ConfigError, ParametrizationError

log = logging.getLogger(__name__)

Role = Literal["input", "hidden", "output", "vector", "finite"]
Factory = Callable[[int], nn.Module]


@dataclass(frozen=True)
class ParameterShape:
    """One trainable parameter: its shape at base and target width, and what grows."""

    name: str
    shape: tuple[int, ...]
    base_shape: tuple[int, ...]
    infinite_dims: int
    width_mult: float  # target over base, of the fan-in if that is infinite, else of the infinite dimension; 1 if none is
    role: Role


def infer_shapes(factory: Factory, *, width: int, base_width: int, delta_width: int) -> list[ParameterShape]:
    """Shapes and roles of every trainable parameter of `factory(width)`, in the model's order. Allocates no memory for weights.

    `factory(width)` builds a module whose parameter names do not depend on the width. A dimension that differs between
    `base_width` and `delta_width` is infinite. Raises ParametrizationError if names differ, a parameter is empty or has no rule.
    """
    from mup.shape import get_shapes, make_base_shapes, zip_infshape

    base, delta, target = outline(factory, base_width), outline(factory, delta_width), outline(factory, width)
    base_names, target_names = dict(base.named_parameters()).keys(), dict(target.named_parameters()).keys()
    if base_names != target_names or base_names != dict(delta.named_parameters()).keys():
        odd = sorted(set(base_names) ^ set(target_names))[:3]
        raise ParametrizationError(
            f"parameter names change with width, so no rule can follow them: {odd}; keep depth and options fixed"
        )
    for model, at in ((base, base_width), (delta, delta_width), (target, width)):
        for name, parameter in model.named_parameters():
            if parameter.numel() == 0:
                shape = tuple(parameter.shape)
                raise ParametrizationError(f"{name} has shape {shape} at width {at}; take a width that the model can have")
    base_infshapes = make_base_shapes(get_shapes(base), get_shapes(delta))
    names = _names(target)
    rows = []
    for name, parameter in target.named_parameters():
        if not parameter.requires_grad:
            continue
        infshape = zip_infshape(base_infshapes[name], parameter.shape, fin_if_same=False)
        infinite = tuple(dim.isinf() for dim in infshape)
        before = tuple(base.get_parameter(name).shape)
        if any(size != at_base for size, at_base, grows in zip(parameter.shape, before, infinite, strict=True) if not grows):
            raise ParametrizationError(
                f"{name} has shape {before} at widths {base_width} and {delta_width} alike, but {tuple(parameter.shape)} at "
                f"{width}, so no rule can follow it; take another delta width, or a size in proportion to width"
            )
        rows.append(
            ParameterShape(
                name=name,
                shape=tuple(parameter.shape),
                base_shape=before,
                infinite_dims=sum(infinite),
                width_mult=float(infshape.width_mult()) if any(infinite) else 1.0,
                role=_shared_role(target, names[id(parameter)], infinite),
            )
        )
    return rows


def outline(factory: Factory, width: int) -> nn.Module:
    """The module on the meta device; on the CPU if the factory reads values of tensors while it builds."""
    try:
        with torch.device("meta"):
            return factory(width)
    except (ConfigError, NotImplementedError, RuntimeError) as error:
        module = factory(width)
        log.info("width %d is built in memory: on the meta device the factory raised %s", width, error)
        return module


def _names(model: nn.Module) -> dict[int, list[str]]:
    """Every name of every parameter, by its identity: tied parameters have several."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return names


def _shared_role(model: nn.Module, names: list[str], infinite: tuple[bool, ...]) -> Role:
    roles = {name: _role(model, name, infinite) for name in names}
    role = roles[names[0]]
    for name, other in roles.items():
        if other != role:
            raise ParametrizationError(
                f"{names[0]} and {name} are one parameter, but its role is {role} here and {other} there; muP scales them "
                "differently, so untie them"
            )
    return role


def _role(model: nn.Module, name: str, infinite: tuple[bool, ...]) -> Role:
    count = sum(infinite)
    if count == 0:
        return "finite"
    if count == 2:
        return "hidden"
    if count > 2:
        raise ParametrizationError(f"{name}: {count} dimensions grow with width; muP has rules for at most two")
    owner_name, _, leaf = name.rpartition(".")
    owner = model.get_submodule(owner_name)
    # An embedding table (rows, width) has a readout's shape: only the module's type tells them apart, as in `mup` itself.
    if leaf == "weight" and isinstance(owner, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return "output" if infinite[1] else "input"
    if leaf == "weight" and isinstance(owner, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        return "output" if infinite[0] else "input"
    if isinstance(owner, nn.Embedding | nn.EmbeddingBag):
        return "input"
    return "vector"
