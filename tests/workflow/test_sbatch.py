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
    print("a100 1-00:00:00\\ncpu-long* infinite")
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
# Machines, GPUs on each and minutes of every job; of a rule, or of a rule's jobs whose key ends so. A job may run for twice its
# plan, an hour at least and a day at most; a sweep's tasks ask for what the largest needs.
HOST = (1, 0, 60)
ASKS = {
    "dit-imagenet": {
        "data": (1, 8, 77), "extractor": (1, 8, 60), "coordcheck": (1, 0, 208), "sweep": (1, 6, 1440), "select": HOST,
        "transfer": HOST, "train": (4, 8, 1440), "sample": (1, 8, 1440), "evaluate": (1, 8, 60), "report": HOST,
    },
    "pixart-sa1b": {
        "data": (4, 8, 1440), "extractor": (1, 8, 80), "coordcheck": (1, 0, 164), "sweep": (1, 6, 1440), "select": HOST,
        "transfer": HOST, "train": (4, 8, 1440), "sample": (1, 8, 60), "evaluate": (1, 8, 60), "report": HOST,
        "prompts": (1, 1, 275), "prompts geneval": (1, 1, 60), "benchmark": (1, 8, 60),
    },
    "mmdit-18b": {
        "data": (32, 8, 1440), "extractor": (4, 8, 60), "coordcheck": (1, 0, 64), "search": (10, 8, 1440),
        "transfer": HOST, "train": (32, 8, 1440), "sample": (4, 8, 211), "evaluate": (1, 8, 60), "report": HOST,
        "prompts": (1, 1, 296), "prompts geneval": (1, 1, 60), "benchmark": (4, 8, 212), "benchmark geneval": (4, 8, 60),
    },
}  # fmt: skip


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The study `paper` on a site that gives things names of its own, beside commands of Slurm that only record."""
    return _site(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """All jobs of the study, as they were submitted."""
    with pytest.MonkeyPatch.context() as patch:
        return submitted(_site(tmp_path_factory.mktemp("site"), patch))


def _site(place: Path, patch: pytest.MonkeyPatch) -> Workspace:
    workspace = working_copy(place / "clone", REPOSITORY / "config.yaml")
    folder = place / "commands"
    folder.mkdir()
    for name in COMMANDS:
        (folder / name).write_text(FAKE.format(python=sys.executable, folder=str(place)))
        (folder / name).chmod(0o755)
    patch.setenv("PATH", os.pathsep.join([str(folder), os.environ["PATH"]]))
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


def test_every_job_asks_for_what_it_needs(jobs: dict[str, list[str]]) -> None:
    """The whole study, line by line: machines, GPUs, cores, memory, time, and the names of the site's file."""
    config = load(REPOSITORY / "config.yaml")
    planned = {"_".join(filter(None, (each.stage.name, each.experiment, each.key))) for each, _ in plan(config, "paper")}
    alone = {name for name in planned if not name.startswith("sweep_")}
    assert alone == {name for name in jobs if not name.startswith("sweep_")}
    for name in sorted(alone):
        assert jobs[name] == _expected(name), name


def test_the_settings_of_a_sweep_are_an_array_that_suits_all(jobs: dict[str, list[str]]) -> None:
    """One array, but for settings that become ready later than others; whatever becomes of them, all ask for the same."""
    sweeps = {name: options for name, options in jobs.items() if name.startswith("sweep_")}
    arrays = [option for options in sweeps.values() for option in options if option.startswith("--array")]
    tasks = [int(each.rpartition("-")[2]) for each in arrays]
    assert max(tasks) >= 2 and sum(tasks) + len(sweeps) - len(arrays) == 6
    for name, options in sweeps.items():
        # Snakemake adds a megabyte to the memory of an array, on its way through other units.
        plain = [option.replace("--mem 366211", "--mem 366210") for option in options if option not in arrays]
        assert plain == _expected(name), name


def _expected(name: str) -> list[str]:
    """Options of one job by the table."""
    stage, experiment, *key = name.split("_")
    asks = ASKS[experiment]
    nodes, gpus, minutes = asks.get(f"{stage} {key[-1]}" if key else "", asks[stage])
    processes = max(1, gpus)
    options = ["--qos=long", "--requeue", "--tmp=190734M", "-A vision", f"-p {'a100' if gpus else 'cpu-long'}", f"-t {minutes}"]
    options += [f"--nodes={nodes}", f"--cpus-per-task={8 * processes}", f"--mem {min(64 * processes, 480) * 10**9 // 2**20}"]
    options += [f"--gres=gpu:a100:{gpus}"] if gpus else []
    options += [f"--ntasks={nodes}"] if nodes > 1 or not gpus else []
    return sorted(options)


def test_an_unknown_partition_is_one_line_before_any_job(cluster: Workspace) -> None:
    cluster.edit("workflow/profiles/slurm/site.yaml", "partition: a100", "partition: a1000")
    done = cluster.run("snakemake", "--profile", "slurm", check=False)
    assert done.returncode == 1 and "Traceback" not in done.stdout and "common.smk" not in done.stdout
    assert done.stdout.strip().splitlines()[-1] == "mudit: no partition of the queue is named 'a1000'; did you mean 'a100'?"
    again = cluster.run("snakemake", "--profile", "slurm", check=False)
    assert again.stdout.strip().splitlines()[-1] == done.stdout.strip().splitlines()[-1], "nothing is left locked"
    assert not (cluster.path.parent / "calls").exists()


def test_a_number_of_gpus_that_does_not_divide_the_batch_is_one_line_before_any_job(cluster: Workspace) -> None:
    cluster.edit(
        "config.yaml", "train: {nodes: 4, per_node: 8, parallel: replicated", "train: {nodes: 3, per_node: 7, parallel: replicated"
    )
    done = cluster.run("snakemake", "--profile", "slurm", check=False)
    assert done.returncode == 1 and "Traceback" not in done.stdout
    assert re.search(r"experiments.dit-imagenet.execution.train.*\b21\b", done.stdout)
    assert not (cluster.path.parent / "calls").exists()
