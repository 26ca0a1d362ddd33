"""The stage `search`: ranks by seeds, diverged trials as results, and what changes no byte: kills, and more processes."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mudit.config.search import LogRange, StepRange
from mudit.errors import GridEdgeError
from mudit.search import stage
from mudit.search.records import SearchResult
from mudit.stages import Job
from mudit.sweep import trials as sweep_trials
from mudit.sweep.running import PackRun
from support import ROOT, changed

from .test_space import section

SPACE = {
    "trials": 22,
    "log2_lr": LogRange(low=-11, high=2),
    "steps": 6,
    "warmup_steps": StepRange(low=0, high=6),
    "seeds": [0, 1, 2],
    "confirm": 3,
}


def _config(desk, **changes):
    return changed(desk, search=section(**{**SPACE, **changes}), validation__images=16, validation__draws=1)


def _search(config, data: Path, root: Path) -> tuple[SearchResult, dict[str, object]]:
    out = root / "out"
    out.mkdir(parents=True)
    summary = stage.run(Job("dit-digits", config, "", {"data": data}, out, root / "state"))
    return SearchResult.read(out), summary


@pytest.fixture(scope="module")
def finished(desk, digits_folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("search")
    return *_search(_config(desk), digits_folder, root), root


def test_every_trial_is_there_and_diverged_ones_are_results(finished):
    result, summary, _ = finished
    assert [trial.number for trial in result.trials] == list(range(22))
    diverged = [trial for trial in result.trials if trial.loss is None]
    assert diverged and all(trial.runs[0].status == "diverged" for trial in diverged)
    assert summary["diverged"] == len(diverged)
    assert all(trial.runs[0].seed == 0 for trial in result.trials)
    assert result.trial_steps == sum(run.steps_run(6) for trial in result.trials for run in trial.runs)
    assert result.trial_steps < 6 * (22 + 3 * 2), "diverged trials stopped early"
    assert summary["flops"] > 0


def test_the_best_have_every_seed_and_the_lowest_mean_wins(finished):
    result, _, _ = finished
    trained = sorted((trial.loss, trial.number) for trial in result.trials if trial.loss is not None)
    assert set(result.confirmed) == {number for _, number in trained[:3]}
    for trial in result.trials:
        seeds = [run.seed for run in trial.runs]
        assert seeds == ([0, 1, 2] if trial.number in result.confirmed else [0])
        assert (trial.mean is not None) == (trial.number in result.confirmed)
    means = [result.trials[number].mean for number in result.confirmed]
    assert means == sorted(means) and result.best.mean == means[0]
    assert result.best.mean == pytest.approx(sum(run.loss(6) for run in result.best.runs) / 3)


def test_sensitivities_are_there_and_numbers_only(finished):
    result, _, root = finished
    assert [each.name for each in result.sensitivities] == list(result.ranges)
    assert "NaN" not in (root / "out/search.json").read_text() and "Infinity" not in (root / "out/search.json").read_text()
    lines = stage.describe(result)
    assert len(lines) == 5 and "22 trials" in lines[0] and lines[1].startswith("log2_lr: explains")


def test_too_few_trials_say_nothing_about_sensitivity(desk, digits_folder, tmp_path):
    result, _ = _search(_config(desk, trials=4, confirm=1), digits_folder, tmp_path)
    assert result.sensitivities is None and len(result.confirmed) == 1


def test_a_hyperparameter_that_is_searched_is_what_the_run_uses(desk, digits_folder, tmp_path, monkeypatch):
    seen = []

    class Watched(PackRun):
        def __init__(self, new_group, members, checkpoint):
            seen.extend(members)
            super().__init__(new_group, members, checkpoint)

    monkeypatch.setattr(sweep_trials, "PackRun", Watched)
    result, _ = _search(_config(desk, trials=3, confirm=1), digits_folder, tmp_path)
    assert [member.knobs for member in seen[:3]] == [trial.draw.knobs for trial in result.trials]


def test_no_trial_that_trained_is_one_clear_line(desk, digits_folder, tmp_path):
    config = _config(desk, trials=3, log2_lr=LogRange(low=9, high=10), warmup_steps=StepRange(low=0, high=1), steps=12)
    with pytest.raises(GridEdgeError, match=r"search of dit-digits: all 3 trials diverged; lower search.log2_lr"):
        _search(config, digits_folder, tmp_path)


SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path[:0] = [{tests!r}]
from support import changed
from mudit.config.load import load
from mudit.config.search import SearchSection
from mudit.jobs.distributed import joined
from mudit.search import stage
from mudit.stages import Job
from mudit.sweep import trials
trials.measure_group_size = lambda make, members, rehearse: (4, {{}})  # short packs, so that kills fall between them too
config = load(Path({config!r})).experiments["dit-digits"]
config = changed(config, search=SearchSection.model_validate_json({search!r}), validation__images=16, validation__draws=1)
out, state = Path(sys.argv[1]), Path(sys.argv[2])
trials.SAVE_EVERY_S = float(sys.argv[3])
out.mkdir(parents=True, exist_ok=True)
with joined():
    stage.run(Job("dit-digits", config, "", {{"data": Path({data!r})}}, out, state))
"""


