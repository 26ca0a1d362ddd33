"""`mudit import`: a checkpoint from elsewhere -> a folder of safetensors, a description and a manifest, or nothing at all.

The folder has the files of a finished target run, so what samples and scores a run does the same with it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mudit import __version__
from mudit.data.pretrained import load_network, load_tokenizer
from mudit.data.tensors import save_tensors
from mudit.errors import CheckpointError, ParametrizationError
from mudit.files import sha256_file
from mudit.interchange.architecture import Family, Stated, Widths
from mudit.interchange.convert import Converted, convert
from mudit.interchange.foreign import Foreign, Variant, read
from mudit.parametrization.table import table_for
from mudit.provenance import manifest as manifests
from mudit.provenance.source import digest

FORMAT = "mudit-imported"
VERSION = 1
FILES: dict[Variant, str] = {"ema": "ema.safetensors", "raw": "weights.safetensors"}
MODEL_FILE = "model.json"


@dataclass(frozen=True)
class Wish:
    """What the owner of a checkpoint says of it: its family, and what no tensor tells."""

    path: Path
    family: Family
    scheme: str
    stated: Stated
    widths: Widths | None
    null_caption: Path | None = None


def import_checkpoint(wish: Wish, folder: Path) -> dict[str, Any]:
    """Writes `folder` and returns its manifest. Raises CheckpointError, and leaves nothing behind, unless all of it is understood.

    Nothing in the checkpoint is executed: see `mudit.interchange.pickles`.
    """
    check_free(folder)
    if wish.scheme == "mup" and wish.widths is None:
        raise CheckpointError(f"{wish.path}: under muP the readout's multiplier is not among the weights; say --base-width")
    try:
        foreign = read(wish.path, wish.family)
    except OSError as error:  # no permission, a disk that fails, a name that cannot be
        raise CheckpointError(f"{wish.path}: cannot be read ({error.strerror or error}); name another path, or mend it") from error
    if wish.scheme == "mup" and foreign.described:
        raise CheckpointError(
            f"{wish.path}: mudit export has folded muP's multipliers into these weights, so they are a plain model's: --scheme sp"
        )
    with _of(wish.path):
        foreign = _with_null_caption(foreign, wish)
        sets = {
            kind: convert(foreign, tensors, wish.family, wish.stated, wish.widths) for kind, tensors in foreign.variants.items()
        }
        first = next(iter(sets.values()))
        for each in sets.values():
            if (each.section, each.width) != (first.section, first.width):
                raise CheckpointError("its raw and averaged weights are of two architectures")
        table = table_for(first.section, first.width, wish.scheme)
    description = {
        "format": FORMAT,
        "version": VERSION,
        "family": wish.family,
        "scheme": wish.scheme,
        "width": first.width,
        "parametrization": table.digest,
        "model": first.section.model_dump(mode="json"),
    }
    with new_folder(folder) as out:
        for kind, each in sets.items():
            save_tensors(each.tensors, out / FILES[kind])
        (out / MODEL_FILE).write_text(json.dumps(description, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        manifest = _manifest(wish, foreign, sets, out)
        manifests.write(out, manifest)
    return manifest


def check_free(folder: Path) -> None:
    """Raises CheckpointError unless the folder can be made: whoever converts for minutes wants to know at once."""
    try:
        taken = folder.exists() or folder.is_symlink()
        below = next((parent for parent in folder.parents if parent.exists() and not parent.is_dir()), None)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be made ({error.strerror or error}); name another folder with --to") from error
    if taken:
        raise CheckpointError(f"{folder}: exists already; name another folder with --to, or remove it")
    if below is not None:
        raise CheckpointError(f"{folder}: cannot be made, {below} is no folder; name another folder with --to")


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder` by one rename at the end; on an error nothing of it stays, new parents included."""
    made = [parent for parent in (folder.parent, *folder.parent.parents) if not parent.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        out = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    except OSError as error:
        _remove(made)
        raise CheckpointError(f"{folder}: cannot be made ({error.strerror or error}); name another folder with --to") from error
    out.chmod(0o755)  # mkdtemp hides its folders from others
    try:
        yield out
        out.rename(folder)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        _remove(made)
        raise


def _remove(made: list[Path]) -> None:
    """Folders that were made for nothing, the deepest first; what others have put something into stays."""
    for parent in made:
        with contextlib.suppress(OSError):
            parent.rmdir()


@contextlib.contextmanager
def _of(path: Path) -> Iterator[None]:
    """Puts the checkpoint's path in front of what is wrong with it."""
    try:
        yield
    except (CheckpointError, ParametrizationError) as error:
        text = str(error)
        raise CheckpointError(text if text.startswith(str(path)) else f"{path}: {text}") from error


def _with_null_caption(foreign: Foreign, wish: Wish) -> Foreign:
    if wish.null_caption is None:
        return foreign
    if wish.family != "pixart" or foreign.layout != "diffusers" or foreign.null_caption is not None:
        raise CheckpointError("--null-caption is for PixArt checkpoints of diffusers, which lack the null caption; leave it out")
    if wish.stated.max_tokens is None:
        raise CheckpointError("--null-caption: say the length of captions, too: --max-tokens (published: 120)")
    return replace(foreign, null_caption=_encoded_nothing(wish.null_caption, wish.stated.max_tokens))


@torch.no_grad()
def _encoded_nothing(folder: Path, max_tokens: int) -> Tensor:
    """Features of the empty caption by the T5 encoder in a folder, float32 (L, E).

    T5 makes one token of it. Attention over copies of one token is that token, so L copies are what diffusers' masked caption is.
    """
    from transformers import T5EncoderModel  # slow import

    tokenizer = load_tokenizer(folder, "--null-caption")
    network = load_network(T5EncoderModel, folder, "--null-caption", ("t5",))
    tokens_1LE: Tensor = network(**tokenizer("", return_tensors="pt")).last_hidden_state
    if tokens_1LE.shape[1] != 1:
        raise CheckpointError(f"--null-caption {folder}: makes {tokens_1LE.shape[1]} tokens of the empty caption, not T5's one")
    return tokens_1LE[0].float().repeat(max_tokens, 1)


def _manifest(wish: Wish, foreign: Foreign, sets: dict[Variant, Converted], out: Path) -> dict[str, Any]:
    outputs = manifests.outputs(out)
    ignored = foreign.ignored + sorted({name for each in sets.values() for name in each.ignored})
    return {
        "schema": manifests.SCHEMA,
        "artefact": "import",
        "content": digest(outputs),
        "source": {
            "path": wish.path.name,
            "files": [{"file": file.name, "bytes": file.stat().st_size, "sha256": sha256_file(file)} for file in foreign.files],
            "kind": foreign.note,
        },
        "weights": {
            FILES[kind]: {"layout": each.layout, "tensors": len(each.tensors), "stored as": each.stored}
            for kind, each in sets.items()
        },
        "ignored": ignored,
        "mudit": __version__,
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "outputs": outputs,
    }
