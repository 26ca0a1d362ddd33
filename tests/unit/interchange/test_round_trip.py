"""A published checkpoint goes in, is sampled and scored, and comes out as a pipeline of diffusers that computes the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from mudit.cli import app
from mudit.config.load import load
from mudit.errors import CheckpointError, ConfigError, ProvenanceError
from mudit.evaluate.samples import open_sets
from mudit.files import sha256_file
from mudit.interchange.diffusers_folder import Surroundings, write_diffusers
from mudit.interchange.imported import load_imported
from mudit.interchange.plain import Weights
from mudit.models.condition import TextCondition
from mudit.provenance.execute import make
from mudit.stages import parse
from mudit.train.weights import load_model
from support import ROOT, word_tokenizer

from .conftest import TEXT, TOKENS, write_autoencoder


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
    loaded = snippet(Path("out"))
    pipeline = loaded["pipe"]
    assert [image.size for image in loaded["images"]] == [(8, 8)] * 2
    ours, raw = load_imported(Path("imported/authors")), models["dit"].requires_grad_(False)
    x, t, labels = torch.randn(3, 4, 4, 4), torch.tensor([0, 17, 99]), torch.tensor([0, 9, 10])
    null = torch.where(labels == 10, 1000, labels)  # diffusers' null class
    theirs = pipeline.transformer(x, timestep=t, class_labels=null).sample.detach()
    assert (ours(x, t, labels) - theirs).abs().max() < 1e-5
    assert (ours(x, t, labels) - raw(x, t, labels)).abs().max() > 1e-3, "the average, not the raw weights"
    assert pipeline.vae.config.scaling_factor == 0.5 and pipeline.labels["7"] == 7
    card = Path("out/README.md").read_text()
    assert all(
        fact in card
        for fact in (
            "smoke/imported/authors",
            "Of these weights, by smoke/evaluate/authors (fresh):",
            "| validation_loss |",
            "Of the whole experiment, by smoke/report (fresh):",
            "| claim | paper |",
        )
    )


def test_latents_that_are_moved_are_beyond_the_pipelines(tmp_path):
    """They only scale: what they decode would be off by the shift."""
    smoke = load(ROOT / "tests/smoke/config.yaml").experiments["smoke"]
    around = Surroundings(autoencoder=Path("vae"), latent_scale=1.5, latent_shift=0.06, class_names=[], text_encoder=None)
    with pytest.raises(ConfigError, match=r"DiTPipeline only scales latents, .* data\.latent_shift 0\.06 moves as well"):
        write_diffusers(Weights(smoke.model, 32, "ema", {}), smoke.diffusion, around, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_comes_out_goes_in_again(authors):
    run(authors, "data", "imported/authors")
    mudit("export", "smoke", "authors", "--to", "out")
    mudit("import", "out", "--as", "dit", "--scheme", "sp", "--to", "back")
    first, back = load_file("imported/authors/ema.safetensors"), load_file("back/ema.safetensors")
    assert first.keys() == back.keys() and all(torch.equal(first[name], back[name]) for name in first)
    assert first["y_embedder.embedding_table.weight"].shape[0] == 11, "the padding to 1,001 classes is gone again"
    described = [json.loads(Path(folder, "model.json").read_text())["model"] for folder in ("imported/authors", "back")]
    assert described[0] == described[1]


def test_what_has_its_multipliers_folded_in_is_no_mup_checkpoint(authors):
    """Its readout would be multiplied twice."""
    run(authors, "data", "imported/authors")
    for form in ("diffusers", "safetensors"):
        mudit("export", "smoke", "authors", "--format", form, "--to", form)
        arguments = ["import", form, "--as", "dit", "--scheme", "mup", "--base-width", "16", "--to", "back"]
        result = CliRunner().invoke(app, arguments)
        assert isinstance(result.exception, CheckpointError) and str(result.exception) == (
            f"{form}: mudit export has folded muP's multipliers into these weights, so they are a plain model's: --scheme sp"
        )
    assert not Path("back").exists()


def test_weights_of_the_other_kind_are_refused_not_replaced(authors):
    run(authors, "data", "imported/authors")
    result = CliRunner().invoke(app, ["export", "smoke", "authors", "--weights", "raw", "--to", "out"])
    assert isinstance(result.exception, ConfigError) and str(result.exception) == (
        "export smoke authors: --weights raw, but imported.authors has its ema weights; leave it out, or change "
        "imported.authors.weights and run: mudit imported smoke authors"
    )
    assert not Path("out").exists()
    mudit("export", "smoke", "authors", "--weights", "ema", "--format", "safetensors", "--to", "out")


@pytest.mark.parametrize("to", ["authors.pt/out", "authors.pt/new/out"])
def test_a_folder_below_a_file_is_refused_in_one_line(to, authors):
    run(authors, "data", "imported/authors")
    before = sorted(Path().rglob("*"))
    for command in (["export", "smoke", "authors"], ["import", "authors.pt", "--as", "dit", "--scheme", "sp", "--head-dim", "8"]):
        result = CliRunner().invoke(app, [*command, "--to", to])
        assert isinstance(result.exception, CheckpointError), result.exception
        assert str(result.exception) == f"{to}: cannot be made, authors.pt is no folder; name another folder with --to"
    assert sorted(Path().rglob("*")) == before


def test_the_card_has_figures_of_the_very_weights_that_leave(authors):
    """An evaluation of others, such as an earlier import, is none of these."""
    run(authors, "data", "imported/authors")
    mudit("export", "smoke", "authors", "--to", "first")
    assert "These weights were not evaluated." in Path("first/README.md").read_text()
    own = sha256_file(Path("results/smoke/imported/authors/ema.safetensors"))
    records = [
        {"metric": "validation_loss", "value": 0.75, "n": 8, "weights": {"sha256": own}},
        {"metric": "frechet_distance", "value": None, "reason": "not finite", "n": 40, "weights": {"sha256": own}},
        {"metric": "inception_score", "value": 12.5, "n": 40, "weights": {"sha256": "0" * 64}},
    ]
    folder = Path("results/smoke/evaluate/authors")
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({"records": records}))
    mudit("export", "smoke", "authors", "--to", "second")
    card = Path("second/README.md").read_text()
    assert "| validation_loss | 0.75 |  | 8 |" in card and "| frechet_distance | not finite |" in card
    assert "inception_score" not in card and "12.5" not in card


@torch.no_grad()
def test_multipliers_are_folded_into_what_leaves(models, project):
    """Twice the base width: muP's readout has the multiplier 1/2, which a plain class does not know."""
    checkpoint(models["dit"], Path("mup.pt"))
    mudit("import", "mup.pt", "--as", "dit", "--scheme", "mup", "--base-width", "16", "--head-dim", "8")
    content = json.loads(Path("imported/mup/manifest.json").read_text())["content"]
    config = project(imported={"mup": {"folder": "imported/mup", "content": content, "weights": "raw"}})
    run(config, "data", "imported/mup")
    mudit("export", "smoke", "mup", "--format", "safetensors", "--to", "out")
    assert json.loads(Path("out/model.json").read_text())["weights"] == "raw"
    assert "the weights of its last step" in Path("out/README.md").read_text()
    leaving, kept = load_file("out/model.safetensors"), models["dit"].state_dict()
    assert torch.equal(leaving["final_layer.linear.weight"], kept["final_layer.linear.weight"] / 2)
    plain = models["dit"]
    x, t, labels = torch.randn(2, 4, 4, 4), torch.tensor([3, 90]), torch.tensor([1, 10])
    with_multiplier = load_imported(Path("imported/mup"), "raw")(x, t, labels)
    plain.load_state_dict(leaving)
    assert (plain(x, t, labels) - with_multiplier).abs().max() < 1e-6


