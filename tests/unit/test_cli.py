"""The command line as a user meets it: help, errors on one line, exit codes, start-up."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mudit.stages import STAGES

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(REPOSITORY / "tests/smoke/config.yaml", "config.yaml")
    return tmp_path


def mudit(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "mudit", *arguments], capture_output=True, text=True, check=False)


def test_help_lists_every_stage_in_order() -> None:
    text = mudit("--help").stdout
    commands = text[text.index("Commands:") :]
    positions = [commands.index(f"\n  {name} ") for name in STAGES]
    assert positions == sorted(positions)
    assert "..." not in commands, "a summary is too long for one line"


def test_version() -> None:
    assert mudit("--version").stdout.startswith("mudit 0.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data", "smok"], "mudit: no experiment is named 'smok'; did you mean 'smoke'?\n"),
        (["train", "smoke", "mup_s9"], "mudit: no train of smoke is named 'mup_s9'; did you mean 'mup_s0'?\n"),
        (["transfer", "smoke"], "mudit: transfer smoke: say which one: mup, sp-published, sp-tuned, sp-same-init\n"),
        (
            ["data", "smoke", "--config", "x.yaml"],
            "mudit: x.yaml: no such file; run in the folder that holds it, or pass --config\n",
        ),
        (
            ["select", "smoke"],
            "mudit: smoke/select needs sweep/mup_w32_b16, which is missing; make it with: mudit sweep smoke mup_w32_b16\n",
        ),
        (["verify", "x"], "mudit: no study or experiment is named 'x'; known are desk, smoke\n"),
        (["params", "smok", "--width", "16"], "mudit: no experiment is named 'smok'; did you mean 'smoke'?\n"),
    ],
)
def test_user_errors_are_one_line_and_exit_2(arguments: list[str], message: str) -> None:
    done = mudit(*arguments)
    assert (done.returncode, done.stderr, done.stdout) == (2, message, "")
    assert not Path("results").exists() or list(Path("results").rglob("*.json")) == []


OWN = """
from torch import nn


