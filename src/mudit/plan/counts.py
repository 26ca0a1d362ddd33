"""Parameters and multiply-adds of the four families in closed form. Imports no torch; tests hold it equal to built models.

A model is listed layer by layer, once; both numbers follow. `mudit.models.flops` counts the same by running a model on the meta
device, which takes seconds and torch.

Legend: N image tokens, L caption tokens, D width, p patch side, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from typing import Self

from mudit.config.models import (
    DiTSection,
    ExternalSection,
    MMDiTSection,
    ModelSection,
    PixArtSection,
    TransformerSection,
    UViTSection,
)

_TIME_FEATURES = 256  # of the sinusoid before the timestep's MLP


@dataclass
class Part:
    """A group of layers: a block, or what is outside of the blocks."""

    parameters: int = 0
    macs: int = 0  # multiply-adds of one image's forward pass
    entry_macs: int = 0  # of these, in layers whose input needs no gradient

    def linear(self, inputs: int, outputs: int, rows: int, *, bias: bool = True, entry: bool = False) -> Self:
        """A linear layer on `rows` vectors. `entry`: on data, whose gradient nobody asks for."""
        self.parameters += inputs * outputs + (outputs if bias else 0)
        self.macs += rows * inputs * outputs
        self.entry_macs += rows * inputs * outputs if entry else 0
        return self

    def bare(self, count: int) -> Self:
        """Parameters without a product: tables, norms."""
        self.parameters += count
        return self

    def attention(self, queries: int, keys: int, width: int) -> Self:
        """The two products of attention."""
        self.macs += 2 * queries * keys * width
        return self

    def mlp(self, inputs: int, hidden: int, outputs: int, rows: int, *, entry: bool = False) -> Self:
        """Two linear layers, the first perhaps on data."""
        return self.linear(inputs, hidden, rows, entry=entry).linear(hidden, outputs, rows)


@dataclass(frozen=True)
class Architecture:
    """A model at one width."""

    blocks: tuple[Part, ...]  # the repeated layers, which sharding and recomputation work on
    rest: Part  # everything else that each forward pass runs
    projector: Part = field(default_factory=Part)  # REPA's, which only training runs

    @property
    def parameters(self) -> int:
        """Trained numbers of the whole model."""
        return sum(part.parameters for part in (*self.blocks, self.rest, self.projector))

    @property
    def macs(self) -> int:
        """Multiply-adds of one image's forward pass."""
        return sum(part.macs for part in (*self.blocks, self.rest))

    @property
    def training_macs(self) -> int:
        """Those of a forward pass in training."""
        return self.macs + self.projector.macs

    def step_flops(self, images: int, again: bool) -> int:
        """Operations that a training step of `images` images runs: no gradients of the data, and the blocks once more if `again`.

        `train_flops` is the convention, three forward passes, by which utilisation is stated; this is what a counter finds.
        """
        repeated = 2 * sum(part.macs for part in self.blocks) if again else 0
        return images * (6 * self.training_macs - 2 * self.rest.entry_macs + repeated)

    @property
    def block_share(self) -> float:
        """Share of the blocks in a training pass: what recomputation runs twice."""
        return sum(part.macs for part in self.blocks) / self.training_macs


def architecture(model: ModelSection, width: int) -> Architecture:
    """The layers of a model of our four families, or the totals of a model of your own, which are counted with torch.

    `width`: a multiple of head_dim. Raises ConfigError if a factory of your own fails.
    """
    # The readout's multiplier changes no shape; without it each shape is counted once.
    plain = model.model_copy(update={"output_mult": 1.0})
    return _counted(plain.model_dump_json(), width, type(model))


@cache
def _counted(text: str, width: int, kind: type[ModelSection]) -> Architecture:
    model = kind.model_validate_json(text)
    if isinstance(model, DiTSection):
        return _dit(model, width)
    if isinstance(model, PixArtSection):
        return _pixart(model, width)
    if isinstance(model, UViTSection):
        return _uvit(model, width)
    if isinstance(model, MMDiTSection):
        return _mmdit(model, width)
    assert isinstance(model, ExternalSection)
    return _external(model, width)


