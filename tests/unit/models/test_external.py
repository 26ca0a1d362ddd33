"""Models of your own: how they are found, what is refused, and that the module stays what it was."""

from __future__ import annotations

import copy
import re
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import own_models
from families import inputs
from mudit.config.models import ExternalSection
from mudit.errors import ConfigError
from mudit.models.external import Adapter, ModuleFactory, build_external
from mudit.models.families import build
from mudit.train.packed import packable
from own_models import DIT, SD3, section
from support import ROOT


def _batch(name: str = "uvit"):
    return inputs(name, torch.Generator().manual_seed(0), batch=4)


def test_names_state_and_output_are_the_modules():
    model = build(section("Tiny"), 32)
    assert isinstance(model, Adapter) and model.name == "Tiny"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = own_models.Tiny(32)
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert dict(model.named_modules()).keys() == dict(plain.named_modules()).keys()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model(*_batch()), plain(*_batch()))
    model.load_state_dict({name: torch.zeros_like(value) for name, value in plain.state_dict().items()})
    assert not model(*_batch()).any()


def test_copies_and_conversions_reach_the_module():
    model = build(section("Tiny"), 32)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.get_parameter("readout.bias").add_(1.0)
    assert torch.allclose(twin(*_batch()), model(*_batch()) + 1.0)
    assert not model.eval().module.training and model.train().module.training
    x, t, y = _batch()
    assert model.double()(x.double(), t.double(), y).dtype == torch.float64
    assert all(parameter.dtype == torch.float64 for parameter in model.module.parameters())


def test_torch_compile_keeps_the_graph_whole():
    model = build(section("Tiny"), 32)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*_batch()), model(*_batch()), rtol=1e-5, atol=1e-6)


def test_what_is_drawn_follows_the_section_and_leaves_torchs_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (build(section("Odd", seed=seed), 32) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    for name in ("frozen", "noise", "linear.weight"):
        values = [model.state_dict()[name] for model in (first, again, other)]
        assert torch.equal(values[0], values[1]) and not torch.equal(values[0], values[2]), name


def test_a_module_from_elsewhere_is_never_packed():
    """It need not accept trials in front of the batch, even if all of its layers could be stacked."""
    assert not packable(Adapter(nn.Sequential(nn.Linear(4, 4)), None, 1))
    assert packable(nn.Sequential(nn.Linear(4, 4)))


def test_a_file_in_the_working_directory_is_found_before_installed_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["somewhere-else"])
    (tmp_path / "mine_alone.py").write_text("from torch import nn\nclass Nets:\n    make = lambda size: nn.Linear(size, 1)\n")
    model = ModuleFactory("mine_alone:Nets.make", "size", 8, {}, 0)(32)
    assert model.in_features == 4


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nowhere_at_all:Model", "model.factory: no module 'nowhere_at_all' in .* or among the installed packages"),
        ("own_models.deep:Model", "model.factory: no module 'own_models.deep' in "),
        ("own_models:Missing", "model.factory: own_models has no 'Missing'"),
        ("own_models:HEAD", "model.factory: own_models:HEAD is a int, which cannot be called"),
        ("own_models:no_module", "model.factory: own_models:no_module returned str, not a torch.nn.Module"),
        ("own_models:Tied", r"model.factory: own_models:Tied\(width=32\) raised TypeError: .*across_roles"),
        ("own_models:with_dropout", "own_models:with_dropout: 1 drops activations at random.*set its dropout to 0"),
        ("own_models:with_statistics", "own_models:with_statistics: 1 keeps statistics of past batches"),
        ("own_models:with_statistics_of_images", "own_models:with_statistics_of_images: 1 keeps statistics of past batches"),
        ("own_models:in_half", r"own_models:in_half: weight is torch.bfloat16; weights are float32 here"),
        ("own_models:with_weight_norm", "own_models:with_weight_norm: 0 computes a weight from others"),
        ("torch.nn:Identity", "no parameter requires a gradient"),
    ],
)
def test_a_factory_that_cannot_be_used_is_one_line(target: str, message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        build_external(section(target), 32)
    assert "\n" not in str(caught.value)


def test_a_module_that_does_not_import_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_import.py").write_text("import not_installed_anywhere\n")
    with pytest.raises(ConfigError, match="importing broken_import raised ModuleNotFoundError: No module named 'not_installed_any"):
        build_external(section("broken_import:Model"), 32)
    (tmp_path / "broken_syntax.py").write_text("def :\n")
    with pytest.raises(ConfigError, match="importing broken_syntax raised SyntaxError"):
        build_external(section("broken_syntax:Model"), 32)


def test_a_width_that_the_argument_cannot_say():
    with pytest.raises(ConfigError, match=r"width 36 is not a positive multiple of model.width_unit 8"):
        ModuleFactory("own_models:Tiny", "width", 8, {}, 0)(36)


def test_random_numbers_in_the_forward_pass_are_refused_at_the_first_call():
    model = build(section("Dropping"), 32)
    with pytest.raises(ConfigError, match=r"the forward pass of Dropping draws random numbers.*switch off dropout"):
        model(*_batch())
    assert model.eval()(*_batch()).shape == (4, 1, 8, 8)


def test_random_numbers_are_refused_after_calls_that_draw_none():
    model = build(section("Dropping"), 32)
    model.eval()(*_batch())
    with pytest.raises(ConfigError, match="draws random numbers"):
        model.train()(*_batch())


@pytest.mark.parametrize("in_place", [True, False])
def test_a_state_that_checkpoints_leave_out_is_refused(monkeypatch: pytest.MonkeyPatch, in_place: bool):
    """Not a cache, which the first call fills."""

    class Counting(own_models.Tiny):
        def __init__(self, width: int, counts: bool) -> None:
            super().__init__(width)
            self.counts = counts
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
            if self.training and (self.counts or not self.seen.any()):
                self.seen = self.seen.add_(1) if in_place else self.seen + 1
            return super().forward(x, t, condition)

    monkeypatch.setattr(own_models, "Counting", Counting, raising=False)
    model = build(section("Counting", options={"counts": True}), 32)
    model.eval()(*_batch())
    model.train()(*_batch())
    with pytest.raises(ConfigError, match="the forward pass of Counting changes its buffer seen, which checkpoints leave out"):
        model(*_batch())
    cached = build(section("Counting", options={"counts": False}), 32)
    for _ in range(4):
        cached(*_batch())


def test_an_output_of_another_shape_is_refused_at_the_first_call():
    model = build(section("Tiny", learned_variance=True), 32)
    with pytest.raises(ConfigError, match=r"Tiny returned \(4, 1, 8, 8\), not a tensor of shape \(4, 2, 8, 8\)"):
        model(*_batch())
    model = build(DIT.model_copy(update={"call": None}), 32)
    with pytest.raises(ConfigError, match="DiTTransformer2DModel returned a Transformer2DModelOutput"):
        model(*_batch())


def test_a_call_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    Path("odd_calls.py").write_text("def swapped(model, t, x, y):\n    return model(x, t, y)\n")
    with pytest.raises(ConfigError, match=r"model: model\.call on Tiny raised \w+: .*; it gets \(x, t, condition\)") as error:
        build(section("Tiny", call="odd_calls:swapped"), 32)(*_batch())
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="model: its own forward raised RuntimeError"):
        build(section("Tiny"), 32)(torch.zeros(4, 3, 8, 8), *_batch()[1:])


