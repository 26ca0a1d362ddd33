"""Registry, Snakemake rules and DVC stages say the same about every stage: command, inputs, outputs, parameters, sources."""

from __future__ import annotations

import re

import pytest

from mudit.config.load import load
from mudit.config.schema import Experiment
from mudit.provenance import tokens
from mudit.stages import STAGES, artefacts, gates, inputs

from .conftest import REPOSITORY, SMOKE, Workspace

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
        assert not (artefact.stage.spent and (finished.path / artefact.state).exists()), f"{artefact.id} left its state"


def test_rules_call_the_registrys_commands(clone: Workspace) -> None:
    output = clone.run("snakemake", "--dry-run", "--printshellcmds").stdout
    called = re.findall(r"trap : TERM; (mudit launch .*?) > (\S+) 2>&1 \|\| \{ code=\$\?; tail -n 5 (\S+) >&2; ", output)
    expected = set()
    for artefact in artefacts("smoke", SMOKE_EXPERIMENT):
        log = f"logs/{artefact.stage.name}/smoke{'/' + artefact.key if artefact.key else ''}.log"
        expected.add((artefact.command.replace("mudit", "mudit launch", 1), log, log))
    assert set(called) == expected
    assert len(called) == len(expected)


def test_there_is_a_rule_for_every_stage() -> None:
    rules = "\n".join(path.read_text() for path in (REPOSITORY / "workflow/rules").glob("*.smk"))
    assert sorted(set(re.findall(r"^rule (\w+):", rules, flags=re.MULTILINE)) - {"all"}) == sorted(STAGES)


def test_the_rules_and_the_registry_declare_the_same_report() -> None:
    rule = (REPOSITORY / "workflow/rules/report.smk").read_text()
    assert '"results/{experiment}/report/report.html"' in rule
