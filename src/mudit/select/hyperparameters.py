"""The target's hyperparameters as a file: written by the stage `transfer`, read by `train`, edited by nobody."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from mudit.train.knobs import Knobs

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
    clip_norm: float | None = Field(description="largest norm of the whole gradient; null: no clipping")
    warmup_steps: int = Field(description="steps over which the learning rate rises linearly; 0: none")
    alignment_weight: float = Field(description="weight of the REPA loss; 0: none")
    weight_decay: float = Field(description="base weight decay")
    source: str = Field(description="where the learning rate comes from, and what else came with it")
    certified: bool | None = Field(
        description="verdict `transfers` on the width axis; null if nothing was transferred, or no axis was there to judge by"
    )

    @property
    def knobs(self) -> Knobs:
        """What a run is made with."""
        return Knobs(self.log2_lr, self.clip_norm, self.warmup_steps, self.alignment_weight)

    def write(self, folder: Path) -> None:
        """Into an artefact's folder."""
        (folder / FILE).write_text(self.model_dump_json(indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Hyperparameters:
        """From an artefact's folder."""
        return cls.model_validate_json((folder / FILE).read_text())
