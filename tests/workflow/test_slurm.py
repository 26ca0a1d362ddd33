"""Training on two machines of a real Slurm, through Snakemake, and what happens to machines: the same weights whatever happens.

The machines are two slurmd on this one. Each test submits `snakemake --profile slurm`, does the harm, and waits: nobody helps.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from . import miniature
from .cluster import SERVER, cancel_all, quick
from .conftest import Workspace, working_copy

pytestmark = pytest.mark.slow
RUN = "smoke/train/sp-published_s0"
TARGET = f"state/fresh/{RUN}"
TIMEOUT_S = 400
STEPS = 300
TWO_MACHINES = {
    "nodes": 2,
    "per_node": 1,
    "parallel": "replicated",
    "micro_batch": None,
    "checkpoint_activations": False,
    "compile": False,
}
# Steps as slow as a test needs them; the numbers are the same.
PACED = """

import os, time
_step = Trainer._train_step
def _paced(self):
    time.sleep(float(os.environ["PACE_S"]))
    return _step(self)
Trainer._train_step = _paced
"""


@pytest.fixture(scope="module")
def prepared(slurm: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A project with all that the run needs, and a profile for quick tests."""
    workspace = working_copy(tmp_path_factory.mktemp("prepared") / "project")
    config = yaml.safe_load((workspace.path / "config.yaml").read_text())
    smoke = config["experiments"]["smoke"]
    for section in ("sweep", "select", "transfer", "sample", "evaluate"):
        del smoke[section]
    smoke["train"] |= {"steps": STEPS, "checkpoint_every": 40, "arms": {"sp-published": smoke["train"]["arms"]["sp-published"]}}
    smoke["execution"] = {"train": TWO_MACHINES}
    config["cluster"]["nodes"] = 2
    (workspace.path / "config.yaml").write_text(yaml.safe_dump(config))
    quick(workspace)
    workspace.edit("workflow/profiles/slurm/config.v9+.yaml", "study=paper", "study=desk")
    with (workspace.path / "src/mudit/train/stage.py").open("a") as file:
        file.write(PACED)
    workspace.snakemake("--", "state/fresh/smoke/transfer/sp-published", "state/fresh/smoke/coordcheck/dit")
    return workspace


@pytest.fixture
def project(prepared: Workspace, tmp_path: Path) -> Workspace:
    """A copy of it for one test."""
    return Workspace(Path(shutil.copytree(prepared.path, tmp_path / "project", symlinks=True)))


@pytest.fixture(scope="module")
def undisturbed(prepared: Workspace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of the run's weights, made in as many processes without Slurm."""
    copy = Workspace(Path(shutil.copytree(prepared.path, tmp_path_factory.mktemp("plain") / "project", symlinks=True)))
    os.environ["PACE_S"] = "0"
    copy.run(
        "mudit", "launch", "--nodes", "1", "--per-node", "2", *RUN.replace("smoke/train", "train smoke").replace("/", " ").split()
    )
    return weights(copy)


def weights(workspace: Workspace) -> dict[str, str]:
    """Digest of every file of weights that the run left, and of its losses."""
    manifest = json.loads((workspace.path / "results" / RUN / "manifest.json").read_text())
    kept = {name: file["sha256"] for name, file in manifest["outputs"].items() if name.endswith((".safetensors", ".jsonl"))}
    assert len(kept) >= 3
    return kept


def submit(project: Workspace, pace_s: float, harm: Callable[[int, str], None]) -> str:
    """Run the target through Slurm; once some steps of the run are done, do `harm` to it. Returns what Snakemake said."""
    os.environ["PACE_S"] = str(pace_s)
    process = project.start("snakemake", "--profile", "slurm", "--", TARGET)
    try:
        step = wait(lambda: progress(project) >= 20 and progress(project))
        job = wait(lambda: squeue("--states", "RUNNING", "--format", "%i"))
        harm(step, job)
        output, _ = process.communicate(timeout=TIMEOUT_S)
    except BaseException:
        process.kill()
        cancel_all()
        raise
    assert process.returncode == 0, output[-6000:] + log(project)
    return output


def progress(project: Workspace) -> int:
    path = project.path / "state" / RUN / "progress.json"
    return int(json.loads(path.read_text())["step"]) if path.exists() else 0


def log(project: Workspace) -> str:
    return (project.path / "logs/train/smoke/sp-published_s0.log").read_text()


def earlier(project: Workspace) -> str:
    """Logs of the slices and attempts before the last."""
    path = project.path / "logs/train/smoke/sp-published_s0.log.earlier"
    return path.read_text() if path.exists() else ""


def squeue(*arguments: str) -> str:
    return subprocess.run(["squeue", "--noheader", *arguments], check=True, capture_output=True, text=True).stdout.strip()


def wait(condition: Callable[[], object], seconds: float = TIMEOUT_S) -> object:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.2)
    raise AssertionError("nothing happened")


