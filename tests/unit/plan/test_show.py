"""What `mudit plan` prints: lines, JSON, price; and which options exclude each other."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from mudit.config.load import load
from mudit.config.schema import Config
from mudit.plan.show import as_json, hours, lines, size, span
from mudit.plan.study import study_plan
from support import ROOT, changed


@pytest.fixture(scope="module")
def config() -> Config:
    return load(ROOT / "config.yaml")


def _mudit(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mudit", "plan", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_every_rule_and_the_total_have_a_line(config):
    plan = study_plan(config, "desk")
    text = lines(plan)
    assert [line.split()[:2] for line in text[1 : 1 + len(plan.rules)]] == [name.split() for name in plan.rules]
    assert text[1 + len(plan.rules)].startswith("total")


def test_each_target_run_has_a_line_and_a_study_without_one_no_table(config):
    plan = study_plan(config, "paper")
    head = lines(plan).index("") + 1
    rows = [line.split() for line in lines(plan)[head + 1 : head + 1 + len(plan.targets)]]
    assert [row[:4] for row in rows] == [
        [name, str(each.width), f"{each.step.parameters:,}", str(each.ranks)] for name, each in plan.targets.items()
    ]
    assert json.loads(as_json(plan))["targets"]["mmdit-18b"]["step"]["parameters"] == 17_743_382_080
    assert not any("target run" in line for line in lines(study_plan(config, "dit-output-mult")))


def test_a_price_is_shown_where_there_is_one(config):
    priced = study_plan(changed(config, cluster__price_per_hour=2.0), "dit-imagenet")
    assert priced.price == pytest.approx(2.0 * priced.total.hours)
    assert any(line.startswith("price ") for line in lines(priced))
    assert not any(line.startswith("price ") for line in lines(study_plan(config, "dit-imagenet")))


def test_json_holds_every_job(config):
    plan = study_plan(config, "paper")
    value = json.loads(as_json(plan))
    assert set(value["jobs"]) == set(plan.jobs)
    assert value["total"]["hours"] == pytest.approx(sum(each["hours"] for each in value["jobs"].values()))


def test_a_job_that_cannot_be_placed_has_no_wall_time(config):
    crowded = study_plan(changed(config, cluster__nodes=1), "dit-imagenet")
    assert crowded.wall_hours is None
    assert any("a job asks for more processors than there are" in line for line in lines(crowded))


def test_sizes_and_hours_are_readable():
    assert [size(count) for count in (0, 999, 1000, 42.3e9, 59.9e12)] == ["0 B", "999 B", "1 kB", "42.3 GB", "59.9 TB"]
    assert [hours(count) for count in (0, 0.01, 5.04, 127215.2)] == ["0", "<0.1", "5.0", "127,215"]
    spans = [span(count) for count in (0, 0.001, 0.5, 2, 999.6)]
    assert spans == ["0 seconds", "3.6 seconds", "30 minutes", "2 hours", "1,000 hours"]
    assert span(191.2, "GPU") == "191 GPU-hours"


def test_the_command_prints_plain_lines_into_a_pipe():
    done = _mudit("desk")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].split()[:2] == ["experiment", "rule"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--check", "--published"), "give one of"),
        (("--ranks", "2"), "--ranks goes with --rehearse"),
        (("nowhere",), "no study or experiment is named 'nowhere'"),
        (("--budget", "much"), "not hours"),
    ],
)
def test_a_users_mistake_is_one_line(arguments, complaint):
    done = _mudit(*arguments)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1
