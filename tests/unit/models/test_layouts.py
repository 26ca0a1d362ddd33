"""Published layouts: exact names and shapes both ways, and diffusers' classes as a second opinion on what the weights compute."""

from __future__ import annotations

import pytest
import torch

from mudit.errors import CheckpointError
from mudit.models.condition import TextCondition
from mudit.models.dit import DiT
from mudit.models.layouts import diffusers as diffusers_layouts
from mudit.models.layouts import published
from mudit.models.mmdit import Alignment, MMDiT
from mudit.models.pixart import PIXART_PRESETS, PixArt
from mudit.models.uvit import UVIT_PRESETS, UViT

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


# Shapes at n = 1152 as in the published checkpoints; *: every block.
PUBLISHED_PIXART = {
    "x_embedder.proj.weight": (1152, 4, 2, 2),
    "t_embedder.mlp.0.weight": (1152, 256),
    "t_embedder.mlp.2.weight": (1152, 1152),
    "t_block.1.weight": (6912, 1152),
    "y_embedder.y_embedding": (120, 4096),
    "y_embedder.y_proj.fc1.weight": (1152, 4096),
    "y_embedder.y_proj.fc2.weight": (1152, 1152),
    "blocks.27.scale_shift_table": (6, 1152),
    "blocks.27.attn.qkv.weight": (3456, 1152),
    "blocks.27.attn.proj.weight": (1152, 1152),
    "blocks.27.cross_attn.q_linear.weight": (1152, 1152),
    "blocks.27.cross_attn.kv_linear.weight": (2304, 1152),
    "blocks.27.cross_attn.proj.weight": (1152, 1152),
    "blocks.27.mlp.fc1.weight": (4608, 1152),
    "blocks.27.mlp.fc2.weight": (1152, 4608),
    "final_layer.scale_shift_table": (2, 1152),
    "final_layer.linear.weight": (32, 1152),
    "final_layer.linear.bias": (32,),
}
PUBLISHED_UVIT = {
    "pos_embed": (1, 258, 1152),
    "label_emb.weight": (1001, 1152),
    "patch_embed.proj.weight": (1152, 4, 2, 2),
    "in_blocks.13.attn.qkv.weight": (3456, 1152),
    "mid_block.norm1.weight": (1152,),
    "out_blocks.13.skip_linear.weight": (1152, 2304),
    "norm.bias": (1152,),
    "decoder_pred.weight": (16, 1152),
}


PUBLISHED_DIT = {
    "x_embedder.proj.weight": (1152, 4, 2, 2),
    "t_embedder.mlp.2.weight": (1152, 1152),
    "y_embedder.embedding_table.weight": (1001, 1152),
    "blocks.27.attn.qkv.weight": (3456, 1152),
    "blocks.27.mlp.fc1.weight": (4608, 1152),
    "blocks.27.adaLN_modulation.1.weight": (6912, 1152),
    "final_layer.adaLN_modulation.1.weight": (2304, 1152),
    "final_layer.linear.weight": (32, 1152),
}


def test_original_layouts():
    sizes = {"width": 1152, "depth": 28, "head_dim": 72, "patch_size": 2, "mlp_ratio": 4, "image_size": 32, "channels": 4}
    with torch.device("meta"):
        dit = DiT(**sizes, num_classes=1000)
        pixart = PixArt(**PIXART_PRESETS["0.61B"])
        uvit = UViT(**UVIT_PRESETS["H"], patch_size=2, image_size=32, channels=4, num_classes=1000)
    for model, make, facts in (
        (dit, published.dit, PUBLISHED_DIT),
        (pixart, published.pixart, PUBLISHED_PIXART),
        (uvit, published.uvit, PUBLISHED_UVIT),
    ):
        state = dict(model.named_parameters())
        layout = make(state)
        file = layout.to_theirs(state)
        shapes = _shapes(file)
        assert shapes == _shapes(state)
        assert {name: shapes[name] for name in facts} == facts
        fixed = {name: torch.zeros(1, 256, 1152, device="meta") for name in layout.rebuilt}
        assert _shapes(layout.to_ours({**file, **fixed})) == _shapes(state)
    # 435 names in the published base shapes, where the null caption is a buffer.
    assert len(list(pixart.parameters())) == 436
    assert "in_blocks.0.attn.qkv.bias" not in dict(uvit.named_parameters())


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
