"""A published checkpoint goes in, is sampled and scored, and comes out as a pipeline of diffusers that computes the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from mudit.cli import app
from mudit.config.schema import GaussianSection
from mudit.errors import CheckpointError, ConfigError, ProvenanceError
from mudit.interchange.diffusers_folder import Surroundings, write_diffusers
from mudit.interchange.imported import load_imported, read_description, section_of_folder
from mudit.interchange.importer import Wish, import_checkpoint
from mudit.interchange.plain import Weights
from mudit.models.condition import TextCondition
from mudit.provenance.execute import make
from mudit.stages import parse
from mudit.train.weights import load_model

from .conftest import STATED, TEXT, TOKENS, WIDTH


def mudit(*arguments: str) -> str:
    """A command in this process; it must succeed. Returns its output."""
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def run(config, *names: str) -> None:
    for name in names:
        make(parse("smoke", name), config.experiments["smoke"], force=False)


def checkpoint(model, path: Path) -> None:
    """As facebookresearch's trainer writes it: raw weights, their average, and the fixed position table in both."""
    table = {"pos_embed": model.pos_embed[None]}
    ema = {name: tensor * 0.9 for name, tensor in model.state_dict().items()}
    torch.save({"model": {**model.state_dict(), **table}, "ema": {**ema, **table}}, path)


@pytest.fixture
def authors(models, project):
    """The project with DiT's checkpoint imported through the command line, and its configuration."""
    checkpoint(models["dit"], Path("authors.pt"))
    mudit("import", "authors.pt", "--as", "dit", "--scheme", "sp", "--head-dim", "8")
    content = json.loads(Path("imported/authors/manifest.json").read_text())["content"]
    return project(imported={"authors": {"folder": "imported/authors", "content": content, "weights": "ema"}})


@pytest.mark.slow
def test_dit_from_the_authors_file_to_diffusers_pipeline(models, authors):
    run(authors, "data", "extractor", "imported/authors", "sample/authors", "evaluate/authors", "coordcheck/dit", "report")
    metrics = json.loads(Path("results/smoke/evaluate/authors/metrics.json").read_text())
    assert metrics["records"][0]["target"]["source"]["path"] == "authors.pt"
    assert (Path("results/smoke/report/report.html")).is_file()

    mudit("export", "smoke", "authors", "--to", "out")
    from diffusers import DiTPipeline

    pipeline = DiTPipeline.from_pretrained("out")
    pipeline.set_progress_bar_config(disable=True)
    for block in pipeline.transformer.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    ours, raw = load_imported(Path("imported/authors")), models["dit"].requires_grad_(False)
    x, t, labels = torch.randn(3, 4, 4, 4), torch.tensor([0, 17, 99]), torch.tensor([0, 9, 10])
    null = torch.where(labels == 10, 1000, labels)  # diffusers' null class
    theirs = pipeline.transformer(x, timestep=t, class_labels=null).sample.detach()
    assert (ours(x, t, labels) - theirs).abs().max() < 1e-5
    assert (ours(x, t, labels) - raw(x, t, labels)).abs().max() > 1e-3, "the average, not the raw weights"
    images = pipeline([0, 3], num_inference_steps=2, guidance_scale=2.0, output_type="pt", generator=torch.manual_seed(0)).images
    assert images.shape == (2, 1, 8, 8) and images.isfinite().all()
    assert pipeline.vae.config.scaling_factor == 0.5 and pipeline.labels["7"] == 7
    card = Path("out/README.md").read_text()
    assert all(
        fact in card
        for fact in ("smoke/imported/authors", "DiTPipeline", "downscale_freq_shift", "| claim | paper |", "| validation_loss |")
    )


def test_what_comes_out_goes_in_again(authors):
    run(authors, "data", "imported/authors")
    mudit("export", "smoke", "authors", "--to", "out")
    mudit("import", "out", "--as", "dit", "--scheme", "sp", "--to", "back")
    first, back = load_file("imported/authors/ema.safetensors"), load_file("back/ema.safetensors")
    assert first.keys() == back.keys() and all(torch.equal(first[name], back[name]) for name in first)
    assert first["y_embedder.embedding_table.weight"].shape[0] == 11, "the padding to 1,001 classes is gone again"
    described = [json.loads(Path(folder, "model.json").read_text())["model"] for folder in ("imported/authors", "back")]
    assert described[0] == described[1]


