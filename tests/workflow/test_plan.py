"""What Snakemake would run is what the manifests say is not fresh: nothing more, nothing less."""

from __future__ import annotations

import os
import random
import re
import resource
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from mudit.config.load import load
from mudit.jobs.resources import ARRAYS
from mudit.stages import STAGES, plan

from .conftest import REPOSITORY, Workspace, working_copy

pytestmark = pytest.mark.slow
AFTER_SWEEPS = {"select": 1, "transfer": 4, "train": 4, "sample": 4, "evaluate": 4, "report": 1}
EVERYTHING = {"data": 1, "extractor": 1, "coordcheck": 2, "sweep": 7} | AFTER_SWEEPS


def test_nothing_is_done_twice(finished: Workspace) -> None:
    assert finished.planned() == Counter()


def test_snakemakes_own_records_are_not_needed(finished: Workspace) -> None:
    shutil.rmtree(finished.path / ".snakemake")
    shutil.rmtree(finished.path / "state")
    assert finished.planned() == Counter()


def test_file_times_decide_nothing(finished: Workspace) -> None:
    times = random.Random(0)
    for path in (finished.path / "results").rglob("*"):
        when = times.choice([0, 10**9, time.time() + 10**6])
        os.utime(path, (when, when))
    assert finished.planned() == Counter()


def test_results_brought_to_a_fresh_clone_are_accepted(finished: Workspace, tmp_path: Path) -> None:
    clone = working_copy(tmp_path / "clone", origin=finished.path)
    shutil.copytree(finished.path / "results", clone.path / "results", copy_function=shutil.copyfile)
    assert clone.planned() == Counter()
    assert clone.planned() == Counter()


def test_an_edited_grid_reruns_the_sweeps_and_says_why(finished: Workspace) -> None:
    finished.edit("config.yaml", "divergence_factor: 2.0", "divergence_factor: 3.0")
    assert finished.planned() == Counter({"sweep": 7} | AFTER_SWEEPS)
    output = finished.run("snakemake", "--dry-run").stdout
    assert "stale: sweep x7, select, report: parameter sweep.divergence_factor: 2.0 -> 3.0" in output
    explained = finished.run("mudit", "verify", "--explain", check=False).stdout
    assert re.search(
        r"stale +smoke/sweep/mup_w16_b16 +mend: mudit sweep smoke mup_w16_b16\n +parameter sweep.divergence_factor: 2.0 -> 3.0\n",
        explained,
    )
    finished.edit("config.yaml", "divergence_factor: 3.0", "divergence_factor: 2.0")
    assert finished.planned() == Counter()


def test_one_arm_reruns_alone(finished: Workspace) -> None:
    finished.edit("config.yaml", "-13.287712379549449", "-12.0")
    assert finished.planned() == Counter({"transfer": 1, "train": 1, "sample": 1, "evaluate": 1, "report": 1})


def test_damage_is_mended(finished: Workspace) -> None:
    path = finished.path / "results/smoke/evaluate/mup_s0/metrics.json"
    content = path.read_text()
    path.write_text(content.replace("0", "1", 1))
    assert finished.planned() == Counter({"evaluate": 1, "report": 1})
    finished.snakemake()
    assert path.read_text() == content
    path.unlink()
    assert finished.planned() == Counter({"evaluate": 1, "report": 1})


def test_a_missing_artefact_is_made_again(finished: Workspace) -> None:
    shutil.rmtree(finished.path / "results/smoke/sample/sp-tuned_s0")
    assert finished.planned() == Counter({"sample": 1, "evaluate": 1, "report": 1})


def test_cosmetic_edits_run_nothing_and_real_edits_run_what_they_touch(finished: Workspace) -> None:
    with (finished.path / "src/mudit/evaluate/stage.py").open("a") as file:
        file.write("\n\n# A remark.\n")
    finished.edit("workflow/rules/data.smk", "# The latent store", "# The store")
    assert finished.planned() == Counter()
    with (finished.path / "src/mudit/evaluate/stage.py").open("a") as file:
        file.write("ADDED = 1\n")
    assert finished.planned() == Counter({"evaluate": 4, "report": 1})


def test_same_content_made_again_stops_the_wave(finished: Workspace) -> None:
    """An edit of the data stage that changes no byte of the store costs the data stage, not the sweeps."""
    before = (finished.path / "results/smoke/sweep/mup_w16_b16/manifest.json").read_text()
    with (finished.path / "src/mudit/data/stage.py").open("a") as file:
        file.write("\n\nADDED = 1\n")
    assert finished.planned("data@smoke") == Counter({"data": 1})
    finished.snakemake("data@smoke")
    assert finished.planned()["sweep"] == 0
    assert (finished.path / "results/smoke/sweep/mup_w16_b16/manifest.json").read_text() == before


