"""The training loss of one batch: the same for single runs, packed runs and the coordinate check.

Legend: K trials, B batch, N image tokens, Z image features, C channels, h w latent height and width; `...` is (B) or (K, B).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mudit.diffusion.objective import Objective
from mudit.train.batches import Batch


class TrainingLoss(NamedTuple):
    """Means over the batch: scalars, or [K] for a packed model and a batch with leading K."""

    total: Tensor  # what is minimised: prediction + weight * alignment
    prediction: Tensor  # mse + vb: comparable between runs of any alignment weight


def training_loss(
    model: nn.Module, objective: Objective, batch: Batch, alignment_weights: Sequence[float] | None, xt: Tensor | None = None
) -> TrainingLoss:
    """The loss of one batch.

    alignment_weights: one per trial, or one for a single run; None: the model's projector, if it has one, is left alone. `xt` may
    bring the noised images if they are known.
    """
    noised = objective.noised(batch.x0, batch.t, batch.noise) if xt is None else xt
    time = objective.model_time(batch.t)
    if alignment_weights is None:
        output, features = model(noised, time, batch.condition), None
    else:
        output, features = model(noised, time, batch.condition, return_features=True)
    mse, vb = objective.losses(output.float(), batch.x0, noised, batch.t, batch.noise)
    loss = (mse + vb).mean(dim=-1)
    if features is None:
        return TrainingLoss(loss, loss)
    assert batch.features is not None and alignment_weights is not None
    distance = alignment(features, batch.features).mean(dim=-1)
    weights = torch.tensor(alignment_weights, dtype=loss.dtype, device=loss.device)
    return TrainingLoss(loss + (weights if loss.ndim else weights[0]) * distance, loss)


def alignment(projected: Tensor, target: Tensor) -> Tensor:
    """REPA's distance (Yu et al. 2025, eq. 8): minus the cosine similarity, mean over tokens. (..., N, Z) twice -> (...)."""
    return -F.cosine_similarity(projected.float(), target, dim=-1).mean(dim=-1)


def aligns(model: nn.Module) -> bool:
    """Whether the model has a projector for REPA."""
    return getattr(model, "alignment", None) is not None
