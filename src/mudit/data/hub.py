"""Models by name from the Hugging Face hub, only at a pinned revision; what lies in the hub's cache is used without a network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mudit.errors import ConfigError, DataError

_PINNED = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)@(?P<revision>[0-9a-f]{40})")


def snapshot(path: str, files: Sequence[str]) -> Path:
    """The folder of `organisation/name@revision`, with some of its files.

    Raises ConfigError unless all forty digits are given, DataError if the files are neither in the cache nor to be fetched.
    """
    found = _PINNED.fullmatch(path)
    if found is None:
        raise ConfigError(f"data.encoder_path {path!r}: write organisation/name@revision, with all forty digits of the revision")
    from huggingface_hub import snapshot_download  # slow import
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    def folder(offline: bool) -> Path:
        return Path(
            snapshot_download(found["name"], revision=found["revision"], allow_patterns=list(files), local_files_only=offline)
        )

    try:
        cached = folder(offline=True)
        if all((cached / name).is_file() for name in files):
            return cached
    except LocalEntryNotFoundError:
        pass
    try:
        return folder(offline=False)
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise DataError(
            f"data.encoder_path {path}: cannot be fetched ({reason}); fetch it where there is a network, or name a folder"
        ) from error
