"""Artefacts whose files are elsewhere: what was made from them stays fresh, and nothing is made again because they are not here."""

from __future__ import annotations

import json
import shutil

import pytest

from mudit.errors import ProvenanceError
from mudit.provenance import manifest as manifests
from mudit.provenance import records, tokens
from mudit.provenance.verdict import causes, inspect, to_fetch
from mudit.stages import artefacts
from project import Project


@pytest.fixture
def recorded(project: Project) -> Project:
    """A finished project with a record of every artefact."""
    project.make_all()
    for artefact in artefacts("smoke", project.experiment):
        manifest = manifests.read(artefact.path)
        assert manifest is not None
        assert records.write(artefact, manifest)
    return project


def remove(project: Project, *names: str) -> None:
    for name in names:
        shutil.rmtree(project.artefact(name).path)


def test_what_was_made_from_absent_files_stays_fresh(recorded: Project) -> None:
    remove(recorded, "data", "train/mup_s0")
    states = recorded.states()
    assert {name for name, state in states.items() if state == "elsewhere"} == {"data", "train/mup_s0"}
    assert all(state == "fresh" for name, state in states.items() if name not in ("data", "train/mup_s0"))
    assert recorded.verdict("data").mend == "dvc pull results/smoke/data"


def test_a_clone_with_nothing_but_records_has_nothing_to_make(recorded: Project) -> None:
    shutil.rmtree("results")
    assert set(recorded.states().values()) == {"elsewhere"}
    assert all(verdict.done for verdict in tokens.sync(recorded.config, "smoke"))
    assert all(tokens.path(artefact).exists() for artefact in artefacts("smoke", recorded.experiment))


def test_an_edit_is_seen_without_the_files(recorded: Project) -> None:
    shutil.rmtree("results")
    recorded.edit_config("log2_lr: [-8, -6, -4, -2]", "log2_lr: [-8, -6, -4]")
    states = recorded.states()
    assert states["data"] == states["coordcheck/dit"] == "elsewhere"
    assert states["sweep/mup_w16_b16"] == states["select"] == "missing"
    assert recorded.verdict("sweep/mup_w16_b16").reasons[0].startswith("record: parameter sweep.log2_lr")


def test_only_what_is_read_has_to_be_here(recorded: Project) -> None:
    recorded.edit_config("neighbours: 3", "neighbours: 4")
    remove(recorded, "select", "sweep/mup_w16_b16", "coordcheck/dit")
    recorded.ran.clear()
    assert recorded.make("evaluate/mup_s0")
    remove(recorded, "data", "train/sp-tuned_s0")
    with pytest.raises(ProvenanceError) as raised:
        recorded.make("evaluate/sp-tuned_s0")
    assert str(raised.value) == (
        "smoke/evaluate/sp-tuned_s0 reads data, train/sp-tuned_s0, whose files are not here; "
        "fetch them with: dvc pull results/smoke/data results/smoke/train"
    )
    assert recorded.ran == ["evaluate.mup_s0"]


def test_a_plan_names_all_that_it_reads_and_is_elsewhere(recorded: Project) -> None:
    shutil.rmtree("results")
    assert to_fetch(recorded.config, inspect(recorded.config, None, quick=True)) is None
    recorded.edit_config("neighbours: 3", "neighbours: 4")
    verdicts = inspect(recorded.config, None, quick=True)
    stages = ["data", "extractor", "coordcheck", "sweep", "select", "transfer", "train", "sample"]
    assert to_fetch(recorded.config, verdicts) == "dvc pull " + " ".join(f"results/smoke/{stage}" for stage in stages)
    assert [line.partition(": record")[0] for line in causes(verdicts)] == ["missing: evaluate x4, report"]


def test_the_way_to_mend_a_recorded_input_is_to_fetch_it(recorded: Project) -> None:
    (recorded.artefact("train/mup_s0").path / "summary.json").write_text("{ }")
    with pytest.raises(ProvenanceError, match=r"needs train/mup_s0, which is damaged .*: dvc pull results/smoke/train --force"):
        recorded.make("sample/mup_s0")


def test_an_absent_gate_lets_pass_what_it_passed(recorded: Project) -> None:
    remove(recorded, "coordcheck/dit")
    assert recorded.make("sweep/mup_w16_b16", force=True)


def test_files_that_are_here_count_more_than_a_record(recorded: Project) -> None:
    (recorded.artefact("data").path / "summary.json").write_text("{ }")
    verdict = recorded.verdict("data")
    assert (verdict.state, verdict.mend) == ("damaged", "dvc pull results/smoke/data --force")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "record: data.json cannot be read"),
        ("{}", "record: data.json is not of schema"),
        (None, "record: data.json has been edited"),
    ],
)
def test_a_damaged_record_counts_for_nothing(recorded: Project, text: str | None, reason: str) -> None:
    shutil.rmtree("results")
    path = records.path(recorded.artefact("data"))
    manifest = json.loads(path.read_text())
    manifest["outputs"]["summary.json"]["bytes"] += 1
    path.write_text(json.dumps(manifest) if text is None else text)
    verdict = recorded.verdict("data")
    assert verdict.state == "missing"
    assert verdict.reasons[0].startswith(reason)


def test_another_artefacts_record_counts_for_nothing(recorded: Project) -> None:
    shutil.rmtree("results")
    shutil.copy(records.path(recorded.artefact("extractor")), records.path(recorded.artefact("data")))
    assert recorded.verdict("data").reasons == ("record: records/smoke/data.json is the record of smoke/extractor",)


def test_writing_a_record_twice_changes_nothing(recorded: Project) -> None:
    artefact = recorded.artefact("data")
    manifest = manifests.read(artefact.path)
    assert manifest is not None
    assert not records.write(artefact, manifest)


def test_every_verdict_names_what_mends_it(recorded: Project) -> None:
    remove(recorded, "data")
    recorded.edit_config("-13.287712379549449", "-12")
    verdicts = {verdict.artefact.name: verdict for verdict in inspect(recorded.config, None, quick=True)}
    assert verdicts["transfer/sp-published"].mend == "mudit transfer smoke sp-published"
    assert verdicts["data"].mend == "dvc pull results/smoke/data"
    assert verdicts["select"].mend is None
