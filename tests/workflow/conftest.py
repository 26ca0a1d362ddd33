"""Copies of this repository with the smallest project, in which the real engines run the real stages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mudit.provenance import pipelines

from .cluster import SERVER, obstacle

REPOSITORY = Path(__file__).parents[2]
SMOKE = REPOSITORY / "tests/smoke/config.yaml"
SOURCES = ("Snakefile", "dvc.yaml", ".dvcignore", ".gitignore", "pyproject.toml", "requirements.lock")
FOLDERS = ("src", "workflow")


@dataclass(frozen=True)
class Workspace:
    """A working copy. Commands see its own source and none of the caller's Snakemake settings."""

    path: Path

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command of this Python's environment; standard error is part of the output."""
        process = self.start(*command)
        output, _ = process.communicate()
        done = subprocess.CompletedProcess(command, process.returncode, output)
        assert done.returncode == 0 or not check, f"{' '.join(command)} failed:\n{done.stdout[-6000:]}"
        return done

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a command in a process group of its own."""
        scripts = Path(sys.executable).parent
        dropped = ("SNAKEMAKE_PROFILE", "PYTHONDONTWRITEBYTECODE")
        environment = {name: value for name, value in os.environ.items() if name not in dropped}
        environment |= {"PYTHONPATH": str(self.path / "src"), "PATH": os.pathsep.join([str(scripts), environment["PATH"]])}
        environment |= {"XDG_CACHE_HOME": str(self.path / ".cache"), "GIT_CONFIG_GLOBAL": os.devnull}
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.path, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    def planned(self, *arguments: str) -> Counter[str]:
        """Jobs that `snakemake -n` would run, by rule, without the rules that only collect."""
        output = self.run("snakemake", "--dry-run", *arguments).stdout
        if "Nothing to be done" in output:
            return Counter()
        table = output[output.rindex("Job stats:") :]
        jobs = re.findall(r"^([\w@-]+) +(\d+)$", table, flags=re.MULTILINE)
        return Counter({name: int(count) for name, count in jobs if not re.match(r"all|total|\w+@", name)})

    def commit(self, message: str) -> None:
        """All that Git does not ignore."""
        self.run("git", "add", "--all")
        self.run("git", "-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "--quiet", "--message", message)

    def snakemake(self, *arguments: str) -> str:
        return self.run("snakemake", "--cores", "2", *arguments).stdout

    def edit(self, path: str, old: str, new: str) -> None:
        text = (self.path / path).read_text()
        assert old in text
        (self.path / path).write_text(text.replace(old, new, 1))


def working_copy(path: Path, config: Path = SMOKE, origin: Path = REPOSITORY) -> Workspace:
    """What a clone of `origin` has, with a configuration of its own and without results."""
    path.mkdir(parents=True, exist_ok=True)
    for name in FOLDERS:
        shutil.copytree(origin / name, path / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in SOURCES:
        shutil.copy(origin / name, path / name)
    (path / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copy(origin / ".dvc" / name, path / ".dvc" / name)
    (path / "slurm").symlink_to("workflow/profiles/slurm")
    shutil.copy(config, path / "config.yaml")
    pipelines.write(path)
    return Workspace(path)


@pytest.fixture
def clone(tmp_path: Path) -> Workspace:
    """A working copy in which nothing has run."""
    return working_copy(tmp_path / "clone")


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project after one `snakemake --cores 2`. Tests take copies of it."""
    made = working_copy(tmp_path_factory.mktemp("finished") / "project")
    made.snakemake()
    made.run("mudit", "verify")
    return made.path


@pytest.fixture
def finished(finished_once: Path, tmp_path: Path) -> Workspace:
    """A finished project of the test's own."""
    shutil.copytree(finished_once, tmp_path / "project", symlinks=True)
    return Workspace(tmp_path / "project")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Slurm, started; the folder of its state."""
    if why := obstacle():
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([SERVER, "up", folder], check=True)
    yield folder
    subprocess.run([SERVER, "down", folder], check=True)
