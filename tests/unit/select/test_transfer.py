"""Algorithm 4: from what was found on the proxy to the target's hyperparameters."""

from __future__ import annotations

import logging
import math

import pytest

from mudit.config.schema import Arm, SqrtBatchRate
from mudit.config.search import LogRange
from mudit.search.records import Draw, SearchResult, SearchTrial
from mudit.select.certificate import Certificate, certify
from mudit.select.hyperparameters import Hyperparameters
from mudit.select.transfer_stage import transfer
from mudit.sweep.records import RunRecord
from mudit.train.knobs import Knobs
from support import changed

from .curves import parabolas


def _certify(config, slope) -> Certificate:
    """Best rate -7.1 at width 32, moving by `slope(scheme)` per doubling of the width."""
    return certify(
        "x",
        config.sweep,
        config.select,
        parabolas(config.sweep, lambda setting, horizon: -7.1 + slope(setting.scheme) * math.log2(setting.width / 32)),
    )


@pytest.fixture
def certificate(desk) -> Certificate:
    return _certify(desk, lambda scheme: 0 if scheme == "mup" else -1)


def test_each_kind_of_arm(desk, certificate, tmp_path):
    mup = transfer(desk, "mup", certificate, None)
    assert (mup.log2_lr, mup.width, mup.certified) == (-7.0, desk.train.width, True)
    tuned, published = transfer(desk, "sp-tuned", certificate, None), transfer(desk, "sp-published", certificate, None)
    assert (tuned.log2_lr, tuned.certified) == (-9.0, None)
    assert published.log2_lr == pytest.approx(math.log2(1e-4)) and published.certified is None
    mup.write(tmp_path)
    assert Hyperparameters.read(tmp_path) == mup


def test_what_a_sweep_does_not_search_comes_from_the_configuration(desk, certificate):
    config = changed(desk, optimizer__clip_norm=0.01, optimizer__warmup_steps=7, diffusion__alignment_weight=0.5)
    for arm in config.train.arms:
        chosen = transfer(config, arm, certificate, None)
        assert chosen.knobs == Knobs(chosen.log2_lr, 0.01, 7, 0.5)


def test_a_transfer_that_is_not_certified_says_so(desk, caplog):
    with caplog.at_level(logging.WARNING, logger="mudit"):
        assert transfer(desk, "mup", _certify(desk, lambda scheme: -1), None).certified is False
    assert "not certified" in caplog.text and "drifts" in caplog.text


def test_a_bare_proxy_certifies_nothing_and_says_why(desk):
    config = changed(desk, sweep__widths__width=[32], sweep__batch_sizes=None, sweep__steps=None, sweep__tuned=None)
    chosen = transfer(config, "mup", _certify(config, lambda scheme: 0), None)
    assert chosen.log2_lr == -7.0 and chosen.certified is None
    assert chosen.source.endswith("one width, so whether the rate transfers was not measured")


@pytest.mark.parametrize(("batch_size", "expected"), [(256, 2e-5), (1024, 4e-5), (64, 1e-5)])
def test_a_rate_that_follows_the_root_of_the_batch_size(desk, batch_size, expected):
    arm = Arm(scheme="sp", log2_lr=SqrtBatchRate(lr=2e-5, batch_size=256))
    config = changed(desk, train__arms={"published": arm}, train__batch_size=batch_size)
    chosen = transfer(config, "published", None, None)
    assert 2**chosen.log2_lr == pytest.approx(expected)
    assert chosen.certified is None and "2e-05 at batch size 256" in chosen.source


def _search() -> SearchResult:
    """Three trials; number 2 is the best by the mean over seeds, number 1 by the first seed."""

    def trial(number: int, losses: list[float]) -> SearchTrial:
        return SearchTrial(
            number=number,
            draw=Draw(log2_lr=-8.25 - number, log2_clip_norm=-0.5, log2_alignment_weight=1.0, warmup_steps=10 * number),
            loss=losses[0],
            mean=sum(losses) / 2 if len(losses) == 2 else None,
            runs=[
                RunRecord(seed=seed, status="finished", diverged_at=None, first_loss=1.0, losses={5: {"mse": loss}})
                for seed, loss in enumerate(losses)
            ],
        )

    return SearchResult(
        experiment="x",
        metric="mse",
        scheme="mup",
        width=32,
        batch_size=16,
        steps=5,
        parameters=1,
        parametrization="",
        seeds=[0, 1],
        ranges={"log2_lr": LogRange(low=-11, high=-4)},
        trials=[trial(0, [0.9]), trial(1, [0.1, 0.5]), trial(2, [0.2, 0.2])],
        confirmed=[2, 1],
        trial_steps=25,
        confidence=0.95,
        sensitivities=None,
    )


def test_a_search_transfers_all_that_it_searched(desk, tmp_path):
    (tmp_path / "search.json").write_text(_search().model_dump_json())
    search = SearchResult.read(tmp_path)
    assert search == _search()
    chosen = transfer(desk, "mup", None, search)
    assert chosen.knobs == Knobs(log2_lr=-10.25, clip_norm=2**-0.5, warmup_steps=20, alignment_weight=2.0)
    assert chosen.certified is None and "trial 2, the best of 3 random ones on a proxy of width 32" in chosen.source


def test_beside_a_search_other_arms_keep_the_configurations_values(desk):
    fixed = transfer(desk, "sp-published", None, _search())
    assert fixed.knobs == Knobs.of(desk, fixed.log2_lr, desk.train.batch_size)
