"""`mudit params`: the table of an experiment's, a published or your own model at a width, as JSON or as a page to read."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from mudit.config.models import CALLABLE
from mudit.errors import ConfigError
from mudit.models.external import ModuleFactory
from mudit.parametrization.table import ParameterTable, Row, derive_external_table

_WIDEST = 500  # columns
_SAME_STD = 0.2  # relative difference at which two measured inits of one block's parameter still count as one


def run_factory(
    factory: ModuleFactory, width: int, base_width: int, delta_width: int, scheme: str, zero_readout: bool
) -> ParameterTable:
    """The table of `factory(width)` under `scheme`. Raises ConfigError or ParametrizationError."""
    for flag, value in (("--width", width), ("--base-width", base_width), ("--delta-width", delta_width)):
        if value <= 0 or value % factory.width_unit:
            unit = "" if factory.width_unit == 1 else f"a multiple of --width-unit {factory.width_unit} and "
            raise ConfigError(f"{flag} {value}: must be {unit}positive")
    if base_width == delta_width:
        raise ConfigError(f"--delta-width must differ from --base-width (both are {base_width})")
    return derive_external_table(
        factory, scheme=scheme, width=width, base_width=base_width, delta_width=delta_width, zero_readout=zero_readout
    )


def factory_of(target: str, width_argument: str, width_unit: int, options: list[str], seed: int) -> ModuleFactory:
    """The factory that a command line names. `options`: NAME=VALUE, the value in YAML. Raises ConfigError."""
    if re.fullmatch(CALLABLE, target) is None:
        raise ConfigError(f"--model {target}: write package.module:factory, the module as `import` has it, without a path or .py")
    if width_unit <= 0:
        raise ConfigError(f"--width-unit {width_unit}: must be positive")
    return ModuleFactory(target, width_argument, width_unit, dict(map(_option, options)), seed)


def _option(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        separator = ""
    if not name.isidentifier() or not separator:
        raise ConfigError(f"--option {text}: write NAME=VALUE, the value as in YAML")
    return name, parsed


@dataclass
class _Line:
    """Alike rows of several blocks."""

    row: Row
    folded: str
    count: int = 1


def print_table(table: ParameterTable, as_json: bool) -> None:
    """Print to stdout: {"parameters": [...]} as JSON, or a table with alike blocks folded into one row."""
    if as_json:
        print(json.dumps(table.to_dict(), indent=2))
        return
    page = Table(title=f"{table.scheme} at width {table.width} (base {table.base_width}): {table.total / 1e6:.2f}M parameters")
    for heading in ("parameter", "shape", "infinite", "role", "init std", "lr x", "decay x", "forward x"):
        page.add_column(heading, justify="left" if heading in ("parameter", "role") else "right", no_wrap=True)
    for line in _folded(table):
        row = line.row
        page.add_row(
            line.folded if line.count > 1 else row.name,
            "x".join(map(str, row.shape)),
            str(row.infinite_dims),
            row.role,
            _start(row),
            f"{row.lr_multiplier:.4g}",
            f"{row.weight_decay_multiplier:.4g}",
            f"{row.forward_multiplier:.4g}",
        )
    console = Console()
    needed = console.measure(page, options=console.options.update(max_width=_WIDEST)).maximum
    console.width = max(console.width, needed)  # a name cut short is worse than a wrapped line
    console.print(page)


def _folded(table: ParameterTable) -> list[_Line]:
    """Rows that differ in the first number of their names only, which counts blocks, as one line each."""
    lines: list[_Line] = []
    for row in table.rows:
        parts = row.name.split(".")
        index = next((index for index, part in enumerate(parts) if part.isdigit()), None)
        folded = row.name if index is None else ".".join([*parts[:index], "*", *parts[index + 1 :]])
        same = next((line for line in lines if line.folded == folded and _alike(line.row, row)), None)
        if same is None:
            lines.append(_Line(row, folded))
        else:
            same.count += 1
    return lines


def _alike(a: Row, b: Row) -> bool:
    return (
        (a.shape, a.role, a.lr_multiplier, a.weight_decay_multiplier, a.forward_multiplier)
        == (b.shape, b.role, b.lr_multiplier, b.weight_decay_multiplier, b.forward_multiplier)
        and (a.init_distribution, a.init_mean) == (b.init_distribution, b.init_mean)
        and math.isclose(a.init_std, b.init_std, rel_tol=_SAME_STD)
    )


def _start(row: Row) -> str:
    if row.init_distribution == "as built":
        return "as built"
    if row.init_std == 0.0 and row.init_mean != 0.0:
        return f"all {row.init_mean:.4g}"
    return f"{row.init_std:.4g}" if row.init_mean == 0.0 else f"{row.init_std:.4g} at {row.init_mean:.4g}"
