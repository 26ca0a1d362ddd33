"""The logits of every attention of a model that does not know this project, seen from below: what torch's softmax is about to read.

A model's own code is not asked. Torch's operators are watched while a forward pass runs: inputs of softmax, and queries and keys of
fused attention. An attention in a kernel of its own (xformers, flash-attn) is not seen; its class may offer `HasLogits` then.

Legend: B batch, H heads, N M tokens, E head_dim.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_SOFTMAX = ("aten::_softmax", "aten::_safe_softmax")
_FUSED = "aten::_scaled_dot_product_"
_MASKED = -5e3  # masks add -inf, the smallest float or -10,000


class AttentionLogits(TorchDispatchMode):
    """While active, `found` gathers logits under the name that `where` gives at that moment."""

    def __init__(self, where: Callable[[], str]) -> None:
        super().__init__()
        self._where = where
        self.found: dict[str, Tensor] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), keywords: dict[str, Any] | None = None
    ) -> Any:
        keywords = keywords or {}
        operator = function._schema.name
        if operator in _SOFTMAX:
            self._keep(arguments[0])
        elif operator.startswith(_FUSED):
            self._keep(_products(arguments[0], arguments[1], keywords.get("scale")))
        return function(*arguments, **keywords)

    def _keep(self, logits: Tensor) -> None:
        """Masked ones as zeros; a module's second and later attentions are numbered."""
        name = self._where()
        count = sum(other == name or other.startswith(f"{name}.") for other in self.found)
        self.found[f"{name}.{count}" if count else name] = logits.detach().masked_fill(logits < _MASKED, 0.0)


def _products(q_BHNE: Tensor, k_BHME: Tensor, scale: float | None) -> Tensor:
    """q.k times the scale, 1 / sqrt(head_dim) unless told, (B, H, N, M); H may be a multiple for queries (grouped attention)."""
    groups = q_BHNE.shape[1] // k_BHME.shape[1]
    k_BHME = k_BHME.repeat_interleave(groups, dim=1)
    return torch.einsum("bhne,bhme->bhnm", q_BHNE, k_BHME) * (q_BHNE.shape[-1] ** -0.5 if scale is None else scale)
