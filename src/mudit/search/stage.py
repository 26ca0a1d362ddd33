"""The stage `search`: random search of the base hyperparameters on the proxy (paper, MMDiT: 80 trials).

Every trial is run with the first seed; the best `confirm` of them are run with the other seeds too, and the lowest mean over seeds
wins, so that a lucky seed does not decide. The job's processes share the runs. Finished runs and checkpoints of unfinished ones are
kept in `job.state`, so a killed search goes on where it stopped.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

from mudit.config.search import SearchSection
from mudit.data.reader import LatentStore
from mudit.errors import GridEdgeError
from mudit.jobs.distributed import World, broadcast
from mudit.jobs.interrupt import Interrupt
from mudit.models.flops import inference_flops, train_flops
from mudit.parametrization.table import table_for
from mudit.search.records import FILE, Draw, SearchResult, SearchRun, SearchTrial, Sensitivity
from mudit.search.sensitivity import MIN_TRIALS, sensitivities
from mudit.search.space import SearchStudy, distributions, ranges
from mudit.select.records import finite
from mudit.sweep.records import Journal, RunRecord
from mudit.sweep.trials import PackedRuns, PackRecords, micro_batch_of
from mudit.sweep.watch import watching
from mudit.train.device import compute_device
from mudit.train.group import Member, TrialGroup
from mudit.train.validation import ValidationSet

if TYPE_CHECKING:
    from mudit.stages import Job

log = logging.getLogger(__name__)


def run(job: Job) -> dict[str, object]:
    """Write `search.json`. Raises GridEdgeError if no trial is left that trained with every seed."""
    config, search = job.config, job.config.search
    store = LatentStore.open(job.inputs["data"])
    store.check_fits(config.model)
    table = table_for(config.model, search.width, search.scheme)
    world, micro_batch = World.of_environment(), micro_batch_of(job)
    study = SearchStudy(search, job.state / "optuna.log") if world.main else None
    draws: list[Draw] = broadcast(study.draws if study else [])
    journal = Journal(job.state / "runs.jsonl", SearchRun)
    first, *others = search.seeds

    def new_group(members: Sequence[Member]) -> TrialGroup:
        return TrialGroup(config, store, table, members, search.batch_size, micro_batch, search.steps)

    def tell() -> None:
        if study:
            study.tell({r.trial: finite(r.loss(search.steps)) for r in journal.records if r.seed == first})

    def run_all(numbers: Sequence[int], seeds: Sequence[int]) -> None:
        done = {(record.trial, record.seed) for record in journal.records}
        wanted: dict[Member, list[int]] = {}  # draws of narrow ranges may repeat
        for seed, number in product(seeds, numbers):
            if (number, seed) not in done:
                wanted.setdefault(Member(draws[number].knobs, seed), []).append(number)

        def finished(pack: PackRecords) -> None:
            journal.append([SearchRun(trial=n, **record.model_dump()) for member, record in pack for n in wanted[member]])
            watch.finished(len(journal.records))
            tell()

        runs.run(list(wanted), finished)
        journal.share()
        watch.finished(len(journal.records))
        tell()

    with Interrupt() as interrupt, watching(f"{job.experiment}/search", "search", job.state) as watch:
        runs = PackedRuns(
            "search",
            new_group,
            ValidationSet(store, config),
            [search.steps],
            search.divergence_factor,
            state=job.state,
            interrupt=interrupt,
            watch=watch,
        )
        run_all(range(search.trials), [first])
        finalists = _finalists(journal.records, search)
        run_all(finalists, others)
    if not world.main:
        return {}
    runs.close()
    trials = [_trial(number, draw, journal.records, search) for number, draw in enumerate(draws)]
    confirmed = sorted((number for number in finalists if trials[number].mean is not None), key=lambda n: (trials[n].mean, n))
    if not confirmed:
        what = f"the best {len(finalists)} diverged under another seed" if finalists else f"all {search.trials} trials diverged"
        raise GridEdgeError(f"search of {job.experiment}: {what}; lower search.log2_lr")
    result = SearchResult(
        experiment=job.experiment,
        metric="validation mse of the raw weights on the fixed (image, t, noise) set, without the REPA loss",
        scheme=search.scheme,
        width=search.width,
        batch_size=search.batch_size,
        steps=search.steps,
        parameters=table.total,
        parametrization=table.digest,
        seeds=search.seeds,
        ranges=ranges(search),
        trials=trials,
        confirmed=confirmed,
        trial_steps=sum(record.steps_run(search.steps) for record in journal.records),
        confidence=search.confidence,
        sensitivities=_sensitivities(trials, search),
    )
    (job.out / FILE).write_text(result.model_dump_json(indent=1) + "\n")
    for line in describe(result):
        log.info("%s", line)
    probes = config.validation.images * config.validation.draws * len(journal.records)
    return {
        "best": result.best.draw.model_dump(),
        "trials": len(trials),
        "diverged": sum(trial.loss is None for trial in trials),
        "packed": runs.size,
        "seconds_per_trial_step": {str(count): seconds for count, seconds in runs.seconds.items()},
        "flops": train_flops(config.model, search.width, result.trial_steps * search.batch_size)
        + inference_flops(config.model, search.width, probes),
        "device": compute_device().type,
    }


def describe(result: SearchResult) -> list[str]:
    """The best trial, and a line per hyperparameter, for the log."""
    diverged = sum(trial.loss is None for trial in result.trials)
    best, knobs = result.best, result.best.draw.knobs
    lines = [
        f"{len(result.trials)} trials, {diverged} of them diverged; best is number {best.number}, mean loss {best.mean:.5f}: "
        f"log2 lr {knobs.log2_lr:.2f}, clip {knobs.clip_norm:.3g}, REPA {knobs.alignment_weight:.3g}, warm-up {knobs.warmup_steps}"
    ]
    for each in result.sensitivities or ():
        (low, high), (best_low, best_high) = each.interval, each.best_interval
        lines.append(
            f"{each.name}: explains {each.share:.1%} [{low:.1%}, {high:.1%}] of the ranks' variance "
            f"(chance {each.chance:.1%}, fANOVA {each.fanova:.1%}); best {each.best:.2f} [{best_low:.2f}, {best_high:.2f}]"
        )
    return lines


def _finalists(records: Sequence[SearchRun], search: SearchSection) -> list[int]:
    """The best trials by the first seed; fewer than `confirm` where fewer trained."""
    losses = {record.trial: record.loss(search.steps) for record in records if record.seed == search.seeds[0]}
    trained = sorted((loss, number) for number, loss in losses.items() if math.isfinite(loss))
    return [number for _, number in trained[: search.confirm]]


def _trial(number: int, draw: Draw, records: Sequence[SearchRun], search: SearchSection) -> SearchTrial:
    by_seed = {record.seed: record for record in records if record.trial == number}
    runs = [RunRecord.model_validate(by_seed[seed].model_dump(exclude={"trial"})) for seed in search.seeds if seed in by_seed]
    losses = [run.loss(search.steps) for run in runs]
    return SearchTrial(
        number=number,
        draw=draw,
        loss=finite(losses[0]),
        mean=finite(sum(losses) / len(losses)) if len(losses) == len(search.seeds) else None,
        runs=runs,
    )


def _sensitivities(trials: Sequence[SearchTrial], search: SearchSection) -> list[Sensitivity] | None:
    if len(trials) < MIN_TRIALS:
        log.warning("%d trials are too few to say how much each hyperparameter matters; it takes %d", len(trials), MIN_TRIALS)
        return None
    return sensitivities(
        [trial.draw for trial in trials],
        [math.inf if trial.loss is None else trial.loss for trial in trials],
        ranges(search),
        distributions(search),
        confidence=search.confidence,
        resamples=search.resamples,
    )
