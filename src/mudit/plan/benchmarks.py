"""What public benchmarks compute, store and read. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from mudit.config.benchmarks import FidClipSection, GenEvalSection, prompt_count
from mudit.config.schema import Experiment
from mudit.plan import encoders
from mudit.plan.dataset import DataFacts, text_widths
from mudit.plan.work import Work, caption, drawing
from mudit.sizes import SHARD_BYTES, SHARD_PROMPTS

_TOKEN_BYTES = {"float16": 2, "bfloat16": 2, "int8": 1, "on-the-fly": 4}
_EMBEDDING = 4 * 768  # bytes of CLIP's of one image or prompt
_FEATURE = 4 * 2048  # bytes of Inception's of one image


class Need(NamedTuple):
    """Of one job."""

    work: Work
    bytes: float
    files: int


def prompts(experiment: Experiment, name: str, data: DataFacts) -> Need:
    """The stage `prompts`: text features of every prompt; features and embeddings of every reference image."""
    benchmark = experiment.benchmarks[name]
    count = prompt_count(benchmark)
    captions = experiment.data.captions
    assert captions is not None, "the configuration allows benchmarks only where captions are read"
    work = Work().add("fp32", count * caption(experiment, data))
    token_dim, pooled_dim = text_widths(experiment.data, experiment.model)
    size = count * (data.caption_tokens * token_dim * _TOKEN_BYTES[captions.storage] + 4 * pooled_dim)
    if isinstance(benchmark, FidClipSection):
        work.add("fp32", 2 * count * (encoders.extractor(experiment.evaluate.extractor) + encoders.clip_vision()))
        size += count * (2 * _EMBEDDING + _FEATURE)
    return Need(work, size, -(-count // SHARD_PROMPTS))


def benchmark(experiment: Experiment, name: str, data: DataFacts, sets: int) -> Need:
    """The stage `benchmark` of a run with so many sets of weights.

    Images of each, seen by CLIP (GenEval: at most, where colours matter) and by extractor or detector.
    """
    section = experiment.benchmarks[name]
    images = sets * prompt_count(section) * section.images_per_prompt
    fid = isinstance(section, FidClipSection)
    judge = encoders.extractor(experiment.evaluate.extractor) if fid else encoders.MASK2FORMER
    work = drawing(experiment, data, images).add("fp32", 2 * images * (judge + encoders.clip_vision()))
    pixels = 3 * images * experiment.data.image_size**2
    return Need(work, pixels, sets * -(-pixels // (sets * SHARD_BYTES)))


def paths(section: FidClipSection | GenEvalSection) -> Iterator[tuple[str, str]]:
    """(key, path) of what must lie on disk."""
    yield "clip", section.clip
    if isinstance(section, GenEvalSection):
        yield "prompts", section.prompts
        yield "detector.path", section.detector.path
        return
    for key in ("captions", "metadata", "images"):
        if isinstance(path := getattr(section.prompts, key, None), str):
            yield f"prompts.{key}", path
