"""From evidence to the rows of the ledger: which measurement answers which claim. What an experiment has decides what it shows."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mudit.report import paper
from mudit.report.costs import searches
from mudit.report.evidence import Evidence, Record, TargetRun
from mudit.report.ledger.cost import search_row
from mudit.report.ledger.gate import gate_row
from mudit.report.ledger.multiplier import multiplier_rows
from mudit.report.ledger.quality import Contest, loss_row, metric_row
from mudit.report.ledger.row import Row, not_run_row
from mudit.report.ledger.search import sensitivity_rows
from mudit.report.ledger.speed import speedup_row
from mudit.report.ledger.transfer import HYPOTHESIS, base_lr_row, drift_row, regret_row
from mudit.report.paper import Hypothesis, Published
from mudit.report.speedup import Curve, Speedup, measure
from mudit.select.certificate import AxisName, AxisResult, Certificate, SettingResult, transfer_regret

CONVERGENCE_LOSS = "ema_mse"
_AXES: tuple[AxisName, ...] = ("width", "batch_size", "steps")
# What DiT's images are judged by: metric -> (name of the row, what the paper says, whether that is a claim).
_DIT_METRICS = {
    "frechet_distance": ("frechet-distance", paper.DISTANCE, True),
    "kernel_distance": ("kernel-distance", paper.NO_KERNEL_DISTANCE, False),
}
_TEXT_METRICS = ("kernel_distance", "clip_like_score", "composition_accuracy")


def ledger_rows(evidence: Evidence) -> list[Row]:
    """The whole ledger, in the order of the page."""
    return [
        *(gate_row(check) for check in evidence.coordchecks.values()),
        *_certified(evidence),
        *(sensitivity_rows(evidence.search) if evidence.search is not None else []),
        *(row for part in _target_parts(evidence) for row in part),
        *(search_row(search, evidence.family, of_paper=index == 0) for index, search in enumerate(searches(evidence))),
        *(not_run_row(claim) for claim in paper.NOT_RUN if _leaves_out(evidence, claim.family)),
    ]


def _target_parts(evidence: Evidence) -> list[list[Row]]:
    """Speed, then quality for DiT, as its claims are; for the others quality is the claim, and speed stands beside it."""
    parts = [_convergence(evidence), _better(evidence)]
    return parts if evidence.family == "dit" else parts[::-1]


def speedups(evidence: Evidence) -> dict[str, Speedup]:
    """Baseline arm -> how much sooner the arm with the transferred learning rate reaches the same loss of the EMA weights."""
    if evidence.subject is None:
        return {}
    ours = _curves(evidence.of_arm(evidence.subject))
    return {
        arm: measure(ours, _curves(evidence.of_arm(arm)), evidence.confidence) for arm in evidence.arms if arm != evidence.subject
    }


def axes_together(certificate: Certificate, axis: AxisName) -> list[AxisResult]:
    """All schemes along one axis, in the order of the certificate."""
    return [result for result in certificate.axes if result.axis == axis]


def doubling_gain(axis: AxisResult, target: SettingResult) -> float | None:
    """Relative loss that the last doubling of width gains at the best learning rates; None if the axis ends below the target."""
    narrower = [setting for setting in axis.settings if setting.value < target.value]
    if not narrower or axis.settings[-1].setting != target.setting:
        return None
    before = narrower[-1]
    return (before.best_loss - target.best_loss) / target.best_loss / math.log2(target.value / before.value)


def proxy_of(evidence: Evidence, certificate: Certificate, scheme: str) -> SettingResult | None:
    """The proxy's sweep under a scheme; None if it was not swept, or if nothing is transferred."""
    if not evidence.config.has("transfer"):
        return None
    found = [axis for axis in axes_together(certificate, "width") if axis.scheme == scheme]
    width = evidence.config.transfer.proxy_width
    return next((setting for axis in found for setting in axis.settings if setting.value == width), None)


def _certified(evidence: Evidence) -> list[Row]:
    """Everything that the certificate answers."""
    certificate = evidence.certificate
    if certificate is None:
        return []
    drifts = [
        drift_row(result, certificate.tolerance, evidence.family)
        for axis in _AXES
        for result in axes_together(certificate, axis)
        if result.drift is not None
    ]
    multipliers = [] if certificate.output_mult is None else multiplier_rows(certificate.output_mult)
    return [*drifts, *_base_lr(evidence, certificate), *_regrets(evidence, certificate), *multipliers]


def _base_lr(evidence: Evidence, certificate: Certificate) -> list[Row]:
    proxy = proxy_of(evidence, certificate, "mup")
    if proxy is None:
        return []
    settings = {(s.setting, s.steps): s for axis in certificate.axes if axis.scheme == "mup" for s in axis.settings}
    model = evidence.config.model
    return [
        base_lr_row(proxy, list(settings.values()), model.base_width, model.family, comparable=is_papers_proxy(evidence)),
    ]


def _regrets(evidence: Evidence, certificate: Certificate) -> list[Row]:
    rows = []
    for axis in axes_together(certificate, "width"):
        proxy, target = proxy_of(evidence, certificate, axis.scheme), certificate.tuned.get(axis.scheme)
        if proxy is None or target is None:
            continue
        regret = transfer_regret(target, proxy.best_log2_lr, certificate.confidence)
        rows.append(regret_row(axis.scheme, regret, proxy, target, doubling_gain(axis, target), evidence.family))
    return rows


