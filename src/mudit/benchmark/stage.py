"""The stage `benchmark`: images of one run for a public benchmark, and its figures as self-contained records.

Artefact: `final/`, a set of images of the last weights (`mudit.evaluate.samples`), lossless; `metrics.json` with records of the
same form as those of `evaluate`; and for GenEval `verdicts.json`, what is wrong with which image. Processes share batches of
images, then pieces of 256 images to judge; whoever is stopped goes on at the first batch or piece that is missing.

Shapes: N images, n of a piece, C channels, H W height and width, D features, S CLIP's space.
"""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mudit.benchmark.fid_clip import FidClip
from mudit.benchmark.geneval_figures import GenEval
from mudit.benchmark.prompt_store import PromptStore
from mudit.config.benchmarks import FidClipSection
from mudit.config.cluster import SampleWorkers
from mudit.config.published import sampled_weights
from mudit.data.reader import LatentStore
from mudit.errors import DataError
from mudit.evaluate.drawer import NetworkDrawer
from mudit.evaluate.generate import generate
from mudit.evaluate.pieces import Piece, Pieces
from mudit.evaluate.records import unusable_records
from mudit.evaluate.samples import FINAL, SampleSet
from mudit.evaluate.settings import image_settings, record_context, sampling_context
from mudit.interrupt import Interrupt
from mudit.models.flops import inference_flops
from mudit.runs import Benchmarked
from mudit.sweep.crew import Crew
from mudit.train.weights import load_model

if TYPE_CHECKING:
    from mudit.stages import Job

METRICS_FILE = "metrics.json"
PIECE_IMAGES = 256


def run(job: Job) -> dict[str, Any]:
    """Raises ConfigError on impossible steps, DataError or CheckpointError on inputs that are damaged or do not fit."""
    key, section, model = Benchmarked.parse(job.key), job.config.sample, job.config.model
    benchmark = job.config.benchmarks[key.benchmark]
    store, prompts = LatentStore.open(job.inputs["data"]), PromptStore(job.inputs[f"prompts/{key.benchmark}"])
    store.check_fits(model)
    _check_encoders(store, prompts, key.benchmark)
    network = functools.partial(load_model, job.weights, job.config, sampled_weights(job.config))
    compiled = isinstance(job.workers, SampleWorkers) and job.workers.compile
    drawer = NetworkDrawer(network, prompts, store.encoder(), section, model, job.config.diffusion, compiled)
    settings = image_settings(job.config, key.run, job.weights, store, prompts) | {"images": prompts.images}
    folder = job.out / FINAL
    with Interrupt() as interrupt:
        crew = Crew(interrupt)
        summary = generate(
            folder,
            job.state / FINAL,
            drawer,
            prompts.images,
            settings,
            prompts.texts(prompts.images),
            crew,
            f"draw {job.key}",
        )
        samples = SampleSet(folder)
        if isinstance(benchmark, FidClipSection):
            figures: FidClip | GenEval = FidClip(job, benchmark, key.benchmark, prompts)
        else:
            figures = GenEval(benchmark, key.benchmark, prompts)
        usable = not summary.not_finite
        if usable:
            pieces = Pieces(job.state / "pieces")
            pieces.begin({**settings, "judges": figures.identity}, crew)
            work = _pieces(samples, figures)
            pieces.make(work, crew, f"judge {job.key}")
    if not crew.world.main:
        return {}
    if usable:
        records = figures.records([pieces.load(piece.name) for piece in work], section.seed, job.out)
    else:
        reason = f"{summary.not_finite} of {summary.images} generated images are not finite"
        records = unusable_records(list(figures.metrics), reason, summary.images)
    context = record_context(job.config, samples) | sampling_context(samples, benchmark.protocol) | {"benchmark": key.benchmark}
    _write(job.out / METRICS_FILE, key, [{**context, **record} for record in records])
    shutil.rmtree(job.state)
    passes = summary.images * section.steps * (1 if section.guidance == 1.0 else 2)
    return {
        **{record["metric"]: record["value"] for record in records},
        "images": summary.images,
        "not_finite": summary.not_finite,
        "flops": inference_flops(model, settings["model"]["width"], passes),
        "device": drawer.device.type,
    }


def _check_encoders(store: LatentStore, prompts: PromptStore, benchmark: str) -> None:
    """The prompts must have been read by the encoders that the model was trained with."""
    assert store.info.text is not None, "the store was checked against a text model"
    if prompts.info["text"]["encoders"] != store.info.text.encoders:
        raise DataError(
            f"benchmarks.{benchmark}: its prompts were read by other text encoders than the store's captions; check the folders in "
            "data.captions, and run `mudit prompts` again"
        )


def _pieces(samples: SampleSet, figures: FidClip | GenEval) -> list[Piece]:
    return [
        Piece(f"judged-{numbers.start:08d}", len(numbers), functools.partial(figures.measure, samples, numbers))
        for numbers in (range(first, min(first + PIECE_IMAGES, len(samples))) for first in range(0, len(samples), PIECE_IMAGES))
    ]


def _write(path: Path, key: Benchmarked, records: list[dict[str, Any]]) -> None:
    whole = {"run": key.run, "benchmark": key.benchmark, "records": records}
    path.write_text(json.dumps(whole, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
