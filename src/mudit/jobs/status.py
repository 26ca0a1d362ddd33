"""What runs, what waits and what is wrong: one row per artefact that is not done, from files alone. Imports no torch.

Read are the accounts of running jobs (`progress.json`, see `mudit.jobs.heartbeat`), the logs of the workflow's rules and the
manifests. All of them may be missing, half written or from an earlier start, so nothing here trusts their content.

Alarms: a run that failed, gives no sign of life, has diverged, or is worse than its proxy says that it should be
(`_worse_than_proxy`). An interrupted run is none: it waits for its next slice.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from mudit.config.schema import Config, Experiment
from mudit.jobs.heartbeat import FILE
from mudit.provenance.manifest import FILE as MANIFEST
from mudit.provenance.verdict import inspect
from mudit.runs import Setting, Target
from mudit.search.records import SearchResult
from mudit.stages import RESULTS, Artefact
from mudit.sweep.records import RunRecord, TrialRecord

LOGS = Path("logs")
# Without a sign of life for so many of its usual intervals, a job counts as stalled. Compilation and validation fit in between.
SILENT_INTERVALS = 30
BEAT_S = 10.0  # between two accounts, at least (mudit.jobs.heartbeat)
# Three seeds give a poor estimate of a standard deviation: so many of them are exceeded by chance in about one run of forty.
SIGMAS = 5.0

State = Literal["running", "interrupted", "waiting", "stalled", "diverged", "failed"]
_LOG_LINE = re.compile(r"\d\d:\d\d:\d\d [A-Z]+ ")  # as mudit.logs writes them
_FAILURE = re.compile(r"mudit: |(\w+\.)*\w*(Error|Exception|Interrupt)\b|killed, or never started|slurmstepd: error")
_TAIL_BYTES = 8192


@dataclass(frozen=True)
class Row:
    """One artefact. Figures are None where the job does not tell them."""

    artefact: str
    state: State
    step: float | None = None
    steps: float | None = None
    unit: str = "steps"
    loss: float | None = None
    per_second: float | None = None
    """Of `unit`."""
    alarms: tuple[str, ...] = ()
    note: str = ""

    @property
    def seconds_left(self) -> float | None:
        """At the present rate."""
        if self.state != "running" or not self.per_second or self.step is None or self.steps is None:
            return None
        left = (self.steps - self.step) / self.per_second
        return max(left, 0.0) if math.isfinite(left) else None


@dataclass(frozen=True)
class Status:
    """All of a study or experiment."""

    rows: list[Row]
    done: int
    total: int

    @property
    def alarms(self) -> int:
        """How many rows have one."""
        return sum(bool(row.alarms) for row in self.rows)


@dataclass(frozen=True)
class _Beat:
    """An account as far as it can be understood."""

    state: str
    values: dict[str, Any]
    written: float
    """When the file was, by the file system's clock."""

    def number(self, name: str) -> float | None:
        value = self.values.get(name)
        return _finite(value)

    @property
    def silent_s(self) -> float:
        """Seconds since the job wrote it, by the clocks of its machine and of this one."""
        return time.time() - (self.number("time") or self.written)

    @property
    def allowed_s(self) -> float:
        """Silence after which something is wrong."""
        per_second = self.number("per_second") or math.inf
        return SILENT_INTERVALS * max(BEAT_S, 1 / per_second if per_second > 0 else 0.0)


def status(config: Config, selection: str | None) -> Status:
    """Every artefact of a study or experiment that is not done, in the order of the plan. Raises ConfigError on an unknown name."""
    verdicts = inspect(config, selection, quick=True)
    rows = []
    for verdict in verdicts:
        row = _row(verdict.artefact, config.experiments[verdict.artefact.experiment], verdict.done)
        if not verdict.done or row.state == "diverged":
            rows.append(row)
    return Status(rows, sum(verdict.done for verdict in verdicts), len(verdicts))


def _row(artefact: Artefact, experiment: Experiment, done: bool) -> Row:
    beat, log = _beat(artefact), _log(artefact)
    if beat is not None and beat.state == "diverged":
        step = beat.number("step")
        return _told(artefact, "diverged", beat, "diverged" if step is None else f"diverged at step {step:.0f}")
    if done:
        return Row(artefact.id, "waiting")
    failure = None if beat is not None and beat.written > _changed(log) else _failure(artefact, log)
    if failure is not None:
        return _told(artefact, "failed", beat, failure)
    if beat is None:
        said = _last_words(log)
        return Row(artefact.id, "waiting") if said is None else Row(artefact.id, "running", note=said)
    if beat.state == "interrupted":
        return _told(artefact, "interrupted", beat, note="goes on with its next slice")
    if beat.state == "finished" and beat.silent_s <= beat.allowed_s and beat.written > _changed(artefact.path / MANIFEST):
        return _told(artefact, "running", beat, note="writes its results")
    if beat.state != "running":
        return Row(artefact.id, "waiting")
    if beat.silent_s > beat.allowed_s:
        slurm = _failure(artefact, None)
        silence = f"no sign of life for {duration(beat.silent_s)}"
        return _told(artefact, "stalled", beat, silence + (f": {slurm}" if slurm else ""))
    worse = _worse_than_proxy(artefact, experiment, beat) if artefact.stage.name == "train" else None
    return _told(artefact, "running", beat, *([worse] if worse else []))


def _told(artefact: Artefact, state: State, beat: _Beat | None, *alarms: str, note: str = "") -> Row:
    if beat is None:
        return Row(artefact.id, state, alarms=alarms, note=note)
    unit = beat.values.get("unit")
    return Row(
        artefact.id,
        state,
        step=beat.number("step"),
        steps=beat.number("steps"),
        unit=unit if isinstance(unit, str) else "steps",
        loss=beat.number("loss"),
        per_second=beat.number("per_second"),
        alarms=alarms,
        note=note,
    )


