"""A study's plan: its jobs by rule and in total, and how long it takes on the machines of `cluster`. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mudit.config.cluster import ClusterSection
from mudit.config.schema import Config
from mudit.plan.estimate import JobPlan, jobs
from mudit.plan.schedule import Task, makespan
from mudit.plan.target import TargetPlan, target
from mudit.stages import STAGES, gates, inputs


@dataclass(frozen=True)
class Total:
    """Sums over some jobs."""

    jobs: int
    slices: int  # jobs of the queue, longer ones being cut
    flops: float
    worst_flops: float
    hours: float  # processor-hours
    worst_hours: float
    longest: float  # hours of the longest job
    result_bytes: int
    state_bytes: int
    files: int

    @classmethod
    def of(cls, plans: Iterable[JobPlan], job_hours: float) -> Total:
        """Of jobs that a queue takes for `job_hours` each."""
        every = list(plans)
        return cls(
            jobs=len(every),
            slices=sum(each.slices(job_hours) for each in every),
            flops=sum(each.flops for each in every),
            worst_flops=sum(each.worst_flops for each in every),
            hours=sum(each.cost_hours for each in every),
            worst_hours=sum(each.worst_cost_hours for each in every),
            longest=max((each.hours for each in every), default=0.0),
            result_bytes=sum(each.result_bytes for each in every),
            state_bytes=sum(each.state_bytes for each in every),
            files=sum(each.files for each in every),
        )

    @property
    def bytes(self) -> int:
        """Disk at most: results, and the state of all runs as if none were finished."""
        return self.result_bytes + self.state_bytes


@dataclass(frozen=True)
class StudyPlan:
    """What a study costs."""

    name: str
    cluster: ClusterSection
    jobs: dict[str, JobPlan]
    rules: dict[str, Total]  # by experiment and rule, such as `dit-imagenet sweep`
    targets: dict[str, TargetPlan]  # by experiment
    total: Total
    wall_hours: float | None  # on all machines of `cluster`; None: a job asks for more machines than there are
    worst_wall_hours: float | None

    @property
    def price(self) -> float | None:
        """In the currency of `cluster.price_per_hour`."""
        return None if self.cluster.price_per_hour is None else self.total.hours * self.cluster.price_per_hour


def study_plan(config: Config, selection: str | None = None) -> StudyPlan:
    """Of a study or experiment; without selection of `config.study`. Raises ConfigError as `mudit.plan.estimate.jobs` does."""
    plans, cluster = jobs(config, selection), config.cluster
    groups: dict[str, list[JobPlan]] = {}
    for each in plans.values():
        groups.setdefault(f"{each.artefact.experiment} {each.artefact.stage.name}", []).append(each)
    names = list(dict.fromkeys(each.artefact.experiment for each in plans.values()))
    order = sorted(groups, key=lambda group: (names.index(group.split()[0]), list(STAGES).index(group.split()[1])))
    return StudyPlan(
        name=selection or config.study,
        cluster=cluster,
        jobs=plans,
        rules={group: Total.of(groups[group], cluster.job_hours) for group in order},
        targets={name: target(config.experiments[name]) for name in names if config.experiments[name].has("train")},
        total=Total.of(plans.values(), cluster.job_hours),
        wall_hours=_wall(config, plans, worst=False),
        worst_wall_hours=_wall(config, plans, worst=True),
    )


def _wall(config: Config, plans: dict[str, JobPlan], worst: bool) -> float | None:
    processors = config.cluster.nodes * config.cluster.per_node
    tasks = {}
    for name, each in plans.items():
        experiment = config.experiments[each.artefact.experiment]
        before = [*inputs(each.artefact, experiment), *gates(each.artefact, experiment)]
        hours = each.worst_hours if worst else each.hours
        tasks[name] = Task(each.processors, hours, tuple(artefact.id for artefact in before))
    if any(task.processors > processors for task in tasks.values()):
        return None
    return makespan(tasks, processors)
