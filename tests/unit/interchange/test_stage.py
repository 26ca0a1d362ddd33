"""The stage `imported` before the stage `sample`: a captioned checkpoint from elsewhere is drawn from like a run."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from mudit.config.schema import ImportedSection
from mudit.errors import ConfigError
from mudit.evaluate import sample_stage
from mudit.evaluate.samples import open_sets
from mudit.interchange import export, stage
from mudit.interchange.architecture import Stated, Widths
from mudit.interchange.importer import Wish, import_checkpoint
from mudit.models.families import build
from mudit.scoped import scoped
from mudit.stages import Job, inputs, parse
from unit.evaluate import text_world

from .conftest import randomise

WIDTH = 16


@pytest.fixture
def pixart(desk, tmp_path):
    """An experiment on captioned figures with an imported PixArt, and the folder of its checkpoint."""
    experiment = text_world.experiment(desk, "pixart")
    model = randomise(build(experiment.model, WIDTH))
    state = {**model.state_dict(), "pos_embed": model.pos_embed[None]}
    ema = {name: tensor * (1.0 if name == "pos_embed" else 0.5) for name, tensor in state.items()}
    torch.save({"state_dict": state, "state_dict_ema": ema, "epoch": 30}, tmp_path / "PixArt.pth")
    folder = tmp_path / "imported"
    manifest = import_checkpoint(Wish(tmp_path / "PixArt.pth", "pixart", "sp", Stated(head_dim=8), None), folder)
    imported = {
        weights: ImportedSection(folder=str(folder), content=manifest["content"], weights=weights) for weights in ("ema", "raw")
    }
    sample = experiment.sample.model_copy(update={"train_seeds": [], "images": 10})
    return experiment.model_copy(update={"imported": imported, "sample": sample})


def job(experiment, name, root, folders):
    artefact = parse("figures", name)
    assert [each.name for each in inputs(artefact, experiment)] == list(folders)
    out = root / "results" / name
    out.mkdir(parents=True)
    return Job("figures", scoped(experiment, artefact), artefact.key, folders, out, root / "state" / name)


def test_both_sets_of_weights_are_sampled_with_their_own_captions(pixart, tmp_path):
    store = text_world.write_store(tmp_path).folder
    images = {}
    for which in ("ema", "raw"):
        taken = job(pixart, f"imported/{which}", tmp_path, {})
        assert stage.run(taken)["status"] == "imported"
        drawn = job(pixart, f"sample/{which}", tmp_path, {"data": store, f"imported/{which}": taken.out})
        assert sample_stage.run(drawn)["images"] == 10
        samples = open_sets(drawn.out)[-1]
        assert samples.settings["target"]["source"]["path"] == "PixArt.pth" and samples.settings["model"]["scheme"] == "sp"
        assert samples.finite_N.all() and samples.captions_N is not None
        images[which] = samples.images(0)
    assert not torch.equal(images["ema"], images["raw"])


def test_the_first_size_that_differs_is_named(pixart, tmp_path):
    other = pixart.model_copy(update={"model": pixart.model.model_copy(update={"text_dim": 13})})
    with pytest.raises(ConfigError, match=r"model\.text_dim: 13, but the checkpoint imported\.ema has 12"):
        stage.run(job(other, "imported/ema", tmp_path, {}))


@pytest.mark.parametrize("scheme", ["sp", "mup"])
def test_a_published_mmdit_lacks_the_projector_that_the_experiment_trains_with(scheme, desk, tmp_path, monkeypatch):
    """It is sampled and leaves again as it came: without one, and not with an invented one."""
    experiment = text_world.experiment(desk, "mmdit")
    published = build(experiment.model.model_copy(update={"alignment": None}), 2 * WIDTH)
    state = randomise(published).state_dict()
    torch.save(state, tmp_path / "mmdit.pth")
    stated, widths = Stated(image_size=text_world.SIDE, max_tokens=text_world.MAX_TOKENS), Widths(WIDTH, WIDTH + 8, 1.0)
    wish = Wish(tmp_path / "mmdit.pth", "mmdit", scheme, stated, widths if scheme == "mup" else None)
    manifest = import_checkpoint(wish, tmp_path / "imported")
    section = ImportedSection(folder=str(tmp_path / "imported"), content=manifest["content"], weights="ema")
    sample = experiment.sample.model_copy(update={"train_seeds": [], "images": 4})
    experiment = experiment.model_copy(update={"imported": {"sd": section}, "sample": sample})
    assert experiment.model.alignment is not None

    taken = job(experiment, "imported/sd", tmp_path, {})
    assert stage.run(taken)["parameters"] == sum(tensor.numel() for tensor in state.values())
    store = text_world.write_store(tmp_path).folder
    drawn = job(experiment, "sample/sd", tmp_path, {"data": store, "imported/sd": taken.out})
    assert sample_stage.run(drawn)["images"] == 4

    run = SimpleNamespace(state="fresh")
    monkeypatch.setattr(export, "parse", lambda *_: SimpleNamespace(id="figures/imported/sd", path=taken.out))
    monkeypatch.setattr(export, "Inspector", lambda *_, **__: SimpleNamespace(verdict=lambda _: run))
    monkeypatch.setattr(export.manifests, "read", lambda _: {})
    leaving = export._read("figures", experiment, "sd", "ema").weights
    multiplier = {"sp": 1.0, "mup": 0.5}[scheme]
    for name, tensor in state.items():
        assert torch.equal(leaving.state[name], tensor * (multiplier if name == "final_layer.linear.weight" else 1.0))
    assert leaving.state.keys() == state.keys() and leaving.model.alignment is None


def test_base_width_is_nothing_under_sp(pixart, tmp_path):
    """The same weights fit an experiment with another base: SP does not know it."""
    other = pixart.model_copy(update={"model": pixart.model.model_copy(update={"base_width": 24, "delta_width": 32})})
    taken = job(other, "imported/ema", tmp_path, {})
    stage.run(taken)
    assert json.loads((taken.out / "model.json").read_text())["scheme"] == "sp"
