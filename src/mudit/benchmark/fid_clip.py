"""Figures of a `fid-clip` benchmark: Fréchet distance to the reference images, CLIP score with the prompts.

Shapes: N images, n of a piece, D features, S CLIP's space.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mudit.benchmark.clip import FORMULA, ClipScorer
from mudit.benchmark.prompt_store import PromptStore, RealImages
from mudit.config.benchmarks import FidClipSection
from mudit.errors import DataError
from mudit.evaluate.frechet import Reference, estimate
from mudit.evaluate.metrics import frechet_distance
from mudit.evaluate.records import Record, frechet_details
from mudit.evaluate.reference import open_extractor
from mudit.evaluate.retrieval import caption_ids
from mudit.evaluate.samples import SampleSet
from mudit.evaluate.scorer import Scorer
from mudit.evaluate.text_records import score_record
from mudit.sizes import JACKKNIFE_GROUPS

if TYPE_CHECKING:
    from mudit.stages import Job

DISTANCE, SCORE = "frechet_distance", "clip_score"
_BATCH = 64  # images of one pass


class FidClip:
    """Both figures of sets of images."""

    metrics: tuple[str, ...] = (DISTANCE, SCORE)

    def __init__(self, job: Job, section: FidClipSection, name: str, prompts: PromptStore) -> None:
        """Raises DataError if extractor or CLIP are no longer those that measured the references."""
        self._prompts, self._extractor = prompts, open_extractor(job.inputs["extractor"], job.config.evaluate.weights)
        self._clip: Scorer = ClipScorer(Path(section.clip), f"benchmarks.{name}.clip")
        self._reference = prompts.info["reference"]
        extractor = {"name": self._extractor.name, "sha256": self._extractor.sha256}
        self.identity: dict[str, Any] = {"extractor": extractor, "clip": self._clip.identity}
        for judge, identity in self.identity.items():
            if self._reference[judge] != identity:
                raise DataError(
                    f"benchmarks.{name}: the {judge} is another one than saw its reference images; run "
                    f"`mudit prompts {job.experiment} {name} --force`"
                )

    def measure(self, samples: SampleSet, numbers: range) -> dict[str, Tensor]:
        """Features and embeddings of some images."""
        batches = samples.picked(torch.arange(numbers.start, numbers.stop)).split(_BATCH)
        return {"features_nD": self._extractor.features(batches).features_ND, "clip_nS": self._clip.see(batches).embeddings_NS}

    def records(self, parts: list[dict[str, Tensor]], seed: int) -> list[Record]:
        """From the pieces of all images of a set, in order."""
        features_ND, clip_NS = (torch.cat([part[name] for part in parts]) for name in ("features_nD", "clip_nS"))
        real, found = self._real, estimate(features_ND.numpy(), self._gaussian, JACKKNIFE_GROUPS)
        value = frechet_distance(found.gaussian, real.gaussian)
        distance = {
            "metric": DISTANCE,
            "value": value,
            "n": len(features_ND),
            **frechet_details(value, found),
            "second_opinion": found.distance,
            "extractor": self.identity["extractor"],
            "reference": self._described(),
        }
        own_N = self._prompts.prompt_of(torch.arange(len(clip_NS)))
        ids_V = caption_ids([item.prompt for item in self._prompts.items])
        ceiling = real.images_RS, real.prompts_NS[real.places_R]
        score = score_record(SCORE, clip_NS, own_N, real.prompts_NS, ids_V, ceiling, seed)
        return [distance, {**score, "what": FORMULA, "clip": self._clip.identity}]

    @cached_property
    def _real(self) -> RealImages:
        return self._prompts.real_images()

    @cached_property
    def _gaussian(self) -> Reference:
        return Reference(self._real.gaussian)

    def _described(self) -> dict[str, Any]:
        """Which real images the generated ones are compared with."""
        source, left_out = self._prompts.info["source"], self._reference["left_out"]["count"]
        names = ("n", "image_size")
        return {"kind": source["name"], "sha256": source["sha256"], "left_out": left_out} | {
            name: self._reference[name] for name in names
        }
