"""muP of PixArt-alpha, U-ViT and MMDiT: the published facts, `mup` 1.0.0 as the oracle, and the coordinate check."""

from __future__ import annotations

import math
from collections.abc import Callable
from fnmatch import fnmatchcase

import pytest
import torch
from mup import MuReadout, set_base_shapes
from torch import nn

from families import BATCH, CHANNELS, FAMILIES, FEATURES, inputs, loss, table
from mistakes import MISTAKES, of_family
from mudit.config.presets import PRESETS
from mudit.config.schema import CoordCheckSection, OptimizerSection
from mudit.parametrization.apply import initialise, parametrize
from mudit.parametrization.coordcheck import Slope, Subject, fit_slopes, measure_objective
from mudit.parametrization.table import ParameterTable, table_for
from oracle import assert_trains_as_with_mup

BASE, N, M = 288, 1152, 4.0  # PixArt-alpha-muP and its proxy


# The published PixArt-alpha-muP, measured on its own class: pattern, infinite dims, muP std at 288 and 1152, SP std at both.
PIXART_FACTS = [
    ("x_embedder.proj.weight", 1, 0.0414, 0.0414, 0.0815, 0.0413),
    ("t_embedder.mlp.0.weight", 1, 0.02, 0.02, 0.02, 0.02),
    ("t_embedder.mlp.2.weight", 2, 0.02, 0.01, 0.02, 0.02),
    ("t_block.1.weight", 2, 0.02, 0.01, 0.02, 0.02),
    ("y_embedder.y_proj.fc1.weight", 1, 0.02, 0.02, 0.02, 0.02),
    ("y_embedder.y_proj.fc2.weight", 2, 0.02, 0.01, 0.02, 0.02),
    ("blocks.*.scale_shift_table", 1, 0.02, 0.02, 0.0589, 0.0295),
    ("final_layer.scale_shift_table", 1, 0.02, 0.02, 0.0589, 0.0295),
    ("blocks.*.attn.qkv.weight", 2, 0.0417, 0.0208, 0.0417, 0.0208),
    ("blocks.*.attn.proj.weight", 2, 0.0589, 0.0295, 0.0589, 0.0295),
    ("blocks.*.cross_attn.q_linear.weight", 2, 0.0589, 0.0295, 0.0589, 0.0295),
    ("blocks.*.cross_attn.kv_linear.weight", 2, 0.0481, 0.0241, 0.0481, 0.0241),
    ("blocks.*.cross_attn.proj.weight", 2, 0.0, 0.0, 0.0, 0.0),
    ("blocks.*.mlp.fc?.weight", 2, 0.0373, 0.0186, 0.0373, 0.0186),
    ("final_layer.linear.weight", 1, 0.0, 0.0, 0.0, 0.0),
    ("final_layer.linear.bias", 0, 0.0, 0.0, 0.0, 0.0),
    ("*.bias", 1, 0.0, 0.0, 0.0, 0.0),
    # Trained here, a buffer there: N(0, 1 / 4096) at every width.
    ("y_embedder.y_embedding", 0, 1 / 64, 1 / 64, 1 / 64, 1 / 64),
]


def test_pixart_agrees_with_the_published_code_tensor_by_tensor():
    tables = [table_for(PRESETS["PixArt-0.61B"].model, width, scheme) for scheme in ("mup", "sp") for width in (BASE, N)]
    used = set()
    for rows in zip(*(t.rows for t in tables), strict=True):
        pattern, infinite, *stds = next(fact for fact in PIXART_FACTS if fnmatchcase(rows[0].name, fact[0]))
        used.add(pattern)
        # The facts are measured standard deviations, rounded to four digits; the patch weight's has only 4608 values at 288.
        assert [row.init_std for row in rows] == pytest.approx(stds, rel=0.006), pattern
        at_target = rows[1]
        assert at_target.infinite_dims == infinite, pattern
        matrix = infinite == 2
        readout = at_target.name == "final_layer.linear.weight"
        assert at_target.lr_multiplier == (1 / M if matrix else 1) and at_target.weight_decay_multiplier == (M if matrix else 1)
        assert at_target.forward_multiplier == (1 / M if readout else 1)
        assert (rows[3].lr_multiplier, rows[3].weight_decay_multiplier, rows[3].forward_multiplier) == (1, 1, 1)
    assert used == {fact[0] for fact in PIXART_FACTS}
    # 435 tensors in the published base shapes, 199 with two infinite dimensions; the null caption is ours.
    assert len(tables[0].rows) == 436 and sum(row.infinite_dims == 2 for row in tables[0].rows) == 199


