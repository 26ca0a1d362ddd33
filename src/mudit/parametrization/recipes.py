"""Initialisation recipes per family: ordered (pattern, rule) pairs; the first pattern that matches a parameter's name decides.

A recipe says what the *plain* model does at a given shape. How that changes with width is the scheme's business (`rules`).
Sources: DiT's published initialisation (Peebles & Xie 2023) and the paper's muP variant of it, which drops adaLN-Zero and draws
every matrix from N(0, 1 / fan_in) (paper, section 5.1; the facts are listed tensor by tensor in the project's tests).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from mudit.errors import ParametrizationError

Distribution = Literal["normal", "uniform"]


@dataclass(frozen=True)
class Init:
    """How the plain model draws one parameter: `kind` with `value` (a standard deviation or a gain), and the distribution."""

    kind: Literal["fixed", "fan-in", "xavier"]
    value: float
    distribution: Distribution = "normal"

    def std(self, shape: tuple[int, ...]) -> float:
        """Standard deviation at a shape (fan_out, fan_in, *kernel)."""
        if self.kind == "fixed":
            return self.value
        fan_out, fan_in = shape[0], math.prod(shape[1:])
        if self.kind == "fan-in":
            return self.value / math.sqrt(fan_in)
        return self.value * math.sqrt(2.0 / (fan_in + fan_out))


ZERO = Init("fixed", 0.0)
FAN_IN = Init("fan-in", 1.0)
XAVIER = Init("xavier", 1.0, "uniform")

Recipe = tuple[tuple[str, Init], ...]

DIT_PUBLISHED: Recipe = (
    ("*.bias", ZERO),
    ("y_embedder.embedding_table.weight", Init("fixed", 0.02)),
    ("t_embedder.mlp.*.weight", Init("fixed", 0.02)),
    ("*adaLN_modulation.1.weight", ZERO),
    ("final_layer.linear.weight", ZERO),
    ("*.weight", XAVIER),
)

DIT_MUP: Recipe = (
    ("*.bias", ZERO),
    ("y_embedder.embedding_table.weight", Init("fixed", 1.0)),
    ("final_layer.linear.weight", ZERO),
    ("*.weight", FAN_IN),
)

# family -> (published recipe, muP recipe)
RECIPES: dict[str, tuple[Recipe, Recipe]] = {"dit": (DIT_PUBLISHED, DIT_MUP)}


def assign(recipe: Recipe, names: list[str]) -> dict[str, Init]:
    """Rule of each parameter. A name without a rule, or a pattern that decides nothing, is a ParametrizationError."""
    chosen: dict[str, Init] = {}
    used: set[str] = set()
    for name in names:
        for pattern, init in recipe:
            if fnmatchcase(name, pattern):
                chosen[name] = init
                used.add(pattern)
                break
        else:
            raise ParametrizationError(f"{name}: no initialisation rule matches; add a pattern to the family's recipe")
    idle = [pattern for pattern, _ in recipe if pattern not in used]
    if idle:
        raise ParametrizationError(f"initialisation pattern {idle[0]!r} matches no parameter; the model's names have changed")
    return chosen
