"""Foreign tensors -> our names, checked to the last shape and number.

Legend: N patches, D width, L caption tokens, E width of the text features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mudit.config.models import TransformerSection
from mudit.errors import CheckpointError
from mudit.interchange.architecture import Family, Shapes, Stated, Widths, count_blocks, section_of, width_of
from mudit.interchange.foreign import Foreign
from mudit.models.blocks import position_embedding
from mudit.models.families import build
from mudit.models.layouts import diffusers, published
from mudit.models.layouts.layout import Layout

_WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel and of torch.compile
_SD3_PREFIX = "model.diffusion_model."
_POSITIONS = ("pos_embed", "pos_embed.pos_embed")
_NULL_CAPTION = "y_embedder.y_embedding"
_OLD_NULL_CAPTION = "caption_projection.y_embedding"  # diffusers before 0.26
_FLOATS = {torch.float32, torch.float16, torch.bfloat16}
# Half-precision files round their stored position tables: to 2^-9 relative in bfloat16.
_POSITION_TOLERANCE = 4e-3


@dataclass(frozen=True)
class Converted:
    """One set of weights, float32, under our names."""

    section: TransformerSection
    width: int
    tensors: dict[str, Tensor]
    layout: str
    ignored: list[str]
    stored: list[str]  # the types that the file stores


def convert(foreign: Foreign, tensors: Mapping[str, Tensor], family: Family, stated: Stated, widths: Widths | None) -> Converted:
    """Raises CheckpointError if any tensor is missing, unknown, of another shape or type, or not finite."""
    named = _unwrapped(tensors)
    ignored: list[str] = []
    if family == "mmdit" and any(name.startswith(_SD3_PREFIX) for name in named):
        # One file holds the whole pipeline: autoencoder and text encoders stay where they are.
        ignored = sorted({name.partition(".")[0] for name in named if not name.startswith(_SD3_PREFIX)})
        named = {name.removeprefix(_SD3_PREFIX): tensor for name, tensor in named.items() if name.startswith(_SD3_PREFIX)}
    positions = None if family == "uvit" else next((named.pop(name) for name in _POSITIONS if name in named), None)
    wished, stated = stated, stated.over(foreign.stated()).over(_told_by_positions(family, named, positions))
    if foreign.layout == "diffusers":
        null = named.pop(_OLD_NULL_CAPTION, foreign.null_caption)
        layout = _diffusers_layout(family, named)
        ours = layout.to_ours(named)
        if family == "pixart":
            if null is None:
                raise CheckpointError("no null caption: diffusers' PixArt has none; say --null-caption, the text encoder's folder")
            ours[_NULL_CAPTION] = null
        ours = _without_padding(ours, foreign.described.get("model") or {})
        section = section_of(family, _shapes(ours), stated, widths)
        _check_wish(wished, section)
    else:
        if any(name.startswith("transformer_blocks.") for name in named):
            raise CheckpointError("its names are those of diffusers; import the folder that holds it, with its config.json")
        section = section_of(family, _shapes(named), stated, widths)
        _check_wish(wished, section)
        layout = _published_layout(family, section, width_of(family, _shapes(named)))
        ours = layout.to_ours(named)
    width = width_of(family, _shapes(ours))
    _check(section, width, ours)
    if positions is not None:
        _check_positions(section, width, positions)
    _check_config(foreign, section, width)
    stored = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in ours.values()})
    plain = {name: tensor.to(torch.float32).contiguous() for name, tensor in ours.items()}
    return Converted(section, width, plain, layout.name, ignored, stored)


def _unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what wrappers put before every name, in whatever order they were put around the module."""
    named = dict(tensors)
    while prefix := next((each for each in _WRAPPERS if named and all(name.startswith(each) for name in named)), None):
        named = {name.removeprefix(prefix): tensor for name, tensor in named.items()}
    return named


def _told_by_positions(family: Family, named: Mapping[str, Tensor], positions: Tensor | None) -> Stated:
    """A stored table tells the number of patches: the image's own, or MMDiT's larger table."""
    patch = named.get("x_embedder.proj.weight")
    if positions is None or patch is None or patch.ndim != 4:
        return Stated()
    side = round(positions.shape[-2] ** 0.5) if positions.ndim >= 2 else 0
    if side == 0 or side * side != positions.shape[-2]:
        raise CheckpointError(f"its position table has the shape {tuple(positions.shape)}, which is no square of patches")
    return Stated(position_table=side) if family == "mmdit" else Stated(image_size=side * patch.shape[-1])


