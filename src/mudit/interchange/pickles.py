"""Reading PyTorch's `.pt`, `.pth` and `.bin` files without running them.

Such a file is a zip archive with one pickle, which names functions to call. Two guards stand before its content: our own list of
functions, shorter than torch's, held against the pickle's opcodes before anything is built; then `torch.load(weights_only=True)`.
What a training run leaves beside its weights (optimizer state, arguments) may be in the file; nobody reads it.
"""

from __future__ import annotations

import argparse
import pickle
import pickletools
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mudit.errors import CheckpointError
from mudit.zips import ZIP_ERRORS

_STORAGES = ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Short", "Char", "Byte", "Bool")
# What an ordinary checkpoint calls. Torch allows more, such as `bytearray`, which makes any size of memory out of a few bytes.
_ALLOWED = {
    "collections OrderedDict",
    "argparse Namespace",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch Size",
    "torch device",
    *(f"torch {kind}Storage" for kind in _STORAGES),
}
# Other ways to name a function, which `torch.save` does not use.
_UNUSUAL = {"STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4", "NEWOBJ_EX", "PERSID", "BYTEARRAY8", "NEXT_BUFFER"}
_LARGEST_PICKLE = 64 << 20  # bytes; 292 tensors with their Adam state take 0.1 MB
_PIECE = 16 << 20  # bytes of a member that are in memory at a time
_DEEPEST_TUPLE = 8  # torch.save needs three; tuples of one tuple twice, n deep, take 2^n steps to hash

# Whatever a pickle that is not well-formed makes of torch's reader.
_DAMAGE = (
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    EOFError,
    OSError,
    MemoryError,
    struct.error,
    pickle.UnpicklingError,
)


def read_pickle(path: Path) -> dict[str, Any]:
    """The dictionary in a PyTorch file, its tensors mapped from the disk and not yet read.

    Raises CheckpointError, before anything of the file has run, unless it is a plain archive of tensors.
    """
    _check_archive(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except _DAMAGE as error:
        raise CheckpointError(f"{path}: damaged or not a checkpoint ({_first_line(error)}); fetch it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a dictionary of tensors")
    # `dict.items`, because a pickle can give an OrderedDict an attribute that is called `items`.
    plain = dict(dict.items(content))
    if not all(type(name) is str for name in plain):
        raise CheckpointError(f"{path}: its keys are not names; it is not a state dict")
    return plain


def tensors_of(path: Path, content: Any) -> dict[str, Tensor] | None:
    """A state dict as plain tensors; None if the value is something else. Raises CheckpointError for tensors that are not plain."""
    if not isinstance(content, dict) or not dict.__len__(content):
        return None
    items = list(dict.items(content))
    if not all(type(name) is str and isinstance(value, Tensor) for name, value in items):
        return None
    with zipfile.ZipFile(path) as archive:
        room = sum(member.file_size for member in archive.infolist())
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for _, tensor in items}
    if sum(storages.values()) > room:
        raise CheckpointError(f"{path}: its tensors claim more than the file holds; fetch it again")
    for name, tensor in items:
        dense = tensor.is_contiguous() or (tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last))
        if tensor.layout != torch.strided or not dense or tensor.nbytes > tensor.untyped_storage().nbytes():
            raise CheckpointError(f"{path}: {name} of shape {tuple(tensor.shape)} claims more than the file holds, or is not dense")
    return {name: tensor.detach().contiguous() for name, tensor in items}


def _check_archive(path: Path) -> None:
    try:
        if not zipfile.is_zipfile(path):
            raise CheckpointError(
                f"{path}: not a whole archive as torch.save has written since PyTorch 1.6; fetch or save it again"
            )
        with zipfile.ZipFile(path) as archive:
            _check_members(path, archive.infolist())
            pickled = next(member for member in archive.infolist() if member.filename.endswith("/data.pkl"))
            program = _read_checked(archive, pickled)
    except ZIP_ERRORS as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: a damaged archive ({_first_line(error)}); fetch it again") from error
    _check_program(path, program)


