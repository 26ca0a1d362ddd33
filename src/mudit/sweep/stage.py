"""The stage `sweep`: all learning rates and seeds of one setting (scheme, width, batch size), in one process.

Finished trials are kept in `job.state`, so a killed sweep goes on where it stopped.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mudit.data.reader import LatentStore
from mudit.logs import progress
from mudit.models.flops import inference_flops, train_flops
from mudit.parametrization.table import table_for
from mudit.runs import Setting
from mudit.sweep.plan import Grid, next_trials
from mudit.sweep.records import Journal
from mudit.sweep.settings import settings
from mudit.sweep.trials import run_group
from mudit.train.device import compute_device
from mudit.train.group import Member, TrialGroup, measure_group_size
from mudit.train.validation import ValidationSet

if TYPE_CHECKING:
    from mudit.stages import Job

log = logging.getLogger(__name__)


def run(job: Job) -> dict[str, object]:
    """Write `trials.json`: the setting, its horizons and a record per trial, ordered by seed and learning rate."""
    config, setting = job.config, Setting.parse(job.key)
    horizons = settings(config.sweep)[setting]
    store = LatentStore.open(job.inputs["data"])
    store.check_fits(config.model)
    table, validation = table_for(config.model, setting.width, setting.scheme), ValidationSet(store, config)
    journal = Journal(job.state / "trials.jsonl")
    grid = Grid(
        log2_lr=tuple(config.sweep.log2_lr),
        low=config.sweep.log2_lr_min,
        high=config.sweep.log2_lr_max,
        seeds=tuple(config.sweep.seeds),
    )

    def new_group(members: Sequence[Member]) -> TrialGroup:
        return TrialGroup(config, store, table, members, setting.batch_size)

    size, spent = 0, 0
    timings: dict[int, float] = {}
    with progress(0, setting.name) as bar:
        while wanted := next_trials(grid, journal.losses(horizons), horizons):
            members = [Member(log2_lr, seed) for log2_lr, seed in wanted]
            if not size:
                size, timings = measure_group_size(new_group, members)
                log.info("%s: %d trials at once is fastest: %s ms per trial and step", setting.name, size, _milliseconds(timings))
            bar.extend(len(members) * horizons[-1])
            for start in range(0, len(members), size):
                records, steps = run_group(
                    new_group(members[start : start + size]), validation, horizons, config.sweep.divergence_factor, bar.advance
                )
                journal.append(records)
                spent += steps
    records = sorted(journal.records, key=lambda record: (record.seed, record.log2_lr))
    result = {
        "setting": {"scheme": setting.scheme, "width": setting.width, "batch_size": setting.batch_size},
        "horizons": list(horizons),
        "parameters": table.total,
        "parametrization": table.digest,
        "trials": [record.model_dump(mode="json") for record in records],
    }
    (job.out / "trials.json").write_text(json.dumps(result, indent=1) + "\n")
    probes = config.validation.images * config.validation.draws * len(records) * len(horizons)
    return {
        "trials": len(records),
        "diverged": sum(record.status == "diverged" for record in records),
        "packed": size,
        "seconds_per_trial_step": {str(count): seconds for count, seconds in timings.items()},
        "flops": train_flops(config.model, setting.width, spent * setting.batch_size)
        + inference_flops(config.model, setting.width, probes),
        "device": compute_device().type,
    }


def _milliseconds(timings: dict[int, float]) -> str:
    return ", ".join(f"{size}: {seconds * 1e3:.1f}" for size, seconds in timings.items())
