"""The study `paper` in miniature: data in the published formats, an autoencoder of random weights (tests/smoke-cluster)."""

from __future__ import annotations

from pathlib import Path

from unit.data import tarred

CONFIG = Path(__file__).parents[1] / "smoke-cluster/config.yaml"
_SA1B = {f"sa_{tar:06d}.tar": list(range(40 * tar + 1, 40 * tar + 41)) for tar in range(3)}


def write(folder: Path) -> None:
    """`data/` and `models/` as the configuration names them: 240 images of ImageNet, 120 of SA-1B with captions."""
    import torch
    from diffusers import AutoencoderKL

    (folder / "data").mkdir(parents=True)
    tarred.write_tar_of_tars(folder / "data/ILSVRC2012_img_train.tar", tarred.imagenet(per_class=80))
    tarred.write_sa1b(folder / "data/sa-1b", _SA1B)
    tarred.write_caption_tar(folder / "data/captions.tar.gz", [number for numbers in _SA1B.values() for number in numbers])
    torch.manual_seed(0)
    AutoencoderKL(
        in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8), latent_channels=4, norm_num_groups=4, sample_size=16,
    ).save_pretrained(folder / "models/vae")  # fmt: skip
