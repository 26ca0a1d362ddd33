"""What DVC walks, made from the list of stages: `dvc.yaml` for the study of config.yaml, `studies/<study>/dvc.yaml` for others.

Each stage of DVC is a call of the workflow for one stage of one experiment, so there is one graph of jobs. Its dependencies are the
files whose digests the stage's manifests record, and its parameters the keys that they record, so both engines find the same stages
stale. `mudit config fix` writes these files anew, `mudit dvc STUDY` adds a study's; a test holds them against the list of stages.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mudit.config.load import load, read
from mudit.config.schema import Config, Experiment
from mudit.errors import ConfigError
from mudit.provenance import source
from mudit.stages import STAGES, Artefact, Stage, experiments, gates, inputs, known

FILE = "dvc.yaml"
OTHERS = Path("studies")
_CONFIG = "config.yaml"
_RUN = 'snakemake --nolock $(test -n "$SNAKEMAKE_PROFILE" || echo --cores all) --config study={study} --'
_HEAD = """# Made by `mudit config fix` from the registry of stages (src/mudit/stages.py) and config.yaml: do not edit.
# DVC versions the results; Snakemake makes them. Each stage is a call of the workflow for one stage of one experiment.
#   dvc repro {file}{gap}the study {study}: all stages          {named}{gap}one stage and what it needs
#   dvc push, dvc pull  store and fetch results  SNAKEMAKE_PROFILE=slurm dvc repro ...   run on the cluster
# `--nolock`: mudit locks each artefact itself, and such a lock does not outlive a killed process.
# `persist: true` keeps finished artefacts when a stage runs again: Snakemake then makes only what is not fresh.
"""


def path(config: Config, study: str) -> Path:
    """Where the file of a study lies in the project."""
    return Path(FILE) if study == config.study else OTHERS / study / FILE


def drifted(project: Path) -> list[str]:
    """The files that are there and are not what the configuration and the registry say."""
    return [str(name) for name, text in _documents(project) if (project / name).read_text(encoding="utf-8") != text]


def write(project: Path, study: str | None = None) -> list[str]:
    """Write the files that drifted and, with `study`, that study's. Returns their names. Raises ConfigError on an unknown study."""
    config = load(project / _CONFIG)
    if study is not None:
        known(study, config.studies, "study")
        (project / path(config, study)).parent.mkdir(parents=True, exist_ok=True)
        (project / path(config, study)).touch()
    written = []
    for name, text in _documents(project):
        if (project / name).read_text(encoding="utf-8") != text:
            (project / name).write_text(text, encoding="utf-8")
            written.append(str(name))
    return written


def addresses(project: Path, config: Config) -> dict[Path, str]:
    """How DVC calls the stage that makes a folder of results, for every stage of the files that are there."""
    found = {}
    for study in config.studies:
        name = path(config, study)
        if not (project / name).is_file():
            continue
        for stage, entry in yaml.safe_load((project / name).read_text(encoding="utf-8"))["stages"].items():
            body, items = entry.get("do", entry), entry.get("foreach", [None])
            (folder,) = body["outs"][0]
            for item in items:
                made = folder if item is None else folder.replace("${item}", item)
                found[Path(made)] = f"{name}:{stage}" if item is None else f"{name}:{stage}@{item}"
    return found


def _documents(project: Path) -> Iterator[tuple[Path, str]]:
    """Every file that is there with the content that it should have. An experiment of several studies is in the first file."""
    if not any((project / folder / FILE).is_file() for folder in (Path(), *_others(project))):
        return
    config, raw = load(project / _CONFIG), read(project / _CONFIG)["experiments"]
    if not (project / source.PACKAGE.relative_to(source.REPOSITORY)).is_dir():
        raise ConfigError(f"{project / FILE}: DVC's stages depend on the source; run in the folder that holds src/mudit")
    taken: set[str] = set()
    for study in sorted(config.studies, key=lambda name: name != config.study):
        name = path(config, study)
        if (project / name).is_file():
            own = [each for each in experiments(config, study) if each not in taken]
            taken.update(own)
            yield name, _document(name, study, {each: config.experiments[each] for each in own}, raw, project.resolve())


def _others(project: Path) -> list[Path]:
    return [file.parent.relative_to(project) for file in project.glob(f"{OTHERS}/*/{FILE}")]


