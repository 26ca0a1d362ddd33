"""Apply a table to a plain module: draw the weights, attach forward multipliers, build optimizer groups. By name, before wrapping.

Nothing is stored on tensors: multipliers live in a forward pre-hook's float and in the optimizer's groups, so deepcopy (EMA),
safetensors, DDP, FSDP2 and torch.compile keep them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mudit.errors import ParametrizationError
from mudit.parametrization.table import ParameterTable, Row
from mudit.random import torch_seed


class InputMultiplier:
    """A forward pre-hook that multiplies a module's input by a float: muP's readout is y = W (c / m) x + b."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0] * self.factor, *inputs[1:])


@torch.no_grad()
def initialise(model: nn.Module, table: ParameterTable, seed: int) -> None:
    """Draw every trainable parameter from its row, in place; each from its own stream (seed, name), whatever the others' shapes."""
    for name, parameter, row in _matched(model, table):
        if row.init_distribution == "as built":
            continue
        parameter.copy_(draw(row, seed, name).to(parameter.device, parameter.dtype))


def draw(row: Row, seed: int, name: str) -> Tensor:
    """The initial value of one parameter, float32 on the CPU."""
    assert row.init_distribution != "as built", f"{name} is not drawn"
    if row.init_std == 0.0:
        return torch.full(row.shape, row.init_mean)
    generator = torch.Generator().manual_seed(torch_seed(seed, f"init/{name}"))
    if row.init_distribution == "uniform":
        bound = 3.0**0.5 * row.init_std
        return torch.empty(row.shape).uniform_(row.init_mean - bound, row.init_mean + bound, generator=generator)
    return torch.empty(row.shape).normal_(row.init_mean, row.init_std, generator=generator)


def attach_multipliers(model: nn.Module, table: ParameterTable) -> None:
    """Register the forward multipliers that are not 1 as pre-hooks of the modules that own the weights. Once per model."""
    _matched(model, table)
    for name, owners, row in _multiplied(model, table):
        for owner in owners:
            assert not any(isinstance(hook, InputMultiplier) for hook in owner._forward_pre_hooks.values()), (
                f"{name} already has its multiplier"
            )
            owner.register_forward_pre_hook(InputMultiplier(row.forward_multiplier))


@torch.no_grad()
def fold_multipliers(model: nn.Module, table: ParameterTable) -> nn.Module:
    """Move the forward multipliers into the weights, in place, and remove their hooks: the plain class then computes the same.

    For finished weights that leave the project. Do not train on: the optimizer's rules belong to the form with multipliers.
    """
    for name, owners, row in _multiplied(model, table):
        for owner in owners:
            hooks = owner._forward_pre_hooks
            found = [key for key, hook in hooks.items() if isinstance(hook, InputMultiplier)]
            assert len(found) == 1, f"{name} has no multiplier to fold"
            del hooks[found[0]]
        model.get_parameter(name).mul_(row.forward_multiplier)
    return model


def parameter_groups(model: nn.Module, table: ParameterTable, *, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW groups, one per distinct pair of multipliers: {"params", "names", "lr", "weight_decay"}.

    A schedule must scale each group's own lr; an absolute lr would undo the parametrization.
    """
    return group_rows(((name, parameter, row) for name, parameter, row in _matched(model, table)), lr, weight_decay)


def group_rows(rows: Iterable[tuple[str, Tensor, Row]], lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Groups of (name, parameter, row) triples by multipliers, in first-seen order."""
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter, row in rows:
        key = (row.lr_multiplier, row.weight_decay_multiplier)
        if key not in groups:
            groups[key] = {"params": [], "names": [], "lr": lr * key[0], "weight_decay": weight_decay * key[1]}
        groups[key]["params"].append(parameter)
        groups[key]["names"].append(name)
    return list(groups.values())


def parametrize(model: nn.Module, table: ParameterTable, seed: int) -> nn.Module:
    """`initialise` and `attach_multipliers`, for a model that was just built."""
    initialise(model, table, seed)
    attach_multipliers(model, table)
    return model


def _multiplied(model: nn.Module, table: ParameterTable) -> list[tuple[str, list[nn.Module], Row]]:
    """Every parameter with a forward multiplier, frozen or not, the modules that own it (several if it is tied), and its row."""
    places: dict[int, dict[int, nn.Module]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owner = model.get_submodule(name.rpartition(".")[0])
        places.setdefault(id(parameter), {})[id(owner)] = owner
    rows = [row for row in table.rows if row.forward_multiplier != 1.0]
    return [(row.name, list(places[id(model.get_parameter(row.name))].values()), row) for row in rows]


def _matched(model: nn.Module, table: ParameterTable) -> list[tuple[str, nn.Parameter, Row]]:
    """Every trainable parameter with its row. A parameter without a row, or a row without one, is a ParametrizationError."""
    rows = {row.name: row for row in table.rows}
    matched = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        row = rows.pop(name, None)
        if row is None:
            raise ParametrizationError(f"{name}: no row in the parameter table; derive the table from this model")
        if tuple(parameter.shape) != row.shape:
            raise ParametrizationError(f"{name}: shape {tuple(parameter.shape)} differs from the table's {row.shape}")
        matched.append((name, parameter, row))
    if rows:
        raise ParametrizationError(f"{next(iter(rows))}: in the parameter table but not in the model")
    return matched
