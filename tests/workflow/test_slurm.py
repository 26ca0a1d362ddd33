"""Jobs on two machines of a real Slurm, through Snakemake, and what happens to machines: the same results whatever happens.

The machines are two slurmd on this one. Each test submits `snakemake --profile slurm`, does the harm, sees that it was done, and
waits: nobody helps.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from mudit import stages
from mudit.config.load import load
from small_disk import small_disk

from . import miniature
from .cluster import TIMEOUT_S, failed, let_pace, lose_a_machine, preempt, quick, restarts, running, set_pace, submitted
from .conftest import Workspace, working_copy

pytestmark = pytest.mark.slow
RUN = "train/smoke/sp-published_s0"
SWEEPS = ("sweep/grid/mup_w16_b16", "sweep/grid/sp_w16_b16")  # two tasks of one array
STEPS, CHECKPOINT_EVERY = 120, 40
NOT_IN_THE_PAPER = {"imported", "scorer"}
FAILED_LOGS = "logs/*/pixart-sa1b*/**/*.log.earlier"
TWO_MACHINES = {
    "nodes": 2,
    "per_node": 1,
    "parallel": "replicated",
    "micro_batch": None,
    "checkpoint_activations": False,
    "compile": False,
}


@pytest.fixture(scope="module")
def prepared(slurm: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A project with all that a run and two sweeps need, and a profile for quick tests."""
    workspace = working_copy(tmp_path_factory.mktemp("prepared") / "project")
    config = yaml.safe_load((workspace.path / "config.yaml").read_text())
    smoke = config["experiments"]["smoke"]
    for section in ("sample", "evaluate", "transfer"):
        del smoke[section]
    smoke["coordcheck"]["also"] = []
    grid = {name: section for name, section in smoke.items() if name != "train"}
    grid["sweep"] = smoke.pop("sweep") | {"widths": {"width": [16], "batch_size": 16, "steps": 200}, "seeds": [0]}
    grid["sweep"] |= {"log2_lr_min": -8, "log2_lr_max": -2, "batch_sizes": None, "steps": None, "tuned": None}
    del smoke["select"]
    smoke["train"] |= {"steps": STEPS, "checkpoint_every": CHECKPOINT_EVERY, "snapshots": []}
    smoke["train"]["arms"] = {"sp-published": smoke["train"]["arms"]["sp-published"]}
    smoke["execution"] = {"train": TWO_MACHINES}
    config |= {"experiments": {"smoke": smoke, "grid": grid}, "studies": {"desk": ["smoke", "grid"]}}
    config["cluster"]["nodes"] = 2
    (workspace.path / "config.yaml").write_text(yaml.safe_dump(config))
    quick(workspace)
    workspace.edit("workflow/profiles/slurm/config.v9+.yaml", "study=paper", "study=desk")
    let_pace(workspace)
    first = ("smoke/transfer/sp-published", "smoke/coordcheck/dit", "grid/coordcheck/dit")
    workspace.snakemake("--", *(f"state/fresh/{name}" for name in first))
    return workspace


@pytest.fixture
def project(prepared: Workspace, tmp_path: Path) -> Workspace:
    """A copy of it for one test."""
    return Workspace(Path(shutil.copytree(prepared.path, tmp_path / "project", symlinks=True)))


