"""What would stop a study, found before any job starts: one line for the first of them. Imports no torch.

Work that is done already is not counted: an artefact that is fresh, here or elsewhere, needs no data, no disk and no hours. One
that is stale or damaged is made again, so it needs all of them. A checksum is compared here where the file is small; a large one
is compared by the job that reads it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from mudit.config.cluster import ClusterSection, TrainWorkers
from mudit.config.schema import Config, Experiment
from mudit.depend import sampled_keys
from mudit.errors import ConfigError, DataError
from mudit.files import sha256_file
from mudit.jobs.resources import Site
from mudit.jobs.slurm import Partition
from mudit.plan import disk, memory, show
from mudit.plan.benchmarks import paths as benchmark_paths
from mudit.plan.estimate import JobPlan
from mudit.plan.hardware import PROCESSORS
from mudit.plan.queue import check_limits, check_names
from mudit.plan.study import StudyPlan, Total, study_plan
from mudit.provenance.resume import unfinished
from mudit.provenance.verdict import Inspector, Verdict, to_fetch
from mudit.runs import Benchmarked, Setting
from mudit.stages import STAGES, Artefact, experiments

_SMALL = 512 * 2**20  # bytes of a file that is hashed here: about a second
_VAE_WEIGHTS = "diffusion_pytorch_model.safetensors"


def check(
    config: Config,
    study: str | None,
    verdicts: Sequence[Verdict],
    *,
    site: Site | None = None,
    queue: Sequence[Partition] | None = None,
) -> list[str]:
    """The plan of a study or experiment as lines, and what of it is still to be made, if nothing stands in its way.

    verdicts: of all its artefacts; those that are not done will be made, and what they read has to be here.
    site: what the profile says of the cluster. queue: its partitions (`sinfo`). None of either: partitions are not looked at.
    Raises ConfigError for what the configuration must change and DataError for what is missing on disk, each with one line.
    """
    if site is not None and queue is not None:
        check_names(site, queue)
    done = {verdict.artefact.id for verdict in verdicts if verdict.done}
    for name in experiments(config, study):
        experiment = config.experiments[name]
        _check_workers(name, experiment, config.cluster)
        _check_memory(name, experiment, config.cluster)
        _check_paths(name, experiment, done)
        _check_reference(name, experiment, done)
        _check_benchmarks(name, experiment, done)
    if fetch := to_fetch(config, list(verdicts)):
        raise DataError(f"jobs that must run read files that are not here; fetch them with: {fetch}")
    plan = study_plan(config, study)
    open_jobs = {name: each for name, each in plan.jobs.items() if name not in done}
    if site is not None and queue is not None:
        check_limits(config, plan.jobs, open_jobs, site, queue)
    remaining = Total.of(open_jobs.values(), config.cluster.job_hours)
    _check_cap(plan, remaining)
    _check_disk(config, plan, remaining, open_jobs)
    return [*show.lines(plan), "", *_remaining(plan, remaining)]


def _remaining(plan: StudyPlan, remaining: Total) -> list[str]:
    """What is still to be made, for the last lines."""
    made = plan.total.jobs - remaining.jobs
    if not remaining.jobs:
        return [f"all {made} jobs are done: nothing will run"]
    expected, most = (show.span(hours, show.unit(plan.cluster)) for hours in (remaining.hours, remaining.worst_hours))
    lines = [f"{made} of {plan.total.jobs} jobs are done; the other {remaining.jobs} take {expected} expected, {most} at most"]
    cap = plan.cluster.cap_hours
    if cap is not None and remaining.worst_hours > cap:
        lines.append(f"cluster.cap_hours {cap:g} is held against what is expected: at most, the study may go above it")
    return [*lines, "nothing stands in the way"]


def _check_workers(name: str, experiment: Experiment, cluster: ClusterSection) -> None:
    for stage in ("data", "sweep", "search", "train", "sample", "extractor", "evaluate", "benchmark"):
        workers = getattr(experiment.execution, stage)
        if workers is None:
            continue
        where = f"experiments.{name}.execution.{stage}"
        if workers.nodes > cluster.nodes:
            raise ConfigError(f"{where}.nodes {workers.nodes}: the cluster has {cluster.nodes}; change one of them")
        if workers.per_node > cluster.per_node:
            raise ConfigError(
                f"{where}.per_node {workers.per_node}: a machine has {cluster.per_node} ({cluster.gpu}); change one of them"
            )
    for where, batch, processes, micro in _batches(name, experiment):
        if batch % processes:
            raise ConfigError(f"{where}: {processes} processes do not divide a batch of {batch}; change their number or the batch")
        share = batch // processes
        if micro is not None and share % micro:
            raise ConfigError(f"{where}.micro_batch {micro} does not divide the {share} images of each process; change it")


def _batches(name: str, experiment: Experiment) -> Iterator[tuple[str, int, int, int | None]]:
    """(where, global batch, processes that share it, micro-batch) of everything that trains."""
    execution, where = experiment.execution, f"experiments.{name}.execution"
    if experiment.has("train") and execution.train is not None:
        yield f"{where}.train", experiment.train.batch_size, execution.train.processes, execution.train.micro_batch
    if experiment.has("search") and execution.search is not None:
        yield f"{where}.search", experiment.search.batch_size, 1, execution.search.micro_batch
    if experiment.has("sweep") and execution.sweep is not None:
        for setting in _settings(experiment):
            yield f"{where}.sweep", setting.batch_size, 1, execution.sweep.micro_batch


def _settings(experiment: Experiment) -> list[Setting]:
    from mudit.sweep.settings import settings

    return list(settings(experiment.sweep))


def _check_memory(name: str, experiment: Experiment, cluster: ClusterSection) -> None:
    there = PROCESSORS[cluster.gpu].memory
    if there is None:
        return
    for what, needed, advice in _needs(experiment):
        if needed > there:
            raise ConfigError(
                f"experiments.{name}.execution: {what} needs about {show.size(needed)} on each {cluster.gpu}, which has "
                f"{show.size(there)}; {advice}"
            )


def _needs(experiment: Experiment) -> Iterator[tuple[str, int, str]]:
    """(what, bytes of one process, what would lower them) of everything that trains or samples."""
    execution = experiment.execution
    if experiment.has("train"):
        yield "train", memory.training(experiment).total, _advice(execution.train)
    if experiment.has("train", "sample"):
        yield "sample", memory.sampling(experiment), "take processors with more memory"
    if experiment.has("search"):
        micro = execution.search.micro_batch if execution.search is not None else None
        search = experiment.search
        yield "search", memory.trial(experiment, search.width, micro or search.batch_size).total, "lower search.micro_batch"
    if experiment.has("sweep"):
        micro = execution.sweep.micro_batch if execution.sweep is not None else None
        for setting in _settings(experiment):
            needed = memory.trial(experiment, setting.width, micro or setting.batch_size).total
            yield f"sweep/{setting.name}", needed, "lower sweep.micro_batch"


def _advice(workers: TrainWorkers | None) -> str:
    if workers is None:
        return "add a section train with more processes"
    ways = ["lower train.micro_batch"]
    if not workers.checkpoint_activations:
        ways.append("set train.checkpoint_activations")
    if workers.parallel == "replicated":
        ways.append("set train.parallel to sharded")
    return " or ".join(ways)


def _check_paths(name: str, experiment: Experiment, done: Collection[str]) -> None:
    """Everything that the stage `data` reads, unless it is done."""
    if Artefact(name, STAGES["data"], "").id in done:
        return
    for key, path in _paths(experiment):
        if not Path(path).exists():
            raise DataError(f"experiments.{name}.data.{key}: {path}: no such file or folder; put it there or change the path")
    data = experiment.data
    if data.encoder == "autoencoder-kl" and data.encoder_sha256 is not None and data.encoder_path is not None:
        weights = Path(data.encoder_path) / _VAE_WEIGHTS
        if weights.is_file() and weights.stat().st_size <= _SMALL and sha256_file(weights) != data.encoder_sha256:
            raise DataError(f"{weights}: its SHA-256 is not experiments.{name}.data.encoder_sha256; take the file that was meant")


def _check_reference(name: str, experiment: Experiment, done: Collection[str]) -> None:
    """What the stage `extractor` reads beside the store, unless it is done. Without a path its weights are where that job runs."""
    if not experiment.has("evaluate") or Artefact(name, STAGES["extractor"], "").id in done:
        return
    section = experiment.evaluate
    paths = {"weights": section.weights, "reference.path": section.reference.path if section.reference.kind == "file" else None}
    for key, path in paths.items():
        if path is not None and not Path(path).is_file():
            raise DataError(f"experiments.{name}.evaluate.{key}: {path}: no such file; put it there or change the setting")


def _paths(experiment: Experiment) -> Iterator[tuple[str, str]]:
    """(key, path) of what must lie on disk. `name@revision` lies on the hub, and packaged encoders have no path."""
    data = experiment.data
    for key in ("path", "captions"):
        if isinstance(path := getattr(data.source, key, None), str):
            yield f"source.{key}", path
    if data.encoder != "identity" and data.encoder_path is None:
        raise ConfigError(f"data.encoder_path is null; {data.encoder} needs the folder of its weights")
    if data.encoder_path is not None and "@" not in data.encoder_path:
        yield "encoder_path", data.encoder_path
    if data.captions is not None:
        for key, section in (("tokens", data.captions.tokens), ("pooled", data.captions.pooled)):
            if section.path is not None:
                yield f"captions.{key}.path", section.path
    if data.features is not None and data.features.encoder_path is not None:
        yield "features.encoder_path", data.features.encoder_path


def _check_benchmarks(name: str, experiment: Experiment, done: Collection[str]) -> None:
    """What the stages `prompts` and `benchmark` read beside other artefacts, of each benchmark that is not done."""
    for benchmark in experiment.benchmarks if experiment.has("benchmarks") else ():
        keys = [Benchmarked(run, benchmark).name for run in sampled_keys(experiment)]
        made = [Artefact(name, STAGES["prompts"], benchmark), *(Artefact(name, STAGES["benchmark"], key) for key in keys)]
        if all(artefact.id in done for artefact in made):
            continue
        where = f"experiments.{name}.benchmarks.{benchmark}"
        for key, path in benchmark_paths(experiment.benchmarks[benchmark]):
            if not Path(path).exists():
                raise DataError(f"{where}.{key}: {path}: no such file or folder; put it there or change the path")


def _check_cap(plan: StudyPlan, remaining: Total) -> None:
    cap = plan.cluster.cap_hours
    if cap is not None and remaining.hours > cap:
        expected, most = show.span(remaining.hours, "processor"), show.span(remaining.worst_hours)
        raise ConfigError(
            f"study {plan.name}: {expected} are expected, {most} at most, above cluster.cap_hours {cap:g}; "
            f"raise the cap, or see what fits: mudit plan {plan.name} --budget {cap:g}h"
        )


def _check_disk(config: Config, plan: StudyPlan, remaining: Total, open_jobs: dict[str, JobPlan]) -> None:
    if plan.cluster.disk_gb is None:
        disk.check(plan.name, open_jobs.values(), _unfinished(config, open_jobs))
    elif remaining.bytes > (there := plan.cluster.disk_gb * 1e9):  # what it may fill in all, so what is there already is in it
        raise DataError(
            f"study {plan.name} may fill {show.size(remaining.bytes)}, and {show.size(there)} are cluster.disk_gb; make room"
        )
    inodes = plan.cluster.inodes
    if inodes is not None and remaining.files > inodes:
        raise DataError(f"study {plan.name} may make {remaining.files:,} files, above cluster.inodes {inodes:,}; make room")


def _unfinished(config: Config, open_jobs: dict[str, JobPlan]) -> dict[str, Path]:
    """Artefact id -> the state of a killed run with which its job goes on. State of other recipes stays, and is in the way."""
    found = {}
    inspectors = {
        each.artefact.experiment: Inspector(config.experiments[each.artefact.experiment], True) for each in open_jobs.values()
    }
    for name, each in open_jobs.items():
        state = each.artefact.state
        if state.parent.is_dir() and any(state.parent.glob(f"{state.name}*")):
            folder = unfinished(state, inspectors[each.artefact.experiment].recipe(each.artefact))
            if folder is not None:
                found[name] = folder
    return found
