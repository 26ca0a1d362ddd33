"""Models of your own: measured initialisation, derived tables, `mup` 1.0.0 as the oracle, and the coordinate check."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mup import MuReadout, set_base_shapes

from families import BATCH, inputs
from mudit.config.models import ExternalSection
from mudit.config.schema import CoordCheckSection, OptimizerSection
from mudit.errors import ParametrizationError
from mudit.models.external import ModuleFactory
from mudit.models.families import build
from mudit.parametrization import shapes
from mudit.parametrization.apply import attach_multipliers, fold_multipliers, initialise, parametrize
from mudit.parametrization.coordcheck import Recorder, Slope, Subject, fit_slopes, measure_objective
from mudit.parametrization.measured import _Draw, _init, measured_inits
from mudit.parametrization.table import table_for
from oracle import assert_trains_as_with_mup
from own_models import DIT, SD3, section
from support import changed


def _factory(name: str, **options) -> ModuleFactory:
    return ModuleFactory(f"own_models:{name}", "width", 1, options, 0)


def test_every_kind_of_initial_value_is_recognised():
    inits = measured_inits(_factory("Odd"), 64)
    assert inits["gain"].std((64,)) == 0 and inits["gain"].mean == pytest.approx(1e-4)
    assert (inits["silent"].std((64,)), inits["silent"].mean) == (0, 0)
    default = 1 / math.sqrt(3 * 64)  # torch's own for Linear: uniform within 1 / sqrt(fan_in)
    assert inits["linear.weight"].distribution == inits["linear.bias"].distribution == "uniform"
    assert inits["linear.weight"].std(()) == pytest.approx(default, rel=2e-3)
    assert inits["linear.bias"].std(()) == pytest.approx(default, rel=5e-3)
    assert inits["normal.weight"].distribution == inits["shifted"].distribution == "normal"
    assert inits["normal.weight"].std(()) == pytest.approx(0.02, rel=0.03) and inits["normal.weight"].mean == 0
    assert inits["shifted"].std(()) == pytest.approx(0.1, rel=0.1) and inits["shifted"].mean == pytest.approx(1, abs=0.02)
    assert inits["scalar"].std(()) == pytest.approx(1, rel=0.6)  # sixteen numbers
    assert inits["waves"].distribution == "as built" and inits["waves"].std(()) == pytest.approx(0.5**0.5, rel=0.02)
    assert "frozen" not in inits and "noise" not in inits


def test_an_orthogonal_matrix_has_the_scale_of_its_entries():
    init = measured_inits(_factory("orthogonal"), 64)["weight"]
    assert init.distribution == "normal" and init.std(()) == pytest.approx(2 / 8, rel=1e-3)


@settings(max_examples=60, deadline=None)
@given(
    std=st.floats(1e-4, 10),
    shift=st.sampled_from([0, 1, -30]),
    count=st.integers(512, 5000),
    uniform=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_scale_mean_and_distribution_of_random_values(std, shift, count, uniform, seed):
    generator, mean, bound = torch.Generator().manual_seed(seed), shift * std, math.sqrt(3) * std

    def draw() -> torch.Tensor:
        values = torch.empty(count, dtype=torch.float64)
        return values.uniform_(-bound, bound, generator=generator) if uniform else values.normal_(0, std, generator=generator)

    init = _init("it", [_Draw.of(mean + draw()) for _ in range(2)])
    assert init.distribution == ("uniform" if uniform else "normal")
    assert init.std(()) == pytest.approx(std, rel=6 / math.sqrt(4 * count))  # six standard errors of a normal's
    assert init.mean == pytest.approx(mean, abs=6 * std / math.sqrt(2 * count)) and (init.mean == 0) == (shift == 0)


def test_what_no_rule_describes_is_refused():
    with pytest.raises(ParametrizationError, match="gates: its initial values are neither constant, nor uniform, nor normal"):
        measured_inits(_factory("HalfZero"), 32)
    outlier = torch.randn(4096, generator=torch.Generator().manual_seed(0))
    outlier[7] = 1000.0
    with pytest.raises(ParametrizationError, match="x: its initial values are neither"):
        _init("x", [_Draw.of(outlier), _Draw.of(outlier + 0.01)])
    diagonal = section("Diagonal")
    with pytest.raises(ParametrizationError, match=r"mix.weight: a matrix over the width that starts as known numbers"):
        table_for(diagonal, 128, "mup")
    assert table_for(diagonal, 128, "sp")["mix.weight"].init_distribution == "as built"


def test_roles_of_a_users_parameters():
    rows = {row.name: row for row in table_for(section("Odd", zero_readout=False), 256, "mup").rows}
    roles = {
        "linear.weight": "hidden",
        "shifted": "vector",
        "scalar": "finite",
        "waves": "vector",
        "readout.weight": "output",  # a convolution
        "upscale.weight": "output",  # a transposed one, whose fan-in comes first
        "upscale.bias": "finite",
    }
    assert {name: rows[name].role for name in roles} == roles
    assert "frozen" not in rows
    for name in ("readout.weight", "upscale.weight"):
        assert rows[name].forward_multiplier == 0.25 and rows[name].lr_multiplier == 1
        assert rows[name].init_std == measured_inits(_factory("Odd"), 64)[name].std(())


def test_measured_numbers_are_what_is_drawn_and_known_ones_stay():
    model, rows = build(section("Odd"), 128), table_for(section("Odd"), 128, "mup")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    initialise(model, rows, seed=4)
    after = model.state_dict()
    for name in ("waves", "frozen", "noise"):
        assert torch.equal(after[name], before[name]), name
    assert (after["gain"] == torch.tensor(1e-4)).all() and not after["readout.weight"].any()
    assert after["shifted"].mean().item() == pytest.approx(1, abs=0.05)
    assert after["linear.weight"].std().item() == pytest.approx(rows["linear.weight"].init_std, rel=0.03)
    assert not torch.equal(after["linear.weight"], before["linear.weight"])


def test_schemes_scale_the_measured_init():
    """muP from the base width; SP is the factory's own at the width; `sp-same-init` starts as the function that muP starts as."""
    model = section("Odd", zero_readout=False)
    base = {row.name: row.init_std for row in table_for(model, 64, "mup").rows}
    mup, sp, same = (table_for(model, 256, scheme) for scheme in ("mup", "sp", "sp-same-init"))
    assert mup["linear.weight"].init_std == base["linear.weight"] / 2 == same["linear.weight"].init_std
    assert mup["linear.bias"].init_std == base["linear.bias"] == same["linear.bias"].init_std
    assert sp["linear.bias"].init_std == pytest.approx(base["linear.bias"] / 2, rel=0.01), "torch draws it within 1 / sqrt(fan_in)"
    assert sp["normal.weight"].init_std == pytest.approx(0.02, rel=0.02) and mup["normal.weight"].init_std < 0.011
    assert same["readout.weight"].init_std == mup["readout.weight"].init_std * mup["readout.weight"].forward_multiplier
    for row in (*sp.rows, *same.rows):
        assert (row.lr_multiplier, row.weight_decay_multiplier, row.forward_multiplier) == (1, 1, 1), row.name


