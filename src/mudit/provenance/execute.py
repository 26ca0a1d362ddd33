"""The one way in which a stage runs: check its inputs, work in a temporary folder, write the manifest, rename into place.

Where a job has several processes (`mudit.distributed`), rank 0 does all of that, and the others only run the stage beside it.

Whatever kills the process, the artefact's own folder holds either the old artefact or the new one. Leftovers of killed runs are
cleared, or put back, at the next start.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib
import logging
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from mudit.config.schema import Experiment
from mudit.distributed import World, broadcast, joined
from mudit.errors import ConfigError, ProvenanceError, ResultsError
from mudit.provenance import manifest as manifests
from mudit.provenance import source
from mudit.provenance.resume import claim
from mudit.provenance.verdict import Inspector
from mudit.scoped import scoped
from mudit.stages import RESULTS, STATE, Artefact, Job, gates, inputs

_LOG = logging.getLogger(__name__)
_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG)


def make(artefact: Artefact, experiment: Experiment, *, force: bool) -> bool:
    """Make an artefact unless it is fresh already. Returns whether it was made.

    Raises ProvenanceError if an input is not fresh or another process is making the artefact, ResultsError if results cannot be
    written, ConfigError if there are several processes and the stage is for one, and whatever the stage raises. A failed run
    leaves the artefact as it was.
    """
    if World.of_environment().size > 1 and not artefact.stage.parallel:
        raise ConfigError(f"{artefact.id}: the stage {artefact.stage.name} runs in one process; start it without torchrun")
    with joined() as world:
        return _make(artefact, experiment, force) if world.main else _assist(artefact, experiment)


def _assist(artefact: Artefact, experiment: Experiment) -> bool:
    """What ranks above 0 do: run the stage if rank 0 does."""
    out: str | None = broadcast(None)
    if out is None:
        return False
    importlib.import_module(artefact.stage.module).run(_job(artefact, experiment, Path(out)))
    return True


class _Assistants:
    """The ranks that wait in `_assist`. They are told once: to run, or, whatever happened instead, that there is nothing to do."""

    def __init__(self) -> None:
        self._told = False

    def call(self, out: Path) -> None:
        self._told = True
        broadcast(str(out))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._told:
            broadcast(None)


def _make(artefact: Artefact, experiment: Experiment, force: bool) -> bool:
    with _Assistants() as assistants, _writing(artefact), _lock(artefact):
        _recover(artefact)
        if not force and Inspector(experiment, quick=False).verdict(artefact).fresh:
            _LOG.info("%s is fresh: nothing to do", artefact.id)
            return False
        recipe = _recipe(artefact, experiment)
        claim(artefact.state, recipe, afresh=force)
        out = Path(tempfile.mkdtemp(dir=_place(artefact), prefix=_prefix(artefact, "new")))
        out.chmod(0o755)  # mkdtemp hides its folders from the group that shares the results
        try:
            manifest = _run(artefact, experiment, recipe, out, assistants)
            manifests.write(out, manifest)
            _swap(artefact, out)
        finally:
            shutil.rmtree(out, ignore_errors=True)
    _LOG.info("%s made in %.1f s", artefact.id, manifest["run"]["wall_s"])
    return True


def _recipe(artefact: Artefact, experiment: Experiment) -> dict[str, Any]:
    """Parameters, inputs and code as they are now. Raises ProvenanceError unless every input and gate is fresh."""
    inspector = Inspector(experiment, quick=True)
    for each in [*inputs(artefact, experiment), *gates(artefact, experiment)]:
        verdict = inspector.verdict(each)
        if not verdict.fresh:
            raise ProvenanceError(f"{artefact.id} needs {each.name}, which is {verdict}; make it with: {each.command}")
    passed = {each.name: inspector.verdict(each).content for each in gates(artefact, experiment)}
    return {**inspector.recipe(artefact), "gates": passed}


def _job(artefact: Artefact, experiment: Experiment, out: Path) -> Job:
    return Job(
        experiment=artefact.experiment,
        config=scoped(experiment, artefact),
        key=artefact.key,
        inputs={each.name: each.path for each in inputs(artefact, experiment)},
        out=out,
        state=artefact.state,
        workers=getattr(experiment.execution, artefact.stage.name, None),
    )


def _run(artefact: Artefact, experiment: Experiment, recipe: dict[str, Any], out: Path, assistants: _Assistants) -> dict[str, Any]:
    """Call the stage and describe what it made."""
    git = source.git()
    start = time.perf_counter()
    module = importlib.import_module(artefact.stage.module)
    assistants.call(out)
    summary = module.run(_job(artefact, experiment, out))
    wall_s = time.perf_counter() - start
    outputs = manifests.outputs(out)
    assert outputs, f"stage {artefact.stage.name} wrote no files"
    return {
        "schema": manifests.SCHEMA,
        "artefact": artefact.id,
        "content": source.digest(outputs),
        **recipe,
        "digests": {name: source.digest(recipe[name]) for name in ("parameters", "code")},
        "environment": source.environment(),
        "git": git,
        "run": {
            "command": artefact.command,
            "device": summary.get("device", "cpu"),
            "processes": World.of_environment().size,
            "threads": int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
            "wall_s": round(wall_s, 3),
            "max_rss_bytes": _peak_memory(),
            "flops": summary.get("flops"),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        },
        "summary": summary,
        "outputs": outputs,
    }


def _peak_memory() -> int:
    """Largest resident size in bytes of this process or of any child, so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def _prefix(artefact: Artefact, what: str) -> str:
    """Start of the names of the artefact's temporary folders, which lie in `results/<experiment>`, outside every artefact."""
    return f".{what}-{artefact.name.replace('/', '.')}-"


