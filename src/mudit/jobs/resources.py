"""What the workflow asks of Slurm for each job: machines, GPUs, cores, memory, time. Imports no torch.

Three places say it, each once: `execution` of an experiment how many processes a stage has, `cluster` the kind of processor and the
longest job, and the profile's `site.yaml` names and sizes of this cluster. The names of the resources are those of Snakemake's
executor for Slurm; None leaves an option out.

Every job gets one Slurm task per machine, inside of which `mudit launch` starts the processes. GPUs are asked for per machine
(--gres): --gpus would count over all machines and lets Slurm deal them out unevenly, and more than one task per GPU, which the
executor derives from `tasks` unless told otherwise, would run the job several times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from mudit.config.base import PositiveInt, Section
from mudit.config.cluster import ClusterSection, Workers
from mudit.config.schema import Config
from mudit.config.wording import first_problem
from mudit.errors import ConfigError
from mudit.jobs.slurm import Partition
from mudit.plan.estimate import HOST_CORES, JobPlan
from mudit.stages import Artefact

SITE_FILE = Path("workflow/profiles/slurm/site.yaml")
ARRAYS = frozenset({"sweep"})  # as slurm-array-jobs in the profile says
_LEAST_MINUTES = 60  # starting, reading and writing are in no plan
_SLACK = 2.0  # times the planned hours, because utilisation is an assumption
_MORE_MEMORY = 0.5  # of the first attempt's, for each further attempt
_MIB_PER_GB = 1e9 / 2**20  # Slurm counts in binary units
Value = int | str | None


class Site(Section):
    """Names and sizes of one cluster."""

    partition: str | None = Field(description="for jobs that use a GPU")
    cpu_partition: str | None = Field(description="for jobs that do not; null: `partition`")
    account: str | None = Field(description="sbatch --account")
    qos: str | None = Field(description="sbatch --qos")
    constraint: str | None = Field(description="sbatch --constraint")
    gpu: str = Field(description="what --gres calls a GPU", pattern=r"^\w+(:[\w.]+)?$")
    scratch_gb: PositiveInt | None = Field(description="local disk of each machine, 10^9 bytes")
    extra: str | None = Field(description="further options of sbatch")
    cores: PositiveInt = Field(description="CPU cores of one process")
    memory_gb: PositiveInt = Field(description="main memory of one process, 10^9 bytes")
    machine_memory_gb: PositiveInt = Field(description="main memory of one machine that a job may have, 10^9 bytes")

    @property
    def partitions(self) -> set[str]:
        """Every partition that it names."""
        return {name for name in (self.partition, self.cpu_partition) if name is not None}


def read_site(path: Path = SITE_FILE) -> Site:
    """The cluster's description. Raises ConfigError."""
    try:
        return Site.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")), strict=True)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_problem(error)}") from None


def cores(config: Config, site: Site | None) -> int:
    """CPU cores of one process; without a site, on this machine."""
    return 1 if site is None or config.cluster.gpu == "cpu-core" else site.cores


def threads(config: Config, site: Site | None, experiment: str, stage: str) -> int:
    """CPU cores of a stage's processes on one machine."""
    workers: Workers | None = getattr(config.experiments[experiment].execution, stage, None)
    return (1 if workers is None else workers.per_node) * cores(config, site)


def ask(
    config: Config,
    site: Site,
    plans: dict[str, JobPlan],
    artefact: Artefact,
    attempt: int,
    queue: Sequence[Partition] | None = None,
) -> dict[str, Value]:
    """Resources of one artefact's job: one value for each of NAMES. `attempt` is Snakemake's count, from 1.

    A job that is repeated asks for more memory and time, but for no more time than its partition in `queue` allows: it would wait
    for ever. `plans` are those of the whole study.

    Jobs that may be tasks of one array ask for the same: as much as any of them needs.
    """
    if artefact.stage.name not in ARRAYS:
        return _ask(config, site, plans[artefact.id], attempt, queue)
    asked = [_ask(config, site, each, attempt, queue) for each in plans.values() if each.artefact.stage.name == artefact.stage.name]
    largest = {name: max((each[name] for each in asked), key=_amount) for name in NAMES}
    return largest | {"mpi": None}  # with it, the executor starts the first task's command in every task


def _amount(value: Value) -> int:
    """What makes one request larger than another of the same name. Words of all tasks differ in a count at their end only."""
    if value is None or isinstance(value, int):
        return value or 0
    count = value.rpartition(":")[2]
    return int(count) if count.isdigit() else 0


def _ask(config: Config, site: Site, plan: JobPlan, attempt: int, queue: Sequence[Partition] | None) -> dict[str, Value]:
    gpu = config.cluster.gpu != "cpu-core" and not plan.on_host
    partition = site.partition if gpu else site.cpu_partition or site.partition
    mine = (each for each in queue or () if (each.default if partition is None else each.name == partition))
    most = min((each.limit_s for each in mine if each.limit_s), default=math.inf) / 60
    memory_gb = plan.per_node * site.memory_gb * (1 + _MORE_MEMORY * (attempt - 1))
    extra = [site.extra, None if site.scratch_gb is None else f"--tmp={_mebibytes(site.scratch_gb)}M"]
    return {
        "slurm_partition": partition,
        "slurm_account": site.account,
        "qos": site.qos,
        "constraint": site.constraint,
        "nodes": plan.nodes,
        "tasks": plan.nodes,
        # Without it, the executor runs the job inside a step of one machine, and signals to that step would hit srun.
        "mpi": "srun" if plan.nodes > 1 else None,
        "gres": f"{site.gpu}:{plan.per_node}" if gpu else None,
        "tasks_per_gpu": 0 if gpu else None,
        "cpus_per_task": plan.per_node * cores(config, site),
        "mem_mb": _mebibytes(min(memory_gb, site.machine_memory_gb)),
        "runtime": _minutes(config.cluster, site, plan, attempt, most),
        "slurm_extra": " ".join(filter(None, extra)) or None,
    }


NAMES = (
    *("slurm_partition", "slurm_account", "qos", "constraint", "nodes", "tasks", "mpi", "gres", "tasks_per_gpu"),
    *("cpus_per_task", "mem_mb", "runtime", "slurm_extra"),
)


def _mebibytes(gigabytes: float) -> int:
    """What fits into so many 10^9 bytes, in the unit of sbatch's options --mem and --tmp=...M."""
    return math.floor(gigabytes * _MIB_PER_GB)


def _minutes(cluster: ClusterSection, site: Site, plan: JobPlan, attempt: int, most: float) -> int:
    """Time limit of a job: a multiple of what is planned for it, at most the longest job that the queue takes.

    A stage that trains, draws or encodes stops before the limit and goes on in another slice. One that cannot stop half-way (a
    gate, a scorer, a report) fails there, so each further attempt gets as much again.
    """
    planned = plan.worst_hours
    if plan.on_host:  # the plan, which knows no site, reckons with HOST_CORES
        planned *= HOST_CORES / site.cores
    wanted = max(_LEAST_MINUTES, 60 * _SLACK * planned) * attempt
    return max(1, math.floor(min(wanted, 60 * cluster.job_hours, most)))