@torch.no_grad()
def test_multipliers_are_folded_into_what_leaves(models, project):
    """Twice the base width: muP's readout has the multiplier 1/2, which a plain class does not know."""
    checkpoint(models["dit"], Path("mup.pt"))
    mudit("import", "mup.pt", "--as", "dit", "--scheme", "mup", "--base-width", "16", "--head-dim", "8")
    content = json.loads(Path("imported/mup/manifest.json").read_text())["content"]
    config = project(imported={"mup": {"folder": "imported/mup", "content": content, "weights": "raw"}})
    run(config, "data", "imported/mup")
    mudit("export", "smoke", "mup", "--weights", "raw", "--format", "safetensors", "--to", "out")
    leaving, kept = load_file("out/model.safetensors"), models["dit"].state_dict()
    assert torch.equal(leaving["final_layer.linear.weight"], kept["final_layer.linear.weight"] / 2)
    plain = models["dit"]
    x, t, labels = torch.randn(2, 4, 4, 4), torch.tensor([3, 90]), torch.tensor([1, 10])
    with_multiplier = load_imported(Path("imported/mup"), "raw")(x, t, labels)
    plain.load_state_dict(leaving)
    assert (plain(x, t, labels) - with_multiplier).abs().max() < 1e-6


@torch.no_grad()
def test_pixart_from_the_authors_file_to_diffusers_pipeline(models, tmp_path, autoencoder):
    """No text encoder takes part: any numbers are features of captions."""
    from diffusers import PixArtAlphaPipeline

    model = models["pixart"]
    state = {**model.state_dict(), "pos_embed": model.pos_embed[None]}
    torch.save({"state_dict": state, "state_dict_ema": state, "epoch": 30}, tmp_path / "PixArt.pth")
    wish = Wish(tmp_path / "PixArt.pth", "pixart", "sp", STATED["pixart"], None)
    import_checkpoint(wish, tmp_path / "imported")
    ours = load_imported(tmp_path / "imported")
    section = section_of_folder(tmp_path / "imported", read_description(tmp_path / "imported"))
    chain = {"kind": "gaussian", "timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "variance": "learned-range"}
    diffusion = GaussianSection(**chain, condition_dropout=0.1, alignment_weight=0.0)
    (tmp_path / "out").mkdir()
    around = Surroundings(autoencoder, 0.5, [], {"name": "t5", "sha256": "0" * 64})
    write_diffusers(Weights(section, WIDTH, "ema", dict(ours.named_parameters())), diffusion, around, tmp_path / "out")

    pipeline = PixArtAlphaPipeline.from_pretrained(tmp_path / "out")
    pipeline.set_progress_bar_config(disable=True)
    x, t = torch.randn(3, 4, 4, 4), torch.tensor([0, 17, 999])
    mask = torch.arange(TOKENS) < torch.tensor([[TOKENS], [3], [1]])
    captions = TextCondition(torch.randn(3, TOKENS, TEXT), mask, torch.zeros(3, 1), torch.tensor([False, False, True]))
    null = load_file(tmp_path / "out/null_caption.safetensors")["tokens"]
    tokens = torch.where(captions.dropped[:, None, None], null, captions.tokens)
    visible = mask | captions.dropped[:, None]
    theirs = pipeline.transformer(x, encoder_hidden_states=tokens, timestep=t, encoder_attention_mask=visible).sample
    assert (ours(x, t, captions) - theirs).abs().max() < 1e-5
    images = pipeline(
        prompt_embeds=captions.tokens[:1], prompt_attention_mask=mask[:1].long(),
        negative_prompt=None, negative_prompt_embeds=null[None],
        negative_prompt_attention_mask=torch.ones(1, TOKENS, dtype=torch.long), num_inference_steps=2, use_resolution_binning=False,
        output_type="pt", generator=torch.manual_seed(0),
    ).images  # fmt: skip
    assert images.shape == (1, 1, 8, 8) and images.isfinite().all()
    import_checkpoint(Wish(tmp_path / "out", "pixart", "sp", STATED["pixart"], None), tmp_path / "back")
    first, back = (load_file(tmp_path / name / "ema.safetensors") for name in ("imported", "back"))
    assert first.keys() == back.keys() and all(torch.equal(first[name], back[name]) for name in first)


@pytest.mark.slow
def test_a_run_of_ones_own_on_pixels_leaves_as_parts(project):
    """muP at twice its base width; a model of pixels has no autoencoder, so there is no pipeline."""
    arm = {"scheme": "mup", "log2_lr": -6.0}
    train = {
        "width": 32,
        "batch_size": 16,
        "steps": 4,
        "seeds": [0],
        "ema_decay": 0.5,
        "eval_every": 2,
        "checkpoint_every": 4,
        "snapshots": [],
    }
    config = project(train=train | {"keep_checkpoints": 1, "keep_every": None, "arms": {"mup": arm}}, pixels=True)
    run(config, "data", "coordcheck/dit", "transfer/mup", "train/mup_s0")
    notes = mudit("export", "smoke", "mup_s0", "--to", "out")
    assert "transformer and scheduler are here alone" in notes and not Path("out/model_index.json").exists()
    from diffusers import DDIMScheduler, DiTTransformer2DModel

    transformer = DiTTransformer2DModel.from_pretrained("out", subfolder="transformer")
    for block in transformer.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    x, t, labels = torch.randn(2, 1, 8, 8), torch.tensor([5, 60]), torch.tensor([3, 10])
    ours = load_model(Path("results/smoke/train/mup_s0"), config.experiments["smoke"])(x, t, labels)
    theirs = transformer(x, timestep=t, class_labels=torch.where(labels == 10, 1000, labels)).sample.detach()
    assert (ours - theirs).abs().max() < 1e-5 < ours.abs().max()
    assert DDIMScheduler.from_pretrained("out", subfolder="scheduler").config.num_train_timesteps == 100
    card = Path("out/README.md").read_text()
    assert "muP's forward multipliers are folded in" in card and "There is no report of the experiment yet" in card


def test_another_checkpoint_than_the_configuration_means_is_refused(authors, models, project):
    run(authors, "data")
    checkpoint(models["dit"], Path("other.pt"))
    config = project(imported={"authors": {"folder": "imported/authors", "content": "0" * 64, "weights": "ema"}})
    with pytest.raises(CheckpointError, match=r"imported\.authors\.content: imported/authors holds [0-9a-f]{64}; another"):
        run(config, "imported/authors")


def test_a_checkpoint_of_another_architecture_is_refused(authors, project):
    raw = authors.experiments["smoke"]
    model = raw.model.model_dump(mode="json") | {"num_classes": 9}
    imported = {"authors": raw.imported["authors"].model_dump(mode="json")}
    config = project(model=model, imported=imported)
    with pytest.raises(ConfigError, match=r"model\.num_classes: 9, but the checkpoint imported\.authors has 10"):
        run(config, "imported/authors")


def test_edited_weights_are_noticed(authors):
    path = Path("imported/authors/ema.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"imported/authors: files differ from manifest\.json; import the checkpoint again"):
        run(authors, "imported/authors")


def test_export_says_what_is_missing_or_impossible(authors):
    from mudit.interchange.export import export_run

    smoke = authors.experiments["smoke"]
    with pytest.raises(ProvenanceError, match="smoke/imported/authors is missing; mend it with: mudit imported smoke authors"):
        export_run("smoke", smoke, "authors", "diffusers", "ema", Path("out"))
    with pytest.raises(ConfigError, match=r"no run of smoke is named 'autors'; did you mean 'authors'\?"):
        export_run("smoke", smoke, "autors", "diffusers", "ema", Path("out"))
    flow = smoke.model_copy(update={"model": smoke.model.model_copy(update={"family": "mmdit"})})
    with pytest.raises(ConfigError, match="no pipeline for a mmdit like ours, only for dit and pixart; use --format safetensors"):
        export_run("smoke", flow, "authors", "diffusers", "ema", Path("out"))
    assert not Path("out").exists()
