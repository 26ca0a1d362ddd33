"""Memory of one process: what a run keeps, by formula. Imports no torch; the rehearsal and tests hold it to what torch reports.

Of each parameter a training process keeps 20 bytes: float32 weight, gradient, two moments and average. Sharded, it keeps its share
of them, and while a block computes that block whole: weights of it and of the next one, which is fetched meanwhile, and its
gradient.

Activations are those that the blocks keep for the backward pass. Per image they are `4 (base + 2 r) tokens width` bytes for each
block: `r` is the MLP's ratio (what its nonlinearity reads and gives), `base` the number of other vectors of one token that a family
keeps. Under bf16 autocast they have 2 bytes, but for a few of the residual stream that stay float32 (`full`), and autocast keeps a
copy of each weight that it casts, 2 bytes a parameter, until the backward pass. With activations computed again only the blocks'
inputs stay, and what one block needs. What lies outside of the blocks is left out.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from mudit.config.models import ExternalSection, MMDiTSection, ModelSection, PixArtSection, TransformerSection, UViTSection
from mudit.config.schema import Experiment
from mudit.plan.counts import architecture, tokens
from mudit.plan.hardware import Precision

_WEIGHT = _GRADIENT = _AVERAGE = 4  # bytes per parameter, float32
_MOMENTS = 8
# (base, full) of each family, counted from what torch keeps for the models of the paper.
_KEPT = {"dit": (12, 4), "pixart": (15, 4), "uvit": (9, 1), "mmdit": (18, 6)}


@dataclass(frozen=True)
class Memory:
    """Bytes of one process, by what they hold."""

    weights: int
    gradients: int
    moments: int
    average: int
    gathered: int  # sharded: blocks that are whole for a moment
    copies: int  # weights that autocast has cast, kept for the backward pass
    activations: int  # kept for the backward pass
    again: int  # one block's activations and casts, where they are computed a second time

    @property
    def total(self) -> int:
        """All of it."""
        return sum(asdict(self).values())


def training(experiment: Experiment) -> Memory:
    """One process of a target run, as `execution.train` lays it out."""
    train, workers = experiment.train, experiment.execution.train
    processes = workers.processes if workers is not None else 1
    images = -(-train.batch_size // processes)
    if workers is None:
        return _training(experiment.model, train.width, images, experiment.optimizer.precision, 1, again=False)
    shards = processes if workers.parallel == "sharded" else 1
    at_once = min(workers.micro_batch or images, images)
    return _training(experiment.model, train.width, at_once, experiment.optimizer.precision, shards, workers.checkpoint_activations)


def trial(experiment: Experiment, width: int, images: int) -> Memory:
    """One trial of a sweep or search, `images` per forward pass: no average."""
    memory = _training(experiment.model, width, images, experiment.optimizer.precision, 1, again=False)
    return Memory(**{**asdict(memory), "average": 0})


def sampling(experiment: Experiment) -> int:
    """Bytes of the weights, which one process holds whole, and of PixArt's keys and values of a batch of captions."""
    model, section, width = experiment.model, experiment.sample, experiment.train.width
    captions = 0
    if isinstance(model, PixArtSection):
        captions = section.batch_size * (1 if section.guidance == 1.0 else 2) * model.max_tokens
    return _WEIGHT * (architecture(model, width).parameters + captions * 2 * width * len(architecture(model, width).blocks))


def _training(model: ModelSection, width: int, images: int, precision: Precision, shards: int, again: bool) -> Memory:
    built = architecture(model, width)
    own = -(-built.parameters // shards)
    largest = max((block.parameters for block in built.blocks), default=0)
    cast = 2 if precision == "bf16" else 0
    kept, block = activations(model, width, precision)
    outside = built.parameters - sum(part.parameters for part in built.blocks)
    return Memory(
        weights=_WEIGHT * own,
        gradients=_GRADIENT * own,
        moments=_MOMENTS * own,
        average=_AVERAGE * own,
        gathered=(2 * _WEIGHT + _GRADIENT) * largest if shards > 1 else 0,
        copies=cast * (outside if again else built.parameters),
        activations=images * (kept if again else block * len(built.blocks)),
        again=images * block + cast * largest if again else 0,
    )


def activations(model: ModelSection, width: int, precision: Precision) -> tuple[int, int]:
    """Bytes of one image: the inputs of all blocks, and what one block keeps. 0 for a model of your own: nothing is known of it."""
    if isinstance(model, ExternalSection):
        return 0, 0
    assert isinstance(model, TransformerSection)
    base, full = _KEPT[model.family]
    row, values = _tokens(model) * width, (base + 2 * model.mlp_ratio) * _tokens(model) * width
    if isinstance(model, PixArtSection):
        values += 2 * model.max_tokens * width  # keys and values of the caption
    block = 2 * (values + full * row) if precision == "bf16" else 4 * values
    return 4 * row * len(architecture(model, width).blocks), block


def exchanged(experiment: Experiment, ranks: int) -> int:
    """Bytes that pass through each rank in one optimizer step, in rings of many: float32 gradients and, sharded, weights.

    Sharded, each micro-batch gathers the weights twice and scatters the gradients; replicated, a step sums the gradients once, each
    of them going around twice.
    """
    train, workers = experiment.train, experiment.execution.train
    size = _GRADIENT * architecture(experiment.model, train.width).parameters
    if workers is None or workers.parallel == "replicated":
        return 2 * size * (ranks - 1) // ranks
    share = -(-train.batch_size // ranks)
    passes = -(-share // min(share, workers.micro_batch or share))
    return 3 * size * passes * (ranks - 1) // ranks


def _tokens(model: TransformerSection) -> int:
    """Of every stream that a block works on."""
    if isinstance(model, MMDiTSection):
        return tokens(model) + model.max_tokens
    if isinstance(model, UViTSection):
        return tokens(model) + 1 + (model.max_tokens or 1)
    return tokens(model)
