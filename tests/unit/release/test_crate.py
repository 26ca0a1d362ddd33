"""RO-Crate's own validator finds nothing wrong with a release, and something with a broken one.

The validator needs older libraries than the project, so it gets an environment of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import rocrate

from mudit.release.folder import release
from project import Project

pytestmark = pytest.mark.slow

VALIDATOR = "roc-validator==0.13.0"
SCRIPT = Path(__file__).with_name("validate.py")
CONTEXT = Path(rocrate.__file__).parent / "data/ro-crate.jsonld"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the validator."""
    folder = tmp_path_factory.mktemp("validator")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    done = subprocess.run([folder / "bin/pip", "install", "--quiet", VALIDATOR], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs {VALIDATOR}, which pip could not install")
    return folder / "bin/python"


def issues(python: Path, folder: Path) -> list[str]:
    command = [python, SCRIPT, folder, CONTEXT]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_a_release_is_a_valid_workflow_run_crate(finished: Project, python: Path) -> None:
    folder = release(finished.config, None, "first", Path("releases"))
    assert issues(python, folder) == []
    path = folder / "ro-crate-metadata.json"
    content = json.loads(path.read_text())
    for entity in content["@graph"]:
        entity.pop("instrument", None)
    path.write_text(json.dumps(content))
    assert any("MUST have an instrument" in issue for issue in issues(python, folder))
