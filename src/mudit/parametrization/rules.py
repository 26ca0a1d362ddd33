"""The width rules: (scaling, role) -> multipliers. muP and SP are rows of one table.

muP for Adam in the multiplier form (paper, Table 1; Yang et al. 2022, Table 8), with m = width over base width:

  role                    forward   init std          learning rate   weight decay
  input, vector, finite   1         as at base width  1               1
  hidden                  1         base / sqrt(m)    1 / m           m
  output                  c / m     as at base width  1               1

c is the width-free output multiplier. Weight decay of hidden matrices grows with m because AdamW multiplies it by the learning
rate: the product, what a step really removes, stays width-free. SP is 1 everywhere, with the initialisation at the true shape.

`sp-same-init` is SP that starts like muP. For our families that is muP's recipe at the true shape. An init that was measured at
base width is known there only, so such a model starts as the very function that muP starts as, forward multipliers folded in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from mudit.parametrization.recipes import Init
from mudit.parametrization.shapes import ParameterShape

Scaling = Literal["mup", "standard"]

# scheme -> (width scaling, which of the family's two recipes)
SCHEMES: dict[str, tuple[Scaling, Literal["published", "mup"]]] = {
    "mup": ("mup", "mup"),
    "sp": ("standard", "published"),
    "sp-same-init": ("standard", "mup"),
}


@dataclass(frozen=True)
class Multipliers:
    """What a rule decides for one parameter."""

    init_std: float
    lr: float
    weight_decay: float
    forward: float


def same_start(shape: ParameterShape, init: Init, output_mult: float) -> Init:
    """The init at the true shape of a plain model that starts as the function that muP starts as, from an init at base width."""
    rule = multipliers("mup", shape, init, output_mult)
    return replace(init, kind="fixed", value=rule.init_std * rule.forward)


def multipliers(scaling: Scaling, shape: ParameterShape, init: Init, output_mult: float) -> Multipliers:
    """The rule of one parameter, relative to the base learning rate and the base weight decay."""
    if scaling == "standard":
        return Multipliers(init_std=init.std(shape.shape), lr=1.0, weight_decay=1.0, forward=1.0)
    base_std, m = init.std(shape.base_shape), shape.width_mult
    if shape.role == "hidden":
        return Multipliers(init_std=base_std / math.sqrt(m), lr=1.0 / m, weight_decay=m, forward=1.0)
    if shape.role == "output":
        return Multipliers(init_std=base_std, lr=1.0, weight_decay=1.0, forward=output_mult / m)
    return Multipliers(init_std=base_std, lr=1.0, weight_decay=1.0, forward=1.0)
