"""The stage `prompts`: a benchmark's prompt set, its text features, and what its reference images give, once for all runs.

Resumable by pieces of 1,024 prompts.

Shapes: N prompts, n of a piece, r reference images of a piece, R of all, B batch, C channels, H W height and width, D features, S
CLIP's space.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mudit.benchmark.clip import ClipScorer
from mudit.benchmark.prompt_sets import Item, read_prompts
from mudit.benchmark.prompt_store import INFO_FILE, RealImages, write_items
from mudit.benchmark.references import open_references
from mudit.benchmark.text_features import features_of, shard_name
from mudit.config.benchmarks import FidClipSection
from mudit.data.encoders import to_uint8
from mudit.data.images import UnreadableImageError
from mudit.data.text import CaptionEncoder
from mudit.errors import DataError
from mudit.evaluate.frechet import Gaussian
from mudit.evaluate.pieces import Piece, Pieces
from mudit.evaluate.reference import open_extractor
from mudit.files import link_or_copy
from mudit.jobs.crew import Crew
from mudit.jobs.interrupt import Interrupt
from mudit.sizes import SHARD_PROMPTS
from mudit.train.device import compute_device

if TYPE_CHECKING:
    from mudit.stages import Job

_BATCH = 64  # reference images decoded at a time
_NAMED = 5  # images that a message names
_LISTED = 1000  # images left out that `prompts.json` names
_LEAST_IMAGES = 2  # that have a covariance


def run(job: Job) -> dict[str, Any]:
    """Raises DataError on prompts, images or encoders that are missing, damaged or too few."""
    section, captions = job.config.benchmarks[job.key], job.config.data.captions
    assert captions is not None, "the configuration allows benchmarks only where captions are read"
    where = f"benchmarks.{job.key}"
    prompts = read_prompts(section, where)
    encoder = CaptionEncoder(captions)
    texts = [item.prompt for item in prompts.items]
    info: dict[str, Any] = {
        "benchmark": job.key,
        "kind": section.kind,
        "protocol": section.protocol,
        "source": prompts.identity,
        "items_sha256": write_items(job.out, prompts.items),
        "images_per_prompt": section.images_per_prompt,
        "text": {
            "encoders": encoder.identities,
            "max_tokens": encoder.max_tokens,
            "storage": captions.storage,
            "cut": sum(length > encoder.max_tokens for length in encoder.lengths(texts)),
        },
    }
    pieces = Pieces(job.state / "pieces")
    shards = [
        Piece(shard_name(number), len(some), functools.partial(features_of, some, encoder, captions))
        for number, some in enumerate(_split(texts))
    ]
    with Interrupt() as interrupt:
        crew = Crew(interrupt)
        pieces.begin(info, crew)
        pieces.make(shards, crew, f"prompts {job.key}")
        if isinstance(section, FidClipSection):
            info["reference"] = _References(job, section, prompts.items, where).measure(pieces, crew)
    for shard in shards:
        link_or_copy(pieces.path(shard.name), job.out / pieces.path(shard.name).name)
    (job.out / INFO_FILE).write_text(json.dumps(info, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    summary = {
        "prompts": len(texts),
        "cut": info["text"]["cut"],
        "flops": None,
        "device": compute_device().type,
    }
    return summary | ({"references": info["reference"]["n"]} if "reference" in info else {})


class _References:
    """The real images behind a prompt set, piece by piece."""

    def __init__(self, job: Job, section: FidClipSection, items: list[Item], where: str) -> None:
        self._job, self._section, self._items, self._where = job, section, items, where
        self._path = Path(section.prompts.images)
        self._read = open_references(self._path, job.config.data.image_size, f"{where}.prompts.images")
        self._extractor = open_extractor(job.inputs["extractor"], job.config.evaluate.weights)
        self._clip = ClipScorer(Path(section.clip), f"{where}.clip")

    def measure(self, pieces: Pieces, crew: Crew) -> dict[str, Any]:
        """Writes `reference.safetensors`; returns what `prompts.json` says of it.

        Raises DataError if more images than allowed are missing or cannot be read.
        """
        work = [
            Piece(f"reference-{number:05d}", len(places), functools.partial(self._piece, places))
            for number, places in enumerate(_split(range(len(self._items))))
        ]
        pieces.make(work, crew, f"references {self._job.key}")
        parts = [pieces.load(piece.name) for piece in work]
        whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        places_R = whole["places_r"]
        there = set(places_R.tolist())
        left_out = [item.id for place, item in enumerate(self._items) if place not in there]
        self._check(left_out)
        prompts_NS = self._clip.read_texts([item.prompt for item in self._items])
        gaussian = Gaussian.of(whole["features_rD"].numpy())
        RealImages(gaussian, whole["clip_rS"], places_R, prompts_NS).save(self._job.out)
        return {
            "n": len(there),
            "left_out": {"count": len(left_out), "ids": left_out[:_LISTED]},
            "image_size": self._job.config.data.image_size,
            "extractor": {"name": self._extractor.name, "sha256": self._extractor.sha256},
            "clip": self._clip.identity,
        }

    def _piece(self, places: Sequence[int]) -> dict[str, Tensor]:
        """Features and embeddings of the images that can be read, and their places among the items."""
        kept, features, clip = [], [], []
        for places_B, images_BCHW in self._batches(places):
            kept.append(places_B)
            features.append(self._extractor.features([images_BCHW]).features_ND)
            clip.append(self._clip.see([images_BCHW]).embeddings_NS)
        if not kept:
            raise DataError(
                f"{self._where}.prompts.images {self._path}: {self._items[places[0]].image} and {len(places) - 1} more are missing "
                f"or unreadable ({self._why_not(places[0])}); check the path, or mend them"
            )
        return {"places_r": torch.cat(kept), "features_rD": torch.cat(features), "clip_rS": torch.cat(clip)}

    def _batches(self, places: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Places, int64, and uint8 images [B, C, H, W] of those that can be read."""
        for start in range(0, len(places), _BATCH):
            kept, pixels = [], []
            for place in places[start : start + _BATCH]:
                try:
                    pixels.append(self._read(self._items[place].image or ""))
                    kept.append(place)
                except UnreadableImageError:
                    continue
            if kept:
                yield torch.tensor(kept), to_uint8(torch.from_numpy(np.stack(pixels)))

    def _why_not(self, place: int) -> str:
        """What is wrong with one image that cannot be read."""
        try:
            self._read(self._items[place].image or "")
        except UnreadableImageError as error:
            return str(error)
        raise AssertionError("it could not be read just before")

    def _check(self, left_out: list[str]) -> None:
        if len(left_out) <= self._section.max_corrupt_share * len(self._items):
            if (rest := len(self._items) - len(left_out)) < _LEAST_IMAGES:
                raise DataError(
                    f"{self._where}.prompts.images {self._path}: {rest} of {len(self._items)} images can be read; a distance to "
                    f"them needs {_LEAST_IMAGES} or more"
                )
            return
        more = f" and {len(left_out) - _NAMED} more" if len(left_out) > _NAMED else ""
        raise DataError(
            f"{self._where}.prompts.images {self._path}: {len(left_out)} of {len(self._items)} images are missing or unreadable: "
            f"{', '.join(left_out[:_NAMED])}{more}; mend them, or raise {self._where}.max_corrupt_share from "
            f"{self._section.max_corrupt_share}"
        )


def _split(whole: Sequence[Any]) -> list[Sequence[Any]]:
    return [whole[first : first + SHARD_PROMPTS] for first in range(0, len(whole), SHARD_PROMPTS)]
