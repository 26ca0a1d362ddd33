"""Typed sections of `config.yaml`. Each field says its meaning and unit; nothing has a default, unknown keys are errors.

The JSON schema that Snakemake validates and the table in `docs/configuration.md` are generated from here (`mudit config fix`).
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

SchemeName = Literal["mup", "sp", "sp-same-init"]
PositiveInt = Annotated[int, Field(gt=0, strict=True)]
Count = Annotated[int, Field(ge=0, strict=True)]
Share = Annotated[float, Field(ge=0, le=1)]
Log2 = Annotated[float, Field(ge=-40, le=10)]


class Section(BaseModel):
    """A part of the configuration: immutable, complete, strict about keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSection(Section):
    """Architecture family. Depth and head size are fixed; width grows by heads."""

    family: Literal["dit"] = Field(description="architecture")
    depth: PositiveInt = Field(description="transformer blocks")
    head_dim: PositiveInt = Field(description="channels of one attention head, the same at every width")
    patch_size: PositiveInt = Field(description="side of a patch, in latent pixels")
    mlp_ratio: PositiveInt = Field(description="hidden width of the MLP over model width")
    image_size: PositiveInt = Field(description="side of the transformer's input, in latent pixels")
    channels: PositiveInt = Field(description="channels of the transformer's input")
    num_classes: PositiveInt = Field(description="classes, without the null class of guidance")
    base_width: PositiveInt = Field(description="width at which muP and the plain model coincide (width multiplier 1)")
    delta_width: PositiveInt = Field(description="second width, used only to tell infinite dimensions from finite ones")
    output_mult: float = Field(gt=0, description="width-free multiplier of the readout, a base hyperparameter")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name in ("base_width", "delta_width"):
            width = getattr(self, name)
            if width % self.head_dim:
                raise ValueError(f"{name} {width} is not a multiple of head_dim {self.head_dim}")
        if self.base_width == self.delta_width:
            raise ValueError(f"delta_width must differ from base_width (both are {self.base_width})")
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        return self


class DataSection(Section):
    """Where images come from and how they enter the latent store."""

    source: Literal["sklearn-digits", "image-folder"] = Field(description="`image-folder` has one folder per class")
    path: str | None = Field(description="folder of `image-folder`, relative to the working directory")
    image_size: PositiveInt = Field(description="side of the centre crop, in pixels")
    encoder: Literal["identity", "autoencoder-kl"] = Field(description="pixels to latent moments")
    encoder_path: str | None = Field(description="diffusers folder of the autoencoder")
    latent_scale: float = Field(gt=0, description="factor from raw latents to what the transformer sees (0.18215 for SD-VAE)")
    flip: bool = Field(description="store mirrored moments too and draw one view per visit")
    shard_images: PositiveInt = Field(description="images in one shard file")
    max_corrupt_share: Share = Field(description="share of unreadable images above which preparation stops")
    validation_images: Count = Field(description="images held out from training")
    split_seed: Count = Field(description="seed of the train/validation split")


class DiffusionSection(Section):
    """Published DiT diffusion: linear schedule, epsilon prediction, learned-range variance with the VB term."""

    timesteps: PositiveInt = Field(description="steps of the forward process")
    beta_start: float = Field(gt=0, lt=1, description="first variance of the linear schedule")
    beta_end: float = Field(gt=0, lt=1, description="last variance of the linear schedule")
    label_dropout: Share = Field(description="probability that a label becomes the null class")


class OptimizerSection(Section):
    """AdamW with a constant learning rate, no warm-up, no clipping (as published for DiT)."""

    betas: tuple[float, float] = Field(description="decay rates of the two moments")
    eps: float = Field(gt=0, description="added to the root of the second moment")
    weight_decay: float = Field(ge=0, description="base weight decay")
    precision: Literal["fp32", "tf32", "bf16"] = Field(description="matrix products of forward and backward pass; weights are fp32")


class ValidationSection(Section):
    """The fixed (image, t, noise) set behind every validation loss."""

    images: PositiveInt = Field(description="held-out images, the first of the validation split")
    draws: PositiveInt = Field(description="(t, noise) pairs per image")
    seed: Count = Field(description="seed of t and noise")


