"""What can be read, under which layouts, and what the imported folder says of it."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from mudit.cli import app
from mudit.errors import CheckpointError
from mudit.files import sha256_file
from mudit.interchange.architecture import Stated, Widths
from mudit.interchange.imported import check_whole, load_imported, read_description, section_of_folder
from mudit.interchange.importer import Wish, import_checkpoint
from mudit.models.layouts import diffusers as layouts
from mudit.models.mmdit import MMDiT
from mudit.models.uvit import UViT

from .conftest import DEPTH, MODELS, SIZES, STATED, TEXT, TOKENS, randomise

DIT_CONFIG = {"_class_name": "Transformer2DModel", "norm_type": "ada_norm_zero", "attention_head_dim": 8, "sample_size": 4}


def imported(path, family, folder, scheme="sp", stated=None, widths=None, null_caption=None):
    """The imported folder and its weights."""
    import_checkpoint(Wish(path, family, scheme, stated or STATED[family], widths, null_caption), folder)
    return load_file(folder / "ema.safetensors")


def assert_same(found, model):
    wanted = dict(model.named_parameters())
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("family", MODELS)
def test_a_state_dict_of_each_family(family, models, tmp_path):
    model = models[family]
    torch.save(model.state_dict(), tmp_path / "model.pth")
    assert_same(imported(tmp_path / "model.pth", family, tmp_path / "out"), model)
    section = section_of_folder(tmp_path / "out", read_description(tmp_path / "out"))
    assert {name: getattr(section, name) for name in SIZES if name != "width"} == {
        name: value for name, value in SIZES.items() if name != "width"
    }


def test_a_training_checkpoint_gives_raw_and_averaged_weights_and_says_what_it_left(models, tmp_path):
    model, optimizer = models["dit"], torch.optim.AdamW(models["dit"].parameters())
    sum(parameter.square().sum() for parameter in model.parameters()).backward()
    optimizer.step()
    wrapped = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    ema = {name: tensor / 2 for name, tensor in model.state_dict().items()}
    content = {"model": wrapped, "ema": ema, "opt": optimizer.state_dict(), "args": argparse.Namespace(lr=1e-4, name="x")}
    torch.save(content, tmp_path / "0400000.pt")
    assert_same({name: tensor * 2 for name, tensor in imported(tmp_path / "0400000.pt", "dit", tmp_path / "out").items()}, model)
    assert_same(load_file(tmp_path / "out/weights.safetensors"), model)
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["ignored"] == ["opt", "args"]
    (file,) = manifest["source"]["files"]
    assert file == {
        "file": "0400000.pt", "bytes": (tmp_path / "0400000.pt").stat().st_size, "sha256": sha256_file(tmp_path / "0400000.pt")
    }  # fmt: skip
    assert manifest["weights"]["ema.safetensors"]["layout"] == "facebookresearch DiT"
    assert check_whole(tmp_path / "out") == manifest["content"]


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module."])
def test_what_wrappers_put_before_every_name_goes(prefix, models, tmp_path):
    """torch.compile around DistributedDataParallel, or the other way round."""
    wrapped = {f"{prefix}{name}": tensor for name, tensor in models["dit"].state_dict().items()}
    torch.save({"model": wrapped, "ema": models["dit"].state_dict()}, tmp_path / "model.pt")
    assert_same(imported(tmp_path / "model.pt", "dit", tmp_path / "out"), models["dit"])
    assert_same(load_file(tmp_path / "out/weights.safetensors"), models["dit"])


def test_a_prefix_of_some_names_is_no_wrappers(models, tmp_path):
    state = models["dit"].state_dict()
    state["_orig_mod.x_embedder.proj.bias"] = state.pop("x_embedder.proj.bias")
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"_orig_mod\.x_embedder\.proj\.bias is unknown|x_embedder\.proj\.bias is missing"):
        imported(tmp_path / "model.pt", "dit", tmp_path / "out")


def test_a_file_without_checksums_is_read(models, tmp_path):
    """Whose owner had switched them off, which torch.save allows."""
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(models["dit"].state_dict(), tmp_path / "model.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert_same(imported(tmp_path / "model.pt", "dit", tmp_path / "out"), models["dit"])


def test_half_precision_becomes_float32(models, tmp_path):
    state = {name: tensor.bfloat16() for name, tensor in models["dit"].state_dict().items()}
    state["pos_embed"] = models["dit"].pos_embed[None].bfloat16()
    save_file(state, tmp_path / "model.safetensors")
    found = imported(tmp_path / "model.safetensors", "dit", tmp_path / "out")
    assert all(tensor.dtype == torch.float32 and torch.equal(tensor, state[name].float()) for name, tensor in found.items())
    assert json.loads((tmp_path / "out/manifest.json").read_text())["weights"]["ema.safetensors"]["stored as"] == ["bfloat16"]


def _shards(folder, tensors, config):
    """As diffusers writes a model in three files."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    names, stem, weight_map = sorted(tensors), "diffusion_pytorch_model", {}
    for number in range(3):
        file = f"{stem}-{number + 1:05d}-of-00003.safetensors"
        mine = names[number::3]
        save_file({name: tensors[name].contiguous().clone() for name in mine}, folder / file)
        weight_map |= dict.fromkeys(mine, file)
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_shards_of_diffusers_in_a_pipelines_folder(models, tmp_path):
    theirs = layouts.dit(DEPTH).to_theirs(dict(models["dit"].named_parameters()))
    _shards(tmp_path / "pipeline/transformer", theirs, DIT_CONFIG)
    assert_same(imported(tmp_path / "pipeline", "dit", tmp_path / "out", stated=Stated()), models["dit"])


