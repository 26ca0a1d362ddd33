"""What models are conditioned on: class labels, or captions.

Legend: L caption tokens, E width of the text encoder's token features, P width of its pooled feature; `...` leading dimensions
(batch, or trials and batch).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class TextCondition(NamedTuple):
    """Captions as a text encoder's features, padded to one length.

    `dropped` marks the captions that guidance replaces: by PixArt-alpha's learned null caption, and by zeros in U-ViT and MMDiT
    (published SD3 zeroes them too; published U-ViT feeds the empty string's features, which come as ordinary tokens).
    """

    tokens: Tensor  # (..., L, E) float; what stands behind the mask is ignored
    mask: Tensor  # (..., L) bool, True for real tokens; at least one per caption
    pooled: Tensor  # (..., P) float, one vector per caption; only MMDiT reads it
    dropped: Tensor  # (...) bool

    def zeroed(self) -> TextCondition:
        """Dropped captions as zeros, with every token visible."""
        keep = ~self.dropped
        return TextCondition(
            tokens=self.tokens * keep[..., None, None],
            mask=self.mask | self.dropped[..., None],
            pooled=self.pooled * keep[..., None],
            dropped=self.dropped,
        )


# Labels are int64 (...), the number of classes being the null class of guidance.
Condition = Tensor | TextCondition


def map_condition(function: Callable[..., Tensor], *conditions: Condition) -> Condition:
    """Apply a function to corresponding tensors of conditions of one kind: move, expand, stack or concatenate them."""
    first = conditions[0]
    if isinstance(first, TextCondition):
        return TextCondition(*(function(*parts) for parts in zip(*conditions, strict=True)))
    return function(*conditions)
