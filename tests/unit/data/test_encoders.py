"""Autoencoders from a folder: whole, or refused in one line."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from mudit.data.encoders import AutoencoderKL
from mudit.errors import DataError

WEIGHT = "decoder.conv_in.weight"


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    from diffusers import AutoencoderKL as Network

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vae")
    Network(block_out_channels=(8,), norm_num_groups=4, latent_channels=4, sample_size=8).save_pretrained(folder)
    return folder


def without(tensors):
    del tensors[WEIGHT]


def with_a_hole(tensors):
    tensors[WEIGHT][0, 0, 0, 0] = float("nan")


def of_another_shape(tensors):
    tensors[WEIGHT] = torch.zeros(3, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without, rf"1 weights are missing, such as {WEIGHT}; fetch it again"),
        (with_a_hole, rf"{WEIGHT} holds values that are not finite; fetch it again"),
        (of_another_shape, "not an AutoencoderKL"),
    ],
)
def test_weights_that_are_not_whole_are_refused_and_not_drawn_at_random(autoencoder, tmp_path, change, message):
    folder = tmp_path / "vae"
    shutil.copytree(autoencoder, folder)
    path = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    assert AutoencoderKL(folder, 1.0).identity["name"] == "autoencoder-kl"
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(DataError, match=rf"vae: {message}") as caught:
        AutoencoderKL(folder, 1.0)
    assert "\n" not in str(caught.value)
