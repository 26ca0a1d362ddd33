"""`mudit plan`: what a study will cost, what would stop it, and what fits into a budget."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from mudit.commands.options import DEFAULT_CONFIG, AsJson, ConfigPath, Selection
from mudit.errors import ConfigError


def plan(
    selection: Selection = "",
    as_json: AsJson = False,
    check: Annotated[
        bool, typer.Option("--check", help="Also look for what would stop the study; exit code 2 if anything.")
    ] = False,
    budget: Annotated[
        str, typer.Option("--budget", metavar="HOURS", help="Propose the study that fits, for example 200h, and what it can test.")
    ] = "",
    published: Annotated[bool, typer.Option("--published", help="The paper's own hours, and what they imply.")] = False,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Run a step of each target on fake processes (needs torch, minutes).")
    ] = False,
    ranks: Annotated[
        list[int] | None, typer.Option("--ranks", help="With --rehearse: processes instead of execution.train's; repeatable.")
    ] = None,
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """Show what a study will take: operations, hours, disk, price. Nothing is run."""
    if sum(map(bool, (check, budget, published, rehearse))) > 1:
        raise ConfigError("plan: give one of --check, --budget, --published and --rehearse")
    if ranks and not rehearse:
        raise ConfigError("plan: --ranks goes with --rehearse")
    from mudit.config.load import load
    from mudit.plan import show
    from mudit.plan.study import study_plan

    loaded, study = load(config), selection or None
    if published:
        from mudit.plan import published as papers

        print("\n".join(papers.lines()))
    elif budget:
        from mudit.plan import budget as budgets

        print(budgets.propose(loaded, study, budgets.parse_hours(budget)).text())
    elif rehearse:
        from mudit.plan import rehearse as rehearsals

        for line in rehearsals.lines(loaded, study, ranks or []):
            print(line, flush=True)
    elif check:
        from mudit.jobs import slurm
        from mudit.jobs.resources import SITE_FILE, read_site
        from mudit.plan import preflight
        from mudit.provenance.verdict import inspect

        site = read_site() if SITE_FILE.is_file() else None
        verdicts = inspect(loaded, study, quick=True)
        print("\n".join(preflight.check(loaded, study, verdicts, site=site, queue=slurm.partitions())))
    elif as_json:
        print(show.as_json(study_plan(loaded, study)))
    elif sys.stdout.isatty():
        show.table(study_plan(loaded, study))
    else:
        print("\n".join(show.lines(study_plan(loaded, study))))
