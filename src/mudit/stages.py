"""The one registry of stages: name -> keys, inputs, parameters and the module that does the work. Imports no torch.

The command line, the Snakemake rules, the DVC stages and the manifests all read it, so adding a stage is adding one entry to
`STAGES` (and its rule, its DVC stage and its module; tests name whichever is missing).

An *artefact* is what one call of a stage makes: the folder `results/<experiment>/<stage>/` or, where a stage makes several,
`results/<experiment>/<stage>/<key>/`. Inside one experiment it is called `<stage>` or `<stage>/<key>`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mudit.errors import ConfigError
from mudit.runs import Setting, Target

if TYPE_CHECKING:
    from mudit.config.base import Section
    from mudit.config.schema import Config, Experiment

RESULTS = Path("results")
STATE = Path("state")
_SINGLE = [""]

Parameters = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """What a stage's `run(job) -> summary` gets. It writes final files into `out` and nothing else into `results`."""

    experiment: str
    """Name of the experiment."""
    config: Experiment
    """Its typed sections; only those that the stage declares can be read."""
    key: str
    """Which artefact of the stage; empty for stages that make one."""
    inputs: dict[str, Path]
    """Artefact -> its folder, for example `data` or `sweep/mup_w32_b64`."""
    out: Path
    """A fresh temporary folder, renamed into place when `run` returns."""
    state: Path
    """Where resumable state goes: survives kills and restarts. Made by the stage when it needs it."""


@dataclass(frozen=True)
class Stage:
    """One kind of artefact.

    `parameters` returns everything of the configuration that the result depends on, as JSON values under the names of the
    configuration's sections; what it leaves out may change without making the artefact stale. `gates` are artefacts that must be
    fresh before the stage may run although nothing of them flows into its result: their later changes do not make it stale.
    An experiment that lacks one of the `sections` has no artefact of the stage.
    `work` is the relative cost of one artefact: among jobs that could start, the workflow starts the dearest first, so that no
    core idles at the end.
    """

    name: str
    summary: str
    module: str
    inputs: Callable[[Experiment, str], list[str]]
    parameters: Callable[[Experiment, str], Parameters]
    keys: Callable[[Experiment], list[str]] | None = None
    gates: Callable[[Experiment], list[str]] = lambda experiment: []
    sections: tuple[str, ...] = ()
    work: Callable[[Experiment, str], float] = lambda experiment, key: 0.0

    def all_keys(self, experiment: Experiment) -> list[str]:
        """Keys of the artefacts it makes; the one empty key for a stage that makes one; none for a stage without its sections."""
        if not experiment.has(*self.sections):
            return []
        return self.keys(experiment) if self.keys else _SINGLE

    def artefact(self, key: str) -> str:
        """Name inside the experiment: `stage` or `stage/key`."""
        return f"{self.name}/{key}" if self.keys else self.name


@dataclass(frozen=True)
class Artefact:
    """One artefact of one experiment."""

    experiment: str
    stage: Stage
    key: str

    @property
    def name(self) -> str:
        """Name inside the experiment, for example `sweep/mup_w32_b64`."""
        return self.stage.artefact(self.key)

    @property
    def id(self) -> str:
        """Name inside the project, for example `dit-digits/sweep/mup_w32_b64`."""
        return f"{self.experiment}/{self.name}"

    @property
    def path(self) -> Path:
        """Folder of final files and manifest, relative to the working directory."""
        return RESULTS / self.experiment / self.stage.name / self.key

    @property
    def state(self) -> Path:
        """Folder of resumable state, relative to the working directory."""
        return STATE / self.experiment / self.stage.name / self.key

    @property
    def command(self) -> str:
        """The command line that makes it."""
        return " ".join(["mudit", self.stage.name, self.experiment, self.key]).rstrip()


def _sections(*names: str) -> Callable[[Experiment, str], Parameters]:
    """Parameters that are whole sections of the experiment."""
    return lambda experiment, key: _dump(experiment, *names)


def _dump(experiment: Experiment, *names: str) -> Parameters:
    return {name: getattr(experiment, name).model_dump(mode="json") for name in names}


def _fields(section: Section, *names: str) -> Parameters:
    return section.model_dump(mode="json", include=set(names))


def _inputs(*names: str) -> Callable[[Experiment, str], list[str]]:
    """Inputs that are the same for every key of a stage."""
    return lambda experiment, key: list(names)


def _gate_keys(experiment: Experiment) -> list[str]:
    """Families that the gate looks at, the experiment's own first."""
    return [experiment.model.family, *(each.model.family for each in experiment.coordcheck.also)]


def _own_gate(experiment: Experiment) -> list[str]:
    return [f"coordcheck/{experiment.model.family}"]


def _gate_parameters(experiment: Experiment, key: str) -> Parameters:
    check = experiment.coordcheck.model_dump(mode="json", exclude={"also"})
    if key == experiment.model.family:
        return _dump(experiment, "model", "diffusion", "optimizer") | {"coordcheck": check}
    also = [each.model_dump(mode="json") for each in experiment.coordcheck.also if each.model.family == key]
    return {"coordcheck": check | {"also": also}}