def _document(name: Path, study: str, chosen: dict[str, Experiment], raw: dict[str, Any], project: Path) -> str:
    up = os.path.relpath(".", name.parent)
    stages: dict[str, Any] = {}
    for stage in STAGES.values():
        bodies: dict[str, Any] = {
            each: _body(stage, each, experiment, raw[each], up, project)
            for each, experiment in chosen.items()
            if stage.all_keys(experiment)
        }
        if not bodies:
            continue
        # DVC wants lists of fixed length, so the stages that read the same share an entry; one that reads something else is apart.
        first = next(iter(bodies.values()))
        alike = [each for each, body in bodies.items() if body == first]
        stages[stage.name] = {"foreach": alike, "do": first}
        for each in (each for each in bodies if each not in alike):
            stages[f"{stage.name}-{each}"] = _named(bodies[each], each)
    whole = {"vars": [{"run": _RUN.format(study=study)}], **_compared(chosen, up), "stages": stages}
    here = name == Path(FILE)
    head = _HEAD.format(
        file="" if here else name,
        gap="  ",
        study=study,
        named="dvc repro sweep" if here else f"dvc repro {name}:sweep",
    )
    return head + yaml.dump(whole, sort_keys=False, width=132, default_flow_style=False, Dumper=_Plain)


class _Plain(yaml.SafeDumper):
    """Writes the same list twice instead of a reference to it."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _compared(chosen: dict[str, Experiment], up: str) -> dict[str, Any]:
    """What `dvc metrics diff` and `dvc plots diff` compare across revisions. Their paths start at the file's own folder."""
    folders = {each: os.path.normpath(f"{up}/results/{each}/report") for each in chosen}
    curves = {"x": "step", "y": "ema_mse", "title": "Validation loss of the EMA weights"}
    return {
        "metrics": [f"{folder}/metrics.json" for folder in folders.values()],
        "plots": [{f"{folders[each]}/curves.csv": curves} for each, experiment in chosen.items() if experiment.has("train")],
    }


def _body(stage: Stage, name: str, experiment: Experiment, raw: dict[str, Any], up: str, project: Path) -> dict[str, Any]:
    """A stage's entry, in which `${item}` stands for the experiment's name."""
    made = [Artefact(name, stage, key) for key in stage.all_keys(experiment)]
    read_first = {each.stage.name for artefact in made for each in (*inputs(artefact, experiment), *gates(artefact, experiment))}
    parameters = [stage.parameters(experiment, artefact.key) for artefact in made]
    whole = experiment.model_dump(mode="json")
    keys = _shortest({key for each in parameters for key in _keys("", each, whole, raw)} | set(_deciding(stage, raw)))
    return {
        "desc": stage.summary,
        **({} if up == "." else {"wdir": up}),
        "cmd": f"${{run}} {stage.name}@${{item}}",
        "deps": [f"results/${{item}}/{each}" for each in STAGES if each in read_first] + _code(stage, parameters, project),
        "params": [{_CONFIG: [f"experiments.${{item}}.{key}" for key in keys]}],
        "outs": [{f"results/${{item}}/{stage.name}": {"persist": True}}],
    }


def _named(value: Any, name: str) -> Any:
    """An entry with the experiment's name in the place of `${item}`."""
    if isinstance(value, dict):
        return {_named(key, name): _named(inner, name) for key, inner in value.items()}
    if isinstance(value, list):
        return [_named(inner, name) for inner in value]
    return value.replace("${item}", name) if isinstance(value, str) else value


def _keys(prefix: str, part: Any, whole: Any, raw: Any) -> Iterator[str]:
    """The shortest dotted keys of the file that cover the parameters `part` of the experiment `whole`."""
    if part == whole and prefix:
        yield prefix
    elif isinstance(part, dict) and isinstance(whole, dict):
        there = {name: inner for name, inner in part.items() if inner is not None or name in raw}
        if prefix and not there.keys() <= raw.keys():
            yield prefix
            return
        for name, inner in there.items():
            if name in raw:
                yield from _keys(f"{prefix}.{name}" if prefix else name, inner, whole.get(name), raw[name])
    else:
        yield prefix


def _deciding(stage: Stage, raw: dict[str, Any]) -> Iterator[str]:
    """The keys of the file that decide which artefacts the stage makes, as far as they are there."""
    for key in stage.keyed_by:
        inner: Any = raw
        for name in key.split("."):
            inner = inner.get(name) if isinstance(inner, dict) else None
        if inner is not None:
            yield key


def _shortest(keys: set[str]) -> list[str]:
    """Without those that lie below another, sorted."""
    return sorted(key for key in keys if not any(key.startswith(f"{other}.") for other in keys))


def _code(stage: Stage, parameters: list[Any], project: Path) -> list[str]:
    """The files that the stage runs, as far as they are the project's; a folder of which it runs all files goes by its own name."""
    files = {source.file(name) for name in source.closure(stage.module, *source.named_modules(parameters))}
    folders = {parent for file in files for parent in file.parents if source.PACKAGE in parent.parents}
    whole = {folder for folder in folders if files.issuperset(source.files_below(folder))}
    shown = {folder for folder in whole if whole.isdisjoint(folder.parents)}
    shown |= {file for file in files if whole.isdisjoint(file.parents)}
    roots = (source.REPOSITORY, project)
    return sorted(each.relative_to(root).as_posix() for root in dict.fromkeys(roots) for each in shown if each.is_relative_to(root))
