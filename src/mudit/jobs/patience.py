"""Snakemake's executor for Slurm forgets its jobs when Slurm does not answer; with this it asks again. Imports no torch.

The plugin (2.8) keeps the jobs of which a query says that they run, and those of which an answer says nothing. When no query is
answered at all it keeps none: Snakemake waits for ever for jobs that nobody looks at any more. That takes a controller that
restarts, or, without accounting, one failed `scontrol show config`, after which the plugin turns to a `sacct` that cannot answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from logging import Logger
from types import ModuleType

Answer = tuple[dict[str, str] | None, float | None]
Query = Callable[[str, Logger], Awaitable[Answer]]


def patient(query: Query) -> Query:
    """The same query of jobs' states, but for one that fails: it says nothing of any job, so the executor keeps them all."""

    async def asked(command: str, logger: Logger) -> Answer:
        states, seconds = await query(command, logger)
        if states is not None:
            return states, seconds
        logger.warning(f"Slurm does not answer; its jobs go on, and it is asked again: {command.split()[0]}")
        return {}, 0.0

    return asked


def apply(plugin: ModuleType) -> None:
    """Make the executor of the imported plugin patient. `plugin`: snakemake_executor_plugin_slurm."""
    plugin.query_job_status = patient(plugin.query_job_status)  # type: ignore[attr-defined]
