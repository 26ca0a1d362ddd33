"""One artefact in several processes: who is started, who hears signals, and how many ends become one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest.mock import Mock

import pytest

from mudit.config.cluster import Workers
from mudit.config.load import load
from mudit.errors import BusyError, ConfigError
from mudit.jobs import launch, rank, slurm, threads
from mudit.jobs.interrupt import DEADLINE, EXIT_CODE, Interrupted
from mudit.jobs.launch import Outcome
from mudit.provenance import place
from mudit.stages import find
from small_disk import small_disk
from support import ROOT

# A stage for the launcher's processes: it tells its rank and pid, waits to be asked to stop, and takes its time to stop.
STAGE = """
import os, sys, time
from pathlib import Path
from mudit.jobs.distributed import World
from mudit.errors import DataError
from mudit.jobs.interrupt import Interrupt, Interrupted

def run(job):
    rank, here = World.of_environment().rank, Path("told")
    what = (here / "what").read_text()
    if what == "mistake":
        raise DataError(f"this folder is wrong, says everybody")
    if what == "bug" and rank == 1:
        raise RuntimeError("a bug of rank 1")
    if what == "fill" and rank == 0:
        with open("state/large", "wb", buffering=0) as file:
            while True:
                file.write(bytes(2**12))
    with Interrupt() as interrupt:
        (here / f"pid{rank}").write_text(str(os.getpid()))
        while not interrupt.asked:
            time.sleep(0.02)
        time.sleep(0.5 * rank)
        (here / f"stopped{rank}").touch()
        raise Interrupted