def _read_checked(archive: zipfile.ZipFile, pickled: zipfile.ZipInfo) -> bytes:
    """The pickle, after every member was held against its checksum: torch maps tensors from the disk and looks at none.

    Whoever saves with `torch.serialization.set_crc32_options(False)` has zeros there, which say nothing.
    """
    for member in archive.infolist():
        if member.CRC == 0:
            member.CRC = None  # type: ignore[assignment]  # zipfile then compares nothing
        with archive.open(member) as file:
            while file.read(_PIECE):
                pass
    return archive.read(pickled)


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    names = [member.filename for member in members]
    if len(set(names)) != len(names):
        raise CheckpointError(f"{path}: the archive holds two members of one name")
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise CheckpointError(f"{path}: a TorchScript program, not weights; save the module's state_dict() instead")
    pickles = [member for member in members if member.filename.count("/") == 1 and member.filename.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise CheckpointError(f"{path}: an archive without the pickle of a checkpoint (data.pkl)")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise CheckpointError(f"{path}: its members are compressed, which torch.save never does; unpacked they may be any size")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise CheckpointError(f"{path}: its members claim more bytes than the file has")
    if pickles[0].file_size > _LARGEST_PICKLE:
        raise CheckpointError(f"{path}: its pickle has {pickles[0].file_size} bytes; a checkpoint's is far smaller")


class _Nesting:
    """How deep tuples lie in tuples as a pickle is run: a stack machine that knows of each value only that."""

    def __init__(self) -> None:
        self._stack: list[int | None] = []  # None: a mark
        self._memo: dict[int, int] = {}

    def after(self, opcode: pickletools.OpcodeInfo, argument: object) -> int:
        """Depth of what the opcode leaves on top; 0 for what is no tuple. Raises IndexError where there is nothing to take."""
        name, stack = opcode.name, self._stack
        if name == "MARK":
            stack.append(None)
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self._memo.get(int(str(argument)), 0))
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self._memo[int(str(argument))] = stack[-1] or 0
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1] or 0
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            taken = self._take(opcode)
            made = 1 + max(taken, default=0) if name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3") else 0
            stack.extend([made] * len(opcode.stack_after))
        return (stack[-1] or 0) if stack else 0

    def _take(self, opcode: pickletools.OpcodeInfo) -> list[int]:
        taken: list[int] = []
        if pickletools.markobject in opcode.stack_before:
            while (depth := self._stack.pop()) is not None:
                taken.append(depth)
            below = opcode.stack_before.index(pickletools.markobject)
        else:
            below = len(opcode.stack_before)
        return taken + [self._stack.pop() or 0 for _ in range(below)]


def _check_program(path: Path, program: bytes) -> None:
    """The functions that the pickle names, and the ways in which it names them."""
    nesting = _Nesting()
    try:
        for opcode, argument, _ in pickletools.genops(program):
            if nesting.after(opcode, argument) > _DEEPEST_TUPLE:
                raise CheckpointError(f"{path}: its pickle nests tuples, which torch.save does not; nothing was loaded")
            if opcode.name in _UNUSUAL:
                raise CheckpointError(f"{path}: its pickle uses {opcode.name}, which torch.save does not; nothing was loaded")
            if opcode.name == "GLOBAL" and argument not in _ALLOWED:
                name = str(argument).replace(" ", ".", 1)
                raise CheckpointError(f"{path}: its pickle names {name}, which is no part of weights; nothing was loaded")
    except (ValueError, IndexError, struct.error, UnicodeDecodeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: a damaged pickle ({_first_line(error)}); fetch it again") from error


def _first_line(error: BaseException) -> str:
    """The first line of a message of torch's, without what it advises: that is to load the file unsafely."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line.partition(". ")[0][:160]
