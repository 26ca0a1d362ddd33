"""DiT and its blocks: shapes, the published layout, and timm's blocks as a second opinion."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mudit.errors import ConfigError
from mudit.models.blocks import Attention, Mlp, PatchEmbed, gelu_tanh, position_embedding, timestep_features, unpatchify
from mudit.models.families import build
from mudit.models.flops import forward_macs


def _randomised(module):
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, 0, 0.2)
    return module


def test_blocks_agree_with_timm():
    from timm.layers import Attention as TimmAttention
    from timm.layers import Mlp as TimmMlp
    from timm.layers import PatchEmbed as TimmPatchEmbed

    x = torch.randn(3, 16, 32)
    ours, timms = _randomised(Attention(32, 4)), TimmAttention(32, num_heads=4, qkv_bias=True)
    timms.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x), timms(x), rtol=1e-5, atol=1e-5)
    ours, timms = _randomised(Mlp(32, 64)), TimmMlp(32, 64, act_layer=lambda: torch.nn.GELU(approximate="tanh"))
    timms.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x), timms(x), rtol=1e-5, atol=1e-5)
    ours, timms = _randomised(PatchEmbed(2, 3, 32)), TimmPatchEmbed(8, 2, 3, 32)
    timms.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(ours(images), timms(images), rtol=1e-5, atol=1e-5)


def test_gelu_and_its_gradient_are_torchs():
    x = torch.linspace(-12, 12, 4001, requires_grad=True)
    twin = x.detach().clone().requires_grad_()
    ours, torchs = gelu_tanh(x), torch.nn.functional.gelu(twin, approximate="tanh")
    torch.testing.assert_close(ours, torchs, rtol=1e-5, atol=1e-6)
    weights = torch.linspace(1, 2, 4001)
    (ours * weights).sum().backward()
    (torchs * weights).sum().backward()
    torch.testing.assert_close(x.grad, twin.grad, rtol=1e-5, atol=1e-5)


def test_long_sequences_take_the_fused_kernel_and_agree():
    module = _randomised(Attention(32, 4))
    x = torch.randn(2, 65, 32)
    padded = module(x)
    q, k, v = module.qkv(x).view(2, 65, 3, 4, 8).permute(2, 0, 3, 1, 4)
    by_hand = (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1) @ v
    torch.testing.assert_close(padded, module.proj(by_hand.transpose(1, 2).reshape(2, 65, 32)), rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=25)
@given(
    side=st.integers(1, 4),
    patch=st.sampled_from([1, 2, 4]),
    channels=st.integers(1, 4),
    lead=st.lists(st.integers(1, 3), max_size=2),
)
def test_unpatchify_inverts_cutting_into_patches(side, patch, channels, lead):
    image = torch.randn(*lead, channels, side * patch, side * patch)
    tokens = image.unflatten(-2, (side, patch)).unflatten(-1, (side, patch))  # ..., c, rows, p, columns, p
    n = len(lead)
    tokens = tokens.permute(*range(n), n + 1, n + 3, n + 2, n + 4, n).reshape(*lead, side * side, patch * patch * channels)
    assert torch.equal(unpatchify(tokens, patch, channels), image)


def test_timestep_features_are_cosines_then_sines():
    features = timestep_features(torch.tensor([0, 7]), 8)
    assert features[0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert features[1, 0].item() == pytest.approx(torch.tensor(7.0).cos().item())
    assert features[1, 7].item() == pytest.approx(torch.tensor(7.0 * 1e-3).sin().item(), rel=1e-4)


@pytest.mark.parametrize("width", [16, 18, 72])
def test_positions_are_distinct(width):
    embedding = position_embedding(width, 4)
    assert embedding.shape == (16, width) and len(embedding.unique(dim=0)) == 16


def test_parameter_names_are_those_of_the_published_checkpoints(desk):
    names = {name for name, _ in build(desk.model, 32).named_parameters()}
    expected = {"x_embedder.proj", "t_embedder.mlp.0", "t_embedder.mlp.2", "final_layer.linear", "final_layer.adaLN_modulation.1"}
    for block in range(desk.model.depth):
        expected |= {f"blocks.{block}.{leaf}" for leaf in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "adaLN_modulation.1")}
    assert names == {f"{name}.{kind}" for name in expected for kind in ("weight", "bias")} | {"y_embedder.embedding_table.weight"}


def test_output_has_noise_and_variance_channels(desk):
    model = build(desk.model, 16)
    out = model(torch.randn(5, 1, 8, 8), torch.randint(0, 1000, (5,)), torch.randint(0, 11, (5,)))
    assert out.shape == (5, 2, 8, 8)
    stacked = model(torch.randn(2, 3, 1, 8, 8), torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3, dtype=torch.long))
    assert stacked.shape == (2, 3, 2, 8, 8)


@pytest.mark.parametrize("width", [0, -8, 12, 100])
def test_a_width_that_no_number_of_heads_gives_is_refused(desk, width):
    with pytest.raises(ConfigError, match=f"width {width} is not a positive multiple of model.head_dim 8"):
        build(desk.model, width)


def test_flops_of_dit_xl_2_are_the_published_118_6_gmac(desk):
    section = desk.model.model_copy(
        update={"depth": 28, "head_dim": 72, "patch_size": 2, "image_size": 32, "channels": 4, "num_classes": 1000}
    )
    assert round(forward_macs(section, 1152) / 1e9, 1) == 118.6


def test_flop_count_matches_torchs_counter(desk):
    from torch.utils.flop_counter import FlopCounterMode

    model = build(desk.model, 64)
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(3, 1, 8, 8), torch.zeros(3, dtype=torch.long), torch.zeros(3, dtype=torch.long))
    assert counter.get_total_flops() == 3 * 2 * forward_macs(desk.model, 64)
