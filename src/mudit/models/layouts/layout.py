"""A map between our parameter names and another code base's, and the two conversions.

One entry says where a module's tensors (or one bare parameter) lie elsewhere. Three things happen besides renaming: one of our
tensors is several of theirs, stacked along the first dimension (fused queries, keys and values); its two halves change places
(scale before shift); or every block of theirs holds its own copy of what we have once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mudit.errors import CheckpointError

_LEAVES = ("weight", "bias")


@dataclass(frozen=True)
class Entry:
    """A module of ours (its weight and bias) or a bare parameter, and the places that hold it elsewhere."""

    ours: str
    theirs: tuple[str, ...]  # parts of equal size, stacked along the first dimension
    halves_swapped: bool = False
    copies: tuple[str, ...] = ()  # further places with the same content; only for one-part entries


@dataclass(frozen=True)
class Layout:
    """All entries of a model of one depth.

    `rebuilt`: theirs that we compute (fixed position tables). `own`: ours, by prefix, that they lack.
    """

    name: str
    entries: tuple[Entry, ...]
    rebuilt: tuple[str, ...] = ()
    own: tuple[str, ...] = ()

    def to_theirs(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our state dict in their layout, without what they rebuild. Raises CheckpointError for a name without an entry."""
        modules = {entry.ours: entry for entry in self.entries}
        theirs: dict[str, Tensor] = {}
        for name, tensor in ours.items():
            if name.startswith(self.own):
                continue
            module, leaf = _split(name)
            entry = modules.get(module)
            if entry is None:
                raise CheckpointError(f"{name} has no place in the layout {self.name}; was the model built with other options?")
            value = _swap(tensor) if entry.halves_swapped else tensor
            for place, part in zip(entry.theirs, value.chunk(len(entry.theirs)), strict=True):
                theirs[place + leaf] = part
            theirs |= {place + leaf: value for place in entry.copies}
        return theirs

    def to_ours(self, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Their state dict in our layout. Raises CheckpointError for names that are missing or unknown, or copies that differ."""
        rest = {name: tensor for name, tensor in theirs.items() if name not in self.rebuilt}
        ours: dict[str, Tensor] = {}
        for entry in self.entries:
            leaves = [leaf for leaf in ("", *(f".{leaf}" for leaf in _LEAVES)) if entry.theirs[0] + leaf in rest]
            if not leaves:
                raise CheckpointError(f"{entry.theirs[0]} is missing: this is not a checkpoint of the layout {self.name}")
            for leaf in leaves:
                value = torch.cat([_take(rest, place + leaf, self.name) for place in entry.theirs])
                for place in entry.copies:
                    if not torch.equal(_take(rest, place + leaf, self.name), value):
                        raise CheckpointError(
                            f"{place + leaf} differs from {entry.theirs[0] + leaf}; our model has one tensor for both"
                        )
                ours[entry.ours + leaf] = _swap(value) if entry.halves_swapped else value
        if rest:
            raise CheckpointError(
                f"{min(rest)} is unknown to the layout {self.name}; is the checkpoint of another depth or variant?"
            )
        return ours


def identity(
    name: str, ours: Iterable[str], *, prefix: str = "", rebuilt: tuple[str, ...] = (), own: tuple[str, ...] = ()
) -> Layout:
    """A layout whose names are ours behind a prefix, for the tensors named in `ours`."""
    modules = dict.fromkeys(_split(tensor)[0] for tensor in ours if not own or not tensor.startswith(own))
    return Layout(name, tuple(Entry(module, (prefix + module,)) for module in modules), rebuilt, own)


def _split(name: str) -> tuple[str, str]:
    """`a.b.weight` -> (`a.b`, `.weight`); a bare parameter -> (its name, nothing)."""
    module, _, leaf = name.rpartition(".")
    return (module, f".{leaf}") if leaf in _LEAVES else (name, "")


def _swap(tensor: Tensor) -> Tensor:
    first, second = tensor.chunk(2)
    return torch.cat([second, first])


def _take(rest: dict[str, Tensor], name: str, layout: str) -> Tensor:
    try:
        return rest.pop(name)
    except KeyError:
        raise CheckpointError(f"{name} is missing: this is not a whole checkpoint of the layout {layout}") from None
