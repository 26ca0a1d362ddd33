"""diffusers' transformer classes (0.42): DiTTransformer2DModel, PixArtTransformer2DModel, SD3Transformer2DModel.

Where the architecture itself differs from the published one, and so from ours:
  DiT     its sinusoids divide the frequencies' exponents by 127 in place of 128 (`downscale_freq_shift` 1); its second norm's eps
          defaults to 1e-5, ours is the published 1e-6 (`norm_eps`); in training mode it drops labels itself
  PixArt  the null caption is not part of the model; `sample_size` 128 adds size conditions that the 256-pixel model lacks
  SD3     its last caption modulation and its readout's have scale before shift; captions are never masked
"""

from __future__ import annotations

from mudit.models.layouts.layout import Entry, Layout


def dit(depth: int) -> Layout:
    """DiTTransformer2DModel: every block holds its own copy of both embedders."""
    entries = [
        Entry("x_embedder.proj", ("pos_embed.proj",)),
        Entry("final_layer.adaLN_modulation.1", ("proj_out_1",)),
        Entry("final_layer.linear", ("proj_out_2",)),
    ]
    for ours, theirs in (
        ("t_embedder.mlp.0", "timestep_embedder.linear_1"),
        ("t_embedder.mlp.2", "timestep_embedder.linear_2"),
        ("y_embedder.embedding_table", "class_embedder.embedding_table"),
    ):
        first, *others = (f"transformer_blocks.{index}.norm1.emb.{theirs}" for index in range(depth))
        entries.append(Entry(ours, (first,), copies=tuple(others)))
    for index in range(depth):
        a, b = f"blocks.{index}", f"transformer_blocks.{index}"
        entries += [
            Entry(f"{a}.adaLN_modulation.1", (f"{b}.norm1.linear",)),
            Entry(f"{a}.attn.qkv", _parts(f"{b}.attn1", "to_q", "to_k", "to_v")),
            Entry(f"{a}.attn.proj", (f"{b}.attn1.to_out.0",)),
            *_mlp(f"{a}.mlp", f"{b}.ff"),
        ]
    return Layout("diffusers DiT", tuple(entries))


def pixart(depth: int) -> Layout:
    """PixArtTransformer2DModel without size conditions (256 and 512 pixels)."""
    entries = [
        Entry("x_embedder.proj", ("pos_embed.proj",)),
        Entry("t_embedder.mlp.0", ("adaln_single.emb.timestep_embedder.linear_1",)),
        Entry("t_embedder.mlp.2", ("adaln_single.emb.timestep_embedder.linear_2",)),
        Entry("t_block.1", ("adaln_single.linear",)),
        Entry("y_embedder.y_proj.fc1", ("caption_projection.linear_1",)),
        Entry("y_embedder.y_proj.fc2", ("caption_projection.linear_2",)),
        Entry("final_layer.scale_shift_table", ("scale_shift_table",)),
        Entry("final_layer.linear", ("proj_out",)),
    ]
    for index in range(depth):
        a, b = f"blocks.{index}", f"transformer_blocks.{index}"
        entries += [
            Entry(f"{a}.scale_shift_table", (f"{b}.scale_shift_table",)),
            Entry(f"{a}.attn.qkv", _parts(f"{b}.attn1", "to_q", "to_k", "to_v")),
            Entry(f"{a}.attn.proj", (f"{b}.attn1.to_out.0",)),
            Entry(f"{a}.cross_attn.q_linear", (f"{b}.attn2.to_q",)),
            Entry(f"{a}.cross_attn.kv_linear", _parts(f"{b}.attn2", "to_k", "to_v")),
            Entry(f"{a}.cross_attn.proj", (f"{b}.attn2.to_out.0",)),
            *_mlp(f"{a}.mlp", f"{b}.ff"),
        ]
    return Layout("diffusers PixArt", tuple(entries), own=("y_embedder.y_embedding",))


def sd3(depth: int, qk_norm: bool) -> Layout:
    """SD3Transformer2DModel without dual attention."""
    entries = [
        Entry("x_embedder.proj", ("pos_embed.proj",)),
        Entry("t_embedder.mlp.0", ("time_text_embed.timestep_embedder.linear_1",)),
        Entry("t_embedder.mlp.2", ("time_text_embed.timestep_embedder.linear_2",)),
        Entry("y_embedder.mlp.0", ("time_text_embed.text_embedder.linear_1",)),
        Entry("y_embedder.mlp.2", ("time_text_embed.text_embedder.linear_2",)),
        Entry("context_embedder", ("context_embedder",)),
        Entry("final_layer.adaLN_modulation.1", ("norm_out.linear",), halves_swapped=True),
        Entry("final_layer.linear", ("proj_out",)),
    ]
    for index in range(depth):
        a, b, last = f"joint_blocks.{index}", f"transformer_blocks.{index}", index == depth - 1
        image, caption = f"{a}.x_block", f"{a}.context_block"
        entries += [
            Entry(f"{image}.adaLN_modulation.1", (f"{b}.norm1.linear",)),
            Entry(f"{caption}.adaLN_modulation.1", (f"{b}.norm1_context.linear",), halves_swapped=last),
            Entry(f"{image}.attn.qkv", _parts(f"{b}.attn", "to_q", "to_k", "to_v")),
            Entry(f"{caption}.attn.qkv", _parts(f"{b}.attn", "add_q_proj", "add_k_proj", "add_v_proj")),
            Entry(f"{image}.attn.proj", (f"{b}.attn.to_out.0",)),
            *_mlp(f"{image}.mlp", f"{b}.ff"),
        ]
        if not last:
            entries += [Entry(f"{caption}.attn.proj", (f"{b}.attn.to_add_out",)), *_mlp(f"{caption}.mlp", f"{b}.ff_context")]
        if qk_norm:
            for stream, infix in ((image, ""), (caption, "added_")):
                entries += [Entry(f"{stream}.attn.ln_{kind}", (f"{b}.attn.norm_{infix}{kind}",)) for kind in "qk"]
    return Layout("diffusers SD3", tuple(entries), rebuilt=("pos_embed.pos_embed",), own=("projector.",))


def _parts(parent: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{parent}.{name}" for name in names)


def _mlp(ours: str, theirs: str) -> list[Entry]:
    return [Entry(f"{ours}.fc1", (f"{theirs}.net.0.proj",)), Entry(f"{ours}.fc2", (f"{theirs}.net.2",))]
