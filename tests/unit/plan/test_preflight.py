"""Each thing that stops a study, planted one at a time in the paper's: one line that names the place."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from mudit.commands.plan import plan
from mudit.config.load import load
from mudit.config.schema import Config, DataReference
from mudit.errors import ConfigError, DataError, MuditError
from mudit.jobs.resources import SITE_FILE, Site, read_site
from mudit.jobs.slurm import Partition, partitions
from mudit.plan.dataset import facts
from mudit.plan.preflight import check
from mudit.provenance import manifest as manifests
from mudit.provenance import records, source
from mudit.provenance.verdict import Inspector, inspect
from mudit.stages import artefacts, parse
from support import ROOT, changed

DIT = "dit-imagenet"
PLACES = ("data/imagenet/train", "models/sd-vae-ft-ema")
REFERENCE = "data/VIRTUAL_imagenet256_labeled.npz"


@pytest.fixture(scope="module")
def whole() -> Config:
    return load(ROOT / "config.yaml")


@pytest.fixture
def config(whole: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The paper's configuration in a folder that holds what DiT's data needs, on a disk with room."""
    monkeypatch.chdir(tmp_path)
    for place in PLACES:
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / REFERENCE).touch()
    return changed(whole, cluster__disk_gb=1e6)


def _with(config: Config, **changes: object) -> Config:
    return config.model_copy(update={"experiments": {DIT: changed(config.experiments[DIT], **changes)}})


def _check(config: Config, **options: object) -> list[str]:
    return check(config, DIT, inspect(config, DIT, quick=True), **options)


def _complaint(config: Config, **options: object) -> str:
    with pytest.raises(MuditError) as error:
        _check(config, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def _make(config: Config, names: Sequence[str] = ()) -> None:
    """Artefacts of the present parameters and code, or all of them: each one file, and a manifest like those of `mudit STAGE`."""
    experiment = config.experiments[DIT]
    inspector = Inspector(experiment, quick=True)
    for artefact in [parse(DIT, name) for name in names] or artefacts(DIT, experiment):
        artefact.path.mkdir(parents=True, exist_ok=True)
        (artefact.path / "made").write_text(artefact.id)
        files = manifests.outputs(artefact.path)
        manifest = {
            "schema": manifests.SCHEMA,
            "artefact": artefact.id,
            "content": source.digest(files),
            **inspector.recipe(artefact),
            "environment": source.environment(),
            "summary": {"train": 900, "validation": 100},
            "outputs": files,
        }
        manifests.write(artefact.path, manifest)


def _move_elsewhere(config: Config) -> None:
    """What is here becomes a record in Git."""
    for artefact in artefacts(DIT, config.experiments[DIT]):
        if (manifest := manifests.read(artefact.path)) is not None:
            records.write(artefact, manifest)
    shutil.rmtree("results")


def test_what_is_in_order_gives_the_table(config):
    text = _check(config)
    assert text[0].split()[:2] == ["experiment", "rule"]
    assert any(line.startswith("dit-imagenet  train") for line in text)
    assert text[-2].startswith("0 of 18 jobs are done; the other 18 take ") and text[-1] == "nothing stands in the way"


@pytest.mark.parametrize("place", PLACES)
def test_a_missing_path(config, place):
    Path(place).rmdir()
    assert f"{place}: no such file or folder" in _complaint(config)


def test_a_missing_reference(config):
    Path(REFERENCE).unlink()
    assert f"{DIT}.evaluate.reference.path: {REFERENCE}: no such file" in _complaint(config)
    assert _check(_with(config, evaluate__reference=DataReference(kind="data", images=None)))
    section = changed(config.experiments[DIT].evaluate, weights="models/inception.pth")
    Path(REFERENCE).touch()
    weights = _with(config, evaluate=section)
    assert f"{DIT}.evaluate.weights: models/inception.pth: no such file" in _complaint(weights)
    _make(weights, ["data", "extractor"])
    assert _check(weights)


def test_missing_captions(config):
    with pytest.raises(DataError, match=r"pixart-sa1b\.data\.source\.path: data/sa-1b"):
        check(config, "pixart-sa1b", inspect(config, "pixart-sa1b", quick=True))


def test_an_encoder_on_the_hub_needs_no_folder(config):
    Path(PLACES[1]).rmdir()
    assert _check(_with(config, data__encoder_path="stabilityai/sd-vae-ft-ema@" + "0" * 40))


def test_a_wrong_checksum(config):
    weights = Path(PLACES[1]) / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(b"weights")
    assert _check(_with(config, data__encoder_sha256=hashlib.sha256(b"weights").hexdigest()))
    assert "its SHA-256 is not" in _complaint(_with(config, data__encoder_sha256="0" * 64))


def test_a_fresh_store_needs_no_source_and_a_stale_one_does(config):
    Path(PLACES[0]).rmdir()
    _make(config, ["data"])
    assert _check(config)
    stale = _with(config, data__share=0.5)
    assert f"{PLACES[0]}: no such file or folder" in _complaint(stale)
    counts = [facts(DIT, each.experiments[DIT]).images for each in (config, stale)]
    assert counts == [1000, 640_584], "a store of other parameters counts for nothing"
    _move_elsewhere(config)
    assert facts(DIT, config.experiments[DIT]).images == 1000


def test_a_damaged_store_is_one_line(config):
    _make(config, ["data"])
    (Path("results") / DIT / "data" / "manifest.json").write_text("{")
    assert f"{DIT}/data: manifest.json cannot be read" in _complaint(config)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"execution__train__nodes": 33}, "execution.train.nodes 33: the cluster has 32"),
        ({"execution__train__per_node": 16}, "execution.train.per_node 16: a machine has 8"),
        ({"execution__train__nodes": 3}, "24 processes do not divide a batch of 256"),
        ({"execution__train__micro_batch": 3}, "micro_batch 3 does not divide the 8 images of each process"),
        ({"execution__sweep__micro_batch": 100}, "micro_batch 100 does not divide the 256 images"),
        ({"execution__sweep__micro_batch": None}, "sweep/mup_w576_b256 needs about"),
        ({"train__width": 9216, "model__depth": 40}, "train needs about"),
    ],
)
def test_processes_and_memory_that_do_not_fit(config, changes, complaint):
    assert complaint in _complaint(_with(config, **changes))


