"""One estimate per job of a study: processors, operations, hours, bytes, files. Imports no torch.

Hours are operations over `cluster.utilisation` of the processors' peak, for as long as the job holds them: a sweep whose last
round leaves processors idle is charged for them. Starting, queueing, reading and writing are not in it, and decoding of images is
taken to keep up with the encoders. Stages that use no GPU (the gate, certificates, reports) are reckoned on CPU cores and cost no
GPU-hours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mudit.config.cluster import ClusterSection, ProcessorName, Workers
from mudit.config.schema import Config, Experiment
from mudit.depend import sweep_parameters, weights_of
from mudit.plan import benchmarks, work
from mudit.plan.counts import architecture
from mudit.plan.dataset import DataFacts, facts
from mudit.plan.hardware import PROCESSORS, Processor
from mudit.plan.trials import Rounds, search_rounds, sweep_rounds
from mudit.plan.work import Work
from mudit.runs import Benchmarked, Setting
from mudit.sizes import KEPT_IMAGES, MOMENT_IMAGES, SHARD_BYTES
from mudit.stages import Artefact, artefacts, experiments

HOST_CORES = 8  # that a job without GPUs is given
_ON_HOST = {"coordcheck", "select", "transfer", "imported", "scorer", "report"}
_JOB_FILES = 3  # log, benchmark and token of each job
# Files of one artefact, its manifest included and the data's shards not, as the desk studies leave them.
_FILES = {"data": 1, "extractor": 4, "scorer": 4, "coordcheck": 3, "sweep": 2, "search": 2, "select": 2, "transfer": 2}
_FILES |= {"train": 7, "imported": 4, "sample": 5, "evaluate": 2, "prompts": 4, "benchmark": 6, "report": 6}
_SET_FILES = 3  # of one set of images: a shard, sample.json, grid.png
_WEIGHT, _MOMENTS = 4, 8  # bytes of a float32 parameter, and of its two moments in AdamW
_SEEN = {"inception-v3-compat": (2048, 1008, 2023), "efficientnet-lite0": (1280, 1000, 343)}  # pooled, logits, spatial


@dataclass(frozen=True)
class JobPlan:
    """What one job will take. *Worst* differs from expected only where the number of trials is open."""

    artefact: Artefact
    nodes: int
    per_node: int  # processes on each: one per GPU, or per core where the cluster has no GPUs
    on_host: bool  # a job of a GPU cluster that uses none of its GPUs
    flops: float
    worst_flops: float
    hours: float
    worst_hours: float
    result_bytes: int
    state_bytes: int  # while it runs, or until the run is finished
    linked_bytes: int  # of the results, what lies in the state as well: on one disk as links, else as copies
    files: int

    @property
    def processors(self) -> int:
        """GPUs, or cores where the cluster has no GPUs, that it holds; 0 on the host."""
        return 0 if self.on_host else self.nodes * self.per_node

    @property
    def cost_hours(self) -> float:
        """Processor-hours expected."""
        return self.processors * self.hours

    @property
    def worst_cost_hours(self) -> float:
        """Processor-hours at most."""
        return self.processors * self.worst_hours

    def slices(self, job_hours: float) -> int:
        """Jobs of the queue that it takes one after another."""
        return max(1, math.ceil(self.hours / job_hours))


@dataclass(frozen=True)
class _Load:
    """What a stage does, before it is divided by a rate."""

    expected: Work
    worst: Work | None = None  # None: as expected
    rounds: Rounds | None = None  # `expected` and `worst` are then one trial's
    worst_rounds: Rounds | None = None
    result_bytes: float = 0
    state_bytes: float = 0
    linked_bytes: float = 0
    files: int = 0


def jobs(config: Config, selection: str | None = None) -> dict[str, JobPlan]:
    """Artefact id -> its job, for a study or an experiment; without selection for `config.study`. Each after its inputs.

    Whether an artefact is fresh already does not matter: this is what the whole study costs. Raises ConfigError if the number of
    images of a source is not known.
    """
    plans = {}
    for name in experiments(config, selection):
        experiment = config.experiments[name]
        data = facts(name, experiment)
        for artefact in artefacts(name, experiment):
            plans[artefact.id] = job(artefact, experiment, config.cluster, data)
    return plans


def job(artefact: Artefact, experiment: Experiment, cluster: ClusterSection, data: DataFacts) -> JobPlan:
    """The estimate of one job."""
    on_host = PROCESSORS[cluster.gpu].gpu and artefact.stage.name in _ON_HOST
    workers: Workers | None = getattr(experiment.execution, artefact.stage.name, None) if artefact.stage.parallel else None
    nodes, per_node = (workers.nodes, workers.per_node) if workers is not None else (1, 1)
    load = _load(artefact, experiment, data)
    kind: ProcessorName = "cpu-core" if on_host else cluster.gpu
    rate = _Rate(PROCESSORS[kind], cluster.utilisation[kind])
    at_once = HOST_CORES if on_host else nodes * per_node
    return JobPlan(
        artefact=artefact,
        nodes=nodes,
        per_node=per_node,
        on_host=on_host,
        flops=load.expected.flops * sum(load.rounds or [1]),
        worst_flops=(load.worst or load.expected).flops * sum(load.worst_rounds or load.rounds or [1]),
        hours=rate.hours(load.expected, load.rounds, at_once),
        worst_hours=rate.hours(load.worst or load.expected, load.worst_rounds or load.rounds, at_once),
        result_bytes=round(load.result_bytes),
        state_bytes=round(load.state_bytes),
        linked_bytes=round(load.linked_bytes),
        files=load.files + _FILES[artefact.stage.name] + _JOB_FILES,
    )


@dataclass(frozen=True)
class _Rate:
    processor: Processor
    utilisation: float

    def hours(self, load: Work, rounds: Rounds | None, processes: int) -> float:
        """Of one piece of work that all processes share, or of rounds of trials that are dealt over them."""
        seconds = sum(flops / self.processor.peak(precision) for precision, flops in load.by_precision.items())
        hours = seconds / self.utilisation / 3600
        if rounds is None:
            return hours / processes
        return hours * sum(math.ceil(trials / processes) for trials in rounds)


def _load(artefact: Artefact, experiment: Experiment, data: DataFacts) -> _Load:
    """By stage. A stage without an entry computes nothing that counts."""
    match artefact.stage.name:
        case "data":
            return _Load(work.encoding(experiment, data), result_bytes=data.bytes, linked_bytes=data.bytes, files=data.files)
        case "coordcheck":
            return _Load(work.gate(experiment, artefact.key))
        case "sweep":
            return _sweep(experiment, data, artefact.key)
        case "search":
            search = experiment.search
            trial = work.training(experiment, data, search.width, search.batch_size, search.steps, 1)
            rounds = search_rounds(search)
            return _Load(trial, rounds=rounds, state_bytes=_trial_state(experiment, search.width, rounds))
        case "train":
            return _target(experiment, data)
        case "sample":
            sets = _sets(experiment, artefact.key)
            pixels = 3 * experiment.sample.images * experiment.data.image_size**2
            # Finished sets share their disk space with the state; of the one that is drawn there are batches as well.
            files = (sets - 1) * _SET_FILES + sets * (pixels // SHARD_BYTES)
            drawn = sets * pixels
            load = work.sampling(experiment, data, sets)
            return _Load(load, result_bytes=drawn, state_bytes=pixels, linked_bytes=drawn, files=files)
        case "extractor":
            return _extractor(experiment, data)
        case "evaluate":
            seen = 4 * sum(_SEEN.get(experiment.evaluate.extractor, ())) * experiment.sample.images
            return _Load(work.scoring(experiment, data), state_bytes=work.sets(experiment) * seen)
        case "prompts":
            prepared = benchmarks.prompts(experiment, artefact.key, data)
            return _Load(prepared.work, result_bytes=prepared.bytes, state_bytes=prepared.bytes, files=prepared.files)
        case "benchmark":
            asked = Benchmarked.parse(artefact.key)
            judged = benchmarks.benchmark(experiment, asked.benchmark, data, _sets(experiment, asked.run))
            return _Load(judged.work, result_bytes=judged.bytes, state_bytes=judged.bytes, files=judged.files)
    return _Load(Work())


def _sets(experiment: Experiment, run: str) -> int:
    """Sets of images of a run: a checkpoint from elsewhere has no snapshots."""
    return work.sets(experiment) if weights_of(experiment, run).startswith("train/") else 1


def _extractor(experiment: Experiment, data: DataFacts) -> _Load:
    """Results are two covariances and the features of some images; the state has the scatters of each piece of the reference."""
    images, held_out = work.judged(experiment, data)
    features, logits, spatial = _SEEN.get(experiment.evaluate.extractor, (0, 0, 0))
    kept = 4 * (min(KEPT_IMAGES, images) * features + held_out * (features + logits + spatial))
    scatters = 8 * (features**2 + spatial**2)
    pieces = -(-images // MOMENT_IMAGES) if experiment.evaluate.reference.kind == "data" else 0
    return _Load(work.reference(experiment, data), result_bytes=kept + scatters, state_bytes=kept + pieces * scatters, files=pieces)


def _sweep(experiment: Experiment, data: DataFacts, key: str) -> _Load:
    setting = Setting.parse(key)
    horizons = sweep_parameters(experiment, key)["sweep"]["horizons"]
    trial = work.training(experiment, data, setting.width, setting.batch_size, max(horizons), len(horizons))
    rounds, worst = (sweep_rounds(experiment.sweep, worst=each) for each in (False, True))
    return _Load(trial, rounds=rounds, worst_rounds=worst, state_bytes=_trial_state(experiment, setting.width, rounds))


def _trial_state(experiment: Experiment, width: int, rounds: Rounds) -> int:
    """Weights and moments of all trials that run at once, and of the checkpoint before."""
    return 2 * max(rounds) * (_WEIGHT + _MOMENTS) * architecture(experiment.model, width).parameters


def _target(experiment: Experiment, data: DataFacts) -> _Load:
    """Results are weights and average; a checkpoint adds the moments. One more is on disk while it is written."""
    train = experiment.train
    parameters = architecture(experiment.model, train.width).parameters
    checkpoint = (2 * _WEIGHT + _MOMENTS) * parameters
    forever = train.steps // train.keep_every if train.keep_every is not None else 0
    kept = min(train.keep_checkpoints, train.steps // train.checkpoint_every) + 1 + forever
    workers = experiment.execution.train
    per_checkpoint = 1 + (workers.processes if workers is not None and workers.parallel == "sharded" else 1)
    return _Load(
        work.target(experiment, data),
        result_bytes=(2 + len(train.snapshots)) * _WEIGHT * parameters,
        linked_bytes=len(train.snapshots) * _WEIGHT * parameters,
        state_bytes=kept * checkpoint,
        files=kept * per_checkpoint + 2 * len(train.snapshots),
    )
