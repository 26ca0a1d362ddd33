"""Networks of `transformers` from a local folder: found or explained, identified by their files, and never loaded half.

Nothing is ever downloaded: a folder is read, or an error says which folder is missing.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn

from mudit.errors import DataError
from mudit.files import sha256_file

_VOCABULARIES = ("tokenizer.json", "spiece.model", "vocab.txt", "vocab.json")
_TOKENIZER_FILES = (*_VOCABULARIES, "tokenizer_config.json", "special_tokens_map.json", "merges.txt")


def load_network(network: Any, folder: Path, where: str, kinds: tuple[str, ...], unused: tuple[str, ...] = ()) -> nn.Module:
    """`network.from_pretrained(folder)` in float32 for inference, with every weight from the folder.

    network: a class of `transformers`. where: the setting that named the folder. kinds: `model_type`s that the class can read.
    unused: prefixes of weights that may be missing because nothing uses them. Raises DataError on another kind of folder.
    """
    kind = _config(folder, where).get("model_type")
    if kind not in kinds:
        raise DataError(f"{where} {folder}: holds a {kind!r} model, not one of {', '.join(kinds)}; name another folder or encoder")
    from transformers.utils import logging as hf_logging  # slow import

    if not any(folder.glob("*.safetensors")):
        raise DataError(f"{where} {folder}: no safetensors weights; convert them with transformers' save_pretrained")
    hf_logging.disable_progress_bar()
    try:
        model, report = network.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype="float32", output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise DataError(f"{where} {folder}: cannot be loaded ({_first_line(error)})") from error
    missing = sorted(name for name in report["missing_keys"] if not name.startswith(unused or ("\0",)))
    if missing:
        raise DataError(f"{where} {folder}: {len(missing)} weights are missing, such as {missing[0]}; name another folder")
    module: nn.Module = model.eval().requires_grad_(False)
    return module


def load_tokenizer(folder: Path, where: str) -> Any:
    """The tokenizer that lies beside the weights. Raises DataError."""
    from transformers import AutoTokenizer  # slow import

    _config(folder, where)
    # Without one `transformers` makes a tokenizer that knows no word, and says nothing.
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        raise DataError(f"{where} {folder}: no tokenizer; put its files ({' or '.join(_VOCABULARIES)}) beside the weights")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    # A missing sentencepiece package is an ImportError, a missing vocabulary one of the others.
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise DataError(f"{where} {folder}: its tokenizer cannot be loaded ({_first_line(error)})") from error


def folder_sha256(folder: Path) -> str:
    """Digest of the weights, configuration and tokenizer in a folder: what its features depend on."""
    names = {"config.json", *_TOKENIZER_FILES, *(path.name for path in folder.glob("*.safetensors"))}
    digests = [f"{name} {sha256_file(folder / name)}\n" for name in sorted(names) if (folder / name).is_file()]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _config(folder: Path, where: str) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise DataError(f"{where} {folder}: no config.json; name a folder that transformers' save_pretrained wrote")
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid JSON ({error})") from error
    return config


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
