"""Whether Slurm's partitions take a study's jobs: their names, and the longest job of each. Imports no torch.

A job that asks for more time than its partition allows is not refused by Slurm: it waits for ever.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from mudit.config.schema import Config
from mudit.errors import ConfigError
from mudit.jobs.resources import SITE_FILE, Site, ask
from mudit.jobs.slurm import Partition
from mudit.plan.estimate import JobPlan
from mudit.stages import known


def check_names(site: Site, queue: Sequence[Partition]) -> None:
    """Raises ConfigError, with the nearest name, if the site names a partition that the queue does not have."""
    for name in sorted(site.partitions):
        known(name, [each.name for each in queue], "partition of the queue")


def check_limits(
    config: Config, plans: dict[str, JobPlan], remaining: Collection[str], site: Site, queue: Sequence[Partition]
) -> None:
    """Raises ConfigError if one of the `remaining` jobs (artefact ids) of `plans` asks for longer than its partition allows."""
    limits = {each.name: each.limit_s for each in queue}
    default = next((each.name for each in queue if each.default), None)
    for name in remaining:
        asked = ask(config, site, plans, plans[name].artefact, attempt=1)
        partition, minutes = asked["slurm_partition"] or default, asked["runtime"]
        limit = limits.get(str(partition))
        if limit is not None and 60 * int(minutes or 0) > limit:
            raise ConfigError(
                f"{name} asks for {minutes} minutes in partition {partition!r}, which allows {limit / 60:g} (sinfo): it would wait "
                f"for ever; set cluster.job_hours to at most {limit / 3600:g}, or name another partition in {SITE_FILE}"
            )
