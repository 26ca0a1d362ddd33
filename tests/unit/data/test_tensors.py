"""Narrow types of token features: how much they change, and that nothing becomes infinite."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mudit.data.tensors import pack_tokens, to_half, unpack_tokens
from mudit.errors import DataError


@settings(deadline=None)
@given(scale=st.floats(1e-6, 1e4), seed=st.integers(0, 99), tokens=st.integers(1, 5))
def test_int8_is_off_by_half_a_step_at_most(scale, seed, tokens):
    features_TE = scale * torch.randn(tokens, 16, generator=torch.Generator().manual_seed(seed))
    packed = pack_tokens(features_TE, "int8")
    assert (packed["tokens"].dtype, packed["token_scale"].shape) == (torch.int8, (tokens,))
    step_T1 = features_TE.abs().amax(1, keepdim=True) / 127
    error_TE = (unpack_tokens(packed["tokens"], packed["token_scale"]) - features_TE).abs()
    assert (error_TE <= 0.501 * step_T1).all()


def test_a_token_of_zeros_stays_zero():
    packed = pack_tokens(torch.zeros(2, 4), "int8")
    assert not unpack_tokens(packed["tokens"], packed["token_scale"]).any()


@pytest.mark.parametrize(("storage", "dtype", "bits"), [("float16", torch.float16, 11), ("bfloat16", torch.bfloat16, 8)])
def test_half_types_round_to_nearest(storage, dtype, bits):
    features_TE = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    packed = pack_tokens(features_TE, storage)
    assert packed["tokens"].dtype == dtype and set(packed) == {"tokens"}
    assert ((unpack_tokens(packed["tokens"], None) - features_TE).abs() <= features_TE.abs() * 2.0**-bits).all()


@pytest.mark.parametrize(("storage", "value"), [("float16", 1e5), ("bfloat16", 3.4028e38), ("int8", float("inf"))])
def test_what_a_type_cannot_hold_is_refused(storage, value):
    with pytest.raises(DataError, match=r"data\.captions\.storage: some values are not finite in") as caught:
        pack_tokens(torch.tensor([[1.0, value]]), storage)
    assert "\n" not in str(caught.value)


def test_moments_that_float16_cannot_hold_are_refused():
    with pytest.raises(DataError, match=r"data\.moments: .* use another encoder or a wider type"):
        to_half(torch.tensor([7e4]), "data.moments")
