"""The stage `evaluate`: validation loss and image metrics of one target run, as self-contained records in `metrics.json`."""

from __future__ import annotations

import hashlib
import json
import math
from typing import TYPE_CHECKING, Any

from mudit.data.reader import LatentStore
from mudit.evaluate.extractor_stage import load_identity, load_real_features, open_extractor
from mudit.evaluate.intervals import CONFIDENCE
from mudit.evaluate.records import Record, image_records
from mudit.evaluate.samples import load_artefact
from mudit.train.validation import validation_loss
from mudit.train.weights import load_model

if TYPE_CHECKING:
    from mudit.stages import Job

METRICS_FILE = "metrics.json"


def run(job: Job) -> dict[str, Any]:
    """Writes `metrics.json`: {"run", "records": [...]}, every record with how it was made.

    Raises ConfigError if the settings ask for more images than there are, DataError or CheckpointError on damaged inputs.
    """
    store = LatentStore.open(job.inputs["data"])
    samples, settings = load_artefact(job.inputs[f"sample/{job.key}"])
    identity, extractor = load_identity(job.inputs["extractor"]), open_extractor(job.inputs["extractor"])
    model = load_model(job.inputs[f"train/{job.key}"], job.config).eval().to(extractor.device)
    run_context = {"run": job.key, "weights": settings["weights"], "target": settings["target"]}
    image_context = {
        **run_context,
        "sampling": {name: settings[name] for name in ("sampler", "steps", "guidance", "guide_channels", "seed", "decoder")},
        "extractor": {"name": identity["name"], "sha256": identity["sha256"]},
        "reference": _reference(store),
        "confidence": CONFIDENCE,
    }
    real = load_real_features(job.inputs["extractor"])
    records = [{**run_context, **record} for record in _loss_records(validation_loss(model, store, job.config), job)]
    records += [{**image_context, **record} for record in image_records(samples, extractor, real, identity, job.config.evaluate)]
    text = json.dumps({"run": job.key, "records": records}, indent=1, sort_keys=True, allow_nan=False)
    (job.out / METRICS_FILE).write_text(text + "\n", encoding="utf-8")
    return {**{record["metric"]: record["value"] for record in records}, "flops": 0, "device": extractor.device}


def _loss_records(losses: dict[str, float], job: Job) -> list[Record]:
    """The fixed-probe losses; null with a reason if the run has diverged."""
    section = job.config.validation
    probes = {"n": section.images, "draws": section.draws, "seed": section.seed, "split": "validation"}
    values = {"validation_loss": losses["mse"] + losses["vb"], "validation_mse": losses["mse"], "validation_vb": losses["vb"]}
    return [
        {"metric": name, "value": value, **probes}
        if math.isfinite(value)
        else {"metric": name, "value": None, "reason": "the loss is not finite", **probes}
        for name, value in values.items()
    ]


def _reference(store: LatentStore) -> dict[str, Any]:
    """Which real images the generated ones are compared with."""
    split = store.info.splits["train"]
    shards = "".join(shard.sha256 for shard in split.shards)
    return {
        "split": "train",
        "n": split.count,
        "images": "pixels" if store.info.encoder["name"] == "identity" else "decoded posterior means",
        "sha256": hashlib.sha256(shards.encode()).hexdigest(),
    }
