"""What images and captions find in each other: recall at k among all, and the own caption among a few candidates.

Embeddings have rows of length one. A tie counts as a miss, so a scorer that says the same of everything finds nothing. Captions
with the same text are one caption: finding any of them is right.

Shapes: N images or captions, Q queries, G gallery, S common space, M candidates.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mudit import random
from mudit.errors import ConfigError
from mudit.evaluate.intervals import wilson

RECALLS = (1, 5, 10)
_CHUNK = 1024  # queries compared with a whole gallery at a time


def share(hits: int, count: int, chance: float) -> dict[str, Any]:
    """A share with its Wilson interval, beside what guessing gives."""
    return {"value": hits / count, "interval": wilson(hits, count), "n": count, "chance": chance}


def caption_ids(captions: list[str]) -> Tensor:
    """int64 [N]: captions with the same text have the same number, that of the first."""
    first: dict[str, int] = {}
    return torch.tensor([first.setdefault(caption, place) for place, caption in enumerate(captions)], dtype=torch.int64)


def ranks(queries_QS: Tensor, gallery_GS: Tensor, ids_Q: Tensor, ids_G: Tensor) -> Tensor:
    """int64 [Q]: how many of the gallery a query finds at least as good as the best right one; 0 is a hit.

    Right are those with the query's own id; each query has one. What is not finite counts against the query.
    """
    found = []
    for queries_BS, ids_B in zip(queries_QS.split(_CHUNK), ids_Q.split(_CHUNK), strict=True):
        similarity_BG = queries_BS @ gallery_GS.T
        right_BG = ids_B[:, None] == ids_G
        best_B = similarity_BG.where(right_BG, -torch.inf).amax(dim=1, keepdim=True)
        found.append((~(similarity_BG < best_B) & ~right_BG).sum(dim=1))
    return torch.cat(found)


def recalls(images_NS: Tensor, captions_NS: Tensor, ids_N: Tensor) -> dict[str, dict[str, dict[str, Any]]]:
    """Direction -> `R@k` -> share of queries whose own partner is among the k best of all N. Chance: k / N.

    `text_to_image`: captions look for images; `image_to_text` the other way round.
    """
    count = len(ids_N)
    found = {
        "text_to_image": ranks(captions_NS, images_NS, ids_N, ids_N),
        "image_to_text": ranks(images_NS, captions_NS, ids_N, ids_N),
    }
    return {
        direction: {f"R@{k}": share(int((rank_N < k).sum()), count, k / count) for k in RECALLS if k < count}
        for direction, rank_N in found.items()
    }


def draw_candidates(ids_N: Tensor, labels_N: Tensor, class_names: list[str], candidates: int, seed: int) -> Tensor:
    """int64 [N, M - 1]: for each caption, M - 1 other ones of its class, all different, drawn from (seed, its place).

    Raises ConfigError, naming the class, if it holds too few different captions.
    """
    rivals_N: list[Tensor] = [torch.empty(0)] * len(ids_N)
    for label in labels_N.unique().tolist():
        members = torch.nonzero(labels_N == label).flatten()
        places: dict[int, int] = {}
        for place in members.tolist():
            places.setdefault(int(ids_N[place]), place)
        if len(places) < candidates:
            raise ConfigError(
                f"scorer.candidates {candidates}: class {class_names[label]} has {len(places)} held-out captions; lower it"
            )
        distinct = torch.tensor(list(places.values()))
        for place in members.tolist():
            others = distinct[ids_N[distinct] != ids_N[place]]
            order = random.permutation(seed, "scorer-candidates", place, len(others))
            rivals_N[place] = others[order[: candidates - 1]]
    return torch.stack(rivals_N)


def finds_own(images_NS: Tensor, own_NS: Tensor, captions_GS: Tensor, rivals_NM: Tensor) -> Tensor:
    """bool [N]: whether an image fits its own caption better than each of its rivals, places in `captions_GS`."""
    found = []
    for image_BS, own_BS, rivals_BM in zip(images_NS.split(_CHUNK), own_NS.split(_CHUNK), rivals_NM.split(_CHUNK), strict=True):
        rival_BM = torch.einsum("bs,bms->bm", image_BS, captions_GS[rivals_BM])
        found.append((image_BS * own_BS).sum(dim=1) > rival_BM.amax(dim=1))
    return torch.cat(found)
