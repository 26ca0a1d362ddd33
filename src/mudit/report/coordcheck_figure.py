"""The coordinate check in pictures: how activations move with width, and every fitted slope.

`draw` serves whoever's check failed, and the report's own files; the page uses the panels one by one, so that they stack on a
narrow screen.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mudit.report.style import GRID, INK, MUTED, PAPER, SERIES, canvas, log2_ticks, ordered, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES = {"mup": "μP", "sp": "SP, the control"}
_DECAY = "every weight, decay"
_CURVES, _LEAST = 4.1, 5.6  # inches: height of the panel of curves, and the least of the panel of slopes
_ROW, _FOOT = 0.145, 0.56  # inches: height of a row of slopes, and from the axes down to the legend
_MARKERS = {"size": "o", "update": "D", "decay": "s"}
_LABELS = {"size": "size of the output", "update": "change since initialisation", "decay": "weight decay"}


def draw(report: dict[str, Any], path: Path) -> None:
    """All four panels as one picture. `report` is the content of `coordcheck.json`."""
    below = slopes_height(report)
    with canvas(11, _CURVES + below, 2, 2, height_ratios=[_CURVES, below]) as (figure, axes):
        for column, scheme in enumerate(TITLES):
            curves_panel(axes[column], report, scheme)
            slopes_panel(axes[2 + column], report, scheme, labels=column == 0)
        save(figure, path)


def curves_panel(ax: Axes, report: dict[str, Any], scheme: str) -> None:
    """Change of each module's output after the last step, relative to the narrowest model, against width. Flat is right."""
    curves = {name: _curves(report, name) for name in TITLES}
    widths = report["widths"]
    x = [math.log2(width) for width in widths]
    cone = report["tolerance"] * (x[-1] - x[0])
    ax.fill_between([x[0], x[-1]], [0, -cone], [0, cone], color=GRID, alpha=0.8, linewidth=0)
    shown = _representatives(curves["sp"])
    for name, y in curves[scheme].items():
        if name not in shown:
            ax.plot(x, y, color=MUTED, linewidth=0.7, alpha=0.45)
    for name, colour in zip(shown, SERIES, strict=False):
        if name in curves[scheme]:
            ax.plot(x, curves[scheme][name], color=colour, linewidth=1.8, marker="o", markersize=4, label=_short(name))
    finite = [value for lines in curves.values() for line in lines.values() for value in line if math.isfinite(value)]
    low, high = min([-1.0, *finite]), max([1.0, *finite])
    ax.set_ylim(low - 0.3, high + 0.3)
    ax.set_xticks(x, [str(width) for width in widths])
    log2_ticks(ax.yaxis, range(math.ceil(low), math.floor(high) + 1))
    ax.set_xlabel("width")
    ax.set_ylabel("rms of the change, relative")
    ax.set_title(f"{TITLES[scheme]}: activations after {_last_step(report)} steps")
    ax.legend(loc="upper left")


def slopes_panel(ax: Axes, report: dict[str, Any], scheme: str, *, labels: bool = True) -> None:
    """Every slope as a dot: a row per kind of module, colour by step, shape by probe. The band is what counts as flat."""
    rows = _rows(report)
    place = {name: index for index, name in enumerate(rows)}
    steps = sorted({slope["step"] for slope in report["schemes"][scheme]["slopes"]})
    colours = dict(zip(steps, ordered(len(steps)), strict=True))
    tolerance = report["tolerance"]
    ax.axvspan(-tolerance, tolerance, color=GRID, alpha=0.8, linewidth=0)
    ax.axvline(0, color=MUTED, linewidth=0.7)
    for probe, marker in _MARKERS.items():
        for step in steps:
            dots = [
                (slope["slope"], place[_row(slope)] + _offset(step, steps))
                for slope in report["schemes"][scheme]["slopes"]
                if slope["probe"] == probe and slope["step"] == step and _row(slope) in place and math.isfinite(slope["slope"])
            ]
            face = PAPER if probe == "size" else colours[step]
            ax.scatter(*_columns(dots), s=13, marker=marker, facecolor=face, edgecolor=colours[step], linewidth=0.9, zorder=3)
    ax.set_xlim(*_slope_limits(report))
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_yticks(range(len(rows)), [_short(name) for name in rows] if labels else [""] * len(rows))
    ax.tick_params(axis="y", length=0, labelsize=8)
    ax.set_xlabel("slope: doublings of rms per doubling of width")
    result = report["schemes"][scheme]
    ax.set_title(f"{TITLES[scheme]}: {len(result['slopes']) - result['failed']} of {len(result['slopes'])} flat")
    _legend(ax, steps, colours, _FOOT / slopes_height(report))


