"""The parametrization of one model at one width: a row per trainable parameter, kept beside its weights."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from mudit.config.schema import ModelSection
from mudit.errors import ParametrizationError
from mudit.models.registry import build
from mudit.parametrization.recipes import RECIPES, Distribution, assign
from mudit.parametrization.rules import SCHEMES, multipliers
from mudit.parametrization.shapes import Factory, Role, infer_shapes


@dataclass(frozen=True)
class Row:
    """One trainable parameter. Multipliers are relative to the base learning rate and the base weight decay."""

    name: str
    shape: tuple[int, ...]
    infinite_dims: int
    role: Role
    width_mult: float
    init_std: float
    init_distribution: Distribution
    lr_multiplier: float
    weight_decay_multiplier: float
    forward_multiplier: float


@dataclass(frozen=True)
class ParameterTable:
    """Rows in the model's order, with the scheme and widths that they follow from."""

    scheme: str
    width: int
    base_width: int
    rows: tuple[Row, ...]

    def __getitem__(self, name: str) -> Row:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    @property
    def total(self) -> int:
        """Trainable parameters."""
        return sum(_count(row.shape) for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form: {"scheme", "width", "base_width", "total", "parameters": [...]}."""
        return {
            "scheme": self.scheme,
            "width": self.width,
            "base_width": self.base_width,
            "total": self.total,
            "parameters": [{**asdict(row), "shape": list(row.shape)} for row in self.rows],
        }

    @property
    def digest(self) -> str:
        """sha256 of the table's JSON: equal tables, equal digests."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def with_row(self, name: str, **changes: Any) -> ParameterTable:
        """A copy with one row changed: how planted mistakes are made."""
        self[name]  # a wrong name is an error
        rows = tuple(replace(row, **changes) if row.name == name else row for row in self.rows)
        return replace(self, rows=rows)


def derive_table(
    factory: Factory, *, family: str, scheme: str, width: int, base_width: int, delta_width: int, output_mult: float = 1.0
) -> ParameterTable:
    """The table of `factory(width)` under a scheme, from shapes at base and delta width.

    Raises ParametrizationError for an unknown scheme or family, or a parameter without a rule.
    """
    if scheme not in SCHEMES:
        raise ParametrizationError(f"scheme {scheme!r} is not one of {sorted(SCHEMES)}")
    if family not in RECIPES:
        raise ParametrizationError(f"family {family!r} has no initialisation recipe; there are {sorted(RECIPES)}")
    scaling, which = SCHEMES[scheme]
    shapes = infer_shapes(factory, width=width, base_width=base_width, delta_width=delta_width)
    inits = assign(RECIPES[family][which == "mup"], [shape.name for shape in shapes])
    rows = []
    for shape in shapes:
        init = inits[shape.name]
        rule = multipliers(scaling, shape, init, output_mult)
        rows.append(
            Row(
                name=shape.name,
                shape=shape.shape,
                infinite_dims=shape.infinite_dims,
                role=shape.role,
                width_mult=shape.width_mult,
                init_std=rule.init_std,
                init_distribution=init.distribution,
                lr_multiplier=rule.lr,
                weight_decay_multiplier=rule.weight_decay,
                forward_multiplier=rule.forward,
            )
        )
    return ParameterTable(scheme=scheme, width=width, base_width=base_width, rows=tuple(rows))


def table_for(model: ModelSection, width: int, scheme: str) -> ParameterTable:
    """The table of a configured model family at a width."""
    return derive_table(
        lambda w: build(model, w),
        family=model.family,
        scheme=scheme,
        width=width,
        base_width=model.base_width,
        delta_width=model.delta_width,
        output_mult=model.output_mult,
    )


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