class Net(nn.Module):
    def __init__(self, heads, depth=1, name="x"):
        super().__init__()
        width = 8 * heads
        self.enter = nn.Linear(4, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.leave = nn.Linear(width, 4)
"""
FACTORY = ["params", "--model", "own_net_of_cli:Net", "--width-argument", "heads", "--width-unit", "8"]


def test_params_of_an_experiment() -> None:
    table = json.loads(mudit("params", "smoke", "--width", "32", "--json").stdout)
    assert (table["scheme"], table["width"], table["base_width"]) == ("mup", 32, 16)
    readout = next(row for row in table["parameters"] if row["name"] == "final_layer.linear.weight")
    assert readout["forward_multiplier"] == 0.5
    page = mudit("params", "smoke", "--width", "32", "--scheme", "sp").stdout
    assert "sp at width 32 (base 16)" in page and "blocks.0.attn.qkv.weight" in page


def test_params_of_a_published_model_without_any_configuration(project: Path) -> None:
    (project / "config.yaml").unlink()
    table = json.loads(mudit("params", "--preset", "DiT-S/8", "--json").stdout)
    assert (table["width"], table["base_width"], table["total"]) == (384, 256, 33_142_016)


def test_params_of_a_factory_without_any_configuration(project: Path) -> None:
    (project / "config.yaml").unlink()
    (project / "own_net_of_cli.py").write_text(OWN)
    arguments = [*FACTORY, "--width", "64", "--base-width", "16", "--option", "depth=3", "--option", "name=1.5e-3"]
    rows = {row["name"]: row for row in json.loads(mudit(*arguments, "--json").stdout)["parameters"]}
    assert {name: (row["role"], row["lr_multiplier"]) for name, row in rows.items() if name.endswith("weight")} == {
        "enter.weight": ("input", 1.0),
        "layers.0.weight": ("hidden", 0.25),
        "layers.1.weight": ("hidden", 0.25),
        "layers.2.weight": ("hidden", 0.25),
        "leave.weight": ("output", 1.0),
    }
    assert rows["leave.weight"]["forward_multiplier"] == 0.25
    page = mudit(*arguments, "--zero-readout").stdout
    assert "layers.*.weight" in page and "layers.1" not in page and "…" not in page


ONE_OF = (
    "params: name one of an experiment of the configuration, a published model (--preset; --presets lists them) or a factory of "
    "your own (--model)"
)
SPELLING = "write package.module:factory, the module as `import` has it, without a path or .py"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], ONE_OF),
        (["smoke", "--model", "a:b"], ONE_OF),
        (["smoke", "--preset", "DiT-S/2"], ONE_OF),
        (["smoke", "--base-width", "16"], "params smoke: --base-width goes with --model only; leave it out"),
        (["smoke", "--seed", "0"], "params smoke: --seed goes with --model only; leave it out"),
        (["--preset", "DiT-S/2", "--zero-readout"], "params DiT-S/2: --zero-readout goes with --model only; leave it out"),
        (["--presets", "--width", "64"], "params --presets: it lists the models as published; --width goes with --preset NAME"),
        (["--presets", "--config", "x.yaml"], "params: --config goes with an experiment only; leave it out"),
        (["--preset", "DiT-S/2", "--config", "x.yaml"], "params: --config goes with an experiment only; leave it out"),
        (["--preset", "DiT-S/3"], "no published model is named 'DiT-S/3'; did you mean 'DiT-S/8'?"),
        (["--model", "a:b"], "params --model: say the width at which muP is the plain model: --base-width N"),
        (["--model", "a", "--base-width", "16"], f"--model a: {SPELLING}"),
        (["--model", "./a.py:b", "--base-width", "16"], f"--model ./a.py:b: {SPELLING}"),
        (["--model", "json:dumps", "--base-width", "-16"], "--base-width -16: must be positive"),
        (
            ["--model", "json:dumps", "--base-width", "20", "--width-unit", "8"],
            "--base-width 20: must be a multiple of --width-unit 8 and positive",
        ),
        (["--model", "json:dumps", "--base-width", "16", "--option", "x"], "--option x: write NAME=VALUE, the value as in YAML"),
        (
            ["--model", "json:dumps", "--base-width", "16", "--delta-width", "16"],
            "--delta-width must differ from --base-width (both are 16)",
        ),
        (["--model", "json:nothing", "--base-width", "16"], "model.factory: json has no 'nothing'"),
    ],
)
def test_params_of_nothing_that_there_is(arguments: list[str], message: str) -> None:
    done = mudit("params", "--width", "32", *arguments)
    assert (done.returncode, done.stderr, done.stdout) == (2, f"mudit: {message}\n", "")


def test_bugs_keep_their_traceback_and_exit_1(project: Path) -> None:
    (project / "sitecustomize.py").write_text(
        "import mudit.config.load as load\ndef fail(path): raise RuntimeError('bug')\nload.load = fail\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(project), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "mudit", "data", "smoke"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "RuntimeError: bug" in done.stderr


def test_verify_lists_what_is_not_fresh_and_exits_1() -> None:
    done = mudit("verify")
    assert done.returncode == 1
    assert "missing   smoke/data\n" in done.stdout
    assert done.stdout.endswith("0 of 29 artefacts are fresh; to mend all: snakemake --cores all\n")
    rows = json.loads(mudit("verify", "smoke", "--json").stdout)
    assert rows["fresh"] is False
    assert rows["artefacts"][0] == {
        "artefact": "smoke/data",
        "state": "missing",
        "reasons": [],
        "notes": [],
        "mend": "mudit data smoke",
    }


def test_config_check() -> None:
    assert mudit("config", "check").stdout == "config.yaml: valid; studies desk; experiments smoke\n"


def test_nothing_at_start_up_imports_torch() -> None:
    modules = "mudit.cli, mudit.config.load, mudit.config.export, mudit.stages, mudit.runs, mudit.logs, mudit.sweep.settings"
    provenance = "mudit.provenance.verdict, mudit.provenance.execute, mudit.provenance.tokens"
    program = (
        f"import sys, {modules}, {provenance}; print([name for name in ('torch', 'numpy', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_help_is_quick() -> None:
    """Half a second with compiled bytecode; the best of three, since other tests run beside this one."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-m", "mudit", "--help"]
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True, env=environment)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5
