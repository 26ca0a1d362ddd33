"""What each rule asks of Slurm, for the paper's own sizes: `snakemake --profile slurm` with commands that only record."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

from mudit.config.load import load
from mudit.provenance import tokens
from mudit.stages import experiments, plan

from .conftest import REPOSITORY, Workspace, working_copy

pytestmark = pytest.mark.slow

# Every option of sbatch that asks for something.
ASKED = re.compile(
    r"(?<= )-[AptC] \S+|--mem \d+|--requeue|--(?:nodes|ntasks[a-z-]*|gres|gpus[a-z-]*|cpus-per-[a-z]+|qos|array|tmp)=\S+"
)
# Stands for every command of Slurm. A submitted job is over at once, and its outputs are there.
FAKE = """#!{python} -S
import json, re, sys
from pathlib import Path
here, name, arguments = Path({folder!r}), Path(sys.argv[0]).name, sys.argv[1:]
calls = here / "calls"
if name == "sbatch":
    with calls.open("a") as file:
        file.write(json.dumps(arguments) + "\\n")
    number = len(calls.read_text().splitlines())
    tasks = re.search(r"--array=(\\d+)-(\\d+)", " ".join(arguments))
    ids = [f"{{number}}_{{task}}" for task in range(int(tasks[1]), int(tasks[2]) + 1)] if tasks else [str(number)]
    for path in (here / "outputs").read_text().splitlines():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()
    with (here / "ids").open("a") as file:
        file.write("".join(f"{{each}}|COMPLETED\\n" for each in ids))
    print(number)
elif name == "squeue":
    print((here / "ids").read_text() if (here / "ids").exists() else "")
elif name == "sinfo":
    print("a100\\ncpu-long")
elif name == "scontrol":
    print("MinJobAge = 300 sec")
"""
COMMANDS = ("sbatch", "squeue", "sinfo", "scontrol", "scancel", "sacct", "sacctmgr", "sshare")
FOLDERS = ("data/imagenet/train", "data/sa-1b", "data/sa-1b-captions", "data/captioned", "data/coco/val2014")
MODELS = (
    *("sd-vae-ft-ema", "sd3-vae", "t5-v1_1-xxl", "clip-vit-bigg-14", "dinov2-base"),
    *("clip-vit-large-patch14", "mask2former-swin-small-coco-instance"),
)
FILES = (
    "data/VIRTUAL_imagenet256_labeled.npz",
    "data/coco/annotations/captions_val2014.json",
    "data/mjhq-30k/meta_data.json",
    "data/mjhq-30k/mjhq30k_imgs.zip",
    "data/geneval/evaluation_metadata.jsonl",
)
SITE = {
    "partition: null  ": "partition: a100  ",
    "cpu_partition: null": "cpu_partition: cpu-long",
    "account: null": "account: vision",
    "qos: null": "qos: long",
    "scratch_gb: null": "scratch_gb: 200",
    "gpu: gpu ": "gpu: gpu:a100 ",
}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The study `paper` on a site that gives things names of its own."""
    workspace = working_copy(tmp_path / "clone", REPOSITORY / "config.yaml")
    folder = tmp_path / "commands"
    folder.mkdir()
    for name in COMMANDS:
        (folder / name).write_text(FAKE.format(python=sys.executable, folder=str(tmp_path)))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(folder), os.environ["PATH"]]))
    for path in [*FOLDERS, *(f"models/{name}" for name in MODELS)]:
        (workspace.path / path).mkdir(parents=True)
    for path in FILES:
        (workspace.path / path).parent.mkdir(parents=True, exist_ok=True)
        (workspace.path / path).touch()
    for old, new in SITE.items():
        workspace.edit("workflow/profiles/slurm/site.yaml", old, new)
    workspace.edit("config.yaml", "disk_gb: null", "disk_gb: 1.0e+9")
    profile = "workflow/profiles/slurm/config.v9+.yaml"
    for old in ("before-status-checks: 20", "between-status-checks: 20"):
        workspace.edit(profile, old, old.replace("20", "1"))
    workspace.edit(profile, "latency-wait: 60", "latency-wait: 0")
    workspace.edit(profile, "retries: 3", "retries: 0")
    return workspace


