"""The real Slurm of the tests: two machines, n1 and n2, that are two slurmd on this one. The fixture `slurm` starts it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .conftest import Workspace

SERVER = Path(__file__).parents[1] / "servers/slurm"


def obstacle() -> str | None:
    """Why there can be no Slurm here."""
    if shutil.which("slurmctld") is None or shutil.which("munged") is None:
        return "no Slurm; tests/servers/slurm install"
    if os.geteuid() != 0:
        return "only root can start a Slurm"
    conf = Path("/etc/slurm/slurm.conf")
    return "this machine belongs to a Slurm" if conf.exists() and not conf.is_symlink() else None


# Each time that no job has ended, Snakemake's executor asks ten seconds later than before.
_ASK_EVERY_SECOND = """
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
RemoteExecutor.next_seconds_between_status_checks = property(lambda executor: 1, lambda executor, seconds: None)
"""


def quick(workspace: Workspace) -> None:
    """Look after jobs more often than a real cluster would like, and ask for less memory."""
    with (workspace.path / "Snakefile").open("a") as file:
        file.write(_ASK_EVERY_SECOND)
    for old in ("before-status-checks: 20", "between-status-checks: 20"):
        workspace.edit("workflow/profiles/slurm/config.v9+.yaml", old, old.replace("20", "1"))
    workspace.edit("workflow/profiles/slurm/config.v9+.yaml", "latency-wait: 60", "latency-wait: 0")
    workspace.edit("workflow/profiles/slurm/site.yaml", "memory_gb: 64", "memory_gb: 2")


def cancel_all() -> None:
    """Clear the queue after a failure, whose reason must not be hidden: a job may end just while it is being cancelled."""
    subprocess.run(["scancel", "--user", "root"], check=False)
