"""The registry: artefacts, inputs, parameters, and names that a user may mistype."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest

from mudit.config.load import load
from mudit.config.schema import Config, Experiment
from mudit.errors import ConfigError
from mudit.scoped import scoped
from mudit.stages import STAGES, artefacts, experiments, find, gates, inputs, plan

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def config() -> Config:
    return load(REPOSITORY / "tests/smoke/config.yaml")


@pytest.fixture(scope="module")
def smoke(config: Config) -> Experiment:
    return config.experiments["smoke"]


def test_every_stage_has_its_module() -> None:
    missing = [
        stage.module for stage in STAGES.values() if not (REPOSITORY / "src" / f"{stage.module.replace('.', '/')}.py").is_file()
    ]
    assert missing == []


def test_artefacts_come_after_their_inputs(smoke: Experiment) -> None:
    seen: set[str] = set()
    for artefact in artefacts("smoke", smoke):
        assert {each.id for each in inputs(artefact, smoke)} <= seen
        seen.add(artefact.id)
    assert len(seen) == len(list(artefacts("smoke", smoke)))


def test_paths_and_commands(smoke: Experiment) -> None:
    by_name = {artefact.name: artefact for artefact in artefacts("smoke", smoke)}
    assert by_name["data"].path == Path("results/smoke/data")
    assert by_name["sweep/mup_w16_b16"].path == Path("results/smoke/sweep/mup_w16_b16")
    assert by_name["train/mup_s0"].state == Path("state/smoke/train/mup_s0")
    assert by_name["data"].command == "mudit data smoke"
    assert by_name["sweep/mup_w16_b16"].command == "mudit sweep smoke mup_w16_b16"


def test_report_reads_everything(smoke: Experiment) -> None:
    everything = [artefact.name for artefact in artefacts("smoke", smoke)]
    assert STAGES["report"].inputs(smoke, "") == everything[:-1]


def test_parameters_hold_what_matters_and_nothing_else(smoke: Experiment) -> None:
    sweep = STAGES["sweep"].parameters(smoke, "mup_w16_b16")
    assert sweep["sweep"] == {
        "log2_lr": [-8.0, -6.0, -4.0, -2.0],
        "log2_lr_min": -14.0,
        "log2_lr_max": 4.0,
        "seeds": [0, 1, 2],
        "divergence_factor": 2.0,
        "horizons": [10, 20],
    }
    train = STAGES["train"].parameters(smoke, "mup_s0")
    assert "arms" not in train["train"]
    assert "seeds" not in train["train"]
    assert list(STAGES["transfer"].parameters(smoke, "sp-tuned")["train"]["arms"]) == ["sp-tuned"]
    assert "train_seeds" not in STAGES["sample"].parameters(smoke, "mup_s0")["sample"]


def test_parameters_are_parts_of_the_configuration(smoke: Experiment) -> None:
    for artefact in artefacts("smoke", smoke):
        sections = artefact.stage.parameters(smoke, artefact.key)
        assert sections.keys() <= type(smoke).model_fields.keys()


def test_an_experiment_without_a_section_has_no_artefacts_of_its_stages(config: Config, smoke: Experiment) -> None:
    gate_only = smoke.model_copy(update=dict.fromkeys(("sweep", "select", "transfer", "train", "sample", "evaluate")))
    assert [artefact.name for artefact in artefacts("smoke", gate_only)] == ["data", "coordcheck/dit", "coordcheck/uvit", "report"]
    with pytest.raises(ConfigError, match="sweep smoke: nothing to make; the experiment has no section sweep"):
        find(config.model_copy(update={"experiments": {"smoke": gate_only}}), "smoke", "sweep", "mup_w16_b16")


def test_sweeps_and_targets_wait_for_their_own_family_only() -> None:
    desk = load(REPOSITORY / "config.yaml").experiments["dit-digits"]
    by_name = {artefact.name: artefact for artefact in artefacts("dit-digits", desk)}
    assert {name for name in by_name if name.startswith("coordcheck")} == {
        f"coordcheck/{family}" for family in ("dit", "pixart", "uvit", "mmdit")
    }
    assert [gate.name for gate in gates(by_name["train/mup_s0"], desk)] == ["coordcheck/dit"]
    own, other = (by_name[f"coordcheck/{family}"].stage.parameters(desk, family) for family in ("dit", "uvit"))
    assert "also" not in own["coordcheck"] and [each["model"]["family"] for each in other["coordcheck"]["also"]] == ["uvit"]
    assert "model" not in other, "the experiment's own architecture does not make another family's check stale"


def test_hyperparameters_come_from_the_search_or_the_certificate() -> None:
    experiments = load(REPOSITORY / "config.yaml").experiments
    transfer, evaluate = STAGES["transfer"], STAGES["evaluate"]
    assert transfer.inputs(experiments["mmdit-emoji"], "mup") == ["search"]
    assert transfer.inputs(experiments["pixart-emoji"], "mup") == ["select"]
    assert "search" in transfer.parameters(experiments["mmdit-emoji"], "mup")
    assert "scorer" in evaluate.inputs(experiments["pixart-emoji"], "mup_s0")
    assert "scorer" not in evaluate.inputs(experiments["dit-digits"], "mup_s0")


def test_wide_settings_are_dearer(smoke: Experiment) -> None:
    work = STAGES["sweep"].work
    assert work(smoke, "mup_w32_b16") > work(smoke, "mup_w16_b16") > 0


def test_scoped_view_shows_declared_sections_only(smoke: Experiment) -> None:
    data = next(iter(artefacts("smoke", smoke)))
    view = scoped(smoke, data)
    assert view.data == smoke.data
    with pytest.raises(AssertionError, match="stage data reads section 'train', which its parameters"):
        _ = view.train
    assert view.has("train") and not view.has("search")
    with pytest.raises(AttributeError):
        _ = view.nothing  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(view)).data == smoke.data
    assert copy.deepcopy(view).data == smoke.data


def test_experiments_of_a_study_or_one_experiment(config: Config) -> None:
    assert experiments(config) == experiments(config, "desk") == experiments(config, "smoke") == ["smoke"]
    assert next(artefact.id for artefact, _ in plan(config, "smoke")) == "smoke/data"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("smok", "data", ""), "no experiment is named 'smok'; did you mean 'smoke'?"),
        (("x", "data", ""), "no experiment is named 'x'; known are smoke"),
        (("smoke", "train", "mup_s1"), "no train of smoke is named 'mup_s1'; did you mean 'mup_s0'?"),
        (("smoke", "transfer", ""), "transfer smoke: say which one: mup, sp-published, sp-tuned, sp-same-init"),
        (("smoke", "data", "mup"), "data smoke: makes one artefact; leave out 'mup'"),
    ],
)
def test_unknown_names_get_the_nearest(config: Config, arguments: tuple[str, str, str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        find(config, *arguments)
    assert str(error.value) == message


def test_unknown_study(config: Config) -> None:
    with pytest.raises(ConfigError, match="no study or experiment is named 'dest'; did you mean 'desk'"):
        experiments(config, "dest")