COLOURS = ("red", "green", "blue", "grey")


@pytest.fixture
def captioned(models, project):
    """As `authors`, with PixArt's checkpoint, on captioned pictures of one's own and a tiny T5. It samples and scores nothing."""
    from PIL import Image
    from transformers import T5Config, T5EncoderModel

    Path("pictures").mkdir()
    for number in range(16):
        colour = COLOURS[number % len(COLOURS)]
        Image.new("RGB", (8, 8), colour).save(f"pictures/{number:02d}.png")
        Path(f"pictures/{number:02d}.txt").write_text(f"a {colour} square")
    word_tokenizer(Path("t5"), f"a square {' '.join(COLOURS)}", TOKENS)
    torch.manual_seed(0)
    T5EncoderModel(T5Config(vocab_size=16, d_model=TEXT, d_kv=4, d_ff=16, num_layers=1, num_heads=2)).save_pretrained("t5")
    state = {**models["pixart"].state_dict(), "pos_embed": models["pixart"].pos_embed[None]}
    ema = {name: tensor * 0.9 for name, tensor in state.items() if name != "pos_embed"}
    torch.save({"state_dict": state, "state_dict_ema": {**ema, "pos_embed": state["pos_embed"]}, "epoch": 30}, "PixArt.pth")
    mudit("import", "PixArt.pth", "--as", "pixart", "--scheme", "sp", "--head-dim", "8", "--to", "imported/authors")
    described = json.loads(Path("imported/authors/model.json").read_text())["model"]
    content = json.loads(Path("imported/authors/manifest.json").read_text())["content"]
    smoke = load(ROOT / "tests/smoke/config.yaml").experiments["smoke"].model_dump(mode="json")
    encoder = {"name": "t5", "path": "t5"}
    source = {"kind": "imagefolder", "path": "pictures", "image_column": "image", "caption_column": "text", "label_column": None}
    data = {"source": source, "encoder": "autoencoder-kl", "encoder_path": str(write_autoencoder(Path("vae"), 3))}
    data |= {
        "latent_scale": 0.5,
        "validation_images": 8,
        "captions": {"tokens": encoder, "pooled": encoder, "max_tokens": TOKENS, "storage": "float16"},
    }
    return project(
        model=described,
        data=smoke["data"] | data,
        validation=smoke["validation"] | {"images": 8},
        sample=smoke["sample"] | {"train_seeds": [], "images": 10, "steps": 4, "sampler": "dpm-solver++", "guidance": 2.0},
        imported={"authors": {"folder": "imported/authors", "content": content, "weights": "ema"}},
        evaluate=None,
    )


