"""Autoencoders by name: only at a pinned revision, from the cache if they are there, and never another file than was asked for."""

from __future__ import annotations

import hashlib

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from mudit.data.encoders import AutoencoderKL
from mudit.data.hub import snapshot
from mudit.errors import ConfigError, DataError

REVISION = "0123456789" * 4


@pytest.mark.parametrize("path", ["org/vae@main", f"vae@{REVISION}", f"org/vae@{REVISION[:-1]}", f"org/a/vae@{REVISION}"])
def test_only_whole_revisions_are_taken(path):
    with pytest.raises(ConfigError, match=r"write organisation/name@revision, with all forty digits"):
        snapshot(path, ["config.json"])


def test_the_cache_is_asked_before_the_network(tmp_path, monkeypatch):
    asked = []

    def download(name, *, revision, allow_patterns, local_files_only):
        asked.append((name, revision, allow_patterns, local_files_only))
        if local_files_only and len(asked) == 1:
            raise LocalEntryNotFoundError("not there")
        (tmp_path / "config.json").write_text("{}")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert snapshot(f"org/vae@{REVISION}", ["config.json"]) == tmp_path
    assert asked == [("org/vae", REVISION, ["config.json"], offline) for offline in (True, False)]
    assert snapshot(f"org/vae@{REVISION}", ["config.json"]) == tmp_path
    assert [call[3] for call in asked] == [True, False, True], "the second time nothing is fetched"


def test_no_network_is_one_line(monkeypatch):
    def download(*arguments, local_files_only, **named):
        raise LocalEntryNotFoundError("\nCannot reach the hub.\nDetails follow.\n")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(DataError, match=r"cannot be fetched \(Cannot reach the hub\.\)") as caught:
        snapshot(f"org/vae@{REVISION}", ["config.json"])
    assert "\n" not in str(caught.value)


def test_other_weights_than_expected_are_refused_before_they_are_loaded(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"weights")
    found = hashlib.sha256(b"weights").hexdigest()
    with pytest.raises(DataError, match=rf"its SHA-256 is {found}, data\.encoder_sha256 says {'0' * 64}; fetch it again"):
        AutoencoderKL(tmp_path, 1.0, weights_sha256="0" * 64)
