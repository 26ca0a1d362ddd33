"""Counter-based randomness: every draw is a pure function of (seed, stream, step, sample index).

No generator has state, so the global batch's data order, timesteps, noise, posterior samples, flips and label drops are the same
for any number of ranks, any resume point, and for a run that is packed with others or alone. The generator is Philox4x32-10
(Salmon et al., SC'11, "Parallel random numbers: as easy as 1, 2, 3"), computed with integer tensor operations, so its bits do not
depend on the device or on the library's version.

Legend: B samples, E elements of one sample.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_ROUND = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MANTISSA = 1 << 24  # a float32 holds 24 bits exactly, so 24-bit integers map to evenly spaced uniforms


def derive_key(seed: int, stream: str) -> tuple[int, int]:
    """Two 32-bit key words for a named stream of a seed; streams of different names are independent."""
    digest = hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def philox(counter_4: Sequence[Tensor], key: tuple[int, int]) -> list[Tensor]:
    """Philox4x32-10. `counter_4`: four int64 tensors of 32-bit words, broadcastable. Returns four int64 tensors of 32-bit words."""
    c0, c1, c2, c3 = torch.broadcast_tensors(*counter_4)
    k0, k1 = key
    for _ in range(10):
        # The 64-bit products wrap to negative int64; masking after the arithmetic shift gives the unsigned high words.
        product0, product1 = c0 * _ROUND[0], c2 * _ROUND[1]
        high0, high1 = (product0 >> 32) & _MASK, (product1 >> 32) & _MASK
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, product1 & _MASK, high0 ^ c3 ^ k1, product0 & _MASK
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return [c0, c1, c2, c3]


def _words(seed: int, stream: str, step: int | Tensor, samples_B: Tensor, count: int) -> Tensor:
    """`count` 32-bit words for each sample, int64 [B, count]. `step` is one for all, or int64 [B]."""
    blocks = -(-count // 4)
    block = torch.arange(blocks, device=samples_B.device)
    samples = samples_B.to(torch.int64)[:, None]
    steps = torch.as_tensor(step, device=samples_B.device).reshape(-1, 1)
    counter = (block[None, :], samples & _MASK, (samples >> 32) & _MASK, steps & _MASK)
    words = torch.stack(philox(counter, derive_key(seed, stream)), dim=-1)  # B, blocks, 4
    return words.flatten(1)[:, :count]


def uniform(seed: int, stream: str, step: int | Tensor, samples_B: Tensor, shape: Sequence[int] = ()) -> Tensor:
    """Uniforms in (0, 1), float32 [B, *shape], one independent draw per (seed, stream, step, sample).

    `step` is one for all samples, or int64 [B]: draws of many steps at once are the same numbers.
    """
    words = _words(seed, stream, step, samples_B, math.prod(shape))
    unit = ((words >> 8).to(torch.float32) + 0.5) / _MANTISSA
    return unit.view(samples_B.shape[0], *shape)


def normal(seed: int, stream: str, step: int | Tensor, samples_B: Tensor, shape: Sequence[int]) -> Tensor:
    """Standard normals, float32 [B, *shape], by Box-Muller on the uniforms of (seed, stream, step, sample)."""
    count = math.prod(shape)
    words = _words(seed, stream, step, samples_B, 2 * ((count + 1) // 2))
    unit = ((words >> 8).to(torch.float32) + 0.5) / _MANTISSA
    radius = torch.sqrt(-2.0 * torch.log(unit[:, 0::2]))
    angle = (2.0 * math.pi) * unit[:, 1::2]
    both = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)
    return both[:, :count].reshape(samples_B.shape[0], *shape)


def integers(seed: int, stream: str, step: int | Tensor, samples_B: Tensor, high: int) -> Tensor:
    """Integers in [0, high), int64 [B]. The bias of the modulo is below high / 2**32."""
    return _words(seed, stream, step, samples_B, 1)[:, 0] % high


def permutation(seed: int, stream: str, epoch: int, count: int) -> Tensor:
    """A permutation of range(count), int64: the order of one epoch, on the CPU."""
    words = _words(seed, stream, epoch, torch.arange(count), 2)
    # 53 random bits make ties (which would favour low indices) negligible even for 1e7 images.
    return torch.argsort((words[:, 0] << 21) | (words[:, 1] >> 11), stable=True)


def torch_seed(seed: int, stream: str) -> int:
    """A 63-bit seed for a `torch.Generator` that belongs to a named stream, for draws that are made once (initialisation)."""
    low, high = derive_key(seed, stream)
    return (high << 31) ^ low
