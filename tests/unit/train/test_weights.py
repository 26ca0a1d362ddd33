"""Finished weights come back as they were: tied parameters and buffers too; what does not fit is said in one line."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mudit.data.tensors import save_tensors
from mudit.errors import CheckpointError
from mudit.models.families import build
from mudit.parametrization.apply import parametrize
from mudit.parametrization.table import table_for
from mudit.train import weights
from mudit.train.weights import load_model, save_weights, weight_files

WIDTH = 16


class Tied(nn.Module):
    """One matrix under two names, a buffer that belongs to the state and one that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.readout = nn.Embedding(4, 4), nn.Linear(4, 4, bias=False)
        self.readout.weight = self.embedding.weight
        self.register_buffer("seen", torch.arange(3.0))
        self.register_buffer("positions", torch.zeros(2), persistent=False)


@pytest.fixture
def saved(desk, tmp_path):
    """A folder with a small DiT's weights, twice its values as the average."""
    table = table_for(desk.model, WIDTH, "mup")
    model, ema = (parametrize(build(desk.model, WIDTH), table, seed) for seed in (0, 1))
    save_weights(tmp_path, model, ema, {"scheme": "mup", "width": WIDTH, "parametrization": table.digest})
    return tmp_path, model, ema


def test_weights_and_their_average_come_back(desk, saved):
    folder, model, ema = saved
    for which, expected in (("raw", model), ("ema", ema)):
        found = load_model(folder, desk, which)
        assert not found.training
        for name, parameter in found.named_parameters():
            assert torch.equal(parameter, expected.get_parameter(name)) and not parameter.requires_grad
    x, t, y = torch.randn(2, 1, 8, 8), torch.tensor([3, 900]), torch.tensor([1, 2])
    torch.testing.assert_close(load_model(folder, desk)(x, t, y), ema.eval()(x, t, y))


def test_tied_parameters_and_buffers(desk, tmp_path, monkeypatch):
    model = Tied()
    table = table_for(desk.model, WIDTH, "mup")
    save_weights(tmp_path, model, model, {"scheme": "mup", "width": WIDTH, "parametrization": table.digest})
    assert sorted(load_file(tmp_path / "ema.safetensors")) == ["embedding.weight", "seen"]
    fresh = Tied()
    fresh.seen.zero_()
    monkeypatch.setattr(weights, "build", lambda section, width: fresh)
    monkeypatch.setattr(weights, "attach_multipliers", lambda module, table: None)
    found = load_model(tmp_path, desk)
    assert torch.equal(found.readout.weight, model.embedding.weight)
    assert found.readout.weight is found.embedding.weight
    assert found.seen.tolist() == [0, 1, 2]


def test_other_tensors_are_named(desk, saved):
    folder, _, _ = saved
    path = folder / "ema.safetensors"
    tensors = load_file(path)
    for changed, name in (
        ({**tensors, "extra": torch.zeros(1)}, "extra"),
        ({key: value for key, value in tensors.items() if key != "x_embedder.proj.bias"}, r"x_embedder\.proj\.bias"),
        ({**tensors, "x_embedder.proj.bias": torch.zeros(7)}, r"x_embedder\.proj\.bias"),
    ):
        save_tensors(changed, path)
        with pytest.raises(
            CheckpointError, match=rf"ema\.safetensors: tensors do not fit the model: {name}; run `mudit train` again"
        ):
            load_model(folder, desk)


def test_other_parametrization_is_refused(desk, saved):
    folder, _, _ = saved
    description = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**description, "parametrization": "0" * 64}))
    with pytest.raises(CheckpointError, match="trained under another parameter table"):
        load_model(folder, desk)


def test_large_weights_are_several_files_with_an_index(desk, saved, monkeypatch, tmp_path):
    """As model hubs have them; whoever loads them sees no difference."""
    _, model, ema = saved
    monkeypatch.setattr(weights, "FILE_BYTES", 20_000)
    folder = tmp_path / "several"
    folder.mkdir()
    digest = table_for(desk.model, WIDTH, "mup").digest
    save_weights(folder, model, ema, {"scheme": "mup", "width": WIDTH, "parametrization": digest})
    files = weight_files(folder, "ema")
    assert len(files) > 2 and not (folder / "ema.safetensors").exists()
    assert [file.name for file in files] == [
        f"ema-{number:05d}-of-{len(files):05d}.safetensors" for number in range(1, len(files) + 1)
    ]
    index = json.loads((folder / "ema.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == dict(ema.named_parameters()).keys()
    found = load_model(folder, desk)
    for name, parameter in found.named_parameters():
        assert torch.equal(parameter, ema.get_parameter(name))


def test_the_files_of_small_weights_are_one(saved):
    folder, _, _ = saved
    assert weight_files(folder, "raw") == [folder / "weights.safetensors"]
