"""`mudit export`: the finished weights of a run as plain weights for use elsewhere, with what is known of them.

muP's forward multipliers are folded into the weights, so that the ordinary architecture computes the same.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from mudit.errors import CheckpointError, ConfigError, ProvenanceError
from mudit.interchange.card import write_card
from mudit.interchange.diffusers_folder import PIPELINES, Surroundings, write_diffusers
from mudit.interchange.importer import check_free, new_folder
from mudit.interchange.plain import Format, Weights, write_plain
from mudit.parametrization.apply import fold_multipliers
from mudit.parametrization.table import table_for
from mudit.provenance import manifest as manifests
from mudit.provenance.verdict import Inspector, Verdict
from mudit.stages import STAGES, Artefact, known, parse
from mudit.train.weights import files_sha256, load_model, own_section, own_tensors, weight_files

if TYPE_CHECKING:
    from mudit.config.schema import Experiment

_USABLE = ("fresh", "stale")


@dataclass(frozen=True)
class Run:
    """A finished run that is to travel, with what is known of it.

    outcome: its `run.json`; sha256: of the files that the weights were read from, as metric records have it.
    """

    artefact: Artefact
    config: Experiment
    verdict: Verdict
    manifest: dict[str, Any]
    outcome: dict[str, Any]
    scheme: str
    weights: Weights
    sha256: str


def export_run(
    experiment: str, config: Experiment, key: str, form: Format, which: Literal["ema", "raw"] | None, folder: Path
) -> list[str]:
    """Writes `folder`, which must not exist, in one rename. Returns what to tell the user, a line each.

    which: the average unless said otherwise; of an imported checkpoint the kind that it was imported as.

    Raises ConfigError for a run that is none, weights that it has not, or a family without a pipeline; ProvenanceError if it is
    not there, or damaged; CheckpointError if its weights cannot be used, or the folder cannot be made.
    """
    check_free(folder)
    family = config.model.family
    if form == "diffusers" and family not in PIPELINES:
        raise ConfigError(
            f"export {experiment}: diffusers has no pipeline for a {family} like ours, only for {' and '.join(PIPELINES)}; "
            f"use --format safetensors"
        )
    run = _read(experiment, config, key, which)
    with new_folder(folder) as out:
        if form == "diffusers":
            notes = write_diffusers(run.weights, config.diffusion, Surroundings.of(parse(experiment, "data").path), out)
        else:
            notes = write_plain(run.weights, out)
        write_card(run, form, notes, out)
    return [f"{folder}: {run.weights.which} weights of {run.artefact.id}", *notes]


def _read(experiment: str, config: Experiment, key: str, asked: Literal["ema", "raw"] | None) -> Run:
    artefact = _artefact(experiment, config, key)
    verdict = Inspector(config, quick=False).verdict(artefact)
    if verdict.state not in _USABLE:
        raise ProvenanceError(f"{artefact.id} is {verdict}; mend it with: {verdict.mend}")
    manifest = manifests.read(artefact.path)
    assert manifest is not None, "its verdict read it"
    outcome = _json(artefact.path / "run.json")
    if outcome.get("diverged_at") is not None:
        raise CheckpointError(f"{artefact.id}: diverged at step {outcome['diverged_at']}; its weights are of no use elsewhere")
    told = _json(artefact.path / "model.json")
    there: Literal["ema", "raw"] | None = outcome.get("weights")  # an imported checkpoint has one kind, in the files of both
    if there is not None and asked not in (None, there):
        raise ConfigError(
            f"export {experiment} {key}: --weights {asked}, but imported.{key} has its {there} weights; leave it out, or change "
            f"imported.{key}.weights and run: {artefact.command}"
        )
    which = there or asked or "ema"
    section, model = own_section(artefact.path, config), load_model(artefact.path, config, which)
    fold_multipliers(model, table_for(section, told["width"], told["scheme"]))
    state = {name: tensor.float().contiguous() for name, tensor in own_tensors(model).items()}
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{artefact.id}: {name} holds values that are not finite; its weights are of no use elsewhere")
    weights = Weights(section, told["width"], which, state)
    sha256 = files_sha256(weight_files(artefact.path, which))
    return Run(artefact, config, verdict, manifest, outcome, told["scheme"], weights, sha256)


def _artefact(experiment: str, config: Experiment, key: str) -> Artefact:
    runs = [f"{stage}/{each}" for stage in ("train", "imported") for each in STAGES[stage].all_keys(config)]
    if not runs:
        raise ConfigError(f"export {experiment}: nothing to export; the experiment has no section train or imported")
    keys = [name.partition("/")[2] for name in runs]
    known(key, keys, f"run of {experiment}")
    return parse(experiment, runs[keys.index(key)])


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