def _place(artefact: Artefact) -> Path:
    return artefact.path.parent.parent if artefact.key else artefact.path.parent


def _swap(artefact: Artefact, new: Path) -> None:
    """Put a complete folder in the artefact's place. `_recover` mends a stop between the two renames."""
    artefact.path.parent.mkdir(parents=True, exist_ok=True)
    old = Path(tempfile.mkdtemp(dir=_place(artefact), prefix=_prefix(artefact, "old")))
    with contextlib.suppress(FileNotFoundError):
        artefact.path.rename(old)
    new.rename(artefact.path)
    for folder in {artefact.path.parent, _place(artefact)}:
        _sync(folder)
    shutil.rmtree(old, ignore_errors=True)


def _recover(artefact: Artefact) -> None:
    """Clear what killed runs of this artefact left. A complete artefact caught between the two renames of `_swap` is put back."""
    place = _place(artefact)
    place.mkdir(parents=True, exist_ok=True)
    for what in ("new", "old"):
        for folder in place.glob(_prefix(artefact, what) + "*"):
            if not artefact.path.exists() and (folder / manifests.FILE).is_file():
                artefact.path.parent.mkdir(parents=True, exist_ok=True)
                folder.rename(artefact.path)
            else:
                shutil.rmtree(folder)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _lock(artefact: Artefact) -> Iterator[None]:
    """Keeps a second process from making the same artefact; the system frees the lock when its holder dies."""
    path = STATE / "locks" / artefact.id.replace("/", ".")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ProvenanceError(f"{artefact.id}: another process is making it; wait for it or stop it") from None
        yield


@contextlib.contextmanager
def _writing(artefact: Artefact) -> Iterator[None]:
    """Turns "no space", "no permission" and "read-only" into one line."""
    try:
        yield
    except ResultsError:
        raise
    except OSError as error:
        where = Path(error.filename or artefact.path).resolve()
        ours = any(where.is_relative_to(root.resolve()) for root in (RESULTS, STATE))
        if error.errno not in _CANNOT_WRITE or not ours:
            raise
        raise ResultsError(_unwritable(artefact, error.errno)) from error
    except Exception as error:
        # Libraries that write in native code (safetensors) report a full disk in their own exceptions.
        if "os error 28" not in str(error) and "No space left on device" not in str(error):
            raise
        raise ResultsError(_unwritable(artefact, errno.ENOSPC)) from error


def _unwritable(artefact: Artefact, code: int) -> str:
    return f"{artefact.id}: cannot write {artefact.path}: {os.strerror(code)}; the artefact is as it was"
