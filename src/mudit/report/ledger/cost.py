"""What tuning cost, as a share of one target run: by the paper's formula, and by the model FLOPs that it really took."""

from __future__ import annotations

from mudit.report import paper, text
from mudit.report.costs import Search
from mudit.report.ledger.row import Row
from mudit.report.ledger.transfer import HYPOTHESIS
from mudit.report.paper import Hypothesis

_COST_CLAIMED: tuple[Hypothesis, ...] = ("H4", "H5")  # DiT's share is derived, not stated


def search_row(search: Search, family: str, *, of_paper: bool) -> Row:
    """`value` is the share of all trials, confirming seeds included; the paper counts one seed."""
    published = paper.COST.get(family, paper.NONE) if of_paper else paper.NONE
    hypothesis = HYPOTHESIS.get(family, "") if of_paper else ""
    ours = f"{_share(search.share)} of one target run"
    if search.points != search.trials:
        ours += f"; {_share(search.share_of_points)} counting one seed, as the paper does"
    if of_paper and family in paper.HUMAN_RUNS:
        runs = paper.HUMAN_RUNS[family]
        ours += f"; {_share(search.share_of_points / runs)} of the {runs} runs that tuning by hand took in the paper"
    return Row(
        name=f"search-{search.artefact.partition('/')[2] or search.artefact}",
        hypothesis=hypothesis if hypothesis in _COST_CLAIMED else "",
        group="Cost of tuning",
        claim="Tuning on the proxy costs a small share of one target run" if of_paper else f"Beside it: tuning {search.what}",
        published=published,
        ours=ours,
        value=search.share,
        interval=None,
        verdict="measured",
        finding=(
            f"{search.trials} trials of {search.steps} steps ({search.points} with the first seed), {search.parameters:,} against "
            f"{search.target_parameters:,} parameters; {_share(search.measured)} in model FLOPs as run, validation included; exact "
            "arithmetic, no interval"
        ),
        artefacts=(search.artefact,),
    )


def _share(share: float) -> str:
    return text.percent(share, 1 if share < 1 else 0)
