"""Does a store have what a model reads? One-line errors that name both sides."""

from __future__ import annotations

from pathlib import Path

from mudit.config.models import MMDiTSection, ModelSection
from mudit.data.format import StoreInfo, TextInfo, making
from mudit.errors import DataError


def check_fits(path: Path, info: StoreInfo, model: ModelSection) -> None:
    """Raises DataError unless latents, classes, captions and image features of the store are what the model section says.

    path: where the store's description lies, for the message.
    """
    check_latents(path, info, model)
    if model.conditioning == "label":
        classes = getattr(model, "num_classes", None)
        if info.num_classes != classes:
            raise DataError(f"{path}: {info.num_classes} classes, model.num_classes is {classes}; make them equal")
    elif info.text is not None:
        _check_text(path, info.text, model)
    else:
        raise DataError(
            f"{path}: no captions, and model {model.family} reads them; set data.captions and run: {making(path.parent)}"
        )
    if isinstance(model, MMDiTSection) and model.alignment is not None:
        _check_features(path, info, model)


def check_latents(path: Path, info: StoreInfo, model: ModelSection) -> None:
    """Raises DataError unless the latents have the model's size; whatever else it reads is not looked at."""
    expected = (model.channels, model.image_size, model.image_size)
    if info.latent_shape != expected:
        raise DataError(
            f"{path}: latents are {info.latent_shape} (C, H, W), the model section wants {expected}; "
            "set model.channels and model.image_size, or prepare other data"
        )


def _check_text(path: Path, text: TextInfo, model: ModelSection) -> None:
    # A section without a field takes any value: mmdit reads captions of any length, pixart and uvit ignore the pooled vector.
    for field, stored in (("text_dim", text.token_dim), ("pooled_dim", text.pooled_dim), ("max_tokens", text.max_tokens)):
        wanted = getattr(model, field, stored)
        if wanted is not None and stored != wanted:  # None: a model of your own that reads no pooled caption
            place = "data.captions.max_tokens" if field == "max_tokens" else "the text encoder"
            raise DataError(
                f"{path}: captions have {field} {stored}, model.{field} is {wanted}; set model.{field}, or change {place}"
            )


def _check_features(path: Path, info: StoreInfo, model: MMDiTSection) -> None:
    assert model.alignment is not None
    if info.features is None:
        raise DataError(
            f"{path}: no image features, and model.alignment needs them; set data.features and run: {making(path.parent)}"
        )
    if info.features.dim != model.alignment.features:
        raise DataError(
            f"{path}: image features are {info.features.dim} wide, model.alignment.features is {model.alignment.features}; "
            "make them equal"
        )
    patches = model.image_size // model.patch_size
    if info.features.grid != patches:
        raise DataError(
            f"{path}: image features lie on a grid of side {info.features.grid}, the model has {patches}x{patches} patches; "
            "set data.features.grid"
        )
