"""The stage `evaluate`: validation loss and image metrics of one target run, as self-contained records in `metrics.json`.

Label models: distribution metrics and conditional accuracy. Text models: distribution metrics, the kernel distance of each class,
and, with a scorer, the CLIP-like score and the compositional check.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mudit.config.published import sampled_weights
from mudit.data.reader import LatentStore
from mudit.evaluate.composition import Composition
from mudit.evaluate.extractor_stage import load_identity, load_real_features, open_extractor
from mudit.evaluate.intervals import CONFIDENCE
from mudit.evaluate.records import (
    ACCURACY,
    DISTRIBUTION_METRICS,
    Record,
    accuracy_record,
    class_metric,
    class_records,
    distribution_records,
    unusable_records,
)
from mudit.evaluate.samples import Samples, load_artefact
from mudit.evaluate.scorer import HeldOut, load_result, open_scorer
from mudit.evaluate.text_records import TEXT_METRICS, text_records
from mudit.train.validation import validation_loss
from mudit.train.weights import load_model

if TYPE_CHECKING:
    from mudit.stages import Job

METRICS_FILE = "metrics.json"
_BATCH = 250  # images embedded at a time


def run(job: Job) -> dict[str, Any]:
    """Writes `metrics.json`: {"run", "records": [...]}, every record with how it was made.

    Raises ConfigError if the settings ask for more images than there are, DataError or CheckpointError on damaged inputs.
    """
    store = LatentStore.open(job.inputs["data"])
    samples, settings = load_artefact(job.inputs[f"sample/{job.key}"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(job.weights, job.config, sampled_weights(job.config)).eval().to(device)
    run_context = {"run": job.key, "weights": settings["weights"], "target": settings["target"]}
    sampling = ("sampler", "steps", "guidance", "guide_channels", "seed", "decoder", "prompts")
    image_context = {
        **run_context,
        "sampling": {name: settings[name] for name in sampling},
        "confidence": CONFIDENCE,
    }
    records = [{**run_context, **record} for record in _loss_records(validation_loss(model, store, job.config), job)]
    records += [{**image_context, **record} for record in _image_records(job, store, samples, settings["target"])]
    if "scorer" in job.inputs:
        records += [{**image_context, **record} for record in _text_records(job, store, samples, settings["target"])]
    text = json.dumps({"run": job.key, "records": records}, indent=1, sort_keys=True, allow_nan=False)
    (job.out / METRICS_FILE).write_text(text + "\n", encoding="utf-8")
    return {**{record["metric"]: record["value"] for record in records}, "flops": 0, "device": device}


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


def _image_records(job: Job, store: LatentStore, samples: Samples, target: dict[str, Any]) -> list[Record]:
    """Metrics of the extractor's features."""
    identity, extractor = load_identity(job.inputs["extractor"]), open_extractor(job.inputs["extractor"])
    context = {
        "extractor": {"name": identity["name"], "sha256": identity["sha256"]},
        "reference": _reference(store),
        "caution": _caution(store, target, identity),
    }
    section, captioned = job.config.evaluate, samples.captions_N is not None
    class_names = store.info.class_names if captioned and store.info.num_classes > 1 else []
    names = [*DISTRIBUTION_METRICS, *map(class_metric, class_names), *([] if captioned else [ACCURACY])]
    bad = _not_finite(samples)
    if bad is not None:
        records = unusable_records(names, bad, len(samples.finite_N))
    else:
        real = load_real_features(job.inputs["extractor"])
        features_ND, logits_NK = extractor.features(_batches(samples))
        records = distribution_records(features_ND, real, section)
        records += class_records(features_ND, samples.labels_N, real, class_names, section)
        if not captioned:
            records.append(accuracy_record(logits_NK, samples.labels_N, len(real["validation"].labels_N), identity))
    return [{**context, **record} for record in records]


def _text_records(job: Job, store: LatentStore, samples: Samples, target: dict[str, Any]) -> list[Record]:
    """Metrics of the scorer."""
    folder, section = job.inputs["scorer"], job.config.scorer
    result = load_result(folder)
    context = {
        "scorer": result["identity"],
        "held_out_by": result["held_out_by"],
        "caution": _caution(store, target, result["identity"]["image_encoder"]),
    }
    bad = _not_finite(samples)
    if bad is not None:
        records = unusable_records(list(TEXT_METRICS), bad, len(samples.finite_N))
    else:
        assert samples.captions_N is not None, "the configuration allows a scorer for text models only"
        composition = Composition.of_split(store.split("validation"), store.info.class_names, section)
        seen = open_scorer(folder).see(_batches(samples))
        records = text_records(seen, samples.captions_N, HeldOut.load(folder), composition, section.seed)
    return [{**context, **record} for record in records]


def _caution(store: LatentStore, target: dict[str, Any], judge: dict[str, Any]) -> str | None:
    """What a reader must know if the run was trained towards features of the very network that judges it (REPA)."""
    features, weight = store.info.features, target["alignment_weight"]
    if features is None or features.encoder["sha256"] != judge["sha256"] or not weight:
        return None
    return f"trained with REPA, weight {weight:g}, on local features of {judge['name']}, which judges here: it may profit"


def _not_finite(samples: Samples) -> str | None:
    """Why nothing can be said of these images, if so."""
    bad = int((~samples.finite_N).sum())
    return f"{bad} of {len(samples.finite_N)} generated images are not finite" if bad else None


def _batches(samples: Samples) -> tuple[Tensor, ...]:
    return torch.split(samples.images_NCHW, _BATCH)


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