def tokens(model: TransformerSection) -> int:
    """Image tokens N."""
    return (model.image_size // model.patch_size) ** 2


def train_flops(model: ModelSection, width: int, images: float) -> float:
    """Operations of training on `images` images: forward, and twice that backward."""
    return 6 * architecture(model, width).training_macs * images


def inference_flops(model: ModelSection, width: int, passes: float) -> float:
    """Operations of forward passes of one image each."""
    return 2 * architecture(model, width).macs * passes


def _patch(model: TransformerSection) -> int:
    return model.patch_size**2 * model.channels


def _dit(model: DiTSection, d: int) -> Architecture:
    n = tokens(model)
    block = Part().linear(d, 3 * d, n).linear(d, d, n).attention(n, n, d).mlp(d, model.mlp_ratio * d, d, n).linear(d, 6 * d, 1)
    rest = Part().linear(_patch(model), d, n, entry=True).mlp(_TIME_FEATURES, d, d, 1, entry=True).bare((model.num_classes + 1) * d)
    rest.linear(d, 2 * _patch(model), n).linear(d, 2 * d, 1)
    return Architecture((block,) * model.depth, rest)


def _pixart(model: PixArtSection, d: int) -> Architecture:
    n, length = tokens(model), model.max_tokens
    block = Part().bare(6 * d).linear(d, 3 * d, n).linear(d, d, n).attention(n, n, d)
    block.linear(d, d, n).linear(d, 2 * d, length).attention(n, length, d).linear(d, d, n).mlp(d, model.mlp_ratio * d, d, n)
    rest = Part().linear(_patch(model), d, n, entry=True).mlp(_TIME_FEATURES, d, d, 1, entry=True).linear(d, 6 * d, 1)
    rest.bare(length * model.text_dim).mlp(model.text_dim, d, d, length)
    rest.bare(2 * d).linear(d, 2 * _patch(model), n)
    return Architecture((block,) * model.depth, rest)


def _uvit(model: UViTSection, d: int) -> Architecture:
    n = tokens(model)
    captions = model.max_tokens or 1  # a label is one token
    every = n + 1 + captions
    plain = Part().bare(4 * d).linear(d, 3 * d, every, bias=False).linear(d, d, every).attention(every, every, d)
    plain.mlp(d, model.mlp_ratio * d, d, every)
    merging = replace(plain).linear(2 * d, d, every)
    rest = Part().linear(_patch(model), d, n, entry=True).bare(every * d).bare(2 * d).linear(d, _patch(model), every)
    if model.num_classes is not None:
        rest.bare((model.num_classes + 1) * d)
    else:
        assert model.text_dim is not None
        rest.linear(model.text_dim, d, captions, entry=True)
    if model.final_conv:
        rest.linear(9 * model.channels, model.channels, model.image_size**2)
    half = model.depth // 2
    return Architecture((plain,) * (half + 1) + (merging,) * half, rest)


def _mmdit(model: MMDiTSection, d: int) -> Architecture:
    n, length = tokens(model), model.max_tokens
    norms = 2 * model.head_dim if model.qk_norm else 0

    def stream(part: Part, rows: int) -> Part:
        part.linear(d, 6 * d, 1).linear(d, 3 * d, rows).linear(d, d, rows).bare(norms)
        return part.mlp(d, model.mlp_ratio * d, d, rows)

    joint = n + length
    block = stream(stream(Part(), n), length).attention(joint, joint, d)
    # The last block's captions only feed the attention.
    last = stream(Part(), n).linear(d, 2 * d, 1).linear(d, 3 * d, length).bare(norms).attention(joint, joint, d)
    rest = (
        Part()
        .linear(_patch(model), d, n, entry=True)
        .mlp(_TIME_FEATURES, d, d, 1, entry=True)
        .mlp(model.pooled_dim, d, d, 1, entry=True)
    )
    rest.linear(model.text_dim, d, length, entry=True).linear(d, _patch(model), n).linear(d, 2 * d, 1)
    projector = Part()
    if model.alignment is not None:
        hidden = model.alignment.hidden
        projector.linear(d, hidden, n).mlp(hidden, hidden, model.alignment.features, n)
    return Architecture((block,) * (model.depth - 1) + (last,), rest, projector)


def _external(model: ExternalSection, d: int) -> Architecture:
    import torch

    from mudit.models.families import build
    from mudit.models.flops import forward_macs

    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in build(model, d).parameters())
    return Architecture((), Part(parameters, forward_macs(model, d)))
