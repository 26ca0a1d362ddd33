"""The place of an artefact in `results`: made beside it, put there by one rename, locked while that goes on.

Whatever kills the process, the artefact's own folder holds either the old artefact or the new one. Leftovers of killed runs are
cleared, or put back, at the next start.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mudit.errors import BusyError, ResultsError
from mudit.files import sync
from mudit.provenance import manifest as manifests
from mudit.stages import RESULTS, STATE, Artefact

_LOOK_S = 1.0  # that somebody who only looks at a lock (`locked`) may take
_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG)


def new(artefact: Artefact) -> Path:
    """A fresh temporary folder on the artefact's file system."""
    folder = Path(tempfile.mkdtemp(dir=_parent(artefact), prefix=_prefix(artefact, "new")))
    folder.chmod(0o755)  # mkdtemp hides its folders from the group that shares the results
    return folder


def put(artefact: Artefact, complete: Path) -> None:
    """Put a complete folder in the artefact's place. `recover` mends a stop between the two renames."""
    artefact.path.parent.mkdir(parents=True, exist_ok=True)
    old = Path(tempfile.mkdtemp(dir=_parent(artefact), prefix=_prefix(artefact, "old")))
    with contextlib.suppress(FileNotFoundError):
        artefact.path.rename(old)
    complete.rename(artefact.path)
    for folder in {artefact.path.parent, _parent(artefact)}:
        sync(folder)
    shutil.rmtree(old, ignore_errors=True)


def recover(artefact: Artefact) -> None:
    """Clear what killed runs of this artefact left. A complete artefact caught between the two renames of `put` is put back."""
    parent = _parent(artefact)
    parent.mkdir(parents=True, exist_ok=True)
    for what in ("new", "old"):
        for folder in parent.glob(_prefix(artefact, what) + "*"):
            if not artefact.path.exists() and (folder / manifests.FILE).is_file():
                artefact.path.parent.mkdir(parents=True, exist_ok=True)
                folder.rename(artefact.path)
            else:
                shutil.rmtree(folder)


@contextlib.contextmanager
def lock(artefact: Artefact) -> Iterator[None]:
    """Keeps a second process from making the same artefact; the system frees the lock when its holder dies. Raises BusyError."""
    until = time.monotonic() + _LOOK_S
    with _lock_file(artefact).open("a+") as file:
        while not _flock(file, fcntl.LOCK_EX):
            if time.monotonic() >= until:
                raise BusyError(f"{artefact.id}: another process is making it; wait for it or stop it")
            time.sleep(_LOOK_S / 20)
        yield


def locked(artefact: Artefact) -> bool:
    """Whether another process is making the artefact at this moment."""
    with _lock_file(artefact).open("a+") as file:
        return not _flock(file, fcntl.LOCK_SH)


def _flock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def writing(artefact: Artefact) -> Iterator[None]:
    """Turns "no space", "no permission" and "read-only" in results and state into ResultsError, which is one line."""
    try:
        yield
    except ResultsError:
        raise
    except OSError as error:
        where = Path(error.filename or artefact.path).resolve()
        ours = next((root for root in (RESULTS, STATE) if where.is_relative_to(root.resolve())), None)
        code = _told(error) if error.errno is None else error.errno
        if code not in _CANNOT_WRITE or ours is None:
            raise
        raise ResultsError(_unwritable(artefact, artefact.path if ours is RESULTS else ours, code)) from error
    except Exception as error:
        if (code := _told(error)) is None:
            raise
        raise ResultsError(_unwritable(artefact, artefact.path, code)) from error


def _told(error: Exception) -> int | None:
    """A full disk in the words of libraries that write in native code (safetensors), or that copy many files (shutil)."""
    return errno.ENOSPC if "os error 28" in str(error) or os.strerror(errno.ENOSPC) in str(error) else None


def _unwritable(artefact: Artefact, where: Path, code: int) -> str:
    return f"{artefact.id}: cannot write {where}: {os.strerror(code)}; the artefact is as it was"


def _lock_file(artefact: Artefact) -> Path:
    path = STATE / "locks" / artefact.id.replace("/", ".")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _prefix(artefact: Artefact, what: str) -> str:
    """Start of the names of the artefact's temporary folders, which lie in `results/<experiment>`, outside every artefact.

    It ends in what no name holds: `mup` must not find the folders of `mup-default`.
    """
    return f".{what}-{artefact.name.replace('/', '.')}~"


def _parent(artefact: Artefact) -> Path:
    return artefact.path.parent.parent if artefact.key else artefact.path.parent
