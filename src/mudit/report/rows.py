"""From evidence to the rows of the ledger: which measurement answers which claim."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mudit.report import ledger, paper
from mudit.report.costs import Search, searches
from mudit.report.evidence import Evidence, Record, TargetRun
from mudit.report.ledger import Row
from mudit.report.speedup import Curve, Speedup, measure
from mudit.select.certificate import AxisName, AxisResult, Certificate, Regret, SettingResult
from mudit.select.optimum import mean_interval

CONVERGENCE_LOSS = "ema_mse"
_AXES: tuple[AxisName, ...] = ("width", "batch_size", "steps")


def ledger_rows(evidence: Evidence) -> list[Row]:
    """The whole ledger, in the order of the page."""
    return [
        ledger.gate_row(evidence.coordcheck),
        *_drifts(evidence),
        *_base_lr(evidence),
        *_regrets(evidence),
        *_convergence(evidence),
        *_costs(searches(evidence)),
        *_images(evidence),
        *(ledger.not_run_row(claim) for claim in paper.NOT_RUN if not (claim.name == "dit-xl" and _is_dit_xl(evidence))),
    ]


def speedups(evidence: Evidence) -> dict[str, Speedup]:
    """Baseline arm -> how much sooner the arm with the transferred learning rate reaches the same loss of the EMA weights."""
    if evidence.subject is None:
        return {}
    ours = _curves(evidence.of_arm(evidence.subject))
    confidence = evidence.config.select.confidence
    return {arm: measure(ours, _curves(evidence.of_arm(arm)), confidence) for arm in evidence.arms if arm != evidence.subject}


def axes_together(certificate: Certificate, axis: AxisName) -> list[AxisResult]:
    """All schemes along one axis, in the order of the certificate."""
    return [result for result in certificate.axes if result.axis == axis]


def transfer_regret(target: SettingResult, log2_lr: float, confidence: float) -> Regret:
    """Relative loss of `log2_lr` over the best of a setting's own sweep, paired over the seeds that measured both."""
    losses = {point.log2_lr: point.losses for point in target.curve}
    there, best = losses.get(log2_lr, {}), losses[target.best_log2_lr]
    pairs = [(there[seed], best[seed]) for seed in best if seed in there]
    differences = [(loss - least) / target.best_loss for loss, least in pairs if loss is not None and least is not None]
    if not differences or len(differences) < len(pairs):
        return Regret(value=target.value, log2_lr=log2_lr, seeds=len(pairs), relative=None, interval=None)
    interval = mean_interval(differences, confidence)
    bounds = (interval.low, interval.high) if math.isfinite(interval.low) else None
    return Regret(
        value=target.value, log2_lr=log2_lr, seeds=len(pairs), relative=sum(differences) / len(differences), interval=bounds
    )


def doubling_gain(axis: AxisResult, target: SettingResult) -> float | None:
    """Relative loss that the last doubling of width gains at the best learning rates; None if the axis ends below the target."""
    narrower = [setting for setting in axis.settings if setting.value < target.value]
    if not narrower or axis.settings[-1].setting != target.setting:
        return None
    before = narrower[-1]
    return (before.best_loss - target.best_loss) / target.best_loss / math.log2(target.value / before.value)


def proxy_of(evidence: Evidence, scheme: str) -> SettingResult | None:
    """The proxy's sweep under a scheme; None if it was not swept."""
    found = [axis for axis in axes_together(evidence.certificate, "width") if axis.scheme == scheme]
    proxy = evidence.config.transfer
    return next((setting for axis in found for setting in axis.settings if setting.value == proxy.proxy_width), None)


def _drifts(evidence: Evidence) -> list[Row]:
    certificate = evidence.certificate
    return [ledger.drift_row(result, certificate.tolerance) for axis in _AXES for result in axes_together(certificate, axis)]


def _base_lr(evidence: Evidence) -> list[Row]:
    proxy = proxy_of(evidence, "mup")
    if proxy is None:
        return []
    settings = {(s.setting, s.steps): s for axis in evidence.certificate.axes if axis.scheme == "mup" for s in axis.settings}
    model = evidence.config.model
    comparable = (model.family, model.depth, model.base_width) == ("dit", paper.DEPTH, paper.BASE_WIDTH)
    return [ledger.base_lr_row(proxy, list(settings.values()), model.base_width, comparable=comparable)]


def _regrets(evidence: Evidence) -> list[Row]:
    certificate, rows = evidence.certificate, []
    for axis in axes_together(certificate, "width"):
        proxy, target = proxy_of(evidence, axis.scheme), certificate.tuned.get(axis.scheme)
        if proxy is not None and target is not None:
            regret = transfer_regret(target, proxy.best_log2_lr, certificate.confidence)
            rows.append(ledger.regret_row(axis.scheme, regret, proxy, target, doubling_gain(axis, target)))
    return rows


def _convergence(evidence: Evidence) -> list[Row]:
    rows = []
    for arm, speedup in speedups(evidence).items():
        assert evidence.subject is not None
        artefacts = tuple(f"train/{run.target.name}" for run in evidence.runs if run.target.arm in (evidence.subject, arm))
        rows.append(
            ledger.speedup_row(evidence.subject, arm, speedup, published=arm == published_arm(evidence), artefacts=artefacts)
        )
    return rows


def published_arm(evidence: Evidence) -> str | None:
    """The baseline with a learning rate fixed in the configuration: the paper's own baseline."""
    return next((name for name, arm in evidence.config.train.arms.items() if isinstance(arm.log2_lr, float)), None)


def _costs(found: list[Search]) -> list[Row]:
    return [ledger.search_row(search, of_paper=index == 0) for index, search in enumerate(found)]


def _images(evidence: Evidence) -> list[Row]:
    baseline = published_arm(evidence)
    if evidence.subject is None or baseline is None:
        return []
    ours, theirs = _metric_records(evidence, evidence.subject), _metric_records(evidence, baseline)
    return [
        ledger.distance_row(evidence.subject, baseline, metric, _of(ours, metric), _of(theirs, metric))
        for metric in ("frechet_distance", "kernel_distance")
    ]


def _is_dit_xl(evidence: Evidence) -> bool:
    """Whether the experiment trains the paper's own target."""
    model, train = evidence.config.model, evidence.config.train
    return (model.family, model.depth, train.width) == ("dit", paper.DEPTH, paper.TARGET_WIDTH)


def _metric_records(evidence: Evidence, arm: str) -> dict[int, dict[str, Record]]:
    return {
        run.target.seed: evidence.metrics[run.target.name]
        for run in evidence.of_arm(arm).values()
        if run.target.name in evidence.metrics
    }


def _of(records: Mapping[int, dict[str, Record]], metric: str) -> dict[int, Record]:
    return {seed: by_metric[metric] for seed, by_metric in records.items()}


def _curves(runs: Mapping[int, TargetRun]) -> dict[int, Curve | None]:
    return {seed: None if run.diverged_at is not None else run.curve(CONVERGENCE_LOSS) for seed, run in runs.items()}