def test_the_hubs_cache_whose_files_are_links_to_its_blobs(models, tmp_path):
    theirs = layouts.dit(DEPTH).to_theirs(dict(models["dit"].named_parameters()))
    snapshot = tmp_path / "models--x/snapshots/abc"
    _shards(snapshot / "transformer", theirs, DIT_CONFIG)
    blobs = tmp_path / "models--x/blobs"
    blobs.mkdir()
    for number, file in enumerate(sorted((snapshot / "transformer").iterdir())):
        file.rename(blobs / str(number))
        file.symlink_to(Path("../../../blobs") / str(number))
    assert_same(imported(snapshot, "dit", tmp_path / "out"), models["dit"])


def test_an_older_bin_file_beside_its_configuration(models, tmp_path):
    folder = tmp_path / "transformer"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(DIT_CONFIG))
    theirs = layouts.dit(DEPTH).to_theirs(dict(models["dit"].named_parameters()))
    torch.save(theirs, folder / "diffusion_pytorch_model.bin")
    assert_same(imported(folder, "dit", tmp_path / "out"), models["dit"])


def test_pixart_of_diffusers_needs_its_null_caption(models, tmp_path):
    model = models["pixart"]
    theirs = layouts.pixart(DEPTH).to_theirs(dict(model.named_parameters()))
    config = {"_class_name": "PixArtTransformer2DModel", "attention_head_dim": 8, "sample_size": 4}
    _shards(tmp_path / "new", theirs, config)
    with pytest.raises(CheckpointError, match="new: no null caption: diffusers' PixArt has none; say --null-caption"):
        imported(tmp_path / "new", "pixart", tmp_path / "out")
    _shards(tmp_path / "old", {**theirs, "caption_projection.y_embedding": model.y_embedder.y_embedding.detach()}, config)
    assert_same(imported(tmp_path / "old", "pixart", tmp_path / "out"), model)


def test_the_null_caption_comes_from_a_text_encoder(models, tmp_path, t5):
    theirs = layouts.pixart(DEPTH).to_theirs(dict(models["pixart"].named_parameters()))
    _shards(tmp_path / "new", theirs, {"_class_name": "PixArtTransformer2DModel", "attention_head_dim": 8, "sample_size": 4})
    stated = Stated(max_tokens=TOKENS)
    found = imported(tmp_path / "new", "pixart", tmp_path / "out", stated=stated, null_caption=t5)["y_embedder.y_embedding"]
    assert found.shape == (TOKENS, TEXT) and (found == found[0]).all() and found.std() > 0


def test_single_file_of_stable_diffusion_3_with_its_large_position_table(tmp_path):
    model = randomise(MMDiT(**SIZES, text_dim=TEXT, pooled_dim=10, qk_norm=False, position_table=6))
    prefix = "model.diffusion_model."
    state = {prefix + name: tensor for name, tensor in model.named_parameters()}
    # Squeezed as there: positions of a table of 6 in the range of the image's own 2.
    axis = torch.arange(6, dtype=torch.float64) * (2 / 6)
    state[f"{prefix}pos_embed"] = _squeezed(axis, SIZES["width"])[None]
    state["first_stage_model.x"] = torch.zeros(1)
    save_file({name: tensor.detach().clone() for name, tensor in state.items()}, tmp_path / "sd3.safetensors")
    stated = Stated(head_dim=8, image_size=4, max_tokens=TOKENS)
    assert_same(imported(tmp_path / "sd3.safetensors", "mmdit", tmp_path / "out", stated=stated), model)
    section = section_of_folder(tmp_path / "out", read_description(tmp_path / "out"))
    assert section.position_table == 6
    assert torch.equal(load_imported(tmp_path / "out").pos_embed, model.pos_embed)
    assert json.loads((tmp_path / "out/manifest.json").read_text())["ignored"] == ["first_stage_model"]


