"""Tensors on disk: safetensors files with the operating system's errors as what they are, and narrow types without overflow.

Legend: T tokens, E token feature width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from mudit.errors import DataError

TokenType = Literal["float16", "bfloat16", "int8"]

_OS_ERROR = re.compile(r"\(os error (\d+)\)")


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write one safetensors file in one rename. Raises OSError (no space, no permission), not safetensors' own type."""
    partial = path.with_name(path.name + ".partial")
    try:
        save_file(dict(tensors), partial)
    except SafetensorError as error:
        partial.unlink(missing_ok=True)
        number = _OS_ERROR.search(str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), str(error), str(path)) from error
    partial.replace(path)


def to_half(tensor: Tensor, where: str) -> Tensor:
    """float16. Raises DataError, which names the setting `where`, if a value is not finite there."""
    return _finite(tensor.to(torch.float16), where, "float16", "use another encoder or a wider type")


def pack_tokens(tokens_TE: Tensor, storage: TokenType) -> dict[str, Tensor]:
    """Token features as a shard holds them, from float32 [T, E]: `tokens`, and for int8 `token_scale`, float32 [T].

    Raises DataError if a value is not finite in the type.
    """
    where = "data.captions.storage"
    if storage == "float16":
        return {"tokens": to_half(tokens_TE, where)}
    if storage == "bfloat16":
        return {"tokens": _finite(tokens_TE.to(torch.bfloat16), where, "bfloat16", "use another encoder")}
    _finite(tokens_TE, where, "float32", "use another encoder")
    scale_T = tokens_TE.abs().amax(1) / 127
    # A token of zeros has scale 0; it is divided by anything else to stay zero.
    quotient_TE = tokens_TE / torch.where(scale_T == 0, 1.0, scale_T)[:, None]
    return {"tokens": quotient_TE.round().clamp(-127, 127).to(torch.int8), "token_scale": scale_T}


def unpack_tokens(tokens_TE: Tensor, scale_T: Tensor | None) -> Tensor:
    """float32 [..., T, E], from what `pack_tokens` made."""
    return tokens_TE.float() if scale_T is None else tokens_TE.float().mul_(scale_T.unsqueeze(-1))


def _finite(tensor: Tensor, where: str, type_name: str, mend: str) -> Tensor:
    if not tensor.isfinite().all():
        raise DataError(f"{where}: some values are not finite in {type_name}, the store's type; {mend}")
    return tensor
