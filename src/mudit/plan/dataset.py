"""What the plan must know of the data before the store is made: how many images, how long their captions. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from mudit.config.data import DataSection, DigitsSource, EmojiSource
from mudit.config.models import ModelSection
from mudit.config.schema import Experiment
from mudit.data.size import store_bytes, store_files
from mudit.errors import ConfigError, DataError
from mudit.plan import encoders
from mudit.provenance import manifest as manifests
from mudit.provenance import records
from mudit.stages import STAGES, Artefact

_DIGITS = 1_797
_EMOJI_SUBJECTS = 1_607  # drawn in both styles
# The published archives, images and bytes; a smaller file holds fewer in proportion. ImageNet: ILSVRC2012_img_train.tar. SA-1B: the
# paper's epoch, 39,185 steps of 1,408 images in five, in about 10.8 TB of tars (Kirillov et al. 2023 say 11 TB, 11M images).
_ARCHIVES = {"imagenet-tars": (1_281_167, 147_897_477_120), "sa-1b": (11_034_496, 10_800_000_000_000)}
_TEXT_WIDTHS = {"t5": 4096, "clip": 768, "minilm": 384}


@dataclass(frozen=True)
class DataFacts:
    """Sizes of one experiment's store."""

    images: int  # in the store, both splits
    caption_tokens: float  # on average; 0 without captions
    latent_channels: int
    bytes: int  # of the store, the encoder's own files included
    files: int


def facts(name: str, experiment: Experiment) -> DataFacts:
    """Of an experiment called `name`. Raises ConfigError if nothing says how many images there are."""
    data, model = experiment.data, experiment.model
    images = _images(name, experiment)
    tokens = 0.0
    if data.captions is not None:
        expect = experiment.execution.expect
        stated = expect.caption_tokens if expect is not None else None
        tokens = min(stated or math.inf, data.captions.max_tokens)
    vae = data.encoder == "autoencoder-kl"
    token_dim, pooled_dim = text_widths(data, model)
    size = store_bytes(data, model.channels, model.image_size, images, tokens, token_dim, pooled_dim)
    return DataFacts(
        images=images,
        caption_tokens=tokens,
        latent_channels=model.channels,
        bytes=size + (encoders.VAE_BYTES if vae else 0),
        files=store_files(data, images),
    )


def text_widths(data: DataSection, model: ModelSection) -> tuple[int, int]:
    """Widths of token features and pooled vectors: the model's where it says them, else those of the published encoders."""
    if data.captions is None:
        return 0, 0
    token_dim = getattr(model, "text_dim", None) or _TEXT_WIDTHS[data.captions.tokens.name]
    return token_dim, getattr(model, "pooled_dim", None) or _TEXT_WIDTHS[data.captions.pooled.name]


def _images(name: str, experiment: Experiment) -> int:
    """Images of the store, as the store itself, here or elsewhere, `execution.expect` or the source says."""
    data = experiment.data
    stored = _stored(name, experiment)
    if stored is not None:
        return stored
    if experiment.execution.expect is not None:
        return _share(experiment.execution.expect.images, data.share)
    kind = data.source.kind
    if isinstance(data.source, DigitsSource | EmojiSource):
        whole = _DIGITS if isinstance(data.source, DigitsSource) else _EMOJI_SUBJECTS * len(data.source.styles)
        return _share(whole, data.share)
    path = Path(data.source.path) if hasattr(data.source, "path") else None
    if kind in _ARCHIVES and path is not None:
        return _share(_archived(kind, path), data.share)
    if kind in ("class-folders", "imagefolder") and path is not None and path.is_dir():
        return _share(_listed(path), data.share)
    raise ConfigError(
        f"{name}: the plan cannot know how many images a source {kind!r} has; add execution.expect: "
        "{images: N, caption_tokens: null}"
    )


def _stored(name: str, experiment: Experiment) -> int | None:
    """Images of the store that was made of this very section `data`, by its manifest or its record in Git; None without one."""
    artefact = Artefact(name, STAGES["data"], "")
    try:
        manifest = manifests.read(artefact.path) or records.read(artefact)
    except manifests.ManifestError as error:
        raise DataError(f"{artefact.id}: {error}; see what mends it: mudit verify --explain {name}") from None
    if manifest is None or manifest["parameters"] != artefact.stage.parameters(experiment, ""):
        return None
    return int(manifest["summary"]["train"] + manifest["summary"]["validation"])


def _share(images: int, share: float) -> int:
    return max(1, math.ceil(round(images * share, 6)))


def _archived(kind: str, path: Path) -> int:
    """Images of tars, by their size; of the published ones if they are not there."""
    images, size = _ARCHIVES[kind]
    if not path.exists():
        return images
    found = sum(tar.stat().st_size for tar in path.glob("*.tar")) if path.is_dir() else path.stat().st_size
    return max(1, round(images * found / size))


def _listed(folder: Path) -> int:
    """Files in the sub-folders: names only, so that a million take seconds."""
    return sum(1 for entry in folder.iterdir() if entry.is_dir() for _ in entry.iterdir())
