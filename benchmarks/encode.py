"""Preparation of a latent store against the plain loop of public code: one image at a time, one .npy file per image.

JPEGs of the size of photographs (500x375, about ImageNet's mean) are cropped to 256 and go through a small AutoencoderKL of random
weights, so that reading weighs as much as it does beside a fast GPU. The two take turns in one run. Also printed: where the time
goes, and how far the encoder's output depends on the batch and on the number of threads.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mudit.config.data import DataSection
from mudit.data.encoders import AutoencoderKL
from mudit.data.sources import ImageFolder
from mudit.data.writer import StoreWriter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _write_images(folder / "images", arguments.images)
        encoder = AutoencoderKL(_small(folder / "vae"), 0.18215)
        source = ImageFolder(folder / "images", 256)
        print(f"{arguments.images} images, {torch.get_num_threads()} torch threads, batch {arguments.batch}")
        _independence(source, encoder)
        seconds: dict[str, list[float]] = {"plain loop": [], "store": [], "reading alone": [], "encoding alone": []}
        for index in range(arguments.rounds):
            seconds["plain loop"].append(_timed(_plain, source, encoder, folder / f"plain{index}"))
            seconds["store"].append(_timed(_store, source, encoder, folder, index, arguments.batch))
            seconds["reading alone"].append(_timed(_read, source))
            seconds["encoding alone"].append(_timed(_encode, encoder, arguments.images, arguments.batch))
    best = {name: min(values) for name, values in seconds.items()}
    for name, value in best.items():
        print(f"{name}: {value:.2f} s, {arguments.images / value:.0f} images/s")
    print(f"plain loop / store: {best['plain loop'] / best['store']:.2f}x")


def _write_images(folder: Path, count: int) -> None:
    (folder / "class").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(folder / "class" / f"{index:05d}.jpg", quality=90)


def _small(folder: Path) -> Path:
    from diffusers import AutoencoderKL as Network

    torch.manual_seed(0)
    widths = (4, 4, 8, 8)
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    Network(latent_channels=4, block_out_channels=widths, norm_num_groups=2, layers_per_block=1, **kinds).save_pretrained(folder)
    return folder


def _plain(source: ImageFolder, encoder: AutoencoderKL, folder: Path) -> None:
    """Decode, encode both views, write a file: for each image by itself."""
    folder.mkdir()
    for place in range(len(source.names)):
        pixels_1CHW = torch.from_numpy(source.read(place))[None]
        for suffix, view in (("", pixels_1CHW), ("_flip", pixels_1CHW.flip(-1))):
            mean, std = encoder.encode(view)
            assert std is not None
            np.save(folder / f"{place}{suffix}.npy", torch.cat([mean, std], dim=1).numpy())


def _store(source: ImageFolder, encoder: AutoencoderKL, folder: Path, index: int, batch: int) -> None:
    data = DataSection.model_validate(
        {
            "source": {"kind": "image-folder", "path": str(folder / "images")},
            "share": 1.0,
            "image_size": 256,
            "encoder": "autoencoder-kl",
            "encoder_path": str(folder / "vae"),
            "encoder_sha256": None,
            "latent_scale": 0.18215,
            "moments": "float16",
            "flip": True,
            "captions": None,
            "features": None,
            "shard_images": 8192,
            "max_corrupt_share": 0.0,
            "validation_images": 0,
            "split_seed": 0,
        }
    )
    out = folder / f"store{index}"
    out.mkdir()
    StoreWriter(data, source, encoder, out, folder / f"state{index}", batch=batch).write(lambda images: None)


def _encode(encoder: AutoencoderKL, images: int, batch: int) -> None:
    pixels = torch.zeros(batch, 3, 256, 256)
    for _ in range(2 * images // batch):
        encoder.encode(pixels)


def _independence(source: ImageFolder, encoder: AutoencoderKL) -> None:
    pixels = torch.from_numpy(np.stack([source.read(place) for place in range(32)]))
    whole, _ = encoder.encode(pixels)
    threads = torch.get_num_threads()
    for size in (1, 8):
        parts = torch.cat([encoder.encode(part)[0] for part in pixels.split(size)])
        print(f"mean in batches of {size} against 32: largest difference {float((parts - whole).abs().max()):.1e}")
    torch.set_num_threads(3 - min(threads, 2))
    other, _ = encoder.encode(pixels)
    difference = float((other - whole).abs().max())
    print(f"mean with {torch.get_num_threads()} threads against {threads}: largest difference {difference:.1e}")
    torch.set_num_threads(threads)


def _read(source: ImageFolder) -> None:
    for place in range(len(source.names)):
        source.read(place)


def _timed(function: Callable[..., None], *arguments: object) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
