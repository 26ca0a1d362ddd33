"""Results made elsewhere become this project's: checked byte by byte, put in place, recorded in Git, and handed to DVC.

A team trains on a cluster; whoever adopts the results there, commits and pushes them, gives a colleague a clone that knows of every
artefact, fetches the few that it needs (`dvc pull`), and makes only what is new.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from mudit.config.schema import Config
from mudit.errors import ProvenanceError
from mudit.provenance import manifest as manifests
from mudit.provenance import pipelines, place, records
from mudit.provenance.verdict import Inspector, Verdict
from mudit.stages import STAGES, Artefact, plan


def adopt(config: Config, selection: str | None, source: Path | None) -> Iterator[str]:
    """Adopt what is fresh here and, with `source`, what is fresh in the project folder `source` and not here. Yields what it does.

    Raises ProvenanceError, after adopting everything else, if files that are there are not what the present configuration and code
    would make; nothing of those is put in place or recorded. What only lacks an input is left out. Raises BusyError if one is being
    made, and ResultsError if a copy cannot be written.
    """
    inspectors: dict[str, Inspector] = {}
    refused: list[Verdict] = []
    adopted: list[Artefact] = []
    for artefact, experiment in plan(config, selection):
        inspector = inspectors.setdefault(artefact.experiment, Inspector(experiment, quick=False))
        if source is not None and not (artefact.path / manifests.FILE).is_file() and (source / artefact.path).is_dir():
            verdict = _fetch(artefact, source, inspector)
            if verdict.fresh:
                yield f"{artefact.id}: copied"
        else:
            verdict = inspector.verdict(artefact)
        if not verdict.fresh:
            if verdict.state in ("damaged", "foreign") or (verdict.state == "stale" and verdict.own_reasons):
                refused.append(verdict)
            elif verdict.state == "stale":
                yield f"{artefact.id}: left out, {'; '.join(verdict.reasons)}"
            continue
        adopted.append(artefact)
        manifest = manifests.read(artefact.path)
        assert manifest is not None
        if records.write(artefact, manifest):
            yield f"{artefact.id}: recorded in {records.path(artefact)}"
    yield from _commit(adopted, config)
    if refused:
        first, more = refused[0], len(refused) - 1
        others = f"; and {more} more: mudit verify --explain" if more else ""
        raise ProvenanceError(f"{first.artefact.id} is {first}, so it is not adopted{others}")


def _fetch(artefact: Artefact, source: Path, inspector: Inspector) -> Verdict:
    """Copy an artefact, judge the copy, and put it in place if it is fresh."""
    with place.writing(artefact), place.lock(artefact):
        place.recover(artefact)
        copy = place.new(artefact)
        try:
            shutil.copytree(source / artefact.path, copy, dirs_exist_ok=True)
            verdict = inspector.judge(artefact, copy)
            if not verdict.fresh:
                return verdict
            place.put(artefact, copy)
        finally:
            shutil.rmtree(copy, ignore_errors=True)
    return inspector.verdict(artefact)


def _commit(adopted: list[Artefact], config: Config) -> Iterator[str]:
    """Tell DVC of every stage of which all artefacts are adopted, so that `dvc push` sends them and `dvc repro` skips them."""
    there = {artefact.id for artefact in adopted}
    whole: dict[Path, str] = {}
    known = pipelines.addresses(Path(), config)
    for folder, experiment, stage in dict.fromkeys((each.folder, each.experiment, each.stage.name) for each in adopted):
        keys = STAGES[stage].all_keys(config.experiments[experiment])
        if folder in known and all(Artefact(experiment, STAGES[stage], key).id in there for key in keys):
            whole[folder] = known[folder]
    if not whole:
        return
    command = [sys.executable, "-m", "dvc", "commit", "--quiet", "--force", *whole.values()]  # on PATH only where it is activated
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ProvenanceError(f"dvc commit: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    for folder in whole:
        lock = Path(whole[folder].partition(":")[0]).with_name("dvc.lock")
        yield f"{folder}: in {lock}; dvc push sends it"
