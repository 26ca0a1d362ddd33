"""The stage `sweep`: all learning rates and seeds of one setting (scheme, width, batch size), shared among the job's processes.

Finished trials and checkpoints of unfinished ones are kept in `job.state`, so a killed sweep goes on where it stopped, with as many
processes as there are then.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mudit.config.models import ModelSection
from mudit.data.reader import LatentStore
from mudit.jobs.distributed import World
from mudit.jobs.interrupt import Interrupt
from mudit.models.flops import inference_flops, train_flops
from mudit.parametrization.table import table_for
from mudit.runs import Setting
from mudit.sweep.plan import Grid, next_trials
from mudit.sweep.records import Journal, TrialRecord, losses
from mudit.sweep.settings import settings
from mudit.sweep.trials import PackedRuns, PackRecords, micro_batch_of
from mudit.sweep.watch import watching
from mudit.train.device import compute_device
from mudit.train.group import Member, TrialGroup
from mudit.train.knobs import Knobs
from mudit.train.validation import ValidationSet

if TYPE_CHECKING:
    from mudit.stages import Job


def run(job: Job) -> dict[str, object]:
    """Write `trials.json`: the setting, its horizons and a record per trial, ordered by seed and learning rate.

    Every process plans from the same records, so all run the same rounds; rank 0 writes.
    """
    config, setting = job.config, Setting.parse(job.key)
    horizons = settings(config.sweep)[setting]
    store = LatentStore.open(job.inputs["data"])
    store.check_fits(config.model)
    table = table_for(_model(config.model, setting), setting.width, setting.scheme)
    journal = Journal(job.state / "trials.jsonl", TrialRecord)
    grid, world, micro_batch = Grid.of(config.sweep), World.of_environment(), micro_batch_of(job)

    def new_group(members: Sequence[Member]) -> TrialGroup:
        return TrialGroup(config, store, table, members, setting.batch_size, micro_batch, horizons[-1])

    def finished(pack: PackRecords) -> None:
        journal.append([TrialRecord(log2_lr=member.knobs.log2_lr, **record.model_dump()) for member, record in pack])
        watch.finished(len(journal.records))

    with Interrupt() as interrupt, watching(f"{job.experiment}/sweep/{job.key}", setting.name, job.state) as watch:
        runs = PackedRuns(
            setting.name,
            new_group,
            ValidationSet(store, config),
            horizons,
            config.sweep.divergence_factor,
            state=job.state,
            interrupt=interrupt,
            watch=watch,
        )
        while wanted := next_trials(grid, losses(journal.records, horizons), horizons):
            runs.run([Member(Knobs.of(config, log2_lr, setting.batch_size), seed) for log2_lr, seed in wanted], finished)
            journal.share()
            watch.finished(len(journal.records))
    if not world.main:
        return {}
    runs.close()
    records = sorted(journal.records, key=lambda record: (record.seed, record.log2_lr))
    result = {
        "setting": {
            "scheme": setting.scheme,
            "width": setting.width,
            "batch_size": setting.batch_size,
            "log2_output_mult": setting.log2_output_mult,
        },
        "horizons": list(horizons),
        "parameters": table.total,
        "parametrization": table.digest,
        "trials": [record.model_dump(mode="json") for record in records],
    }
    (job.out / "trials.json").write_text(json.dumps(result, indent=1) + "\n")
    trial_steps = sum(record.steps_run(horizons[-1]) for record in records)
    probes = config.validation.images * config.validation.draws * len(records) * len(horizons)
    return {
        "trials": len(records),
        "diverged": sum(record.status == "diverged" for record in records),
        "packed": runs.size,
        "seconds_per_trial_step": {str(count): seconds for count, seconds in runs.seconds.items()},
        "flops": train_flops(config.model, setting.width, trial_steps * setting.batch_size)
        + inference_flops(config.model, setting.width, probes),
        "device": compute_device().type,
    }


def _model(model: ModelSection, setting: Setting) -> ModelSection:
    """The architecture with the setting's readout multiplier. Only the table reads it: the architecture is the same."""
    if setting.log2_output_mult is None:
        return model
    return model.model_copy(update={"output_mult": 2.0**setting.log2_output_mult})
