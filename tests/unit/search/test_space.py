"""The draws: seeded, within their ranges, the same after a kill."""

from __future__ import annotations

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState
from scipy import stats

from mudit.config.search import LogRange, SearchSection, StepRange
from mudit.search.space import SearchStudy, _storage, ranges


def section(**changes):
    return SearchSection.model_validate(
        {
            "scheme": "mup",
            "width": 16,
            "batch_size": 8,
            "steps": 60,
            "trials": 40,
            "sampler_seed": 0,
            "log2_lr": LogRange(low=-11, high=-4),
            "log2_clip_norm": LogRange(low=-6.64, high=3.32),
            "log2_alignment_weight": LogRange(low=-4, high=1),
            "warmup_steps": StepRange(low=0, high=60),
            "seeds": [0, 1],
            "confirm": 2,
            "divergence_factor": 2.0,
            "confidence": 0.95,
            "resamples": 100,
        }
        | changes
    )


def test_draws_fill_their_ranges_uniformly(tmp_path):
    draws = SearchStudy(section(trials=200), tmp_path / "optuna.log").draws
    assert len(draws) == 200
    for name, each in ranges(section()).items():
        values = [getattr(draw, name) for draw in draws]
        assert each.low <= min(values) and max(values) <= each.high
        if name != "warmup_steps":
            assert stats.kstest(values, "uniform", args=(each.low, each.high - each.low)).pvalue > 0.01, name
    assert {0, 60} <= {draw.warmup_steps for draw in draws}, "both ends belong to the range"


def test_the_seed_decides_and_more_trials_begin_with_the_same(tmp_path):
    first = SearchStudy(section(), tmp_path / "a.log").draws
    assert SearchStudy(section(), tmp_path / "b.log").draws == first
    assert SearchStudy(section(trials=60), tmp_path / "c.log").draws[:40] == first
    assert SearchStudy(section(sampler_seed=1), tmp_path / "d.log").draws != first


def test_a_draw_as_a_runs_hyperparameters(tmp_path):
    draw = SearchStudy(section(), tmp_path / "a.log").draws[0]
    knobs = draw.knobs
    assert knobs.log2_lr == draw.log2_lr and knobs.warmup_steps == draw.warmup_steps
    assert knobs.clip_norm == 2**draw.log2_clip_norm and knobs.alignment_weight == 2**draw.log2_alignment_weight


def test_outcomes_are_in_the_storage_for_optunas_own_tools(tmp_path):
    path = tmp_path / "optuna.log"
    SearchStudy(section(), path).tell({0: 0.5, 3: None})
    study = SearchStudy(section(), path)
    study.tell({0: 0.5, 3: None, 4: 0.25})  # what was told before is left alone
    stored = optuna.load_study(study_name="search", storage=_storage(path))
    states = [trial.state for trial in stored.trials]
    assert (states[0], states[3], states[4], states[5]) == (
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.COMPLETE,
        TrialState.RUNNING,
    )
    assert stored.best_trial.number == 4 and stored.best_value == 0.25


def test_a_kill_while_drawing_leaves_no_half_drawn_search(tmp_path, monkeypatch):
    path, asked = tmp_path / "optuna.log", []
    ask = optuna.Study.ask

    def killed(study, *arguments):
        asked.append(1)
        if len(asked) == 17:
            raise KeyboardInterrupt
        return ask(study, *arguments)

    monkeypatch.setattr(optuna.Study, "ask", killed)
    with pytest.raises(KeyboardInterrupt):
        SearchStudy(section(), path)
    monkeypatch.undo()
    assert not path.exists()
    assert SearchStudy(section(), path).draws == SearchStudy(section(), tmp_path / "other.log").draws


@settings(deadline=None, max_examples=20)
@given(cut=st.integers(1, 60))
def test_a_torn_last_line_is_dropped_and_its_outcome_told_again(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("torn") / "optuna.log"
    whole = SearchStudy(section(trials=4), path).draws
    SearchStudy(section(trials=4), path).tell({0: 0.5, 1: 0.25})
    path.write_bytes(path.read_bytes()[:-cut])
    study = SearchStudy(section(trials=4), path)
    assert study.draws == whole
    study.tell({0: 0.5, 1: 0.25})
    stored = optuna.load_study(study_name="search", storage=_storage(path))
    assert [trial.value for trial in stored.trials] == [0.5, 0.25, None, None]
