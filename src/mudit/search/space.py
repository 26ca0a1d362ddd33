"""The draws of a random search, by Optuna: a seeded sampler, and a storage that outlives kills.

All trials are drawn before the first one runs, so what is drawn does not depend on which runs a kill cut short.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from mudit.config.search import LogRange, SearchSection, StepRange
from mudit.search.records import Draw

_NAME = "search"


def ranges(section: SearchSection) -> dict[str, LogRange | StepRange]:
    """Field of the draw -> range, in the order in which they are drawn."""
    return {
        "log2_lr": section.log2_lr,
        "log2_clip_norm": section.log2_clip_norm,
        "log2_alignment_weight": section.log2_alignment_weight,
        "warmup_steps": section.warmup_steps,
    }


def distributions(section: SearchSection) -> dict[str, BaseDistribution]:
    """The same as Optuna's: uniform in the draw's own unit."""
    return {
        name: IntDistribution(each.low, each.high) if isinstance(each, StepRange) else FloatDistribution(each.low, each.high)
        for name, each in ranges(section).items()
    }


class SearchStudy:
    """An Optuna study in a file. `draws` has one entry per trial, by number."""

    def __init__(self, section: SearchSection, path: Path) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        if not path.exists():
            _draw(section, path)
        _drop_torn_line(path)
        self._study = optuna.load_study(study_name=_NAME, storage=_storage(path))
        self.draws = [Draw.model_validate(trial.params) for trial in self._study.get_trials(deepcopy=False)]
        assert len(self.draws) == section.trials, "the storage holds another search's trials"

    def tell(self, losses: Mapping[int, float | None]) -> None:
        """Outcomes by trial number, None for diverged; those told before are left alone. Only for whoever opens the storage."""
        running = {trial.number for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))}
        for number in sorted(running & losses.keys()):
            loss = losses[number]
            if loss is None:
                self._study.tell(number, state=TrialState.PRUNED)
            else:
                self._study.tell(number, loss)


def _draw(section: SearchSection, path: Path) -> None:
    """Write the storage with every trial asked; it appears by one rename, so there is no half-drawn search."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    study = optuna.create_study(
        study_name=_NAME,
        storage=_storage(partial),
        sampler=optuna.samplers.RandomSampler(seed=section.sampler_seed),
        direction="minimize",
    )
    for _ in range(section.trials):
        study.ask(distributions(section))
    os.replace(partial, path)


def _storage(path: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(path), lock_obj=_NoLock()))  # type: ignore[arg-type]  # its base is private


class _NoLock:
    """A stage holds its artefact's lock already, and Optuna's own would outlive a kill and keep the next start waiting."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def _drop_torn_line(path: Path) -> None:
    """Optuna appends whole lines and refuses a file in which one was cut short; what it said is told again."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        path.write_bytes(whole)