def test_what_does_not_fit_replicated_fits_sharded(config):
    huge = {"train__width": 4608, "execution__train__checkpoint_activations": True}
    assert "set train.parallel to sharded" in _complaint(_with(config, **huge))
    sharded = _with(config, **huge, execution__train__parallel="sharded")
    assert _check(sharded)


def test_a_plan_above_the_cap(config):
    complaint = _complaint(changed(config, cluster__cap_hours=200.0))
    assert "processor-hours are expected, " in complaint and " at most, above cluster.cap_hours 200; " in complaint
    assert "mudit plan dit-imagenet --budget 200h" in complaint
    assert not any("cap_hours" in line for line in _check(changed(config, cluster__cap_hours=1e6)))
    assert _check(changed(config, cluster__cap_hours=10_000.0))[-2].startswith("cluster.cap_hours 10000 is held against what is ")


def test_what_is_stale_or_damaged_counts_as_work(config):
    capped = changed(config, cluster__cap_hours=1.0)
    _make(capped)
    assert _check(capped)[-1] == "all 18 jobs are done: nothing will run"
    run = Path("results") / DIT / "train" / "mup_s0"
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | {"code": manifest["code"] | {"mudit.train.stage": "0" * 64}}))
    assert "above cluster.cap_hours 1;" in _complaint(capped)
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert _check(capped)
    (run / "made").write_text("damaged")
    assert "above cluster.cap_hours 1;" in _complaint(capped)


def test_what_is_elsewhere_is_no_work_and_what_jobs_read_of_it_must_be_pulled(config):
    capped = changed(config, cluster__cap_hours=1.0)
    _make(capped)
    _move_elsewhere(capped)
    Path(PLACES[0]).rmdir()
    Path(REFERENCE).unlink()
    assert _check(capped)[-1] == "all 18 jobs are done: nothing will run"
    edited = _with(config, sweep__divergence_factor=3.0)
    assert _complaint(edited).endswith(
        "read files that are not here; fetch them with: dvc pull results/dit-imagenet/data "
        "results/dit-imagenet/extractor results/dit-imagenet/coordcheck"
    )


def test_a_disk_that_is_too_small(config):
    assert "51 GB are cluster.disk_gb; make room" in _complaint(changed(config, cluster__disk_gb=51.0))
    assert "above cluster.inodes 100" in _complaint(changed(config, cluster__inodes=100))


def _site(**names: str) -> Site:
    return changed(read_site(ROOT / SITE_FILE), **names)


QUEUE = [Partition("gpu", False, 86_400.0), Partition("short", True, 3_600.0), Partition("free", False, None)]


def test_an_unknown_partition(config):
    assert _check(config, site=_site(partition="gpu"), queue=QUEUE)
    assert _check(config, site=_site(partition="gpus"), queue=None), "no Slurm here"
    assert "did you mean 'gpu'?" in _complaint(config, site=_site(partition="gpus"), queue=QUEUE)


def test_a_job_that_its_partition_would_let_wait_for_ever(config):
    """Jobs ask for `cluster.job_hours` at most; those without a GPU may have a partition of their own, and null is the default."""
    asked = f"{DIT}/data asks for 77 minutes in partition 'short', which allows 60 (sinfo)"
    for site in (_site(partition="short"), _site(partition=None)):
        complaint = _complaint(config, site=site, queue=QUEUE)
        assert asked in complaint and "set cluster.job_hours to at most 1, or" in complaint
        assert _check(changed(config, cluster__job_hours=1.0), site=site, queue=QUEUE)
    assert f"{DIT}/coordcheck/dit asks for" in _complaint(config, site=_site(partition="gpu", cpu_partition="short"), queue=QUEUE)
    assert _check(config, site=_site(partition="free"), queue=QUEUE)


def test_the_command_asks_slurm_for_its_partitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`mudit plan --check` in a project whose profile names a partition, beside a `sinfo` that answers as Slurm does."""
    monkeypatch.chdir(tmp_path)
    sinfo, site = tmp_path / "sinfo", tmp_path / SITE_FILE
    sinfo.write_text(
        "#!/bin/sh\n[ \"$*\" = '--all --noheader --format %P %l' ] && printf 'debug* 30:00\\na100 2-12:00:00\\nbig infinite\\n'\n"
    )
    sinfo.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert partitions() == [Partition("debug", True, 1800.0), Partition("a100", False, 216_000.0), Partition("big", False, None)]
    site.parent.mkdir(parents=True)
    text = (ROOT / SITE_FILE).read_text()
    site.write_text(text.replace("partition: null", "partition: nosuch", 1))
    with pytest.raises(ConfigError, match="no partition of the queue is named 'nosuch'"):
        plan("desk", check=True, config=ROOT / "config.yaml")
    site.write_text(text)
    with pytest.raises(ConfigError, match="in partition 'debug', which allows 30 "):
        plan("desk", check=True, config=ROOT / "config.yaml")
    site.unlink()
    plan("desk", check=True, config=ROOT / "config.yaml")


def test_a_hidden_default_is_not_a_path(config):
    with pytest.raises(ConfigError, match="encoder_path is null"):
        _check(_with(config, data__encoder_path=None))
