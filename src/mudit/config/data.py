"""Sections of `config.yaml` that describe data: where images and captions come from and how they enter the latent store."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mudit.config.base import Count, PositiveInt, Section, Share


class DigitsSource(Section):
    """Handwritten digits of scikit-learn: 1,797 grey images of 8x8."""

    kind: Literal["sklearn-digits"] = Field(description="where images come from")


class ClassFoldersSource(Section):
    """One sub-folder of images per class."""

    kind: Literal["class-folders"] = Field(description="where images come from")
    path: str = Field(description="folder, relative to the working directory")


class EmojiSource(Section):
    """Captioned emoji in several drawing styles, fetched by `mudit fetch emoji`. Held out by subject."""

    kind: Literal["emoji"] = Field(description="where images come from")
    styles: list[Literal["noto", "fluent-3d"]] = Field(
        min_length=1, description="drawing styles; only subjects drawn in all are used"
    )


class DatasetSource(Section):
    """Your own data, read by Hugging Face `datasets`."""

    kind: Literal["imagefolder", "webdataset", "parquet"] = Field(
        description="`imagefolder` (class folders, metadata.csv or .jsonl, or a .txt per image), tars, or Parquet files"
    )
    path: str = Field(description="folder of the files, relative to the working directory")
    image_column: str = Field(description="column of the image, such as `image` or `jpg`")
    caption_column: str | None = Field(description="column of the caption, such as `text` or `txt`; null: none")
    label_column: str | None = Field(description="column of the class, such as `label` or `cls`; null: one class")


class ImageNetTarsSource(Section):
    """ImageNet-1k as it is published: a tar of a thousand tars, one per class, read in place."""

    kind: Literal["imagenet-tars"] = Field(description="where images come from")
    path: str = Field(description="ILSVRC2012_img_train.tar, or the folder of the class tars n*.tar inside it")


class SA1BSource(Section):
    """SA-1B as it is published, `sa_*.tar` read in place, and captions of its images."""

    kind: Literal["sa-1b"] = Field(description="where images come from")
    path: str = Field(description="folder of the sa_*.tar files")
    captions: str = Field(description="captions: .parquet, .jsonl, or .tar.gz of one .txt per image; a file, or a folder of some")
    id_column: str = Field(description="column of the image's name, such as `__key__`; in a tar it is `__key__`")
    caption_column: str = Field(description="column of the caption, such as `txt`; in a tar it is `txt`")


AnySource = Annotated[
    DigitsSource | ClassFoldersSource | EmojiSource | DatasetSource | ImageNetTarsSource | SA1BSource, Field(discriminator="kind")
]


class TextEncoderSection(Section):
    """A text encoder of `transformers`."""

    name: Literal["minilm", "t5", "clip"] = Field(description="architecture; `minilm` comes as a package")
    path: str | None = Field(description="local folder of the model; null for the packaged one")


class CaptionSection(Section):
    """How captions enter the store: token features, ragged, and one pooled vector per caption."""

    tokens: TextEncoderSection = Field(description="encoder of the token features")
    pooled: TextEncoderSection = Field(description="encoder of the pooled vector; may be the same")
    max_tokens: PositiveInt = Field(description="captions are cut to this many tokens")
    storage: Literal["float16", "bfloat16", "int8", "on-the-fly"] = Field(
        description="type of the token features on disk (int8: with a scale per token); `on-the-fly`: only the captions are "
        "stored, and the encoders run when a batch is read"
    )


class FeatureSection(Section):
    """Image features per patch that REPA aligns with."""

    encoder: Literal["efficientnet-lite0", "dinov2"] = Field(description="image encoder; `efficientnet-lite0` comes as a package")
    encoder_path: str | None = Field(description="local folder of the encoder; null for the packaged one")
    grid: PositiveInt = Field(description="side of the grid of features: image_size / patch_size of the model")


class DataSection(Section):
    """Where images come from and how they enter the latent store."""

    source: AnySource = Field(description="images, labels, captions")
    share: float = Field(
        gt=0, le=1, description="share of the images to use, of each class alike; drawn by name and `split_seed`, small in large"
    )
    image_size: PositiveInt = Field(description="side of the centre crop, in pixels")
    encoder: Literal["identity", "autoencoder-kl"] = Field(description="pixels to latent moments")
    encoder_path: str | None = Field(description="diffusers folder of the autoencoder, or `organisation/name@revision` on the hub")
    encoder_sha256: str | None = Field(
        pattern=r"^[0-9a-f]{64}$", description="SHA-256 that its diffusion_pytorch_model.safetensors must have; null: not checked"
    )
    latent_scale: float = Field(
        gt=0, description="what the transformer sees is (raw latents - latent_shift) * latent_scale (0.18215 for SD-VAE)"
    )
    latent_shift: float = Field(allow_inf_nan=False, description="see latent_scale (0 for SD-VAE, 0.0609 for that of SD3)")
    moments: Literal["float32", "float16"] = Field(description="type of the latent moments on disk")
    flip: bool = Field(description="store mirrored moments too and draw one view per visit")
    captions: CaptionSection | None = Field(description="text features; null: none")
    features: FeatureSection | None = Field(description="image features for REPA; null: none")
    shard_images: PositiveInt = Field(description="images in one shard file")
    max_corrupt_share: Share = Field(
        description="share of images that cannot be used, unreadable or without a caption, above which preparation stops"
    )
    validation_images: Count = Field(description="images held out from training, by subject where the source has subjects")
    split_seed: Count = Field(description="seed of the train/validation split")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.flip and self.features is not None:
            raise ValueError("features of mirrored images are not stored; set flip to false or features to null")
        return self
