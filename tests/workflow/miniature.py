"""The study `paper` in miniature: data in the published formats, models of random weights (tests/smoke-cluster)."""

from __future__ import annotations

import json
from pathlib import Path

from support import word_tokenizer
from unit.data import tarred

CONFIG = Path(__file__).parents[1] / "smoke-cluster/config.yaml"
_SA1B = {f"sa_{tar:06d}.tar": list(range(40 * tar + 1, 40 * tar + 41)) for tar in range(3)}
_COCO, _CAPTIONED = range(1, 21), range(200, 260)


def write(folder: Path) -> None:
    """`data/` and `models/` as the configuration names them: 240 images of ImageNet, 120 of SA-1B, 60 in Parquet, 20 of COCO."""
    (folder / "data").mkdir(parents=True)
    tarred.write_tar_of_tars(folder / "data/ILSVRC2012_img_train.tar", tarred.imagenet(per_class=80))
    tarred.write_sa1b(folder / "data/sa-1b", _SA1B)
    tarred.write_caption_tar(folder / "data/captions.tar.gz", [number for numbers in _SA1B.values() for number in numbers])
    _write_parquet(folder / "data/captioned")
    _write_coco(folder / "data/coco")
    _write_models(folder / "models")


def _write_parquet(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    columns = {"image": [tarred.jpeg(number) for number in _CAPTIONED], "text": [tarred.caption(number) for number in _CAPTIONED]}
    pq.write_table(pa.table(columns), folder / "train.parquet")


def _write_coco(folder: Path) -> None:
    images = [{"id": number, "file_name": f"COCO_val2014_{number:012d}.jpg"} for number in _COCO]
    captions = [{"id": number, "image_id": number, "caption": tarred.caption(number)} for number in _COCO]
    (folder / "val2014").mkdir(parents=True)
    (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": captions}))
    for image in images:
        (folder / "val2014" / str(image["file_name"])).write_bytes(tarred.jpeg(int(image["id"])))


def _write_models(folder: Path) -> None:
    import torch
    from diffusers import AutoencoderKL
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    AutoencoderKL(
        in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8), latent_channels=4, norm_num_groups=4, sample_size=16,
    ).save_pretrained(folder / "vae")  # fmt: skip
    tower = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**tower, "vocab_size": 16, "max_position_embeddings": 9, "bos_token_id": 0, "eos_token_id": 1}
    vision = {**tower, "image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=6)).save_pretrained(folder / "clip")
    word_tokenizer(folder / "clip", "a red apple number", limit=9)