@pytest.fixture(scope="module")
def script(desk, digits_folder, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("script") / "search.py"
    search = _config(desk).search.model_dump_json()
    path.write_text(
        SCRIPT.format(tests=str(ROOT / "tests"), config=str(ROOT / "config.yaml"), data=str(digits_folder), search=search)
    )
    return path


def _lines(state: Path) -> int:
    return sum(journal.read_text().count("\n") for journal in state.glob("runs*.jsonl"))


@pytest.mark.slow
def test_kills_change_no_byte(script, finished, tmp_path):
    """SIGKILL among the trials, then among the confirming runs; packs are of another size than the reference's."""
    out, state = tmp_path / "out", tmp_path / "state"
    command = [sys.executable, script, out, state, "600"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for wanted in (7, 24):
        process = subprocess.Popen(command, env=environment)
        deadline = time.monotonic() + 60
        while process.poll() is None and not ((state / "optuna.log").exists() and _lines(state) >= wanted):
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (out / "search.json").exists()
    kept = _lines(state)
    assert 22 < kept < 28, "the last kill fell among the confirming runs"
    assert subprocess.run(command, env=environment, check=True).returncode == 0
    assert (out / "search.json").read_bytes() == (finished[2] / "out/search.json").read_bytes()
    runs = [json.loads(line) for line in (state / "runs.jsonl").read_text().splitlines()]
    assert len({(run["trial"], run["seed"]) for run in runs}) == len(runs) == 28, "finished runs were not repeated"
    assert all(math.isfinite(loss["mse"]) for run in runs for loss in run["losses"].values())


def _start(script: Path, out: Path, state: Path, processes: int) -> list[subprocess.Popen[bytes]]:
    """The processes of one job, as torchrun starts them; a checkpoint after every step."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"OMP_NUM_THREADS": "1", "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen([sys.executable, script, out, state, "0"], env={**os.environ, **shared, "RANK": str(rank)})
        for rank in range(processes)
    ]


@pytest.mark.slow
def test_processes_share_the_trials_and_change_no_byte(script, finished, tmp_path):
    """Two are stopped in good order, the one process that goes on is killed inside a pack, two finish."""
    out, state = tmp_path / "out", tmp_path / "state"
    for processes, wanted, number, code in ((2, 4, signal.SIGTERM, 75), (1, 10, signal.SIGKILL, -signal.SIGKILL)):
        started = _start(script, out, state, processes)
        deadline = time.monotonic() + 60
        while not (_lines(state) >= wanted and any(state.glob("packs/*/step-*.json"))):
            assert all(process.poll() is None for process in started) and time.monotonic() < deadline
            time.sleep(0.001)
        for process in started:
            process.send_signal(number)
        assert [process.wait() for process in started] == [code] * processes
    assert [process.wait() for process in _start(script, out, state, 2)] == [0, 0]
    assert (out / "search.json").read_bytes() == (finished[2] / "out/search.json").read_bytes()
    assert _lines(state) == 28 and not (state / "packs").exists()
    assert {path.name for path in state.glob("runs*.jsonl")} == {"runs.jsonl", "runs.rank1.jsonl"}
