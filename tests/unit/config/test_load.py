"""Bad configurations give one line that names the key, the value and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mudit.config.load import load, read
from mudit.config.models import MMDiTSection
from mudit.config.schema import Experiment
from mudit.errors import ConfigError

REPOSITORY = Path(__file__).parents[3]
ARMS, SWEEP = "experiments.smoke.train.arms", "experiments.smoke.sweep"
SMOKE = (REPOSITORY / "tests/smoke/config.yaml").read_text()


@pytest.mark.parametrize("path", ["config.yaml", "tests/smoke/config.yaml"])
def test_shipped_configurations_are_valid(path: str) -> None:
    assert load(REPOSITORY / path).study == "desk"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("log2_lr: [-8", "log2_lrs: [-8", "experiments.smoke.sweep.log2_lrs: unknown key; did you mean 'log2_lr'? (and 1 more)"),
        ("    model:\n", "    modle:\n", "experiments.smoke.modle: unknown key; did you mean 'model'? (and 1 more)"),
        (
            "log2_lr: transferred",
            "lr: transferred",
            ARMS + ".mup.lr: unknown key; known are scheme, log2_lr (and 1 more)",
        ),
        ("depth: 1", "depth: one", 'experiments.smoke.model.depth: "one" must be a valid integer'),
        ("depth: 1", "depth: 1.5", "experiments.smoke.model.depth: 1.5 must be a valid integer"),
        ("depth: 1", "depth: true", "experiments.smoke.model.depth: true must be a valid integer"),
        ("output_mult: 1.0", "output_mult: .inf", "experiments.smoke.model.output_mult: Infinity must be a finite number"),
        ("depth: 1", "depth: 0", "experiments.smoke.model.depth: 0 must be greater than 0"),
        ("depth: 1", "", "experiments.smoke.model.depth: missing; every number is in the file, nothing has a default"),
        ("base_width: 16", "", "experiments.smoke.model.base_width: missing; every number is in the file, nothing has a default"),
        (
            "keep_every: null",
            "keep_every: 15",
            "experiments.smoke.train: keep_every 15 is not a multiple of checkpoint_every 10",
        ),
        (
            "beta_start: 1.0e-3",
            "beta_start: 1e-3",
            'experiments.smoke.diffusion.beta_start: "1e-3" must be a valid number (YAML reads 1e-3 as text: write 1.0e-3)',
        ),
        (
            "condition_dropout: 0.1",
            "condition_dropout: '0.1'",
            'experiments.smoke.diffusion.condition_dropout: "0.1" must be a valid number',
        ),
        (
            "family: dit",
            "family: dti",
            "experiments.smoke.model: family is 'dti'; it must be 'dit' or 'pixart' or 'uvit' or 'mmdit' or 'external'",
        ),
        ("family: dit", "width: 3", "experiments.smoke.model: family is missing"),
        ("patch_size: 4", "patch: 4", "experiments.smoke.model.patch: unknown key; did you mean 'patch_size'? (and 1 more)"),
        (
            "variance: learned-range",
            "variance: fixed",
            "experiments.smoke: diffusion: a dit model learns the variance; set kind gaussian and variance learned-range",
        ),
        (
            "        mup: {scheme: mup",
            "        mup: {scheme: sp-same-init",
            "experiments.smoke: train.arms.mup: nothing to transfer; add sp-same-init to sweep.schemes, with a section transfer",
        ),
        (
            "log2_lr: transferred",
            "log2_lr: transfered",
            ARMS + ".mup.log2_lr: \"transfered\" must be a valid number or 'transferred' or 'tuned' or an object",
        ),
        (
            "log2_lr: [-8, -6, -4, -2]",
            "log2_lr: []",
            SWEEP + ".log2_lr: [] must be a list of at least 2 items, not 0",
        ),
        ("base_width: 16", "base_width: 20", "experiments.smoke.model: base_width 20 is not a multiple of head_dim 8"),
        ("study: desk", "study: dest", "study: 'dest' is not one of ['desk']"),
        (
            "mup: {",
            "MuP: {",
            ARMS + ": 'MuP' is not a name: a small letter, then small letters, digits and hyphens",
        ),
        (
            "protocol: any",
            "protocol: fid-50k",
            "experiments.smoke: sample.images: 60, but evaluate.protocol fid-50k is of 50000; make them equal, or set the protocol "
            "to any",
        ),
        (
            "      weights: null",
            "      weights: inception.pth",
            "experiments.smoke: evaluate.weights: only inception-v3-compat reads a file; set it to null",
        ),
        (
            "reference: {kind: data, images: null}",
            "reference: {kind: file, path: reference.npz, sha256: null}",
            "experiments.smoke: evaluate.reference: a file has statistics of inception-v3-compat, not of digits-cnn; set kind to "
            "data",
        ),
        ("desk: [smoke]", "smoke: [smoke]\n  desk: [smoke]", "'smoke' names both a study and an experiment; rename one"),
    ],
)
def test_one_line_says_what_is_wrong(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in SMOKE
    path = tmp_path / "config.yaml"
    path.write_text(SMOKE.replace(old, new, 1))
    with pytest.raises(ConfigError) as error:
        load(path)
    assert str(error.value) == f"{path}: {message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("study: a\nstudy: b\n", ":2: key 'study' appears twice"),
        ("study: [\n", ":2: expected the node content, but found '<stream end>'"),
        ("- a\n", ": must hold the keys study, studies, experiments, cluster"),
    ],
)
def test_yaml_errors_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read(path)
    assert str(error.value) == f"{path}{message}"


@pytest.mark.parametrize(
    ("name", "section", "changes", "message"),
    [
        ("dit-digits", "transfer", {"proxy_steps": 199}, r"proxy_steps 199: sweep\.widths\.steps is 200; make them equal"),
        ("dit-digits", "transfer", {"proxy_batch_size": 8}, r"proxy_batch_size 8: sweep\.widths\.batch_size is 64; make"),
        ("dit-digits", "sweep", {"seeds": [0, 1, 0]}, r"\[0, 1, 0\] has a seed twice"),
        ("dit-digits", "train", {"seeds": [2, 2]}, r"\[2, 2\] has a seed twice"),
        ("dit-digits", "coordcheck", {"seeds": [0, 0, 0]}, r"\[0, 0, 0\] has a seed twice"),
        ("mmdit-emoji", "search", {"seeds": [0, 0]}, r"\[0, 0\] has a seed twice"),
        ("mmdit-emoji", "search", {"resamples": 1}, "greater than or equal to 100"),
        ("mmdit-emoji", "search", {"confirm": 200}, "confirm 200 must not be above trials 80"),
        ("mmdit-emoji", "search", {"warmup_steps": {"low": 0, "high": 600}}, r"warmup_steps\.high 600 must not be above steps 200"),
        ("dit-imagenet", "data", {"share": 0.1}, r"data\.share: 0\.1, but evaluate\.protocol fid-50k compares with all"),
    ],
)
def test_what_would_only_show_after_hours(name: str, section: str, changes: dict[str, Any], message: str) -> None:
    whole = load(REPOSITORY / "config.yaml").experiments[name].model_dump(mode="json")
    raw = {key: value for key, value in whole.items() if value is not None}
    if name == "dit-imagenet":
        raw["evaluate"]["reference"] = {"kind": "data", "images": None}
    with pytest.raises(ValueError, match=message):
        Experiment.model_validate(raw | {section: raw[section] | changes})


def test_a_published_protocol_is_of_its_images_and_of_inception() -> None:
    """FID-50K and FID-30K name a number of images and a network; whoever wants others says so."""
    paper = load(REPOSITORY / "config.yaml").experiments
    protocols = {name: each.evaluate.protocol for name, each in paper.items() if each.has("evaluate")}
    assert protocols["dit-imagenet"] == "fid-50k" and protocols["pixart-sa1b"] == protocols["mmdit-18b"] == "fid-30k"
    raw = {name: section for name, section in paper["pixart-sa1b"].model_dump(mode="json").items() if section is not None}
    assert type(paper["pixart-sa1b"]).model_validate(raw).sample.images == 30_000
    with pytest.raises(
        ValueError, match=r"efficientnet-lite0, but evaluate\.protocol fid-30k is of inception-v3-compat; take that, or set"
    ):
        type(paper["pixart-sa1b"]).model_validate(raw | {"evaluate": raw["evaluate"] | {"extractor": "efficientnet-lite0"}})


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("dit-imagenet", {"reference": {"kind": "data", "images": 100}}, r"reference\.images: 100, .* all training images, null,"),
        ("dit-imagenet", {"neighbours": 30}, r"evaluate\.neighbours: 30, but published precision and recall are of 3; take that"),
        ("pixart-sa1b", {"reference": {"kind": "data", "images": 100}}, r"images: 100, .* fid-30k compares with 30000 or more"),
    ],
)
def test_a_published_protocol_is_of_its_reference_and_neighbours(name: str, changes: dict[str, Any], message: str) -> None:
    raw = load(REPOSITORY / "config.yaml").experiments[name].model_dump(mode="json")
    raw = {name: section for name, section in raw.items() if section is not None}
    whole = {"evaluate": raw["evaluate"] | {"reference": {"kind": "data", "images": None}}}
    assert Experiment.model_validate(raw | whole)
    with pytest.raises(ValueError, match=message):
        Experiment.model_validate(raw | {"evaluate": raw["evaluate"] | changes})
    assert Experiment.model_validate(raw | {"evaluate": raw["evaluate"] | changes | {"protocol": "any", "kid_subset_size": 90}})


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        (
            "sample",
            {"images": 19},
            r"sample\.images: 19, but the interval of a Fréchet distance leaves out 20 groups .*; make it 20",
        ),
        ("data", {"validation_images": 9}, r"data\.validation_images: 9, but the inception score needs 10 or more; raise it"),
        ("evaluate", {"kid_subset_size": 61}, r"evaluate\.kid_subset_size: 61, but sample\.images: 60; lower it"),
        ("data", {"validation_images": 19}, r"evaluate\.kid_subset_size: 20, but data\.validation_images: 19; lower it"),
        ("evaluate", {"kid_subset_size": 2000}, r"evaluate\.kid_subset_size: 2000, but sample\.images: 60; lower it"),
        ("evaluate", {"neighbours": 60}, r"evaluate\.neighbours: 60, but sample\.images: 60; lower it"),
        ("evaluate", {"reference": {"kind": "data", "images": 15}}, r"size: 20, but the kept reference images: 15; lower it"),
    ],
)
def test_figures_that_need_more_images_than_there_are_are_refused_at_once(
    section: str, changes: dict[str, Any], message: str
) -> None:
    raw = load(REPOSITORY / "tests/smoke/config.yaml").experiments["smoke"].model_dump(mode="json")
    raw = {name: section for name, section in raw.items() if section is not None}
    with pytest.raises(ValueError, match=message):
        Experiment.model_validate(raw | {section: raw[section] | changes})


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file; run in the folder that holds it, or pass --config"):
        load(tmp_path / "config.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position_table": 3}, "position_table 3 is smaller than the image's own 4 patches a side"),
        ({"alignment": {"after_blocks": 9, "hidden": 8, "features": 8}}, r"alignment\.after_blocks 9: the model has \d blocks"),
    ],
)
def test_parts_of_an_mmdit_that_do_not_fit_are_refused(changes, message):
    raw = load(REPOSITORY / "config.yaml").experiments["mmdit-emoji"].model.model_dump(mode="json")
    raw |= {"image_size": 8, "patch_size": 2, "depth": min(raw["depth"], 8)}
    with pytest.raises(ValidationError, match=message):
        MMDiTSection.model_validate(raw | changes)