class CoordCheckSection(Section):
    """The gate: do activations keep their size as width grows?"""

    widths: list[PositiveInt] = Field(min_length=3, description="model widths, in channels")
    steps: PositiveInt = Field(description="optimizer steps after initialisation")
    seeds: list[Count] = Field(min_length=2, description="seeds of initialisation and batch")
    batch_size: PositiveInt = Field(description="images")
    log2_lr: Log2 = Field(description="base learning rate")
    tolerance: float = Field(gt=0, description="largest |d log2 rms / d log2 width| that counts as flat")
    confidence: float = Field(gt=0, lt=1, description="level of the slopes' intervals")


class WidthAxis(Section):
    """Algorithm 1: batch size and steps fixed."""

    width: list[PositiveInt] = Field(min_length=2, description="model widths, in channels")
    batch_size: PositiveInt = Field(description="images per step")
    steps: PositiveInt = Field(description="optimizer steps")


class BatchAxis(Section):
    """Algorithm 2: width and steps fixed."""

    width: PositiveInt = Field(description="model width, in channels")
    batch_size: list[PositiveInt] = Field(min_length=2, description="images per step")
    steps: PositiveInt = Field(description="optimizer steps")


class StepAxis(Section):
    """Algorithm 3: width and batch size fixed; the learning rate is constant, so one run serves all horizons."""

    width: PositiveInt = Field(description="model width, in channels")
    batch_size: PositiveInt = Field(description="images per step")
    steps: list[PositiveInt] = Field(min_length=2, description="optimizer steps")


class TunedSetting(Section):
    """A sweep at the target's own width: what muP saves, paid here once to measure regret and to tune the baselines."""

    width: PositiveInt = Field(description="model width, in channels")
    batch_size: PositiveInt = Field(description="images per step")
    steps: PositiveInt = Field(description="optimizer steps")
    schemes: list[SchemeName] = Field(description="arms that are swept at this width")


class SweepSection(Section):
    """Learning-rate grids for Algorithms 1 to 3 under each scheme."""

    schemes: list[SchemeName] = Field(min_length=1, description="parametrizations")
    log2_lr: list[Log2] = Field(min_length=2, description="first grid of base learning rates")
    log2_lr_min: Log2 = Field(description="the grid never grows below this")
    log2_lr_max: Log2 = Field(description="the grid never grows above this")
    seeds: list[Count] = Field(min_length=1, description="the first walks the grid, all measure the points that decide")
    divergence_factor: float = Field(gt=1, description="multiple of the first loss at which a run has diverged")
    widths: WidthAxis = Field(description="Algorithm 1")
    batch_sizes: BatchAxis = Field(description="Algorithm 2")
    steps: StepAxis = Field(description="Algorithm 3")
    tuned: TunedSetting = Field(description="sweep at the target width")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if sorted(set(self.log2_lr)) != self.log2_lr:
            raise ValueError("log2_lr must be ascending and without repeats")
        gaps = {round(b - a, 9) for a, b in zip(self.log2_lr, self.log2_lr[1:], strict=False)}
        if len(gaps) > 1:
            raise ValueError("log2_lr must be evenly spaced")
        if self.log2_lr[0] < self.log2_lr_min or self.log2_lr[-1] > self.log2_lr_max:
            raise ValueError("log2_lr must lie between log2_lr_min and log2_lr_max")
        return self


class SelectSection(Section):
    """Optimum, interval, drift and verdict from the sweep's records."""

    confidence: float = Field(gt=0, lt=1, description="level of the intervals")
    tolerance: float = Field(gt=0, description="largest |drift|, in log2 lr per doubling, that counts as transfer")


class TransferSection(Section):
    """Algorithm 4: the proxy whose best base learning rate the target uses."""

    proxy_width: PositiveInt = Field(description="one of sweep.widths.width")
    proxy_batch_size: PositiveInt = Field(description="images per step of the proxy")
    proxy_steps: PositiveInt = Field(description="optimizer steps of the proxy")


class Arm(Section):
    """One way to train the target."""

    scheme: SchemeName = Field(description="parametrization and initialisation")
    log2_lr: Log2 | Literal["transferred", "tuned"] = Field(
        description="a number, `transferred` from the proxy, or `tuned` by the arm's own sweep at the target width"
    )


class TrainSection(Section):
    """The target runs."""

    width: PositiveInt = Field(description="model width, in channels")
    batch_size: PositiveInt = Field(description="images per step, over all ranks")
    steps: PositiveInt = Field(description="optimizer steps")
    seeds: list[Count] = Field(min_length=1, description="one run per arm and seed")
    ema_decay: float = Field(ge=0, lt=1, description="decay of the weight average, per step")
    eval_every: PositiveInt = Field(description="steps between validation losses")
    checkpoint_every: PositiveInt = Field(description="steps between checkpoints")
    keep_checkpoints: PositiveInt = Field(description="newest checkpoints kept while a run is unfinished")
    arms: dict[str, Arm] = Field(min_length=1, description="name -> how to train")


