"""A real Apptainer builds the image from the committed recipe and runs a training job of the smallest study in it.

The image here differs from a user's in two ways, because that one has 7 GB of packages: its base is a Debian made on this machine,
and it installs a part of the hashes. The packages of this environment are bound over it when a stage runs. docs/containers.md says
what was tried with all packages.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from mudit.jobs.containers import image

from .cluster import quick
from .conftest import REPOSITORY, SMOKE, Workspace, working_copy

pytestmark = pytest.mark.slow
HASHES = REPOSITORY / "containers/requirements.hashes"
SERVER = REPOSITORY / "tests/servers/apptainer"
SEEN = ("typer", "pydantic", "pyyaml", "rich", "setuptools", "antlr4-python3-runtime")  # the last is built from source
TOKEN = "state/fresh/smoke/train/sp-published_s0"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
TRUSTED = ["--bind", str(CERTIFICATES)] if CERTIFICATES.exists() else []  # whom this machine trusts
INSIDE = "/usr/local/mudit/lib/python3.11/site-packages"


def one_run(path: Path) -> Path:
    """The configuration of the smallest study with a single target run, whose learning rate is fixed: no sweep is needed."""
    config = yaml.safe_load(SMOKE.read_text())
    experiment = config["experiments"]["smoke"]
    for section in ("sweep", "select", "transfer", "sample", "evaluate"):
        del experiment[section]
    experiment["coordcheck"]["also"] = []
    experiment["train"]["arms"] = {"sp-published": experiment["train"]["arms"]["sp-published"]}
    path.write_text(yaml.safe_dump(config))
    return path


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(*files: str) -> dict[str, str]:
    lines = [line for name in files for line in (REPOSITORY / name).read_text().splitlines()]
    found = (re.match(r"([\w.-]+)==([^ ;]+)", line) for line in lines)
    return {normal(match[1]): match[2] for match in found if match}


def closure(names: tuple[str, ...]) -> set[str]:
    """Packages and all that they need on this machine."""
    found: set[str] = set()
    queue = list(names)
    while queue:
        name = normal(queue.pop())
        if name not in found:
            found.add(name)
            needed = map(Requirement, importlib.metadata.requires(name) or [])
            queue.extend(each.name for each in needed if each.marker is None or each.marker.evaluate())
    return found


def test_hashes_are_of_the_lock_and_of_what_torch_adds_for_cuda() -> None:
    locked, hashed = pins("requirements.lock", "requirements-nodeps.txt"), pins("containers/requirements.hashes")
    differing = {name for name in locked if hashed.get(name) != locked[name]}
    assert not differing, "run: make lock"
    assert all(re.match(r"nvidia-|cuda-|triton$", name) for name in hashed.keys() - locked.keys())
    resolved = dict(re.findall(r"^#   ([a-z0-9-]+)==(.*)$", (REPOSITORY / "requirements.lock").read_text(), flags=re.MULTILINE))
    assert resolved.items() <= hashed.items()


def test_every_package_has_a_hash() -> None:
    blocks = re.split(r"\n(?=\w)", HASHES.read_text())[1:]
    assert len(blocks) == len(pins("containers/requirements.hashes"))
    assert [block for block in blocks if not re.search(r"--hash=sha256:[0-9a-f]{64}", block)] == []


def test_the_base_is_pinned_by_digest() -> None:
    assert re.search(
        r"^    FROM=[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}$", (REPOSITORY / "containers/train.def").read_text(), re.MULTILINE
    )


def test_the_workflow_and_the_build_name_the_same_image() -> None:
    done = subprocess.run([REPOSITORY / "containers/build", "--name"], capture_output=True, text=True, check=True)
    assert REPOSITORY / done.stdout.strip() == image()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bsae", "x"], "unknown argument --bsae"),
        (["--base"], "--base needs a value"),
        (["--hashes", "nowhere"], "cannot read"),
        ([], "no apptainer on PATH"),
    ],
)
def test_a_build_that_cannot_be_says_so_in_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    for name in ("bash", "cat", "cut", "dirname", "realpath", "sha256sum"):
        (tmp_path / name).symlink_to(shutil.which(name) or "")
    build = working_copy(tmp_path / "clone").path / "containers"
    shutil.copytree(REPOSITORY / "containers", build, ignore=shutil.ignore_patterns("*.sif"))
    done = subprocess.run([build / "build", *arguments], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("containers/build: ")
    assert message in done.stderr


def test_without_the_image_snakemake_says_how_to_build_it(clone: Workspace) -> None:
    shutil.copytree(REPOSITORY / "containers", clone.path / "containers", ignore=shutil.ignore_patterns("*.sif"))
    done = clone.run("snakemake", "--dry-run", "--sdm", "apptainer", check=False)
    assert done.returncode == 1
    assert "there is no such image; build it with: containers/build" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A project with an image, and with one target run that was made outside of it."""
    if shutil.which("apptainer") is None:
        pytest.skip("no apptainer on PATH; on Debian 12, `tests/servers/apptainer FOLDER` unpacks one (needs root)")
    base = tmp_path_factory.mktemp("base")
    done = subprocess.run([SERVER, "base", base], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no base for images here: {done.stderr.strip().splitlines()[-1]}")
    path = tmp_path_factory.mktemp("containers") / "project"
    workspace = working_copy(path, one_run(tmp_path_factory.mktemp("configuration") / "config.yaml"))
    shutil.copytree(REPOSITORY / "containers", path / "containers", ignore=shutil.ignore_patterns("*.sif"))
    workspace.snakemake("--", TOKEN)
    blocks = re.split(r"\n(?=\w)", HASHES.read_text())[1:]
    wanted = closure(SEEN)
    (path / "containers/requirements.hashes").write_text(
        "\n".join(block for block in blocks if normal(block.split("==")[0]) in wanted) + "\n"
    )
    workspace.run("containers/build", "--base", str(base), *TRUSTED)
    return workspace


def test_the_image_runs_mudit_with_the_packages_of_the_hashes(built: Workspace) -> None:
    path = image(built.path)
    assert built.run("containers/build").stdout == f"{path.relative_to(built.path)} is there\n"
    assert built.run("apptainer", "exec", str(path), "mudit", "--version").stdout.startswith("mudit ")
    listed = json.loads(built.run("apptainer", "exec", str(path), "python3", "-m", "pip", "list", "--format=json").stdout)
    inside = {normal(each["name"]): each["version"] for each in listed}
    assert {name: inside.get(name) for name in closure(SEEN)} == {
        name: version for name, version in pins("containers/requirements.hashes").items() if name in closure(SEEN)
    }


def test_pip_in_the_image_refuses_a_file_with_another_hash(built: Workspace, tmp_path: Path) -> None:
    blocks = re.split(r"\n(?=\w)", HASHES.read_text())[1:]
    right = next(block for block in blocks if block.startswith("mdurl=="))
    fetch = ["python3", "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--dest", ".", "-r", "wrong.hashes"]
    (tmp_path / "wrong.hashes").write_text(re.sub(r"sha256:[0-9a-f]", lambda match: f"sha256:{int(match[0][-1], 16) ^ 1:x}", right))
    places = ["--bind", str(tmp_path), "--pwd", str(tmp_path), *TRUSTED]
    done = built.run("apptainer", "exec", *places, str(image(built.path)), *fetch, check=False)
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stdout


@pytest.mark.parametrize("through", ["local", "slurm"])
def test_a_training_job_runs_in_the_image_and_its_manifest_says_so(
    built: Workspace, through: str, request: pytest.FixtureRequest
) -> None:
    """Through Snakemake, here and as a job of Slurm, with the same weights as outside."""
    artefact = built.path / "results/smoke/train/sp-published_s0"
    outside = (artefact / "weights.safetensors").read_bytes()
    shutil.rmtree(artefact)
    shutil.rmtree(built.path / "state/smoke/train/sp-published_s0")
    arguments = ["--sdm", "apptainer", "--apptainer-args", f"--bind {sysconfig.get_path('purelib')}:{INSIDE}", "--", TOKEN]
    if through == "slurm":
        request.getfixturevalue("slurm")
        quick(built)
        output = built.run("snakemake", "--profile", "slurm", "--config", "study=desk", *arguments).stdout
        assert "SLURM jobid" in output
    else:
        built.snakemake(*arguments)
    manifest = json.loads((artefact / "manifest.json").read_text())
    recipe = b"".join((built.path / "containers" / name).read_bytes() for name in ("train.def", "requirements.hashes"))
    assert manifest["environment"]["image"]["recipe"] == hashlib.sha256(recipe).hexdigest()
    assert re.fullmatch("[0-9a-f]{64}", manifest["environment"]["image"]["packages"])
    assert (artefact / "weights.safetensors").read_bytes() == outside
    verdicts = built.run("mudit", "verify", "--explain", check=False).stdout
    assert "note: made with image.recipe" in verdicts
    assert built.planned("--", TOKEN) == {}, "an image is no reason to make anything again"
