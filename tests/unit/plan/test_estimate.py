"""Estimates of jobs against the stages themselves and numbers counted by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mudit.config.cluster import ClusterSection
from mudit.config.load import load
from mudit.config.schema import Config, Experiment
from mudit.errors import ConfigError
from mudit.models.flops import inference_flops, train_flops
from mudit.plan import work
from mudit.plan.dataset import facts
from mudit.plan.estimate import job, jobs
from mudit.plan.study import study_plan
from mudit.stages import STAGES, Artefact, plan
from support import ROOT, changed


@pytest.fixture(scope="module")
def config() -> Config:
    return load(ROOT / "config.yaml")


@pytest.fixture(autouse=True)
def nothing_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without results and data."""
    monkeypatch.chdir(tmp_path)


def test_every_artefact_of_the_study_has_a_job(config):
    assert set(jobs(config, "paper")) == {artefact.id for artefact, _ in plan(config, "paper")}


def test_a_target_run_counts_training_and_both_validations(config):
    experiment = config.experiments["dit-imagenet"]
    one = jobs(config, "dit-imagenet")["dit-imagenet/train/mup_s0"]
    seen = train_flops(experiment.model, 1152, 256 * 2_400_000)
    probes = inference_flops(experiment.model, 1152, 2 * 240 * 10_000)
    assert one.flops == seen + probes
    peak = 156e12  # TF32 on an A100
    assert one.hours == pytest.approx((seen + probes) / peak / config.cluster.utilisation["a100-80gb"] / 3600 / 32)
    assert one.cost_hours == pytest.approx(32 * one.hours)
    assert one.result_bytes == (8 + 5 * 4) * 674_834_720  # weights, average, five snapshots of the average
    assert one.state_bytes == 3 * 16 * 674_834_720


def test_recomputation_takes_time_and_adds_no_operations(config):
    experiment = config.experiments["dit-imagenet"]
    again = changed(experiment, execution__train__checkpoint_activations=True)
    artefact = Artefact("dit-imagenet", STAGES["train"], "mup_s0")
    plain, slower = (job(artefact, each, config.cluster, facts("dit-imagenet", each)) for each in (experiment, again))
    assert slower.flops == pytest.approx(plain.flops)
    assert 1.32 < slower.hours / plain.hours < 1.334


def test_each_type_of_processor_has_a_share_of_its_peak_of_its_own(config):
    """The gate runs on cores, whatever the GPU; a type without a figure is refused with what to add."""
    cluster = config.cluster.model_dump() | {"utilisation": {"a100-80gb": 0.24, "h100-80gb": 0.12, "cpu-core": 0.3}}
    a100, h100 = (
        jobs(config.model_copy(update={"cluster": ClusterSection(**cluster | {"gpu": gpu})}), "dit-imagenet")
        for gpu in ("a100-80gb", "h100-80gb")
    )
    train, gate = "dit-imagenet/train/mup_s0", "dit-imagenet/coordcheck/dit"
    faster = 494.7 / 156 * 0.12 / 0.24  # TF32 peaks, shares of them
    assert h100[train].hours == pytest.approx(a100[train].hours / faster)
    assert h100[gate].hours == a100[gate].hours
    with pytest.raises(ValueError, match="utilisation has no figure for 'h200-141gb'; add one"):
        ClusterSection(**cluster | {"gpu": "h200-141gb"})
    with pytest.raises(ValueError, match="utilisation has no figure for 'cpu-core'"):
        ClusterSection(**cluster | {"utilisation": {"a100-80gb": 0.24}})


def test_a_sweeps_trials_are_dealt_over_its_processes(config):
    one = jobs(config, "dit-imagenet")["dit-imagenet/sweep/mup_w288_b256"]
    experiment = config.experiments["dit-imagenet"]
    trial = work.training(experiment, facts("dit-imagenet", experiment), 288, 256, 200_000, 3)
    assert one.flops == 11 * trial.flops  # five points, then three with two more seeds
    rounds = 2  # of at most six
    assert one.hours == pytest.approx(rounds * trial.flops / 156e12 / config.cluster.utilisation["a100-80gb"] / 3600)
    assert one.worst_flops == 27 * trial.flops
    assert one.processors == 6


def test_the_gate_runs_on_the_host_and_costs_no_gpu_hours(config):
    one = jobs(config, "dit-imagenet")["dit-imagenet/coordcheck/dit"]
    assert one.processors == 0
    assert one.cost_hours == 0
    assert one.hours > 0


def test_on_a_cluster_of_cores_every_job_holds_one(config):
    cores = changed(config, cluster__gpu="cpu-core")
    assert all(each.processors >= 1 for each in jobs(cores, "desk").values())


def test_the_whole_store_of_imagenet_is_encoded_and_stored_in_both_views(config):
    one = jobs(config, "dit-imagenet")["dit-imagenet/data"]
    assert one.flops == pytest.approx(2 * 2 * 1_281_167 * 136.36e9, rel=1e-3)
    assert one.result_bytes == pytest.approx(42e9, rel=0.02)


def test_every_set_of_images_is_drawn_and_stored(config):
    artefact, experiment = Artefact("dit-imagenet", STAGES["sample"], "mup_s0"), config.experiments["dit-imagenet"]
    last_only = changed(experiment, train__snapshots=[])
    all_sets, one = (job(artefact, each, config.cluster, facts("dit-imagenet", each)) for each in (experiment, last_only))
    assert all_sets.flops == pytest.approx(6 * one.flops) and all_sets.result_bytes == 6 * one.result_bytes
    assert all_sets.files - one.files == 5 * (3 + 50_000 // 2048)


def test_checkpoints_kept_for_ever_are_on_the_plan(config):
    artefact, experiment = Artefact("dit-imagenet", STAGES["train"], "mup_s0"), config.experiments["dit-imagenet"]
    kept = changed(experiment, train__keep_every=100_000)
    plain, more = (job(artefact, each, config.cluster, facts("dit-imagenet", each)) for each in (experiment, kept))
    assert more.state_bytes - plain.state_bytes == 24 * 16 * 674_834_720


def test_a_source_of_unknown_size_is_asked_for_in_one_line(config):
    experiment: Experiment = changed(config.experiments["mmdit-18b"], execution__expect=None)
    with pytest.raises(ConfigError, match=r"add execution\.expect"):
        facts("mmdit-18b", experiment)


def test_images_are_counted_where_the_source_lies(config, tmp_path: Path):
    folder = tmp_path / "data" / "imagenet" / "train"
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    experiment = changed(config.experiments["dit-imagenet"], execution__expect=None, data__validation_images=1)
    assert facts("dit-imagenet", experiment).images == 3
    assert facts("dit-imagenet", changed(experiment, data__share=0.1)).images == 1


def test_a_study_sums_its_jobs(config):
    whole = study_plan(config, "paper")
    assert whole.total.hours == pytest.approx(sum(each.cost_hours for each in whole.jobs.values()))
    assert whole.total.jobs == len(whole.jobs) == sum(total.jobs for total in whole.rules.values())
    assert whole.wall_hours is not None
    assert whole.wall_hours >= max(each.hours for each in whole.jobs.values())
    assert whole.wall_hours <= whole.worst_wall_hours


def test_the_paper_is_planned_without_torch():
    program = (
        "import sys; from pathlib import Path; from mudit.config.load import load; from mudit.plan import preflight, show, study; "
        "print(len(show.lines(study.study_plan(load(Path('config.yaml')), 'paper')))); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
