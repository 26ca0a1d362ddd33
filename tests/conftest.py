"""Fixtures shared by all tests: the desk experiment as configured, and its latent store."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from mudit.config.load import load
from mudit.config.schema import Experiment
from mudit.data.reader import LatentStore
from mudit.stages import Job
from support import ROOT

# How long an example takes says more about the machine than about the code.
settings.register_profile("mudit", deadline=None)
settings.load_profile("mudit")

GROUPS = {"test_containers.py": "cluster", "test_slurm.py": "cluster", "test_text.py": "text", "test_parallel.py": "parallel"}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """One worker runs all tests that share something: a Slurm, of which there can be one, a finished project, runs of minutes."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        """Not `--dist loadgroup`: its marks are lost with pytest 9.2 (xdist 3.8 writes them into an attribute that is gone)."""

        def _split_scope(self, nodeid: str) -> str:
            module = nodeid.partition("::")[0]
            shared = "workflow" if "/workflow/" in module else nodeid
            return GROUPS.get(module.rpartition("/")[2], shared)

    return ByGroup(config, log)


@pytest.fixture(autouse=True)
def signal_handlers() -> Iterator[None]:
    """A run that was asked to stop ignores further signals, because its process ends; that of the tests goes on."""
    former = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGUSR1)]
    yield
    for number, handler in former:
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def desk() -> Experiment:
    """The experiment of the desk study, as in the repository's config.yaml."""
    return load(ROOT / "config.yaml").experiments["dit-digits"]


@pytest.fixture(scope="session")
def digits_folder(desk: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artefact folder of the desk study's data stage."""
    from mudit.data import stage

    folder = tmp_path_factory.mktemp("data")
    stage.run(Job("dit-digits", desk, "", {}, folder, tmp_path_factory.mktemp("state")))
    return folder


@pytest.fixture
def digits(digits_folder: Path) -> LatentStore:
    """The open store."""
    return LatentStore.open(digits_folder)
