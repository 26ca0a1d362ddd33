"""A packed trial is its solo run.

On the CPU the claim is bit for bit, losses and weights, for runs with other learning rates and other seeds beside it. (On a GPU
the batched product rounds differently; there the tolerance of `test_batched_products_agree` holds per step.)
"""

from __future__ import annotations

import copy

import pytest
import torch

from mudit.diffusion.gaussian import GaussianDiffusion
from mudit.errors import ParametrizationError
from mudit.models.families import build
from mudit.parametrization.apply import attach_multipliers, parameter_groups, parametrize
from mudit.parametrization.recipes import DIT_MUP, FAN_IN, RECIPES, ZERO, Rule
from mudit.parametrization.table import derive_table, table_for
from mudit.train.batches import BatchStream
from mudit.train.group import Member, TrialGroup, measure_group_size
from mudit.train.knobs import Knobs
from mudit.train.packed import pack, unpack_into
from support import changed

STEPS, BATCH = 12, 16


def _member(log2_lr, seed, clip_norm=None, warmup_steps=0):
    return Member(Knobs(log2_lr, clip_norm, warmup_steps, 0.0), seed)


def _solo(config, store, table, member):
    """The plain loop: a plain module, torch's AdamW, nothing packed, hyperparameters applied by hand."""
    knobs = member.knobs
    model = parametrize(build(config.model, table.width), table, member.seed)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, table, lr=2.0**knobs.log2_lr, weight_decay=config.optimizer.weight_decay),
        betas=config.optimizer.betas,
        eps=config.optimizer.eps,
        fused=True,
    )
    full = [group["lr"] for group in optimizer.param_groups]
    stream = BatchStream(store.split("train"), config.model, config.diffusion, batch_size=BATCH, seed=member.seed)
    process, losses = GaussianDiffusion.linear(config.diffusion), []
    for step in range(STEPS):
        batch = stream.at(step)
        xt = process.noised(batch.x0, batch.t, batch.noise)
        mse, vb = process.losses(model(xt, batch.t, batch.condition), batch.x0, xt, batch.t, batch.noise)
        loss = (mse + vb).mean()
        optimizer.zero_grad()
        loss.backward()
        if knobs.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), knobs.clip_norm)
        for group, lr in zip(optimizer.param_groups, full, strict=True):
            group["lr"] = lr * min(1.0, (step + 1) / max(1, knobs.warmup_steps))
        optimizer.step()
        losses.append(loss.item())
    return model, losses


@pytest.mark.parametrize("scheme", ["mup", "sp"])
@pytest.mark.parametrize("width", [16, 32, 64])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_packed_equals_solo_bit_for_bit(desk, digits, scheme, width, weight_decay):
    config = changed(desk, optimizer__weight_decay=weight_decay)
    table = table_for(config.model, width, scheme)
    members = [_member(-8, 0), _member(-6, 0, 0.5), _member(-7, 1, 2.0, 7), _member(-5, 2, None, 30)]
    group = TrialGroup(config, digits, table, members, BATCH)
    packed_losses = torch.stack([group.step(step) for step in range(STEPS)], dim=1).tolist()
    for index, member in enumerate(members):
        model, losses = _solo(config, digits, table, member)
        assert packed_losses[index] == losses, member
        twin = build(config.model, width)
        unpack_into(group.model, index, twin)
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, twin.get_parameter(name)), (member, name)


def test_dropping_a_trial_leaves_the_others_as_they_were(desk, digits):
    table = table_for(desk.model, 32, "mup")
    members = [_member(-8, 0), _member(-6, 0), _member(-7, 1)]
    whole, cut = (TrialGroup(desk, digits, table, members, BATCH) for _ in range(2))
    for step in range(4):
        whole.step(step), cut.step(step)
    cut.keep([0, 2])
    assert cut.members == [members[0], members[2]]
    for step in range(4, 8):
        assert cut.step(step).tolist() == whole.step(step)[[0, 2]].tolist()


def test_batched_products_agree(desk):
    """The GPU's path of a packed linear layer, computed on the CPU: equal to 1e-6 of the plain product's scale."""
    torch.manual_seed(0)
    x, weight, bias = torch.randn(3, 40, 32), torch.randn(3, 24, 32), torch.randn(3, 24)
    batched = torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))
    for k in range(3):
        torch.testing.assert_close(batched[k], torch.nn.functional.linear(x[k], weight[k], bias[k]), rtol=1e-5, atol=1e-5)


def test_each_trial_keeps_its_own_forward_multiplier(desk):
    """Models of two schemes differ in the readout's multiplier only by hooks: packing keeps each."""
    x, t, y = torch.randn(2, 1, 8, 8), torch.tensor([1, 500]), torch.tensor([0, 10])
    models = []
    for scheme in ("mup", "sp-same-init"):
        model = build(desk.model, 64)
        torch.manual_seed(0)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, 0, 0.1)
        attach_multipliers(model, table_for(desk.model, 64, scheme))
        models.append(model)
    packed = pack([copy.deepcopy(model) for model in models])
    out = packed(x.expand(2, *x.shape), t.expand(2, 2), y.expand(2, 2))
    assert torch.equal(out[0], models[0](x, t, y)) and torch.equal(out[1], models[1](x, t, y))
    assert not torch.equal(out[0], out[1])


def test_a_layer_without_a_packed_form_is_named():
    with pytest.raises(ParametrizationError, match="0: Conv1d has no packed form; run this model's trials one after another"):
        pack([torch.nn.Sequential(torch.nn.Conv1d(2, 2, 1)) for _ in range(2)])


def test_the_measured_group_size_is_one_of_the_candidates(desk, digits):
    table = table_for(desk.model, 16, "mup")
    members = [_member(-8 + index, 0) for index in range(4)]
    size, seconds = measure_group_size(lambda some: TrialGroup(desk, digits, table, some, BATCH), members, steps=1)
    assert set(seconds) == {1, 2, 4} and seconds[size] == min(seconds.values())


class _Flat(torch.nn.Module):
    """A model of someone else: its embedding of the image has no packed form."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fold = torch.nn.Conv1d(1, width, 1)
        self.out = torch.nn.Linear(width, 2)

    def forward(self, x, t, y):
        hidden = self.fold(x.flatten(-3).unsqueeze(1)).transpose(1, 2)
        return self.out(torch.relu(hidden)).transpose(1, 2).unflatten(-1, x.shape[-2:])


def test_a_model_without_a_packed_form_runs_alone(monkeypatch, desk, digits):
    """Same steps as the plain loop, and the measured group size is one."""
    monkeypatch.setattr("mudit.train.group.build", lambda section, width: _Flat(width))
    monkeypatch.setitem(globals(), "build", lambda section, width: _Flat(width))
    inits = {"family": "external"}
    monkeypatch.setitem(RECIPES, "external", (DIT_MUP[-1:], (Rule("*.bias", ZERO), Rule("*.weight", FAN_IN))))
    table = derive_table(_Flat, **inits, scheme="mup", width=32, base_width=16, delta_width=24)
    members = [_member(-6, 0, 0.5, 3), _member(-5, 0)]
    group = TrialGroup(desk, digits, table, members[:1], BATCH)
    losses = [group.step(step).item() for step in range(STEPS)]
    assert losses == _solo(desk, digits, table, members[0])[1]
    assert measure_group_size(lambda some: TrialGroup(desk, digits, table, some, BATCH), members) == (1, {})
