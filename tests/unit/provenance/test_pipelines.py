"""DVC's files say of every stage what the registry says: inputs, outputs, and above all what makes it stale."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mudit.config.load import load, read
from mudit.config.schema import Config
from mudit.errors import ConfigError
from mudit.provenance import pipelines, source
from mudit.stages import STAGES, Artefact, gates, inputs, plan
from support import ROOT

Keys = tuple[str | int, ...]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's configuration with the files of all of its studies."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "src").symlink_to(ROOT / "src")
    shutil.copy(ROOT / "config.yaml", folder)
    config = load(folder / "config.yaml")
    for file in (folder / pipelines.path(config, study) for study in config.studies):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert len(pipelines.write(folder)) == len(config.studies)
    return folder


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smoke")
    (folder / "src").symlink_to(ROOT / "src")
    shutil.copy(ROOT / "tests/smoke/config.yaml", folder)
    pipelines.write(folder, "desk")
    return folder


def entries(file: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Stage and experiment of each entry, and the entry with the experiment's name in its place."""
    for entry in yaml.safe_load(file.read_text())["stages"].values():
        for item in entry.get("foreach", [""]):
            body = json.loads(json.dumps(entry.get("do", entry)).replace("${item}", item))
            (folder,) = body["outs"][0]
            _, experiment, stage = Path(folder).parts
            yield stage, experiment, body


def parameters(body: dict[str, Any]) -> list[str]:
    return list(body["params"][0]["config.yaml"])


def test_the_repositorys_files_are_what_the_registry_says() -> None:
    assert pipelines.drifted(ROOT) == [], "run: mudit config fix"


def test_every_stage_of_every_experiment_is_there_once_with_its_inputs(project: Path) -> None:
    config = load(project / "config.yaml")
    found = [entry for study in config.studies for entry in entries(project / pipelines.path(config, study))]
    made = dict.fromkeys(
        Artefact(each.experiment, each.stage, "").folder for study in config.studies for each, _ in plan(config, study)
    )
    assert sorted(f"results/{experiment}/{stage}" for stage, experiment, _ in found) == sorted(map(str, made))
    addresses = pipelines.addresses(project, config)
    assert set(addresses) == set(made)
    for stage, name, body in found:
        experiment = config.experiments[name]
        artefacts = [Artefact(name, STAGES[stage], key) for key in STAGES[stage].all_keys(experiment)]
        read = {
            str(each.folder) for artefact in artefacts for each in (*inputs(artefact, experiment), *gates(artefact, experiment))
        }
        assert {dep for dep in body["deps"] if dep.startswith("results")} == read
        assert body["cmd"] == f"${{run}} {stage}@{name}"
        assert body["outs"] == [{f"results/{name}/{stage}": {"persist": True}}]


def test_no_result_belongs_to_two_files(project: Path, tmp_path: Path) -> None:
    (tmp_path / "src").symlink_to(ROOT / "src")
    text = (ROOT / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace("  paper: [", "  paper: [dit-digits, ", 1))
    for study in ("paper", "desk"):
        pipelines.write(tmp_path, study)
    assert not any(experiment == "dit-digits" for _, experiment, _ in entries(tmp_path / "studies/paper/dvc.yaml"))
    assert any(experiment == "dit-digits" for _, experiment, _ in entries(tmp_path / "dvc.yaml"))


def test_an_edit_of_any_number_makes_the_same_stages_stale_for_both_engines(smoke: Path) -> None:
    """DVC may also look at what decides which artefacts there are, where an edit changes none of them."""
    raw = read(smoke / "config.yaml")
    listed = {stage: parameters(body) for stage, _, body in entries(smoke / "dvc.yaml")}

    def dvc(raw: dict[str, Any]) -> dict[str, list[Any]]:
        return {stage: [_at(raw, key) for key in keys] for stage, keys in listed.items()}

    def registry(raw: dict[str, Any]) -> dict[str, Any]:
        smoke = Config.model_validate_json(json.dumps(raw), strict=True).experiments["smoke"]
        return {name: {key: stage.parameters(smoke, key) for key in stage.all_keys(smoke)} for name, stage in STAGES.items()}

    tried = 0
    for key, value in _edits(raw["experiments"]["smoke"]):
        edited = copy.deepcopy(raw)
        _set(edited["experiments"]["smoke"], key, value)
        try:
            now = registry(edited)
        except ValueError:
            continue  # not a valid configuration
        tried += 1
        before, after = dvc(raw), dvc(edited)
        ours = {name for name, made in registry(raw).items() if now[name] != made}
        theirs = {name for name in listed if before[name] != after[name]}
        dotted = ".".join(map(str, key))
        assert ours <= theirs, f"{dotted}: DVC does not see that {ours - theirs} changed"
        for name in theirs - ours:
            assert any(f"{dotted}.".startswith(f"{each}.") for each in STAGES[name].keyed_by), (
                f"{dotted}: only DVC has {name} stale"
            )
    assert tried > 80


def test_an_edit_of_any_module_makes_the_same_stages_stale_for_both_engines(smoke: Path) -> None:
    for name, _, body in entries(smoke / "dvc.yaml"):
        seen = [dep for dep in body["deps"] if dep.startswith("src/")]
        for dep in seen:
            assert (ROOT / dep).exists()
        files = {source.file(module).relative_to(ROOT) for module in source.closure(STAGES[name].module)}
        covered = {file for dep in seen for file in _files(ROOT / dep)}
        assert covered == files, name


def test_a_folder_without_dvc_keeps_without_and_one_without_source_is_refused(tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests/smoke/config.yaml", tmp_path)
    assert pipelines.write(tmp_path) == []
    assert not (tmp_path / "dvc.yaml").exists()
    with pytest.raises(ConfigError, match="holds src/mudit"):
        pipelines.write(tmp_path, "desk")
    with pytest.raises(ConfigError, match="did you mean 'desk'"):
        pipelines.write(tmp_path, "desks")


def _files(path: Path) -> set[Path]:
    return {file.relative_to(ROOT) for file in ([path] if path.is_file() else source.files_below(path))}


def _at(raw: Any, key: str) -> Any:
    for name in key.split("."):
        raw = raw.get(name) if isinstance(raw, dict) else None
    return raw


def _set(raw: Any, key: Keys, value: Any) -> None:
    for name in key[:-1]:
        raw = raw[name]
    raw[key[-1]] = value


def _edits(raw: Any, key: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Other values for every number, switch and list of the configuration."""
    if isinstance(raw, dict):
        for name, inner in raw.items():
            yield from _edits(inner, (*key, name))
    elif isinstance(raw, list) and raw:
        yield key, raw[:-1]
        if isinstance(raw[-1], int | float):
            yield key, [*raw, 2 * raw[-1]]
    elif isinstance(raw, bool):
        yield key, not raw
    elif isinstance(raw, int | float):
        yield key, 2 * raw
        yield key, raw + 1 if isinstance(raw, int) else raw / 2 + 1e-3