def submitted(workspace: Workspace) -> dict[str, list[str]]:
    """Run the study. Rule and wildcards, as in the comment of the Slurm job -> sorted options of sbatch that ask for something."""
    config = load(workspace.path / "config.yaml")
    made = [str(tokens.path(artefact)) for artefact, _ in plan(config, "paper")]
    made += [f"logs/{each.stage.name}/{each.experiment}{'/' * bool(each.key)}{each.key}.tsv" for each, _ in plan(config, "paper")]
    reports = [
        f"results/{name}/report/{file}" for name in experiments(config, "paper") for file in ("report.html", "figures/x.svg")
    ]
    (workspace.path.parent / "outputs").write_text("\n".join(made + reports))
    workspace.run("snakemake", "--profile", "slurm")
    jobs = {}
    for call in map(json.loads, (workspace.path.parent / "calls").read_text().splitlines()):
        comment = call[call.index("--comment") + 1]
        options = " ".join(each for each in call if not each.startswith("--wrap="))
        jobs[comment.removeprefix("rule_").replace("_wildcards", "")] = sorted(ASKED.findall(options))
    return jobs


def test_every_rule_asks_for_what_its_stage_needs(cluster: Workspace) -> None:
    """DiT on four machines of eight A100s, MMDiT-18B on thirty-two; a day at most; names from the site's file."""
    jobs = submitted(cluster)
    site = ["--qos=long", "--requeue", "--tmp=200G", "-A vision"]
    gpus, host = [*site, "-p a100"], [*site, "-p cpu-long"]
    one_task = ["--nodes=1", "--mem 64000", "--cpus-per-task=8"]
    assert jobs["train_dit-imagenet_mup_s0"] == sorted(
        [*gpus, "--nodes=4", "--ntasks=4", "--gres=gpu:a100:8", "--cpus-per-task=64", "--mem 480000", "-t 1440"]
    )
    assert jobs["train_mmdit-18b_mup_s0"] == sorted(
        [*gpus, "--nodes=32", "--ntasks=32", "--gres=gpu:a100:8", "--cpus-per-task=64", "--mem 480000", "-t 1440"]
    )
    eight = ["--nodes=1", "--gres=gpu:a100:8", "--cpus-per-task=64", "--mem 480000"]
    for name in ("data_dit-imagenet", "extractor_dit-imagenet", "evaluate_dit-imagenet_mup_s0"):
        assert jobs[name] == sorted([*gpus, *eight, jobs_time(jobs[name])]), name
    for name in ("select_dit-imagenet", "transfer_dit-imagenet_mup", "report_dit-imagenet"):
        assert jobs[name] == sorted([*host, *one_task, "--ntasks=1", "-t 60"]), name
    gate = jobs["coordcheck_dit-imagenet_dit"]
    assert gate == sorted([*host, *one_task, "--ntasks=1", jobs_time(gate)])
    alone = jobs["prompts_pixart-sa1b_coco"]
    assert alone == sorted([*gpus, *one_task, "--gres=gpu:a100:1", jobs_time(alone)])


def jobs_time(options: list[str]) -> str:
    """The time limit, where it follows from a plan that other tests check; at most a day."""
    limit = next(option for option in options if option.startswith("-t "))
    assert 60 <= int(limit.removeprefix("-t ")) <= 1440
    return limit


def test_the_settings_of_a_sweep_are_an_array_that_suits_all(cluster: Workspace) -> None:
    """One array, but for settings that become ready later than others; whatever becomes of them, all ask for the same."""
    sweeps = [options for name, options in submitted(cluster).items() if name.startswith("sweep_")]
    arrays = [option for options in sweeps for option in options if option.startswith("--array")]
    tasks = [int(each.rpartition("-")[2]) for each in arrays]
    assert max(tasks) >= 2 and sum(tasks) + len(sweeps) - len(arrays) == 6
    for options in sweeps:
        assert {"--gres=gpu:a100:6", "--cpus-per-task=48", "-t 1440"} <= set(options)


def test_an_unknown_partition_is_one_line_before_any_job(cluster: Workspace) -> None:
    cluster.edit("workflow/profiles/slurm/site.yaml", "partition: a100", "partition: a1000")
    done = cluster.run("snakemake", "--profile", "slurm", check=False)
    assert "no partition of the queue is named 'a1000'; did you mean 'a100'?" in done.stdout
    assert "Traceback" not in done.stdout
    assert not (cluster.path.parent / "calls").exists()


def test_a_number_of_gpus_that_does_not_divide_the_batch_is_one_line_before_any_job(cluster: Workspace) -> None:
    cluster.edit(
        "config.yaml", "train: {nodes: 4, per_node: 8, parallel: replicated", "train: {nodes: 3, per_node: 7, parallel: replicated"
    )
    done = cluster.run("snakemake", "--profile", "slurm", check=False)
    assert done.returncode == 1 and "Traceback" not in done.stdout
    assert re.search(r"experiments.dit-imagenet.execution.train.*\b21\b", done.stdout)
    assert not (cluster.path.parent / "calls").exists()