def snippet(folder: Path, **given: object) -> dict[str, Any]:
    """What the first block of code in a model card leaves behind, run as a user would."""
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0].replace("THIS FOLDER", str(folder))
    names: dict[str, Any] = {**given}
    exec(code, names)
    return names


@torch.no_grad()
def test_pixart_from_the_authors_file_to_diffusers_pipeline(models, captioned):
    run(captioned, "data", "imported/authors", "sample/authors")
    (images,) = open_sets(Path("results/smoke/sample/authors"))
    assert len(images) == 10 and images.finite_N.all() and set(images.texts()) == {f"a {colour} square" for colour in COLOURS}

    mudit("export", "smoke", "authors", "--to", "out")
    x, t = torch.randn(3, 4, 4, 4), torch.tensor([0, 17, 99])
    mask = torch.arange(TOKENS) < torch.tensor([[TOKENS], [3], [1]])
    captions = TextCondition(torch.randn(3, TOKENS, TEXT), mask, torch.zeros(3, 1), torch.tensor([False, False, True]))
    loaded = snippet(Path("out"), captions=captions.tokens[:1], mask=mask[:1].long())
    (drawn,) = loaded["images"]
    assert drawn.size == (8, 8) and type(loaded["pipe"]).__name__ == "PixArtAlphaPipeline"
    assert loaded["pipe"].vae.config.scaling_factor == 0.5
    ours, null = load_imported(Path("imported/authors")), loaded["null"][0]
    tokens = torch.where(captions.dropped[:, None, None], null, captions.tokens)
    visible = mask | captions.dropped[:, None]
    theirs = loaded["pipe"].transformer(x, encoder_hidden_states=tokens, timestep=t, encoder_attention_mask=visible).sample
    assert (ours(x, t, captions) - theirs).abs().max() < 1e-5
    assert (models["pixart"](x, t, captions) - theirs).abs().max() > 1e-3, "the average, not the raw weights"
    card = Path("out/README.md").read_text()
    assert all(
        fact in card for fact in ("smoke/imported/authors", "text encoder (t5, sha256 ", "These weights were not evaluated.")
    )

    mudit("import", "out", "--as", "pixart", "--scheme", "sp", "--to", "back")
    first, back = (load_file(f"{name}/ema.safetensors") for name in ("imported/authors", "back"))
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