@pytest.mark.parametrize("norm", [torch.nn.utils.weight_norm, torch.nn.utils.spectral_norm])
def test_weights_that_a_hook_computes_are_refused(norm, monkeypatch: pytest.MonkeyPatch):
    """As torch did it before parametrizations, and many models still do."""

    def normed(width: int) -> torch.nn.Module:
        model = own_models.Tiny(width)
        norm(model.blocks[0].up)
        return model

    monkeypatch.setattr(own_models, "Tiny_normed", normed, raising=False)
    with pytest.raises(ConfigError, match=r"blocks\.0\.up computes a weight from others, whose roles are unknown"):
        build(section("Tiny_normed"), 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": None}, "give either num_classes, or text_dim and max_tokens"),
        ({"text_dim": 4, "max_tokens": 3}, "give either num_classes, or text_dim and max_tokens"),
        ({"pooled_dim": 4}, "pooled_dim: belongs to captions"),
        ({"width_unit": 3}, "width_unit: 3 does not divide head_dim 8"),
        ({"options": {"width": 3}}, "options: 'width' is model.width_argument"),
        ({"call": "no_colon"}, "call"),
    ],
)
def test_sections_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        section("Tiny", **changes)


def test_the_documented_sections_are_those_of_these_tests():
    """docs/own-model.md shows whole sections; they must be valid, and build."""
    fences = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/own-model.md").read_text(encoding="utf-8"), re.DOTALL)
    sections = [ExternalSection(**yaml.safe_load(fence)["model"]) for fence in fences]
    assert [documented.factory for documented in sections] == [DIT.factory, SD3.factory]
    for documented in sections:
        assert isinstance(build(documented, documented.base_width), Adapter)


@torch.no_grad()
def test_the_adapter_of_diffusers_dit_computes_what_the_class_computes():
    from diffusers import DiTTransformer2DModel

    model = build(DIT, 32)
    assert type(model.module) is DiTTransformer2DModel
    plain = DiTTransformer2DModel(num_attention_heads=4, **DIT.options).eval()
    plain.load_state_dict(model.state_dict())
    x, t, y = _batch()
    expected = plain(x, timestep=t, class_labels=y).sample
    assert torch.equal(model.eval()(x, t, y), expected)
    assert torch.equal(model.train()(x, t, y), expected), "the class drops labels in training mode; its factory switches that off"


@torch.no_grad()
def test_the_adapter_of_diffusers_sd3_computes_what_the_class_computes():
    from diffusers import SD3Transformer2DModel

    model = build(SD3, 32)
    assert type(model.module) is SD3Transformer2DModel
    plain = SD3Transformer2DModel(num_attention_heads=4, caption_projection_dim=32, **SD3.options).eval()
    plain.load_state_dict(model.state_dict())
    x, t, captions = inputs("mmdit", torch.Generator().manual_seed(0), batch=4)
    tokens, pooled = captions.tokens.clone(), captions.pooled.clone()
    for index in range(4):
        tokens[index, int(captions.mask[index].sum()) :] = 0
        if captions.dropped[index]:
            tokens[index], pooled[index] = 0, 0
    expected = plain(x, encoder_hidden_states=tokens, pooled_projections=pooled, timestep=t).sample
    assert torch.equal(model(x, t, captions), expected)
    assert captions.dropped.any() and not captions.mask.all()
