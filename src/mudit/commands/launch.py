"""`mudit launch`: one artefact in all its processes."""

from __future__ import annotations

from typing import Annotated

import typer

from mudit import logs
from mudit.commands.options import DEFAULT_CONFIG, ConfigPath
from mudit.stages import STAGES


def launch(
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="A stage.")],
    experiment: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="An experiment of the configuration.")],
    key: Annotated[str, typer.Argument(metavar="[KEY]", help="Which artefact of the stage.")] = "",
    nodes: Annotated[int | None, typer.Option("--nodes", min=1, help="Machines; default: `execution` of the experiment.")] = None,
    per_node: Annotated[int | None, typer.Option("--per-node", min=1, help="Processes on each; default: `execution`.")] = None,
    config: ConfigPath = DEFAULT_CONFIG,
    force: Annotated[bool, typer.Option("--force", help="Make it again even if it is fresh.")] = False,
) -> None:
    """Make one artefact in all its processes. What the rules call."""
    from mudit.commands.making import make_artefact
    from mudit.config.load import load
    from mudit.jobs import containers
    from mudit.jobs import launch as launcher
    from mudit.stages import find, known

    logs.setup()
    known(stage, STAGES, "stage")
    loaded = load(config)
    artefact = find(loaded, experiment, stage, key)
    workers = launcher.workers_of(artefact, loaded.experiments[experiment], nodes, per_node)
    launcher.deadline()
    with launcher.requeued():
        launcher.await_others(artefact)
        if workers.processes == 1 and not containers.used():
            make_artefact(artefact, loaded.experiments[experiment], force=force)
        else:
            arguments = [stage, experiment, *filter(None, [key]), "--config", str(config), *(["--force"] if force else [])]
            launcher.run(artefact, workers, arguments)
