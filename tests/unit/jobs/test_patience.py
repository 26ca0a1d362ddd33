"""Snakemake's executor for Slurm, whose queries fail: it must not forget its jobs."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import snakemake_executor_plugin_slurm as plugin

from mudit.jobs import patience


async def unanswered(command: str, logger: Any) -> tuple[None, None]:
    return None, None


async def answered(command: str, logger: Any) -> tuple[dict[str, str], float]:
    return {"7": "RUNNING", "8": "COMPLETED"}, 0.1


def kept(monkeypatch: pytest.MonkeyPatch, query: object) -> tuple[list[str], MagicMock]:
    """Jobs that the plugin's executor goes on looking at after one round of questions, of 7 and 8; and the executor."""
    monkeypatch.setattr(plugin, "query_job_status", query)
    monkeypatch.setattr(plugin, "get_min_job_age", lambda: 300)
    executor = MagicMock(next_seconds_between_status_checks=1, _status_query_calls=0, _status_query_failures=0)
    executor._status_query_total_seconds = executor._status_query_max_seconds = 0.0
    executor._status_query_min_seconds = None
    executor.get_status_command.return_value = "squeue"
    executor.workflow.executor_settings = SimpleNamespace(
        init_seconds_before_status_checks=1, status_attempts=2, keep_successful_logs=True, requeue=True
    )
    jobs = [SimpleNamespace(external_jobid=number, aux={}) for number in ("7", "8")]

    async def round_of_questions() -> list[str]:
        return [job.external_jobid async for job in plugin.Executor.check_active_jobs(executor, jobs)]

    return asyncio.run(round_of_questions()), executor


def test_jobs_are_kept_when_slurm_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    found, executor = kept(monkeypatch, patience.patient(unanswered))
    assert found == ["7", "8"]
    assert not executor.report_job_success.called and not executor.report_job_error.called
    (warning,) = [call.args[0] for call in executor.logger.warning.call_args_list]
    assert warning == "Slurm does not answer; its jobs go on, and it is asked again: squeue"


def test_the_plugin_still_forgets_them_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """When this fails, the plugin has been mended, and mudit.jobs.patience can go."""
    assert kept(monkeypatch, unanswered)[0] == []


def test_an_answer_is_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    found, executor = kept(monkeypatch, patience.patient(answered))
    assert found == ["7"] and executor.report_job_success.call_count == 1


def test_the_executor_is_given_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "query_job_status", unanswered)
    patience.apply(plugin)
    assert asyncio.run(plugin.query_job_status("squeue --all", MagicMock())) == ({}, 0.0)