def test_at_base_width_all_schemes_are_the_factorys_own():
    model = section("Odd", zero_readout=False)
    mup, sp, same = (table_for(model, 64, scheme).rows for scheme in ("mup", "sp", "sp-same-init"))
    assert mup == sp == same


def test_zero_readout_changes_readouts_only_and_not_the_factorys_own():
    plain, zero = section("Odd", zero_readout=False), section("Odd")
    changed = [
        a.name
        for a, b in zip(table_for(plain, 256, "mup").rows, table_for(zero, 256, "mup").rows, strict=True)
        if a != b and b.init_std == 0
    ]
    assert changed == ["readout.weight", "upscale.weight"]
    assert table_for(plain, 256, "sp") == table_for(zero, 256, "sp")


def test_tied_parameters_have_one_row_and_one_role():
    tied = section("Tied", options={"across_roles": False}, zero_readout=False)
    rows = table_for(tied, 128, "mup")
    names = [row.name for row in rows.rows]
    assert "second.weight" not in names and "other_readout.weight" not in names
    model = parametrize(build(tied, 128), rows, 0)
    x = torch.randn(3, 128)
    weight = model.get_parameter("readout.weight")
    for readout in ("readout", "other_readout"):
        layer = model.get_submodule(readout)
        assert torch.allclose(layer(x), torch.nn.functional.linear(x / 2, weight, layer.bias)), readout
    with pytest.raises(
        ParametrizationError, match=r"table.weight and readout.weight are one parameter, but its role is input here"
    ):
        table_for(section("Tied", options={"across_roles": True}), 128, "mup")