def _squeezed(axis, width):
    quarter = width // 4
    omega = 1.0 / 10_000.0 ** (torch.arange(quarter, dtype=torch.float64) / quarter)
    row, column = torch.meshgrid(axis, axis, indexing="ij")
    parts = [wave(place.flatten()[:, None] * omega) for place in (column, row) for wave in (torch.sin, torch.cos)]
    return torch.cat(parts, dim=1).float()


def test_captions_of_uvit_are_told_from_patches(tmp_path):
    model = randomise(UViT(**SIZES, text_dim=TEXT, max_tokens=TOKENS, final_conv=False))
    torch.save(model.state_dict(), tmp_path / "uvit.pth")
    with pytest.raises(CheckpointError, match="of 10 tokens some are the caption's: say how many with --max-tokens"):
        imported(tmp_path / "uvit.pth", "uvit", tmp_path / "out")
    with pytest.raises(CheckpointError, match="pos_embed has 10 tokens, which leaves 5 patches: no square"):
        imported(tmp_path / "uvit.pth", "uvit", tmp_path / "out", stated=Stated(head_dim=8, max_tokens=4))
    assert_same(imported(tmp_path / "uvit.pth", "uvit", tmp_path / "out", stated=Stated(head_dim=8, max_tokens=5)), model)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        (Stated(image_size=4), "model.pth: the number of heads is in no shape: say --head-dim"),
        (
            Stated(head_dim=8),
            "positions are not stored, so say the side of the model's input in latent pixels: --image-size",
        ),
        (Stated(head_dim=7, image_size=4), "these sizes make no model: base_width 32 is not a multiple of head_dim 7"),
        (Stated(head_dim=8, image_size=5), "these sizes make no model: image_size 5 is not a multiple of patch_size 2"),
        (Stated(head_dim=8, image_size=1 << 20), "more than 1024 patches a side"),
    ],
)
def test_what_shapes_cannot_tell_must_be_said_and_fit(stated, message, models, tmp_path):
    torch.save(models["dit"].state_dict(), tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=message):
        imported(tmp_path / "model.pth", "dit", tmp_path / "out", stated=stated)


def test_sizes_that_fit_no_model_are_said_in_our_words(models, tmp_path):
    torch.save(models["dit"].state_dict(), tmp_path / "model.pth")
    with pytest.raises(CheckpointError) as error:
        imported(tmp_path / "model.pth", "dit", tmp_path / "out", stated=Stated(head_dim=7, image_size=4))
    assert "Value error" not in str(error.value) and "these sizes make no model: base_width 32" in str(error.value)


def test_a_flag_may_not_contradict_the_checkpoint(models, tmp_path):
    torch.save({**models["dit"].state_dict(), "pos_embed": models["dit"].pos_embed[None]}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="--image-size 8: the checkpoint itself says 4"):
        imported(tmp_path / "model.pth", "dit", tmp_path / "out", stated=Stated(head_dim=8, image_size=8))


@pytest.mark.parametrize(
    ("family", "wrong", "message"),
    [
        ("dit", {"max_tokens": 5}, "--max-tokens 5: a model of classes reads no captions; leave it out"),
        ("uvit", {"max_tokens": 5}, "--max-tokens 5: a model of classes reads no captions; leave it out"),
        ("uvit", {"image_size": 8}, "--image-size 8: the checkpoint itself says 4"),
        ("pixart", {"max_tokens": 7}, "--max-tokens 7: the checkpoint itself says 5"),
        ("mmdit", {"head_dim": 16}, "--head-dim 16: the checkpoint itself says 8"),
    ],
)
def test_a_flag_without_effect_is_refused(family, wrong, message, models, tmp_path):
    torch.save(models[family].state_dict(), tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=rf"model\.pth: {message}"):
        imported(tmp_path / "model.pth", family, tmp_path / "out", stated=replace(STATED[family], **wrong))


def test_a_flag_that_says_what_the_checkpoint_says_is_no_error(models, tmp_path):
    torch.save(models["pixart"].state_dict(), tmp_path / "model.pth")
    assert_same(
        imported(tmp_path / "model.pth", "pixart", tmp_path / "out", stated=replace(STATED["pixart"], max_tokens=5)),
        models["pixart"],
    )


