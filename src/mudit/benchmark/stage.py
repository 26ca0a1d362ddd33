"""The stage `benchmark`: images of one run for a public benchmark, and its figures as self-contained records.

Artefact: sets of images (`mudit.evaluate.samples`), lossless: `final/` of the last weights, and one of each snapshot of the run;
`metrics.json` of the same form as that of `evaluate`; and for GenEval `verdicts.json`, what is wrong with which image (of a
snapshot `verdicts-step-0000400000.json`). Processes share batches of images, then pieces of 256 images to judge; whoever is
stopped goes on at the first batch or piece that is missing.

Shapes: N images, n of a piece, C channels, H W height and width, D features, S CLIP's space.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mudit.benchmark.fid_clip import FidClip
from mudit.benchmark.geneval_figures import GenEval, verdicts_file
from mudit.benchmark.prompt_store import PromptStore
from mudit.config.benchmarks import FidClipSection
from mudit.config.cluster import SampleWorkers
from mudit.config.published import sampled_weights
from mudit.data.reader import LatentStore
from mudit.errors import DataError
from mudit.evaluate.drawer import NetworkDrawer
from mudit.evaluate.generate import generate
from mudit.evaluate.pieces import Piece, Pieces
from mudit.evaluate.records import Record, unusable_records
from mudit.evaluate.samples import FINAL, SampleSet, set_name
from mudit.evaluate.settings import image_settings, record_context, sampling_context
from mudit.jobs.crew import Crew
from mudit.jobs.interrupt import Interrupt
from mudit.models.flops import inference_flops
from mudit.runs import Benchmarked
from mudit.train.snapshots import snapshots
from mudit.train.weights import load_model

if TYPE_CHECKING:
    from mudit.stages import Job

METRICS_FILE = "metrics.json"
PIECE_IMAGES = 256


def run(job: Job) -> dict[str, Any]:
    """Raises ConfigError on impossible steps, DataError or CheckpointError on inputs that are damaged or do not fit."""
    key, section, model = Benchmarked.parse(job.key), job.config.sample, job.config.model
    store, prompts = LatentStore.open(job.inputs["data"]), PromptStore(job.inputs[f"prompts/{key.benchmark}"])
    store.check_fits(model)
    _check_encoders(store, prompts, job.experiment, key.benchmark)
    with Interrupt() as interrupt:
        crew = Crew(interrupt)
        sets, device = _draw(job, key.run, store, prompts, crew)
        figures = _figures(job, key.benchmark, prompts)
        usable = [each for each in sets if each.finite_N.all()]
        pieces = Pieces(job.state / "pieces")
        pieces.begin({"sets": [each.settings for each in sets], "judges": figures.identity}, crew)
        work = {each.name: _pieces(each, figures) for each in usable}
        pieces.make([piece for each in work.values() for piece in each], crew, f"judge {job.key}")
    if not crew.world.main:
        return {}
    records: dict[str, list[Record]] = {}
    for samples in sets:
        bad = int((~samples.finite_N).sum())
        if bad:
            reason = f"{bad} of {len(samples)} generated images are not finite"
            found = unusable_records(list(figures.metrics), reason, len(samples))
        else:
            parts = [pieces.load(piece.name) for piece in work[samples.name]]
            found = figures.records(parts, section.seed)
            if isinstance(figures, GenEval):
                figures.write_verdicts(job.out / verdicts_file(samples.name), parts)
        protocol = job.config.benchmarks[key.benchmark].protocol
        context = record_context(job.config, samples) | sampling_context(samples, protocol) | {"benchmark": key.benchmark}
        records[samples.name] = [{**context, **record} for record in found]
    final = records.pop(FINAL)
    _write(job.out / METRICS_FILE, key, final, [record for each in records.values() for record in each])
    passes = len(sets) * prompts.images * section.steps * (1 if section.guidance == 1.0 else 2)
    return {
        **{record["metric"]: record["value"] for record in final},
        "images": prompts.images,
        "sets": len(sets),
        "not_finite": sum(int((~each.finite_N).sum()) for each in sets),
        "flops": inference_flops(model, sets[-1].settings["model"]["width"], passes),
        "device": device,
    }


def _draw(job: Job, run: str, store: LatentStore, prompts: PromptStore, crew: Crew) -> tuple[list[SampleSet], str]:
    """A set of images of each snapshot, then of the last weights, all of the same prompts and noise; and the device."""
    section, which, sets = job.config.sample, sampled_weights(job.config), []
    compiled = isinstance(job.workers, SampleWorkers) and job.workers.compile
    encoder, model, diffusion = store.encoder(), job.config.model, job.config.diffusion
    for step, weights in [*snapshots(job.weights).items(), (None, job.weights)]:
        network, name = functools.partial(load_model, weights, job.config, which), set_name(step)
        drawer = NetworkDrawer(network, prompts, encoder, section, model, diffusion, compiled)
        settings = image_settings(job.config, run, job.weights, store, prompts, None if step is None else (step, weights))
        title, texts = f"draw {job.key} {name}", prompts.texts(prompts.images)
        generate(job.out / name, job.state / name, drawer, prompts.images, settings, texts, crew, title)
        sets.append(SampleSet(job.out / name))
    return sets, drawer.device.type


def _figures(job: Job, name: str, prompts: PromptStore) -> FidClip | GenEval:
    """What measures sets: networks and references, loaded once for all of them."""
    benchmark = job.config.benchmarks[name]
    if isinstance(benchmark, FidClipSection):
        return FidClip(job, benchmark, name, prompts)
    return GenEval(benchmark, name, prompts)


def _check_encoders(store: LatentStore, prompts: PromptStore, experiment: str, benchmark: str) -> None:
    """The prompts must have been read by the encoders that the model was trained with."""
    assert store.info.text is not None, "the store was checked against a text model"
    if prompts.info["text"]["encoders"] != store.info.text.encoders:
        raise DataError(
            f"benchmarks.{benchmark}: its prompts were read by other text encoders than the store's captions; check the folders in "
            f"data.captions, and run `mudit prompts {experiment} {benchmark} --force`"
        )


def _pieces(samples: SampleSet, figures: FidClip | GenEval) -> list[Piece]:
    return [
        Piece(f"{samples.name}-judged-{numbers.start:08d}", len(numbers), functools.partial(figures.measure, samples, numbers))
        for numbers in (range(first, min(first + PIECE_IMAGES, len(samples))) for first in range(0, len(samples), PIECE_IMAGES))
    ]


def _write(path: Path, key: Benchmarked, records: list[Record], of_snapshots: list[Record]) -> None:
    whole = {"run": key.run, "benchmark": key.benchmark, "records": records, "snapshots": of_snapshots}
    path.write_text(json.dumps(whole, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
