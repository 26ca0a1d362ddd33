"""The stage `imported` before the stage `sample`: a captioned checkpoint from elsewhere is drawn from like a run."""

from __future__ import annotations

import json

import pytest
import torch

from mudit.config.schema import ImportedSection
from mudit.errors import ConfigError
from mudit.evaluate import sample_stage
from mudit.evaluate.samples import open_sets
from mudit.interchange import stage
from mudit.interchange.architecture import Stated
from mudit.interchange.importer import Wish, import_checkpoint
from mudit.models.condition import TextCondition
from mudit.models.families import build
from mudit.scoped import scoped
from mudit.stages import Job, inputs, parse
from mudit.train.weights import load_model
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


@torch.no_grad()
def test_a_checkpoint_without_a_projector_fits_an_experiment_that_trains_with_one(desk, tmp_path, monkeypatch):
    """Published MMDiTs have none: REPA's projector serves training."""
    experiment = text_world.experiment(desk, "mmdit")
    assert experiment.model.alignment is not None
    model = randomise(build(experiment.model.model_copy(update={"alignment": None}), WIDTH))
    torch.save(model.state_dict(), tmp_path / "mmdit.pth")
    side, stated = (
        experiment.model.image_size,
        Stated(image_size=experiment.model.image_size, max_tokens=experiment.model.max_tokens),
    )
    manifest = import_checkpoint(Wish(tmp_path / "mmdit.pth", "mmdit", "sp", stated, None), tmp_path / "imported")
    imported = ImportedSection(folder=str(tmp_path / "imported"), content=manifest["content"], weights="ema")
    experiment = experiment.model_copy(update={"imported": {"theirs": imported}})
    taken = job(experiment, "imported/theirs", tmp_path, {})
    outcome = stage.run(taken)
    assert outcome["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    found = load_model(taken.out, experiment)
    x = torch.randn(2, experiment.model.channels, side, side)
    condition = TextCondition(
        torch.randn(2, 3, experiment.model.text_dim),
        torch.ones(2, 3, dtype=torch.bool),
        torch.randn(2, experiment.model.pooled_dim),
        torch.zeros(2, dtype=torch.bool),
    )
    t = torch.tensor([0.2, 0.9])
    torch.testing.assert_close(found(x, t, condition), model(x, t, condition), rtol=0, atol=1e-6)


def test_the_first_size_that_differs_is_named(pixart, tmp_path):
    other = pixart.model_copy(update={"model": pixart.model.model_copy(update={"text_dim": 13})})
    with pytest.raises(ConfigError, match=r"model\.text_dim: 13, but the checkpoint imported\.ema has 12"):
        stage.run(job(other, "imported/ema", tmp_path, {}))


def test_base_width_is_nothing_under_sp(pixart, tmp_path):
    """The same weights fit an experiment with another base: SP does not know it."""
    other = pixart.model_copy(update={"model": pixart.model.model_copy(update={"base_width": 24, "delta_width": 32})})
    taken = job(other, "imported/ema", tmp_path, {})
    stage.run(taken)
    assert json.loads((taken.out / "model.json").read_text())["scheme"] == "sp"
