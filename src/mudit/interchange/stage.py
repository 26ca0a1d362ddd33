"""The stage `imported`: a folder of `mudit import` as an artefact, with the files that a target run leaves for sampling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mudit.config.models import ModelSection
from mudit.errors import CheckpointError, ConfigError
from mudit.interchange.imported import check_whole, load_imported, read_description, section_of_folder
from mudit.parametrization.table import table_for
from mudit.provenance import manifest as manifests
from mudit.train.weights import save_weights, section_of

if TYPE_CHECKING:
    from mudit.stages import Job

# What no weight of a published file depends on (REPA's projector is in none), and under SP what nothing depends on.
_NOT_ARCHITECTURE = {"delta_width", "frozen_null_caption", "alignment"}
_OF_SCALING = {"base_width", "output_mult"}


def run(job: Job) -> dict[str, Any]:
    """Write weights, `model.json` and `run.json`. Raises CheckpointError if the folder is not the configured one or damaged.

    Raises ConfigError if the experiment's model is another architecture than the checkpoint's.
    """
    section = job.config.imported[job.key]
    folder = Path(section.folder)
    content = check_whole(folder)
    if content != section.content:
        raise CheckpointError(
            f"imported.{job.key}.content: {folder} holds {content}; another checkpoint than the configuration means"
        )
    description = read_description(folder)
    scheme, width = description["scheme"], description["width"]
    _check_architecture(job, section_of_folder(folder, description), scheme)
    told = {"family": job.config.model.family, "scheme": scheme, "width": width}
    told |= {"projector": False} if getattr(job.config.model, "alignment", None) is not None else {}
    table = table_for(section_of(job.config, told), width, scheme)
    model = load_imported(folder, section.weights)
    save_weights(job.out, model, model, told | {"parametrization": table.digest})
    manifest = manifests.read(folder)
    assert manifest is not None, "check_whole read it"
    outcome = {
        "arm": job.key,
        "scheme": scheme,
        "width": width,
        "parameters": table.total,
        "status": "imported",
        "diverged_at": None,
        "ema_decay": None,
        "alignment_weight": 0.0,
        "weights": section.weights,
        "source": manifest["source"],
    }
    (job.out / "run.json").write_text(json.dumps(outcome, indent=1) + "\n", encoding="utf-8")
    return {**outcome, "flops": 0, "device": "cpu"}


def _check_architecture(job: Job, found: ModelSection, scheme: str) -> None:
    left_out = _NOT_ARCHITECTURE | (set() if scheme == "mup" else _OF_SCALING)
    ours, theirs = (section.model_dump(mode="json", exclude=left_out) for section in (job.config.model, found))
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise ConfigError(f"model.{name}: {ours.get(name)}, but the checkpoint imported.{job.key} has {theirs.get(name)}")
