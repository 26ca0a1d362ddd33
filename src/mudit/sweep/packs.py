"""Packs of trials: how they are dealt to processes, and checkpoints of those that were begun.

A pack that has a checkpoint is a folder `<digest of its members>/` with `members.json` and, for each of its newest checkpoints,
`step-00000200.safetensors` and `step-00000200.json` (checksum, state of the runs). It belongs to no process: whoever comes next
goes on with it, however many processes there are then. A checkpoint exists once its JSON file does, which comes last, by a rename.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mudit.data.tensors import save_tensors
from mudit.files import sha256_file, sync, write_text
from mudit.jobs.distributed import World, broadcast
from mudit.train.group import Member
from mudit.train.knobs import Knobs

log = logging.getLogger(__name__)

_KEEP = 2  # the newest may turn out to be damaged
_MEMBERS, _SIZE = "members.json", "size.json"


class Checkpoint(NamedTuple):
    """A pack as it was after `step` optimizer steps."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]  # JSON values


class Pack:
    """Trials that run together, in the order of `members`, and their checkpoints."""

    def __init__(self, root: Path, members: Sequence[Member]) -> None:
        self.members = list(members)
        self._described = json.dumps([{"knobs": list(member.knobs), "seed": member.seed} for member in members])
        self._folder = root / hashlib.sha256(self._described.encode()).hexdigest()[:16]

    @classmethod
    def read(cls, folder: Path) -> Pack | None:
        """The pack of a folder; None, loudly, if the folder does not say whose it is."""
        try:
            described = json.loads((folder / _MEMBERS).read_text())
            return cls(folder.parent, [Member(Knobs(*each["knobs"]), each["seed"]) for each in described])
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s cannot be read (%s); its trials start again", folder / _MEMBERS, error)
            return None

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, then drop all before it but one. If it cannot be written (OSError), the others stay."""
        self._folder.mkdir(parents=True, exist_ok=True)
        tensors, state = self._files(checkpoint.step)
        try:
            write_text(self._folder / _MEMBERS, self._described, durable=True)
            save_tensors(checkpoint.tensors, tensors)
            sync(tensors)
            write_text(state, json.dumps({"sha256": sha256_file(tensors), "state": checkpoint.state}), durable=True)
        except OSError:
            tensors.unlink(missing_ok=True)
            raise
        sync(self._folder)
        # Those of later steps were damaged, and the pack is not there again yet.
        for step in [step for step in self._steps() if step <= checkpoint.step][:-_KEEP]:
            for path in reversed(self._files(step)):
                path.unlink(missing_ok=True)

    def latest(self) -> Checkpoint | None:
        """The newest undamaged checkpoint, on the CPU; None if there is none. Damaged ones are named in the log."""
        for step in reversed(self._steps()):
            tensors, state = self._files(step)
            try:
                described = json.loads(state.read_text())
                if sha256_file(tensors) != described["sha256"]:
                    raise ValueError("it differs from its checksum")
                return Checkpoint(step, load_file(tensors), described["state"])
            except (OSError, ValueError, KeyError, SafetensorError) as error:
                log.warning("%s is damaged (%s); going back to the checkpoint before it", tensors, error)
        return None

    def forget(self) -> None:
        """Remove the checkpoints of a pack whose records are kept."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _files(self, step: int) -> tuple[Path, Path]:
        name = f"step-{step:08d}"
        return self._folder / f"{name}.safetensors", self._folder / f"{name}.json"

    def _steps(self) -> list[int]:
        return sorted(int(path.stem.removeprefix("step-")) for path in self._folder.glob("step-*.json"))


class Packs:
    """The packs of one sweep. All processes hold the same, and deal alike."""

    def __init__(self, root: Path) -> None:
        """Rank 0 looks at the folder; no process may have begun to write there."""
        self._root = root
        begun, self._measured = broadcast(_found(root) if World.of_environment().main else ([], None))
        self._begun: list[Pack] = begun

    @property
    def measured(self) -> tuple[int, dict[int, float]] | None:
        """Size of a pack and timings, as an earlier start of this sweep measured them."""
        return self._measured

    def remember(self, size: int, seconds: dict[int, float]) -> None:
        """Keep a measurement for later starts. For rank 0."""
        self._root.mkdir(parents=True, exist_ok=True)
        write_text(self._root / _SIZE, json.dumps({"size": size, "seconds": seconds}), durable=True)

    def deal(self, members: Sequence[Member], size: int, processes: int) -> list[list[Pack]]:
        """For each process, the packs that it runs: those that were begun, as they are, then the others, at most `size` in each.

        Every member is in one pack; a begun pack may hold more than `members`, if a kill came while its records were written. New
        packs differ by one trial at most, processes by one pack.
        """
        wanted = set(members)
        begun = [pack for pack in self._begun if wanted & set(pack.members)]
        rest = [member for member in members if not any(member in pack.members for pack in begun)]
        rounds = -(-len(rest) // (size * processes))
        count = min(len(rest), rounds * processes)
        new = [Pack(self._root, rest[i * len(rest) // count : (i + 1) * len(rest) // count]) for i in range(count)]
        return [(begun + new)[rank::processes] for rank in range(processes)]

    def clear(self) -> None:
        """Remove all that is kept, when the sweep is over."""
        shutil.rmtree(self._root, ignore_errors=True)


def _found(root: Path) -> tuple[list[Pack], tuple[int, dict[int, float]] | None]:
    """Begun packs, and the measurement of the pack size."""
    packs = [Pack.read(folder) for folder in sorted(root.glob("*/"))]
    try:
        kept = json.loads((root / _SIZE).read_text())
        measured = kept["size"], {int(size): seconds for size, seconds in kept["seconds"].items()}
    except (FileNotFoundError, ValueError, KeyError):
        measured = None  # it is only a clock's word
    return [pack for pack in packs if pack is not None], measured
