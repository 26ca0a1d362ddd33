"""What leaves and comes back is what it was, for any small architecture of each family."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from mudit.config.models import DiTSection, MMDiTSection, PixArtSection, UViTSection
from mudit.config.schema import GaussianSection
from mudit.errors import ConfigError
from mudit.interchange.architecture import Stated
from mudit.interchange.diffusers_folder import Surroundings, write_diffusers
from mudit.interchange.imported import read_description, section_of_folder
from mudit.interchange.importer import Wish, import_checkpoint
from mudit.interchange.plain import Weights, write_plain
from mudit.models.families import build

from .conftest import randomise

EXAMPLES = settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
_PROCESS = {"kind": "gaussian", "timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "variance": "learned-range"}
DIFFUSION = GaussianSection(**_PROCESS, condition_dropout=0.1, alignment_weight=0.0)
PIXELS = Surroundings(autoencoder=None, latent_scale=1.0, latent_shift=0.0, class_names=[], text_encoder=None)


@st.composite
def architectures(draw, family, mlp_ratios=(1, 2, 4), head_dims=(4, 6, 8)):
    """A section and a width of a family, all sizes small."""
    head_dim, patch = draw(st.sampled_from(head_dims)), draw(st.sampled_from([1, 2]))
    heads = draw(st.integers(1, 3))
    sizes = {
        "family": family,
        "head_dim": head_dim,
        "patch_size": patch,
        "image_size": patch * draw(st.integers(1, 4)),
        "channels": draw(st.integers(1, 4)),
        "depth": draw(st.integers(1, 3)) * (2 if family == "uvit" else 1),
        "mlp_ratio": draw(st.sampled_from(mlp_ratios)),
        "base_width": head_dim * heads,
        "delta_width": head_dim * (heads + 1),
        "output_mult": 1.0,
    }
    text = {"text_dim": draw(st.integers(1, 9)), "max_tokens": draw(st.integers(1, 6))}
    labels = {"num_classes": draw(st.integers(1, 12))}
    none = {"num_classes": None, "text_dim": None, "max_tokens": None}
    if family == "dit":
        return DiTSection(**sizes, **labels), head_dim * heads
    if family == "pixart":
        return PixArtSection(**sizes, **text), head_dim * heads
    if family == "uvit":
        condition = draw(st.sampled_from([labels, text]))
        return UViTSection(**sizes, **(none | condition), final_conv=draw(st.booleans())), head_dim * heads
    table = draw(st.sampled_from([None, 5, 8]))
    return (
        MMDiTSection(
            **sizes, **text, pooled_dim=draw(st.integers(1, 9)), qk_norm=draw(st.booleans()), position_table=table, alignment=None
        ),
        head_dim * heads,
    )  # fmt: skip


def _there_and_back(section, width, seed, write):
    model = randomise(build(section, width), seed)
    state = {name: parameter.detach() for name, parameter in model.named_parameters()}
    with tempfile.TemporaryDirectory() as root:
        out, back = Path(root, "out"), Path(root, "back")
        out.mkdir()
        write(Weights(section, width, "ema", state), out)
        import_checkpoint(Wish(out, section.family, "sp", Stated(), None), back)
        found = load_file(back / "ema.safetensors")
        described = section_of_folder(back, read_description(back))
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)
    table = getattr(section, "position_table", None)
    # A table of the image's own size is no larger table, and says so.
    same_positions = {"position_table": None} if table == section.image_size // section.patch_size else {}
    assert described == section.model_copy(update=same_positions)


@pytest.mark.parametrize("family", ["dit", "pixart", "uvit", "mmdit"])
@EXAMPLES
@given(data=st.data(), seed=st.integers(0, 1000))
def test_plain_weights_come_back_as_they_were(family, data, seed):
    section, width = data.draw(architectures(family))
    _there_and_back(section, width, seed, write_plain)


@pytest.mark.parametrize("family", ["dit", "pixart"])
@settings(parent=EXAMPLES, max_examples=6)
@given(data=st.data(), seed=st.integers(0, 1000))
def test_diffusers_folders_come_back_as_they_were(family, data, seed):
    section, width = data.draw(architectures(family, mlp_ratios=(4,), head_dims=(4, 8)))
    _there_and_back(section, width, seed, lambda weights, out: write_diffusers(weights, DIFFUSION, PIXELS, out))


@pytest.mark.parametrize(
    ("changes", "width", "message"),
    [
        ({"head_dim": 6}, 6, "width 6: diffusers' position table needs a multiple of 4; use --format safetensors"),
        ({"mlp_ratio": 2}, 8, r"model\.mlp_ratio 2: diffusers' class has 4 alone; use --format safetensors"),
        ({"num_classes": 1001}, 8, r"model\.num_classes 1001: DiTPipeline's null class is 1000; use --format safetensors"),
    ],
)
def test_what_diffusers_cannot_express_is_said(changes, width, message, tmp_path):
    sizes = {"head_dim": 8, "patch_size": 2, "image_size": 4, "channels": 1, "depth": 1, "mlp_ratio": 4, "num_classes": 3} | changes
    section = DiTSection(family="dit", **sizes, base_width=width, delta_width=2 * width, output_mult=1.0)
    state = {name: parameter.detach() for name, parameter in build(section, width).named_parameters()}
    with pytest.raises(ConfigError, match=message):
        write_diffusers(Weights(section, width, "ema", state), DIFFUSION, PIXELS, tmp_path)
    assert list(tmp_path.iterdir()) == []
