"""Helpers that tests import."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from mudit.config.schema import Section

ROOT = Path(__file__).resolve().parent.parent

S = TypeVar("S", bound=Section)


def changed(section: S, **changes: Any) -> S:
    """A copy with some fields changed; `a__b=1` reaches into sections. Values are not validated again."""
    update: dict[str, Any] = {}
    for path, value in changes.items():
        head, _, rest = path.partition("__")
        if rest:
            value = changed(update.get(head, getattr(section, head)), **{rest: value})
        update[head] = value
    return section.model_copy(update=update)
