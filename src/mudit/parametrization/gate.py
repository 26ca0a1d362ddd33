"""The stage `coordcheck`: the gate. muP must be flat, and SP must not be: a check that cannot fail proves nothing."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from mudit import random
from mudit.config.models import MMDiTSection, ModelSection
from mudit.config.schema import Experiment, GateSubject
from mudit.data.reader import LatentSplit, LatentStore
from mudit.errors import GateError
from mudit.logs import progress
from mudit.models.condition import TextCondition
from mudit.models.families import build
from mudit.models.flops import train_flops
from mudit.parametrization.coordcheck import Measurement, Slope, Subject, fit_slopes, measure
from mudit.parametrization.table import table_for
from mudit.sizes import GATE_SCHEMES
from mudit.train.batches import BatchStream

if TYPE_CHECKING:
    from mudit.stages import Job

NUMBERS_FILE, SLOPES_FILE = "coordcheck.json", "coordcheck.txt"

log = logging.getLogger(__name__)


def run(job: Job) -> dict[str, object]:
    """Write `coordcheck.json` (slopes, measurements, verdict). If the gate fails, raises GateError.

    Then the file is left in the state, beside `coordcheck.txt`, which lists the slopes. Pictures are drawn by whoever looks at the
    numbers (`mudit.commands.making`, the report), so that no change of a picture makes the gate stale.
    """
    check, family = job.config.coordcheck, own_or_also(job.config, job.key)
    split = gate_split(LatentStore.open(job.inputs["data"]), family.model)
    # The null condition's parameters are checked, too: every seed's batch must hold some.
    often_dropped = family.diffusion.model_copy(update={"condition_dropout": 0.5})
    results: dict[str, dict[str, Any]] = {}
    with progress(len(GATE_SCHEMES) * len(check.widths) * len(check.seeds), f"coordinate check {job.key}", unit="model") as bar:
        for scheme in GATE_SCHEMES:
            measurements = []
            for seed in check.seeds:
                batch = BatchStream(split, family.model, often_dropped, batch_size=check.batch_size, seed=seed).at(0)
                for width in check.widths:
                    under = subject(family.model, scheme)
                    measurements += measure(check, family.optimizer, family.diffusion, batch, under, width, seed)
                    bar.advance()
            slopes = fit_slopes(measurements, check.tolerance, check.confidence)
            results[scheme] = _result(slopes, measurements)
    report = {
        "family": job.key,
        "tolerance": check.tolerance,
        "confidence": check.confidence,
        "widths": check.widths,
        "schemes": results,
    }
    failure = judge(results)
    report["passed"] = failure is None
    text = json.dumps(report, indent=1) + "\n"
    if failure is not None:
        job.state.mkdir(parents=True, exist_ok=True)
        (job.state / NUMBERS_FILE).write_text(text)
        (job.state / SLOPES_FILE).write_text(listing(results), encoding="utf-8")
        raise GateError(f"coordinate check of {job.experiment}, {job.key}: {failure}; see {job.state / SLOPES_FILE}")
    (job.out / NUMBERS_FILE).write_text(text)
    images = len(check.seeds) * (check.steps + 1) * check.batch_size
    return {
        "passed": True,
        "worst": {scheme: result["worst"] for scheme, result in results.items()},
        "flops": len(GATE_SCHEMES) * sum(train_flops(family.model, width, images) for width in check.widths),
        "device": torch.device("cpu").type,
    }


def own_or_also(config: Experiment, family: str) -> GateSubject:
    """The experiment's own model, objective and optimizer, or those of a family that `coordcheck.also` names."""
    for also in config.coordcheck.also:
        if also.model.family == family:
            return also
    return GateSubject.model_construct(model=config.model, diffusion=config.diffusion, optimizer=config.optimizer)


def subject(model: ModelSection, scheme: str) -> Subject:
    """A family under a scheme."""
    return Subject(lambda width: build(model, width), lambda width: table_for(model, width, scheme))


