"""What a job asks Slurm: how long it may still run, whether it is being ended, to be queued again. Imports no torch.

Every question is one call of Slurm's own commands. They need no accounting: `squeue`, `scontrol` and `sinfo` ask the controller.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
from dataclasses import dataclass

_LOG = logging.getLogger(__name__)
_QUERY_S = 60
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?:(?:(?P<hours>\d+):)?(?P<minutes>\d+):)?(?P<seconds>\d+)")


def job() -> str | None:
    """What Slurm's commands call the job that this process belongs to; None outside of one.

    A task of an array is `ARRAY_TASK`. Its SLURM_JOB_ID will not do: one task's is the array's own number, and a command that is
    given that number speaks of all tasks.
    """
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def number() -> int:
    """The job's number, which no other job and no other task of its array has. Raises KeyError outside of a job."""
    return int(os.environ["SLURM_JOB_ID"])


def seconds_left(job_id: str) -> float | None:
    """Seconds until the time limit; None if there is none or, with a warning, if Slurm does not say."""
    answer = _ask("squeue", "--noheader", "--jobs", job_id, "--format", "%L")
    seconds = _seconds(answer or "")
    if seconds is None and answer != "UNLIMITED":
        _LOG.warning("Slurm does not say how long job %s may run, so it does not stop by itself before its limit", job_id)
    return seconds


def requeue(job_id: str) -> bool:
    """Put a job that stops by itself back into the queue, under the same id. Returns whether that made Slurm run it again.

    A job that Slurm is ending already (cancelled, preempted, out of time) is left alone: whoever ended it decided what follows.
    """
    if _ask("squeue", "--noheader", "--jobs", job_id, "--format", "%T") != "RUNNING":
        return False
    if _ask("scontrol", "requeue", job_id) is None:
        _LOG.warning("Slurm does not requeue job %s; whatever submitted it must do so", job_id)
        return False
    return True


@dataclass(frozen=True)
class Partition:
    """A queue of Slurm's."""

    name: str
    default: bool  # where jobs go that name none
    limit_s: float | None  # longest job; None: as long as it likes


def partitions() -> list[Partition] | None:
    """All partitions, hidden ones too; None on a machine without Slurm's commands, or if Slurm does not answer."""
    if shutil.which("sinfo") is None:
        return None
    answer = _ask("sinfo", "--all", "--noheader", "--format", "%P %l")
    rows = [line.split() for line in (answer or "").splitlines()]
    return None if answer is None else [Partition(name.rstrip("*"), name.endswith("*"), _seconds(limit)) for name, limit in rows]


def _seconds(text: str) -> float | None:
    """A time as Slurm writes it, days-hours:minutes:seconds; None for `infinite` and what is no time."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    days, hours, minutes, seconds = (int(match[name] or 0) for name in ("days", "hours", "minutes", "seconds"))
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def clean_environment(environment: dict[str, str]) -> dict[str, str]:
    """An environment for `srun` inside of a job: which job, and nothing of how an outer step was laid out.

    srun reads SLURM_* variables as options, and those of an outer step (one task, some cores) would win over the allocation.
    """
    kept = ("SLURM_JOB_ID", "SLURM_CONF")
    return {
        name: value for name, value in environment.items() if not name.startswith(("SLURM_", "SRUN_", "SBATCH_")) or name in kept
    }


def _ask(*command: str) -> str | None:
    """What a command prints, stripped; None if it fails or does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_QUERY_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        _LOG.warning("%s: %s", " ".join(command), (getattr(error, "stderr", None) or str(error)).strip())
        return None
    return done.stdout.strip()
