"""Which of the paper's claims a study can still test after cuts, beside the same study whole. Imports no torch."""

from __future__ import annotations

from mudit.config.schema import Experiment

ENOUGH = 0.25  # share of the configured steps, and of the data, below which nothing is tested: our convention, not a finding
RULE = (
    f"looked at, not tested: one seed, fewer than three widths, or less than {ENOUGH:.0%} of the configured steps or data "
    "(a search: of its steps or data alone, since its intervals come from its trials)"
)
_TARGET_CLAIMS = {"dit": "H3", "pixart": "H4", "mmdit": "H5"}
_WIDTHS = 3  # from which a drift has an interval


def claims(whole: Experiment, cut: Experiment) -> list[str]:
    """What an experiment can test of the paper's headline claims. What `whole` has no part for has no line."""
    lines = ["H1 can be tested: the gate is run whole"]
    if whole.has("sweep"):
        lines += _transfer(whole, cut)
    if whole.has("search"):
        steps, before = cut.search.steps, whole.search.steps
        facts = [f"{cut.search.trials} trials", _seeds(len(cut.search.seeds)), _steps(steps, before), *_data(whole, cut)]
        lines.append(_line("the search on the proxy", facts, _whole_enough(whole, cut, steps, before)))
    if whole.has("train"):
        lines.append(_target(whole, cut))
    return lines


def _transfer(whole: Experiment, cut: Experiment) -> list[str]:
    """Over widths, batch sizes and steps."""
    name = "H2" if whole.model.family == "dit" else "transfer"
    seeds = len(cut.sweep.seeds)
    lines = []

    def add(what: str, points: str, steps: int, before: int, enough: bool = True) -> None:
        facts = [points, _seeds(seeds), _steps(steps, before), *_data(whole, cut)]
        lines.append(_line(what, facts, enough and seeds > 1 and _whole_enough(whole, cut, steps, before)))

    widths, steps, before = cut.sweep.widths.width, cut.sweep.widths.steps, whole.sweep.widths.steps
    if len(whole.sweep.widths.width) == 1:
        add("the rate found on the proxy", "one width", steps, before)
    elif len(widths) == 1:
        lines.append(f"{name} over widths cannot be tested: one width has no drift")
    else:
        add(f"{name} over widths", f"{len(widths)} widths", steps, before, len(widths) >= _WIDTHS)
    if whole.sweep.batch_sizes is not None:
        if (axis := cut.sweep.batch_sizes) is None:
            lines.append(f"{name} over batch sizes cannot be tested: no sweep over them")
        else:
            add(f"{name} over batch sizes", f"{len(axis.batch_size)} batch sizes", axis.steps, whole.sweep.batch_sizes.steps)
    if whole.sweep.steps is not None:
        if cut.sweep.steps is None:
            lines.append(f"{name} over steps cannot be tested: no sweep over them")
        else:
            horizons, longest = cut.sweep.steps.steps, max(whole.sweep.steps.steps)
            add(f"{name} over steps", f"{len(horizons)} numbers of steps", max(horizons), longest)
    return lines


def _target(whole: Experiment, cut: Experiment) -> str:
    """The arms against each other."""
    name = _TARGET_CLAIMS.get(whole.model.family, "the comparison of arms")
    if len(cut.train.arms) == 1:
        return f"{name} cannot be tested: one arm"
    seeds, steps, before = len(cut.train.seeds), cut.train.steps, whole.train.steps
    facts = [_seeds(seeds), _steps(steps, before), *_data(whole, cut)]
    if whole.has("sample") and cut.sample.images < whole.sample.images:
        facts.append(f"{cut.sample.images:,} of {whole.sample.images:,} sampled images")
    return _line(name, facts, seeds > 1 and _whole_enough(whole, cut, steps, before))


def _line(what: str, facts: list[str], enough: bool) -> str:
    return f"{what} can be {'tested' if enough else 'looked at, not tested'}: {', '.join(facts)}"


def _whole_enough(whole: Experiment, cut: Experiment, steps: int, before: int) -> bool:
    return steps >= ENOUGH * before and cut.data.share >= ENOUGH * whole.data.share


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds"


def _steps(steps: int, before: int) -> str:
    return f"all {steps:,} steps" if steps == before else f"{steps:,} of {before:,} steps (1/{before / steps:.0f})"


def _data(whole: Experiment, cut: Experiment) -> list[str]:
    ratio = whole.data.share / cut.data.share
    return [f"1/{ratio:.0f} of the data"] if ratio > 1 else []
