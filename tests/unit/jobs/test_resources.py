"""What a job asks of Slurm: growth of memory, limits of time, and a site's file that is read strictly."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mudit.config.load import load
from mudit.errors import ConfigError
from mudit.jobs import resources
from mudit.jobs.resources import Site
from mudit.jobs.slurm import Partition
from mudit.plan.estimate import jobs
from mudit.stages import find
from support import ROOT, changed

SITE = Site(
    partition="gpus", cpu_partition=None, account=None, qos=None, constraint=None, gpu="gpu", scratch_gb=None, extra=None,
    cores=4, memory_gb=10, machine_memory_gb=25,
)  # fmt: skip
CONFIG = load(ROOT / "tests/smoke/config.yaml")


def asked(stage: str, key: str, attempt: int = 1, **cluster: object) -> dict[str, resources.Value]:
    config = changed(CONFIG, **{f"cluster__{name}": value for name, value in cluster.items()})
    return resources.ask(config, SITE, jobs(config, "smoke"), find(config, "smoke", stage, key), attempt)


@given(attempt=st.integers(1, 50))
def test_memory_grows_by_half_with_each_attempt_up_to_a_machine(attempt: int) -> None:
    gigabytes = min(10 + 5 * (attempt - 1), 25)
    assert asked("report", "", attempt)["mem_mb"] == gigabytes * 10**9 // 2**20, "sbatch counts in binary units"


def test_time_grows_with_each_attempt_up_to_what_the_queue_takes() -> None:
    config = changed(CONFIG, cluster__job_hours=3.5)
    plans, report = jobs(config, "smoke"), find(config, "smoke", "report", "")
    queue = [Partition("cpus", True, 60.0 * 100), Partition("gpus", False, None)]
    for partition, most in (("gpus", 210), ("cpus", 100), (None, 100)):
        site = SITE.model_copy(update={"partition": partition})
        times = [resources.ask(config, site, plans, report, attempt, queue)["runtime"] for attempt in (1, 2, 3, 4)]
        assert times == [60, min(120, most), min(180, most), most]


def test_what_runs_without_a_gpu_has_the_cores_of_the_site() -> None:
    """The plan reckons with eight."""
    config = changed(load(ROOT / "config.yaml"), cluster__job_hours=1000.0)
    plans, gate = jobs(config, "dit-imagenet"), find(config, "dit-imagenet", "coordcheck", "dit")
    times = [resources.ask(config, SITE.model_copy(update={"cores": cores}), plans, gate, 1)["runtime"] for cores in (4, 8)]
    assert times[0] == pytest.approx(2 * times[1], abs=2) and times[1] > 60


@given(hours=st.floats(0.001, 1000))
def test_no_job_asks_for_longer_than_the_queue_takes_or_for_nothing(hours: float) -> None:
    minutes = asked("train", "mup_s0", job_hours=hours)["runtime"]
    assert isinstance(minutes, int) and 1 <= minutes <= max(1, 60 * hours)


def test_without_gpus_processes_are_cores() -> None:
    job = asked("train", "mup_s0")
    assert (job["gres"], job["tasks_per_gpu"], job["cpus_per_task"], job["nodes"], job["mpi"]) == (None, None, 1, 1, None)


def test_with_gpus_only_stages_that_use_them_ask_for_them() -> None:
    gpu = {"gpu": "a100-80gb", "utilisation": {"a100-80gb": 0.2, "cpu-core": 0.3}}
    assert asked("train", "mup_s0", **gpu)["gres"] == "gpu:1"
    report = asked("report", "", **gpu)
    assert (report["gres"], report["slurm_partition"], report["cpus_per_task"]) == (None, "gpus", 4)


def test_every_name_has_a_value_for_every_rule() -> None:
    for stage, key in (("sweep", "mup_w16_b16"), ("train", "mup_s0"), ("report", "")):
        assert set(asked(stage, key)) == set(resources.NAMES)


def test_the_committed_site_names_nothing() -> None:
    assert resources.read_site(ROOT / resources.SITE_FILE).partitions == set()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: [Errno 2] No such file"),
        ("partition: [", "while parsing"),
        ("partition: gpus", "missing"),
        ("gpu: --gres=gpu", 'gpu: "--gres=gpu" must be text that matches pattern'),
        ("memory_gb: 1.5", "memory_gb: 1.5 must be a valid integer"),
        ("partitoin: gpus", "partitoin: unknown key"),
    ],
)
def test_a_bad_site_is_one_line_that_names_the_file(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "site.yaml"
    if text is not None:
        whole = "" if text == "partition: gpus" or text.endswith("[") else (ROOT / resources.SITE_FILE).read_text()
        key = text.partition(":")[0]
        kept = [line for line in whole.splitlines() if not line.startswith(f"{key}:")]
        path.write_text("\n".join([*kept, text]))
    with pytest.raises(ConfigError) as error:
        resources.read_site(path)
    assert message in str(error.value) and str(error.value).startswith(str(path)) and "\n" not in str(error.value)
