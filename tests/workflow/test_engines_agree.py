"""Registry, Snakemake rules and DVC stages say the same about every stage: command, inputs, outputs, parameters, sources."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mudit.config.load import load
from mudit.config.schema import Experiment
from mudit.provenance import source, tokens
from mudit.stages import STAGES, artefacts, gates, inputs, plan

from .conftest import REPOSITORY, SMOKE, Workspace

DVC_STAGES: dict[str, Any] = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
SMOKE_EXPERIMENT: Experiment = load(SMOKE).experiments["smoke"]


@pytest.mark.slow
def test_snakemake_runs_every_artefact_of_the_registry_with_its_inputs(finished: Workspace) -> None:
    output = finished.run("snakemake", "--detailed-summary").stdout
    header, *lines = output[output.index("output_file\t") :].splitlines()
    jobs = {
        row["output_file"]: row for line in lines if len(row := dict(zip(header.split("\t"), line.split("\t"), strict=False))) > 5
    }
    expected = artefacts("smoke", SMOKE_EXPERIMENT)
    assert {name for name in jobs if name.startswith("state/")} == {str(tokens.path(artefact)) for artefact in expected}
    for artefact in expected:
        job = jobs[str(tokens.path(artefact))]
        read = {str(tokens.path(each)) for each in [*inputs(artefact, SMOKE_EXPERIMENT), *gates(artefact, SMOKE_EXPERIMENT)]}
        assert job["rule"] == artefact.stage.name
        assert set(job["input-file(s)"].split(",")) - {"-", ""} == read, artefact.id


def test_rules_call_the_registrys_commands(clone: Workspace) -> None:
    output = clone.run("snakemake", "--dry-run", "--printshellcmds").stdout
    called = re.findall(r"trap : TERM; (mudit launch .*?) > (\S+) 2>&1 \|\| \{ code=\$\?; tail -n 5 (\S+) >&2; ", output)
    expected = set()
    for artefact in artefacts("smoke", SMOKE_EXPERIMENT):
        log = f"logs/{artefact.stage.name}/smoke{'/' + artefact.key if artefact.key else ''}.log"
        expected.add((artefact.command.replace("mudit", "mudit launch", 1), log, log))
    assert set(called) == expected
    assert len(called) == len(expected)


def test_both_engines_have_exactly_the_registrys_stages() -> None:
    """DVC has those that make something in the study that it walks."""
    desk = load(REPOSITORY / "config.yaml")
    made = {artefact.stage.name for artefact, _ in plan(desk, "desk")}
    assert list(DVC_STAGES) == [name for name in STAGES if name in made]
    rules = "\n".join(path.read_text() for path in (REPOSITORY / "workflow/rules").glob("*.smk"))
    assert sorted(set(re.findall(r"^rule (\w+):", rules, flags=re.MULTILINE)) - {"all"}) == sorted(STAGES)


@pytest.mark.parametrize("name", DVC_STAGES)
def test_dvc_stages_call_snakemake_and_read_and_write_what_the_registry_says(name: str) -> None:
    stage, dvc = STAGES[name], DVC_STAGES[name]["do"]
    assert DVC_STAGES[name]["foreach"] == "${studies.desk}"
    assert dvc["cmd"] == f"${{run}} {name}@${{item}}"
    assert dvc["outs"] == [{f"results/${{item}}/{name}": {"persist": True}}]
    read = {each.partition("/")[0] for key in stage.all_keys(SMOKE_EXPERIMENT) for each in stage.inputs(SMOKE_EXPERIMENT, key)}
    read |= {each.partition("/")[0] for each in stage.gates(SMOKE_EXPERIMENT)}
    assert {dep for dep in dvc["deps"] if dep.startswith("results")} == {f"results/${{item}}/{each}" for each in read}


@pytest.mark.parametrize("name", DVC_STAGES)
def test_dvc_parameters_cover_the_registrys_and_no_other_section(name: str) -> None:
    listed = [path.removeprefix("experiments.${item}").strip(".") for path in DVC_STAGES[name]["do"]["params"][0]["config.yaml"]]
    key = STAGES[name].all_keys(SMOKE_EXPERIMENT)[0]
    parameters = STAGES[name].parameters(SMOKE_EXPERIMENT, key)
    for leaf in _leaves(parameters):
        assert any(path == "" or leaf == path or leaf.startswith(path + ".") for path in listed), f"{leaf} is not tracked"
    assert listed == [""] or {path.partition(".")[0] for path in listed} == set(parameters)


@pytest.mark.parametrize("name", DVC_STAGES)
def test_dvc_sources_cover_the_code_and_nothing_else(name: str) -> None:
    listed = [dep for dep in DVC_STAGES[name]["do"]["deps"] if dep.startswith("src/")]
    files = [_file(module) for module in source.closure(STAGES[name].module)]
    for file in files:
        assert any(Path(file).is_relative_to(dep) for dep in listed), f"{file} is not a dependency"
    for dep in listed:
        assert any(Path(file).is_relative_to(dep) for file in files), f"{dep} is not used"


def test_the_rules_and_the_registry_declare_the_same_report() -> None:
    rule = (REPOSITORY / "workflow/rules/report.smk").read_text()
    assert '"results/{experiment}/report/report.html"' in rule


def _leaves(parameters: dict[str, Any], prefix: str = "") -> list[str]:
    leaves = []
    for name, value in parameters.items():
        path = f"{prefix}.{name}" if prefix else name
        leaves += _leaves(value, path) if isinstance(value, dict) and value else [path]
    return leaves


def _file(module: str) -> str:
    if "/" in module:
        return f"src/{module}"
    path = REPOSITORY / "src" / module.replace(".", "/")
    return str((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).relative_to(REPOSITORY))
