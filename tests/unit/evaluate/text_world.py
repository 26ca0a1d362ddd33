"""A small captioned world with known answers: coloured figures in two drawing styles, held out by subject.

A subject is a colour and a shape, a style is filled or outlined. The stand-in text encoder gives each caption a linear image of
what it names, so that a scorer which has learned the map on some subjects can read captions of others.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mudit.config.data import CaptionSection, DataSection, EmojiSource, FeatureSection, TextEncoderSection
from mudit.config.models import AlignmentSection, MMDiTSection, ModelSection, PixArtSection, UViTSection
from mudit.config.schema import Experiment, FlowSection, GaussianSection, ScorerSection
from mudit.data.encoders import Identity
from mudit.data.features import open_feature_encoder
from mudit.data.reader import LatentStore
from mudit.data.sources import Source
from mudit.data.text import EncodedCaptions
from mudit.data.writer import StoreWriter

SIDE, SUBJECTS, STYLES = 16, 60, ("noto", "fluent-3d")
MAX_TOKENS, TOKEN_DIM, POOLED_DIM = 5, 12, 24
HELD_OUT = 40  # images: 20 subjects in both styles
_ENCODER = TextEncoderSection(name="minilm", path=None)
DATA = DataSection(
    source=EmojiSource(kind="emoji", styles=list(STYLES)),
    share=1.0,
    image_size=SIDE,
    encoder="identity",
    encoder_path=None,
    encoder_sha256=None,
    latent_scale=1.0,
    latent_shift=0.0,
    moments="float32",
    flip=False,
    captions=CaptionSection(tokens=_ENCODER, pooled=_ENCODER, max_tokens=MAX_TOKENS, storage="float16"),
    features=FeatureSection(encoder="efficientnet-lite0", encoder_path=None, grid=SIDE // 2),
    shard_images=32,
    max_corrupt_share=0.0,
    validation_images=HELD_OUT,
    split_seed=0,
)
_SIZES = {"image_size": SIDE, "channels": 3, "head_dim": 8, "base_width": 16, "delta_width": 24, "output_mult": 1.0}
_SIZES |= {"depth": 2, "patch_size": 2, "mlp_ratio": 2, "text_dim": TOKEN_DIM}
FAMILIES: dict[str, ModelSection] = {
    "pixart": PixArtSection(family="pixart", max_tokens=MAX_TOKENS, **_SIZES),
    "uvit": UViTSection(family="uvit", final_conv=True, num_classes=None, max_tokens=MAX_TOKENS, **_SIZES),
    "mmdit": MMDiTSection(
        family="mmdit",
        pooled_dim=POOLED_DIM,
        max_tokens=MAX_TOKENS,
        qk_norm=True,
        position_table=None,
        alignment=AlignmentSection(after_blocks=1, hidden=16, features=112),
        **_SIZES,
    ),
}
SCORER = ScorerSection(image_encoder="efficientnet-lite0", dim=16, steps=150, batch_size=32, lr=1e-3, seed=0, candidates=5)


def experiment(digits: Experiment, family: str) -> Experiment:
    """The digits' experiment on captions, with the family's own objective and sampler."""
    shared = {"condition_dropout": 0.1, "alignment_weight": 0.0}
    if family == "mmdit":
        diffusion, sampler = FlowSection(kind="rectified-flow", logit_mean=0.0, logit_std=1.0, **shared), "euler"
    else:
        variance = "learned-range" if FAMILIES[family].learns_variance else "fixed"
        chain = {"kind": "gaussian", "timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "variance": variance}
        diffusion, sampler = GaussianSection(**chain, **shared), "ddpm"
    sample = {"images": 46, "batch_size": 20, "steps": 3, "sampler": sampler, "guidance": 2.0}
    evaluate = {"extractor": "efficientnet-lite0", "kid_subsets": 3, "kid_subset_size": 15}
    return digits.model_copy(
        update={
            "model": FAMILIES[family],
            "data": DATA,
            "diffusion": diffusion,
            "validation": digits.validation.model_copy(update={"images": 8}),
            "sample": digits.sample.model_copy(update=sample),
            "evaluate": digits.evaluate.model_copy(update=evaluate),
            "scorer": SCORER,
        }
    )


class Figures(Source):
    """Every subject in both styles."""

    has_captions = True

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.colours = rng.uniform(-1, 1, (SUBJECTS, 3)).astype(np.float32)
        self.subject_names = [f"{'disc' if self.round(subject) else 'box'} {subject}" for subject in range(SUBJECTS)]
        self.class_names = list(STYLES)
        self.subjects_n = np.repeat(np.arange(SUBJECTS), len(STYLES))
        self.labels_n = np.tile(np.arange(len(STYLES)), SUBJECTS)
        self.names = [f"{style}/{subject}" for subject in self.subject_names for style in STYLES]
        self.identity = {"name": "figures", "images": len(self.names)}

    @staticmethod
    def round(subject: int) -> bool:
        return subject % 2 == 1

    def read(self, index: int) -> np.ndarray:
        subject, style = divmod(index, len(STYLES))
        down, right = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
        distance = np.hypot(down, right) if self.round(subject) else np.maximum(abs(down), abs(right))
        inside = (distance < 6.5) if style == 0 else (distance < 6.5) & (distance > 4.2)
        return np.where(inside, self.colours[subject][:, None, None], 1.0).astype(np.float32)

    def caption(self, index: int) -> str:
        subject, style = divmod(index, len(STYLES))
        return f"a {'filled' if style == 0 else 'drawn'} {self.subject_names[subject]}"


class FigureText:
    """Stands in for `CaptionEncoder`: 2 to 5 tokens, and a pooled vector that is linear in colour, shape and style."""

    max_tokens = MAX_TOKENS
    identities = {"tokens": {"name": "figures"}, "pooled": {"name": "figures"}}  # noqa: RUF012

    def __init__(self, source: Figures) -> None:
        self._facts = {source.caption(index): self._fact(source, index) for index in range(len(source.names))}
        self._map = torch.randn(5, POOLED_DIM, generator=torch.Generator().manual_seed(1))

    @staticmethod
    def _fact(source: Figures, index: int) -> torch.Tensor:
        subject, style = divmod(index, len(STYLES))
        return torch.tensor([*source.colours[subject], float(source.round(subject)), float(style)])

    def encode(self, captions: list[str]) -> EncodedCaptions:
        pooled = torch.stack([self._facts[caption] for caption in captions]) @ self._map
        tokens = [pooled[i, :TOKEN_DIM].half().expand(2 + len(caption) % 4, -1) for i, caption in enumerate(captions)]
        return EncodedCaptions(tokens, pooled, cut=0)


def write_store(folder: Path) -> LatentStore:
    """The world's latent store, with REPA features."""
    source, out = Figures(), folder / "store"
    out.mkdir()
    assert DATA.features is not None
    features = open_feature_encoder(DATA.features)
    StoreWriter(DATA, source, Identity(1.0), out, folder / "state", FigureText(source), features).write(lambda images: None)
    return LatentStore.open(out)
