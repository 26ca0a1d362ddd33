"""What a set of generated images depends on, for its `sample.json` and for whoever states a figure of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mudit.config.published import sampled_weights
from mudit.data.reader import LatentStore
from mudit.evaluate.intervals import CONFIDENCE
from mudit.evaluate.prompts import Prompts
from mudit.evaluate.samples import SampleSet
from mudit.provenance.source import environment
from mudit.train.weights import files_sha256, weight_files

if TYPE_CHECKING:
    from mudit.config.schema import Experiment

_SAMPLING = ("sampler", "steps", "guidance", "guide_channels", "precision", "precision_difference", "seed", "decoder", "prompts")


def image_settings(
    config: Experiment, run: str, folder: Path, store: LatentStore, prompts: Prompts, snapshot: tuple[int, Path] | None = None
) -> dict[str, Any]:
    """JSON values.

    run: its name; folder: its artefact; snapshot: steps and folder of the weights, None for the last ones. `images` and
    `batch_size` are left to whoever draws them.
    """
    step, weights = (None, folder) if snapshot is None else snapshot
    files = weight_files(weights, sampled_weights(config))
    target = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return {
        **config.sample.model_dump(mode="json", exclude={"batch_size", "train_seeds", "images"}),
        "run": run,
        "step": target.get("steps") if step is None else step,
        "clip_denoised": False,
        "prompts": prompts.identity,
        "class_names": store.info.class_names,
        "decoder": store.info.encoder,
        "weights": {"file": " ".join(file.name for file in files), "sha256": files_sha256(files)},
        "model": json.loads((weights / "model.json").read_text(encoding="utf-8")),
        "target": target,
        "diffusion": config.diffusion.model_dump(mode="json"),
    }


def record_context(config: Experiment, samples: SampleSet) -> dict[str, Any]:
    """What every record says of the run behind a set of images: whose weights, which seeds, in which container."""
    settings, target = samples.settings, samples.settings["target"]
    kind = target.get("weights", sampled_weights(config))  # an imported checkpoint says which of its weights it has
    return {
        "run": settings["run"],
        "set": samples.name,
        "step": samples.step,
        "weights": {**settings["weights"], "kind": kind, "ema_decay": target["ema_decay"]},
        "target": target,
        "seeds": {"train": target.get("seed"), "sample": settings["seed"]},
        "container": environment().get("image"),
    }


def sampling_context(samples: SampleSet, protocol: str) -> dict[str, Any]:
    """What every record of images says of which they are, and how they were drawn and judged."""
    return {
        "images_sha256": samples.images_sha256,
        "sampling": {name: samples.settings[name] for name in _SAMPLING if name in samples.settings},
        "protocol": protocol,
        "confidence": CONFIDENCE,
    }