def test_targets_by_stage_and_experiment(clone: Workspace) -> None:
    assert clone.planned() == Counter(EVERYTHING)
    upto_sweep = Counter({"data": 1, "coordcheck": 1, "sweep": 7})
    assert clone.planned("all_sweep") == upto_sweep
    assert clone.planned("--", "sweep@smoke") == upto_sweep


def test_a_failing_job_shows_the_end_of_its_log_and_leaves_nothing(clone: Workspace) -> None:
    clone.edit("config.yaml", "source: {kind: sklearn-digits}", "source: {kind: class-folders, path: nowhere}")
    done = clone.run("snakemake", "--cores", "2", "--quiet", "all", "--", "data@smoke", check=False)
    assert done.returncode == 1
    assert re.search(r"^mudit: .*nowhere", done.stdout, flags=re.MULTILINE)
    assert [path for path in (clone.path / "results").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "study=dest"], "no study is named 'dest'; did you mean 'desk'?"),
        (["--config", "extra=1"], "only `study` can be overridden on the command line"),
    ],
)
def test_overlays_are_refused(clone: Workspace, arguments: list[str], message: str) -> None:
    done = clone.run("snakemake", "--dry-run", *arguments, check=False)
    assert done.returncode == 1
    assert message in done.stdout.strip().splitlines()[-1]
    assert "Traceback" not in done.stdout and "common.smk" not in done.stdout


def test_a_bad_key_is_one_clear_line(clone: Workspace) -> None:
    clone.edit("config.yaml", "divergence_factor", "divergence_faktor")
    done = clone.run("snakemake", "--dry-run", check=False)
    assert done.returncode == 1
    wrong = "config.yaml: experiments.smoke.sweep.divergence_faktor: unknown key; did you mean 'divergence_factor'? (and 1 more)"
    assert done.stdout.strip() == f"mudit: {wrong}"


def test_lint_misses_nothing_but_an_image(clone: Workspace) -> None:
    """The software of every rule is requirements.lock; images made from it are the cluster's matter."""
    output = clone.run("snakemake", "--lint", check=False).stdout
    assert set(re.findall(r"^    \* (.*)$", output, flags=re.MULTILINE)) == {
        "Specify a conda environment or container for each rule.:"
    }


def test_snakemake_report_is_one_file(finished: Workspace) -> None:
    finished.run("snakemake", "--report", "page.html")
    assert "reproduced" in (finished.path / "page.html").read_text()


@pytest.mark.parametrize(("study", "profile", "limit"), [("desk", (), 3.0), ("paper", ("--profile", "slurm"), 10.0)])
def test_planning_takes_seconds_and_no_torch(tmp_path: Path, study: str, profile: tuple[str, ...], limit: float) -> None:
    """Seconds of the processor, since other tests run beside it; with compiled bytecode, which the first run leaves behind."""
    workspace = working_copy(tmp_path / "clone", REPOSITORY / "config.yaml")
    (workspace.path / "src/torch.py").write_text("raise RuntimeError('the workflow imports torch')\n")
    everything = Counter(artefact.stage.name for artefact, _ in plan(load(REPOSITORY / "config.yaml"), study))
    seconds = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert workspace.planned(*profile, "--config", f"study={study}") == everything
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < limit


def test_the_profile_makes_arrays_of_what_the_resources_take_for_arrays() -> None:
    profile = yaml.safe_load((REPOSITORY / "slurm/config.v9+.yaml").read_text())
    assert set(profile["slurm-array-jobs"].split(",")) == ARRAYS <= STAGES.keys(), "Snakemake ignores unknown rules here"
    assert profile["config"] == ["study=paper"]


def test_a_killed_job_leaves_the_workflow_able_to_go_on(clone: Workspace) -> None:
    """SIGKILL to the job while it works: the engine reports it, and the same command finishes."""
    clone.snakemake("--", "data@smoke")
    stage = clone.path / "src/mudit/evaluate/extractor_stage.py"
    source = stage.read_text()
    stage.write_text(
        source + "\n\nimport os, signal\n_run = run\ndef run(job):\n    _run(job)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = clone.run("snakemake", "--cores", "2", "--", "extractor@smoke", check=False)
    assert done.returncode == 1
    assert list((clone.path / "results/smoke").glob(".new-extractor~*"))
    assert not (clone.path / "results/smoke/extractor").exists()
    stage.write_text(source)
    clone.snakemake("--", "extractor@smoke")
    assert not list((clone.path / "results/smoke").glob(".*"))
    assert clone.planned("--", "extractor@smoke") == Counter()


def test_a_killed_engine_goes_on_with_the_same_command(clone: Workspace) -> None:
    """SIGKILL to Snakemake and its jobs. Artefacts are whole or absent; its own lock would stay, so `make` does not use it."""
    process = clone.start("snakemake", "--cores", "2", "--", "extractor@smoke")
    deadline = time.monotonic() + 120
    while not (clone.path / "results/smoke/data/manifest.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    clone.snakemake("--nolock", "--", "extractor@smoke")
    assert clone.planned("--", "extractor@smoke") == Counter()