class SampleSection(Section):
    """Images from the target's EMA weights."""

    train_seeds: list[Count] = Field(min_length=1, description="seeds of train.seeds whose runs are sampled and evaluated")
    images: PositiveInt = Field(description="images per run, balanced over classes")
    sampler: Literal["ddpm", "dpm-solver++"] = Field(description="ancestral with learned variance, or the ODE solver")
    steps: PositiveInt = Field(description="network evaluations per image")
    guidance: float = Field(ge=1, description="classifier-free guidance scale; 1 is none")
    guide_channels: Literal["all", "first-three"] = Field(description="`first-three` repeats the published code's quirk")
    seed: Count = Field(description="image i uses noise (seed, i) whatever the batch size or process count")
    batch_size: PositiveInt = Field(description="images per forward pass")


class EvaluateSection(Section):
    """Metrics through torch-fidelity."""

    extractor: str = Field(description="registered feature extractor: digits-cnn, efficientnet-lite0, inception-v3-compat")
    kid_subsets: PositiveInt = Field(description="subsets of the kernel distance")
    kid_subset_size: PositiveInt = Field(description="images in one subset")
    neighbours: PositiveInt = Field(description="k of precision and recall")


class ReportSection(Section):
    """The HTML page."""

    title: str = Field(description="heading of the page")


class Experiment(Section):
    """One model family on one data set, from data to report."""

    model: ModelSection = Field(description="architecture")
    data: DataSection = Field(description="images and latents")
    diffusion: DiffusionSection = Field(description="process and objective")
    optimizer: OptimizerSection = Field(description="AdamW")
    validation: ValidationSection = Field(description="fixed validation set")
    coordcheck: CoordCheckSection = Field(description="the gate")
    sweep: SweepSection = Field(description="proxy sweeps")
    select: SelectSection = Field(description="optimum and certificate")
    transfer: TransferSection = Field(description="Algorithm 4")
    train: TrainSection = Field(description="target runs")
    sample: SampleSection = Field(description="images from the target")
    evaluate: EvaluateSection = Field(description="metrics")
    report: ReportSection = Field(description="the page")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        widths = {
            "coordcheck.widths": self.coordcheck.widths,
            "sweep.widths.width": self.sweep.widths.width,
            "sweep.batch_sizes.width": [self.sweep.batch_sizes.width],
            "sweep.steps.width": [self.sweep.steps.width],
            "sweep.tuned.width": [self.sweep.tuned.width],
            "train.width": [self.train.width],
        }
        for where, values in widths.items():
            for width in values:
                if width % self.model.head_dim:
                    raise ValueError(f"{where}: width {width} is not a multiple of model.head_dim {self.model.head_dim}")
        if self.transfer.proxy_width not in self.sweep.widths.width:
            raise ValueError(
                f"transfer.proxy_width {self.transfer.proxy_width} is not one of sweep.widths {self.sweep.widths.width}"
            )
        for seed in self.sample.train_seeds:
            if seed not in self.train.seeds:
                raise ValueError(f"sample.train_seeds: {seed} is not in train.seeds {self.train.seeds}")
        for name, arm in self.train.arms.items():
            if arm.log2_lr == "tuned" and arm.scheme not in self.sweep.tuned.schemes:
                raise ValueError(f"train.arms.{name}: no sweep tunes it; add {arm.scheme} to sweep.tuned.schemes")
            if arm.log2_lr == "transferred" and arm.scheme not in self.sweep.schemes:
                raise ValueError(f"train.arms.{name}: nothing to transfer; add {arm.scheme} to sweep.schemes")
        return self


class Config(Section):
    """The whole file."""

    study: str = Field(description="the study to run")
    studies: dict[str, list[str]] = Field(description="study -> experiments")
    experiments: dict[str, Experiment] = Field(description="name -> experiment")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.study not in self.studies:
            raise ValueError(f"study: {self.study!r} is not one of {sorted(self.studies)}")
        for study, names in self.studies.items():
            for name in names:
                if name not in self.experiments:
                    raise ValueError(f"studies.{study}: no experiment named {name!r}; there are {sorted(self.experiments)}")
        return self
