"""The one registry of stages: name -> keys, inputs, parameters and the module that does the work. Imports no torch.

The command line, the Snakemake rules, the DVC stages and the manifests all read it, so adding a stage is adding one entry to
`STAGES`, its rule and its module (tests name whichever is missing); `mudit config fix` writes its DVC stage.

An *artefact* is what one call of a stage makes: the folder `results/<experiment>/<stage>/` or, where a stage makes several,
`results/<experiment>/<stage>/<key>/`. Inside one experiment it is called `<stage>` or `<stage>/<key>`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from mudit import depend
from mudit.depend import Parameters
from mudit.errors import ConfigError
from mudit.runs import Target

if TYPE_CHECKING:
    from mudit.config.cluster import Workers
    from mudit.config.schema import Config, Experiment

RESULTS = Path("results")
STATE = Path("state")
_SINGLE = [""]
_SAMPLED = ("sample.train_seeds", "train.arms", "imported")


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
    workers: Workers | None = None
    """How its processes are laid out; None: as the stage likes, which is one process. It changes no result beyond rounding."""
    known: dict[str, tuple[str, int]] = field(default_factory=dict)
    """The stage may say here what it knows of its files in `out`: path -> SHA-256 and bytes. The manifest takes these over, and
    only the other files are read again for it."""

    @property
    def weights(self) -> Path:
        """The input whose weights are sampled: the target run that the key names, or a checkpoint from elsewhere."""
        return next(path for name, path in self.inputs.items() if name.startswith(("train/", "imported/")))


@dataclass(frozen=True)
class Stage:
    """One kind of artefact.

    `parameters` returns everything of the configuration that the result depends on, as JSON values under the names of the
    configuration's sections; what it leaves out may change without making the artefact stale. `gates` are artefacts that must be
    fresh before the stage may run although nothing of them flows into its result: their later changes do not make it stale.
    An experiment that lacks one of the `sections` has no artefact of the stage. `keyed_by` names the keys of an experiment's
    configuration that decide which `keys` there are; DVC watches them. A `parallel` stage may run as several processes
    (`execution` in the configuration), each of which calls `run`; only rank 0's summary counts. State that is `spent` once the
    artefact is in its place is removed then, by whoever ran the stage; other state stays.
    `work` is the relative cost of one artefact: among jobs that could start, the workflow starts the dearest first, so that no
    core idles at the end.
    """

    name: str
    summary: str
    module: str
    inputs: Callable[[Experiment, str], list[str]]
    parameters: Callable[[Experiment, str], Parameters]
    keys: Callable[[Experiment], list[str]] | None = None
    keyed_by: tuple[str, ...] = ()
    gates: Callable[[Experiment], list[str]] = lambda experiment: []
    sections: tuple[str, ...] = ()
    parallel: bool = False
    spent: bool = False
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
        return self.folder / self.key

    @property
    def folder(self) -> Path:
        """Folder of all artefacts of the stage, which DVC tracks as one."""
        return RESULTS / self.experiment / self.stage.name

    @property
    def state(self) -> Path:
        """Folder of resumable state, relative to the working directory."""
        return STATE / self.experiment / self.stage.name / self.key

    @property
    def command(self) -> str:
        """The command line that makes it."""
        return " ".join(["mudit", self.stage.name, self.experiment, self.key]).rstrip()


def _report_inputs(experiment: Experiment, key: str) -> list[str]:
    return [stage.artefact(key) for stage in STAGES.values() if stage.name != "report" for key in stage.all_keys(experiment)]


_ALL = [
    Stage(
        name="data",
        summary="Encode a data set into the latent store.",
        module="mudit.data.stage",
        parallel=True,
        spent=True,
        inputs=depend.inputs(),
        parameters=depend.data_parameters,
    ),
    Stage(
        name="extractor",
        summary="Prepare the feature extractor of the metrics.",
        module="mudit.evaluate.extractor_stage",
        sections=("evaluate",),
        parallel=True,
        spent=True,
        inputs=depend.inputs("data"),
        parameters=depend.extractor_parameters,
    ),
    Stage(
        name="scorer",
        summary="Train the text-image scorer of the metrics.",
        module="mudit.evaluate.scorer_stage",
        sections=("scorer",),
        inputs=depend.inputs("data"),
        parameters=depend.sections("scorer"),
    ),
    Stage(
        name="coordcheck",
        summary="Gate: do activations keep their size as width grows?",
        module="mudit.parametrization.gate",
        keys=depend.gate_keys,
        keyed_by=("model.family", "coordcheck.also"),
        inputs=depend.inputs("data"),
        parameters=depend.gate_parameters,
    ),
    Stage(
        name="sweep",
        summary="Learning-rate sweep of one setting (Algorithms 1 to 3).",
        module="mudit.sweep.stage",
        sections=("sweep",),
        keys=depend.sweep_keys,
        keyed_by=("sweep",),
        parallel=True,
        inputs=depend.inputs("data"),
        gates=depend.own_gate,
        parameters=depend.sweep_parameters,
        work=depend.sweep_work,
    ),
    Stage(
        name="search",
        summary="Random search of the base hyperparameters on the proxy.",
        module="mudit.search.stage",
        sections=("search",),
        parallel=True,
        inputs=depend.inputs("data"),
        gates=depend.own_gate,
        parameters=depend.search_parameters,
        work=depend.search_work,
    ),
    Stage(
        name="select",
        summary="Optima, drift and verdict: the transfer certificate.",
        module="mudit.select.stage",
        sections=("select",),
        inputs=lambda experiment, key: [f"sweep/{setting}" for setting in depend.sweep_keys(experiment)],
        parameters=depend.sections("sweep", "select"),
    ),
    Stage(
        name="transfer",
        summary="Hyperparameters of one arm of the target (Algorithm 4).",
        module="mudit.select.transfer_stage",
        sections=("train",),
        keys=lambda experiment: list(experiment.train.arms),
        keyed_by=("train.arms",),
        inputs=depend.transfer_inputs,
        parameters=depend.transfer_parameters,
    ),
    Stage(
        name="train",
        summary="Train one target run.",
        module="mudit.train.stage",
        sections=("train",),
        keys=lambda experiment: depend.train_keys(experiment, experiment.train.seeds),
        keyed_by=("train.seeds", "train.arms"),
        parallel=True,
        inputs=lambda experiment, key: ["data", f"transfer/{Target.parse(key).arm}"],
        gates=depend.own_gate,
        parameters=depend.train_parameters,
        work=depend.train_work,
    ),
    Stage(
        name="imported",
        summary="Take over a checkpoint that `mudit import` brought in.",
        module="mudit.interchange.stage",
        sections=("imported",),
        keys=lambda experiment: list(experiment.imported),
        keyed_by=("imported",),
        inputs=depend.inputs(),
        parameters=depend.imported_parameters,
    ),
    Stage(
        name="sample",
        summary="Draw images from the EMA weights of one target run.",
        module="mudit.evaluate.sample_stage",
        sections=("sample",),
        keys=depend.sampled_keys,
        keyed_by=_SAMPLED,
        parallel=True,
        spent=True,
        inputs=lambda experiment, key: ["data", depend.weights_of(experiment, key)],
        parameters=depend.sample_parameters,
    ),
    Stage(
        name="evaluate",
        summary="Metrics of one target run, beside their real-vs-real floor.",
        module="mudit.evaluate.stage",
        sections=("evaluate",),
        keys=depend.sampled_keys,
        keyed_by=_SAMPLED,
        parallel=True,
        spent=True,
        inputs=depend.evaluate_inputs,
        parameters=depend.evaluate_parameters,
    ),
    Stage(
        name="prompts",
        summary="Prompts and reference images of a public benchmark.",
        module="mudit.benchmark.prompts_stage",
        sections=("benchmarks",),
        keys=lambda experiment: list(experiment.benchmarks),
        keyed_by=("benchmarks",),
        spent=True,
        inputs=depend.prompts_inputs,
        parameters=depend.prompts_parameters,
    ),
    Stage(
        name="benchmark",
        summary="Images of one run for a public benchmark, and its figures.",
        module="mudit.benchmark.stage",
        sections=("benchmarks",),
        keys=depend.benchmark_keys,
        keyed_by=("benchmarks", *_SAMPLED),
        parallel=True,
        spent=True,
        inputs=depend.benchmark_inputs,
        parameters=depend.benchmark_parameters,
    ),
    Stage(
        name="report",
        summary="One HTML page with the claims ledger and its evidence.",
        module="mudit.report.stage",
        inputs=_report_inputs,
        parameters=lambda experiment, key: experiment.model_dump(mode="json", exclude={"execution"}),
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
        if key:
            raise ConfigError(f"{stage} {experiment}: makes one artefact; leave out {key!r}")
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