# variant -> parameter -> role
ROLES = {
    "uvit": {
        "patch_embed.proj.weight": "input",
        "label_emb.weight": "input",
        "pos_embed": "vector",
        "in_blocks.0.norm1.weight": "vector",
        "in_blocks.0.attn.qkv.weight": "hidden",
        "out_blocks.0.skip_linear.weight": "hidden",
        "out_blocks.0.skip_linear.bias": "vector",
        "norm.bias": "vector",
        "decoder_pred.weight": "output",
        "decoder_pred.bias": "finite",
        "final_layer.weight": "finite",
    },
    "uvit-text": {"context_embed.weight": "input"},
    "mmdit": {
        "context_embedder.weight": "input",
        "y_embedder.mlp.0.weight": "input",
        "y_embedder.mlp.2.weight": "hidden",
        "joint_blocks.0.context_block.attn.qkv.weight": "hidden",
        "joint_blocks.0.x_block.attn.ln_q.weight": "finite",
        "joint_blocks.1.context_block.adaLN_modulation.1.weight": "hidden",
        "projector.0.weight": "output",
        "projector.0.bias": "finite",
        "projector.2.weight": "finite",
        "final_layer.linear.weight": "output",
    },
    "pixart": {"y_embedder.y_embedding": "finite", "blocks.0.cross_attn.kv_linear.weight": "hidden"},
}


@pytest.mark.parametrize("name", ROLES)
def test_roles_and_multipliers(name):
    rows = {row.name: row for row in table(name, 128, "mup").rows}
    for parameter, role in ROLES[name].items():
        assert rows[parameter].role == role, parameter
    for row in rows.values():
        assert row.forward_multiplier == (0.25 if row.role == "output" else 1.0), row.name
        assert row.lr_multiplier == (0.25 if row.role == "hidden" else 1.0), row.name
        assert row.weight_decay_multiplier == (4.0 if row.role == "hidden" else 1.0), row.name


@pytest.mark.parametrize("scheme", ["mup", "sp", "sp-same-init"])
@pytest.mark.parametrize("name", FAMILIES)
def test_measured_initial_values_are_the_tables(name, scheme):
    rows, model = table(name, 64, scheme), FAMILIES[name](64)
    initialise(model, rows, seed=3)
    for row in rows.rows:
        values = model.get_parameter(row.name)
        if row.init_mean == 1:
            assert (values == 1).all(), row.name
        elif row.init_std == 0:
            assert not values.any(), row.name
        else:
            tolerance = 5 / (2 * values.numel()) ** 0.5  # five standard errors of a standard deviation
            assert values.std().item() == pytest.approx(row.init_std, rel=tolerance), row.name


