"""Results made elsewhere become this project's: checked byte by byte, put in place, recorded in Git, and handed to DVC.

A team trains on a cluster; whoever adopts the results there, commits and pushes them, gives a colleague a clone that knows of every
artefact, fetches the few that it needs (`dvc pull`), and makes only what is new.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import yaml

from mudit.config.schema import Config, Experiment
from mudit.errors import ProvenanceError
from mudit.provenance import manifest as manifests
from mudit.provenance import place, records
from mudit.provenance.verdict import Inspector, Verdict
from mudit.stages import STAGES, Artefact, plan

DVC_FILE = Path("dvc.yaml")


def adopt(config: Config, selection: str | None, source: Path | None) -> Iterator[str]:
    """Adopt what is fresh here and, with `source`, what is fresh in the project folder `source` and not here. Yields what it does.

    Raises ProvenanceError, after adopting everything else, if files that are there are not what the present configuration and code
    would make; nothing of those is put in place or recorded. What only lacks an input is left out.
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
    with place.lock(artefact):
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
    if not DVC_FILE.is_file() or not adopted:
        return
    walked = _walked(config)
    there = {artefact.id for artefact in adopted}
    for experiment, stage in dict.fromkeys((artefact.experiment, artefact.stage.name) for artefact in adopted):
        name = f"{stage}@{experiment}"
        if name not in walked or not all(each in there for each in _whole(stage, experiment, config.experiments[experiment])):
            continue
        done = subprocess.run(["dvc", "commit", "--quiet", "--force", name], capture_output=True, text=True, check=False)
        if done.returncode:
            raise ProvenanceError(f"dvc commit {name}: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
        yield f"{name}: in dvc.lock; dvc push sends it"


def _whole(stage: str, experiment: str, config: Experiment) -> list[str]:
    return [Artefact(experiment, STAGES[stage], key).id for key in STAGES[stage].all_keys(config)]


def _walked(config: Config) -> set[str]:
    """Names of the stages that `dvc.yaml` has: those of the study that it iterates over."""
    stages = yaml.safe_load(DVC_FILE.read_text(encoding="utf-8"))["stages"]
    studies = {name: entry["foreach"].removeprefix("${studies.").removesuffix("}") for name, entry in stages.items()}
    return {f"{name}@{experiment}" for name, study in studies.items() for experiment in config.studies[study]}
