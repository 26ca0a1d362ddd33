"""Helpers that tests import."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from mudit.config.schema import Section

ROOT = Path(__file__).resolve().parent.parent

S = TypeVar("S", bound=Section)


def changed(section: S, **changes: Any) -> S:
    """A copy with some fields changed; `a__b=1` reaches into sections. Values are not validated again."""
    update: dict[str, Any] = {}
    for path, value in changes.items():
        head, _, rest = path.partition("__")
        if rest:
            value = changed(update.get(head, getattr(section, head)), **{rest: value})
        update[head] = value
    return section.model_copy(update=update)


def word_tokenizer(folder: Path, words: str, limit: int) -> None:
    """A tokenizer that knows some words and puts </s> at the end."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", *words.split()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=limit
    ).save_pretrained(folder)
