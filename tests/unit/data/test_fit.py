"""A store and a model that do not fit together are told apart in one line that names both sides."""

from __future__ import annotations

import pytest

from mudit.config.models import DiTSection, ExternalSection, MMDiTSection, PixArtSection, UViTSection
from mudit.data.fit import check_fits
from mudit.data.format import StoreInfo
from mudit.errors import DataError

BASE = {"image_size": 8, "channels": 3, "head_dim": 8, "base_width": 32, "delta_width": 40, "output_mult": 1.0}
SIZES = BASE | {"depth": 2, "patch_size": 2, "mlp_ratio": 4}
TEXT = {"text_dim": 384, "max_tokens": 20}
ALIGNMENT = {"after_blocks": 1, "hidden": 16, "features": 112}

DIT = DiTSection.model_validate(SIZES | {"family": "dit", "num_classes": 2})
PIXART = PixArtSection.model_validate(SIZES | TEXT | {"family": "pixart"})
UVIT = UViTSection.model_validate(SIZES | TEXT | {"family": "uvit", "num_classes": None, "final_conv": False})
UVIT_LABELS = UVIT.model_copy(update={"num_classes": 2, "text_dim": None, "max_tokens": None})
MMDIT = MMDiTSection.model_validate(
    SIZES
    | {
        "family": "mmdit",
        "text_dim": 384,
        "pooled_dim": 64,
        "max_tokens": 20,
        "qk_norm": True,
        "position_table": None,
        "alignment": ALIGNMENT,
    }
)
FAMILIES = {"dit": DIT, "pixart": PIXART, "uvit": UVIT, "uvit-labels": UVIT_LABELS, "mmdit": MMDIT}

STORE = StoreInfo.model_validate(
    {
        "format": "mudit-latents",
        "version": 4,
        "source": {"name": "x"},
        "encoder": {"name": "identity"},
        "latent_shape": (3, 8, 8),
        "latent_scale": 1.0,
        "latent_shift": 0.0,
        "moments": "float32",
        "has_std": False,
        "flip": False,
        "num_classes": 2,
        "class_names": ["a", "b"],
        "text": {"token_dim": 384, "pooled_dim": 64, "max_tokens": 20, "cut": 0, "storage": "float16", "relative_error": 0.0}
        | {"section": None, "encoders": {}, "subjects": None},
        "features": {"grid": 4, "dim": 112, "encoder": {}},
        "splits": {},
        "corrupt": {"count": 0, "without_caption": 0, "names": [], "file": None, "unused_captions": 0, "unlisted_images": 0},
    }
)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_fits(name, tmp_path):
    check_fits(tmp_path, STORE, FAMILIES[name])


@pytest.mark.parametrize("name", ["dit", "uvit-labels"])
def test_models_of_labels_need_no_text(name, tmp_path):
    check_fits(tmp_path, STORE.model_copy(update={"text": None, "features": None}), FAMILIES[name])


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("dit", {"image_size": 16}, r"latents are \(3, 8, 8\) \(C, H, W\), the model section wants \(3, 16, 16\)"),
        ("dit", {"channels": 1}, r"the model section wants \(1, 8, 8\)"),
        ("dit", {"num_classes": 3}, r"2 classes, model\.num_classes is 3"),
        ("pixart", {"text_dim": 4096}, r"text_dim 384, model\.text_dim is 4096"),
        ("pixart", {"max_tokens": 120}, r"max_tokens 20, model\.max_tokens is 120; .*data\.captions\.max_tokens"),
        ("uvit", {"max_tokens": 77}, r"max_tokens 20, model\.max_tokens is 77"),
        ("mmdit", {"pooled_dim": 2048}, r"pooled_dim 64, model\.pooled_dim is 2048"),
        ("mmdit", {"patch_size": 4}, r"grid of side 4, the model has 2x2 patches; set data\.features\.grid"),
        (
            "mmdit",
            {"alignment": MMDIT.alignment.model_copy(update={"features": 768})},
            r"112 wide, model\.alignment\.features is 768",
        ),
    ],
)
def test_what_does_not_fit(name, change, message, tmp_path):
    with pytest.raises(DataError, match=message) as caught:
        check_fits(tmp_path / "store.json", STORE, FAMILIES[name].model_copy(update=change))
    assert "\n" not in str(caught.value)
    assert "store.json" in str(caught.value)


@pytest.mark.parametrize("name", ["pixart", "uvit", "mmdit"])
def test_models_of_captions_need_text(name, tmp_path):
    with pytest.raises(DataError, match=r"no captions.*data\.captions"):
        check_fits(tmp_path, STORE.model_copy(update={"text": None}), FAMILIES[name])


def test_alignment_needs_image_features(tmp_path):
    without = STORE.model_copy(update={"features": None})
    with pytest.raises(DataError, match=r"no image features.*data\.features"):
        check_fits(tmp_path, without, MMDIT)
    check_fits(tmp_path, without, MMDIT.model_copy(update={"alignment": None}))


def test_a_model_of_your_own_that_reads_captions_needs_text(tmp_path):
    own = ExternalSection.model_validate(
        BASE
        | {
            "family": "external",
            "factory": "package.module:factory",
            "width_argument": "width",
            "width_unit": 1,
            "options": {},
            "call": None,
            "num_classes": None,
            "text_dim": 384,
            "pooled_dim": None,
            "max_tokens": 20,
            "learned_variance": False,
            "zero_readout": True,
            "seed": 0,
        }
    )
    check_fits(tmp_path, STORE, own)
    with pytest.raises(DataError, match=r"no captions, and model external reads them; set data\.captions"):
        check_fits(tmp_path, STORE.model_copy(update={"text": None}), own)
