"""Is there room for the store? Reckoned and printed before anything is encoded."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch

from mudit.config.data import DataSection
from mudit.data.encoders import Encoder
from mudit.data.images import UnreadableImageError
from mudit.data.size import store_bytes, store_files
from mudit.data.sources import Source
from mudit.data.text import CaptionEncoder
from mudit.errors import ResultsError

_LOG = logging.getLogger(__name__)
_SAMPLE = 256  # captions whose tokens are counted


def check_room(data: DataSection, source: Source, encoder: Encoder, text: CaptionEncoder | None, out: Path, state: Path) -> None:
    """Logs how large the store will be. Raises ResultsError unless the disks of `out` and `state` have room for what is to come.

    What a killed run left in `state` counts as there. Nothing is checked if no image can be read: the writer explains that.
    """
    shape = _latent_shape(source, encoder)
    if shape is None:
        return
    images = len(source.names)
    tokens = 0.0 if text is None else _mean_tokens(text, _sample(source))
    token_dim, pooled_dim = (0, 0) if text is None else (text.token_dim, text.pooled_dim)
    needed = store_bytes(data, shape[0], shape[1], images, tokens, token_dim, pooled_dim)
    about = f"{images} images of {tuple(shape)}" + (f", {tokens:.1f} tokens a caption" if text is not None else "")
    _LOG.info("planned store: %s in %d files (%s)", _readable(needed), store_files(data, images), about)
    left = max(0, needed - sum(file.stat().st_size for file in state.glob("*.safetensors")))
    same = _device(out) == _device(state)
    for folder, bytes_needed in ((state, left),) if same else ((state, left), (out, needed)):
        free = shutil.disk_usage(_existing(folder)).free
        if free < bytes_needed:
            raise ResultsError(
                f"{folder}: the store needs {_readable(bytes_needed)} and {_readable(free)} are free; make room, or set "
                "data.share, data.moments or data.captions.storage to what takes less"
            )


def _latent_shape(source: Source, encoder: Encoder) -> tuple[int, ...] | None:
    """C, H, W of the first image that can be read; None if there is none among the first hundred."""
    for index in range(min(100, len(source.names))):
        try:
            pixels_CHW = source.read(index)
        except UnreadableImageError:
            continue
        mean_BCHW, _ = encoder.encode(torch.from_numpy(pixels_CHW)[None])
        return tuple(mean_BCHW.shape[1:])
    return None


def _sample(source: Source) -> Iterable[str]:
    """Captions of images that lie evenly over the source."""
    step = max(1, len(source.names) // _SAMPLE)
    for index in range(0, len(source.names), step):
        try:
            yield source.caption(index)
        except UnreadableImageError:
            continue


def _mean_tokens(text: CaptionEncoder, captions: Iterable[str]) -> float:
    lengths = [min(length, text.max_tokens) for caption in captions for length in text.lengths([caption])]
    return sum(lengths) / len(lengths) if lengths else 0.0


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.absolute().parents) if place.is_dir())


def _device(folder: Path) -> int:
    return _existing(folder).stat().st_dev


def _readable(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