def gate_split(store: LatentStore, model: ModelSection) -> LatentSplit:
    """The store's training images, with random captions and image features where the model wants some and the store has none.

    Slopes compare widths on one batch, so what the captions say does not matter; that they are of the real size does.
    """
    split = store.split("train")
    if (model.conditioning == "text" and store.info.text is None) or (
        getattr(model, "alignment", None) is not None and store.info.features is None
    ):
        store.check_latents(model)
        return cast("LatentSplit", _RandomConditions(split, model))
    store.check_fits(model)
    return split


class _RandomConditions:
    """A split whose captions and image features are standard normals, a function of the image's index."""

    _TOKENS = 8  # length of the longest caption where the model has no limit

    def __init__(self, split: LatentSplit, model: ModelSection) -> None:
        self._split, self._model = split, model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._split, name)

    def __len__(self) -> int:
        return len(self._split)

    def text(self, indices_B: Tensor, dropped_B: Tensor) -> TextCondition:
        """Captions of 1 to the most tokens."""
        sizes: dict[str, int] = self._model.model_dump(include={"text_dim", "max_tokens", "pooled_dim"})
        length = sizes.get("max_tokens") or self._TOKENS
        return TextCondition(
            tokens=random.normal(0, "gate-tokens", 0, indices_B, (length, sizes["text_dim"])),
            mask=torch.arange(length) <= random.integers(0, "gate-lengths", 0, indices_B, length)[:, None],
            pooled=random.normal(0, "gate-pooled", 0, indices_B, (sizes.get("pooled_dim") or 1,)),
            dropped=dropped_B,
        )

    def features(self, indices_B: Tensor) -> Tensor:
        """One vector per patch."""
        assert isinstance(self._model, MMDiTSection) and self._model.alignment is not None
        patches = (self._model.image_size // self._model.patch_size) ** 2
        return random.normal(0, "gate-features", 0, indices_B, (patches, self._model.alignment.features))


def judge(results: dict[str, dict[str, Any]]) -> str | None:
    """None if the gate passes, else why it does not."""
    if results["mup"]["failed"]:
        worst = results["mup"]["worst"]
        return (
            f"{results['mup']['failed']} of {len(results['mup']['slopes'])} slopes under muP are not flat, worst "
            f"{worst['probe']} of {worst['name']} at step {worst['step']}: {worst['slope']:+.2f} per doubling of width"
        )
    if not results["sp"]["failed"]:
        return "the negative control (SP) passed too, so the check cannot tell right from wrong; raise coordcheck.log2_lr or steps"
    return None


def listing(results: dict[str, dict[str, Any]]) -> str:
    """Every slope under every scheme, the steepest first: a line each, with its interval and whether it counts as flat."""
    lines = [f"{'scheme':8}{'probe':8}{'step':>4}  {'slope':>7}  {'interval':<18}{'':10}module"]
    for scheme, result in results.items():
        for slope in sorted(result["slopes"], key=_steepness, reverse=True):
            interval = f"[{slope['low']:+.2f}, {slope['high']:+.2f}]"
            found = f"{slope['slope']:>+7.3f}  {interval:<18}{'' if slope['flat'] else 'NOT FLAT':10}"
            lines.append(f"{scheme:8}{slope['probe']:8}{slope['step']:>4}  {found}{slope['name']}")
    return "\n".join(lines) + "\n"


def _steepness(slope: dict[str, Any]) -> float:
    """What is not a number is worst."""
    value = float(slope["slope"])
    return abs(value) if value == value else float("inf")


def _result(slopes: list[Slope], measurements: list[Measurement]) -> dict[str, Any]:
    listed = [asdict(slope) for slope in slopes]
    return {
        "failed": sum(not slope.flat for slope in slopes),
        "worst": max(listed, key=_steepness),
        "slopes": listed,
        "measurements": [asdict(measurement) for measurement in measurements],
    }
