"""The plan counts public benchmarks, and finds what they lack before any job starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mudit.config.load import load
from mudit.config.schema import Config
from mudit.errors import DataError
from mudit.models.flops import inference_flops
from mudit.plan import benchmarks, encoders
from mudit.plan.budget import _fewer_images
from mudit.plan.dataset import facts
from mudit.plan.estimate import jobs
from mudit.plan.preflight import _check_benchmarks
from support import ROOT

PIXART = "pixart-sa1b"


@pytest.fixture(scope="module")
def config() -> Config:
    return load(ROOT / "config.yaml")


@pytest.fixture(autouse=True)
def nothing_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_benchmark_is_its_images_drawn_decoded_and_judged(config):
    experiment, plans = config.experiments[PIXART], jobs(config, PIXART)
    drawn = {
        name: inference_flops(experiment.model, 1152, images * 20 * 2) for name, images in (("coco", 30_000), ("geneval", 2212))
    }
    decoded = 2 * encoders.vae_decode(256, 4)
    coco = 30_000 * (decoded + 2 * (encoders.INCEPTION + encoders.clip_vision()))
    assert plans[f"{PIXART}/benchmark/mup_s0_coco"].flops == pytest.approx(drawn["coco"] + coco)
    geneval = 2212 * (decoded + 2 * (encoders.MASK2FORMER + encoders.clip_vision()))
    assert plans[f"{PIXART}/benchmark/sp-published_s0_geneval"].flops == pytest.approx(drawn["geneval"] + geneval)
    one = plans[f"{PIXART}/benchmark/mup_s0_coco"]
    assert (one.processors, one.result_bytes) == (8, 3 * 30_000 * 256**2)
    text = plans[f"{PIXART}/prompts/mjhq"]
    assert text.processors == 1 and text.result_bytes > 30_000 * 120 * 4096 * 2 and text.files > 30


def test_every_snapshot_is_drawn_and_judged_like_the_last_weights(config):
    experiment = config.experiments[PIXART]
    data = facts(PIXART, experiment)
    for name in experiment.benchmarks:
        one, three = (benchmarks.benchmark(experiment, name, data, sets) for sets in (1, 3))
        assert three.work.flops == pytest.approx(3 * one.work.flops)
        assert (three.bytes, three.files) == (3 * one.bytes, 3 * one.files)
    snapshots = experiment.train.model_copy(update={"snapshots": [10, 20]})
    more = experiment.model_copy(update={"train": snapshots})
    other = config.model_copy(update={"experiments": {**config.experiments, PIXART: more}})
    name = f"{PIXART}/benchmark/mup_s0_geneval"
    assert jobs(other, PIXART)[name].flops == pytest.approx(3 * jobs(config, PIXART)[name].flops)


def test_clip_counts_as_vit_l_14():
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    shape = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 14}
    with torch.device("meta"):
        network = CLIPVisionModelWithProjection(CLIPVisionConfig(**shape, projection_dim=768)).eval()
    with torch.device("meta"), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 224, 224))
    assert encoders.clip_vision() == counter.get_total_flops() // 2


def test_every_path_is_looked_for_unless_all_is_done(config):
    experiment = config.experiments[PIXART]
    for name, keys in (("coco", "prompts.captions|prompts.images|clip"), ("geneval", r"prompts|detector\.path|clip")):
        only = experiment.model_copy(update={"benchmarks": {name: experiment.benchmarks[name]}})
        missing = [path for _, path in benchmarks.paths(experiment.benchmarks[name]) if not Path(path).exists()]
        assert len(missing) == (3 if name == "coco" else 2), "CLIP is there by then"
        while missing:
            with pytest.raises(
                DataError, match=rf"experiments\.{PIXART}\.benchmarks\.{name}\.({keys}): \S+: no such file"
            ) as error:
                _check_benchmarks(PIXART, only, set())
            path = next(path for path in missing if f": {path}: " in str(error.value))
            missing.remove(path)
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).touch()
        _check_benchmarks(PIXART, only, set())
    mjhq = experiment.model_copy(update={"benchmarks": {"mjhq": experiment.benchmarks["mjhq"]}})
    done = set()
    for name in ("prompts/mjhq", "benchmark/mup_s0_mjhq", "benchmark/sp-published_s0_mjhq"):
        with pytest.raises(DataError):
            _check_benchmarks(PIXART, mjhq, done)
        done.add(f"{PIXART}/{name}")
    _check_benchmarks(PIXART, mjhq, done)


def test_a_small_budget_takes_fewer_images(config):
    raw = config.experiments[PIXART].model_dump(mode="json")
    _fewer_images(raw)
    assert raw["benchmarks"]["coco"] | {"protocol": "any", "images": 5000} == raw["benchmarks"]["coco"]
    assert (raw["benchmarks"]["geneval"]["images_per_prompt"], raw["benchmarks"]["geneval"]["protocol"]) == (1, "any")