def _beat(artefact: Artefact) -> _Beat | None:
    """None if there is no account, or none that can be read."""
    path = artefact.state / FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        written = path.stat().st_mtime
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or not isinstance(values.get("state"), str):
        return None
    return _Beat(values["state"], values, written)


def _finite(value: Any) -> float | None:
    """A JSON number as a float; None for anything else, and for what is no figure."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _log(artefact: Artefact) -> Path:
    """Where the workflow's rule writes what the artefact's job says."""
    parts = [artefact.stage.name, artefact.experiment, *filter(None, [artefact.key])]
    return LOGS.joinpath(*parts[:-1], f"{parts[-1]}.log")


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return -math.inf


def _failure(artefact: Artefact, log: Path | None) -> str | None:
    """How the job ended, if its log ends with that; else what Slurm wrote to its own log of the job."""
    slurm = LOGS / "slurm" / f"rule_{artefact.stage.name}" / "_".join(filter(None, [artefact.experiment, artefact.key]))
    newest = max(slurm.glob("*.log"), key=_changed, default=None)
    for path in (log, newest):
        if path is not None and (said := _last_failure(path)):
            return said
    return None


def _last_words(log: Path) -> str | None:
    """The last line of a job without an account; None unless it was written a moment ago."""
    if time.time() - _changed(log) > SILENT_INTERVALS * BEAT_S:
        return None
    last = next((line for line in reversed(_tail(log)) if _LOG_LINE.match(line)), None)
    return None if last is None else _LOG_LINE.sub("", last, count=1)


def _tail(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()
    except OSError:
        return []


def _last_failure(path: Path) -> str | None:
    """The last line that tells of a failure, unless ordinary lines follow it."""
    for line in reversed(_tail(path)):
        if _FAILURE.match(line):
            return line.removeprefix("mudit: ").strip()
        if _LOG_LINE.match(line):
            return None
    return None


@dataclass(frozen=True)
class _Expected:
    """Validation loss of the proxy after so many steps and images: mean and standard deviation over its seeds."""

    steps: int
    images: int
    mean: float
    sigma: float


def _worse_than_proxy(artefact: Artefact, experiment: Experiment, beat: _Beat) -> str | None:
    """The alarm about a muP target whose newest validation loss is above its proxy's by more than SIGMAS standard deviations.

    Compared is with the longest horizon of the proxy that the run has passed both in steps and in images: under muP a wider model
    is not worse there, and neither more steps nor a larger batch makes it so.
    """
    train = experiment.train
    arm = train.arms.get(Target.parse(artefact.key).arm)
    history = beat.values.get("history")
    if arm is None or arm.scheme != "mup" or arm.log2_lr != "transferred" or not isinstance(history, list) or not history:
        return None
    newest = history[-1] if isinstance(history[-1], list) and len(history[-1]) == 2 else [None, None]
    step, loss = (_finite(value) for value in newest)
    if step is None or loss is None:
        return None
    passed = [
        each for each in _expected(artefact.experiment, experiment) if step >= each.steps and step * train.batch_size >= each.images
    ]
    if not passed:
        return None
    limit = max(passed, key=lambda each: each.images)
    if loss <= limit.mean + SIGMAS * limit.sigma:
        return None
    return (
        f"validation loss {loss:.4g} at step {step:.0f} is above its proxy's {limit.mean:.4g} ± {limit.sigma:.2g} after "
        f"{limit.steps} steps: under μP a wider model must not be worse"
    )


def _expected(name: str, experiment: Experiment) -> list[_Expected]:
    """What the proxy reached with the transferred hyperparameters, at each of its horizons; empty while it is not known."""
    runs: list[RunRecord]
    try:
        if experiment.has("search"):
            search = SearchResult.read(RESULTS / name / "search")
            runs, batch_size = search.best.runs, search.batch_size
        elif experiment.has("sweep", "transfer"):
            proxy = experiment.transfer
            batch_size = proxy.proxy_batch_size
            setting = Setting("mup", proxy.proxy_width, batch_size)
            trials = json.loads((RESULTS / name / "sweep" / setting.name / "trials.json").read_text(encoding="utf-8"))["trials"]
            runs = _best([TrialRecord.model_validate(trial) for trial in trials], proxy.proxy_steps)
        else:
            return []
    except (OSError, ValueError, KeyError, TypeError, IndexError, ValidationError):
        return []
    expected = []
    for horizon in sorted({horizon for run in runs for horizon in run.losses}):
        # What training minimises: the accounts of target runs hold the same sum.
        losses = [run.losses[horizon]["mse"] + run.losses[horizon]["vb"] for run in runs if horizon in run.losses]
        if len(losses) == len(runs) >= 2:
            mean, sigma = statistics.fmean(losses), statistics.stdev(losses)
            expected.append(_Expected(horizon, horizon * batch_size, mean, sigma))
    return expected


def _best(trials: list[TrialRecord], horizon: int) -> list[RunRecord]:
    """The runs of the learning rate with the lowest mean over the seeds."""
    seeds = {trial.seed for trial in trials}
    by_rate: dict[float, list[TrialRecord]] = {}
    for trial in trials:
        by_rate.setdefault(trial.log2_lr, []).append(trial)
    complete = [runs for runs in by_rate.values() if len(runs) == len(seeds)]
    best = min(complete, key=lambda runs: statistics.fmean(run.loss(horizon) for run in runs), default=[])
    return list(best)


def duration(seconds: float) -> str:
    """For people: 40 s, 12 min, 3.5 h, 2.1 d."""
    for size, unit, digits in ((86400, "d", 1), (3600, "h", 1), (60, "min", 0)):
        if seconds >= size:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds:.0f} s"
