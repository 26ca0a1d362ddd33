"""The precision of products is the configured one, for matrix products and convolutions alike."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from mudit.train.device import matmul_precision


@pytest.fixture(autouse=True)
def switches() -> Iterator[None]:
    former = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(former[0])
    torch.backends.cudnn.allow_tf32 = former[1]


@pytest.mark.parametrize(("precision", "tf32"), [("fp32", False), ("tf32", True), ("bf16", False)])
def test_tf32_is_used_exactly_where_it_is_asked_for(precision: str, tf32: bool) -> None:
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = not tf32
    matmul_precision(precision, torch.device("cpu"))
    assert torch.backends.cudnn.allow_tf32 is tf32
    assert torch.get_float32_matmul_precision() == ("high" if tf32 else "highest")


def test_bf16_is_an_autocast_and_the_others_are_not() -> None:
    a = torch.ones(2, 2)
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with matmul_precision(precision, torch.device("cpu")):
            assert (a @ a).dtype == dtype
