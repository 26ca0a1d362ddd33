"""The stage `data`: images of `config.data`, with captions and image features if it asks for them, into the latent store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mudit.config.cluster import EncodeWorkers
from mudit.data.encoders import Encoder, open_encoder
from mudit.data.features import open_feature_encoder
from mudit.data.room import check_room
from mudit.data.sources import Source, open_source
from mudit.data.text import CaptionEncoder
from mudit.data.writer import ENCODE_BATCH, StoreWriter
from mudit.jobs.distributed import World, barrier
from mudit.logs import progress

if TYPE_CHECKING:
    from mudit.config.data import DataSection
    from mudit.stages import Job


def run(job: Job) -> dict[str, object]:
    """Writes the store into `job.out`; several ranks share its shards. Resumes by shards, which `job.state` keeps.

    Raises ConfigError or DataError on a bad source or image, ResultsError if the disk has too little room.
    """
    data, state = job.config.data, job.state / "shards"
    source, encoder = _opened(data)
    text = CaptionEncoder(data.captions) if data.captions is not None else None
    features = open_feature_encoder(data.features) if data.features is not None else None
    if World.of_environment().main:
        check_room(data, source, encoder, text, job.out, state)
    batch = (isinstance(job.workers, EncodeWorkers) and job.workers.micro_batch) or ENCODE_BATCH
    writer = StoreWriter(data, source, encoder, job.out, state, text, features, batch)
    with progress(len(source.names), "data", unit="images") as bar:
        info = writer.write(bar.advance)
    job.known.update({entry.file: (entry.sha256, entry.bytes) for entry in info.files()})
    summary: dict[str, object] = {
        "train": info.splits["train"].count,
        "validation": info.splits["validation"].count,
        "corrupt": info.corrupt.count,
        "without_caption": info.corrupt.without_caption,
        "unused_captions": info.corrupt.unused_captions,
        "unlisted_images": info.corrupt.unlisted_images,
        "bytes": sum(entry.bytes for entry in info.files()),
        "flops": 0 if encoder.identity["name"] == "identity" and text is None and features is None else None,
        "device": encoder.device,
    }
    if info.text is not None:
        summary |= {"captions_cut": info.text.cut, "token_error": info.text.relative_error}
    return summary


def _opened(data: DataSection) -> tuple[Source, Encoder]:
    """By rank 0 first: what it indexes or fetches is in the cache for the others."""
    if not World.of_environment().main:
        barrier()
    opened = open_source(data), open_encoder(data)
    if World.of_environment().main:
        barrier()
    return opened
