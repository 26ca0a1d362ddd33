"""Typed sections of `config.yaml`. Each field says its meaning and unit; nothing has a default, unknown keys are errors.

The JSON schema that Snakemake validates and the table in `docs/configuration.md` are generated from here (`mudit config fix`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from mudit.config.base import Count, Log2, PositiveInt, SchemeName, Section, Seeds, Share
from mudit.config.benchmarks import AnyBenchmark
from mudit.config.cluster import ClusterSection, ExecutionSection
from mudit.config.consistency import check_fits
from mudit.config.data import DataSection
from mudit.config.models import AnyModel
from mudit.config.published import PublishedSection, model_as_published
from mudit.config.search import SearchSection, SweepSection


class DiffusionSection(Section):
    """What every objective shares."""

    condition_dropout: Share = Field(description="probability that a label or caption becomes the null condition")
    alignment_weight: float = Field(ge=0, description="weight of the REPA loss where no search sets it (published: 0.5); 0: none")


class GaussianSection(DiffusionSection):
    """Published DiT diffusion: linear schedule, epsilon prediction, mean squared error."""

    kind: Literal["gaussian"] = Field(description="noise prediction on a linear schedule")
    timesteps: PositiveInt = Field(description="steps of the forward process")
    beta_start: float = Field(gt=0, lt=1, description="first variance of the linear schedule")
    beta_end: float = Field(gt=0, lt=1, description="last variance of the linear schedule")
    variance: Literal["learned-range", "fixed"] = Field(
        description="`learned-range` (DiT, PixArt-α): 2C output channels and the VB term; `fixed` (U-ViT): C channels"
    )


class FlowSection(DiffusionSection):
    """Rectified flow with logit-normal times (Esser et al. 2024, section 3): the model predicts noise minus image."""

    kind: Literal["rectified-flow"] = Field(description="velocity prediction on straight paths")
    logit_mean: float = Field(description="mean of the normal whose sigmoid is the training time")
    logit_std: float = Field(gt=0, description="its standard deviation")


AnyDiffusion = Annotated[GaussianSection | FlowSection, Field(discriminator="kind")]


class OptimizerSection(Section):
    """AdamW with a constant learning rate after an optional linear warm-up. DiT is published without warm-up and clipping."""

    betas: tuple[float, float] = Field(description="decay rates of the two moments")
    eps: float = Field(gt=0, description="added to the root of the second moment")
    weight_decay: float = Field(ge=0, description="base weight decay")
    clip_norm: float | None = Field(description="largest norm of the whole gradient; null: no clipping")
    warmup_steps: Count = Field(description="steps over which the learning rate rises linearly; 0: none")
    precision: Literal["fp32", "tf32", "bf16"] = Field(description="matrix products of forward and backward pass; weights are fp32")


class ValidationSection(Section):
    """The fixed (image, t, noise) set behind every validation loss."""

    images: PositiveInt = Field(description="held-out images, the first of the validation split")
    draws: PositiveInt = Field(description="(t, noise) pairs per image")
    seed: Count = Field(description="seed of t and noise")


class GateSubject(Section):
    """A further family for the gate, with the objective and optimizer that it is published with."""

    model: AnyModel = Field(description="architecture; its input must fit the experiment's store")
    diffusion: AnyDiffusion = Field(description="process and objective")
    optimizer: OptimizerSection = Field(description="AdamW")


class CoordCheckSection(Section):
    """The gate: do activations keep their size as width grows?"""

    widths: list[PositiveInt] = Field(min_length=3, description="model widths, in channels")
    steps: PositiveInt = Field(description="optimizer steps after initialisation")
    seeds: Seeds = Field(min_length=2, description="seeds of initialisation and batch")
    batch_size: PositiveInt = Field(description="images")
    log2_lr: Log2 = Field(description="base learning rate")
    tolerance: float = Field(gt=0, description="largest |d log2 rms / d log2 width| that counts as flat")
    confidence: float = Field(gt=0, lt=1, description="level of the slopes' intervals")
    also: list[GateSubject] = Field(
        description="further families through the same gate, on this experiment's images; random captions where the store has none"
    )


class SelectSection(Section):
    """Optimum, interval, drift and verdict from the sweep's records."""

    confidence: float = Field(gt=0, lt=1, description="level of the intervals")
    tolerance: float = Field(gt=0, description="largest |drift|, in log2 lr per doubling, that counts as transfer")


class TransferSection(Section):
    """Algorithm 4: the proxy whose best base learning rate the target uses."""

    proxy_width: PositiveInt = Field(description="one of sweep.widths.width")
    proxy_batch_size: PositiveInt = Field(description="images per step of the proxy")
    proxy_steps: PositiveInt = Field(description="optimizer steps of the proxy")


