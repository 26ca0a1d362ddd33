"""The batch stream: every image once an epoch, every draw a function of (seed, step, place)."""

from __future__ import annotations

import pytest
import torch

from mudit.jobs.distributed import World
from mudit.models.families import build
from mudit.parametrization.apply import parametrize
from mudit.parametrization.table import table_for
from mudit.train import batches, validation
from mudit.train.batches import BatchStream
from mudit.train.validation import ValidationSet, validation_loss
from parallel_runs import FakeSplit, FakeStore, experiment_of
from support import changed


def _stream(desk, digits, **options):
    return BatchStream(digits.split("train"), desk.model, desk.diffusion, **({"batch_size": 70, "seed": 0} | options))


def test_an_epoch_visits_every_image_once(desk, digits):
    stream, count = _stream(desk, digits, batch_size=50), len(digits.split("train"))
    indices = torch.cat([stream._indices(step) for step in range(count // 50)])
    assert torch.equal(indices.sort().values, torch.arange(count))
    second = torch.cat([stream._indices(step) for step in range(count // 50, 2 * (count // 50))])
    assert torch.equal(second.sort().values, torch.arange(count)) and not torch.equal(indices, second)


def test_batches_across_an_epoch_boundary_go_on_with_the_next_order(desk, digits):
    """Whatever the batch size, the sequence of images is the same."""
    small, large = _stream(desk, digits, batch_size=25), _stream(desk, digits, batch_size=700)
    assert torch.equal(
        torch.cat([small._indices(step) for step in range(140)]), torch.cat([large._indices(step) for step in range(5)])
    )


def test_a_step_can_be_drawn_out_of_order(desk, digits):
    stream = _stream(desk, digits)
    later = stream.at(40)
    for step in range(3):
        stream.at(step)
    for a, b in zip(later[:4], _stream(desk, digits).at(40)[:4], strict=True):
        assert torch.equal(a, b)
    assert later.features is None


def test_label_dropout_has_the_configured_rate(desk, digits):
    labels = torch.cat([_stream(desk, digits, batch_size=500).at(step).condition for step in range(20)])
    share = (labels == 10).double().mean().item()
    assert abs(share - 0.1) < 4 * (0.09 / len(labels)) ** 0.5
    assert not (_stream(changed(desk, diffusion__condition_dropout=0.0), digits).at(0).condition == 10).any()


def test_validation_probes_are_fixed_and_stratified(desk, digits):
    probes = ValidationSet(digits, desk)
    count = len(probes.t_M)
    assert count == desk.validation.images * desk.validation.draws
    slices = (probes.t_M * count / desk.diffusion.timesteps).long().clamp(max=count - 1)
    # Timesteps are integers, so a slice of less than two steps may lose its one to the neighbour.
    assert len(slices.unique()) > 0.7 * count and probes.t_M.max() > 990 and probes.t_M.min() < 10
    assert torch.equal(probes.noise, ValidationSet(digits, desk).noise)


def test_an_untrained_zero_readout_predicts_zero_noise(desk, digits):
    model = parametrize(build(desk.model, 32), table_for(desk.model, 32, "mup"), 0)
    probes = ValidationSet(digits, desk)
    assert abs(validation_loss(model, digits, desk)["mse"] - probes.noise.square().mean().item()) < 1e-5


@pytest.mark.parametrize("parts", [2, 5, 10])
def test_processes_compute_their_places_of_the_same_batch(desk, digits, parts):
    """Bit for bit, at any step, across epochs."""
    whole, share = _stream(desk, digits), 70 // parts
    streams = [_stream(desk, digits, places=range(rank * share, (rank + 1) * share)) for rank in range(parts)]
    for step in (0, 1, 17, 40):
        batch, pieces = whole.at(step), [stream.at(step) for stream in streams]
        for index in range(4):
            assert torch.equal(batch[index], torch.cat([piece[index] for piece in pieces]))


def test_the_number_of_steps_drawn_at_once_changes_no_bit(desk, digits, monkeypatch):
    expected = _stream(desk, digits).at(21)
    monkeypatch.setattr(batches, "_CHUNK_NUMBERS", 70 * 64 * 3)
    few = _stream(desk, digits)
    assert few._steps_at_once == 3
    for a, b in zip(expected[:4], few.at(21)[:4], strict=True):
        assert torch.equal(a, b)


def test_a_batch_splits_into_equal_parts_in_order(desk, digits):
    batch = _stream(desk, digits).at(3)
    parts = batch.split(7)
    assert [len(part.t) for part in parts] == [10] * 7
    assert torch.equal(torch.cat([part.noise for part in parts]), batch.noise)


def test_shared_validation_is_the_whole_one(desk, digits):
    """One process that takes the probes in small pieces has every probe once; the sums round alike."""
    model = parametrize(build(desk.model, 32), table_for(changed(desk.model, output_mult=2.0), 32, "mup"), 0)
    torch.nn.init.normal_(model.final_layer.linear.weight, std=0.1)
    probes = ValidationSet(digits, desk)
    whole, pieces = probes.losses(model), probes.shared_losses(model, World(0, 1, 0), 7)
    torch.testing.assert_close(pieces, whole, rtol=1e-6, atol=0)


def test_captions_of_validation_are_held_or_read_for_each_pass(monkeypatch):
    """Whether they fit in memory changes how many are read at once, and no loss."""
    experiment, store = changed(experiment_of("pixart"), validation__images=40), FakeStore(experiment_of("pixart"))
    model = parametrize(build(experiment.model, 24), table_for(experiment.model, 24, "mup"), 0)
    torch.nn.init.normal_(model.final_layer.linear.weight, std=0.1)
    monkeypatch.setattr(validation, "_CHUNK", 16)
    held = ValidationSet(store, experiment).losses(model)
    read, text = [], FakeSplit.text
    monkeypatch.setattr(FakeSplit, "text", lambda self, indices, dropped: read.append(len(indices)) or text(self, indices, dropped))
    monkeypatch.setattr(validation, "_HELD_BYTES", 0)
    probes = ValidationSet(store, experiment)
    assert read == [1], "one, for its size"
    assert torch.equal(torch.stack(probes.losses(model)), torch.stack(held))
    assert read == [1, 16, 16, 8]
