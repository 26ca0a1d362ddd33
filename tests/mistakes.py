"""Mistakes that the coordinate check must catch: each planted by a test, and listed in docs/coordinate-check.md from this table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from mudit.parametrization.table import ParameterTable
from mudit.report.paper import FAMILIES

SHRUNK = "shrunk"  # instead of a number: divided by the width multiplier


@dataclass(frozen=True)
class Mistake:
    """What is wrong, and where the check must see it first."""

    family: str
    probe: Literal["size", "update", "decay"]
    place: str  # name of the slope that must not be flat
    step: int  # first optimizer step at which it is not; 0: initialisation
    at: str  # the place in words
    parameter: str | None = None  # whose row says something else
    row: dict[str, Any] | None = None  # what it says
    scheme: str = "mup"
    heads: int | None = None  # at every width, so head_dim grows

    def plant(self, right: ParameterTable) -> ParameterTable:
        """The table with the mistake in it."""
        if self.parameter is None or self.row is None:
            return right
        values = {key: right.base_width / right.width if value == SHRUNK else value for key, value in self.row.items()}
        return right.with_row(self.parameter, **values)

    def first_step(self, slopes: list[Any]) -> int | None:
        """When the probe is first not flat at the place; None if it always is."""
        return min((s.step for s in slopes if (s.probe, s.name) == (self.probe, self.place) and not s.flat), default=None)


FULL_RATE, LOW_RATE, FULL_READOUT = {"lr_multiplier": 1.0}, {"lr_multiplier": SHRUNK}, {"forward_multiplier": 1.0}
NO_DECAY_RULE = {"weight_decay_multiplier": 1.0}


def _row(family: str, probe: Any, parameter: str, row: dict[str, Any], step: int, at: str) -> Mistake:
    """Decay and tables are probed by the parameter's name, layers by their module's."""
    place = parameter if probe == "decay" else parameter.removesuffix(".weight")
    return Mistake(family, probe, place, step, at, parameter, row)


MISTAKES: dict[str, Mistake] = {
    "readout not divided by width": _row("dit", "size", "final_layer.linear.weight", FULL_READOUT, 1, "the readout"),
    "one layer's learning rate not divided by width": _row("dit", "update", "blocks.0.mlp.fc1.weight", FULL_RATE, 2, "that layer"),
    "embedding's learning rate divided by width": _row(
        "dit", "update", "y_embedder.embedding_table.weight", LOW_RATE, 2, "the embedding"
    ),
    "logits scaled by 1/√d with growing head_dim": Mistake("dit", "update", "blocks.0.attn.logits", 2, "attention logits", heads=2),
    "weight decay not multiplied by width": _row("dit", "decay", "blocks.1.attn.qkv.weight", NO_DECAY_RULE, 1, "that weight"),
    "hidden init not divided by √width": _row("dit", "size", "blocks.0.attn.proj.weight", {"init_std": 0.2}, 0, "that layer"),
    "scale-shift table's learning rate divided by width": _row(
        "pixart", "update", "blocks.0.scale_shift_table", LOW_RATE, 2, "the table"
    ),
    "caption MLP's second layer as if its input were finite": _row(
        "pixart", "update", "y_embedder.y_proj.fc2.weight", FULL_RATE, 3, "that layer"
    ),
    "shared modulation's init not divided by √width": _row(
        "pixart", "size", "t_block.1.weight", {"init_std": 0.02}, 0, "the modulation"
    ),
    "cross-attention's learning rate not divided by width": _row(
        "pixart", "update", "blocks.1.cross_attn.kv_linear.weight", FULL_RATE, 3, "its keys and values"
    ),
    "readout of PixArt-α not divided by width": _row("pixart", "size", "final_layer.linear.weight", FULL_READOUT, 1, "the readout"),
    "skip layer's learning rate not divided by width": _row(
        "uvit", "update", "out_blocks.0.skip_linear.weight", FULL_RATE, 2, "that layer"
    ),
    "learned positions' learning rate divided by width": _row("uvit", "update", "pos_embed", LOW_RATE, 2, "the positions"),
    "norm's gain with its learning rate divided by width": _row(
        "uvit", "update", "mid_block.norm1.weight", LOW_RATE, 2, "that norm"
    ),
    "decoder not divided by width": _row("uvit", "size", "decoder_pred.weight", FULL_READOUT, 1, "the decoder"),
    "REPA projector not divided by width": _row("mmdit", "update", "projector.0.weight", FULL_READOUT, 1, "its first layer"),
    "one stream's learning rate not divided by width": _row(
        "mmdit", "update", "joint_blocks.0.context_block.attn.qkv.weight", FULL_RATE, 2, "that layer"
    ),
    "one stream's weight decay not multiplied by width": _row(
        "mmdit", "decay", "joint_blocks.0.context_block.mlp.fc1.weight", NO_DECAY_RULE, 1, "that weight"
    ),
    "readout of MMDiT not divided by width": _row("mmdit", "size", "final_layer.linear.weight", FULL_READOUT, 1, "the readout"),
    "caption embedder's learning rate divided by width": _row(
        "mmdit", "update", "context_embedder.weight", LOW_RATE, 2, "the embedder"
    ),
    "pooled embedder's second layer as if its input were finite": _row(
        "mmdit", "update", "y_embedder.mlp.2.weight", FULL_RATE, 2, "that layer"
    ),
    "SP": Mistake("dit", "update", "blocks.0.mlp.fc1", 3, "the first MLP layer", scheme="sp"),
    "SP scaling with muP's initialisation": Mistake(
        "dit", "update", "blocks.0.mlp.fc1", 2, "the first MLP layer", scheme="sp-same-init"
    ),
}


def of_family(*families: str) -> list[str]:
    """Names of the mistakes of some families."""
    return [name for name, mistake in MISTAKES.items() if mistake.family in families]


def page() -> str:
    """The table of docs/coordinate-check.md."""
    lines = ["| mistake | family | seen by | at | caught at step |", "|---|---|---|---|---|"]
    for name, mistake in MISTAKES.items():
        lines.append(f"| {name} | {FAMILIES[mistake.family]} | {mistake.probe} | {mistake.at} | {mistake.step} |")
    return "\n".join(lines) + "\n"
