"""Folders whose indexes, links, configurations or files are not what a folder of diffusers has."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from .bad import Attack, Cases

CASES = Cases("bad")


CONFIG = {"_class_name": "DiTTransformer2DModel", "attention_head_dim": 8, "sample_size": 4}
WEIGHTS = "diffusion_pytorch_model"


def _folder(path, state, index=None, config=CONFIG):
    """A folder of diffusers with the given tensors in two shards, under an index."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    names = sorted(state)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, mine in shards.items():
        save_file({name: state[name].contiguous() for name in mine}, path / file)
    weight_map = {name: file for file, mine in shards.items() for name in mine}
    (path / f"{WEIGHTS}.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map | (index or {})}))
    return weight_map


@CASES.case("no config.json, so not a folder of diffusers")
def folder_without_a_model(path, state, canary):
    path.mkdir()


@CASES.case(r"names '\.\./secret\.safetensors', which is not a safetensors file of its own folder")
def index_that_leaves_the_folder(path, state, canary):
    save_file(state, path.parent / "secret.safetensors")
    _folder(path, state, {"x": "../secret.safetensors"})


@CASES.case(r"names '/etc/passwd', which is not a safetensors file of its own folder")
def index_with_an_absolute_path(path, state, canary):
    _folder(path, state, {"x": "/etc/passwd"})


@CASES.case("a link that leaves its folder; put the file itself there")
def link_out_of_the_folder(path, state, canary):
    _folder(path, state)
    (path / "a.safetensors").rename(path.parent / "secret.safetensors")
    (path / "a.safetensors").symlink_to(path.parent / "secret.safetensors")


@CASES.case("no such file; fetch the folder again")
def missing_shard(path, state, canary):
    _folder(path, state)
    (path / "b.safetensors").unlink()


@CASES.case("no such file; fetch the folder again|not a regular file")
def folder_in_place_of_a_shard(path, state, canary):
    _folder(path, state)
    (path / "b.safetensors").unlink()
    (path / "b.safetensors").mkdir()


@CASES.case("b.safetensors: .* is in another shard too")
def tensor_in_two_shards(path, state, canary):
    weight_map = _folder(path, state)
    name = next(name for name, file in weight_map.items() if file == "a.safetensors")
    mine = {each: state[each].contiguous() for each, file in weight_map.items() if file == "b.safetensors"}
    save_file({**mine, name: state[name].contiguous()}, path / "b.safetensors")


@CASES.case("unlisted is not in the index")
def tensor_that_the_index_does_not_know(path, state, canary):
    weight_map = _folder(path, state)
    mine = {each: state[each].contiguous() for each, file in weight_map.items() if file == "b.safetensors"}
    save_file({**mine, "unlisted": torch.zeros(1)}, path / "b.safetensors")


@CASES.case("ghost is not there")
def tensor_that_only_the_index_knows(path, state, canary):
    _folder(path, state, {"ghost": "a.safetensors"})


@CASES.case("of the class UNet2DModel, not DiTTransformer2DModel; is --as dit right")
def another_class(path, state, canary):
    _folder(path, state, config={**CONFIG, "_class_name": "UNet2DModel"})


@CASES.case("its configuration says sample_size|image_size '4', which is no count")
def configuration_that_is_no_number(path, state, canary):
    _folder(path, state, config={**CONFIG, "sample_size": "4"})


@CASES.case("damaged JSON")
def configuration_that_is_no_json(path, state, canary):
    _folder(path, state)
    (path / "config.json").write_text("{'_class_name': __import__('os')}")


@CASES.case("its pickle names posix.system, which is no part of weights; nothing was loaded")
def attack_in_a_bin_file(path, state, canary):
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG))
    torch.save({"x": Attack(os.system, f"touch {canary}")}, path / f"{WEIGHTS}.bin")


@pytest.mark.parametrize("name", CASES.names)
def test_each_is_refused_with_one_line_and_leaves_nothing(name, models, tmp_path):
    CASES.check(name, models["dit"].state_dict(), tmp_path)
