"""The stage `sample`: images from the EMA weights of one target run.

Several processes take turns at the batches, which are the same for any number of them; rank 0 puts them together.

Image i asks for class i mod K, or for caption i mod V of the V held-out ones, and draws its noise from (seed, i), so the set does
not depend on batch size or process count, and a prefix of it is a smaller set of the same kind.

Shapes: B batch, C channels, H W height and width.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mudit.config.published import sampled_weights
from mudit.data.encoders import Encoder
from mudit.data.format import sha256_file
from mudit.data.reader import LatentStore
from mudit.diffusion.objective import make_objective
from mudit.diffusion.samplers import Sampler, guided, initial_noise, make_sampler
from mudit.distributed import World, barrier
from mudit.evaluate.prompts import Prompts, make_prompts
from mudit.evaluate.samples import Samples, concatenate, load_samples, save_samples, write_artefact
from mudit.logs import progress
from mudit.models.condition import map_condition
from mudit.models.flops import inference_flops
from mudit.train.device import compute_device
from mudit.train.weights import load_model, weight_files

if TYPE_CHECKING:
    from mudit.config.schema import Experiment
    from mudit.stages import Job

PLAN_FILE = "plan.json"


def run(job: Job) -> dict[str, Any]:
    """Raises ConfigError on impossible steps, DataError or CheckpointError on inputs that are damaged or do not fit."""
    section, model_section = job.config.sample, job.config.model
    store = LatentStore.open(job.inputs["data"])
    store.check_fits(model_section)
    label_seed = job.config.sample.seed if job.config.as_published("random-labels") else None
    prompts = make_prompts(store, model_section, label_seed)
    settings = _settings(job, store, prompts)
    batches = _Batches(job, store.encoder(), prompts)
    world = World.of_environment()
    if world.main:
        _start_or_resume(job.state, {**settings, "batch_size": section.batch_size})
    barrier()
    files = {first: job.state / f"images-{first:08d}.safetensors" for first in range(0, section.images, section.batch_size)}
    mine = list(files.items())[world.rank :: world.size]
    with progress(min(len(mine) * section.batch_size, section.images), f"sample {job.key}") as bar:
        for first, file in mine:
            numbers_B = torch.arange(first, min(first + section.batch_size, section.images))
            if not file.is_file():  # else it was finished before
                save_samples(file, batches.draw(numbers_B))
            bar.advance(len(numbers_B))
    barrier()
    if not world.main:
        return {}
    samples = concatenate([load_samples(file) for file in files.values()])
    write_artefact(job.out, samples, settings, prompts.texts(section.images))
    shutil.rmtree(job.state)
    passes = section.images * section.steps * (1 if section.guidance == 1.0 else 2)
    return {
        "images": section.images,
        "not_finite": int((~samples.finite_N).sum()),
        "flops": inference_flops(model_section, settings["model"]["width"], passes),
        "device": batches.device.type,
    }


class _Batches:
    """Draws any images by number: network, sampler and decoder of one run."""

    def __init__(self, job: Job, encoder: Encoder, prompts: Prompts) -> None:
        self.device = compute_device()
        self._config: Experiment = job.config
        self._encoder, self._prompts = encoder, prompts
        self._network: nn.Module = load_model(job.weights, job.config, sampled_weights(job.config)).eval().to(self.device)
        section = job.config.sample
        self._sampler: Sampler = make_sampler(section.sampler, make_objective(job.config.diffusion), section.steps)

    @torch.inference_mode()
    def draw(self, numbers_B: torch.Tensor) -> Samples:
        section, model = self._config.sample, self._config.model
        prompt = self._prompts.of(numbers_B)
        condition, null = (map_condition(lambda part: part.to(self.device), each) for each in (prompt.condition, prompt.null))
        denoiser = guided(self._network, condition, null, section.guidance, section.guide_channels)
        places_B = numbers_B.to(self.device)
        noise_BCHW = initial_noise(section.seed, places_B, (model.channels, model.image_size, model.image_size))
        latents_BCHW = self._sampler.sample(denoiser, noise_BCHW, places_B, section.seed).cpu()
        finite_B = latents_BCHW.isfinite().flatten(1).all(dim=1)
        images_BCHW = self._encoder.decode(torch.where(finite_B[:, None, None, None], latents_BCHW, 0.0))
        images_BCHW[~finite_B] = 0
        seeds_B2 = torch.stack([torch.full_like(numbers_B, section.seed), numbers_B], dim=1)
        return Samples(images_BCHW, prompt.labels_B, seeds_B2, finite_B, prompt.captions_B, prompt.subjects_B)


def _settings(job: Job, store: LatentStore, prompts: Prompts) -> dict[str, Any]:
    """Everything that the images depend on, for `sample.json` and for whoever states a metric of them."""
    section = job.config.sample.model_dump(mode="json", exclude={"batch_size", "train_seeds"})
    train = job.weights
    files = weight_files(train, sampled_weights(job.config))
    return {
        **section,
        "run": job.key,
        "clip_denoised": False,
        "prompts": prompts.identity,
        "class_names": store.info.class_names,
        "decoder": store.info.encoder,
        "weights": {"file": " ".join(file.name for file in files), "sha256": " ".join(map(sha256_file, files))},
        "model": json.loads((train / "model.json").read_text(encoding="utf-8")),
        "target": json.loads((train / "run.json").read_text(encoding="utf-8")),
        "diffusion": job.config.diffusion.model_dump(mode="json"),
    }


def _start_or_resume(state: Path, plan: dict[str, Any]) -> None:
    """Keeps finished batches only if they belong to the same plan."""
    text, path = json.dumps(plan, sort_keys=True), state / PLAN_FILE
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
