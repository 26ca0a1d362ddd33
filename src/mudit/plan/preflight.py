"""What would stop a study, found before any job starts: one line for the first of them. Imports no torch.

Work that is done already is not counted: an artefact that has its manifest needs no data, no disk and no hours. A checksum is
compared here where the file is small; a large one is compared by the job that reads it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from mudit.config.cluster import ClusterSection, TrainWorkers
from mudit.config.schema import Config, Experiment
from mudit.depend import sampled_keys
from mudit.errors import ConfigError, DataError
from mudit.files import sha256_file
from mudit.plan import memory, show
from mudit.plan.benchmarks import paths as benchmark_paths
from mudit.plan.estimate import JobPlan
from mudit.plan.hardware import PROCESSORS
from mudit.plan.queue import check_limits, check_names
from mudit.plan.study import StudyPlan, Total, study_plan
from mudit.provenance.manifest import FILE as MANIFEST
from mudit.resources import Site
from mudit.runs import Benchmarked, Setting
from mudit.slurm import Partition
from mudit.stages import experiments

_SMALL = 512 * 2**20  # bytes of a file that is hashed here: about a second
_VAE_WEIGHTS = "diffusion_pytorch_model.safetensors"


def check(config: Config, study: str | None, *, site: Site | None = None, queue: Sequence[Partition] | None = None) -> list[str]:
    """The plan of a study or experiment as lines, if nothing stands in its way.

    site: what the profile says of the cluster. queue: its partitions (`sinfo`). None of either: partitions are not looked at.
    Raises ConfigError for what the configuration must change and DataError for what is missing on disk, each with one line.
    """
    if site is not None and queue is not None:
        check_names(site, queue)
    for name in experiments(config, study):
        experiment = config.experiments[name]
        _check_workers(name, experiment, config.cluster)
        _check_memory(name, experiment, config.cluster)
        _check_paths(name, experiment)
        _check_reference(name, experiment)
        _check_benchmarks(name, experiment)
    plan = study_plan(config, study)
    open_jobs = {name: each for name, each in plan.jobs.items() if not _made(each)}
    if site is not None and queue is not None:
        check_limits(config, plan.jobs, open_jobs, site, queue)
    remaining = Total.of(open_jobs.values(), config.cluster.job_hours)
    _check_cap(plan, remaining)
    _check_disk(plan, remaining)
    return show.lines(plan)


def _made(job: JobPlan) -> bool:
    return (job.artefact.path / MANIFEST).is_file()


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


def _check_paths(name: str, experiment: Experiment) -> None:
    """Everything that the stage `data` reads, unless the store is there."""
    from mudit.stages import STAGES, Artefact

    if (Artefact(name, STAGES["data"], "").path / MANIFEST).is_file():
        return
    for key, path in _paths(experiment):
        if not Path(path).exists():
            raise DataError(f"experiments.{name}.data.{key}: {path}: no such file or folder; put it there or change the path")
    data = experiment.data
    if data.encoder == "autoencoder-kl" and data.encoder_sha256 is not None and data.encoder_path is not None:
        weights = Path(data.encoder_path) / _VAE_WEIGHTS
        if weights.is_file() and weights.stat().st_size <= _SMALL and sha256_file(weights) != data.encoder_sha256:
            raise DataError(f"{weights}: its SHA-256 is not experiments.{name}.data.encoder_sha256; take the file that was meant")


def _check_reference(name: str, experiment: Experiment) -> None:
    """What the stage `extractor` reads beside the store, unless it is done. Without a path its weights are where that job runs."""
    from mudit.stages import STAGES, Artefact

    if not experiment.has("evaluate") or (Artefact(name, STAGES["extractor"], "").path / MANIFEST).is_file():
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


def _check_benchmarks(name: str, experiment: Experiment) -> None:
    """What the stages `prompts` and `benchmark` read beside other artefacts, of each benchmark that is not done."""
    from mudit.stages import STAGES, Artefact

    for benchmark in experiment.benchmarks if experiment.has("benchmarks") else ():
        keys = [Benchmarked(run, benchmark).name for run in sampled_keys(experiment)]
        made = [Artefact(name, STAGES["prompts"], benchmark), *(Artefact(name, STAGES["benchmark"], key) for key in keys)]
        if all((artefact.path / MANIFEST).is_file() for artefact in made):
            continue
        where = f"experiments.{name}.benchmarks.{benchmark}"
        for key, path in benchmark_paths(experiment.benchmarks[benchmark]):
            if not Path(path).exists():
                raise DataError(f"{where}.{key}: {path}: no such file or folder; put it there or change the path")


def _check_cap(plan: StudyPlan, remaining: Total) -> None:
    cap = plan.cluster.cap_hours
    if cap is not None and remaining.hours > cap:
        raise ConfigError(
            f"study {plan.name} would cost {show.span(remaining.hours, 'processor')}, above cluster.cap_hours {cap:g}; raise "
            f"the cap, or see what fits: mudit plan {plan.name} --budget {cap:g}h"
        )


def _check_disk(plan: StudyPlan, remaining: Total) -> None:
    there = plan.cluster.disk_gb * 1e9 if plan.cluster.disk_gb is not None else shutil.disk_usage(Path.cwd()).free
    if remaining.bytes > there:
        what = "cluster.disk_gb" if plan.cluster.disk_gb is not None else f"free in {Path.cwd()}"
        raise DataError(f"study {plan.name} may fill {show.size(remaining.bytes)}, and {show.size(there)} are {what}; make room")
    inodes = plan.cluster.inodes
    if inodes is not None and remaining.files > inodes:
        raise DataError(f"study {plan.name} may make {remaining.files:,} files, above cluster.inodes {inodes:,}; make room")