def test_names_that_change_with_width_are_refused():
    with pytest.raises(ParametrizationError, match="parameter names change with width"):
        table_for(section("deeper"), 128, "mup")


def test_a_size_that_only_the_target_has_is_refused():
    """Alike at base and delta width, so it counts as finite; no rule says what its change means."""
    with pytest.raises(ParametrizationError, match=r"inner\.weight has shape \(8, 64\) at widths 64 and 72 alike, but \(16, 128\)"):
        table_for(section("Stepped"), 128, "mup")


def test_an_error_in_a_recorded_pass_is_the_one_that_is_seen():
    """What a pass has not reached has left no logits; that must not hide why it stopped."""
    model = build(section("Tiny"), 32)
    with pytest.raises(RuntimeError, match="halfway"), Recorder(model) as recorder:
        raise RuntimeError("halfway")
    assert recorder.outputs == {} and not any(module._forward_hooks for module in model.modules())


def test_a_factory_that_reads_values_is_built_in_memory(monkeypatch):
    said = []
    monkeypatch.setattr(shapes.log, "info", lambda text, *values: said.append(text % values))
    table = table_for(section("ReadsValues"), 128, "mup")
    assert [row.name for row in table.rows] == [row.name for row in table_for(section("Tiny"), 128, "mup").rows]
    assert said
    assert all("is built in memory: on the meta device the factory raised" in line for line in said)


def test_the_measurement_does_not_depend_on_the_number_of_threads():
    """Threads add up parts of a big tensor in another order, so the last digits of its sums differ."""
    generator, threads = torch.Generator().manual_seed(0), torch.get_num_threads()
    values = [torch.randn(49_152, generator=generator) for _ in range(2)]
    measured = set()
    try:
        for count in (1, 2, 3, 4):
            torch.set_num_threads(count)
            measured.add(_init("it", [_Draw.of(value) for value in values]))
    finally:
        torch.set_num_threads(threads)
    assert len(measured) == 1


def test_folded_weights_compute_the_same_in_the_plain_class():
    rows = table_for(DIT, 128, "mup")
    model = parametrize(build(DIT, 128), rows, 0).eval()
    with torch.no_grad():
        model.get_parameter("proj_out_2.weight").normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
        batch = inputs("uvit", torch.Generator().manual_seed(1))
        expected, unfolded = model(*batch), model.state_dict()["proj_out_2.weight"].clone()
        fold_multipliers(model.requires_grad_(False), rows)  # finished weights are frozen
        plain = build(DIT, 128).eval()
        plain.load_state_dict(model.state_dict())
        torch.testing.assert_close(plain(*batch), expected, rtol=1e-6, atol=1e-6)
        plain.get_parameter("proj_out_2.weight").copy_(unfolded)
        assert not torch.allclose(plain(*batch), expected), "without folding the plain class computes something else"
    attach_multipliers(model.requires_grad_(True), rows)  # its hooks are gone, so this is not the second time


def _with_mup(model: ExternalSection, width: int):
    """The same module with mup's own class as its readout."""
    module = build(model, width)
    name = "proj_out_2" if model is DIT else "proj_out"
    old = module.get_submodule(name)
    module.set_submodule(name, MuReadout(old.in_features, old.out_features))
    return module


@pytest.fixture(params=[DIT, SD3], ids=["dit", "sd3"])
def pair(request):
    """Our parametrized model and mup's, with the same weights; nothing starts at zero, so that every gradient flows at once."""
    model, width = request.param, 96
    rows = table_for(model, width, "mup")
    ours = parametrize(build(model, width), rows, seed=0)
    with torch.no_grad():
        for parameter in ours.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    oracle = _with_mup(model, width)
    set_base_shapes(oracle, _with_mup(model, 64), delta=_with_mup(model, 72))
    oracle.load_state_dict(ours.state_dict())
    return model, rows, ours, oracle


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_mups_groups_and_ten_steps(pair, weight_decay):
    model, rows, ours, oracle = pair

    def draw(generator: torch.Generator):
        x, t, condition = inputs("uvit" if model is DIT else "mmdit", generator)
        return x, t, condition, torch.randn(BATCH, 2 if model is DIT else 1, 8, 8, generator=generator)

    assert_trains_as_with_mup(ours, oracle, rows, draw, _squared_error, lr=2.0**-8, weight_decay=weight_decay)