def _diffusers_layout(family: Family, named: Mapping[str, Tensor]) -> Layout:
    depth = count_blocks(named, "transformer_blocks")
    if family == "mmdit":
        return diffusers.sd3(depth, qk_norm="transformer_blocks.0.attn.norm_q.weight" in named)
    return diffusers.dit(depth) if family == "dit" else diffusers.pixart(depth)


def _published_layout(family: Family, section: TransformerSection, width: int) -> Layout:
    names = [name for name, _ in _meta(section, width).named_parameters()]
    if family == "mmdit":
        return published.sd3(names, prefix="")
    return {"dit": published.dit, "pixart": published.pixart, "uvit": published.uvit}[family](names)


def _without_padding(ours: dict[str, Tensor], described: Mapping[str, object]) -> dict[str, Tensor]:
    """Our DiT's own classes: `mudit export` pads the table, because DiTPipeline takes class 1000 for the null class."""
    name, classes = "y_embedder.embedding_table.weight", described.get("num_classes")
    table = ours.get(name)
    if not isinstance(classes, int) or table is None or not 0 < classes < len(table) - 1:
        return ours
    if not bool((table[classes:] == table[-1]).all()):
        raise CheckpointError(f"the rows of {name} from {classes} on are not all the null class, as its model.json says")
    return {**ours, name: table[: classes + 1]}


def _check_wish(wished: Stated, section: TransformerSection) -> None:
    """What the owner says of the architecture is what the tensors say, or is asked for: nothing is ignored."""
    for name in ("head_dim", "image_size", "max_tokens"):
        mine, theirs = getattr(wished, name), getattr(section, name, None)
        if mine not in (None, theirs):
            why = "a model of classes reads no captions; leave it out" if theirs is None else f"the checkpoint itself says {theirs}"
            raise CheckpointError(f"--{name.replace('_', '-')} {mine}: {why}")


def _check(section: TransformerSection, width: int, ours: Mapping[str, Tensor]) -> None:
    wanted = {name: tuple(parameter.shape) for name, parameter in _meta(section, width).named_parameters()}
    if odd := sorted(wanted.keys() ^ ours.keys()):
        raise CheckpointError(f"{odd[0]} is {'missing' if odd[0] in wanted else 'no part of the model'}")
    for name, tensor in ours.items():
        if tuple(tensor.shape) != wanted[name]:
            raise CheckpointError(f"{name} has the shape {tuple(tensor.shape)}, the model's is {wanted[name]}")
        if tensor.dtype not in _FLOATS:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise CheckpointError(f"{name} is of the type {kind}; weights are read from float32, float16 or bfloat16")
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{name} holds values that are not finite: the run has diverged, or the file is damaged")


def _check_positions(section: TransformerSection, width: int, positions: Tensor) -> None:
    """A stored table must be the one that our model computes."""
    patches = section.image_size // section.patch_size
    table = getattr(section, "position_table", None)
    expected_ND = position_embedding(width, patches, table)
    if table is not None and positions.shape[-2] == table * table:
        first = (table - patches) // 2
        positions = positions.reshape(table, table, -1)[first : first + patches, first : first + patches]
    found_ND = positions.reshape(-1, positions.shape[-1]).float()
    if found_ND.shape != expected_ND.shape or not torch.allclose(found_ND, expected_ND, rtol=0, atol=_POSITION_TOLERANCE):
        raise CheckpointError("its position table is not the fixed sines and cosines of our model at this size")


def _check_config(foreign: Foreign, section: TransformerSection, width: int) -> None:
    """diffusers' configuration and the tensors beside it must speak of one model."""
    config = foreign.config
    facts = {
        "num_layers": section.depth,
        "in_channels": section.channels,
        "patch_size": section.patch_size,
        "sample_size": section.image_size,
        "attention_head_dim": section.head_dim,
        "num_attention_heads": width // section.head_dim,
        "out_channels": (2 if section.learns_variance else 1) * section.channels,
    }
    for name, value in facts.items():
        if config.get(name) is not None and config[name] != value:
            raise CheckpointError(f"its config.json says {name} {config[name]}, its tensors say {value}")


def _meta(section: TransformerSection, width: int) -> nn.Module:
    with torch.device("meta"):
        return build(section, width)


def _shapes(tensors: Mapping[str, Tensor]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