class SqrtBatchRate(Section):
    """A learning rate that was tuned at one batch size, scaled by the root of the ratio (published for PixArt-α)."""

    lr: float = Field(gt=0, description="learning rate at `batch_size` (published: 2e-5)")
    batch_size: PositiveInt = Field(description="images per step for which it holds (published: 256)")


class Arm(Section):
    """One way to train the target."""

    scheme: SchemeName = Field(description="parametrization and initialisation")
    log2_lr: Log2 | Literal["transferred", "tuned"] | SqrtBatchRate = Field(
        description="a number; `transferred` from the proxy, with whatever else `search` searched; `tuned` by the arm's own sweep "
        "at the target width; or a rate that follows the root of the batch size"
    )


class TrainSection(Section):
    """The target runs."""

    width: PositiveInt = Field(description="model width, in channels")
    batch_size: PositiveInt = Field(description="images per step, over all ranks")
    steps: PositiveInt = Field(description="optimizer steps")
    seeds: Seeds = Field(min_length=1, description="one run per arm and seed")
    ema_decay: float = Field(ge=0, lt=1, description="decay of the weight average, per step")
    eval_every: PositiveInt = Field(description="steps between validation losses")
    checkpoint_every: PositiveInt = Field(description="steps between checkpoints")
    keep_checkpoints: PositiveInt = Field(description="newest checkpoints kept while a run is unfinished")
    keep_every: PositiveInt | None = Field(description="checkpoints at multiples of so many steps are kept for ever; null: none")
    snapshots: list[PositiveInt] = Field(
        description="steps below `steps`, rising, whose average is kept, sampled and scored beside the last one; [] for none"
    )
    arms: dict[str, Arm] = Field(min_length=1, description="name -> how to train")

    @model_validator(mode="after")
    def _kept_checkpoints_exist(self) -> Self:
        if self.keep_every is not None and self.keep_every % self.checkpoint_every:
            raise ValueError(f"keep_every {self.keep_every} is not a multiple of checkpoint_every {self.checkpoint_every}")
        return self

    @model_validator(mode="after")
    def _snapshots_rise(self) -> Self:
        if self.snapshots != sorted(set(self.snapshots)) or self.snapshots[-1:] >= [self.steps]:
            raise ValueError(f"snapshots {self.snapshots}: steps must rise, and lie below steps {self.steps}")
        return self


class ImportedSection(Section):
    """A checkpoint from elsewhere that `mudit import` brought in: sampled and scored like a target run."""

    folder: str = Field(description="what `mudit import` wrote")
    content: str = Field(pattern=r"^[0-9a-f]{64}$", description="its `content`, from its manifest.json")
    weights: Literal["ema", "raw"] = Field(description="which of its weights")


class SampleSection(Section):
    """Images from the target's EMA weights."""

    train_seeds: Seeds = Field(description="seeds of train.seeds whose runs are sampled and evaluated; [] for none")
    images: PositiveInt = Field(description="images per run, balanced over classes")
    sampler: Literal["ddpm", "dpm-solver++", "euler"] = Field(
        description="ancestral, or the ODE solver; `euler` for rectified flow"
    )
    steps: PositiveInt = Field(description="network evaluations per image")
    guidance: float = Field(ge=1, description="classifier-free guidance scale; 1 is none")
    guide_channels: Literal["all", "first-three"] = Field(description="`first-three` repeats the published code's quirk")
    seed: Count = Field(description="image i uses noise (seed, i) whatever the batch size or process count")
    batch_size: PositiveInt = Field(description="images per forward pass")
    precision: Literal["fp32", "tf32", "bf16"] = Field(
        description="the network's matrix products; with `bf16` some images are drawn in fp32 as well, and the difference stated"
    )


class DataReference(Section):
    """Generated images are compared with the training images of the store."""

    kind: Literal["data"] = Field(description="the training images")
    images: PositiveInt | None = Field(description="how many, the first in the store's random order; null: all")


class FileReference(Section):
    """Generated images are compared with a published file, the ADM evaluator's `VIRTUAL_imagenet256_labeled.npz` or its like."""

    kind: Literal["file"] = Field(description="a file with statistics and images")
    path: str = Field(description="npz with arr_0 (images), mu, sigma, mu_s and sigma_s")
    sha256: str | None = Field(pattern=r"^[0-9a-f]{64}$", description="what the file must be; null: any, and recorded")


AnyReference = Annotated[DataReference | FileReference, Field(discriminator="kind")]