def _sweep_keys(experiment: Experiment) -> list[str]:
    from mudit.sweep.settings import settings

    return [setting.name for setting in settings(experiment.sweep)]


def _sweep_parameters(experiment: Experiment, key: str) -> Parameters:
    from mudit.sweep.settings import settings

    grid = _fields(experiment.sweep, "log2_lr", "log2_lr_min", "log2_lr_max", "seeds", "divergence_factor")
    horizons = list(settings(experiment.sweep)[Setting.parse(key)])
    return _dump(experiment, "model", "diffusion", "optimizer", "validation") | {"sweep": grid | {"horizons": horizons}}


def _sweep_work(experiment: Experiment, key: str) -> float:
    setting = Setting.parse(key)
    steps: int = max(_sweep_parameters(experiment, key)["sweep"]["horizons"])
    return setting.width**2 * setting.batch_size * steps * (len(experiment.sweep.log2_lr) + 3 * len(experiment.sweep.seeds))


def _search_work(experiment: Experiment, key: str) -> float:
    search = experiment.search
    return search.width**2 * search.batch_size * search.steps * search.trials


def _transfer_inputs(experiment: Experiment, key: str) -> list[str]:
    """Where the base hyperparameters come from: a sweep's certificate or a random search; nowhere if every arm states its own."""
    return [stage for stage in ("select", "search") if experiment.has(stage)]


def _transfer_parameters(experiment: Experiment, key: str) -> Parameters:
    train = _fields(experiment.train, "width", "batch_size", "steps")
    arm = experiment.train.arms[key].model_dump(mode="json")
    sections = [name for name in ("transfer", "search") if experiment.has(name)]
    return _dump(experiment, *sections, "model", "diffusion", "optimizer") | {"train": train | {"arms": {key: arm}}}


def _train_keys(experiment: Experiment, seeds: list[int]) -> list[str]:
    return [Target(arm, seed).name for seed in seeds for arm in experiment.train.arms]


def _train_parameters(experiment: Experiment, key: str) -> Parameters:
    train = experiment.train.model_dump(mode="json", exclude={"arms", "seeds"})
    return _dump(experiment, "model", "diffusion", "optimizer", "validation") | {"train": train}


def _train_work(experiment: Experiment, key: str) -> float:
    return experiment.train.width**2 * experiment.train.batch_size * experiment.train.steps


def _sampled_keys(experiment: Experiment) -> list[str]:
    return _train_keys(experiment, experiment.sample.train_seeds)


def _sample_parameters(experiment: Experiment, key: str) -> Parameters:
    return _dump(experiment, "model", "diffusion") | {"sample": experiment.sample.model_dump(mode="json", exclude={"train_seeds"})}


def _evaluate_inputs(experiment: Experiment, key: str) -> list[str]:
    scorer = ["scorer"] if experiment.has("scorer") else []
    return ["data", "extractor", *scorer, f"train/{key}", f"sample/{key}"]


def _evaluate_parameters(experiment: Experiment, key: str) -> Parameters:
    scorer = ["scorer"] if experiment.has("scorer") else []
    return _dump(experiment, "model", "diffusion", "validation", "evaluate", *scorer)


def _report_inputs(experiment: Experiment, key: str) -> list[str]:
    return [stage.artefact(key) for stage in STAGES.values() if stage.name != "report" for key in stage.all_keys(experiment)]


