"""Numbers as words for the page: real minus signs, few digits, units."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

_LOOSE = re.compile(r"(?<=\d) (?=%|s\b|min\b|h\b|[kMGTPEZ]?FLOP|GiB)|(?<=,) (?=[−+\d.]+\])")
_FLOPS = ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP", "ZFLOP")


def number(value: float, digits: int = 2, *, signed: bool = False) -> str:
    """Fixed digits; -0.00 is 0.00."""
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) != 0 else f"{0:.{digits}f}"


def interval(bounds: tuple[float, float] | None, digits: int = 2, *, signed: bool = False) -> str:
    """`[low, high]`, or that there is none."""
    if bounds is None:
        return "no interval"
    return f"[{number(bounds[0], digits, signed=signed)}, {number(bounds[1], digits, signed=signed)}]"


def percent(share: float, digits: int = 1, *, signed: bool = False) -> str:
    """12.3 %"""
    return f"{number(100 * share, digits, signed=signed)} %"


def significant(value: float, digits: int = 3) -> str:
    """Significant digits without an exponent where that is readable."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    value = float(f"{value:.{digits - 1}e}")  # or 0.9999 would be shown as 1.000
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return number(value, places) if places < 7 else f"{value:.{digits - 1}e}".replace("-", "−")


def flops(count: float) -> str:
    """3.1 TFLOP"""
    power = min(len(_FLOPS) - 1, max(0, int(math.log10(count) // 3))) if count >= 1 else 0
    return f"{significant(count / 1000**power)} {_FLOPS[power]}"


def seconds(value: float) -> str:
    """12 s, 4.2 min, 3.1 h"""
    if value < 100:
        return f"{value:.0f} s" if value >= 10 or value == 0 else f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 6000 else f"{value / 3600:.1f} h"


def listed(items: Sequence[object]) -> str:
    """a, b and c"""
    words = [str(item) for item in items]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def tight(value: object) -> object:
    """Text of the page whose numbers keep their units, and intervals their ends, on one line; anything else as it is."""
    return _LOOSE.sub("\u00a0", value) if type(value) is str else value
