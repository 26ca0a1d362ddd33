"""Packs that must fit: gradients summed over parts of a batch, sizes that a GPU's memory refuses; and state that is carried on."""

from __future__ import annotations

import pytest
import torch

from mudit.errors import ConfigError
from mudit.parametrization.table import table_for
from mudit.train import group as group_module
from mudit.train.group import Member, TrialGroup, measure_group_size
from mudit.train.knobs import Knobs

BATCH = 12
MEMBERS = [Member(Knobs(-8, None, 0, 0.0), 0), Member(Knobs(-6, 0.5, 3, 0.0), 0), Member(Knobs(-7, 2.0, 0, 0.0), 1)]


def _group(desk, digits, members=MEMBERS, micro_batch=None):
    return TrialGroup(desk, digits, table_for(desk.model, 32, "mup"), members, BATCH, micro_batch)


def _trained(group, steps, first=0):
    return torch.stack([group.step(step) for step in range(first, first + steps)])


@pytest.mark.parametrize("micro_batch", [1, 4, 5, 11])
@pytest.mark.parametrize("packable", [True, False])
def test_a_batch_in_parts_takes_the_same_steps(desk, digits, monkeypatch, micro_batch, packable):
    """Losses of ten steps within 1e-5 of one pass's, in float32, also where the last part is smaller; packed, and alone."""
    monkeypatch.setattr(group_module, "packable", lambda model: packable)
    members = MEMBERS if packable else MEMBERS[1:2]
    whole, parts = (_trained(_group(desk, digits, members, size), 10) for size in (None, micro_batch))
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)
    assert not torch.equal(parts, whole), "the parts were computed apart"


@pytest.mark.parametrize("micro_batch", [BATCH, 100])
def test_one_part_is_bit_for_bit_the_whole(desk, digits, micro_batch):
    assert torch.equal(_trained(_group(desk, digits, micro_batch=micro_batch), 4), _trained(_group(desk, digits), 4))


@pytest.mark.parametrize("micro_batch", [None, 4])
def test_no_forward_pass_sees_more_images_than_the_micro_batch(desk, digits, monkeypatch, micro_batch):
    seen = []
    loss = group_module.training_loss

    def watched(model, objective, batch, weights):
        seen.append(tuple(batch.x0.shape[:2]))
        return loss(model, objective, batch, weights)

    monkeypatch.setattr(group_module, "training_loss", watched)
    _group(desk, digits, micro_batch=micro_batch).step(0)
    assert seen == ([(3, 12)] if micro_batch is None else [(3, 4)] * 3)


def test_another_group_goes_on_from_the_tensors_bit_for_bit(desk, digits):
    whole, first, second = (_group(desk, digits) for _ in range(3))
    _trained(first, 3)
    second.load({name: tensor.clone() for name, tensor in first.tensors().items()})
    assert torch.equal(_trained(second, 4, first=3), _trained(whole, 7)[3:])


def test_a_loaded_group_does_not_hold_on_to_the_tensors(desk, digits):
    first, second = _group(desk, digits), _group(desk, digits)
    _trained(first, 2)
    tensors = {name: tensor.clone() for name, tensor in first.tensors().items()}
    kept = {name: tensor.clone() for name, tensor in tensors.items()}
    second.load(tensors)
    _trained(second, 2, first=2)
    assert all(torch.equal(tensors[name], kept[name]) for name in kept)


class _Gpu:
    """A group on a GPU whose memory holds so many trials, at most."""

    packable = True
    holds = 0

    def __init__(self, members):
        self.members = members

    def step(self, step):
        return self._counted(self.holds)

    def validate(self, holds):
        return self._counted(holds)

    def _counted(self, holds):
        if len(self.members) > holds:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return torch.zeros(len(self.members))


@pytest.mark.parametrize(("holds", "sizes"), [(16, {1, 8, 16}), (15, {1, 4, 8}), (5, {1, 2, 4}), (3, {1, 2}), (1, {1})])
@pytest.mark.parametrize("validation", [False, True])
def test_packs_that_do_not_fit_are_halved_until_they_do(monkeypatch, holds, sizes, validation):
    """Whether it is the step that needs too much, or the validation."""
    monkeypatch.setattr(_Gpu, "holds", 99 if validation else holds)
    rehearse = (lambda group: group.validate(holds)) if validation else (lambda group: None)
    size, seconds = measure_group_size(_Gpu, MEMBERS[:1] * 16, rehearse=rehearse)
    assert set(seconds) == sizes and size in sizes


def test_a_trial_that_does_not_fit_at_all_is_one_clear_line(monkeypatch):
    monkeypatch.setattr(_Gpu, "holds", 0)
    with pytest.raises(ConfigError, match=r"one trial does not fit in the GPU's memory; set a smaller micro_batch"):
        measure_group_size(_Gpu, MEMBERS)
