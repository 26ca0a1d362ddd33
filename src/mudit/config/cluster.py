"""Sections of `config.yaml` about machines: processes, memory, budget. No artefact depends on them beyond rounding.

They are part of no stage's parameters, so changing them never makes a result stale.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mudit.config.base import Count, PositiveInt, Section, Share

ProcessorName = Literal["a100-40gb", "a100-80gb", "h100-80gb", "h200-141gb", "b200-192gb", "cpu-core"]


class Workers(Section):
    """Processes of one job."""

    nodes: PositiveInt = Field(description="machines")
    per_node: PositiveInt = Field(description="processes on each machine: one per GPU")

    @property
    def processes(self) -> int:
        """Of the whole job."""
        return self.nodes * self.per_node


class EncodeWorkers(Workers):
    """Processes that share the shards of the latent store."""

    micro_batch: PositiveInt | None = Field(description="images per call of the encoders; null: 32")


class TrialWorkers(Workers):
    """Processes that share the trials of a sweep or search: each trial runs on one of them."""

    micro_batch: PositiveInt | None = Field(description="images of one trial per forward pass; null: the whole batch at once")


class TrainWorkers(Workers):
    """Processes of a target run, and how they share its memory."""

    parallel: Literal["replicated", "sharded"] = Field(
        description="`replicated`: each process holds the whole model (DDP); `sharded`: a part of it (FSDP2)"
    )
    micro_batch: PositiveInt | None = Field(description="images per forward pass and process; null: its whole share of the batch")
    checkpoint_activations: bool = Field(description="compute the blocks' activations again in the backward pass, to save memory")
    compile: bool = Field(description="compile the blocks with torch.compile")


class SampleWorkers(Workers):
    """Processes that share the batches of generated images."""

    compile: bool = Field(description="compile the network's blocks with torch.compile")


class ExpectSection(Section):
    """What `mudit plan` takes for granted of data that it cannot count before the store is made."""

    images: PositiveInt = Field(description="images of the whole source, before data.share")
    caption_tokens: float | None = Field(gt=0, description="tokens of a caption on average; null: data.captions.max_tokens")


class ExecutionSection(Section):
    """How stages of one experiment run. A stage that is left out runs in one process."""

    expect: ExpectSection | None = Field(default=None, description="size of the data, for the plan")
    data: EncodeWorkers | None = Field(default=None, description="encoding into the store")
    sweep: TrialWorkers | None = Field(default=None, description="each sweep")
    search: TrialWorkers | None = Field(default=None, description="the random search")
    train: TrainWorkers | None = Field(default=None, description="each target run")
    sample: SampleWorkers | None = Field(default=None, description="images of each run")
    extractor: Workers | None = Field(default=None, description="real images through the extractor of the metrics")
    evaluate: Workers | None = Field(default=None, description="metrics of each run")
    benchmark: SampleWorkers | None = Field(default=None, description="images and figures of each run and benchmark")


class ClusterSection(Section):
    """What `mudit plan` reckons with, and what a study may cost."""

    gpu: ProcessorName = Field(description="type of the processors, for peak rates and memory")
    per_node: PositiveInt = Field(description="processors of one machine")
    nodes: PositiveInt = Field(description="machines that a study may use at once")
    utilisation: dict[ProcessorName, Annotated[Share, Field(gt=0)]] = Field(
        description="share of its peak that each type reaches in training (MFU): measured, or an assumption; `cpu-core`: the gate's"
    )
    job_hours: float = Field(gt=0, description="longest job that the queue takes; longer runs are cut into slices that resume")
    price_per_hour: float | None = Field(description="of one processor, in your currency; null: no prices")
    cap_hours: float | None = Field(
        description="processor-hours that a study may be expected to cost; a dearer one does not start, one that may cost more "
        "than is expected does; null: no cap"
    )
    disk_gb: float | None = Field(description="disk that a study may fill, in 10^9 bytes; null: what is free where it runs")
    inodes: Count | None = Field(description="files that a study may make; null: not checked")

    @model_validator(mode="after")
    def _share_is_known(self) -> Self:
        """No type's share is taken for another's. Jobs without a GPU are reckoned on cores."""
        for name in (self.gpu, "cpu-core"):
            if name not in self.utilisation:
                raise ValueError(
                    f"utilisation has no figure for {name!r}; add one, measured (`mfu` in a run's manifest.json) or assumed, "
                    f"for example {name}: 0.2"
                )
        return self

    @model_validator(mode="after")
    def _positive(self) -> Self:
        for name in ("price_per_hour", "cap_hours", "disk_gb"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, or null")
        return self
