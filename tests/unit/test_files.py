"""Files that are whole or not there, and one file under two names."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

import pytest

from mudit import files
from mudit.files import cache_folder, link_or_copy, sha256_file, write_text


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "state.json"
    write_text(path, "old µ\n", durable=True)
    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new", durable=True)
    assert path.read_text(encoding="utf-8") == "old µ\n"
    write_text(path, "new", durable=False)
    assert path.read_text(encoding="utf-8") == "new"
    assert [each.name for each in tmp_path.iterdir()] == ["state.json"]


def test_a_linked_file_is_there_once_and_a_copied_one_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def elsewhere(source: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    source = tmp_path / "shard"
    source.write_bytes(b"latents")
    link_or_copy(source, tmp_path / "linked")
    assert source.samefile(tmp_path / "linked")
    with pytest.raises(FileExistsError):
        link_or_copy(source, tmp_path / "linked")
    monkeypatch.setattr(files.os, "link", elsewhere)
    link_or_copy(source, tmp_path / "copied")
    assert not source.samefile(tmp_path / "copied")
    assert sha256_file(tmp_path / "copied") == hashlib.sha256(b"latents").hexdigest()


def test_cache_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUDIT_CACHE", str(tmp_path / "named"))
    assert cache_folder() == tmp_path / "named"
    monkeypatch.delenv("MUDIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "mudit"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "mudit"
