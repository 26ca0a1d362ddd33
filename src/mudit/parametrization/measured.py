"""How a factory of your own initialises its module: measured parameter by parameter, over several draws, not guessed.

A parameter is a constant, known numbers (the same under every seed), or random: then its distribution is uniform or normal, with
the mean and standard deviation of the draws. Parameters are not pooled over blocks, whose inits may differ on purpose; small ones
are drawn more often instead.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from functools import cache

import torch
from torch import Tensor

from mudit.errors import ParametrizationError
from mudit.models.external import ModuleFactory
from mudit.parametrization.recipes import Distribution, Init

_ENOUGH = 1024  # numbers behind a standard deviation: a relative error of 2 % for normals, of 0.1 % for uniform bounds
_MAX_DRAWS = 16
_MAX_NUMBERS = 2**26  # drawn in all, from the third draw on: small tensors of big modules make do with fewer
_DISTINCT = 4096  # values looked at for repeats
# Between a uniform and a normal of one standard deviation s, whose values reach r: likelihoods are equal where
# 2 r = sqrt(2 pi e) s. Uniform values reach 1.73 s, a thousand normal ones beyond 3 s, normals cut off at two sigma 2.27 s.
_UNIFORM_REACH = math.sqrt(math.pi * math.e / 2)
_NORMAL_REACH = 10.0
_MEAN_ERRORS = 5.0  # standard errors within which a mean counts as zero


@dataclass(frozen=True)
class _Draw:
    """One draw of one parameter."""

    count: int
    mean: float
    square: float  # mean square
    low: float
    high: float
    repeats: bool  # whether many values occur more than once

    @classmethod
    def of(cls, value: Tensor) -> _Draw:
        """Statistics of a parameter."""
        flat = value.detach().flatten()
        sample = flat[:: max(1, flat.numel() // _DISTINCT)]
        low, high = flat.aminmax()
        mean, square = flat.mean(dtype=torch.float64), flat.square().mean(dtype=torch.float64)
        repeats = sample.unique().numel() < 0.9 * sample.numel()
        return cls(flat.numel(), mean.item(), square.item(), low.item(), high.item(), repeats)


def measured_inits(factory: ModuleFactory, width: int) -> dict[str, Init]:
    """Init of every trainable parameter of `factory(width)`, as fixed numbers at this width.

    Builds the module on the CPU, at least twice, one at a time: it must fit into memory. Raises ParametrizationError for values
    that are random and repeated, or neither uniform nor normal.
    """
    return _measured(json.dumps(asdict(factory), sort_keys=True), width)


@cache
def _measured(factory: str, width: int) -> dict[str, Init]:
    make, draws = ModuleFactory(**json.loads(factory)), dict[str, list[_Draw]]()
    numbers = 0
    for index in range(_MAX_DRAWS):
        with torch.device("cpu"):
            module = replace(make, seed=make.seed + index)(width)
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                draws.setdefault(name, []).append(_Draw.of(parameter))
                numbers += parameter.numel()
        enough = all(sum(draw.count for draw in drawn) >= _ENOUGH or _is_known(drawn) for drawn in draws.values())
        if index and (enough or numbers >= _MAX_NUMBERS):
            break
    return {name: _init(name, drawn) for name, drawn in draws.items()}


def _is_known(draws: list[_Draw]) -> bool:
    """Whether every draw gave the same values."""
    return all(draw == draws[0] for draw in draws)


def _init(name: str, draws: list[_Draw]) -> Init:
    first, count = draws[0], sum(draw.count for draw in draws)
    if _is_known(draws):
        if first.low == first.high:
            return Init("fixed", 0.0, mean=first.low)
        return Init("fixed", _rounded(math.sqrt(first.square)), "as built")
    mean = sum(draw.mean * draw.count for draw in draws) / count
    variance = sum(draw.square * draw.count for draw in draws) / count - mean**2
    std = math.sqrt(max(variance, 0.0) * count / (count - 1))
    reach = max(max(draw.high - mean, mean - draw.low) for draw in draws)
    if first.repeats or reach > _NORMAL_REACH * std:
        raise ParametrizationError(
            f"{name}: its initial values are neither constant, nor uniform, nor normal; split the parameter, or fill it by one rule"
        )
    distribution: Distribution = "uniform" if reach < _UNIFORM_REACH * std else "normal"
    if abs(mean) < _MEAN_ERRORS * std / math.sqrt(count):
        mean, reach = 0.0, max(max(draw.high, -draw.low) for draw in draws)
    if distribution == "uniform":  # the largest of n values falls short of the bound by one part in n + 1
        std = reach * (count + 1) / count / math.sqrt(3)
    return Init("fixed", _rounded(std), distribution, _rounded(mean))


def _rounded(value: float) -> float:
    """Six digits: sums that another number of threads adds up in another order give the same table."""
    return float(f"{value:.6g}")
