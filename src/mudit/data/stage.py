"""The stage `data`: images of `config.data`, with captions and image features if it asks for them, into the latent store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mudit.data.encoders import open_encoder
from mudit.data.features import open_feature_encoder
from mudit.data.sources import open_source
from mudit.data.text import CaptionEncoder
from mudit.data.writer import StoreWriter
from mudit.logs import progress

if TYPE_CHECKING:
    from mudit.stages import Job


def run(job: Job) -> dict[str, object]:
    """Writes the store into `job.out`. Raises ConfigError or DataError on a bad source or image; resumes by shards."""
    data = job.config.data
    source = open_source(data)
    encoder = open_encoder(data)
    text = CaptionEncoder(data.captions) if data.captions is not None else None
    features = open_feature_encoder(data.features) if data.features is not None else None
    writer = StoreWriter(data, source, encoder, job.out, job.state, text, features)
    with progress(len(source.names), "data") as bar:
        info = writer.write(bar.advance)
    return {
        "train": info.splits["train"].count,
        "validation": info.splits["validation"].count,
        "corrupt": info.corrupt.count,
        "bytes": sum(entry.bytes for split in info.splits.values() for shard in split.shards for entry in shard.files()),
        "flops": 0,
        "device": encoder.device,
    }