_ALL = [
    Stage(
        name="data",
        summary="Encode a data set into the latent store.",
        module="mudit.data.stage",
        inputs=_inputs(),
        parameters=_sections("data"),
    ),
    Stage(
        name="extractor",
        summary="Prepare the feature extractor of the metrics.",
        module="mudit.evaluate.extractor_stage",
        sections=("evaluate",),
        inputs=_inputs("data"),
        parameters=lambda experiment, key: {
            "evaluate": _fields(experiment.evaluate, "extractor"),
            "model": _fields(experiment.model, "num_classes"),
        },
    ),
    Stage(
        name="scorer",
        summary="Train the text-image scorer of the metrics.",
        module="mudit.evaluate.scorer_stage",
        sections=("scorer",),
        inputs=_inputs("data"),
        parameters=_sections("scorer"),
    ),
    Stage(
        name="coordcheck",
        summary="Gate: do activations keep their size as width grows?",
        module="mudit.parametrization.gate",
        keys=_gate_keys,
        inputs=_inputs("data"),
        parameters=_gate_parameters,
    ),
    Stage(
        name="sweep",
        summary="Learning-rate sweep of one setting (Algorithms 1 to 3).",
        module="mudit.sweep.stage",
        sections=("sweep",),
        keys=_sweep_keys,
        inputs=_inputs("data"),
        gates=_own_gate,
        parameters=_sweep_parameters,
        work=_sweep_work,
    ),
    Stage(
        name="search",
        summary="Random search of the base hyperparameters on the proxy.",
        module="mudit.search.stage",
        sections=("search",),
        inputs=_inputs("data"),
        gates=_own_gate,
        parameters=_sections("model", "diffusion", "optimizer", "validation", "search"),
        work=_search_work,
    ),
    Stage(
        name="select",
        summary="Optima, drift and verdict: the transfer certificate.",
        module="mudit.select.stage",
        sections=("select",),
        inputs=lambda experiment, key: [f"sweep/{setting}" for setting in _sweep_keys(experiment)],
        parameters=_sections("sweep", "select"),
    ),
    Stage(
        name="transfer",
        summary="Hyperparameters of one arm of the target (Algorithm 4).",
        module="mudit.select.transfer_stage",
        sections=("train",),
        keys=lambda experiment: list(experiment.train.arms),
        inputs=_transfer_inputs,
        parameters=_transfer_parameters,
    ),
    Stage(
        name="train",
        summary="Train one target run.",
        module="mudit.train.stage",
        sections=("train",),
        keys=lambda experiment: _train_keys(experiment, experiment.train.seeds),
        inputs=lambda experiment, key: ["data", f"transfer/{Target.parse(key).arm}"],
        gates=_own_gate,
        parameters=_train_parameters,
        work=_train_work,
    ),
    Stage(
        name="sample",
        summary="Draw images from the EMA weights of one target run.",
        module="mudit.evaluate.sample_stage",
        sections=("sample",),
        keys=_sampled_keys,
        inputs=lambda experiment, key: ["data", f"train/{key}"],
        parameters=_sample_parameters,
    ),
    Stage(
        name="evaluate",
        summary="Metrics of one target run, beside their real-vs-real floor.",
        module="mudit.evaluate.stage",
        sections=("evaluate",),
        keys=_sampled_keys,
        inputs=_evaluate_inputs,
        parameters=_evaluate_parameters,
    ),
    Stage(
        name="report",
        summary="One HTML page with the claims ledger and its evidence.",
        module="mudit.report.stage",
        inputs=_report_inputs,
        parameters=lambda experiment, key: experiment.model_dump(mode="json"),
    ),
]
STAGES: dict[str, Stage] = {stage.name: stage for stage in _ALL}


def artefacts(name: str, experiment: Experiment) -> list[Artefact]:
    """Every artefact of an experiment, each after its inputs."""
    return [Artefact(name, stage, key) for stage in STAGES.values() for key in stage.all_keys(experiment)]


def inputs(artefact: Artefact, experiment: Experiment) -> list[Artefact]:
    """The artefacts that it reads."""
    return [parse(artefact.experiment, name) for name in artefact.stage.inputs(experiment, artefact.key)]


def gates(artefact: Artefact, experiment: Experiment) -> list[Artefact]:
    """The artefacts that must be fresh before it may be made."""
    return [parse(artefact.experiment, name) for name in artefact.stage.gates(experiment)]


@cache
def parse(experiment: str, name: str) -> Artefact:
    """Inverse of `Artefact.name`. The key is not checked against the configuration."""
    stage, _, key = name.partition("/")
    return Artefact(experiment, STAGES[stage], key)


def find(config: Config, experiment: str, stage: str, key: str) -> Artefact:
    """The artefact that a user named. Raises ConfigError, with the nearest name, if the configuration has no such artefact."""
    known(experiment, config.experiments, "experiment")
    keys = STAGES[stage].all_keys(config.experiments[experiment])
    if not keys:
        missing = next(name for name in STAGES[stage].sections if not config.experiments[experiment].has(name))
        raise ConfigError(f"{stage} {experiment}: nothing to make; the experiment has no section {missing}")
    if STAGES[stage].keys is None:
        assert key == "", f"stage {stage} makes one artefact"
    elif not key:
        raise ConfigError(f"{stage} {experiment}: say which one: {', '.join(keys)}")
    else:
        known(key, keys, f"{stage} of {experiment}")
    return Artefact(experiment, STAGES[stage], key)


def known(name: str, names: Collection[str], what: str) -> None:
    """Raises ConfigError, with the nearest of `names` or with all of them, if `name` is not one of them."""
    if name not in names:
        nearest = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known are {', '.join(names)}"
        raise ConfigError(f"no {what} is named {name!r}; {hint}")


def experiments(config: Config, selection: str | None = None) -> list[str]:
    """Names of the experiments of a study, or the one experiment, called `selection`; without it, of `config.study`."""
    selection = selection or config.study
    if selection in config.studies:
        return list(dict.fromkeys(config.studies[selection]))
    known(selection, [*config.studies, *config.experiments], "study or experiment")
    return [selection]


def plan(config: Config, selection: str | None = None) -> Iterator[tuple[Artefact, Experiment]]:
    """Every artefact of a study or experiment with its experiment, each after its inputs."""
    for name in experiments(config, selection):
        experiment = config.experiments[name]
        for artefact in artefacts(name, experiment):
            yield artefact, experiment
