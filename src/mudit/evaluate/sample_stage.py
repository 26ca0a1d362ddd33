"""The stage `sample`: images from the EMA weights of one target run, a set from the last ones and one from each snapshot.

Image i asks for class i mod K, or for caption i mod V of the V held-out ones, and draws its noise from (seed, i), so the set does
not depend on batch size or process count, and a prefix of it is a smaller set of the same kind. All sets of a run are of the same
prompts and the same noise.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

from mudit.config.cluster import SampleWorkers
from mudit.config.published import sampled_weights
from mudit.data.reader import LatentStore
from mudit.evaluate.drawer import NetworkDrawer
from mudit.evaluate.generate import generate
from mudit.evaluate.prompts import make_prompts
from mudit.evaluate.samples import set_name
from mudit.evaluate.settings import image_settings
from mudit.jobs.crew import Crew
from mudit.jobs.interrupt import Interrupt
from mudit.models.flops import inference_flops
from mudit.train.snapshots import snapshots
from mudit.train.weights import load_model

if TYPE_CHECKING:
    from mudit.stages import Job


def run(job: Job) -> dict[str, Any]:
    """Raises ConfigError on impossible steps, DataError or CheckpointError on inputs that are damaged or do not fit."""
    section, model_section = job.config.sample, job.config.model
    store = LatentStore.open(job.inputs["data"])
    store.check_fits(model_section)
    prompts = make_prompts(store, model_section, section.seed if job.config.as_published("random-labels") else None)
    encoder, which = store.encoder(), sampled_weights(job.config)
    compiled = isinstance(job.workers, SampleWorkers) and job.workers.compile
    not_finite = 0
    with Interrupt() as interrupt:
        crew = Crew(interrupt)
        for step, weights in [*snapshots(job.weights).items(), (None, job.weights)]:
            network = functools.partial(load_model, weights, job.config, which)
            drawer = NetworkDrawer(network, prompts, encoder, section, model_section, job.config.diffusion, compiled)
            name = set_name(step)
            summary = generate(
                job.out / name,
                job.state / name,
                drawer,
                section.images,
                image_settings(job.config, job.key, job.weights, store, prompts, None if step is None else (step, weights)),
                prompts.texts(section.images),
                crew,
                f"sample {job.key} {name}",
            )
            not_finite += summary.not_finite
    if not crew.world.main:
        return {}
    sets = len(snapshots(job.weights)) + 1
    width = json.loads((job.weights / "model.json").read_text(encoding="utf-8"))["width"]
    passes = sets * section.images * section.steps * (1 if section.guidance == 1.0 else 2)
    return {
        "images": section.images,
        "sets": sets,
        "not_finite": not_finite,
        "flops": inference_flops(model_section, width, passes),
        "device": drawer.device.type,
    }
