"""Sections of `config.yaml` that describe architectures, one class each. Depth and head size are fixed; heads make the width."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic.json_schema import SkipJsonSchema

from mudit.config.base import Count, PositiveInt, Section

CALLABLE = r"^\w+(\.\w+)*:\w+(\.\w+)*$"  # `package.module:name`, as `import` spells it


class ModelSection(Section):
    """What every family has."""

    family: str = Field(description="architecture")
    image_size: PositiveInt = Field(description="side of the transformer's input, in latent pixels")
    channels: PositiveInt = Field(description="channels of the transformer's input")
    head_dim: PositiveInt = Field(description="channels of one attention head, the same at every width")
    base_width: PositiveInt = Field(description="width at which muP and the plain model coincide (width multiplier 1)")
    delta_width: PositiveInt = Field(description="second width, used only to tell infinite dimensions from finite ones")
    output_mult: float = Field(gt=0, description="width-free multiplier of the readout, a base hyperparameter")

    @property
    def conditioning(self) -> Literal["label", "text"]:
        """What the model is conditioned on."""
        return "label" if getattr(self, "num_classes", None) is not None else "text"

    @property
    def learns_variance(self) -> bool:
        """Whether the output has 2C channels: noise and the variance's interpolation."""
        return False

    @model_validator(mode="after")
    def _widths_fit(self) -> Self:
        for name in ("base_width", "delta_width"):
            width = getattr(self, name)
            if width % self.head_dim:
                raise ValueError(f"{name} {width} is not a multiple of head_dim {self.head_dim}")
        if self.base_width == self.delta_width:
            raise ValueError(f"delta_width must differ from base_width (both are {self.base_width})")
        return self


class TransformerSection(ModelSection):
    """What our own families share."""

    depth: PositiveInt = Field(description="transformer blocks (U-ViT: without the middle one)")
    patch_size: PositiveInt = Field(description="side of a patch, in latent pixels")
    mlp_ratio: PositiveInt = Field(description="hidden width of the MLP over model width")

    @model_validator(mode="after")
    def _patches_fit(self) -> Self:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        return self


class DiTSection(TransformerSection):
    """DiT with adaLN, conditioned on labels (Peebles & Xie 2023)."""

    family: Literal["dit"] = Field(description="architecture")
    num_classes: PositiveInt = Field(description="classes, without the null class of guidance")

    @property
    def learns_variance(self) -> bool:
        return True


class PixArtSection(TransformerSection):
    """PixArt-α: adaLN-single and cross-attention to captions (Chen et al. 2023)."""

    family: Literal["pixart"] = Field(description="architecture")
    text_dim: PositiveInt = Field(description="width of the text encoder's token features")
    max_tokens: PositiveInt = Field(description="longest caption, in tokens")
    # No key of the file: `published.switches` sets it (mudit.config.published).
    frozen_null_caption: SkipJsonSchema[bool] = Field(default=False, exclude_if=lambda on: not on)

    @property
    def learns_variance(self) -> bool:
        return True


class UViTSection(TransformerSection):
    """U-ViT: every input is a token, with long skips (Bao et al. 2023). One condition: labels or captions."""

    family: Literal["uvit"] = Field(description="architecture")
    final_conv: bool = Field(description="a 3x3 convolution behind the readout")
    num_classes: PositiveInt | None = Field(description="classes, without the null class; null for captions")
    text_dim: PositiveInt | None = Field(description="width of the text encoder's token features; null for labels")
    max_tokens: PositiveInt | None = Field(description="length to which captions are padded; null for labels")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.num_classes is None) == (self.text_dim is None) or (self.text_dim is None) != (self.max_tokens is None):
            raise ValueError("give either num_classes, or text_dim and max_tokens, and null for the others")
        if self.depth % 2:
            raise ValueError(f"depth {self.depth} does not split into two halves around the middle block")
        return self


class AlignmentSection(Section):
    """REPA's projector (Yu et al. 2025): an intermediate layer's image tokens onto an image encoder's features."""

    after_blocks: PositiveInt = Field(description="blocks before the projected layer (published: 8)")
    hidden: PositiveInt = Field(description="hidden width of the projector, the same at every model width (published: 2048)")
    features: PositiveInt = Field(description="width of the image encoder's features")


