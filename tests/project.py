"""A project whose stages are small files of this fixture, so that their code can be edited and their results counted."""

from __future__ import annotations

import json
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mudit.config.load import load
from mudit.config.schema import Config, Experiment
from mudit.provenance import source
from mudit.provenance.execute import make
from mudit.provenance.verdict import Inspector, Verdict
from mudit.stages import STAGES, Artefact, Job, artefacts, parse

REPOSITORY = Path(__file__).parents[1]
SHARED = '"""Shared by all stages."""\n\nFACTOR = 2\n'
STAGE = '"""A stage."""\nfrom mudit.shared import FACTOR\n\n\ndef run(job):\n    """Make it."""\n    return FACTOR\n'


@dataclass
class Project:
    """Works in the current directory. `run` is what every stage does; tests may replace it."""

    package: Path
    ran: list[str] = field(default_factory=list)
    run: Callable[[Job], dict[str, Any]] | None = None

    @property
    def config(self) -> Config:
        return load(Path("config.yaml"))

    @property
    def experiment(self) -> Experiment:
        return self.config.experiments["smoke"]

    def artefact(self, name: str) -> Artefact:
        return parse("smoke", name)

    def make(self, name: str, *, force: bool = False) -> bool:
        return make(self.artefact(name), self.experiment, force=force)

    def make_all(self) -> None:
        for artefact in artefacts("smoke", self.experiment):
            make(artefact, self.experiment, force=False)

    def verdict(self, name: str, *, quick: bool = False) -> Verdict:
        forget_code()
        return Inspector(self.experiment, quick).verdict(self.artefact(name))

    def states(self) -> dict[str, str]:
        forget_code()
        inspector = Inspector(self.experiment, quick=False)
        return {artefact.name: inspector.verdict(artefact).state for artefact in artefacts("smoke", self.experiment)}

    def edit_config(self, old: str, new: str) -> None:
        edit(Path("config.yaml"), old, new)

    def edit_code(self, module: str, old: str, new: str) -> None:
        edit(self.package.joinpath(*module.split(".")[1:]).with_suffix(".py"), old, new)

    def do(self, job: Job) -> dict[str, Any]:
        """Default stage: files that depend on the first declared section and on the inputs' files, not on their manifests."""
        self.ran.append(job.out.name.removeprefix(".new-").partition("~")[0])
        if self.run:
            return self.run(job)
        read = {
            name: sorted(path.read_text() for path in folder.glob("*.json") if path.name != "manifest.json")
            for name, folder in job.inputs.items()
        }
        (job.out / "part").mkdir()
        (job.out / "part" / "result.json").write_text(json.dumps({"key": job.key, "read": read}))
        (job.out / "summary.json").write_text("{}")
        return {"flops": 7, "device": "cpu"}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def forget_code() -> None:
    for function in (source._path, source._tree, source._imports, source._digest, source._data_files):
        function.cache_clear()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    monkeypatch.chdir(tmp_path)
    shutil.copy(REPOSITORY / "tests/smoke/config.yaml", "config.yaml")
    package = tmp_path / "code" / "mudit"
    made = Project(package)
    for stage in STAGES.values():
        path = package.joinpath(*stage.module.split(".")[1:]).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(STAGE)
        module = types.ModuleType(stage.module)
        module.run = made.do  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, stage.module, module)
    (package / "shared.py").write_text(SHARED)
    monkeypatch.setattr(source, "PACKAGE", package)
    forget_code()
    yield made
    forget_code()
