"""Published layouts: exact names and shapes both ways, and diffusers' classes as a second opinion on what the weights compute."""

from __future__ import annotations

import pytest
import torch

from mudit.config.presets import PRESETS
from mudit.errors import CheckpointError
from mudit.models.condition import TextCondition
from mudit.models.dit import DiT
from mudit.models.families import build
from mudit.models.layouts import diffusers as diffusers_layouts
from mudit.models.layouts import published
from mudit.models.mmdit import Alignment, MMDiT
from mudit.models.pixart import PixArt

DEPTH, WIDTH, TEXT, POOLED, TOKENS = 3, 32, 20, 14, 7
SIZES = {"width": WIDTH, "depth": DEPTH, "head_dim": 8, "patch_size": 2, "mlp_ratio": 4, "image_size": 8, "channels": 4}


def _generator():
    return torch.Generator().manual_seed(0)


def _with_random_weights(model):
    generator = _generator()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.15, generator=generator)
    return model.eval()


def _shapes(state):
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _inputs():
    generator = _generator()
    mask = torch.arange(TOKENS) < torch.tensor([[TOKENS], [3], [1]])
    condition = TextCondition(
        torch.randn(3, TOKENS, TEXT, generator=generator), mask, torch.randn(3, POOLED, generator=generator), torch.zeros(3).bool()
    )
    return torch.randn(3, 4, 8, 8, generator=generator), torch.tensor([0, 17, 999]), condition


def _moved(ours, layout, theirs):
    """Our weights loaded into their model; names and shapes must be theirs exactly, and come back as they were."""
    state = dict(ours.named_parameters())
    converted = layout.to_theirs(state)
    expected = {name: shape for name, shape in _shapes(theirs.state_dict()).items() if name not in layout.rebuilt}
    assert _shapes(converted) == expected
    back = layout.to_ours({**converted, **{name: torch.zeros(1) for name in layout.rebuilt}})
    assert back.keys() == {name for name in state if not name.startswith(layout.own)}
    assert all(torch.equal(back[name], state[name]) for name in back)
    result = theirs.load_state_dict(converted, strict=False)
    assert result.unexpected_keys == [] and set(result.missing_keys) == set(layout.rebuilt)
    return theirs.eval()


def _largest_difference(a, b):
    return (a - b).abs().max().item()


@torch.no_grad()
def test_dit_computes_what_diffusers_computes():
    from diffusers import DiTTransformer2DModel

    ours = _with_random_weights(DiT(**SIZES, num_classes=10))
    theirs = DiTTransformer2DModel(
        num_attention_heads=4, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=DEPTH, sample_size=8, patch_size=2,
        num_embeds_ada_norm=10, norm_eps=1e-6,
    )  # fmt: skip
    theirs = _moved(ours, diffusers_layouts.dit(DEPTH), theirs)
    for block in theirs.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0  # the published frequencies
    x, t, _ = _inputs()
    labels = torch.tensor([0, 9, 10])
    assert _largest_difference(ours(x, t, labels), theirs(x, timestep=t, class_labels=labels).sample) < 1e-5


@torch.no_grad()
def test_pixart_computes_what_diffusers_computes():
    from diffusers import PixArtTransformer2DModel

    ours = _with_random_weights(PixArt(**SIZES, text_dim=TEXT, max_tokens=TOKENS))
    theirs = PixArtTransformer2DModel(
        num_attention_heads=4, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=DEPTH, cross_attention_dim=WIDTH,
        sample_size=8, patch_size=2, caption_channels=TEXT, use_additional_conditions=False,
    )  # fmt: skip
    theirs = _moved(ours, diffusers_layouts.pixart(DEPTH), theirs)
    x, t, condition = _inputs()
    expected = theirs(x, encoder_hidden_states=condition.tokens, timestep=t, encoder_attention_mask=condition.mask).sample
    assert _largest_difference(ours(x, t, condition), expected) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("table", [4, 10])
def test_mmdit_computes_what_diffusers_computes(qk_norm, table):
    from diffusers import SD3Transformer2DModel

    ours = _with_random_weights(
        MMDiT(**SIZES, text_dim=TEXT, pooled_dim=POOLED, qk_norm=qk_norm, position_table=table, alignment=Alignment(1, 8, 6))
    )
    theirs = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=DEPTH, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=TEXT, caption_projection_dim=WIDTH, pooled_projection_dim=POOLED, pos_embed_max_size=table,
        qk_norm="rms_norm" if qk_norm else None,
    )  # fmt: skip
    theirs = _moved(ours, diffusers_layouts.sd3(DEPTH, qk_norm), theirs)
    x, t, condition = _inputs()
    condition = condition._replace(mask=torch.ones_like(condition.mask))  # diffusers masks no caption
    expected = theirs(x, encoder_hidden_states=condition.tokens, pooled_projections=condition.pooled, timestep=t).sample
    assert _largest_difference(ours(x, t, condition), expected) < 1e-5


@pytest.mark.parametrize("qk_norm", [False, True])
def test_the_single_file_layout_of_sd3_is_what_diffusers_converts_from(qk_norm):
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    ours = _with_random_weights(MMDiT(**SIZES, text_dim=TEXT, pooled_dim=POOLED, qk_norm=qk_norm))
    state = dict(ours.named_parameters())
    layout = published.sd3(state)
    file = {**layout.to_theirs(state), layout.rebuilt[0]: torch.zeros(1, 16, WIDTH)}
    assert all(torch.equal(value, state[name]) for name, value in layout.to_ours(file).items())
    converted = convert_sd3_transformer_checkpoint_to_diffusers(dict(file))
    converted.pop("pos_embed.pos_embed")
    direct = diffusers_layouts.sd3(DEPTH, qk_norm).to_theirs(state)
    assert converted.keys() == direct.keys()
    assert all(torch.equal(converted[name], direct[name]) for name in direct)


