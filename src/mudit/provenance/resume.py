"""Resumable state belongs to one recipe: what a killed run left may be used only by the same parameters, inputs and code.

State of another recipe is set aside, not deleted: beside the new state as `<name>.superseded-<digest of its recipe>`, from where it
comes back when that recipe does, an edit taken back for example. State that a forced run would not use is set aside under a number
and never comes back by itself. Nothing here removes either: it may be the work of days.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from mudit.jobs import heartbeat
from mudit.provenance import source

_LOG = logging.getLogger(__name__)
_FILE = "recipe.json"
_AFRESH = "afresh"  # in state that was begun although there was other work of its recipe, or a result


def claim(state: Path, recipe: dict[str, Any], *, afresh: bool) -> None:
    """Make `state` this recipe's: what is there if it is, what was set aside if that is, else new.

    `afresh`: new, unless what is there was begun afresh itself and is unfinished: the same command goes on with its own work.
    """
    digests = _digests(recipe)
    aside = _aside(state, digests)
    if state.exists():
        former = _read(state / _FILE)
        changed = [part for part in digests if former.get(part) != digests[part]]
        if not changed and (not afresh or (state / _AFRESH).exists()):
            return
        why = f"its {' and '.join(changed)} changed" if changed else "a fresh run was asked for"
        _set_aside(state, _aside(state, former) if changed and former else _rejected(state), why)
    if aside.exists() and not afresh:
        os.replace(aside, state)
        _LOG.info("goes on with the unfinished work that was set aside in %s", aside)
        return
    if aside.exists():
        kept = _rejected(state)
        os.replace(aside, kept)
        _LOG.warning("unfinished work in %s is not used, because a fresh run was asked for; it is kept in %s", aside, kept)
    state.mkdir(parents=True)
    (state / _FILE).write_text(json.dumps(digests))
    if afresh:
        (state / _AFRESH).touch()


def unfinished(state: Path, recipe: dict[str, Any]) -> Path | None:
    """The folder of unfinished work that `claim` would go on with, in its place or set aside; None if there is none."""
    digests = _digests(recipe)
    if state.exists() and _read(state / _FILE) == digests:
        return state
    aside = _aside(state, digests)
    return aside if aside.exists() else None


def _set_aside(state: Path, aside: Path, why: str) -> None:
    if all(path.name in (_FILE, _AFRESH, heartbeat.FILE) for path in state.iterdir()):
        shutil.rmtree(state)
        return
    aside = _rejected(state) if aside.exists() else aside  # kept from before there were numbers; it stays what comes back
    os.replace(state, aside)
    _LOG.warning("unfinished work in %s is not used, because %s; it is kept in %s: remove it if nobody needs it", state, why, aside)


def _aside(state: Path, digests: dict[str, str]) -> Path:
    return state.with_name(f"{state.name}.superseded-{source.digest(digests)[:12]}")


def _rejected(state: Path) -> Path:
    """A name that nothing has yet."""
    return next(path for path in (state.with_name(f"{state.name}.superseded-{n}") for n in itertools.count(1)) if not path.exists())


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
