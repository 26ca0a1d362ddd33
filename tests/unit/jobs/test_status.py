"""`mudit status` on trees of files as running, killed and failing jobs leave them."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from mudit.cli import app
from mudit.config.load import load
from mudit.config.schema import Config
from mudit.jobs.heartbeat import FILE, Heartbeat
from mudit.jobs.status import SIGMAS, Row, duration, status
from mudit.stages import artefacts
from support import ROOT

SMOKE = ROOT / "tests/smoke/config.yaml"
TRAIN = "smoke/train/mup_s0"
TOTAL = len(artefacts("smoke", load(SMOKE).experiments["smoke"]))


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The smallest project in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return load(SMOKE)


def row(config: Config, artefact: str = TRAIN) -> Row:
    return next(each for each in status(config, None).rows if each.artefact == artefact)


def beat(artefact: str = TRAIN, **values: Any) -> Path:
    """An account written just now."""
    facts = {"artefact": artefact, "state": "running", "step": 12, "steps": 30, "loss": 0.5, "per_second": 2.0, "time": time.time()}
    path = Path("state") / artefact / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**facts, **values}))
    return path


def log(text: str, artefact: str = TRAIN, age_s: float = 0.0) -> Path:
    experiment, stage, key = artefact.split("/")
    path = Path("logs", stage, experiment, f"{key}.log")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def proxy(*losses: float) -> None:
    """What the sweep of the proxy leaves: one learning rate, a seed per loss, at both horizons; and a worse rate."""
    trials = [
        {
            "seed": seed,
            "status": "finished",
            "diverged_at": None,
            "first_loss": 1.0,
            "log2_lr": log2_lr,
            "losses": {str(horizon): {"mse": loss + extra, "vb": 0.1, "train": loss} for horizon, extra in ((10, 0.2), (20, 0.0))},
        }
        for log2_lr, worse in ((-6, 0.0), (-4, 1.0))
        for seed, loss in enumerate(each + worse for each in losses)
    ]
    folder = Path("results/smoke/sweep/mup_w16_b16")
    folder.mkdir(parents=True)
    (folder / "trials.json").write_text(json.dumps({"trials": trials}))


def test_where_nothing_has_run_everything_waits(config: Config) -> None:
    found = status(config, None)
    assert (found.done, found.total, found.alarms) == (0, TOTAL, 0)
    assert {each.state for each in found.rows} == {"waiting"}
    assert len(found.rows) == TOTAL


def test_a_running_job_is_shown_as_the_heartbeat_writes_it(config: Config) -> None:
    heartbeat = Heartbeat(Path("state") / TRAIN, artefact=TRAIN, steps=30)
    heartbeat.update(state="running", step=12, loss=0.5, per_second=2.0)
    found = row(config)
    assert (found.state, found.step, found.steps, found.loss, found.alarms) == ("running", 12, 30, 0.5, ())
    assert found.seconds_left == 9.0


def test_silence_is_measured_in_the_jobs_own_intervals(config: Config) -> None:
    beat(time=time.time() - 400)
    found = row(config)
    assert found.state == "stalled"
    assert found.alarms[0].startswith("no sign of life for 7 min")
    beat(time=time.time() - 400, per_second=0.05)
    assert row(config).state == "running", "thirty steps of twenty seconds have not passed"


def test_slurms_own_log_says_why_a_job_is_silent(config: Config) -> None:
    beat(time=time.time() - 400)
    path = Path("logs/slurm/rule_train/smoke_mup_s0/17.log")
    path.parent.mkdir(parents=True)
    path.write_text("Building DAG of jobs...\nslurmstepd: error: Detected 1 oom_kill event in StepId=17.0.\n")
    assert "oom_kill" in row(config).alarms[0]


def test_an_interrupted_run_waits_for_its_next_slice_without_an_alarm(config: Config) -> None:
    beat(state="interrupted", time=0.0)
    found = row(config)
    assert (found.state, found.alarms, found.seconds_left) == ("interrupted", (), None)
    assert "next slice" in found.note


def test_a_run_that_writes_its_results_runs_and_one_that_is_stale_waits(config: Config) -> None:
    path = beat(state="finished", step=30)
    assert (row(config).state, row(config).note) == ("running", "writes its results")
    manifest = Path("results") / TRAIN / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    os.utime(path, (time.time() - 5,) * 2)
    assert row(config).state == "waiting"
    manifest.unlink()
    beat(state="finished", step=30, time=time.time() - 3600)
    assert row(config).state == "waiting", "it was killed an hour ago"


def test_a_diverged_run_is_an_alarm(config: Config) -> None:
    beat(state="diverged")
    assert row(config).alarms == ("diverged at step 12",)


@pytest.mark.parametrize(
    ("text", "alarm"),
    [
        ("12:00:00 INFO begins\nmudit: smoke/train/mup_s0: cannot write: No space left\n", "cannot write: No space left"),
        ("Traceback (most recent call last):\n  File x\ntorch.OutOfMemoryError: CUDA out of memory\n", "CUDA out of memory"),
        ("12:00:00 INFO begins\nkilled, or never started: process 1 of 2\n", "killed, or never started: process 1 of 2"),
    ],
)
def test_a_failure_is_told_by_the_last_line_of_the_log(config: Config, text: str, alarm: str) -> None:
    log(text)
    found = row(config)
    assert found.state == "failed"
    assert alarm in found.alarms[0]
    beat()
    os.utime(Path("state") / TRAIN / FILE, (time.time() + 10,) * 2)
    assert row(config).state == "running", "it has been started again"


def test_a_failure_after_the_last_account_counts(config: Config) -> None:
    os.utime(beat(), (time.time() - 10,) * 2)
    log("ValueError: wrong\n")
    assert row(config).state == "failed"


def test_a_job_without_an_account_runs_while_its_log_grows(config: Config) -> None:
    log("12:00:00 INFO coordinate check dit: 11/24\n", artefact="smoke/coordcheck/dit")
    found = row(config, "smoke/coordcheck/dit")
    assert (found.state, found.note) == ("running", "coordinate check dit: 11/24")
    log("12:00:00 INFO coordinate check dit: 11/24\n", artefact="smoke/coordcheck/dit", age_s=1000)
    assert row(config, "smoke/coordcheck/dit").state == "waiting"


def test_a_target_above_the_band_of_its_proxy_is_an_alarm(config: Config) -> None:
    """Proxy after 20 steps of 16 images: 0.5 + 0.1 with a standard deviation of 0.01."""
    proxy(0.49, 0.50, 0.51)
    beat(history=[[20, 0.6 + (SIGMAS + 0.1) * 0.01]])
    assert "above its proxy's 0.6 ± 0.01 after 20 steps" in row(config).alarms[0]
    beat(history=[[20, 0.6 + (SIGMAS - 0.1) * 0.01]])
    assert row(config).alarms == ()
    beat(history=[[15, 0.7]])
    assert row(config).alarms == (), "only the horizon of 10 steps is passed, where the proxy had 0.8"
    beat(history=[[5, 9.0]])
    assert row(config).alarms == (), "no horizon is passed"


def test_the_band_holds_for_mup_alone(config: Config) -> None:
    proxy(0.49, 0.50, 0.51)
    beat("smoke/train/sp-tuned_s0", history=[[20, 9.0]])
    assert row(config, "smoke/train/sp-tuned_s0").alarms == ()


def test_one_seed_gives_no_band(config: Config) -> None:
    proxy(0.5)
    beat(history=[[20, 9.0]])
    assert row(config).alarms == ()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=8,
)
names = ["state", "step", "steps", "loss", "per_second", "time", "unit", "history"]
states = st.sampled_from(["running", "interrupted", "finished", "diverged"])
accounts = st.fixed_dictionaries({}, optional=dict.fromkeys(names, json_values | states))


@settings(max_examples=40)
@given(content=st.binary(max_size=60) | accounts.map(lambda values: json.dumps(values).encode()), data=st.data())
def test_no_content_of_the_files_is_trusted(content: bytes, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Accounts, logs and results that are garbage, of other types or cut anywhere: there is a row, and it can be printed."""
    content = content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("project"))
        proxy(0.49, 0.50, 0.51)
        beat().write_bytes(content)
        log("").write_bytes(data.draw(st.binary(max_size=40)))
        if data.draw(st.booleans()):
            Path("results/smoke/sweep/mup_w16_b16/trials.json").write_bytes(content)
        found = row(load(SMOKE))
        json.dumps(dataclasses.asdict(found), allow_nan=False)
        assert found.seconds_left is None or found.seconds_left >= 0
        for flags in ([], ["--json"]):
            printed = CliRunner().invoke(app, ["status", "--config", str(SMOKE), *flags])
            assert printed.exit_code == bool(found.alarms), printed.output


