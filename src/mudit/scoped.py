"""What a stage may see of its experiment: the sections that its parameters declare, and nothing else. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from mudit.config.schema import Experiment
    from mudit.stages import Artefact


def scoped(experiment: Experiment, artefact: Artefact) -> Experiment:
    """A view of the experiment that shows only the sections that the artefact's parameters name.

    A stage that reads a section it does not declare fails with an AssertionError, so parameters cannot leave out what matters.
    """
    parameters = artefact.stage.parameters(experiment, artefact.key)
    switches = frozenset(parameters.get("published", {}).get("switches", ()))
    return cast("Experiment", _Scoped(experiment, artefact.stage.name, frozenset(parameters), switches))


class _Scoped:
    def __init__(self, experiment: Experiment, stage: str, declared: frozenset[str], switches: frozenset[str]) -> None:
        self._experiment, self._stage, self._declared, self._switches = experiment, stage, declared, switches

    def has(self, *sections: str) -> bool:
        """Whether sections are there may be asked of any: what depends on it are a stage's inputs, which are tracked anyway."""
        return self._experiment.has(*sections)

    def as_published(self, switch: str) -> bool:
        """A switch that is off changes nothing and is in no parameters; one that is on must be in those of who asks."""
        on = self._experiment.as_published(switch)
        assert not on or switch in self._switches, f"stage {self._stage} asks for {switch}, which its parameters leave out"
        return on

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # copying and pickling ask for these before __init__ has run
            raise AttributeError(name)
        value = getattr(self._experiment, name)
        assert name in self._declared, f"stage {self._stage} reads section {name!r}, which its parameters in mudit.stages leave out"
        return value
