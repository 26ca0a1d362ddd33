"""The architecture of a checkpoint from the shapes of its tensors, under our names, and what shapes cannot tell from its owner.

Shapes tell widths, depths, channels and classes. They do not tell how many heads share a width, how large the image is (where
positions are computed, not stored), or how the tokens of a U-ViT divide into caption and image.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from mudit.config.models import AnyModel, TransformerSection
from mudit.config.wording import first_problem
from mudit.errors import CheckpointError

Family = Literal["dit", "pixart", "uvit", "mmdit"]
Shapes = Mapping[str, tuple[int, ...]]

# family -> the module whose children are counted for the depth
_BLOCKS = {"dit": "blocks", "pixart": "blocks", "uvit": "in_blocks", "mmdit": "joint_blocks"}
_PATCHES = {"dit": "x_embedder.proj", "pixart": "x_embedder.proj", "uvit": "patch_embed.proj", "mmdit": "x_embedder.proj"}
_FIRST_MLP = {
    "dit": "blocks.0.mlp.fc1",
    "pixart": "blocks.0.mlp.fc1",
    "uvit": "mid_block.mlp.fc1",
    "mmdit": "joint_blocks.0.x_block.mlp.fc1",
}
_MOST_PATCHES = 1024  # a side; beyond it a file's number is a mistake, and its position table would not fit


@dataclass(frozen=True)
class Stated:
    """What the owner or the checkpoint's own configuration says; None: nothing is said."""

    head_dim: int | None = None
    image_size: int | None = None
    max_tokens: int | None = None
    position_table: int | None = None

    def over(self, other: Stated) -> Stated:
        """These facts, and the other's where these are silent. Raises CheckpointError where both speak and disagree."""
        merged = {}
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if None not in (mine, theirs) and mine != theirs:
                raise CheckpointError(f"--{field.name.replace('_', '-')} {mine}: the checkpoint itself says {theirs}")
            merged[field.name] = theirs if mine is None else mine
        return Stated(**merged)


@dataclass(frozen=True)
class Widths:
    """What the parametrization adds to an architecture."""

    base_width: int
    delta_width: int
    output_mult: float


def count_blocks(names: Mapping[str, Any], parent: str) -> int:
    """Children `parent.0`, `parent.1`, ... that the names speak of.

    Raises CheckpointError if there are none, or a number is left out.
    """
    numbers = {int(match[1]) for name in names if (match := re.match(rf"{re.escape(parent)}\.(\d{{1,6}})\.", name))}
    if not numbers:
        raise CheckpointError(f"no tensor is called {parent}.0...: the checkpoint is of another family, or of another layout of it")
    if numbers != set(range(len(numbers))):
        missing = min(set(range(len(numbers))) - numbers)
        raise CheckpointError(f"{parent}.{missing} is missing among {len(numbers)} blocks")
    return len(numbers)


def width_of(family: Family, shapes: Shapes) -> int:
    """Model width in channels."""
    return _shape(shapes, f"{_PATCHES[family]}.weight", 4)[0]


def section_of(family: Family, shapes: Shapes, stated: Stated, widths: Widths | None) -> TransformerSection:
    """The section of `config.yaml` that builds the checkpoint's architecture. Without `widths` the model is its own base.

    Raises CheckpointError if a tensor that tells is missing, or a fact that shapes cannot tell is not stated.
    """
    width, channels, patch, _ = _shape(shapes, f"{_PATCHES[family]}.weight", 4)
    depth = count_blocks(shapes, _BLOCKS[family]) * (2 if family == "uvit" else 1)
    found: dict[str, Any] = {
        "family": family,
        "channels": channels,
        "patch_size": patch,
        "depth": depth,
        "mlp_ratio": _shape(shapes, f"{_FIRST_MLP[family]}.weight", 2)[0] // width,
    }
    found |= {"dit": _dit, "pixart": _pixart, "uvit": _uvit, "mmdit": _mmdit}[family](shapes, stated)
    found.setdefault("head_dim", stated.head_dim)
    found.setdefault("image_size", stated.image_size)
    if found["head_dim"] is None:
        raise CheckpointError(
            f"the number of heads is in no shape: say --head-dim (width {width}; published: 72 at 1152 channels, else 64)"
        )
    if found["image_size"] is None:
        raise CheckpointError("positions are not stored, so say the side of the model's input in latent pixels: --image-size")
    if found["image_size"] // patch > _MOST_PATCHES:
        raise CheckpointError(f"image_size {found['image_size']}: more than {_MOST_PATCHES} patches a side")
    if found.get("position_table") == found["image_size"] // patch:
        found["position_table"] = None  # a table of the image's own size is no larger table
    chosen = widths or Widths(base_width=width, delta_width=width + found["head_dim"], output_mult=1.0)
    return _validated({**found, **vars(chosen)})