def test_lines_are_plain_and_the_exit_code_tells_of_alarms(config: Config) -> None:
    beat()
    beat("smoke/train/sp-tuned_s0", state="diverged")
    printed = CliRunner().invoke(app, ["status", "--config", str(SMOKE)])
    assert printed.exit_code == 1
    lines = printed.output.splitlines()
    assert lines[:3] == [
        "running     smoke/train/mup_s0       12/30 steps  loss 0.5  2/s  9 s left",
        "diverged    smoke/train/sp-tuned_s0  12/30 steps  loss 0.5",
        "            alarm: diverged at step 12",
    ]
    assert lines[3] == "waiting     smoke/data"
    assert "waiting     smoke/train x2" in lines, "the other two arms, on one line"
    assert lines[-1] == f"0 of {TOTAL} artefacts are done; 1 with an alarm"


def test_json_is_complete(config: Config) -> None:
    beat()
    printed = json.loads(CliRunner().invoke(app, ["status", "--config", str(SMOKE), "--json"]).output)
    assert (printed["done"], printed["total"], printed["alarms"]) == (0, TOTAL, 0)
    running = next(each for each in printed["artefacts"] if each["state"] == "running")
    assert (running["artefact"], running["seconds_left"]) == (TRAIN, 9.0)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.0, "59 s"), (90.0, "2 min"), (5400.0, "1.5 h"), (200000.0, "2.3 d")]
)
def test_durations_have_the_largest_unit_that_fits(seconds: float, text: str) -> None:
    assert duration(seconds) == text
