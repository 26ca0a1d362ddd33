"""The stage `evaluate`: validation loss and image metrics of one target run, as self-contained records in `metrics.json`.

Label models: distribution metrics and conditional accuracy. Text models: distribution metrics, the kernel distance of each class,
and, with a scorer, the CLIP-like score and the compositional check. Every set of the sampled artefact is scored, that of the last
weights and those of snapshots.

What needs a network is done in pieces that processes share and that survive kills (`mudit.evaluate.pieces`): the validation loss of
a set's weights, and the features of one shard of images. Rank 0 makes records of them, one set in memory at a time: 50,000 images
are 1 GB of features, and their pixels are never together.
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mudit.config.published import sampled_weights
from mudit.data.reader import LatentStore
from mudit.evaluate.composition import Composition
from mudit.evaluate.extractors import Extractor, concatenated
from mudit.evaluate.pieces import Piece, Pieces
from mudit.evaluate.records import ACCURACY, DISTRIBUTION_METRICS, Judge, Record, accuracy_record, class_metric, unusable_records
from mudit.evaluate.reference import Real, feature_tensors, features_of, load_identity, open_extractor
from mudit.evaluate.samples import FINAL, SampleSet, open_sets
from mudit.evaluate.scorer import HeldOut, Scorer, Seen, load_result, open_scorer
from mudit.evaluate.settings import record_context, sampling_context
from mudit.evaluate.text_records import TEXT_METRICS, text_records
from mudit.jobs.crew import Crew
from mudit.jobs.interrupt import Interrupt
from mudit.train.device import compute_device, matmul_precision
from mudit.train.snapshots import snapshots
from mudit.train.validation import validation_loss
from mudit.train.weights import load_model

if TYPE_CHECKING:
    from mudit.stages import Job

METRICS_FILE = "metrics.json"
_BATCH = 250  # images embedded at a time


def run(job: Job) -> dict[str, Any]:
    """Writes `metrics.json`: {"run", "records": [...], "snapshots": [...]}, every record with how it was made.

    `records` are those of the last weights. Called by all processes of the job. Raises ConfigError if the settings ask for more
    images than there are, DataError or CheckpointError on damaged inputs.
    """
    store, sets = LatentStore.open(job.inputs["data"]), open_sets(job.inputs[f"sample/{job.key}"])
    pieces = Pieces(job.state / "pieces")
    with Interrupt() as interrupt:
        crew = Crew(interrupt)
        extractor = open_extractor(job.inputs["extractor"], job.config.evaluate.weights)
        scorer = open_scorer(job.inputs["scorer"]) if "scorer" in job.inputs else None
        pieces.begin({"sets": [each.settings for each in sets]}, crew)
        pieces.make(_pieces(job, store, sets, extractor, scorer), crew, f"evaluate {job.key}")
    if not crew.world.main:
        return {}
    bench = _Bench(job, store, pieces)
    records = {each.name: bench.records(each) for each in sets}
    final = records.pop(FINAL)
    result = {"run": job.key, "records": final, "snapshots": [record for each in records.values() for record in each]}
    text = json.dumps(result, indent=1, sort_keys=True, allow_nan=False)
    (job.out / METRICS_FILE).write_text(text + "\n", encoding="utf-8")
    return {**{record["metric"]: record["value"] for record in final}, "flops": None, "device": extractor.device}


def _pieces(job: Job, store: LatentStore, sets: list[SampleSet], extractor: Extractor, scorer: Scorer | None) -> list[Piece]:
    """Everything that needs a network. A set with images that are not finite has only its loss."""
    taken = snapshots(job.weights)
    weights = {each.name: job.weights if each.name == FINAL or each.step is None else taken[each.step] for each in sets}
    probes = job.config.validation.images * job.config.validation.draws
    pieces = [Piece(_loss(each), probes, functools.partial(_validation_loss, job, store, weights[each.name])) for each in sets]
    shards = [(each, shard) for each in sets if _not_finite(each) is None for shard in range(each.shards)]
    pieces += [
        Piece(_seen(each, shard), len(each.numbers(shard)), functools.partial(_embed, extractor, each, shard))
        for each, shard in shards
    ]
    if scorer is not None:
        pieces += [
            Piece(_scored(each, shard), len(each.numbers(shard)), functools.partial(_look, scorer, each, shard))
            for each, shard in shards
        ]
    return pieces


def _validation_loss(job: Job, store: LatentStore, weights: Path) -> dict[str, Tensor]:
    device = compute_device()
    model = load_model(weights, job.config, sampled_weights(job.config)).eval().to(device)
    with matmul_precision("fp32", device):
        losses = validation_loss(model, store, job.config)
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in losses.items()}


def _embed(extractor: Extractor, samples: SampleSet, shard: int) -> dict[str, Tensor]:
    return feature_tensors(extractor.features(samples.images(shard).split(_BATCH)))


def _look(scorer: Scorer, samples: SampleSet, shard: int) -> dict[str, Tensor]:
    seen = scorer.see(samples.images(shard).split(_BATCH))
    return {"embeddings": seen.embeddings_NS} | ({} if seen.classes_N is None else {"classes": seen.classes_N})


def _loss(samples: SampleSet) -> str:
    return f"{samples.name}-loss"


def _seen(samples: SampleSet, shard: int) -> str:
    return f"{samples.name}-features-{shard:05d}"


def _scored(samples: SampleSet, shard: int) -> str:
    return f"{samples.name}-scorer-{shard:05d}"


@dataclass(frozen=True)
class _Bench:
    """Makes records of finished pieces, one set after another, against one reference."""

    job: Job
    store: LatentStore
    pieces: Pieces

    def records(self, samples: SampleSet) -> list[Record]:
        """Of one set."""
        run_context = record_context(self.job.config, samples)
        image_context = run_context | sampling_context(samples, self.job.config.evaluate.protocol)
        images = self._image_records(samples) + (self._text_records(samples) if "scorer" in self.job.inputs else [])
        losses = [{**run_context, **record} for record in self._loss_records(samples)]
        return losses + [{**image_context, **record} for record in images]

    def _loss_records(self, samples: SampleSet) -> list[Record]:
        """The fixed-probe losses; null with a reason if the run has diverged."""
        section, losses = self.job.config.validation, self.pieces.load(_loss(samples))
        mse, vb = losses["mse"].item(), losses["vb"].item()
        how = {"n": section.images, "draws": section.draws, "seed": section.seed, "split": "validation", "precision": "fp32"}
        values = {"validation_loss": mse + vb, "validation_mse": mse, "validation_vb": vb}
        return [
            {"metric": name, "value": value, **how}
            if math.isfinite(value)
            else {"metric": name, "value": None, "reason": "the loss is not finite", **how}
            for name, value in values.items()
        ]

    def _image_records(self, samples: SampleSet) -> list[Record]:
        """Metrics of the extractor's features."""
        identity = load_identity(self.job.inputs["extractor"])
        context = {
            "extractor": {"name": identity["name"], "sha256": identity["sha256"]},
            "reference": identity["reference"],
            "caution": self._caution(samples, identity),
        }
        captioned = samples.captions_N is not None
        by_class = captioned and self.store.info.num_classes > 1 and identity["reference"]["kind"] == "data"
        class_names = self.store.info.class_names if by_class else []
        bad = _not_finite(samples)
        if bad is not None:
            names = [*DISTRIBUTION_METRICS, *map(class_metric, class_names), *([] if captioned else [ACCURACY])]
            return [{**context, **record} for record in unusable_records(names, bad, len(samples))]
        features = concatenated(features_of(self.pieces.load(_seen(samples, shard))) for shard in range(samples.shards))
        records = self._judge.distribution_records(features)
        records += self._judge.class_records(features.features_ND, samples.labels_N, class_names)
        if not captioned:
            records.append(accuracy_record(features.logits_NK, samples.labels_N, identity["images"]["validation"], identity))
        return [{**context, **record} for record in records]

    def _text_records(self, samples: SampleSet) -> list[Record]:
        """Metrics of the scorer."""
        folder, section = self.job.inputs["scorer"], self.job.config.scorer
        result = load_result(folder)
        context = {
            "scorer": result["identity"],
            "held_out_by": result["held_out_by"],
            "caution": self._caution(samples, result["identity"]["image_encoder"]),
        }
        bad = _not_finite(samples)
        if bad is not None:
            return [{**context, **record} for record in unusable_records(list(TEXT_METRICS), bad, len(samples))]
        assert samples.captions_N is not None, "the configuration allows a scorer for text models only"
        composition = Composition.of_split(self.store.split("validation"), self.store.info.class_names, section)
        parts = [self.pieces.load(_scored(samples, shard)) for shard in range(samples.shards)]
        classes_N = torch.cat([part["classes"] for part in parts]) if "classes" in parts[0] else None
        seen = Seen(torch.cat([part["embeddings"] for part in parts]), classes_N)
        records = text_records(seen, samples.captions_N, HeldOut.load(folder), composition, section.seed)
        return [{**context, **record} for record in records]

    @functools.cached_property
    def _judge(self) -> Judge:
        return Judge(Real.load(self.job.inputs["extractor"]), self.job.config.evaluate)

    def _caution(self, samples: SampleSet, judge: dict[str, Any]) -> str | None:
        """What a reader must know if the run was trained towards features of the very network that judges it (REPA)."""
        features, weight = self.store.info.features, samples.settings["target"]["alignment_weight"]
        if features is None or features.encoder["sha256"] != judge["sha256"] or not weight:
            return None
        return f"trained with REPA, weight {weight:g}, on local features of {judge['name']}, which judges here: it may profit"


def _not_finite(samples: SampleSet) -> str | None:
    """Why nothing can be said of these images, if so."""
    bad = int((~samples.finite_N).sum())
    return f"{bad} of {len(samples)} generated images are not finite" if bad else None
