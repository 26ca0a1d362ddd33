"""Run identity: a run's settings -> one name -> one directory, and back. Imports no torch.

A *setting* is what the trials of one sweep share: scheme, width, batch size, and in the study of the readout's multiplier that too.
A *target* gets its hyperparameters from the transfer stage, so its name carries only the arm and the seed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from mudit.errors import ConfigError

_SETTING = re.compile(r"(?P<scheme>[a-z][a-z0-9-]*)_w(?P<width>\d+)_b(?P<batch_size>\d+)(?:_o(?P<log2_output_mult>-?\d+))?")
_TARGET = re.compile(r"(?P<arm>[a-z][a-z0-9-]*)_s(?P<seed>\d+)")


@dataclass(frozen=True)
class Setting:
    """Scheme, model width (channels) and batch size (images): one process of the sweep."""

    scheme: str
    width: int
    batch_size: int
    log2_output_mult: int | None = None
    """Replaces `model.output_mult`; None: as configured."""

    @property
    def name(self) -> str:
        """For example `mup_w32_b64`, or `mup_w32_b64_o-2` with the readout's multiplier 2^-2."""
        multiplier = "" if self.log2_output_mult is None else f"_o{self.log2_output_mult}"
        return f"{self.scheme}_w{self.width}_b{self.batch_size}{multiplier}"

    @classmethod
    def parse(cls, name: str) -> Setting:
        """Inverse of `name`. Raises ConfigError on anything else."""
        match = _full(_SETTING, name, "sweep setting", "mup_w32_b64")
        multiplier = match["log2_output_mult"]
        setting = cls(
            match["scheme"], int(match["width"]), int(match["batch_size"]), None if multiplier is None else int(multiplier)
        )
        if setting.name != name:
            raise ConfigError(f"{name!r} is not the name of a sweep setting; it would be {setting.name!r}")
        return setting


@dataclass(frozen=True, order=True)
class Target:
    """One run at the target width: arm and seed."""

    arm: str
    seed: int

    @property
    def name(self) -> str:
        """For example `mup_s0`."""
        return f"{self.arm}_s{self.seed}"

    @classmethod
    def parse(cls, name: str) -> Target:
        """Inverse of `name`. Raises ConfigError on anything else."""
        match = _full(_TARGET, name, "target run", "mup_s0")
        return cls(match["arm"], int(match["seed"]))


class Benchmarked(NamedTuple):
    """One run and the public benchmark that it is put to."""

    run: str
    benchmark: str

    @property
    def name(self) -> str:
        """For example `mup_s0_coco`. Names of benchmarks have no underscore."""
        return f"{self.run}_{self.benchmark}"

    @classmethod
    def parse(cls, name: str) -> Benchmarked:
        """Inverse of `name`. Raises ConfigError on anything else."""
        run, _, benchmark = name.rpartition("_")
        if not run or not benchmark:
            raise ConfigError(f"{name!r} is not the name of a run and a benchmark; an example is 'mup_s0_coco'")
        return cls(run, benchmark)


def _full(pattern: re.Pattern[str], name: str, what: str, example: str) -> re.Match[str]:
    match = pattern.fullmatch(name)
    if match is None:
        raise ConfigError(f"{name!r} is not the name of a {what}; an example is {example!r}")
    return match
