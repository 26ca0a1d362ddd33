"""Fits the scorer's heads: a symmetric contrastive loss for the projections, a logistic regression for the classes.

Runs on the CPU on one thread: a pure function of its arguments, whatever the machine's load.

Shapes: N images, D image features, P pooled text features.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from mudit import random
from mudit.config.schema import ScorerSection
from mudit.errors import ConfigError
from mudit.evaluate.scorer import Heads
from mudit.evaluate.threads import one_thread

_WEIGHT_DECAY = 1e-2  # torch's own for AdamW
_PROBE_ITERATIONS = 2000
# Inverse weight penalty. Measured on emoji of 16 pixels with 240 of the *training* subjects kept back: 85 % of the styles right,
# against 82 % with scikit-learn's own 1.
_PROBE_C = 0.01


def fit_heads(image_ND: Tensor, text_NP: Tensor, labels_N: Tensor, num_classes: int, section: ScorerSection) -> tuple[Heads, float]:
    """Heads trained on pairs of features, float32, and int64 labels; and the mean loss of the last epoch.

    Raises ConfigError if a batch asks for more pairs than there are.
    """
    count = len(image_ND)
    if section.batch_size > count:
        raise ConfigError(f"scorer.batch_size {section.batch_size}: the training split has {count} images; lower it")
    with one_thread():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random.torch_seed(section.seed, "scorer"))
            heads = Heads(image_ND.shape[1], text_NP.shape[1], section.dim, num_classes)
        heads.image.fit(image_ND)
        heads.text.fit(text_NP)
        loss = _fit_projections(heads, image_ND, text_NP, section)
        if heads.probe is not None:
            _fit_probe(heads.probe, heads.image.standardised(image_ND), labels_N)
    return heads.requires_grad_(False).eval(), loss


def _fit_projections(heads: Heads, image_ND: Tensor, text_NP: Tensor, section: ScorerSection) -> float:
    matrices = [heads.image.linear.weight, heads.text.linear.weight]
    groups = [{"params": matrices, "weight_decay": _WEIGHT_DECAY}, {"params": [heads.log_scale], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=section.lr)
    losses = []
    for batch_B in _batches(len(image_ND), section):
        loss = heads.contrast(image_ND[batch_B], text_NP[batch_B])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    last = losses[-(len(image_ND) // section.batch_size) :]
    return sum(last) / len(last)


def _batches(count: int, section: ScorerSection) -> Iterator[Tensor]:
    """Indices of each step's pairs; an epoch's rest that fills no batch is left out, so no pair comes twice in a batch."""
    per_epoch = count // section.batch_size
    for step in range(section.steps):
        epoch, place = divmod(step, per_epoch)
        if place == 0:
            order_N = random.permutation(section.seed, "scorer-order", epoch, count)
        yield order_N[place * section.batch_size : (place + 1) * section.batch_size]


def _fit_probe(probe: nn.Linear, standardised_ND: Tensor, labels_N: Tensor) -> None:
    """scikit-learn's logistic regression; a class without training images is never chosen."""
    from sklearn.linear_model import LogisticRegression  # slow import

    present_K = labels_N.unique()
    weight_KD, bias_K = torch.zeros(len(present_K), standardised_ND.shape[1]), torch.zeros(len(present_K))
    if len(present_K) > 1:
        regression = LogisticRegression(C=_PROBE_C, max_iter=_PROBE_ITERATIONS)
        regression.fit(standardised_ND.double().numpy(), labels_N.numpy())
        # Of two classes, scikit-learn keeps the odds of the second alone.
        rows = slice(1, None) if len(present_K) == 2 else slice(None)
        weight_KD[rows], bias_K[rows] = torch.from_numpy(regression.coef_).float(), torch.from_numpy(regression.intercept_).float()
    with torch.no_grad():
        probe.weight.zero_()
        probe.bias.fill_(-torch.inf)
        probe.weight[present_K], probe.bias[present_K] = weight_KD, bias_K