def test_a_preempted_job_writes_a_checkpoint_and_goes_on(project: Workspace, undisturbed: dict[str, str]) -> None:
    """What preemption does: SIGTERM to everything, and back into the queue. No step is done twice."""
    output = submit(project, 0.1, lambda step, job: subprocess.run(["scontrol", "requeue", job], check=True))
    assert weights(project) == undisturbed
    resumed = re.findall(r"resum\w+ .*?step (\d+)", log(project))
    assert resumed and int(resumed[0]) % 40 != 0, "the checkpoint of the interruption, not one of the schedule"
    assert "Trying to restart" not in output, "the same job goes on: no failure for Snakemake"


def test_a_lost_machine_costs_only_the_steps_since_the_last_checkpoint(
    project: Workspace, slurm: Path, undisturbed: dict[str, str]
) -> None:
    def pull_the_plug(step: int, job: str) -> None:
        wait(lambda: list((project.path / "state" / RUN).glob("**/*.safetensors")))
        subprocess.run([SERVER, "kill", "n2", slurm], check=True)
        subprocess.run([SERVER, "up", slurm], check=True)

    submit(project, 0.1, pull_the_plug)
    assert weights(project) == undisturbed


def test_a_run_longer_than_the_queue_allows_is_cut_into_slices(project: Workspace, undisturbed: dict[str, str]) -> None:
    project.edit("config.yaml", "job_hours: 24", "job_hours: 0.017")
    output = submit(project, 0.3, lambda step, job: None)
    assert weights(project) == undisturbed
    assert earlier(project).count("goes on in its next slice") >= 1
    assert "Trying to restart" not in output


@dataclass(frozen=True)
class Disk:
    """A file system in memory whose size changes while it is in use."""

    path: Path

    def fill(self, spare_kb: int = 0) -> None:
        """Leave this much room."""
        used = int(subprocess.run(["du", "-sk", self.path], check=True, capture_output=True, text=True).stdout.split()[0])
        self._resize(f"{used + spare_kb}k")

    def grow(self) -> None:
        self._resize("64m")

    def _resize(self, size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", self.path], check=True)


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[Disk]:
    """A disk of 64 MB, mounted at `path`."""
    path.mkdir(parents=True, exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", path], capture_output=True).returncode:
        pytest.skip("cannot mount a small disk here")
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def test_a_full_disk_is_one_line_and_the_repeated_job_finishes(project: Workspace, undisturbed: dict[str, str]) -> None:
    results = project.path / "results"
    kept = project.path / "kept"
    results.rename(kept)
    with small_disk(results) as disk:
        shutil.copytree(kept, results, dirs_exist_ok=True)
        disk.fill(spare_kb=64)

        def make_room(step: int, job: str) -> None:
            wait(lambda: "No space left on device" in earlier(project))
            disk.grow()

        output = submit(project, 0.02, make_room)
        lines = [line for line in earlier(project).splitlines() if "No space left" in line]
        assert lines[0].startswith("mudit: smoke/train/sp-published_s0: cannot write")
        assert "Trying to restart" in output
        assert weights(project) == undisturbed


def test_the_paper_in_miniature_comes_out_the_same_through_slurm_with_faults(slurm: Path, tmp_path: Path) -> None:
    """All rules up to the reports, from the published formats, on two machines; a preemption, a full disk, a lost machine."""
    folder = working_copy(tmp_path / "plain", miniature.CONFIG)
    miniature.write(folder.path)
    text = (folder.path / "config.yaml").read_text()
    quick(folder)
    slurmed = Workspace(Path(shutil.copytree(folder.path, tmp_path / "slurm", symlinks=True)))
    (folder.path / "config.yaml").write_text(text.replace("nodes: 2, per_node: 1", "nodes: 1, per_node: 2"))
    folder.snakemake()
    with small_disk(slurmed.path / "results/pixart-sa1b") as disk:
        process = slurmed.start("snakemake", "--profile", "slurm")
        try:
            wait(lambda: list((slurmed.path / "state").glob("*/sweep/*/progress.json")))
            job = wait(lambda: squeue("--states", "RUNNING", "--format", "%A"))
            subprocess.run(["scontrol", "requeue", str(job).split()[0]], check=True)
            disk.fill()
            wait(
                lambda: any("No space left" in log.read_text() for log in slurmed.path.glob("logs/*/pixart-sa1b*/**/*.log.earlier"))
            )
            disk.grow()
            wait(lambda: list((slurmed.path / "state").glob("*/train/*/progress.json")))
            subprocess.run([SERVER, "kill", "n2", slurm], check=True)
            subprocess.run([SERVER, "up", slurm], check=True)
            output, _ = process.communicate(timeout=3 * TIMEOUT_S)
        except BaseException:
            process.kill()
            cancel_all()
            raise
        assert process.returncode == 0, output[-6000:]
        assert "Trying to restart" in output
        assert contents(slurmed) == contents(folder)


def contents(workspace: Workspace) -> dict[str, str]:
    """Content of every artefact but reports, which show when and how long."""
    paths = (workspace.path / "results").rglob("manifest.json")
    manifests = [json.loads(path.read_text()) for path in paths]
    return {each["artefact"]: each["content"] for each in manifests if not each["artefact"].endswith("/report")}