@pytest.fixture(scope="module")
def undisturbed(prepared: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The run and the sweeps, made in as many processes without Slurm."""
    copy = Workspace(Path(shutil.copytree(prepared.path, tmp_path_factory.mktemp("plain") / "project", symlinks=True)))
    config = yaml.safe_load((copy.path / "config.yaml").read_text())
    config["experiments"]["smoke"]["execution"]["train"] |= {"nodes": 1, "per_node": 2}
    (copy.path / "config.yaml").write_text(yaml.safe_dump(config))
    copy.snakemake("--", *map(token, (RUN, *SWEEPS)))
    return copy


def token(artefact: str) -> str:
    stage, experiment, key = artefact.split("/")
    return f"state/fresh/{experiment}/{stage}/{key}"


def made(workspace: Workspace, artefact: str) -> dict[str, str]:
    """Digest of every file that holds weights, losses or trials."""
    stage, experiment, key = artefact.split("/")
    manifest = json.loads((workspace.path / "results" / experiment / stage / key / "manifest.json").read_text())
    kept = (".safetensors", ".jsonl", "trials.json")
    found = {name: file["sha256"] for name, file in manifest["outputs"].items() if name.endswith(kept)}
    assert found
    return found


def progress(workspace: Workspace, artefact: str) -> dict[str, object]:
    """What the job says of itself."""
    stage, experiment, key = artefact.split("/")
    path = workspace.path / "state" / experiment / stage / key / "progress.json"
    return json.loads(path.read_text()) if path.exists() else {"step": 0, "state": None}


def log(workspace: Workspace, artefact: str) -> str:
    return (workspace.path / f"logs/{artefact}.log").read_text()


def earlier(workspace: Workspace, artefact: str) -> str:
    """Logs of the slices and attempts before the last."""
    path = workspace.path / f"logs/{artefact}.log.earlier"
    return path.read_text() if path.exists() else ""


def resumed(workspace: Workspace) -> int:
    """The step from which the last slice or attempt of the run went on."""
    found = re.search(r"resumed from step (\d+)", log(workspace, RUN))
    assert found, log(workspace, RUN)
    return int(found[1])


def sliced(workspace: Workspace, artefact: str) -> bool:
    return "goes on in its next slice" in earlier(workspace, artefact)


def test_a_preempted_job_writes_a_checkpoint_and_goes_on(project: Workspace, undisturbed: Workspace) -> None:
    """A job of a higher partition takes its machines. No step is done twice, and Snakemake sees no failure."""
    with submitted(project, "--", token(RUN), train=0.5) as work:
        work.wait(lambda: int(str(progress(project, RUN).get("step", 0))) >= 2)
        (job,) = running()
        preempt()
        assert restarts(job) == 1
        output = work.finish()
        assert restarts(job) == 1
    assert made(project, RUN) == made(undisturbed, RUN)
    assert 0 < resumed(project) < CHECKPOINT_EVERY, "the checkpoint of the interruption, not one of the schedule"
    assert "Trying to restart" not in output


def test_a_lost_machine_costs_only_the_steps_since_the_last_checkpoint(
    project: Workspace, slurm: Path, undisturbed: Workspace
) -> None:
    with submitted(project, "--", token(RUN), train=0.1) as work:
        work.wait(lambda: list((project.path / "state/smoke/train").glob("**/*.safetensors")))
        (job,) = running("--nodelist", "n2")
        lose_a_machine(slurm)
        output = work.finish()
        assert restarts(job) == 1 or "Trying to restart" in output, "the machine's job was lost with it"
    assert made(project, RUN) == made(undisturbed, RUN)
    assert resumed(project) % CHECKPOINT_EVERY == 0, "nobody had asked for a checkpoint"


def test_a_snakemake_that_dies_is_started_again_while_its_jobs_go_on(project: Workspace, undisturbed: Workspace) -> None:
    """The next one submits the run again. That job waits for the one from before, and there is nothing left to do for it."""
    with submitted(project, "--", token(RUN), train=0.5) as first:
        first.wait(lambda: int(str(progress(project, RUN).get("step", 0))) >= 2)
        (job,) = running()
        first.process.kill()
        first.process.wait()
    project.run("snakemake", "--unlock")
    with submitted(project, "--", token(RUN), train=0.5) as second:
        second.wait(lambda: "this job waits" in log(project, RUN))
        assert job in running() and len(running()) == 2
        output = second.finish()
    assert made(project, RUN) == made(undisturbed, RUN)
    assert "is fresh: nothing to do" in log(project, RUN) and "Trying to restart" not in output


def test_work_longer_than_the_queue_allows_is_cut_into_slices(project: Workspace, undisturbed: Workspace) -> None:
    """A run on two machines, and each task of an array: one of these has the array's own number."""
    project.edit("config.yaml", "job_hours: 24", "job_hours: 0.017")
    work_of_a_minute = (RUN, *SWEEPS)
    with submitted(project, "--", *map(token, work_of_a_minute), train=0.7, sweep=0.5) as work:
        jobs: set[str] = set()
        work.wait(lambda: jobs.update(running()) or all(sliced(project, each) for each in work_of_a_minute))
        output = work.finish()
        array = [job for job in jobs if "_" in job]
        assert (len(jobs), len(array)) == (3, 2), jobs
        assert all(restarts(job) >= 1 for job in jobs)
    for each in work_of_a_minute:
        assert made(project, each) == made(undisturbed, each)
    assert "Trying to restart" not in output


def test_a_job_that_slurm_signals_ahead_of_its_limit_goes_on(project: Workspace, undisturbed: Workspace) -> None:
    """`--signal=USR1@300` reaches all processes of the job's steps, `--signal=B:USR1@300` its shell. So does scancel, at once."""
    with submitted(project, "--", token(SWEEPS[0]), sweep=0.5) as work:
        work.wait(lambda: int(str(progress(project, SWEEPS[0]).get("step", 0))) >= 2)
        (job,) = running()
        for options in (["--batch"], []):
            subprocess.run(["scancel", *options, "--signal=USR1", job], check=True)
        output = work.finish()
        assert restarts(job) == 1
    assert sliced(project, SWEEPS[0])
    assert made(project, SWEEPS[0]) == made(undisturbed, SWEEPS[0])
    assert "Trying to restart" not in output


def says_otherwise(workspace: Workspace) -> None:
    """The disk is small, and the configuration says that it is not: jobs start, and find it full."""
    workspace.edit("config.yaml", "disk_gb: null", "disk_gb: 100.0")


def test_a_full_disk_is_one_line_and_the_repeated_job_finishes(project: Workspace, undisturbed: Workspace) -> None:
    results = project.path / "results"
    kept = project.path / "kept"
    results.rename(kept)
    with small_disk(results) as disk:
        shutil.copytree(kept, results, dirs_exist_ok=True)
        disk.fill(spare_kb=64)
        refused = project.run("snakemake", "--profile", "slurm", "--", token(RUN), check=False).stdout
        assert re.search(r"mudit: study desk may yet fill .*, and 6\d\.?\d* kB are free in .*results/smoke; make room", refused)
        says_otherwise(project)
        with submitted(project, "--", token(RUN)) as work:
            work.wait(lambda: "No space left on device" in earlier(project, RUN))
            disk.grow()
            output = work.finish()
        lines = [line for line in earlier(project, RUN).splitlines() if "No space left" in line]
        assert lines[0].startswith("mudit: smoke/train/sp-published_s0: cannot write")
        assert "Trying to restart" in output
        assert made(project, RUN) == made(undisturbed, RUN)


def test_the_paper_in_miniature_comes_out_the_same_through_slurm_with_faults(slurm: Path, tmp_path: Path) -> None:
    """All rules up to the reports, from the published formats, on two machines; a preemption, a full disk, a lost machine.

    Beside it runs the same study without Slurm and without faults, in as many processes.
    """
    plain = working_copy(tmp_path / "plain", miniature.CONFIG)
    miniature.write(plain.path)
    quick(plain)
    slurmed = Workspace(Path(shutil.copytree(plain.path, tmp_path / "slurm", symlinks=True)))
    let_pace(slurmed)
    says_otherwise(slurmed)
    text = (plain.path / "config.yaml").read_text()
    (plain.path / "config.yaml").write_text(text.replace("nodes: 2, per_node: 1", "nodes: 1, per_node: 2"))
    twin = plain.start("snakemake", "--cores", "2")
    with small_disk(slurmed.path / "results/pixart-sa1b") as disk, submitted(slurmed, sweep=0.5, search=0.5) as work:
        work.wait(lambda: at_work(slurmed, "sweep") or at_work(slurmed, "search"))
        victims = running()
        preempt()
        assert sum(map(restarts, victims)) >= 1, f"{victims} ran on"

        set_pace(slurmed, train=0.5)
        disk.fill()
        work.wait(lambda: [path for path in slurmed.path.glob(FAILED_LOGS) if "No space left" in path.read_text()])
        disk.grow()

        work.wait(lambda: at_work(slurmed, "train"))
        before = {job: restarts(job) for job in running("--nodelist", "n2")}
        lose_a_machine(slurm)
        work.wait(lambda: any(restarts(job) > count or failed(job) for job, count in before.items()), seconds=60)
        output = work.finish()
        said, _ = twin.communicate(timeout=TIMEOUT_S)
        assert twin.returncode == 0, said[-6000:]
        assert contents(slurmed) == contents(plain)
    config = load(plain.path / "config.yaml")
    assert {each.stage.name for each, _ in stages.plan(config)} == stages.STAGES.keys() - NOT_IN_THE_PAPER
    assert "Trying to restart" in output, "after the full disk"


def at_work(workspace: Workspace, stage: str) -> bool:
    """Whether a job of the stage has begun its steps and not ended them."""
    told = [json.loads(path.read_text()) for path in (workspace.path / "state").glob(f"*/{stage}/**/progress.json")]
    return any(each["state"] == "running" and each.get("step") for each in told)


def contents(workspace: Workspace) -> dict[str, str]:
    """Content of every artefact but reports, which show when and how long."""
    paths = (workspace.path / "results").rglob("manifest.json")
    manifests = [json.loads(path.read_text()) for path in paths]
    return {each["artefact"]: each["content"] for each in manifests if not each["artefact"].endswith("/report")}