def test_uvits_published_initialisation():
    rows = table("uvit", 128, "sp")
    assert {rows[f"in_blocks.0.{leaf}.weight"].init_std for leaf in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")} == {0.02}
    assert rows["decoder_pred.weight"].init_std == rows["pos_embed"].init_std == 0.02
    assert rows["label_emb.weight"].init_std == 1.0
    assert rows["patch_embed.proj.weight"].init_std == pytest.approx(1 / math.sqrt(3 * 4))


def _with_mup(name: str, width: int) -> nn.Module:
    """The same architecture as `mup` wants it: its own class for everything that leads from infinite to finite."""
    model = FAMILIES[name](width)
    for path in (model.readout, "projector.0"):
        if path in dict(model.named_modules()):
            old = model.get_submodule(path)
            model.set_submodule(path, MuReadout(old.in_features, old.out_features))
    return model


@pytest.fixture(params=list(FAMILIES))
def pair(request):
    """Our parametrized model and mup's, with the same weights; nothing starts at zero, so that every gradient flows at once."""
    name, width = request.param, 96
    rows = table(name, width, "mup")
    ours = parametrize(FAMILIES[name](width), rows, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in ours.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.1, generator=generator)
    oracle = _with_mup(name, width)
    set_base_shapes(oracle, _with_mup(name, 32), delta=_with_mup(name, 40))
    oracle.load_state_dict(ours.state_dict())
    return name, rows, ours, oracle


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_mups_groups_and_ten_steps(pair, weight_decay):
    name, rows, ours, oracle = pair

    def draw(generator: torch.Generator):
        x, t, condition = inputs(name, generator)
        return x, t, condition, torch.randn(x.shape, generator=generator)

    assert_trains_as_with_mup(ours, oracle, rows, draw, loss, lr=2.0**-8, weight_decay=weight_decay)


CHECK = CoordCheckSection(
    widths=[32, 64, 128, 256, 512], steps=3, seeds=[0, 1], batch_size=BATCH, log2_lr=-8, tolerance=0.25, confidence=0.95, also=[]
)


# PixArt-alpha's published eps is 1e-10. muP does not scale eps, and behind a zero-initialised output projection the gradients of
# its cross-attention's queries are small enough for 1e-8 to show: there their updates shrink with width.
EPS = {"pixart": 1e-10, "uvit": 1e-8, "uvit-text": 1e-8, "mmdit": 1e-8}


def _slopes(
    name: str, scheme: str, check: CoordCheckSection = CHECK, change: Callable[[ParameterTable], ParameterTable] = lambda t: t
) -> list[Slope]:
    """Slopes on synthetic batches, fixed by the seed, with the table as `change` leaves it."""
    optimizer = OptimizerSection(
        betas=(0.9, 0.999), eps=EPS[name], weight_decay=0.0, clip_norm=None, warmup_steps=0, precision="fp32"
    )

    def objective(seed: int):
        generator = torch.Generator().manual_seed(seed)
        x0, t, condition = inputs(name, generator)
        noise = torch.randn(BATCH, CHANNELS, 8, 8, generator=generator)
        share = (t / 1000).view(-1, 1, 1, 1)
        xt = (1 - share) * x0 + share * noise
        target = noise - x0 if name == "mmdit" else noise
        return lambda model: loss(model, xt, t, condition, target)

    subject = Subject(FAMILIES[name], lambda width: change(table(name, width, scheme, base_width=64)))
    measurements = [
        measurement
        for width in check.widths
        for seed in check.seeds
        for measurement in measure_objective(check, optimizer, objective(seed), subject, width, seed)
    ]
    return fit_slopes(measurements, check.tolerance, check.confidence)


@pytest.mark.parametrize("name", FAMILIES)
def test_mup_is_flat(name):
    slopes = _slopes(name, "mup")
    assert [slope for slope in slopes if not slope.flat] == []
    probes = {(slope.probe, slope.name) for slope in slopes}
    expected = {
        "pixart": {("update", "blocks.0.cross_attn.logits"), ("update", "blocks.1.scale_shift_table")},
        "uvit": {("update", "out_blocks.0.skip_linear"), ("update", "pos_embed"), ("size", "mid_block.attn.logits")},
        "uvit-text": {("update", "context_embed")},
        "mmdit": {("update", "joint_blocks.0.logits"), ("update", "projector.0"), ("size", "output.1")},
    }
    assert expected[name] <= probes, expected[name] - probes


@pytest.mark.parametrize("name", FAMILIES)
def test_sp_is_not_flat(name):
    """A quarter of all slopes at least: the failure is no accident of one module."""
    slopes = _slopes(name, "sp")
    assert sum(not slope.flat for slope in slopes) > len(slopes) / 4


@pytest.mark.parametrize("which", of_family("pixart", "uvit", "mmdit"))
def test_a_planted_mistake_is_seen_first_where_and_when_the_table_says(which):
    mistake = MISTAKES[which]
    fewer = CHECK.model_copy(update={"widths": [32, 128, 512]})
    slopes = _slopes(mistake.family, "mup", fewer, mistake.plant)
    seen = [slope for slope in slopes if (slope.probe, slope.name) == (mistake.probe, mistake.place)]
    assert mistake.first_step(slopes) == mistake.step, seen


def test_features_of_the_projector_do_not_shrink_with_width():
    """Its zero first layer and random biases: the same size at init at every width, and never the zero vector."""
    sizes = []
    for width in (32, 256):
        model = parametrize(FAMILIES["mmdit"](width), table("mmdit", width, "mup"), seed=0)
        _, features = model(*inputs("mmdit", torch.Generator().manual_seed(0)), return_features=True)
        assert features.shape[-1] == FEATURES
        sizes.append(features.square().mean().item())
    assert sizes[0] == sizes[1] > 1e-3
