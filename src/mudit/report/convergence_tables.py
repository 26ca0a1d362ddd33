"""Tables of what training reaches: the paper's pre-training figure, the same at this experiment's size, checkpoints from elsewhere.

A figure of ours is called FID-50K, and stands beside the paper's, only if it was made as the paper's was: of 50,000 images through
Inception (`protocol`), against a published reference file, without guidance, by ancestral sampling in 250 steps.
"""

from __future__ import annotations

from mudit.report import published_tables as published
from mudit.report.evidence import Evidence, Record
from mudit.report.measures import MEASURES
from mudit.report.rows import CONVERGENCE_LOSS, has_papers_size, is_papers_target
from mudit.report.table_cells import Cell, Table, mean_cell, needs, records_cell, values_of

_PARTS = 6  # of a target run, as the published figure has it
_DISTANCE = "frechet_distance"
_PROTOCOLS = {"fid-50k": "FID-50K", "fid-30k": "FID-30K", "any": "no published protocol"}
_IMPORTED_METRICS = (_DISTANCE, "spatial_frechet_distance", "inception_score", "precision", "recall")


def convergence(evidence: Evidence) -> Table:
    """FID at the steps of the paper's figure, beside it ours where the experiment is of that size and judged as published."""
    subject, baseline = evidence.subject, evidence.baseline
    assert subject is not None and baseline is not None
    rows = []
    for step, (theirs, ours) in published.CONVERGENCE.items():
        cells = []
        for arm, fid in ((baseline, theirs), (subject, ours)):
            cells += [Cell("–" if fid is None else f"{fid:.2f}"), _here(evidence, arm, step, fid)]
        rows.append((f"{step / 1e6:g}M", cells))
    return Table(
        title="Pre-training of DiT-XL-2",
        note=f"{published.CONVERGENCE_SOURCE}. Hours: the paper's 5,376 for 2.4M steps, in proportion.",
        head=["steps", "DiT-XL-2", f"{baseline} here", "DiT-XL-2-μP", f"{subject} here"],
        rows=rows,
    )


def _here(evidence: Evidence, arm: str, step: int, fid: float | None) -> Cell:
    records = _distances(evidence, arm, step) if is_papers_target(evidence) else []
    comparable = [record for record in records if as_published(record)]
    if values_of(comparable):
        return records_cell(comparable, evidence.confidence)
    if records:
        return Cell("not FID-50K", _why_not(records[0]))
    return Cell("–" if fid is None else needs(step * published.HOURS_PER_STEP))


def as_published(record: Record) -> bool:
    """Whether a Fréchet distance was measured as those of the paper's figure: against a published file, too."""
    drawn = record["sampling"]
    if record["reference"]["kind"] != "file":
        return False
    return record["protocol"] == "fid-50k" and all(drawn[name] == value for name, value in published.CONVERGENCE_SAMPLING.items())


def _why_not(record: Record) -> str:
    """What sets a figure of the paper's size apart from the paper's."""
    if record["value"] is None:
        return str(record["reason"])
    against = "" if record["reference"]["kind"] == "file" else ", against the store's own images"
    return f"{record['n']:,} images, protocol {record['protocol']}, {_drawn(record)}{against}"


def _drawn(record: Record) -> str:
    drawn = record["sampling"]
    return f"{drawn['sampler']} with {drawn['steps']} steps, guidance {drawn['guidance']:g}"


def losses_here(evidence: Evidence) -> Table:
    """Loss of the averaged weights after each sixth of the target run."""
    steps = [round(evidence.config.train.steps * part / _PARTS) for part in range(1, _PARTS + 1)]
    rows = []
    for step in steps:
        values = {arm: _losses_at(evidence, arm, step) for arm in evidence.arms}
        means = {arm: sum(losses) / len(losses) for arm, losses in values.items() if losses}
        best = min(means.values(), default=None)
        cells = [mean_cell(values[arm], evidence.confidence, best=arm in means and means[arm] == best) for arm in evidence.arms]
        rows.append((f"{step:,}", cells))
    return Table(
        title="The same at this experiment's size",
        note="Validation mse of the EMA weights at the last validation up to that step, mean over the seeds that did not diverge, "
        "with its interval; lower is better.",
        head=["steps", *evidence.arms],
        rows=rows,
    )


