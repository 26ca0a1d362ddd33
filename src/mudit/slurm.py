"""What a job asks Slurm: how long it may still run, whether it is being ended, to be queued again. Imports no torch.

Every question is one call of Slurm's own commands. They need no accounting: `squeue`, `scontrol` and `sinfo` ask the controller.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess

_LOG = logging.getLogger(__name__)
_QUERY_S = 60
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?:(?:(?P<hours>\d+):)?(?P<minutes>\d+):)?(?P<seconds>\d+)")


def job() -> str | None:
    """Id of the Slurm job that this process belongs to; None outside of one. A task of an array has an id of its own."""
    return os.environ.get("SLURM_JOB_ID")


def seconds_left(job_id: str) -> float | None:
    """Seconds until the time limit; None if there is none, or Slurm does not say."""
    answer = _ask("squeue", "--noheader", "--jobs", job_id, "--format", "%L")
    match = _TIME.fullmatch(answer or "")
    if match is None:
        return None
    days, hours, minutes, seconds = (int(match[name] or 0) for name in ("days", "hours", "minutes", "seconds"))
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


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


def partitions() -> list[str] | None:
    """Names of all partitions; None on a machine without Slurm's commands."""
    if shutil.which("sinfo") is None:
        return None
    answer = _ask("sinfo", "--noheader", "--format", "%R")
    return None if answer is None else answer.split()


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
