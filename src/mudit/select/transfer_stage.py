"""The stage `transfer`: Algorithm 4. The best base hyperparameters of the proxy become the target's, with no further tuning.

A sweep transfers the learning rate; a random search transfers the gradient clip, the REPA weight and the warm-up with it. All are
width-free under muP. Warm-up is carried over as a number of steps, not as a share of the run: the paper does not say how it was
scaled, and what warm-up protects is the start, whose length in steps does not grow with the run's.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, NamedTuple

from mudit.config.schema import Experiment, SqrtBatchRate
from mudit.search.records import SearchResult
from mudit.select.certificate import Certificate
from mudit.select.hyperparameters import Hyperparameters
from mudit.train.knobs import Knobs

if TYPE_CHECKING:
    from mudit.stages import Job

log = logging.getLogger(__name__)


class Chosen(NamedTuple):
    """Base hyperparameters, where they come from, and whether their transfer is certified (None: nothing to judge by)."""

    knobs: Knobs
    source: str
    certified: bool | None = None


def run(job: Job) -> dict[str, object]:
    """Write the arm's `hyperparameters.json`."""
    certificate = Certificate.read(job.inputs["select"]) if "select" in job.inputs else None
    search = SearchResult.read(job.inputs["search"]) if "search" in job.inputs else None
    chosen = transfer(job.config, job.key, certificate, search)
    chosen.write(job.out)
    log.info("%s: log2 lr %g, %s", chosen.arm, chosen.log2_lr, chosen.source)
    return {"log2_lr": chosen.log2_lr, "certified": chosen.certified, "flops": 0, "device": "cpu"}


def transfer(config: Experiment, arm_name: str, certificate: Certificate | None, search: SearchResult | None) -> Hyperparameters:
    """Hyperparameters of one arm: a pure function of the configuration and what was found on the proxy.

    Raises ConfigError if the proxy that `transfer` names was not swept.
    """
    arm, train = config.train.arms[arm_name], config.train
    if arm.log2_lr == "transferred":
        chosen = _of_search(search) if search is not None else _of_sweep(config, _there(certificate), arm.scheme)
        if chosen.certified is False:
            log.warning("%s: the transfer is not certified and goes on, reported so: %s", arm_name, chosen.source)
    elif arm.log2_lr == "tuned":
        tuned = _there(certificate).tuned[arm.scheme]
        source = f"best of its own sweep {tuned.setting} at {tuned.steps} steps"
        chosen = Chosen(Knobs.of(config, tuned.best_log2_lr, train.batch_size), source)
    elif isinstance(arm.log2_lr, SqrtBatchRate):
        chosen = _of_batch_size(config, arm.log2_lr)
    else:
        chosen = Chosen(Knobs.of(config, arm.log2_lr, train.batch_size), "fixed in the configuration")
    return Hyperparameters(
        arm=arm_name,
        scheme=arm.scheme,
        width=train.width,
        batch_size=train.batch_size,
        steps=train.steps,
        weight_decay=config.optimizer.weight_decay,
        source=chosen.source,
        certified=chosen.certified,
        **chosen.knobs._asdict(),
    )


def _of_sweep(config: Experiment, certificate: Certificate, scheme: str) -> Chosen:
    proxy, axis = config.transfer, certificate.axis("width", scheme)
    setting = next(result for result in axis.settings if result.value == proxy.proxy_width)
    assert setting.steps == proxy.proxy_steps and setting.setting.endswith(f"_b{proxy.proxy_batch_size}")
    source = f"best of the proxy {setting.setting} at {setting.steps} steps; width axis: "
    knobs = Knobs.of(config, setting.best_log2_lr, config.train.batch_size)
    if axis.drift is None:
        return Chosen(knobs, source + "one width, so whether the rate transfers was not measured")
    return Chosen(knobs, source + axis.verdict, axis.verdict == "transfers")


def _of_search(search: SearchResult) -> Chosen:
    best = search.best
    source = (
        f"trial {best.number}, the best of {len(search.trials)} random ones on a proxy of width {search.width}, with its clip, "
        "REPA weight and warm-up; one width was searched, so whether they transfer was not measured"
    )
    return Chosen(best.draw.knobs, source)


def _of_batch_size(config: Experiment, rate: SqrtBatchRate) -> Chosen:
    """lr * sqrt(B / B_tuned): PixArt-alpha's rule for another batch size than the one its rate was tuned at."""
    batch_size = config.train.batch_size
    lr = rate.lr * math.sqrt(batch_size / rate.batch_size)
    source = f"{rate.lr:g} at batch size {rate.batch_size}, scaled by the root to {lr:.4g} at {batch_size}"
    return Chosen(Knobs.of(config, math.log2(lr), batch_size), source)


def _there(certificate: Certificate | None) -> Certificate:
    assert certificate is not None, "config/consistency.py asks for a sweep wherever an arm needs one"
    return certificate
