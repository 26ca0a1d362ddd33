"""Writes the latent store shard by shard: memory stays flat, and a killed run goes on at the first missing shard.

Where there are several processes, rank r of R encodes the shards r, r + R, r + 2 R, ...; after each round all agree whether to go
on, and at the end rank 0 writes what describes the store. What a shard holds depends on neither, so the bytes of the store do not.

Finished shards stay in the state folder, under a second name, when the store has them: a kill at any time costs a shard that is
being encoded, and whoever puts the store in its place removes the state after that.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from mudit.config.data import DataSection
from mudit.data.encoders import Encoder
from mudit.data.features import FeatureEncoder
from mudit.data.format import (
    ENCODER_FOLDER,
    FORMAT,
    LEFT_OUT_FILE,
    SPLITS,
    VERSION,
    Corrupt,
    FeatureInfo,
    Shard,
    Split,
    StoredFile,
    StoreInfo,
    TextInfo,
    stored_file,
    write_info,
)
from mudit.data.rounds import in_rounds
from mudit.data.shards import Contents, Reason, ShardEncoder
from mudit.data.sources import Source
from mudit.data.tensors import save_tensors
from mudit.data.text import CaptionEncoder
from mudit.errors import DataError
from mudit.files import link_or_copy, sha256_file, start_or_resume, write_text
from mudit.jobs.distributed import World, barrier, broadcast
from mudit.jobs.interrupt import Interrupt

ENCODE_BATCH = 32  # images per encoder call: bounds memory
LISTED = 1000  # images left out that `store.json` names itself


class _Done(NamedTuple):
    """What one finished shard left behind."""

    shard: Shard | None  # None if no image could be used
    left_out: list[tuple[int, Reason]]  # places in the source
    cut: int
    error: tuple[float, float]

    def to_json(self) -> dict[str, object]:
        return {"shard": self.shard and self.shard.model_dump(), "left_out": self.left_out, "cut": self.cut, "error": self.error}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Self:
        left_out = [(place, reason) for place, reason in raw["left_out"]]
        change, features = raw["error"]
        return cls(raw["shard"] and Shard.model_validate(raw["shard"]), left_out, raw["cut"], (change, features))


class StoreWriter:
    """One preparation of one source with one encoder into `out`, with unfinished work in `state`.

    Shard k of a split always covers the same positions of the split's order, so shards are independent of each other and of how
    often the run was killed. The folder `state` is the writer's own, `out` is new, and all ranks see both. On one file system the
    shards lie there once, under two names; on two they are copied.
    """

    def __init__(
        self,
        data: DataSection,
        source: Source,
        encoder: Encoder,
        out: Path,
        state: Path,
        text: CaptionEncoder | None = None,
        features: FeatureEncoder | None = None,
        batch: int = ENCODE_BATCH,
    ) -> None:
        """text: for a source that has captions. batch: images per call of the encoders.

        Raises ConfigError or DataError if images cannot be held out as asked.
        """
        assert text is None or source.has_captions
        self._data, self._source, self._encoder, self._out, self._state = data, source, encoder, out, state
        self._text, self._features = text, features
        self._shards = ShardEncoder(data, source, encoder, text, features, batch)
        orders = source.split(data.validation_images, data.split_seed)
        self._parts: dict[str, NDArray[np.int64]] = {
            f"{split}-{number:05d}": orders[split][start : start + data.shard_images]
            for split in SPLITS
            for number, start in enumerate(range(0, len(orders[split]), data.shard_images))
        }

    def write(self, advance: Callable[[int], None]) -> StoreInfo:
        """Writes every shard, the encoder's files and `store.json`; calls `advance(images)` after each round of shards.

        The state is left as it is. Raises DataError when more than `data.max_corrupt_share` of the images cannot be used, naming
        them, and Interrupted, between shards, when a rank was asked to stop or the next shard would last beyond the deadline.
        """
        main = World.of_environment().main
        if self._text is not None:
            self._check_captions()
        if main:
            start_or_resume(self._state, self._plan())
        barrier()
        with Interrupt() as interrupt:
            done = self._encoded(interrupt, advance)
            for _ in in_rounds([each.shard for each in done.values() if each.shard], self._put, interrupt):
                pass
        info = broadcast(self._described(done) if main else None)
        assert info is not None  # it is rank 0's
        return info

    def _plan(self) -> dict[str, Any]:
        """Finished shards are used again only if they were made from the same images, by the same encoder, with these settings."""
        return {
            # How many images may be absent decides whether there will be a store, not what is in its shards.
            "data": self._data.model_dump(mode="json", exclude={"max_corrupt_share"}),
            "source": self._source.identity,
            "encoder": self._encoder.identity,
            "text": self._text and self._text.identities,
            "features": self._features and self._features.identity,
        }

    def _encoded(self, interrupt: Interrupt, advance: Callable[[int], None]) -> dict[str, _Done]:
        """What became of every shard, the same on every rank."""
        names = list(self._parts)
        done: dict[str, _Done] = {}
        seen = 0
        for reports in in_rounds(names, lambda name: self._shard(name).to_json(), interrupt):
            for report in reports:
                name = names[len(done)]
                done[name] = _Done.from_json(report)
                seen += len(self._parts[name])
                advance(len(self._parts[name]))
            self._check_encoded(done, seen)
        return done

    def _shard(self, name: str) -> _Done:
        """One shard: from the state folder if it was finished before, else read, encoded and written there."""
        path, record = self._state / f"{name}.safetensors", self._state / f"{name}.json"
        if record.is_file():
            done = _Done.from_json(json.loads(record.read_text(encoding="utf-8")))
            # A power cut may have taken the files and left the record; an image that was left out may have been mended in place.
            whole = done.shard is None or all(_is_whole(self._state, entry) for entry in done.shard.files())
            if whole and not any(self._shards.reads(place) for place, _ in done.left_out):
                return done
        contents = self._shards.encode(self._parts[name])
        done = _Done(self._save(path, contents), contents.left_out, contents.cut, contents.error)
        write_text(record, json.dumps(done.to_json()), durable=True)
        return done

    def _save(self, path: Path, contents: Contents) -> Shard | None:
        """Writes the shard's files; none if no image of it could be used."""
        tensors = contents.tensors()
        if not tensors:
            return None
        save_tensors(tensors, path)
        captions = None
        if self._text is not None:
            captions_path = path.with_name(f"{path.stem}.captions.json")
            write_text(captions_path, json.dumps(contents.captions, ensure_ascii=False, indent=0) + "\n", durable=False)
            captions = StoredFile.model_validate(stored_file(captions_path))
        return Shard.model_validate({**stored_file(path), "count": len(tensors["labels"]), "captions": captions})

    def _check_captions(self) -> None:
        """What can be known before hours of encoding."""
        self._check_share(self._source.captionless().tolist(), f"of {len(self._source.names)} images have no caption")

    def _check_encoded(self, done: dict[str, _Done], seen: int) -> None:
        lack = "cannot be read" if self._text is None else "cannot be read or have no caption"
        places = [place for each in done.values() for place, _ in each.left_out]
        self._check_share(places, f"of the first {seen} images (of {len(self._source.names)}) {lack}")

    def _check_share(self, places: Sequence[int], what: str) -> None:
        allowed = self._data.max_corrupt_share
        if len(places) > allowed * len(self._source.names):
            first = ", ".join(self._source.names[place] for place in places[:5])
            more = f" and {len(places) - 5} more" if len(places) > 5 else ""
            raise DataError(
                f"{len(places)} {what}: {first}{more}; mend or remove them, or raise data.max_corrupt_share from {allowed}"
            )

    def _put(self, shard: Shard) -> None:
        """Gives a shard's files their place in the store, too."""
        for entry in shard.files():
            link_or_copy(self._state / entry.file, self._out / entry.file)

    def _described(self, done: dict[str, _Done]) -> StoreInfo:
        """Adds what is not a shard to the store, `store.json` last."""
        info = self._info(done)
        self._encoder.save(self._out / ENCODER_FOLDER)
        write_info(self._out, info)
        return info

    def _info(self, done: dict[str, _Done]) -> StoreInfo:
        splits = {}
        for split in SPLITS:
            shards = [each.shard for name, each in done.items() if name.startswith(f"{split}-") and each.shard is not None]
            splits[split] = Split(count=sum(shard.count for shard in shards), shards=shards)
        if not splits["train"].shards:
            raise DataError("no training image could be used; check data.source")
        first = self._state / splits["train"].shards[0].file
        shapes = _shapes(first)
        _, channels, height, width = shapes["mean"]
        return StoreInfo(
            format=FORMAT,
            version=VERSION,
            source=self._source.identity,
            encoder=self._encoder.identity,
            latent_shape=(channels, height, width),
            latent_scale=self._encoder.latent_scale,
            latent_shift=self._encoder.latent_shift,
            moments=self._data.moments,
            has_std=self._encoder.has_std,
            flip=self._data.flip,
            num_classes=len(self._source.class_names),
            class_names=self._source.class_names,
            text=None if self._text is None else self._text_info(self._text, shapes, list(done.values())),
            features=None if self._features is None else self._feature_info(self._features),
            splits=splits,
            corrupt=self._corrupt([image for each in done.values() for image in each.left_out]),
        )

    def _corrupt(self, left_out: list[tuple[int, Reason]]) -> Corrupt:
        """What is absent, named in a file of its own if it is much."""
        names = sorted(self._source.names[place] for place, _ in left_out)
        file = None
        if len(names) > LISTED:
            path = self._out / LEFT_OUT_FILE
            write_text(path, json.dumps(names, ensure_ascii=False, indent=0) + "\n", durable=False)
            file = StoredFile.model_validate(stored_file(path))
        return Corrupt(
            count=len(names),
            without_caption=sum(reason == "no caption" for _, reason in left_out),
            names=names if file is None else [],
            file=file,
            unused_captions=self._source.unused_captions,
            unlisted_images=self._source.unlisted_images,
        )

    def _text_info(self, text: CaptionEncoder, shapes: dict[str, list[int]], done: list[_Done]) -> TextInfo:
        section = self._data.captions
        assert section is not None
        on_the_fly = section.storage == "on-the-fly"
        return TextInfo(
            token_dim=text.token_dim if on_the_fly else shapes["tokens"][1],
            pooled_dim=text.pooled_dim if on_the_fly else shapes["pooled"][1],
            max_tokens=text.max_tokens,
            cut=sum(each.cut for each in done),
            storage=section.storage,
            relative_error=None if on_the_fly else _relative_error(done),
            section=section if on_the_fly else None,
            encoders=text.identities,
            subjects=self._source.subject_names,
        )

    def _feature_info(self, features: FeatureEncoder) -> FeatureInfo:
        return FeatureInfo(grid=features.grid, dim=features.dim, encoder=features.identity)


def _relative_error(done: list[_Done]) -> float:
    change, features = (math.fsum(sums) for sums in zip(*(each.error for each in done), strict=True))
    return math.sqrt(change / features) if features else 0.0


def _is_whole(folder: Path, entry: StoredFile) -> bool:
    path = folder / entry.file
    return path.is_file() and path.stat().st_size == entry.bytes and sha256_file(path) == entry.sha256


def _shapes(path: Path) -> dict[str, list[int]]:
    with safe_open(path, framework="pt") as shard:
        return {name: list(shard.get_slice(name).get_shape()) for name in shard.keys()}  # noqa: SIM118  # not a dictionary
