"""`shared-draws`: what a process of the published run draws, every other process draws too."""

from __future__ import annotations

import pytest
import torch

from mudit.config.published import PublishedSection
from mudit.parametrization.table import table_for
from mudit.train.batches import BatchStream
from mudit.train.group import Member, TrialGroup
from mudit.train.knobs import Knobs
from mudit.train.trainer import RunSpec, Trainer
from support import changed

BATCH, PROCESSES = 24, 3


def _stream(desk, digits, **options):
    return BatchStream(digits.split("train"), desk.model, desk.diffusion, batch_size=BATCH, seed=0, **options)


@pytest.fixture
def shared(desk):
    section = PublishedSection(switches=["shared-draws"], images_per_process=BATCH // PROCESSES)
    return changed(desk, published=section, validation__images=16, validation__draws=1)


def _repeats(tensor_B):
    first, *others = tensor_B.unflatten(0, (PROCESSES, -1)).unbind(0)
    return all(torch.equal(first, other) for other in others)


def test_draws_repeat_from_process_to_process_and_images_do_not(desk, digits):
    dropped = []
    for step in (0, 5, 17):
        batch = _stream(desk, digits, sharing_draws=BATCH // PROCESSES).at(step)
        own = _stream(desk, digits).at(step)
        assert _repeats(batch.t) and _repeats(batch.noise)
        assert len(batch.t[: BATCH // PROCESSES].unique()) > 1
        assert not _repeats(own.t) and not _repeats(own.noise) and not _repeats(batch.x0)
        assert torch.equal(batch.x0, own.x0), "the same images"
        dropped.append((batch.condition == desk.model.num_classes).view(PROCESSES, -1))
    assert any(each.any() for each in dropped) and all((each == each[0]).all() for each in dropped)


def test_the_first_process_draws_what_it_would_have_drawn_alone(desk, digits):
    batch, own = _stream(desk, digits, sharing_draws=8).at(3), _stream(desk, digits).at(3)
    assert torch.equal(batch.noise[:8], own.noise[:8]) and torch.equal(batch.t[:8], own.t[:8])


@pytest.mark.parametrize("ranks", [2, 4])
def test_our_own_processes_change_nothing(desk, digits, ranks):
    """The period is that of the published run: 3 of its processes, on 2 or 4 of ours."""
    whole, share = _stream(desk, digits, sharing_draws=8).at(2), BATCH // ranks
    for rank in range(ranks):
        places = range(rank * share, (rank + 1) * share)
        part = _stream(desk, digits, sharing_draws=8, places=places).at(2)
        for mine, all_of_them in zip(part[:3], whole[:3], strict=True):
            assert torch.equal(mine, all_of_them[places.start : places.stop])


def test_sweeps_and_target_runs_heed_the_switch(desk, shared, digits, tmp_path):
    """The loss of the first step is that of the repeated draws, and another than with draws of their own."""
    table, knobs = table_for(desk.model, 16, "mup"), Knobs.of(desk, -7, BATCH)
    losses = {}
    for name, config in (("repaired", changed(shared, published=None)), ("published", shared)):
        spec = RunSpec(
            table, knobs, 0, BATCH, steps=1, ema_decay=0.9, eval_every=1, checkpoint_every=9, keep_checkpoints=1, identity="x"
        )
        trained: list[float] = []
        Trainer(config, digits, spec, tmp_path / name).run(trained.append)
        packed = TrialGroup(config, digits, table, [Member(knobs, 0)], BATCH).step(0).item()
        assert packed == pytest.approx(trained[0], rel=1e-6)
        losses[name] = packed
    assert losses["published"] != pytest.approx(losses["repaired"], rel=1e-4)
