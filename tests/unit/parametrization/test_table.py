"""The derived table against the facts of the published code: DiT-muP (width 1152 on base 288) and plain DiT, tensor by tensor."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase

import pytest

from mudit.errors import ParametrizationError
from mudit.models.families import build
from mudit.parametrization.table import derive_table, table_for

N, M, ETA = 1152, 4.0, 1.0

# pattern, shape at n = 1152, infinite dims, init std, lr multiplier, weight decay multiplier, forward multiplier
MUP_FACTS = [
    ("x_embedder.proj.weight", (N, 4, 2, 2), 1, 0.25, ETA, 1, 1),
    ("t_embedder.mlp.0.weight", (N, 256), 1, 0.0625, ETA, 1, 1),
    ("t_embedder.mlp.2.weight", (N, N), 2, 1 / math.sqrt(N), ETA / M, M, 1),
    ("y_embedder.embedding_table.weight", (1001, N), 1, 1.0, ETA, 1, 1),
    ("blocks.*.attn.qkv.weight", (3 * N, N), 2, 1 / math.sqrt(N), ETA / M, M, 1),
    ("blocks.*.attn.proj.weight", (N, N), 2, 1 / math.sqrt(N), ETA / M, M, 1),
    ("blocks.*.mlp.fc1.weight", (4 * N, N), 2, 1 / math.sqrt(N), ETA / M, M, 1),
    ("blocks.*.mlp.fc2.weight", (N, 4 * N), 2, 1 / math.sqrt(4 * N), ETA / M, M, 1),
    ("blocks.*.adaLN_modulation.1.weight", (6 * N, N), 2, 1 / math.sqrt(N), ETA / M, M, 1),
    ("final_layer.adaLN_modulation.1.weight", (2 * N, N), 2, 1 / math.sqrt(N), ETA / M, M, 1),
    ("final_layer.linear.weight", (32, N), 1, 0.0, ETA, 1, 1 / M),
    ("final_layer.linear.bias", (32,), 0, 0.0, ETA, 1, 1),
    ("*.bias", None, 1, 0.0, ETA, 1, 1),
]

# plain DiT at n = 1152: init std (xavier: sqrt(2 / (fan_in + fan_out)); the patch weight is flattened to (n, 16))
SP_FACTS = [
    ("x_embedder.proj.weight", math.sqrt(2 / (16 + N))),
    ("t_embedder.mlp.*.weight", 0.02),
    ("y_embedder.embedding_table.weight", 0.02),
    ("blocks.*.attn.qkv.weight", math.sqrt(2 / (4 * N))),
    ("blocks.*.attn.proj.weight", math.sqrt(2 / (2 * N))),
    ("blocks.*.mlp.fc?.weight", math.sqrt(2 / (5 * N))),
    ("*adaLN_modulation.1.weight", 0.0),
    ("final_layer.linear.weight", 0.0),
    ("*.bias", 0.0),
]


def test_mup_table_agrees_with_the_published_code_tensor_by_tensor(imagenet_model):
    table = table_for(imagenet_model, N, "mup")
    used = set()
    for row in table.rows:
        fact = next(fact for fact in MUP_FACTS if fnmatchcase(row.name, fact[0]))
        used.add(fact[0])
        _, shape, infinite, std, lr, decay, forward = fact
        assert shape is None or row.shape == shape, row.name
        assert row.infinite_dims == infinite, row.name
        assert row.init_std == pytest.approx(std, rel=1e-12), row.name
        assert (row.lr_multiplier, row.weight_decay_multiplier, row.forward_multiplier) == (lr, decay, forward), row.name
    assert used == {fact[0] for fact in MUP_FACTS}
    # 292 names in the published base shapes, of which the fixed position embedding is not trained.
    assert len(table.rows) == 291


def test_sp_table_agrees_with_plain_dit(imagenet_model):
    table = table_for(imagenet_model, N, "sp")
    for row in table.rows:
        std = next(std for pattern, std in SP_FACTS if fnmatchcase(row.name, pattern))
        assert row.init_std == pytest.approx(std, rel=1e-12), row.name
        assert (row.lr_multiplier, row.weight_decay_multiplier, row.forward_multiplier) == (1, 1, 1), row.name


@pytest.mark.parametrize(("width", "millions"), [(144, 10.76), (288, 42.55), (576, 169.21), (1152, 674.83)])
def test_parameter_counts(imagenet_model, width, millions):
    assert round(table_for(imagenet_model, width, "mup").total / 1e6, 2) == millions


def test_at_base_width_mup_is_the_plain_model_with_the_same_init(imagenet_model):
    mup, same_init = (table_for(imagenet_model, 288, scheme) for scheme in ("mup", "sp-same-init"))
    for a, b in zip(mup.rows, same_init.rows, strict=True):
        assert a == b


def test_output_multiplier_scales_the_readout_only(imagenet_model):
    doubled = table_for(imagenet_model.model_copy(update={"output_mult": 2.0}), N, "mup")
    plain = table_for(imagenet_model, N, "mup")
    changed = [a.name for a, b in zip(doubled.rows, plain.rows, strict=True) if a != b]
    assert changed == ["final_layer.linear.weight"]
    assert doubled["final_layer.linear.weight"].forward_multiplier == 2.0 / M


def test_errors_are_one_clear_line(small_model):
    with pytest.raises(ParametrizationError, match="scheme 'mu' is not one of"):
        table_for(small_model, 64, "mu")
    with pytest.raises(ParametrizationError, match="no initialisation recipe"):
        derive_table(lambda w: build(small_model, w), family="gan", scheme="mup", width=64, base_width=32, delta_width=40)


def test_a_family_whose_names_change_with_width_is_refused(small_model):
    def deeper(width: int):
        return build(small_model.model_copy(update={"depth": width // 16}), width)

    with pytest.raises(ParametrizationError, match="parameter names change with width"):
        derive_table(deeper, family="dit", scheme="mup", width=64, base_width=32, delta_width=48)


def test_digest_tells_tables_apart(small_model):
    table = table_for(small_model, 64, "mup")
    assert table.digest == table_for(small_model, 64, "mup").digest
    assert table.digest != table.with_row("blocks.0.mlp.fc1.weight", lr_multiplier=1.0).digest