@pytest.mark.parametrize(("name", "value"), [("num_layers", 28), ("num_attention_heads", 3)])
def test_a_configuration_may_not_contradict_its_tensors(name, value, models, tmp_path):
    theirs = layouts.dit(DEPTH).to_theirs(dict(models["dit"].named_parameters()))
    _shards(tmp_path / "bad", theirs, {**DIT_CONFIG, name: value})
    with pytest.raises(CheckpointError, match=rf"its config\.json says {name} {value}, its tensors say \d"):
        imported(tmp_path / "bad", "dit", tmp_path / "out")


@torch.no_grad()
def test_mup_attaches_the_readouts_multiplier(models, tmp_path):
    torch.save(models["dit"].state_dict(), tmp_path / "model.pth")
    imported(tmp_path / "model.pth", "dit", tmp_path / "out", scheme="mup", widths=Widths(16, 24, 4.0))
    x, t, labels = torch.randn(2, 4, 4, 4), torch.tensor([3, 90]), torch.tensor([1, 10])
    plain, found = models["dit"](x, t, labels), load_imported(tmp_path / "out")(x, t, labels)
    models["dit"].final_layer.linear.weight.mul_(4.0 / 2)
    assert (models["dit"](x, t, labels) - found).abs().max() < 1e-6 < (plain - found).abs().max()
    with pytest.raises(CheckpointError, match="under muP the readout's multiplier is not among the weights; say --base-width"):
        imported(tmp_path / "model.pth", "dit", tmp_path / "again", scheme="mup")


def test_a_file_or_folder_of_another_step_is_named(models, tmp_path):
    theirs = layouts.dit(DEPTH).to_theirs(dict(models["dit"].named_parameters()))
    _shards(tmp_path / "pipeline/transformer", theirs, DIT_CONFIG)
    save_file({name: tensor.contiguous().clone() for name, tensor in theirs.items()}, tmp_path / "alone.safetensors")
    with pytest.raises(CheckpointError, match=r"alone\.safetensors: its names are those of diffusers; import the folder"):
        imported(tmp_path / "alone.safetensors", "dit", tmp_path / "out")
    imported(tmp_path / "pipeline", "dit", tmp_path / "out", stated=Stated())
    with pytest.raises(CheckpointError, match="out: mudit import wrote it; name it in a section `imported`"):
        imported(tmp_path / "out", "dit", tmp_path / "again")


@pytest.mark.parametrize(
    "change", [{"width": "32"}, {"width": None}, {"width": -8}, {"width": 1 << 70}, {"scheme": "mu"}, {"scheme": []}]
)
def test_a_description_that_was_edited_is_refused_in_one_line(change, models, tmp_path):
    torch.save(models["dit"].state_dict(), tmp_path / "model.pth")
    imported(tmp_path / "model.pth", "dit", tmp_path / "out")
    path = tmp_path / "out/model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(
        CheckpointError, match=r"model\.json: describes no model \(width .*, scheme .*\); import the checkpoint again"
    ):
        load_imported(tmp_path / "out")


def test_paths_that_cannot_be_are_one_line(models, tmp_path):
    torch.save(models["dit"].state_dict(), tmp_path / "model.pth")
    endless = tmp_path / ("x" * 300)
    with pytest.raises(CheckpointError, match=r"xxx: cannot be read \(File name too long\); name another path"):
        imported(endless, "dit", tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"xxx: cannot be made \(File name too long\); name another folder"):
        imported(tmp_path / "model.pth", "dit", endless)
    almost = tmp_path / "new" / ("x" * 250)  # its temporary folder has a longer name
    with pytest.raises(CheckpointError, match=r"xxx: cannot be made \(File name too long\); name another folder"):
        imported(tmp_path / "model.pth", "dit", almost)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pth"]


def test_the_command_says_one_line_and_exits_with_2(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"epoch": 1}, "nothing.pt")
    result = CliRunner().invoke(app, ["import", "nothing.pt", "--as", "dit", "--scheme", "sp"])
    assert isinstance(result.exception, CheckpointError) and "\n" not in str(result.exception)
    result = CliRunner().invoke(app, ["import", "nothing.pt", "--as", "dit", "--scheme", "sp", "--base-width", "16"])
    assert "--base-width and --output-mult belong to --scheme mup" in str(result.exception)
    for value in ("0", "inf"):
        mup = ["--scheme", "mup", "--base-width", "16", "--output-mult", value]
        result = CliRunner().invoke(app, ["import", "nothing.pt", "--as", "dit", *mup])
        assert str(result.exception) == f"--output-mult {float(value)}: must be positive and finite"
    assert sorted(tmp_path.iterdir()) == [tmp_path / "nothing.pt"]