def _convergence(evidence: Evidence) -> list[Row]:
    rows = []
    for arm, speedup in speedups(evidence).items():
        assert evidence.subject is not None
        published = evidence.family == "dit" and arm == evidence.baseline
        artefacts = _runs_of(evidence, evidence.subject, arm)
        rows.append(speedup_row(evidence.subject, arm, speedup, published=published, artefacts=artefacts))
    return rows


def _better(evidence: Evidence) -> list[Row]:
    """The subject's quality: DiT's against the published baseline, as the paper has it; elsewhere against every other arm."""
    if evidence.subject is None:
        return []
    if evidence.family == "dit":
        return _dit_images(evidence)
    rows = []
    for arm in evidence.arms:
        if arm == evidence.subject:
            continue
        contest = _contest(evidence, arm, "loss")
        ours, theirs = _finals(evidence, evidence.subject), _finals(evidence, arm)
        artefacts = _runs_of(evidence, evidence.subject, arm)
        rows.append(loss_row(contest, ours, theirs, evidence.confidence, artefacts))
        rows += [row for metric in _TEXT_METRICS for row in _metric(evidence, _contest(evidence, arm, metric), metric)]
    return rows


def _dit_images(evidence: Evidence) -> list[Row]:
    if evidence.subject is None or evidence.baseline is None:
        return []
    return [
        row
        for metric, (name, published, claimed) in _DIT_METRICS.items()
        for row in _metric(
            evidence, Contest(evidence.subject, evidence.baseline, name, "H3" if claimed else "", published, claimed), metric
        )
    ]


def _contest(evidence: Evidence, arm: str, what: str) -> Contest:
    """The paper's claim is against one arm; against the others the same is only measured."""
    assert evidence.subject is not None
    claims = paper.BETTER.get(evidence.family, {})
    claimed = arm == evidence.baseline and what in claims
    published: Published = claims[what] if claimed else paper.NONE
    if (evidence.family, what) == ("pixart", "clip_like_score") and arm == evidence.baseline:
        published = paper.CLIP_UNKNOWN
    hypothesis: Hypothesis = HYPOTHESIS.get(evidence.family, "") if arm == evidence.baseline and published is not paper.NONE else ""
    note = paper.BASELINE.get(evidence.family, "") if hypothesis else ""
    return Contest(evidence.subject, arm, f"better-{what.replace('_', '-')}-{arm}", hypothesis, published, claimed, note)


def _metric(evidence: Evidence, contest: Contest, metric: str) -> list[Row]:
    """Nothing if the runs were not evaluated by it."""
    ours, theirs = _records(evidence, contest.subject, metric), _records(evidence, contest.baseline, metric)
    return [metric_row(contest, metric, ours, theirs)] if ours and theirs else []


def _records(evidence: Evidence, arm: str, metric: str) -> dict[int, Record]:
    """Seed -> record of one metric, of the seeds that were evaluated."""
    by_seed = {seed: evidence.metrics.get(run.target.name, {}).get(metric) for seed, run in evidence.of_arm(arm).items()}
    return {seed: record for seed, record in by_seed.items() if record is not None}


def _finals(evidence: Evidence, arm: str) -> dict[int, float | None]:
    """Seed -> final validation loss of the EMA weights; None for a diverged run."""
    return {seed: run.final(CONVERGENCE_LOSS) for seed, run in evidence.of_arm(arm).items()}


def _runs_of(evidence: Evidence, *arms: str) -> tuple[str, ...]:
    return tuple(f"train/{run.target.name}" for run in evidence.runs if run.target.arm in arms)


def is_papers_proxy(evidence: Evidence) -> bool:
    """Whether the proxies are the paper's own, data and length included, so that its best rate must be found again."""
    model, config = evidence.config.model, evidence.config
    if model.family not in paper.PROXY_RUN or config.data.share < 1 or not config.has("sweep"):
        return False
    run = config.sweep.widths.batch_size, config.sweep.widths.steps
    return (getattr(model, "depth", None), model.base_width, run) == (paper.DEPTH, paper.BASE_WIDTH, paper.PROXY_RUN[model.family])


def is_papers_target(evidence: Evidence) -> bool:
    """Whether the target runs are the paper's, to whatever step: size, batch and all data. MMDiT's data are not public."""
    config = evidence.config
    if not has_papers_size(evidence, config.train.width) or config.data.share < 1:
        return False
    return config.train.batch_size == paper.TARGET_BATCH.get(evidence.family)


def has_papers_size(evidence: Evidence, width: int) -> bool:
    """Whether the experiment's model is at this width the paper's target, DiT-XL-2, PixArt-α or MMDiT-18B."""
    return paper.TARGET_SIZE.get(evidence.family) == (getattr(evidence.config.model, "depth", None), width)


def _leaves_out(evidence: Evidence, family: str) -> bool:
    """Whether the experiment stands in for a target of the paper's that it does not train."""
    return family == evidence.family and evidence.config.has("train") and not is_papers_target(evidence)


def _curves(runs: Mapping[int, TargetRun]) -> dict[int, Curve | None]:
    return {seed: None if run.diverged_at is not None else run.curve(CONVERGENCE_LOSS) for seed, run in runs.items()}
