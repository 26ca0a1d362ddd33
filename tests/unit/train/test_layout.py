"""How a run is laid out over processes: what is refused before anything is built, and what a model's blocks are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from families import FAMILIES
from families import table as table_of
from mudit.config.cluster import TrainWorkers
from mudit.errors import ConfigError
from mudit.jobs.distributed import World
from mudit.parametrization.apply import parametrize
from mudit.train.parallel import Layout, blocks, lighten, parameters_on_meta


def _workers(**options) -> TrainWorkers:
    defaults = {"nodes": 1, "per_node": 1, "parallel": "replicated", "micro_batch": None}
    return TrainWorkers(**{**defaults, "checkpoint_activations": False, "compile": False, **options})


def _world(monkeypatch, rank: int, size: int) -> None:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(size))


def test_ranks_share_the_batch_in_order(monkeypatch):
    places = []
    for rank in range(4):
        _world(monkeypatch, rank, 4)
        layout = Layout.of(_workers(micro_batch=3), 24)
        assert layout.passes == 2
        places += layout.places
    assert places == list(range(24))


def test_a_batch_that_does_not_divide_is_one_line(monkeypatch):
    _world(monkeypatch, 0, 3)
    with pytest.raises(ConfigError, match="a batch of 16 images does not divide over 3 processes"):
        Layout.of(None, 16)
    _world(monkeypatch, 0, 2)
    with pytest.raises(ConfigError, match="micro_batch 3 does not divide the 8 images of each process"):
        Layout.of(_workers(micro_batch=3), 16)


def test_a_micro_batch_is_at_most_the_share(monkeypatch):
    """So that a run may go on over more processes than it was laid out for."""
    _world(monkeypatch, 0, 8)
    layout = Layout.of(_workers(micro_batch=4), 16)
    assert (layout.micro_batch, layout.passes) == (2, 1)


def test_one_process_is_never_sharded(monkeypatch):
    assert not Layout.of(_workers(parallel="sharded"), 16).sharded
    _world(monkeypatch, 0, 2)
    assert Layout.of(_workers(parallel="sharded"), 16).sharded


@pytest.mark.parametrize(("family", "count"), [("pixart", 2), ("mmdit", 2), ("uvit", 3)])
def test_blocks_are_the_repeated_layers(family, count):
    """U-ViT's middle block stands in no list, and is one of them."""
    model = FAMILIES[family](16)
    found = blocks(model)
    assert len(found) == count and len({type(block) for block in found}) == 1
    inside = sum(parameter.numel() for block in found for parameter in block.parameters())
    assert inside > 0.5 * sum(parameter.numel() for parameter in model.parameters())


def test_a_module_without_lists_has_no_blocks():
    assert blocks(nn.Sequential(nn.Linear(2, 2), nn.ReLU())) == []


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_model_can_be_built_without_memory_for_its_parameters(family):
    with parameters_on_meta():
        model = FAMILIES[family](16)
    plain = FAMILIES[family](16)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in plain.named_parameters()]
    for (name, found), (_, expected) in zip(model.named_buffers(), plain.named_buffers(), strict=True):
        assert torch.equal(found, expected), name
    assert not any(parameter.is_meta for parameter in FAMILIES[family](16).parameters()), "torch builds as before again"


@pytest.mark.slow
def test_compiled_blocks_compute_the_same(monkeypatch):
    """To rounding, with activations computed again in the backward pass; names and multipliers stay."""
    from families import inputs, loss

    layout = Layout(World(0, 1, 0), 8, checkpoint_activations=True, compile=True)
    results = []
    for light in (False, True):
        model = parametrize(FAMILIES["mmdit"](64), table_of("mmdit", 64, "mup"), 0)
        if light:
            lighten(model, layout)
        generator = torch.Generator().manual_seed(0)
        x, t, condition = inputs("mmdit", generator)
        value = loss(model, x, t, condition, torch.randn(x.shape, generator=generator))
        value.backward()
        results.append((value.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-5, atol=1e-6)
    assert results[0][1].keys() == results[1][1].keys()
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(
            results[1][1][name], gradient, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )
