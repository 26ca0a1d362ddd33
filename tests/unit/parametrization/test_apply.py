"""Applying a table: what must match, what survives, what is refused."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from mudit.errors import ParametrizationError
from mudit.models.families import build
from mudit.parametrization.apply import attach_multipliers, initialise, parameter_groups, parametrize
from mudit.parametrization.table import table_for

INPUTS = (torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([5, 700]), torch.tensor([0, 9]))


def _model(section, width=64, seed=0):
    table = table_for(section, width, "mup")
    model = parametrize(build(section, width), table, seed)
    with torch.no_grad():
        model.final_layer.linear.weight.fill_(0.01)
    return table, model


def test_the_readout_multiplies_its_input_not_its_bias(small_model):
    _, model = _model(small_model)
    readout = model.final_layer.linear
    with torch.no_grad():
        readout.bias.fill_(1.0)
    x = torch.randn(3, 64)
    assert torch.allclose(readout(x), torch.nn.functional.linear(x * 0.5, readout.weight, readout.bias))


def test_safetensors_round_trip(small_model, tmp_path):
    table, model = _model(small_model)
    save_file({name: parameter.detach() for name, parameter in model.named_parameters()}, tmp_path / "w.safetensors")
    twin = build(small_model, 64)
    attach_multipliers(twin, table)
    twin.load_state_dict(load_file(tmp_path / "w.safetensors"), strict=False)
    assert torch.equal(model(*INPUTS), twin(*INPUTS))


def test_torch_compile_keeps_the_multiplier_and_the_graph_whole(small_model):
    _, model = _model(small_model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*INPUTS), model(*INPUTS), rtol=1e-5, atol=1e-6)


def test_initial_values_depend_on_seed_and_name_only(small_model):
    """A tensor keeps its values when other tensors of the model change."""
    deeper = small_model.model_copy(update={"depth": 3})
    _, two = _model(small_model)
    _, three = _model(deeper)
    assert torch.equal(two.blocks[1].mlp.fc1.weight, three.blocks[1].mlp.fc1.weight)
    _, other = _model(small_model, seed=1)
    assert not torch.equal(two.blocks[1].mlp.fc1.weight, other.blocks[1].mlp.fc1.weight)


def test_every_parameter_is_in_exactly_one_group(small_model):
    table, model = _model(small_model, width=64)
    groups = parameter_groups(model, table, lr=0.1, weight_decay=0.2)
    names = [name for group in groups for name in group["names"]]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    # lr x weight decay, what one step removes, is the same for all.
    assert {round(group["lr"] * group["weight_decay"], 12) for group in groups} == {0.02}


def test_mismatches_are_refused_by_name(small_model):
    table, model = _model(small_model)
    with pytest.raises(ParametrizationError, match=r"x_embedder.proj.weight: shape \(64, 1, 2, 2\) differs"):
        initialise(model, table_for(small_model, 32, "mup"), 0)
    model.extra = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(ParametrizationError, match="extra: no row in the parameter table"):
        initialise(model, table, 0)
    del model.extra
    del model.blocks[1]
    with pytest.raises(ParametrizationError, match="in the parameter table but not in the model"):
        parameter_groups(model, table, lr=1.0, weight_decay=0.0)
