"""One shard of the store: images read by a few threads while the encoders work on those before, in the order that was asked for.

Legend: B images of one call of the encoders, C H W channels, height and width, T tokens of some captions, E token feature width.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mudit.config.data import DataSection
from mudit.data.encoders import Encoder
from mudit.data.features import FeatureEncoder
from mudit.data.images import MissingCaptionError, UnreadableImageError
from mudit.data.sources import Source
from mudit.data.tensors import pack_tokens, to_half, unpack_tokens
from mudit.data.text import CaptionEncoder

_MAX_READERS = 8

Reason = Literal["unreadable", "no caption"]


class _Image(NamedTuple):
    place: int  # in the source
    pixels_CHW: NDArray[np.float32]
    caption: str


class _LeftOut(NamedTuple):
    place: int
    reason: Reason


class Contents:
    """What the encoders made of one shard so far."""

    def __init__(self) -> None:
        self.parts: dict[str, list[Tensor]] = {}
        self.lengths: list[int] = []  # tokens of each caption
        self.captions: list[str] = []
        self.left_out: list[tuple[int, Reason]] = []  # places in the source
        self.cut = 0
        self._squares: list[float] = []  # of each token, and of what its type changed
        self._errors: list[float] = []

    def add(self, name: str, rows: Tensor) -> None:
        """Appends the rows of one call."""
        self.parts.setdefault(name, []).append(rows)

    def tensors(self) -> dict[str, Tensor]:
        """Whole tensors by name, contiguous; none if no image could be used."""
        tensors = {name: torch.cat(parts).contiguous() for name, parts in self.parts.items()}
        if self.lengths:
            tensors["token_ends"] = torch.tensor(self.lengths, dtype=torch.int64).cumsum(0)
        return tensors

    def measure(self, tokens_TE: Tensor, stored_TE: Tensor) -> None:
        """Adds the squares of some token features and of the change that their type brought."""
        true_TE = tokens_TE.numpy().astype(np.float64)
        self._squares += np.square(true_TE).sum(1).tolist()
        self._errors += np.square(stored_TE.numpy() - true_TE).sum(1).tolist()

    @property
    def error(self) -> tuple[float, float]:
        """Sums of squares of change and of features; exact sums of the tokens' own, so that no order of summation shows."""
        return math.fsum(self._errors), math.fsum(self._squares)


class ShardEncoder:
    """Turns images of a source into the tensors of a shard."""

    def __init__(
        self,
        data: DataSection,
        source: Source,
        encoder: Encoder,
        text: CaptionEncoder | None,
        features: FeatureEncoder | None,
        batch: int,
    ) -> None:
        self._data, self._source, self._encoder, self._text, self._features = data, source, encoder, text, features
        self._batch = batch
        self._readers = min(_MAX_READERS, len(os.sched_getaffinity(0)))

    def encode(self, indices: NDArray[np.int64]) -> Contents:
        """Everything that the store holds of the images among `indices` that can be used, and what became of the others."""
        contents = Contents()
        with ThreadPoolExecutor(self._readers) as pool:
            images = self._images(pool, indices, contents)
            while some := list(islice(images, self._batch)):
                self._add(some, contents)
        return contents

    def reads(self, index: int) -> bool:
        """Whether image `index` can be used."""
        return isinstance(self._read(index), _Image)

    def _images(self, pool: ThreadPoolExecutor, indices: NDArray[np.int64], contents: Contents) -> Iterator[_Image]:
        """The usable images in order, each read ahead of its turn by at most two batches; the others enter `contents.left_out`."""
        waiting: deque[Future[_Image | _LeftOut]] = deque()
        todo = iter(indices.tolist())
        while True:
            while len(waiting) < 2 * self._batch and (index := next(todo, None)) is not None:
                waiting.append(pool.submit(self._read, index))
            if not waiting:
                return
            found = waiting.popleft().result()
            if isinstance(found, _LeftOut):
                contents.left_out.append(found)
            else:
                yield found

    def _read(self, index: int) -> _Image | _LeftOut:
        try:
            caption = self._source.caption(index) if self._text is not None else ""
            return _Image(index, self._source.read(index), caption)
        except MissingCaptionError:
            return _LeftOut(index, "no caption")
        except UnreadableImageError:
            return _LeftOut(index, "unreadable")

    def _add(self, images: list[_Image], contents: Contents) -> None:
        """What one call of each encoder makes."""
        pixels_BCHW = torch.from_numpy(np.stack([image.pixels_CHW for image in images]))
        indices = [image.place for image in images]
        self._add_views(pixels_BCHW, contents)
        contents.add("labels", torch.from_numpy(self._source.labels_n[indices]))
        if self._text is not None:
            self._add_captions(self._text, [image.caption for image in images], contents)
            if self._source.subjects_n is not None:
                contents.add("subjects", torch.from_numpy(self._source.subjects_n[indices]))
        if self._features is not None:
            contents.add("features", to_half(self._features.encode(pixels_BCHW), "data.features"))

    def _add_views(self, pixels_BCHW: Tensor, contents: Contents) -> None:
        views = {"": pixels_BCHW, "_flip": pixels_BCHW.flip(-1)} if self._data.flip else {"": pixels_BCHW}
        for suffix, view_BCHW in views.items():
            mean_BCHW, std_BCHW = self._encoder.encode(view_BCHW)
            for name, moment_BCHW in (("mean", mean_BCHW), ("std", std_BCHW)):
                if moment_BCHW is not None:
                    half = self._data.moments == "float16"
                    contents.add(f"{name}{suffix}", to_half(moment_BCHW, "data.moments") if half else moment_BCHW)

    def _add_captions(self, text: CaptionEncoder, captions: list[str], contents: Contents) -> None:
        assert self._data.captions is not None
        contents.captions += captions
        storage = self._data.captions.storage
        if storage == "on-the-fly":
            contents.cut += sum(length > text.max_tokens for length in text.lengths(captions))
            return
        encoded = text.encode(captions)
        contents.cut += encoded.cut
        contents.lengths += [len(tokens) for tokens in encoded.tokens]
        tokens_TE = torch.cat(encoded.tokens).float()
        packed = pack_tokens(tokens_TE, storage)
        for name, rows in packed.items():
            contents.add(name, rows)
        contents.measure(tokens_TE, unpack_tokens(packed["tokens"], packed.get("token_scale")))
        contents.add("pooled", encoded.pooled_BP)
