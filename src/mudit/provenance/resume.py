"""Resumable state belongs to one recipe: what a killed run left may be used only by the same parameters, inputs and code.

State of another recipe is set aside, not deleted: beside the new state as `<name>.superseded`, until that is superseded in turn.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from mudit.provenance import source

_LOG = logging.getLogger(__name__)
_FILE = "recipe.json"


def claim(state: Path, recipe: dict[str, Any], *, afresh: bool) -> None:
    """Make `state` this recipe's: keep it if it is, set it aside if it is another's or if `afresh`."""
    digests = _digests(recipe)
    if state.exists():
        former = _read(state / _FILE)
        changed = [part for part in digests if former.get(part) != digests[part]]
        if not changed and not afresh:
            return
        aside = state.with_name(f"{state.name}.superseded")
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(state, aside)
        why = f"its {' and '.join(changed)} changed" if changed else "a fresh run was asked for"
        _LOG.warning("unfinished work in %s is not used, because %s; it is kept in %s", state, why, aside.name)
    state.mkdir(parents=True)
    (state / _FILE).write_text(json.dumps(digests))


def release(state: Path, recipe: dict[str, Any]) -> None:
    """Remove `state` if it is this recipe's, whose result is in place, or, half removed, nobody's. What stays costs only disk."""
    if _read(state / _FILE) in ({}, _digests(recipe)):
        shutil.rmtree(state, ignore_errors=True)


def _digests(recipe: dict[str, Any]) -> dict[str, str]:
    return {part: source.digest(recipe[part]) for part in ("parameters", "inputs", "code")}


def _read(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
