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

# Tests that share something run in one worker: a Slurm, of which there can be one, a finished project, runs of minutes. The longer
# path counts; the group that takes longest stands first.
GROUPS = {
    "tests/workflow/test_slurm.py": "cluster",
    "tests/workflow/test_containers.py": "cluster",
    "tests/workflow/": "workflow",
    "tests/workflow/test_text.py": "text",
    "tests/unit/train/test_parallel.py": "parallel",
}


def group(nodeid: str) -> str:
    """Name of the group that a test belongs to; of none, the test itself."""
    path = max((path for path in GROUPS if nodeid.startswith(path)), key=len, default=None)
    return nodeid if path is None else GROUPS[path]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Several workers begin with the groups, so that none idles at the end; a single process keeps the order of the files."""
    if hasattr(config, "workerinput"):
        order = list(dict.fromkeys(GROUPS.values()))
        items.sort(key=lambda item: order.index(group(item.nodeid)) if group(item.nodeid) in order else len(order))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """One worker runs all tests of a group."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        """Not `--dist loadgroup`: its marks are lost with pytest 9.2 (xdist 3.8 writes them into an attribute that is gone)."""

        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    config.option.loadscopereorder = False  # else the group of the most tests comes first, however short they are
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
