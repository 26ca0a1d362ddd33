"""The target's hyperparameters as a file: written by the stage `transfer`, read by `train`, edited by nobody."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

FILE = "hyperparameters.json"


class Hyperparameters(BaseModel):
    """What one arm trains with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arm: str
    scheme: str
    width: int = Field(description="channels")
    batch_size: int = Field(description="images per step, over all ranks")
    steps: int = Field(description="optimizer steps")
    log2_lr: float = Field(description="base learning rate")
    weight_decay: float = Field(description="base weight decay")
    source: str = Field(description="where the learning rate comes from")
    certified: bool | None = Field(description="verdict `transfers` on the width axis; null if nothing was transferred")

    def write(self, folder: Path) -> None:
        """Into an artefact's folder."""
        (folder / FILE).write_text(self.model_dump_json(indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Hyperparameters:
        """From an artefact's folder."""
        return cls.model_validate_json((folder / FILE).read_text())
