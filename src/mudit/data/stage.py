"""The stage `data`: images of `config.data` into the experiment's latent store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mudit.data.encoders import open_encoder
from mudit.data.sources import open_source
from mudit.data.writer import StoreWriter
from mudit.logs import progress

if TYPE_CHECKING:
    from mudit.stages import Job


def run(job: Job) -> dict[str, object]:
    """Writes the store into `job.out`. Raises ConfigError or DataError on a bad source or image; resumes by shards."""
    source = open_source(job.config.data)
    encoder = open_encoder(job.config.data)
    writer = StoreWriter(job.config.data, source, encoder, job.out, job.state)
    with progress(len(source.names), "data") as bar:
        info = writer.write(bar.advance)
    return {
        "train": info.splits["train"].count,
        "validation": info.splits["validation"].count,
        "corrupt": info.corrupt.count,
        "bytes": sum(shard.bytes for split in info.splits.values() for shard in split.shards),
        "flops": 0,
        "device": encoder.device,
    }
