"""What each stage computes: operations by precision. Imports no torch.

Operations count matrix products, convolutions and attention (`mudit.plan.counts`); a training step is three forward passes. What is
left out costs little beside them: optimizer, EMA, norms, random numbers, reading and writing.

Precisions are those in which the code runs. Training follows `optimizer.precision`. Convolutions of the autoencoder run in TF32,
cuDNN's default. Everything else, validation, sampling and Inception included, is float32, and TF32 only where training is.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from mudit.config.cluster import TrainWorkers
from mudit.config.schema import Experiment
from mudit.plan import encoders
from mudit.plan.counts import architecture, inference_flops, train_flops
from mudit.plan.dataset import DataFacts, text_widths
from mudit.plan.hardware import Precision
from mudit.sizes import GATE_SCHEMES, KEPT_IMAGES

_CONVOLUTIONS: Precision = "tf32"
_PLAIN: Precision = "fp32"


@dataclass
class Work:
    """Operations by the precision in which they run."""

    by_precision: Counter[Precision] = field(default_factory=Counter)
    again: float = 0.0  # of these, what recomputation repeats: time, but not the model's operations

    def add(self, precision: Precision, flops: float) -> Work:
        """More operations."""
        self.by_precision[precision] += flops  # type: ignore[assignment]
        return self

    def plus(self, other: Work, times: float = 1.0) -> Work:
        """Another work, `times` times."""
        for precision, flops in other.by_precision.items():
            self.add(precision, flops * times)
        self.again += other.again * times
        return self

    @property
    def flops(self) -> float:
        """The model's operations, without what is computed again."""
        return sum(self.by_precision.values()) - self.again


def encoding(experiment: Experiment, data: DataFacts) -> Work:
    """The stage `data`: every image, mirrored too if flips are stored, and its caption and patch features."""
    section, work = experiment.data, Work()
    if section.encoder == "autoencoder-kl":
        views = 2 if section.flip else 1
        work.add(_CONVOLUTIONS, 2 * views * data.images * encoders.vae_encode(section.image_size, data.latent_channels))
    if section.captions is not None and section.captions.storage != "on-the-fly":
        work.add(_PLAIN, data.images * caption(experiment, data))
    if section.features is not None:
        work.add(_PLAIN, 2 * data.images * encoders.features(section.features))
    return work


def gate(experiment: Experiment, family: str) -> Work:
    """The stage `coordcheck`, on the CPU."""
    also = [each.model for each in experiment.coordcheck.also if each.model.family == family]
    model, check = also[0] if also else experiment.model, experiment.coordcheck
    images = len(check.seeds) * (check.steps + 1) * check.batch_size
    return Work().add(_PLAIN, len(GATE_SCHEMES) * sum(train_flops(model, width, images) for width in check.widths))


def training(
    experiment: Experiment, data: DataFacts, width: int, batch_size: int, steps: int, validations: int, again: bool = False
) -> Work:
    """One run or trial. `validations`: passes over the fixed probes; `again`: activations are computed a second time."""
    model, precision, images = experiment.model, experiment.optimizer.precision, batch_size * steps
    work = Work().add(precision, train_flops(model, width, images))
    if again:
        work.again = train_flops(model, width, images) / 3 * architecture(model, width).block_share
        work.add(precision, work.again)
    if experiment.data.captions is not None and experiment.data.captions.storage == "on-the-fly":
        work.add(_PLAIN, images * caption(experiment, data))
    probes = experiment.validation.images * experiment.validation.draws
    return work.add(_outside(precision), inference_flops(model, width, probes * validations))


def target(experiment: Experiment, data: DataFacts) -> Work:
    """The stage `train`: weights and their average are validated every `eval_every` steps and at the end."""
    train, workers = experiment.train, experiment.execution.train
    again = isinstance(workers, TrainWorkers) and workers.checkpoint_activations
    return training(experiment, data, train.width, train.batch_size, train.steps, 2 * -(-train.steps // train.eval_every), again)


def sampling(experiment: Experiment, data: DataFacts, sets: int) -> Work:
    """The stage `sample` of a run with so many sets of weights."""
    return drawing(experiment, data, sets * experiment.sample.images)


def drawing(experiment: Experiment, data: DataFacts, images: int) -> Work:
    """So many images: every network evaluation, twice with guidance, and the decoder."""
    section, model = experiment.sample, experiment.model
    passes = images * section.steps * (1 if section.guidance == 1.0 else 2)
    work = Work().add(section.precision, inference_flops(model, _width(experiment), passes))
    return work.plus(_decoding(experiment, data, images))


def embedding(experiment: Experiment, data: DataFacts, images: int, decoded: bool) -> Work:
    """Features of images for the metrics; `decoded`: the images are real ones, decoded from the store."""
    work = Work().add(_PLAIN, 2 * images * encoders.extractor(experiment.evaluate.extractor))
    return work.plus(_decoding(experiment, data, images)) if decoded else work


def judged(experiment: Experiment, data: DataFacts) -> tuple[int, int]:
    """(reference images, held-out images) that pass through the extractor; those of a published file are as many as are kept."""
    reference, held_out = experiment.evaluate.reference, min(KEPT_IMAGES, experiment.data.validation_images)
    if reference.kind == "file":
        return KEPT_IMAGES, held_out
    return reference.images or max(0, data.images - experiment.data.validation_images), held_out


def reference(experiment: Experiment, data: DataFacts) -> Work:
    """The stage `extractor`: real images, decoded from the store unless a file has them."""
    images, held_out = judged(experiment, data)
    decoded = experiment.evaluate.reference.kind == "data"
    return embedding(experiment, data, images, decoded).plus(embedding(experiment, data, held_out, decoded=True))


def sets(experiment: Experiment) -> int:
    """Sets of generated images of a target run: of its last weights, and of each snapshot."""
    return 1 + (len(experiment.train.snapshots) if experiment.has("train") else 0)


def scoring(experiment: Experiment, data: DataFacts) -> Work:
    """The stage `evaluate`: the validation loss and the features of every set."""
    probes = experiment.validation.images * experiment.validation.draws
    work = Work().add(_PLAIN, inference_flops(experiment.model, _width(experiment), sets(experiment) * probes))
    return work.plus(embedding(experiment, data, sets(experiment) * experiment.sample.images, decoded=False))


def _decoding(experiment: Experiment, data: DataFacts, images: int) -> Work:
    if experiment.data.encoder == "identity":
        return Work()
    return Work().add(_CONVOLUTIONS, 2 * images * encoders.vae_decode(experiment.data.image_size, data.latent_channels))


def caption(experiment: Experiment, data: DataFacts) -> float:
    """Operations of one caption through the text encoders."""
    captions = experiment.data.captions
    assert captions is not None
    token_dim, pooled_dim = text_widths(experiment.data, experiment.model)
    macs = encoders.text(captions.tokens, data.caption_tokens, token_dim)
    if captions.pooled != captions.tokens:
        macs += encoders.text(captions.pooled, data.caption_tokens, pooled_dim)
    return 2 * macs


def _width(experiment: Experiment) -> int:
    return experiment.train.width if experiment.has("train") else experiment.model.base_width


def _outside(precision: Precision) -> Precision:
    """What runs outside of autocast in a process that trains."""
    return "tf32" if precision == "tf32" else "fp32"