def _dit(shapes: Shapes, stated: Stated) -> dict[str, Any]:
    return {"num_classes": _shape(shapes, "y_embedder.embedding_table.weight", 2)[0] - 1}


def _pixart(shapes: Shapes, stated: Stated) -> dict[str, Any]:
    return {
        "text_dim": _shape(shapes, "y_embedder.y_proj.fc1.weight", 2)[1],
        "max_tokens": _shape(shapes, "y_embedder.y_embedding", 2)[0],
    }


def _uvit(shapes: Shapes, stated: Stated) -> dict[str, Any]:
    """Tokens are the time, the label or the caption, and the patches."""
    tokens = _shape(shapes, "pos_embed", 3)[1]
    patch = _shape(shapes, "patch_embed.proj.weight", 4)[2]
    labels = "label_emb.weight" in shapes
    if not labels and stated.max_tokens is None:
        raise CheckpointError(f"of {tokens} tokens some are the caption's: say how many with --max-tokens (published: 77)")
    patches = tokens - 2 if labels else tokens - 1 - int(stated.max_tokens or 0)
    side = math.isqrt(max(patches, 0))
    if side * side != patches or not side:
        raise CheckpointError(f"pos_embed has {tokens} tokens, which leaves {patches} patches: no square")
    return {
        "image_size": side * patch,
        "final_conv": "final_layer.weight" in shapes,
        "num_classes": _shape(shapes, "label_emb.weight", 2)[0] - 1 if labels else None,
        "text_dim": None if labels else _shape(shapes, "context_embed.weight", 2)[1],
        "max_tokens": None if labels else stated.max_tokens,
    }


def _mmdit(shapes: Shapes, stated: Stated) -> dict[str, Any]:
    normed = "joint_blocks.0.x_block.attn.ln_q.weight"
    found: dict[str, Any] = {
        "text_dim": _shape(shapes, "context_embedder.weight", 2)[1],
        "pooled_dim": _shape(shapes, "y_embedder.mlp.0.weight", 2)[1],
        "qk_norm": normed in shapes,
        "position_table": stated.position_table,
        "max_tokens": stated.max_tokens,
        "alignment": None,
    }
    if stated.max_tokens is None:
        raise CheckpointError("no shape of an MMDiT tells the length of captions: say --max-tokens, as data.captions.max_tokens")
    if normed in shapes:
        found["head_dim"] = _shape(shapes, normed, 1)[0]
    return found


def _shape(shapes: Shapes, name: str, dims: int) -> tuple[int, ...]:
    found = shapes.get(name)
    if found is None:
        raise CheckpointError(f"{name} is missing: the checkpoint is of another family, or not whole")
    if len(found) != dims or 0 in found:
        raise CheckpointError(f"{name} has the shape {found}, not {dims} dimensions with something in each")
    return found


SECTION: TypeAdapter[AnyModel] = TypeAdapter(AnyModel)


def _validated(found: dict[str, Any]) -> TransformerSection:
    try:
        section = SECTION.validate_python(found)
    except ValidationError as error:
        raise CheckpointError(f"these sizes make no model: {first_problem(error, tagged=True)}") from error
    assert isinstance(section, TransformerSection)
    return section
