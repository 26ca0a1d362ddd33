"""Tiny judges built from configurations, and the smallest public prompt sets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from support import word_tokenizer

from . import world

COCO_CLASSES = ("bench", "dog", "mouse")
WORDS = "a photo of bench dog computer mouse red green apple"


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP with images of 32 pixels and a common space of 6."""
    from transformers import CLIPConfig, CLIPModel

    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    tower = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**tower, "vocab_size": 16, "max_position_embeddings": 9, "bos_token_id": 0, "eos_token_id": 1}
    config = CLIPConfig(text_config=text, vision_config={**tower, "image_size": 32, "patch_size": 8}, projection_dim=6)
    CLIPModel(config).save_pretrained(folder)
    word_tokenizer(folder, WORDS, limit=9)
    return folder


@pytest.fixture(scope="session")
def detector_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Mask2Former with three classes and a Swin backbone of one block a stage."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

    folder = tmp_path_factory.mktemp("mask2former")
    torch.manual_seed(0)
    backbone = {"model_type": "swin", "image_size": 64, "embed_dim": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1]}
    backbone |= {"window_size": 2, "out_features": ["stage1", "stage2", "stage3", "stage4"]}
    config = Mask2FormerConfig(
        backbone_config=backbone,
        id2label=dict(enumerate(COCO_CLASSES)),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        dim_feedforward=32,
        num_queries=5,
    )
    Mask2FormerForUniversalSegmentation(config).save_pretrained(folder)
    return folder


def write_image(path: Path, number: int, side: int = 24) -> None:
    """A picture of its own for each number."""
    rng = np.random.default_rng(number)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (side, side + 6, 3), dtype=np.uint8)).save(path)


@pytest.fixture(scope="session")
def coco(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Captions and images of 30 images in the format of MS-COCO, two captions each; image 0 has none."""
    root = tmp_path_factory.mktemp("coco")
    images = [{"id": number, "file_name": f"COCO_val2014_{number:012d}.jpg"} for number in range(31)]
    annotations = [
        {"id": 10 * number + which, "image_id": number, "caption": f" a {word} apple {number}\n"}
        for number in range(1, 31)
        for which, word in enumerate(("red", "green"))
    ]
    (root / "captions.json").write_text(json.dumps({"images": images, "annotations": annotations[::-1], "info": {}}))
    for image in images:
        write_image(root / "val2014" / image["file_name"], image["id"])
    return root / "captions.json", root / "val2014"


@pytest.fixture(scope="session")
def experiment(coco, clip_folder, detector_folder, tmp_path_factory: pytest.TempPathFactory):
    """A text experiment with the benchmarks `coco` and `geneval`."""
    root = tmp_path_factory.mktemp("captioned")
    for number in range(40):
        write_image(root / "filled" / f"{number}.png", number, side=16)
        (root / "filled" / f"{number}.txt").write_text(f"a red apple {number}\n")
    questions = root / "evaluation_metadata.jsonl"
    questions.write_text("".join(json.dumps(each) + "\n" for each in world.QUESTIONS))
    return world.experiment(root, world.benchmarks(coco, clip_folder, detector_folder, questions))


@pytest.fixture(scope="session")
def project(experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of artefacts: data, extractor, the prompts of both benchmarks and one run."""
    import mudit.benchmark.prompts_stage
    import mudit.data.stage
    import mudit.evaluate.extractor_stage

    root = tmp_path_factory.mktemp("project")
    mudit.data.stage.run(world.job(experiment, "data", root))
    mudit.evaluate.extractor_stage.run(world.job(experiment, "extractor", root))
    for name in experiment.benchmarks:
        mudit.benchmark.prompts_stage.run(world.job(experiment, f"prompts/{name}", root))
    world.write_target(root / "train" / world.RUN, experiment)
    return root
