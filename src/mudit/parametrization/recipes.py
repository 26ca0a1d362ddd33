"""Initialisation recipes per family: ordered (pattern, rule) pairs; the first pattern that matches a parameter's name decides.

A recipe says what the *plain* model does at a given shape. How that changes with width is the scheme's business (`rules`).
Sources: the families' published initialisations (Peebles & Xie 2023, Chen et al. 2023, Bao et al. 2023) and the paper's muP
variants of DiT, which drops adaLN-Zero and draws every matrix from N(0, 1 / fan_in) (section 5.1), and of PixArt-alpha. The facts
are listed tensor by tensor in the project's tests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

from mudit.errors import ParametrizationError

# "as built": left as the factory made it (a table of known numbers, such as sine-cosine positions that are trained)
Distribution = Literal["normal", "uniform", "as built"]


@dataclass(frozen=True)
class Init:
    """How the plain model draws one parameter: `kind` with `value` (a standard deviation or a gain), the distribution, its mean."""

    kind: Literal["fixed", "fan-in", "xavier", "xavier-conv"]
    value: float
    distribution: Distribution = "normal"
    mean: float = 0.0

    def std(self, shape: tuple[int, ...]) -> float:
        """Standard deviation at a shape (fan_out, fan_in, *kernel). `xavier-conv` counts the kernel in the fan-out too."""
        if self.kind == "fixed":
            return self.value
        fan_out, fan_in = shape[0], math.prod(shape[1:])
        if self.kind == "fan-in":
            return self.value / math.sqrt(fan_in)
        if self.kind == "xavier-conv":
            fan_out *= math.prod(shape[2:])
        return self.value * math.sqrt(2.0 / (fan_in + fan_out))


ZERO = Init("fixed", 0.0)
ONES = Init("fixed", 0.0, mean=1.0)  # gains of norms: no spread
FAN_IN = Init("fan-in", 1.0)
XAVIER = Init("xavier", 1.0, "uniform")
SMALL = Init("fixed", 0.02)
UNIT = Init("fixed", 1.0)
TORCH_DEFAULT = Init("fan-in", 1.0 / math.sqrt(3.0), "uniform")  # torch's own weights of Linear and Conv


class Rule(NamedTuple):
    """Parameters whose names match the pattern start as `init` says. `optional`: the family has them only with some options."""

    pattern: str
    init: Init
    optional: bool = False


Recipe = tuple[Rule, ...]

DIT_PUBLISHED: Recipe = (
    Rule("*.bias", ZERO),
    Rule("y_embedder.embedding_table.weight", SMALL),
    Rule("t_embedder.mlp.*.weight", SMALL),
    Rule("*adaLN_modulation.1.weight", ZERO),
    Rule("final_layer.linear.weight", ZERO),
    Rule("*.weight", XAVIER),
)

DIT_MUP: Recipe = (
    Rule("*.bias", ZERO),
    Rule("y_embedder.embedding_table.weight", UNIT),
    Rule("final_layer.linear.weight", ZERO),
    Rule("*.weight", FAN_IN),
)

# The published muP code re-draws with mup.init after set_base_shapes; its values at base width are what a recipe holds. It draws
# tables from N(0, 0.02^2) where the plain model uses N(0, 1/n), and treats the patch convolution as 4-D, the plain one as flat.
_PIXART_COMMON: Recipe = (
    Rule("*.bias", ZERO),
    Rule("y_embedder.y_embedding", FAN_IN, optional=True),  # a buffer where it is frozen as published
    Rule("t_embedder.mlp.*.weight", SMALL),
    Rule("t_block.1.weight", SMALL),
    Rule("y_embedder.y_proj.*.weight", SMALL),
    Rule("blocks.*.cross_attn.proj.weight", ZERO),
    Rule("final_layer.linear.weight", ZERO),
)

PIXART_PUBLISHED: Recipe = (*_PIXART_COMMON, Rule("*scale_shift_table", FAN_IN), Rule("*.weight", XAVIER))

PIXART_MUP: Recipe = (
    *_PIXART_COMMON,
    Rule("*scale_shift_table", SMALL),
    Rule("x_embedder.proj.weight", Init("xavier-conv", 1.0, "uniform")),
    Rule("*.weight", XAVIER),
)

# Published: truncated normals whose bounds lie 100 standard deviations out, so plain normals; labels and convolutions keep torch's
# default, except that the convolutions' biases start at zero here (torch draws them at the weight's scale).
_UVIT_COMMON: Recipe = (
    Rule("*.bias", ZERO),
    Rule("pos_embed", SMALL),
    Rule("label_emb.weight", UNIT, optional=True),
    Rule("*norm.weight", ONES),
    Rule("*norm?.weight", ONES),
    Rule("final_layer.weight", TORCH_DEFAULT, optional=True),
)

UVIT_PUBLISHED: Recipe = (*_UVIT_COMMON, Rule("patch_embed.proj.weight", TORCH_DEFAULT), Rule("*.weight", SMALL))

# No published muP code: the paper's principle for DiT carried over (fan-in normals, fixed scales for embeddings, zero readout).
UVIT_MUP: Recipe = (*_UVIT_COMMON, Rule("decoder_pred.weight", ZERO), Rule("*.weight", FAN_IN))

# SD3 published no training code. SP is the init of its ancestor DiT (and of REPA's projector), muP the paper's variant of it.
_MMDIT_COMMON: Recipe = (
    Rule("*.attn.ln_?.weight", ONES, optional=True),
    Rule("final_layer.linear.weight", ZERO),
)

MMDIT_PUBLISHED: Recipe = (
    *_MMDIT_COMMON,
    Rule("*.bias", ZERO),
    Rule("t_embedder.mlp.*.weight", SMALL),
    Rule("y_embedder.mlp.*.weight", SMALL),
    Rule("*adaLN_modulation.1.weight", ZERO),
    Rule("*.weight", XAVIER),
)

# The projector's first layer is an output by shape, so a random one would fade as 1/sqrt(m) at init. It starts at zero with random
# biases behind it: its features are then width-free at init, and never the zero vector, which has no direction to align.
MMDIT_MUP: Recipe = (
    *_MMDIT_COMMON,
    Rule("projector.0.weight", ZERO, optional=True),
    Rule("projector.0.bias", UNIT, optional=True),
    Rule("*.bias", ZERO),
    Rule("*.weight", FAN_IN),
)

# family -> (published recipe, muP recipe)
RECIPES: dict[str, tuple[Recipe, Recipe]] = {
    "dit": (DIT_PUBLISHED, DIT_MUP),
    "pixart": (PIXART_PUBLISHED, PIXART_MUP),
    "uvit": (UVIT_PUBLISHED, UVIT_MUP),
    "mmdit": (MMDIT_PUBLISHED, MMDIT_MUP),
}


def assign(recipe: Recipe, names: list[str]) -> dict[str, Init]:
    """Rule of each parameter. A name without a rule, or a pattern that decides nothing, is a ParametrizationError."""
    chosen: dict[str, Init] = {}
    used: set[str] = set()
    for name in names:
        for rule in recipe:
            if fnmatchcase(name, rule.pattern):
                chosen[name] = rule.init
                used.add(rule.pattern)
                break
        else:
            raise ParametrizationError(f"{name}: no initialisation rule matches; add a pattern to the family's recipe")
    idle = [rule.pattern for rule in recipe if rule.pattern not in used and not rule.optional]
    if idle:
        raise ParametrizationError(f"initialisation pattern {idle[0]!r} matches no parameter; the model's names have changed")
    return chosen
