"""The look of every figure: colours, type and two ways out, as a file and as SVG inside the page.

The page has a light and a dark scheme. Figures are drawn in the light scheme's colours; inside the page each colour becomes a
CSS variable of the same name (templates/page.css), so one SVG serves both. Output is a function of its input: no dates, fixed ids.
matplotlib is imported inside functions, since a stage that only may draw must not pay for it.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#1b1f24", "#6b7280", "#e4e7eb", "#fefefe"
GOOD, BAD = "#1a7f4c", "#b42318"
# An ordered quantity (widths, batch sizes, steps), small to large.
RAMP = ("#9fca90", "#74b791", "#4ca391", "#2d8f90", "#1f7a8c", "#1c6485", "#234e7c", "#2b366f")
# Unordered things (arms, schemes) in the order of their appearance.
SERIES = ("#0b63c5", "#b5521b", "#8a6a00", "#7b3fb0", "#0f766e", "#9d174d")

VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    PAPER: "paper",
    GOOD: "good",
    BAD: "bad",
    **{colour: f"ramp-{index}" for index, colour in enumerate(RAMP)},
    **{colour: f"series-{index}" for index, colour in enumerate(SERIES)},
}
_SETTINGS: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 1.2,
    "legend.columnspacing": 1.4,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "mudit",
}
_SUPERSCRIPT = str.maketrans("-0123456789.", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹·")


@contextmanager
def canvas(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure of `width` x `height` inches and its axes, row by row. Save it inside the context: settings hold only there."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, **options)
        yield figure, list(grid.flat)


def ordered(count: int) -> list[str]:
    """Colours of `count` ordered values, spread over the ramp."""
    if count == 1:
        return [RAMP[4]]
    return [RAMP[round(index * (len(RAMP) - 1) / (count - 1))] for index in range(count)]


def series(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name, in order."""
    return {name: SERIES[index % len(SERIES)] for index, name in enumerate(names)}


def power(exponent: float) -> str:
    """2 to the `exponent`, typeset: 2⁻⁸."""
    return "2" + f"{exponent:g}".translate(_SUPERSCRIPT)


def log2_ticks(axis: Any, values: Sequence[float]) -> None:
    """Ticks of a matplotlib axis at these exponents, written as powers of two."""
    axis.set_ticks(list(values), [power(value) for value in values])


def save(figure: Figure, path: Path) -> None:
    """A file on white, for readers outside the page; the suffix decides the format."""
    if path.suffix == ".svg":
        path.write_text(_svg(figure, PAPER), encoding="utf-8")
    else:
        figure.savefig(path, facecolor=PAPER, dpi=160, metadata={"Software": None})


def inline(figure: Figure, name: str, label: str) -> str:
    """The figure as an SVG element of the page. `name` keeps its ids apart from other figures'; screen readers say `label`."""
    svg = _svg(figure, "none")
    svg = svg[svg.index("<svg") :]
    opening = rf'<svg viewBox="\1" role="img" aria-label="{html.escape(label)}">'
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', opening, svg, count=1)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg).replace("xlink:href", "href")
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    return re.sub(r"#[0-9a-f]{6}\b", lambda match: _variable(match[0]), svg)


def _svg(figure: Figure, background: str) -> str:
    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(file, format="svg", facecolor=background, metadata=nothing)
    # The reader's own sans-serif, at the size that was laid out.
    return re.sub(r"font: ((?:bold )?)([\d.]+px) [^;\"]+", r"font: \1\2 system-ui, sans-serif", file.getvalue())


def _variable(colour: str) -> str:
    return f"var(--{VARIABLES[colour]})" if colour in VARIABLES else colour