"""

REPLACE = f"""
import sys, types
module = types.ModuleType("mudit.data.stage")
exec({STAGE!r}, module.__dict__)
sys.modules["mudit.data.stage"] = module
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose stage `data` is STAGE."""
    (tmp_path / "config.yaml").write_text((ROOT / "tests/smoke/config.yaml").read_text())
    (tmp_path / "told").mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "sitecustomize.py").write_text(REPLACE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT / "src")]))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    return tmp_path


def start(project: Path, what: str) -> subprocess.Popen[str]:
    (project / "told/what").write_text(what)
    command = [sys.executable, "-m", "mudit", "launch", "--nodes", "1", "--per-node", "2", "data", "smoke"]
    return subprocess.Popen(
        command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def running(project: Path) -> None:
    deadline = time.monotonic() + 120
    while len(list(project.glob("told/pid*"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_process_that_starts_after_the_signal_stops_before_it_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its id was not there when the launcher looked for those to tell."""
    monkeypatch.setenv(launch.OUTCOMES, str(tmp_path))
    (tmp_path / launch.ASKED).touch()
    done = subprocess.run([sys.executable, "-m", "mudit.jobs.rank", "no-such-stage"], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    (outcome,) = launch._outcomes(tmp_path)
    assert (outcome.code, outcome.message) == (EXIT_CODE, "")


def test_a_job_steps_back_into_the_queue_while_another_makes_the_same(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when Snakemake dies, its jobs go on, and the next Snakemake submits them again. Without Slurm that is an error."""
    monkeypatch.chdir(project)
    data = find(load(project / "config.yaml"), "smoke", "data", "")
    monkeypatch.setattr(launch, "_YIELD_S", 0.1)
    with place.lock(data):
        launch.await_others(data)
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        with pytest.raises(Interrupted):
            launch.await_others(data)
    launch.await_others(data)


def test_a_job_goes_on_when_the_other_is_done(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holder = start(project, "wait")
    running(project)
    monkeypatch.chdir(project)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    data = find(load(project / "config.yaml"), "smoke", "data", "")
    stop = threading.Timer(0.3, holder.terminate)
    stop.start()
    assert place.locked(data)
    launch.await_others(data)
    assert not place.locked(data) and holder.wait(timeout=60) == EXIT_CODE


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_stops_every_process_in_its_own_time(project: Path, number: signal.Signals) -> None:
    process = start(project, "wait")
    running(project)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == EXIT_CODE, output
    assert len(list(project.glob("told/stopped*"))) == 2
    assert not list(project.glob("state/launch/*")) and not list(project.glob("tmp/*"))


def test_a_signal_to_the_whole_group_as_slurm_sends_it_stops_them_as_well(project: Path) -> None:
    process = start(project, "wait")
    running(project)
    for path in project.glob("told/pid*"):
        os.kill(int(path.read_text()), signal.SIGTERM)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(timeout=120) == EXIT_CODE
    assert len(list(project.glob("told/stopped*"))) == 2


def test_of_two_jobs_that_start_together_one_steps_back_into_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both looked before either had the lock. With several processes, only rank 0 meets the lock; the others have nothing to do."""
    monkeypatch.setattr(slurm, "requeue", lambda job: True)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(BusyError), launch.requeued():
        raise BusyError("data: another process is making it")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(Interrupted), launch.requeued():
        raise BusyError("data: another process is making it")
    monkeypatch.setattr(rank, "app", Mock(side_effect=BusyError("data: another process is making it")))
    code, message = rank._call()
    with pytest.raises(Interrupted):
        launch._judge([Outcome(0, code, message, 1.0), Outcome(1, 0, "", 2.0)], 2, 0, asked=False, said="")


def test_a_mistake_that_all_processes_meet_is_one_line(project: Path) -> None:
    process = start(project, "mistake")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert output.count("this folder is wrong") == 1
    assert output.splitlines()[-1] == "mudit: this folder is wrong, says everybody"
    assert "Traceback" not in output


def test_a_bug_shows_the_traceback_of_the_process_that_failed_first(project: Path) -> None:
    process = start(project, "bug")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "RuntimeError: a bug of rank 1" in output and output.count("Traceback") == 1
    assert "ChildFailedError" not in output
    assert output.splitlines()[-1].startswith("process 1 of 2 failed first")


def test_a_full_disk_is_named_when_no_process_can_leave_word(project: Path) -> None:
    with small_disk(project / "state") as disk:
        (project / "state/other").write_bytes(bytes(2**20))
        disk.fill(spare_kb=2**10)
        output, _ = start(project, "fill").communicate(timeout=120)
        last = output.splitlines()[-1]
        assert last == "mudit: smoke/data: cannot write state: No space left on device; the artefact is as it was", output
        assert "Traceback" not in output and "killed" not in output
        disk.fill()
        process = start(project, "wait")
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 2 and output.splitlines() == [last]


def test_a_killed_process_is_named(project: Path) -> None:
    process = start(project, "wait")
    running(project)
    os.kill(int((project / "told/pid1").read_text()), signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "process 1 of 2" in output.splitlines()[-1]


def test_several_machines_need_a_job_and_one_process_stages_take_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(ROOT / "tests/smoke/config.yaml")
    data, select = find(config, "smoke", "data", ""), find(config, "smoke", "select", "")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(ConfigError, match="2 machines need a Slurm job"):
        launch.workers_of(data, config.experiments["smoke"], 2, 1)
    with pytest.raises(ConfigError, match="select runs in one process, not 3"):
        launch.workers_of(select, config.experiments["smoke"], 1, 3)
    assert launch.workers_of(data, config.experiments["smoke"], None, None).processes == 1


def test_the_deadline_is_a_margin_before_the_end_of_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    for left, margin in ((60.0, 6.0), (86400.0, 300.0)):
        monkeypatch.setenv(DEADLINE, "")  # so that it is put back
        monkeypatch.delenv(DEADLINE)
        monkeypatch.setattr(slurm, "seconds_left", lambda job, left=left: left)
        before = time.time()
        launch.deadline()
        assert before <= float(os.environ[DEADLINE]) - left + margin <= time.time()


def test_only_an_interrupted_job_goes_back_into_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(slurm, "requeue", lambda job: not asked.append(job))
    for end in (SystemExit(2), SystemExit(1), ConfigError("no")):
        with pytest.raises(type(end)), launch.requeued():
            raise end
    assert asked == []
    with pytest.raises(Interrupted), launch.requeued():
        raise Interrupted
    assert asked == ["7"]


def test_on_several_machines_srun_is_told_every_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12345")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12340")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    command = launch._command(Workers(nodes=4, per_node=8), 8, ["train", "exp", "mup_s0"])
    srun, torchrun = command[: command.index("-m") - 1], command[command.index("-m") :]
    assert srun[0] == "srun" and {"--overlap", "--nodes=4", "--ntasks=4", "--ntasks-per-node=1", "--cpus-per-task=64"} <= set(srun)
    assert {"--nnodes=4", "--nproc-per-node=8", "--rdzv-id=12345"} <= set(torchrun)
    assert torchrun[-5:] == ["-m", "mudit.jobs.rank", "train", "exp", "mup_s0"]


def test_every_library_gets_the_share_of_threads_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Snakemake gives each of them those of the whole job: four processes would run 32 threads on eight cores."""
    names, seen = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), {}
    monkeypatch.chdir(tmp_path)
    for name in names:
        monkeypatch.setenv(name, "8")

    def start(command: list[str], *, env: dict[str, str], **options: object) -> None:
        seen.update(env)
        raise InterruptedError

    monkeypatch.setattr(subprocess, "Popen", start)
    data = find(load(ROOT / "tests/smoke/config.yaml"), "smoke", "data", "")
    with pytest.raises(InterruptedError):
        launch.run(data, Workers(nodes=1, per_node=4), [])
    assert {name: seen[name] for name in names} == dict.fromkeys(names, "2")


@pytest.mark.parametrize(("stated", "cores"), [("8", 2), ("8,1", 2), (" 4 , 2", 1), ("2", 1)])
def test_threads_are_those_of_the_outermost_level(monkeypatch: pytest.MonkeyPatch, stated: str, cores: int) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", stated)
    assert launch.cores_of(Workers(nodes=1, per_node=4)) == cores


@pytest.mark.parametrize("stated", ["", "many", "0", "-1"])
def test_threads_that_say_nothing_are_all_cores_as_for_openmp(monkeypatch: pytest.MonkeyPatch, stated: str) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", stated)
    assert threads.allowed() == len(os.sched_getaffinity(0))


def test_an_inner_srun_sees_the_job_and_nothing_of_the_outer_step() -> None:
    outer = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_NNODES": "1", "SRUN_CPUS_PER_TASK": "1", "NCCL_DEBUG": "INFO"}
    assert slurm.clean_environment(outer) == {"SLURM_JOB_ID": "7", "NCCL_DEBUG": "INFO"}


@pytest.mark.parametrize(
    ("printed", "seconds"), [("59", 59), ("1:00", 60), ("2:03:04", 7384), ("6-23:59:59", 604799), ("UNLIMITED", None)]
)
def test_slurm_says_how_long_in_several_ways(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, printed: str, seconds: float | None
) -> None:
    monkeypatch.setattr(slurm, "_ask", lambda *command: printed)
    assert slurm.seconds_left("7") == seconds
    assert caplog.text == ""


@pytest.mark.parametrize("printed", [None, "", "INVALID", "1:00\n2:00"])
def test_a_job_without_a_deadline_is_told_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, printed: str | None
) -> None:
    monkeypatch.setattr(slurm, "_ask", lambda *command: printed)
    assert slurm.seconds_left("7_2") is None
    assert caplog.text.count("does not say how long job 7_2 may run") == 1


def test_a_task_of_an_array_speaks_of_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the task that has the array's own number, with which Slurm's commands mean all tasks."""
    commands: list[tuple[str, ...]] = []

    def answer(*command: str) -> str:
        commands.append(command)
        return "RUNNING"

    monkeypatch.setattr(slurm, "_ask", answer)
    for name, value in (("SLURM_JOB_ID", "7"), ("SLURM_ARRAY_JOB_ID", "7"), ("SLURM_ARRAY_TASK_ID", "2")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(DEADLINE, "")
    monkeypatch.delenv(DEADLINE)
    launch.deadline()
    with pytest.raises(Interrupted), launch.requeued():
        raise Interrupted
    assert [(command[0], "7_2" in command, "7" in command) for command in commands] == [
        ("squeue", True, False),
        ("squeue", True, False),
        ("scontrol", True, False),
    ]


def test_a_job_that_slurm_is_ending_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[str] = []

    def answer(*command: str) -> str:
        commands.append(command[0])
        return "COMPLETING"

    monkeypatch.setattr(slurm, "_ask", answer)
    assert not slurm.requeue("7")
    assert commands == ["squeue"]


def test_outcomes_are_read_in_the_order_in_which_the_processes_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(launch.OUTCOMES, str(tmp_path))
    for process, code in ((1, 1), (0, EXIT_CODE)):
        launch.record(process, code, "")
        time.sleep(0.01)
    (tmp_path / "0.pid").write_text("1")
    assert [(outcome.rank, outcome.code) for outcome in launch._outcomes(tmp_path)] == [(1, 1), (0, EXIT_CODE)]
    assert json.loads((tmp_path / "1.json").read_text())["rank"] == 1