def _squared_error(model, x, t, condition, target):
    return (model(x, t, condition) - target).square().mean()


def test_the_average_is_a_copy_that_computes_the_same(pair):
    model, _, ours, _ = pair
    twin = copy.deepcopy(ours)
    batch = inputs("uvit" if model is DIT else "mmdit", torch.Generator().manual_seed(0))
    assert torch.equal(twin(*batch), ours(*batch))


CHECK = CoordCheckSection(
    widths=[32, 128, 512], steps=3, seeds=[0, 1], batch_size=BATCH, log2_lr=-8, tolerance=0.25, confidence=0.95, also=[]
)
OPTIMIZER = OptimizerSection(betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, clip_norm=None, warmup_steps=0, precision="fp32")


def _slopes(model: ExternalSection, scheme: str, check: CoordCheckSection = CHECK) -> list[Slope]:
    """Slopes on synthetic batches, fixed by the seed."""

    def objective(seed: int):
        generator = torch.Generator().manual_seed(seed)
        x0, t, condition = inputs("uvit" if model.conditioning == "label" else "mmdit", generator)
        noise = torch.randn(x0.shape, generator=generator)
        share = (t / 1000).view(-1, 1, 1, 1)
        xt, target = (1 - share) * x0 + share * noise, noise - x0 if model is SD3 else noise
        return lambda module: (module(xt, t, condition) - target).square().mean()

    subject = Subject(lambda width: build(model, width), lambda width: table_for(model, width, scheme))
    measurements = [
        measurement
        for width in check.widths
        for seed in check.seeds
        for measurement in measure_objective(check, OPTIMIZER, objective(seed), subject, width, seed)
    ]
    return fit_slopes(measurements, check.tolerance, check.confidence)


def _crooked(slopes: list[Slope]) -> set[tuple[str, str]]:
    return {(slope.probe, slope.name) for slope in slopes if not slope.flat}


@pytest.mark.parametrize(
    ("model", "seen"),
    [
        (DIT, {("update", "transformer_blocks.0.attn1.logits"), ("update", "proj_out_2"), ("decay", "proj_out_1.weight")}),
        (SD3, {("update", "transformer_blocks.0.attn.logits"), ("update", "context_embedder"), ("size", "output")}),
        (section("Tiny"), {("update", "blocks.1.logits"), ("update", "positions")}),
    ],
    ids=["dit", "sd3", "tiny"],
)
def test_mup_is_flat_and_sp_is_not(model, seen):
    slopes = _slopes(model, "mup", changed(CHECK, widths=[32, 64, 128, 256, 512]))  # the widths of the gate
    assert _crooked(slopes) == set()
    assert seen <= {(slope.probe, slope.name) for slope in slopes}
    plain = _slopes(model, "sp", changed(CHECK, widths=[32, 64, 128]))
    assert sum(not slope.flat for slope in plain) > len(plain) / 5


@pytest.mark.parametrize("fused", [True, False], ids=["fused attention", "softmax"])
def test_a_head_dim_that_grows_with_width_is_seen_at_the_logits(fused):
    """Logits scaled by 1/sqrt(head_dim), which is right only while head_dim is fixed. No shape betrays it; the logits do."""
    crooked = _crooked(_slopes(section("Tiny", options={"heads": 2, "fused": fused}), "mup"))
    assert crooked >= {("update", "blocks.0.logits")}
    assert {name for _, name in crooked} <= {"blocks.0.logits", "blocks.1.logits"}


def test_a_readout_that_is_no_layer_is_seen_at_the_output():
    """By its shape a bare parameter (4, width) is a table."""
    model = section("Tiny", options={"bare_readout": True})
    assert table_for(model, 128, "mup")["readout"].role == "vector"
    assert ("size", "output") in _crooked(_slopes(model, "mup"))


def test_a_random_readout_fades_at_init():
    """What `zero_readout` is for: at init the output of a random readout falls as the root of the width."""
    slopes = {(slope.probe, slope.name, slope.step): slope for slope in _slopes(section("Tiny", zero_readout=False), "mup")}
    for name in ("readout", "output"):
        assert slopes["size", name, 0].slope == pytest.approx(-0.5, abs=0.15) and not slopes["size", name, 0].flat
        assert slopes["size", name, 3].flat
