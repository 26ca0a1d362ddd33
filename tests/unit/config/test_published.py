"""Behaviours of the published code: what each switch makes stale, what it needs, and that without it nothing changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from mudit.config.load import load, read
from mudit.config.published import BEHAVIOURS, Switch, repeats, warmup_steps
from mudit.config.schema import Experiment
from mudit.errors import ConfigError
from mudit.scoped import scoped
from mudit.stages import artefacts
from mudit.train.knobs import Knobs
from support import ROOT, changed

SWITCHES = get_args(Switch)


def _experiment(folder: Path, name: str, published: dict[str, Any] | None, **changes: Any) -> Experiment:
    """An experiment of config.yaml with a section `published`, read back from a file; `a__b=1` changes a field."""
    raw = read(ROOT / "config.yaml")
    experiment = raw["experiments"][name]
    if published is not None:
        experiment["published"] = published
    for path, value in changes.items():
        section, _, key = path.partition("__")
        experiment[section][key] = value
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(raw | {"study": "one", "studies": {"one": [name]}, "experiments": {name: experiment}}))
    return load(path).experiments[name]


def _parameters(experiment: Experiment) -> dict[str, Any]:
    """Artefact -> parameters."""
    return {each.name: each.stage.parameters(experiment, each.key) for each in artefacts("x", experiment)}


@pytest.mark.parametrize("published", [None, {"switches": [], "images_per_process": None}], ids=["left out", "empty"])
def test_without_switches_no_artefact_has_other_parameters(tmp_path, published):
    plain, same = (_parameters(_experiment(tmp_path, "pixart-emoji", section)) for section in (None, published))
    assert "published" not in plain["report"]
    assert not any("frozen_null_caption" in each.get("model", {}) for each in plain.values())
    assert {name for name in plain if plain[name] != same[name]} == ({"report"} if published else set())


# switch -> experiment, stages whose parameters it changes beside the report's
CHANGES = {
    "shared-draws": ("pixart-emoji", {"sweep", "train"}),
    "scaled-warmup": ("pixart-emoji", {"sweep", "transfer"}),
    "frozen-null-caption": ("pixart-emoji", {"coordcheck", "sweep", "transfer", "train", "sample", "evaluate", "extractor"}),
    "random-labels": ("dit-digits", {"sample"}),
    "raw-weights": ("pixart-emoji", {"sample", "evaluate"}),
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_switch_changes_the_parameters_of_the_stages_that_heed_it(tmp_path, switch):
    name, stages = CHANGES[switch]
    per_process = 8 if switch in ("shared-draws", "scaled-warmup") else None
    experiment = _experiment(tmp_path, name, {"switches": [switch], "images_per_process": per_process})
    before, after = _parameters(_experiment(tmp_path, name, None)), _parameters(experiment)
    stale = {artefact.partition("/")[0] for artefact in before if before[artefact] != after[artefact]}
    # The extractor depends on the number of classes only.
    assert stale == stages - {"extractor"} | {"report"}
    assert experiment.as_published(switch) and repeats(experiment, switch)


def test_a_stage_cannot_heed_a_switch_that_it_does_not_declare(tmp_path):
    experiment = _experiment(tmp_path, "pixart-emoji", {"switches": ["raw-weights"], "images_per_process": None})
    views = {each.stage.name: scoped(experiment, each) for each in artefacts("x", experiment)}
    assert views["sample"].as_published("raw-weights") and not views["train"].as_published("shared-draws")
    with pytest.raises(AssertionError, match="stage train asks for raw-weights, which its parameters leave out"):
        views["train"].as_published("raw-weights")


def test_the_frozen_null_caption_reaches_the_model(tmp_path):
    section = {"switches": ["frozen-null-caption"], "images_per_process": None}
    assert _experiment(tmp_path, "pixart-emoji", section).model.frozen_null_caption
    assert not _experiment(tmp_path, "pixart-emoji", None).model.frozen_null_caption


@pytest.mark.parametrize(("batch_size", "steps"), [(1408, 125), (5632, 31), (176, 1000), (1000 * 176 * 4, 1)])
def test_warmup_is_as_long_as_the_published_scheduler_makes_it(tmp_path, batch_size, steps):
    experiment = _experiment(tmp_path, "pixart-emoji", {"switches": ["scaled-warmup"], "images_per_process": 8})
    experiment = changed(experiment, optimizer__warmup_steps=1000, published__images_per_process=176)
    assert warmup_steps(experiment, batch_size) == Knobs.of(experiment, -10, batch_size).warmup_steps == steps
    assert warmup_steps(changed(experiment, published=None), batch_size) == 1000


@pytest.mark.parametrize(
    ("name", "section", "changes", "message"),
    [
        ("dit-digits", ["frozen-null-caption"], {}, "changes nothing here, because a dit model has no null caption; leave it out"),
        (
            "dit-digits",
            ["scaled-warmup"],
            {},
            "scaled-warmup changes nothing here, because optimizer.warmup_steps is 0; leave it out",
        ),
        ("mmdit-emoji", ["scaled-warmup"], {}, "because the search draws warm-ups of its own"),
        ("pixart-emoji", ["random-labels"], {}, "because the model is conditioned on captions"),
        ("uvit-emoji", ["raw-weights"], {}, "because no images are drawn"),
        ("pixart-emoji", ["raw-weights", "raw-weights"], {}, "published.switches: raw-weights stands there twice"),
        ("pixart-emoji", ["shared-draws"], {"published__images_per_process": None}, "shared-draws needs the images of one process"),
        ("pixart-emoji", ["raw-weights"], {}, "published.images_per_process: set it to null; only shared-draws and scaled-warmup"),
        ("pixart-emoji", ["shared-draws"], {"published__images_per_process": 5}, "5 does not divide train.batch_size 32"),
        ("pixart-emoji", ["shared-draws"], {"published__images_per_process": 32}, "32 does not divide the sweeps' batch_size 16"),
        ("pixart-emoji", [], {"model__frozen_null_caption": True}, "is no key of the file; name frozen-null-caption in published"),
        ("pixart-emoji", ["frozen-caption"], {}, "must be 'shared-draws', 'scaled-warmup', 'frozen-null-caption'"),
    ],
)
def test_a_switch_without_effect_or_need_is_one_line(tmp_path, name, section, changes, message):
    with pytest.raises(ConfigError) as error:
        _experiment(tmp_path, name, {"switches": section, "images_per_process": 8}, **changes)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_every_switch_is_described():
    assert [name for name, each in BEHAVIOURS.items() if each.key == "published.switches"] == list(SWITCHES)
    guided = load(ROOT / "config.yaml").experiments["dit-digits"]
    assert not repeats(guided, "three-channel-guidance")
    assert repeats(changed(guided, sample__guide_channels="first-three"), "three-channel-guidance")
