"""The random search as a section of the page: every trial, how much each hyperparameter matters, and what was chosen."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from mudit.report import text
from mudit.report.ledger.row import Row, percent_interval
from mudit.report.ledger.search import NAMES, NEGLIGIBLE
from mudit.report.search_figure import effect_panel, numbers_of, shares_panel, trials_panel
from mudit.report.style import canvas, inline, power
from mudit.search.records import SearchResult, SearchTrial


def search_section(result: SearchResult, rows: list[Row], panel: Callable[..., str]) -> dict[str, Any]:
    """A figure per hyperparameter, the forest of sensitivities, the trials that every seed ran."""
    runs = sum(len(trial.runs) for trial in result.trials)
    diverged = sum(trial.loss is None for trial in result.trials)
    return {
        "method": (
            f"{len(result.trials)} random trials of {result.steps} steps at width {result.width}, batch {result.batch_size}, with "
            f"seed {result.seeds[0]}; {diverged} diverged. The {len(result.confirmed)} best were run with every seed "
            f"({text.listed(result.seeds)}), {runs} runs in all; the lowest mean is chosen"
        ),
        "metric": result.metric,
        "panels": [_panel(result, name) for name in result.ranges],
        "forest": _forest(result, panel) if result.sensitivities else None,
        "shares": [
            {
                "name": NAMES[each.name],
                "share": f"{text.percent(each.share)} {percent_interval(each.interval, 1)}",
                "chance": text.percent(each.chance),
                "fanova": text.percent(each.fanova),
                "best": _setting(each.name, each.best),
                "interval": f"{_setting(each.name, each.best_interval[0])} to {_setting(each.name, each.best_interval[1])}",
            }
            for each in result.sensitivities or ()
        ],
        "rows": [row for row in rows if row.artefacts == ("search",)],
        "negligible": text.percent(NEGLIGIBLE, 0),
        "names": [NAMES[name] for name in result.ranges],
        "trials": [_trial(result, result.trials[number]) for number in result.confirmed],
    }


def _forest(result: SearchResult, panel: Callable[..., str]) -> str:
    label = "Share of variance that each hyperparameter explains"
    return panel("sensitivities", label, partial(shares_panel, result=result), width=7.2, height=3.0)


def _panel(result: SearchResult, name: str) -> str:
    with canvas(5.2, 5.2, 2, 1, height_ratios=[2.2, 1], sharex=True) as (figure, (upper, lower)):
        trials_panel(upper, result, name)
        effect_panel(lower, result, name)
        label = f"Loss and fitted rank against the {NAMES[name]}: {numbers_of(result.trials)}"
        return inline(figure, f"search-{name.replace('_', '-')}", label)


def _trial(result: SearchResult, trial: SearchTrial) -> dict[str, Any]:
    assert trial.mean is not None and trial.loss is not None, "confirmed trials trained with every seed"
    return {
        "number": str(trial.number),
        "values": [_setting(name, getattr(trial.draw, name)) for name in result.ranges],
        "loss": text.significant(trial.loss, 4),
        "mean": text.significant(trial.mean, 4),
        "chosen": trial.number == result.best.number,
    }


def _setting(name: str, value: float) -> str:
    """A hyperparameter in its usual unit."""
    if name == "warmup_steps":
        return f"{value:.0f} steps"
    return power(round(value, 1)) if name == "log2_lr" else f"{2**value:.2g}"