def _losses_at(evidence: Evidence, arm: str, step: int) -> list[float]:
    losses = []
    for run in evidence.of_arm(arm).values():
        seen = [record[CONVERGENCE_LOSS] for record in run.history if record["step"] <= step]
        if seen and run.diverged_at is None:
            losses.append(seen[-1])
    return losses


def distances_here(evidence: Evidence) -> Table | None:
    """Fréchet distance of every arm after each step whose weights were scored, the last among them; None if none were."""
    steps = sorted({step for by_step in evidence.snapshots.values() for step in by_step} | {evidence.config.train.steps})
    found = {(step, arm): _distances(evidence, arm, step) for step in steps for arm in evidence.arms}
    one = next((record for records in found.values() for record in records), None)
    if one is None:
        return None
    rows = []
    for step in steps:
        means = {arm: sum(values) / len(values) for arm in evidence.arms if (values := values_of(found[step, arm]))}
        best = min(means.values(), default=None)
        cells = [
            records_cell(found[step, arm], evidence.confidence, best=arm in means and means[arm] == best) for arm in evidence.arms
        ]
        rows.append((f"{step:,}", cells))
    return Table(
        title="Images at every scored step",
        note=f"Fréchet distance of {one['n']:,} images, {_drawn(one)}, features of {one['extractor']['name']}, "
        f"{_PROTOCOLS[one['protocol']]}; "
        "mean over seeds with its interval, of one seed over its images; lower is better.",
        head=["steps", *evidence.arms],
        rows=rows,
    )


def _distances(evidence: Evidence, arm: str, step: int) -> list[Record]:
    """One record per seed that was scored after that step."""
    found = [evidence.at_step(run.target, step).get(_DISTANCE) for run in evidence.of_arm(arm).values()]
    return [record for record in found if record is not None]


def checkpoints(evidence: Evidence) -> Table:
    """What came from elsewhere, through this experiment's evaluation; DiT's beside the last points of the paper's figure."""
    rows: list[tuple[str, list[Cell]]] = []
    note = "Imported weights by this experiment's evaluation, with intervals over their images."
    if evidence.family == "dit":
        note = f"{published.CONVERGENCE_SOURCE}; its other scores are not known. {note}"
        for step in (2_400_000, 7_000_000):
            for name, fid in zip(("DiT-XL-2", "DiT-XL-2-μP"), published.CONVERGENCE[step], strict=True):
                if fid is not None:
                    cells = [Cell(f"{fid:.2f}"), *[Cell("–")] * (len(_IMPORTED_METRICS) - 1), Cell("50,000", "FID-50K")]
                    rows.append((f"{name} after {step / 1e6:g}M steps, paper", cells))
    rows += [_checkpoint(evidence, name) for name in evidence.imported]
    return Table(
        title="Checkpoints from elsewhere",
        note=note,
        head=["checkpoint", *(MEASURES[name].heading for name in _IMPORTED_METRICS), "images"],
        rows=rows,
    )


def _checkpoint(evidence: Evidence, name: str) -> tuple[str, list[Cell]]:
    found = evidence.metrics.get(name, {})
    one = found.get(_DISTANCE)
    if one is None:
        return f"{name}, here", [Cell("not evaluated"), *[Cell("–")] * len(_IMPORTED_METRICS)]
    cells = [records_cell([found[metric]], evidence.confidence) for metric in _IMPORTED_METRICS]
    comparable = as_published(one) and has_papers_size(evidence, evidence.imported[name])
    how = _PROTOCOLS[one["protocol"]]
    if one["protocol"] == "fid-50k" and not comparable:
        how += ", not comparable"  # of another size, or drawn in another way
    return f"{name}, here", [*cells, Cell(f"{one['n']:,}", how)]