class MMDiTSection(TransformerSection):
    """MMDiT of Stable Diffusion 3: two streams with joint attention (Esser et al. 2024)."""

    family: Literal["mmdit"] = Field(description="architecture")
    text_dim: PositiveInt = Field(description="width of the text encoder's token features")
    pooled_dim: PositiveInt = Field(description="width of the pooled caption")
    max_tokens: PositiveInt = Field(description="longest caption, in tokens")
    qk_norm: bool = Field(description="RMS norms on queries and keys")
    position_table: PositiveInt | None = Field(description="side of the position table whose centre is used; null: the image's own")
    alignment: AlignmentSection | None = Field(description="REPA; null: none")

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        side = self.image_size // self.patch_size
        if self.position_table is not None and self.position_table < side:
            raise ValueError(f"position_table {self.position_table} is smaller than the image's own {side} patches a side")
        if self.alignment is not None and self.alignment.after_blocks > self.depth:
            raise ValueError(f"alignment.after_blocks {self.alignment.after_blocks}: the model has {self.depth} blocks")
        return self


def without_projector(section: ModelSection) -> ModelSection:
    """The section of the same model as it is used: REPA's projector is there for training alone."""
    return section.model_copy(update={"alignment": None}) if isinstance(section, MMDiTSection) else section


class ExternalSection(ModelSection):
    """A model of your own: any factory of modules with a width argument. docs/own-model.md walks through two examples."""

    family: Literal["external"] = Field(description="architecture")
    factory: str = Field(
        pattern=CALLABLE,
        description="`package.module:callable`, from the working directory or an installed package; called with the width and "
        "`options` by name, returns a `torch.nn.Module`",
    )
    width_argument: str = Field(description="name of the factory's width argument")
    width_unit: PositiveInt = Field(description="channels per unit of that argument: 1 for channels, head_dim for heads")
    options: dict[str, Any] = Field(description="further keyword arguments of the factory; {} for none")
    call: str | None = Field(
        pattern=CALLABLE,
        description="`package.module:callable` with (model, x, t, condition) -> output; null: the model is called so itself",
    )
    num_classes: PositiveInt | None = Field(description="classes, without the null class of guidance; null for captions")
    text_dim: PositiveInt | None = Field(description="width of the text encoder's token features; null for labels")
    pooled_dim: PositiveInt | None = Field(description="width of the pooled caption; null for labels, or if the model reads none")
    max_tokens: PositiveInt | None = Field(description="length to which captions are padded; null for labels")
    learned_variance: bool = Field(description="the output has 2C channels: noise and the variance's interpolation")
    zero_readout: bool = Field(
        description="under muP, weights that map from width to no width start at zero, as in the paper's models; false: as the "
        "factory draws them, and then their output at init falls as the root of the width, which the gate refuses"
    )
    seed: Count = Field(description="seed under which the factory draws the weights whose scale is the base initialisation")

    @model_validator(mode="after")
    def _conditions_fit(self) -> Self:
        text = (self.text_dim, self.max_tokens)
        if (self.num_classes is None) == (self.text_dim is None) or text.count(None) == 1:
            raise ValueError("give either num_classes, or text_dim and max_tokens, and null for the others")
        if self.pooled_dim is not None and self.text_dim is None:
            raise ValueError("pooled_dim: belongs to captions, and the model is conditioned on labels; set it to null")
        if self.head_dim % self.width_unit:
            raise ValueError(f"width_unit: {self.width_unit} does not divide head_dim {self.head_dim}; make one fit the other")
        inner = self.options.get("attention_head_dim", self.head_dim)  # the name that diffusers' transformers give it
        if isinstance(inner, int) and inner != self.head_dim:
            raise ValueError(f"options: attention_head_dim {inner} is not model.head_dim {self.head_dim}; make them equal")
        if self.width_argument in self.options:
            raise ValueError(f"options: {self.width_argument!r} is model.width_argument, set by the width; leave it out")
        return self

    @property
    def learns_variance(self) -> bool:
        return self.learned_variance


AnyModel = Annotated[
    DiTSection | PixArtSection | UViTSection | MMDiTSection | ExternalSection,
    Field(discriminator="family"),
]
