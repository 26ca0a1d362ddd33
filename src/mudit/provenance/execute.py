"""The one way in which a stage runs: check its inputs, work in a temporary folder, write the manifest, rename into place.

Where a job has several processes (`mudit.jobs.distributed`), rank 0 does all of that, and the others only run the stage beside it.

Whatever kills the process, the artefact's own folder holds either the old artefact or the new one. Leftovers of killed runs are
cleared, or put back, at the next start.
"""

from __future__ import annotations

import importlib
import logging
import resource
import shutil
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from mudit.config.schema import Experiment
from mudit.errors import ConfigError, ProvenanceError
from mudit.jobs import threads
from mudit.jobs.distributed import World, broadcast, joined
from mudit.provenance import manifest as manifests
from mudit.provenance import place, source
from mudit.provenance.resume import claim, release
from mudit.provenance.verdict import Inspector
from mudit.scoped import scoped
from mudit.stages import Artefact, Job, gates, inputs

_LOG = logging.getLogger(__name__)


def make(artefact: Artefact, experiment: Experiment, *, force: bool) -> bool:
    """Make an artefact unless it is fresh already. Returns whether it was made.

    Raises ProvenanceError if an input is not fresh, BusyError if another process is making the artefact, ResultsError if results
    cannot be written, ConfigError if there are several processes and the stage is for one, and whatever the stage raises. A failed
    run leaves the artefact as it was.
    """
    if World.of_environment().size > 1 and not artefact.stage.parallel:
        raise ConfigError(f"{artefact.id}: the stage {artefact.stage.name} runs in one process; start it without torchrun")
    with joined() as world:
        return _make(artefact, experiment, force) if world.main else _assist(artefact, experiment)


def _assist(artefact: Artefact, experiment: Experiment) -> bool:
    """What ranks above 0 do: run the stage if rank 0 does."""
    out: str | None = broadcast(None)
    if out is None:
        return False
    with place.writing(artefact):
        importlib.import_module(artefact.stage.module).run(_job(artefact, experiment, Path(out)))
    return True


class _Assistants:
    """The ranks that wait in `_assist`. They are told once: to run, or, whatever happened instead, that there is nothing to do."""

    def __init__(self) -> None:
        self._told = False

    def call(self, out: Path) -> None:
        self._told = True
        broadcast(str(out))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._told:
            broadcast(None)


def _make(artefact: Artefact, experiment: Experiment, force: bool) -> bool:
    with _Assistants() as assistants, place.writing(artefact), place.lock(artefact):
        place.recover(artefact)
        if not force and Inspector(experiment, quick=False).verdict(artefact).fresh:
            _LOG.info("%s is fresh: nothing to do", artefact.id)
            _release(artefact, manifests.read(artefact.path))  # a kill may have come before it was
            return False
        recipe = _recipe(artefact, experiment)
        claim(artefact.state, recipe, afresh=force)
        out = place.new(artefact)
        try:
            manifest = _run(artefact, experiment, recipe, out, assistants)
            manifests.write(out, manifest)
            place.put(artefact, out)
        finally:
            shutil.rmtree(out, ignore_errors=True)
        _release(artefact, manifest)
    _LOG.info("%s made in %.1f s", artefact.id, manifest["run"]["wall_s"])
    return True


def _release(artefact: Artefact, manifest: dict[str, Any] | None) -> None:
    if artefact.stage.spent and manifest is not None:
        release(artefact.state, manifest)


def _recipe(artefact: Artefact, experiment: Experiment) -> dict[str, Any]:
    """Parameters, inputs and code as they are now. Raises ProvenanceError unless every input is here and every gate has passed."""
    inspector = Inspector(experiment, quick=True)
    read = [inspector.verdict(each) for each in inputs(artefact, experiment)]
    for verdict in [*read, *(inspector.verdict(each) for each in gates(artefact, experiment))]:
        if not verdict.done:
            raise ProvenanceError(f"{artefact.id} needs {verdict.artefact.name}, which is {verdict}; make it with: {verdict.mend}")
    absent = [verdict.artefact for verdict in read if not verdict.fresh]
    if absent:
        names, folders = (", ".join(each.name for each in absent), dict.fromkeys(each.folder.as_posix() for each in absent))
        raise ProvenanceError(
            f"{artefact.id} reads {names}, whose files are not here; fetch them with: dvc pull {' '.join(folders)}"
        )
    passed = {each.name: inspector.verdict(each).content for each in gates(artefact, experiment)}
    return {**inspector.recipe(artefact), "gates": passed}


def _job(artefact: Artefact, experiment: Experiment, out: Path) -> Job:
    return Job(
        experiment=artefact.experiment,
        config=scoped(experiment, artefact),
        key=artefact.key,
        inputs={each.name: each.path for each in inputs(artefact, experiment)},
        out=out,
        state=artefact.state,
        workers=getattr(experiment.execution, artefact.stage.name, None),
    )


def _run(artefact: Artefact, experiment: Experiment, recipe: dict[str, Any], out: Path, assistants: _Assistants) -> dict[str, Any]:
    """Call the stage and describe what it made."""
    git = source.git()
    start = time.perf_counter()
    module = importlib.import_module(artefact.stage.module)
    assistants.call(out)
    job = _job(artefact, experiment, out)
    summary = module.run(job)
    wall_s = time.perf_counter() - start
    outputs = manifests.outputs(out, job.known)
    assert outputs, f"stage {artefact.stage.name} wrote no files"
    return {
        "schema": manifests.SCHEMA,
        "artefact": artefact.id,
        "content": source.digest(outputs),
        **recipe,
        "digests": {name: source.digest(recipe[name]) for name in ("parameters", "code")},
        "environment": source.environment(),
        "git": git,
        "run": {
            "command": artefact.command,
            "device": summary.get("device", "cpu"),
            "processes": World.of_environment().size,
            "threads": threads.allowed(),
            "wall_s": round(wall_s, 3),
            "max_rss_bytes": _peak_memory(),
            "flops": summary.get("flops"),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        },
        "summary": summary,
        "outputs": outputs,
    }


def _peak_memory() -> int:
    """Largest resident size in bytes of this process or of any child, so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
