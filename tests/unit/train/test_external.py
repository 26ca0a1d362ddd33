"""Runs of a model of your own: alone in a group, over a restart, and with parameters that are not trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mudit.models.families import build
from mudit.parametrization.table import table_for
from mudit.train.group import Member, TrialGroup
from mudit.train.knobs import Knobs
from mudit.train.trainer import RunSpec, Trainer
from own_models import section
from support import changed

WIDTH, BATCH, LOG2_LR = 16, 8, -7.0


@pytest.fixture
def experiment(desk):
    """The desk experiment with a model that freezes one parameter and leaves another out of its loss."""
    model = section("Frozen", base_width=8, delta_width=16)
    return changed(desk, model=model, diffusion__variance="fixed", validation__images=16)


def _trainer(experiment, digits, state: Path, steps: int) -> Trainer:
    spec = RunSpec(
        table=table_for(experiment.model, WIDTH, "mup"),
        knobs=Knobs.of(experiment, LOG2_LR, BATCH),
        seed=1,
        batch_size=BATCH,
        steps=steps,
        ema_decay=0.9,
        eval_every=100,
        checkpoint_every=4,
        keep_checkpoints=2,
        identity="run",
    )
    return Trainer(experiment, digits, spec, state)


def _losses(trainer: Trainer) -> list[float]:
    losses: list[float] = []
    trainer.run(losses.append, lambda record: None)
    return losses


def test_a_restarted_run_takes_the_same_steps(experiment, digits, tmp_path):
    whole = _trainer(experiment, digits, tmp_path / "whole", 8)
    expected = _losses(whole)
    first = _trainer(experiment, digits, tmp_path / "halves", 5)  # ends with a checkpoint of its last step
    assert _losses(first) == expected[:5]
    second = _trainer(experiment, digits, tmp_path / "halves", 8)
    second.resume()
    assert second.step == 5
    assert _losses(second) == expected[5:]
    for models in ((whole.model, second.model), (whole.ema.model, second.ema.model)):
        for (name, a), (_, b) in zip(models[0].named_parameters(), models[1].named_parameters(), strict=True):
            assert torch.equal(a, b), name


def test_a_group_of_one_takes_the_steps_of_a_run_and_leaves_the_rest_alone(experiment, digits, tmp_path):
    member = Member(Knobs.of(experiment, LOG2_LR, BATCH), 1)
    group = TrialGroup(experiment, digits, table_for(experiment.model, WIDTH, "mup"), [member], BATCH)
    assert not group.packable
    losses = [group.step(step).item() for step in range(3)]
    group.keep([0])
    losses += [group.step(step).item() for step in range(3, 6)]
    assert losses == _losses(_trainer(experiment, digits, tmp_path, 6))
    start = build(experiment.model, WIDTH)
    frozen = dict(group.model.model.named_parameters())["waves"]
    assert torch.equal(frozen, start.get_parameter("waves")) and not frozen.requires_grad
