"""The stage `transfer`: Algorithm 4. The best base learning rate of the proxy becomes the target's, with no further tuning."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mudit.config.schema import Experiment
from mudit.errors import ConfigError
from mudit.select.certificate import Certificate
from mudit.select.hyperparameters import Hyperparameters

if TYPE_CHECKING:
    from mudit.stages import Job

log = logging.getLogger(__name__)


def run(job: Job) -> dict[str, object]:
    """Write the arm's `hyperparameters.json`."""
    certificate = Certificate.read(job.inputs["select"])
    chosen = transfer(job.config, certificate, job.key)
    chosen.write(job.out)
    log.info("%s: log2 lr %g, %s", chosen.arm, chosen.log2_lr, chosen.source)
    return {"log2_lr": chosen.log2_lr, "certified": chosen.certified, "flops": 0, "device": "cpu"}


def transfer(config: Experiment, certificate: Certificate, arm_name: str) -> Hyperparameters:
    """Hyperparameters of one arm: a pure function of the certificate and the configuration."""
    arm, train, proxy = config.train.arms[arm_name], config.train, config.transfer
    certified: bool | None = None
    if arm.log2_lr == "transferred":
        axis = certificate.axis("width", arm.scheme)
        setting = next((result for result in axis.settings if result.value == proxy.proxy_width), None)
        if setting is None or setting.steps != proxy.proxy_steps or not setting.setting.endswith(f"_b{proxy.proxy_batch_size}"):
            raise ConfigError(
                f"transfer: no sweep of {arm.scheme} at width {proxy.proxy_width}, batch {proxy.proxy_batch_size}, "
                f"{proxy.proxy_steps} steps; make it one of sweep.widths"
            )
        log2_lr, certified = setting.best_log2_lr, axis.verdict == "transfers"
        source = f"best of the proxy {setting.setting} at {setting.steps} steps; width axis: {axis.verdict}"
        if not certified:
            log.warning(
                "%s: %r across widths, says the certificate; the transfer goes on and is reported so", arm_name, axis.verdict
            )
    elif arm.log2_lr == "tuned":
        tuned = certificate.tuned[arm.scheme]
        log2_lr, source = tuned.best_log2_lr, f"best of its own sweep {tuned.setting} at {tuned.steps} steps"
    else:
        log2_lr, source = arm.log2_lr, "fixed in the configuration"
    return Hyperparameters(
        arm=arm_name,
        scheme=arm.scheme,
        width=train.width,
        batch_size=train.batch_size,
        steps=train.steps,
        log2_lr=log2_lr,
        weight_decay=config.optimizer.weight_decay,
        source=source,
        certified=certified,
    )
