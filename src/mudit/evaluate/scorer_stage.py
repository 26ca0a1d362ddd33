"""The stage `scorer`: trains the text-image scorer on the training split and measures it on the held-out one.

Artefact: `scorer.safetensors` (standardisation, projections, probe), `scorer.json` (identity, settings, and what real held-out
images reach: the ceilings of every generated set) and `held_out.safetensors` (those images and their captions in its space).
Where the store was split by subject, the held-out captions name subjects that the scorer has never seen.

Shapes: N training images, V held-out ones, S common space.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch

from mudit.data.format import SPLITS, making
from mudit.data.reader import LatentStore
from mudit.data.tensors import save_tensors
from mudit.errors import DataError
from mudit.evaluate.composition import Composition
from mudit.evaluate.extractor_stage import real_images
from mudit.evaluate.extractors import load_extractor
from mudit.evaluate.retrieval import recalls
from mudit.evaluate.scorer import HELD_OUT_FILE, RESULT_FILE, WEIGHTS_FILE, HeldOut, LinearScorer, pooled_text
from mudit.evaluate.scorer_training import fit_heads
from mudit.evaluate.threads import one_thread
from mudit.files import sha256_file

if TYPE_CHECKING:
    from mudit.stages import Job


def run(job: Job) -> dict[str, Any]:
    """Raises DataError on a damaged store or one without captions, ConfigError if the settings ask for more than it holds."""
    section = job.config.scorer
    store = LatentStore.open(job.inputs["data"])
    store.verify()
    if store.info.text is None:
        raise DataError(f"scorer: the store holds no captions; give data.captions and run: {making(store.folder)}")
    train, validation = store.split("train"), store.split("validation")
    composition = Composition.of_split(validation, store.info.class_names, section)
    encoder = load_extractor(section.image_encoder, job.out)
    images = {split: encoder.features(real_images(store, split)).features_ND for split in SPLITS}
    train_N, validation_V = torch.arange(len(train)), torch.arange(len(validation))
    labels_N = train.labels(train_N)
    heads, loss = fit_heads(images["train"], pooled_text(train, train_N), labels_N, store.info.num_classes, section)
    save_tensors(heads.state_dict(), job.out / WEIGHTS_FILE)
    identity = {
        "name": f"linear projections over {encoder.name} and pooled text",
        "sha256": sha256_file(job.out / WEIGHTS_FILE),
        "image_encoder": {"name": encoder.name, "sha256": encoder.sha256, "features": "pooled"},
        "text_encoder": store.info.text.encoders["pooled"],
    }
    with one_thread():
        reference = HeldOut(heads.see(images["validation"]), LinearScorer(heads, encoder, identity).read(validation, validation_V))
        known_N = heads.see(images["train"]).classes_N
    save_tensors(reference.tensors(), job.out / HELD_OUT_FILE)
    shares = composition.shares(reference.seen, validation_V, reference.captions_NS)
    result = {
        "identity": identity,
        "settings": section.model_dump(mode="json"),
        "images": {split: len(features) for split, features in images.items()},
        "classes": store.info.class_names,
        "held_out_by": "image" if store.info.text.subjects is None else "subject",
        "training": {"loss": loss, "style_accuracy": None if known_N is None else (known_N == labels_N).float().mean().item()},
        "held_out": {**shares, "retrieval": _retrieval(reference, composition, store.info.class_names)},
    }
    (job.out / RESULT_FILE).write_text(json.dumps(result, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    reached = {name: found and found["value"] for name, found in shares.items()}
    return {**reached, "images": result["images"], "flops": None, "device": encoder.device}


def _retrieval(reference: HeldOut, composition: Composition, class_names: list[str]) -> dict[str, Any]:
    """Recalls among the held-out images of each class, where a caption's class is no help, and among all of them."""
    images_NS, captions_NS, ids_N = reference.seen.embeddings_NS, reference.captions_NS, composition.ids_V
    classes = {}
    for label, name in enumerate(class_names):
        members = composition.labels_V == label
        if members.any():
            classes[name] = recalls(images_NS[members], captions_NS[members], ids_N[members])
    return {"all": recalls(images_NS, captions_NS, ids_N), "classes": classes}
