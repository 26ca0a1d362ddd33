"""Writing tensors: safetensors files with the operating system's errors as what they are, and float16 without overflow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from mudit.errors import DataError

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
    half = tensor.to(torch.float16)
    if not half.isfinite().all():
        raise DataError(f"{where}: some features are not finite in float16, the store's type; use another encoder")
    return half
