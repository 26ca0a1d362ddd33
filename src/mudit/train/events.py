"""TensorBoard events of a run, beside its checkpoints. They hold wall times, so they are state and never part of an artefact."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from torch.utils.tensorboard import SummaryWriter


class Events:
    """Scalars by step. After a resume, what was written beyond the checkpoint is hidden by TensorBoard (`purge_step`)."""

    def __init__(self, folder: Path, first_step: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=first_step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._writer.close()

    def record(self, values: dict[str, float]) -> None:
        """One validation record of the trainer: "step" and any scalars."""
        step = int(values["step"])
        for name, value in values.items():
            if name != "step":
                self._writer.add_scalar(name, value, step)