class EvaluateSection(Section):
    """Metrics through torch-fidelity, and sFID beside it (docs/evaluation.md)."""

    extractor: str = Field(description="registered feature extractor: digits-cnn, efficientnet-lite0, inception-v3-compat")
    weights: str | None = Field(description="file of the published Inception weights; null: from torch's download folder")
    reference: AnyReference = Field(description="the real images")
    protocol: Literal["fid-50k", "fid-30k", "any"] = Field(
        description="number of images that sample.images must have, Inception as the extractor, 3 neighbours and a reference of "
        "the protocol's size (`fid-50k`: a file or all training images); `any`: not a published protocol"
    )
    kid_subsets: PositiveInt = Field(description="subsets of the kernel distance")
    kid_subset_size: PositiveInt = Field(description="images in one subset")
    neighbours: PositiveInt = Field(description="k of precision and recall")


class ScorerSection(Section):
    """The text-image scorer trained as a stage: two linear projections over frozen encoders, and probes of style and subject."""

    image_encoder: Literal["efficientnet-lite0"] = Field(description="frozen image features")
    dim: PositiveInt = Field(description="width of the common space")
    steps: PositiveInt = Field(description="optimizer steps of the contrastive loss")
    batch_size: PositiveInt = Field(description="pairs per step")
    lr: float = Field(gt=0, description="learning rate of AdamW")
    seed: Count = Field(description="seed of initialisation and order")
    candidates: PositiveInt = Field(description="captions among which a generated image must find its own (chance: 1 / candidates)")


class ReportSection(Section):
    """The HTML page."""

    title: str = Field(description="heading of the page")


_ABSENT: Any = None  # whatever the section; see Experiment


class Experiment(Section):
    """One model family on one data set. A section that is left out is a part that the experiment does not have."""

    model: AnyModel = Field(description="architecture")
    data: DataSection = Field(description="images and latents")
    diffusion: AnyDiffusion = Field(description="process and objective")
    optimizer: OptimizerSection = Field(description="AdamW")
    validation: ValidationSection = Field(description="fixed validation set")
    coordcheck: CoordCheckSection = Field(description="the gate")
    # Absent sections are None; their stages do not exist then, so whoever reads one may rely on it.
    sweep: SweepSection = Field(default=_ABSENT, description="learning-rate sweeps")
    search: SearchSection = Field(default=_ABSENT, description="random search on the proxy")
    select: SelectSection = Field(default=_ABSENT, description="optimum and certificate")
    transfer: TransferSection = Field(default=_ABSENT, description="Algorithm 4")
    train: TrainSection = Field(default=_ABSENT, description="target runs")
    imported: dict[str, ImportedSection] = Field(
        default=_ABSENT, exclude_if=lambda section: section is None, min_length=1, description="name -> checkpoint from elsewhere"
    )
    sample: SampleSection = Field(default=_ABSENT, description="images from the target")
    scorer: ScorerSection = Field(default=_ABSENT, description="text-image scorer")
    evaluate: EvaluateSection = Field(default=_ABSENT, description="metrics")
    benchmarks: dict[str, AnyBenchmark] = Field(
        default=_ABSENT, exclude_if=lambda section: section is None, min_length=1, description="name -> public benchmark"
    )
    report: ReportSection = Field(description="the page")
    published: PublishedSection = Field(
        default=_ABSENT,
        exclude_if=lambda section: section is None,  # an experiment without it has the parameters that it would have had before
        description="behaviours of the published code to repeat; left out: none",
    )
    execution: ExecutionSection = Field(
        default=ExecutionSection(), description="processes and memory of its stages; left out: one process each"
    )

    def has(self, *sections: str) -> bool:
        """Whether the experiment has all of these sections."""
        return all(getattr(self, name) is not None for name in sections)

    def as_published(self, switch: str) -> bool:
        """Whether a behaviour of the published code is repeated; otherwise it is repaired."""
        return self.has("published") and switch in self.published.switches

    @model_validator(mode="after")
    def _fits(self) -> Self:
        experiment = self.model_copy(update={"model": model_as_published(self)})
        check_fits(experiment)
        return experiment


class Config(Section):
    """The whole file."""

    study: str = Field(description="the study to run")
    studies: dict[str, list[str]] = Field(description="study -> experiments")
    experiments: dict[str, Experiment] = Field(description="name -> experiment")
    cluster: ClusterSection = Field(description="machines and budget: what `mudit plan` reckons with")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.study not in self.studies:
            raise ValueError(f"study: {self.study!r} is not one of {sorted(self.studies)}")
        for study, names in self.studies.items():
            for name in names:
                if name not in self.experiments:
                    raise ValueError(f"studies.{study}: no experiment named {name!r}; there are {sorted(self.experiments)}")
        return self