N = 1152  # width of the published checkpoints


def _layer(name, out, *into, bias=True):
    """Weight and bias of a linear layer or a convolution."""
    return {f"{name}.weight": (out, *into)} | ({f"{name}.bias": (out,)} if bias else {})


def _norm(name):
    return {f"{name}.weight": (N,), f"{name}.bias": (N,)}


def _attention_and_mlp(block, qkv_bias=True):
    return {
        **_layer(f"{block}.attn.qkv", 3 * N, N, bias=qkv_bias),
        **_layer(f"{block}.attn.proj", N, N),
        **_layer(f"{block}.mlp.fc1", 4 * N, N),
        **_layer(f"{block}.mlp.fc2", N, 4 * N),
    }


def _uvit_block(block):
    return {**_norm(f"{block}.norm1"), **_norm(f"{block}.norm2"), **_attention_and_mlp(block, qkv_bias=False)}


def _of_blocks(make, count, prefix="blocks"):
    return {name: shape for index in range(count) for name, shape in make(f"{prefix}.{index}").items()}


TIMESTEPS = {**_layer("t_embedder.mlp.0", N, 256), **_layer("t_embedder.mlp.2", N, N)}
PATCHES = _layer("x_embedder.proj", N, 4, 2, 2)
# Every trained tensor of the published checkpoints, written down from the authors' classes: DiT-XL/2 and PixArt-XL/2 at 256 pixels,
# U-ViT-H/2 on ImageNet-256.
PUBLISHED = {
    "DiT-XL/2": {
        **PATCHES,
        **TIMESTEPS,
        "y_embedder.embedding_table.weight": (1001, N),
        **_of_blocks(lambda block: {**_attention_and_mlp(block), **_layer(f"{block}.adaLN_modulation.1", 6 * N, N)}, 28),
        **_layer("final_layer.adaLN_modulation.1", 2 * N, N),
        **_layer("final_layer.linear", 32, N),
    },
    "PixArt-0.61B": {
        **PATCHES,
        **TIMESTEPS,
        **_layer("t_block.1", 6 * N, N),
        "y_embedder.y_embedding": (120, 4096),
        **_layer("y_embedder.y_proj.fc1", N, 4096),
        **_layer("y_embedder.y_proj.fc2", N, N),
        **_of_blocks(
            lambda block: {
                f"{block}.scale_shift_table": (6, N),
                **_attention_and_mlp(block),
                **_layer(f"{block}.cross_attn.q_linear", N, N),
                **_layer(f"{block}.cross_attn.kv_linear", 2 * N, N),
                **_layer(f"{block}.cross_attn.proj", N, N),
            },
            28,
        ),
        "final_layer.scale_shift_table": (2, N),
        **_layer("final_layer.linear", 32, N),
    },
    "U-ViT-H/2": {
        "pos_embed": (1, 258, N),
        "label_emb.weight": (1001, N),
        **_layer("patch_embed.proj", N, 4, 2, 2),
        **_of_blocks(_uvit_block, 14, "in_blocks"),
        **_uvit_block("mid_block"),
        **_of_blocks(lambda block: {**_uvit_block(block), **_layer(f"{block}.skip_linear", N, 2 * N)}, 14, "out_blocks"),
        **_norm("norm"),
        **_layer("decoder_pred", 16, N),
    },
}


@pytest.mark.parametrize(
    ("name", "make"), [("DiT-XL/2", published.dit), ("PixArt-0.61B", published.pixart), ("U-ViT-H/2", published.uvit)]
)
def test_original_layouts_tensor_by_tensor(name, make):
    with torch.device("meta"):
        state = dict(build(PRESETS[name].model, PRESETS[name].width).named_parameters())
    layout = make(state)
    file = layout.to_theirs(state)
    assert _shapes(file) == PUBLISHED[name]
    fixed = {each: torch.zeros(1, 256, N, device="meta") for each in layout.rebuilt}
    assert _shapes(layout.to_ours({**file, **fixed})) == _shapes(state)


def test_damage_is_named():
    model = DiT(**SIZES, num_classes=10)
    layout = diffusers_layouts.dit(DEPTH)
    theirs = layout.to_theirs(dict(model.named_parameters()))
    copy = "transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight"
    with pytest.raises(CheckpointError, match=r"embedding_table\.weight differs from transformer_blocks\.0"):
        layout.to_ours({**theirs, copy: theirs[copy] + 1})
    with pytest.raises(CheckpointError, match="extra is unknown to the layout diffusers DiT"):
        layout.to_ours({**theirs, "extra": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"attn1.to_k.bias is missing: this is not a whole checkpoint"):
        layout.to_ours({name: tensor for name, tensor in theirs.items() if name != "transformer_blocks.2.attn1.to_k.bias"})
    with pytest.raises(CheckpointError, match="proj_out_1 is missing"):
        layout.to_ours({name: tensor for name, tensor in theirs.items() if not name.startswith("proj_out_1")})
    with pytest.raises(CheckpointError, match=r"blocks.2.attn.qkv.weight has no place in the layout diffusers DiT"):
        diffusers_layouts.dit(2).to_theirs(dict(model.named_parameters()))
