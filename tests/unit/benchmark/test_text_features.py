"""Text features of prompts are the latent store's: cut, rounded and padded alike."""

from __future__ import annotations

import pytest
import torch

from mudit.benchmark import text_features
from mudit.benchmark.text_features import TextFeatures, features_of, shard_name
from mudit.config.data import CaptionSection
from mudit.data.tensors import pack_tokens, save_tensors, unpack_tokens
from mudit.data.text import EncodedCaptions
from mudit.errors import DataError

MINILM = {"name": "minilm", "path": None}
PROMPTS = [f"prompt {number}" for number in range(11)]


class Numbers:
    """Stands in for `CaptionEncoder`: prompt k has k mod 4 + 1 tokens of its own."""

    def encode(self, prompts: list[str]) -> EncodedCaptions:
        numbers = [int(prompt.split()[1]) for prompt in prompts]
        return EncodedCaptions(
            [self.tokens(number) for number in numbers], torch.stack([self.pooled(number) for number in numbers]), 0
        )

    @staticmethod
    def tokens(number: int) -> torch.Tensor:
        return torch.randn(number % 4 + 1, 6, generator=torch.Generator().manual_seed(number))

    @staticmethod
    def pooled(number: int) -> torch.Tensor:
        return torch.full((3,), float(number))


def written(folder, storage, monkeypatch) -> TextFeatures:
    """All prompts in shards of four."""
    monkeypatch.setattr(text_features, "SHARD_PROMPTS", 4)
    section = CaptionSection.model_validate({"tokens": MINILM, "pooled": MINILM, "max_tokens": 5, "storage": storage})
    for number, first in enumerate(range(0, len(PROMPTS), 4)):
        save_tensors(features_of(PROMPTS[first : first + 4], Numbers(), section), folder / f"{shard_name(number)}.safetensors")
    return TextFeatures(folder, max_tokens=5)


@pytest.mark.parametrize("storage", ["float16", "bfloat16", "int8", "on-the-fly"])
def test_any_prompts_in_any_order_are_what_the_store_would_give(tmp_path, monkeypatch, storage):
    numbers = [10, 0, 7, 3, 4, 3]
    found = written(tmp_path, storage, monkeypatch).of(torch.tensor(numbers))
    for place, number in enumerate(numbers):
        true_LE = Numbers.tokens(number)
        if storage != "on-the-fly":
            packed = pack_tokens(true_LE, storage)
            true_LE = unpack_tokens(packed["tokens"], packed.get("token_scale"))
        length = len(true_LE)
        torch.testing.assert_close(found.tokens[place, :length], true_LE, rtol=0, atol=0)
        assert (found.tokens[place, length:] == 0).all()
        assert found.mask[place].tolist() == [True] * length + [False] * (5 - length)
        assert found.pooled[place].tolist() == [number] * 3


def test_a_missing_or_damaged_shard_is_one_line(tmp_path, monkeypatch):
    features = written(tmp_path, "float16", monkeypatch)
    (tmp_path / "text-00001.safetensors").unlink()
    (tmp_path / "text-00002.safetensors").write_bytes(b"junk")
    assert features.of(torch.tensor([3])).mask.sum() == 4
    for number in (4, 8):
        with pytest.raises(
            DataError, match=r"text-0000\d\.safetensors: missing or damaged .*; run `mudit prompts` again"
        ) as caught:
            features.of(torch.tensor([number]))
        assert "\n" not in str(caught.value)
