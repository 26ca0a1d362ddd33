"""Text features of a prompt set, on disk: what a model reads of each prompt, by the encoders of the experiment's own captions.

They go the way of the latent store's captions (`mudit.data.text`, `mudit.data.tensors`): cut to the same number of tokens, rounded
to the same type. Where the store computes its features when a batch is read, these are kept in float32, as the model saw them.

A shard holds `tokens` [T, E] of its prompts one after another, `token_ends` int64 [n], `pooled` float32 [n, P], and for int8
`token_scale` float32 [T].

Legend: B prompts of a batch, n of a shard, L tokens that a model reads, T of a shard, E token feature width, P pooled width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mudit.config.data import CaptionSection
from mudit.data.tensors import pack_tokens, unpack_tokens
from mudit.data.text import CaptionEncoder
from mudit.errors import DataError
from mudit.models.condition import TextCondition
from mudit.sizes import SHARD_PROMPTS

_BATCH = 32  # prompts of one call of the encoders


def shard_name(number: int) -> str:
    """Of a shard's file, without its ending."""
    return f"text-{number:05d}"


def features_of(prompts: Sequence[str], encoder: CaptionEncoder, section: CaptionSection) -> dict[str, Tensor]:
    """Tensors of one shard. Raises DataError if a feature is not finite in the store's type."""
    tokens: list[Tensor] = []
    pooled: list[Tensor] = []
    for first in range(0, len(prompts), _BATCH):
        encoded = encoder.encode(list(prompts[first : first + _BATCH]))
        tokens += encoded.tokens
        pooled.append(encoded.pooled_BP)
    tokens_TE = torch.cat(tokens).float()
    packed = {"tokens": tokens_TE} if section.storage == "on-the-fly" else pack_tokens(tokens_TE, section.storage)
    return {**packed, "token_ends": torch.tensor([len(each) for each in tokens]).cumsum(0), "pooled": torch.cat(pooled)}


class TextFeatures:
    """Prompts of a finished store by number. Files are opened for each batch, and only what it needs is read."""

    def __init__(self, folder: Path, max_tokens: int) -> None:
        self._folder, self._max_tokens = folder, max_tokens

    def of(self, prompts_B: Tensor) -> TextCondition:
        """Features float32, padded with zeros to `max_tokens`, as `LatentSplit.text` gives them. prompts_B: int64, any order.

        Raises DataError if a shard is missing or damaged.
        """
        each = [self._one(number) for number in prompts_B.tolist()]
        tokens_BLE = torch.zeros(len(each), self._max_tokens, each[0][0].shape[1])
        mask_BL = torch.zeros(tokens_BLE.shape[:2], dtype=torch.bool)
        for place, (tokens_LE, _) in enumerate(each):
            tokens_BLE[place, : len(tokens_LE)] = tokens_LE
            mask_BL[place, : len(tokens_LE)] = True
        return TextCondition(
            tokens_BLE, mask_BL, torch.stack([pooled_P for _, pooled_P in each]), torch.zeros(len(each), dtype=torch.bool)
        )

    def _one(self, number: int) -> tuple[Tensor, Tensor]:
        """Token features [l, E] and pooled vector [P] of one prompt."""
        shard, row = divmod(number, SHARD_PROMPTS)
        path = self._folder / f"{shard_name(shard)}.safetensors"
        try:
            with safe_open(path, framework="pt") as file:
                ends_n = file.get_tensor("token_ends")
                start, end = int(ends_n[row - 1]) if row else 0, int(ends_n[row])
                parts: dict[str, Any] = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # a file, no mapping
                scale = parts["token_scale"][start:end] if "token_scale" in parts else None
                return unpack_tokens(parts["tokens"][start:end], scale), parts["pooled"][row]
        except (SafetensorError, OSError, KeyError, IndexError) as error:
            raise DataError(f"{path}: missing or damaged ({error}); run `mudit prompts` again") from error
