"""The parametrization of one model at one width: a row per trainable parameter, kept beside its weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from mudit.config.models import ExternalSection, ModelSection
from mudit.errors import ParametrizationError
from mudit.models.external import ModuleFactory
from mudit.models.families import build
from mudit.parametrization.measured import measured_inits
from mudit.parametrization.recipes import RECIPES, ZERO, Distribution, Init, assign
from mudit.parametrization.rules import SCHEMES, Scaling, multipliers, same_start
from mudit.parametrization.shapes import Factory, ParameterShape, Role, infer_shapes


@dataclass(frozen=True)
class Row:
    """One trainable parameter. Multipliers are relative to the base learning rate and the base weight decay."""

    name: str
    shape: tuple[int, ...]
    infinite_dims: int
    role: Role
    width_mult: float
    init_mean: float
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
    """The table of one of our families, `factory(width)`, under a scheme, from shapes at base and delta width.

    Raises ParametrizationError for an unknown scheme or family, or a parameter without a rule.
    """
    _check_scheme(scheme)
    if family not in RECIPES:
        raise ParametrizationError(f"family {family!r} has no initialisation recipe; there are {sorted(RECIPES)}")
    scaling, which = SCHEMES[scheme]
    shapes = infer_shapes(factory, width=width, base_width=base_width, delta_width=delta_width)
    inits = assign(RECIPES[family][which == "mup"], [shape.name for shape in shapes])
    rows = tuple(_row(shape, inits[shape.name], scaling, output_mult) for shape in shapes)
    return ParameterTable(scheme=scheme, width=width, base_width=base_width, rows=rows)


def derive_external_table(
    factory: ModuleFactory,
    *,
    scheme: str,
    width: int,
    base_width: int,
    delta_width: int,
    output_mult: float = 1.0,
    zero_readout: bool = False,
) -> ParameterTable:
    """The table of a model of your own, whose plain init is measured: at base width, or for `sp` at the width itself.

    `zero_readout`: parameters with the role of an output start at zero, except under `sp`, which is the factory's own init.
    Raises ParametrizationError for an unknown scheme, a parameter without a rule or an init without one, ConfigError if the
    factory fails.
    """
    _check_scheme(scheme)
    scaling, _ = SCHEMES[scheme]
    shapes = infer_shapes(factory, width=width, base_width=base_width, delta_width=delta_width)
    inits: Mapping[str, Init] = measured_inits(factory, width if scheme == "sp" else base_width)
    rows = []
    for shape in shapes:
        init = inits[shape.name]
        if scheme != "sp":
            if zero_readout and shape.role == "output":
                init = ZERO
            _check_scales(shape, init)
        if scheme == "sp-same-init":
            init = same_start(shape, init, output_mult)
        rows.append(_row(shape, init, scaling, output_mult))
    return ParameterTable(scheme=scheme, width=width, base_width=base_width, rows=tuple(rows))


def table_for(model: ModelSection, width: int, scheme: str) -> ParameterTable:
    """The table of a configured model at a width."""
    if isinstance(model, ExternalSection):
        return derive_external_table(
            ModuleFactory.of(model),
            scheme=scheme,
            width=width,
            base_width=model.base_width,
            delta_width=model.delta_width,
            output_mult=model.output_mult,
            zero_readout=model.zero_readout,
        )
    return derive_table(
        lambda w: build(model, w),
        family=model.family,
        scheme=scheme,
        width=width,
        base_width=model.base_width,
        delta_width=model.delta_width,
        output_mult=model.output_mult,
    )


def _row(shape: ParameterShape, init: Init, scaling: Scaling, output_mult: float) -> Row:
    rule = multipliers(scaling, shape, init, output_mult)
    return Row(
        name=shape.name,
        shape=shape.shape,
        infinite_dims=shape.infinite_dims,
        role=shape.role,
        width_mult=shape.width_mult,
        init_mean=init.mean,
        init_std=rule.init_std,
        init_distribution=init.distribution,
        lr_multiplier=rule.lr,
        weight_decay_multiplier=rule.weight_decay,
        forward_multiplier=rule.forward,
    )


def _check_scheme(scheme: str) -> None:
    if scheme not in SCHEMES:
        raise ParametrizationError(f"scheme {scheme!r} is not one of {sorted(SCHEMES)}")


def _check_scales(shape: ParameterShape, init: Init) -> None:
    """muP's rules are about independent values of mean zero wherever a sum runs over the width."""
    if shape.role in ("hidden", "output") and (init.mean != 0.0 or init.distribution == "as built"):
        what = "known numbers" if init.distribution == "as built" else f"values of mean {init.mean:.3g}"
        raise ParametrizationError(
            f"{shape.name}: a matrix over the width that starts as {what}; muP has rules for zeros and random values around zero"
        )


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