def slopes_height(report: dict[str, Any]) -> float:
    """Inches that the panel of slopes needs for its rows to be legible."""
    return max(_LEAST, 1.4 + _ROW * len(_rows(report)))


def _legend(ax: Axes, steps: Sequence[int], colours: dict[int, str], below: float) -> None:
    """Under the axes, ending at their right edge: long names of modules leave little room between the two."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="", marker=marker, markersize=4.5, color=INK, markerfacecolor=PAPER if probe == "size" else INK)
        for probe, marker in _MARKERS.items()
    ]
    ends = [Line2D([], [], linestyle="", marker="o", markersize=5, color=colours[step]) for step in (steps[0], steps[-1])]
    texts = [*_LABELS.values(), "at initialisation" if steps[0] == 0 else f"step {steps[0]}", f"step {steps[-1]}"]
    ax.legend([*handles, *ends], texts, loc="upper right", bbox_to_anchor=(1.0, -below), ncols=3, handletextpad=0.2)


def _curves(report: dict[str, Any], scheme: str) -> dict[str, list[float]]:
    """Module -> log2 of the rms of its change, by width, relative to the narrowest model; mean over seeds."""
    last = _last_step(report)
    groups: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for measurement in report["schemes"][scheme]["measurements"]:
        if measurement["probe"] == "update" and measurement["step"] == last:
            rms = measurement["rms"]
            groups[measurement["name"]][measurement["width"]].append(math.log2(rms) if 0 < rms < math.inf else math.nan)
    means = {name: [sum(by_width[width]) / len(by_width[width]) for width in report["widths"]] for name, by_width in groups.items()}
    return {name: [value - line[0] for value in line] for name, line in means.items()}


def _last_step(report: dict[str, Any]) -> int:
    return max(measurement["step"] for measurement in report["schemes"]["mup"]["measurements"])


def _representatives(curves: dict[str, list[float]]) -> list[str]:
    """Modules to name: the model's output, the first attention logits, and the one that moves most."""
    logits = [name for name in curves if name.endswith(".logits")][:1]
    steepest = max(curves, key=lambda name: abs(curves[name][-1]))
    return list(dict.fromkeys([name for name in ("output", *logits, steepest) if name in curves]))


def _rows(report: dict[str, Any]) -> list[str]:
    """Kinds of modules in order of the forward pass. A container whose slopes are its last child's is left out."""
    values: dict[str, list[float]] = defaultdict(list)
    for slope in report["schemes"]["mup"]["slopes"]:
        if slope["probe"] == "size":
            values[slope["name"]].append(round(slope["slope"], 6))
    repeated = {name for name in values for other in values if other.startswith(name + ".") and values[other] == values[name]}
    if any(values[name] == values["output"] for name in values if name != "output"):
        repeated.add("output")
    rows = dict.fromkeys(_kind(name) for name in values if name not in repeated)
    return [*rows, _DECAY]


def _row(slope: dict[str, Any]) -> str:
    return _DECAY if slope["probe"] == "decay" else _kind(slope["name"])


def _kind(name: str) -> str:
    """`blocks.3.attn.qkv` -> `blocks.*.attn.qkv`: blocks are alike."""
    return re.sub(r"^([^.]*blocks?)\.\d+", r"\1.*", name)


def _short(name: str) -> str:
    """`joint_blocks.*.context_block.adaLN_modulation.1` -> `joint.*.context.adaLN.1`."""
    shorter = re.sub(r"_blocks?\b", "", name).replace("adaLN_modulation", "adaLN")
    return {"output": "model output"}.get(shorter, shorter)


def _offset(step: int, steps: Sequence[int]) -> float:
    return 0.0 if len(steps) == 1 else 0.5 * (steps.index(step) / (len(steps) - 1) - 0.5)


def _columns(dots: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in dots], [y for _, y in dots]


def _slope_limits(report: dict[str, Any]) -> tuple[float, float]:
    """One range for both schemes, so that they can be compared by eye."""
    slopes = [slope["slope"] for result in report["schemes"].values() for slope in result["slopes"]]
    finite = [slope for slope in slopes if math.isfinite(slope)]
    return min(finite, default=-1.0) - 0.1, max(finite, default=1.0) + 0.1
