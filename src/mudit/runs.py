"""Run identity: a run's settings -> one name -> one directory, and back. Imports no torch.

A *trial* is a run of the sweep and carries its learning rate; a *target* gets its learning rate from the transfer stage, so its
name carries only the arm and the seed. A *setting* is what trials of one shape share: scheme, width, batch size.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mudit.errors import ConfigError

_SETTING = re.compile(r"(?P<scheme>[a-z][a-z0-9-]*)_w(?P<width>\d+)_b(?P<batch_size>\d+)")
_TARGET = re.compile(r"(?P<arm>[a-z][a-z0-9-]*)_s(?P<seed>\d+)")
_TRIAL = re.compile(_SETTING.pattern + r"_lr(?P<log2_lr>-?\d+(?:\.\d+)?)_s(?P<seed>\d+)")


@dataclass(frozen=True, order=True)
class Setting:
    """Scheme, model width (channels) and batch size (images): one process of the sweep."""

    scheme: str
    width: int
    batch_size: int

    @property
    def name(self) -> str:
        return f"{self.scheme}_w{self.width}_b{self.batch_size}"

    @classmethod
    def parse(cls, name: str) -> Setting:
        """Inverse of `name`. Raises ConfigError on anything else."""
        match = _full(_SETTING, name, "sweep setting", "mup_w32_b64")
        return cls(match["scheme"], int(match["width"]), int(match["batch_size"]))


@dataclass(frozen=True, order=True)
class Trial:
    """One run of the sweep: a setting with log2 of the base learning rate and a seed."""

    setting: Setting
    log2_lr: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.setting.name}_lr{_number(self.log2_lr)}_s{self.seed}"

    @classmethod
    def parse(cls, name: str) -> Trial:
        """Inverse of `name`. Raises ConfigError on anything else."""
        match = _full(_TRIAL, name, "trial", "mup_w32_b64_lr-7_s0")
        setting = Setting(match["scheme"], int(match["width"]), int(match["batch_size"]))
        return cls(setting, float(match["log2_lr"]), int(match["seed"]))


@dataclass(frozen=True, order=True)
class Target:
    """One run at the target width: arm and seed."""

    arm: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm}_s{self.seed}"

    @classmethod
    def parse(cls, name: str) -> Target:
        """Inverse of `name`. Raises ConfigError on anything else."""
        match = _full(_TARGET, name, "target run", "mup_s0")
        return cls(match["arm"], int(match["seed"]))


def _number(value: float) -> str:
    """Shortest decimal text that parses back to the same float, without an exponent or a trailing `.0`."""
    text = f"{value:.17f}".rstrip("0").rstrip(".") if "e" in repr(value) else repr(float(value)).removesuffix(".0")
    return "0" if text in ("-0", "") else text


def _full(pattern: re.Pattern[str], name: str, what: str, example: str) -> re.Match[str]:
    match = pattern.fullmatch(name)
    if match is None:
        raise ConfigError(f"{name!r} is not the name of a {what}; an example is {example!r}")
    return match
