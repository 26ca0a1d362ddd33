"""Preparation of a latent store against the plain loop of public code: one image at a time, one .npy file per image.

JPEGs of the size of photographs (500x375, about ImageNet's mean) are cropped to 256 and go through a small AutoencoderKL of random
weights. The store is written by one process per core, as `execution.data` has it. The plain loop is one process, with torch's own
choice of threads, all cores for each image, and with one. They take turns in one run; the start of processes does not count. Also
printed: where the time goes (one thread), and how far the encoder's output depends on the batch and on the number of threads.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mudit.config.data import DataSection
from mudit.data.encoders import AutoencoderKL
from mudit.data.sources import ClassFolders
from mudit.data.writer import StoreWriter
from mudit.jobs.distributed import barrier, joined


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--child", nargs=2, metavar=("FOLDER", "ROUND"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        _rank(Path(arguments.child[0]), arguments.child[1], arguments.batch)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _write_images(folder / "images", arguments.images)
        encoder = AutoencoderKL(_small(folder / "vae"), 0.18215)
        source = ClassFolders(folder / "images", 256)
        print(f"{arguments.images} images, {torch.get_num_threads()} torch threads, batch {arguments.batch}")
        _independence(source, encoder)
        threads = {"plain loop": torch.get_num_threads(), "plain loop, one thread": 1}
        seconds: dict[str, list[float]] = {name: [] for name in (*threads, "store", "reading alone", "encoding alone")}
        for index in range(arguments.rounds):
            for name, count in threads.items():
                torch.set_num_threads(count)
                seconds[name].append(_timed(_plain, source, encoder, folder / f"plain{count}-{index}"))
            seconds["store"].append(_store(folder, index, arguments.batch))
            seconds["reading alone"].append(_timed(_read, source))
            seconds["encoding alone"].append(_timed(_encode, encoder, arguments.images, arguments.batch))
    best = {name: min(values) for name, values in seconds.items()}
    for name, value in best.items():
        print(f"{name}: {value:.2f} s, {arguments.images / value:.0f} images/s")
    for name in threads:
        print(f"{name} / store: {best[name] / best['store']:.2f}x")


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


def _plain(source: ClassFolders, encoder: AutoencoderKL, folder: Path) -> None:
    """Decode, encode both views, write a file: for each image by itself."""
    folder.mkdir()
    for place in range(len(source.names)):
        pixels_1CHW = torch.from_numpy(source.read(place))[None]
        for suffix, view in (("", pixels_1CHW), ("_flip", pixels_1CHW.flip(-1))):
            mean, std = encoder.encode(view)
            assert std is not None
            np.save(folder / f"{place}{suffix}.npy", torch.cat([mean, std], dim=1).numpy())


def _store(folder: Path, index: int, batch: int) -> float:
    """Seconds of the slowest of one process per core, from when all are there."""
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--log-dir={os.devnull}",
        f"--nproc-per-node={os.cpu_count()}",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*launch, __file__, "--batch", str(batch), "--child", str(folder), str(index)]
    subprocess.run(command, check=True, env=environment, stderr=subprocess.DEVNULL)
    return float((folder / f"seconds{index}").read_text(encoding="utf-8"))


def _rank(folder: Path, index: str, batch: int) -> None:
    """One of the processes that write the store."""
    source, encoder = ClassFolders(folder / "images", 256), AutoencoderKL(folder / "vae", 0.18215)
    out = folder / f"store{index}"
    with joined() as world:
        if world.main:
            out.mkdir()
        barrier()
        start = time.perf_counter()
        StoreWriter(_section(folder, len(source.names)), source, encoder, out, folder / f"state{index}", batch=batch).write(_silent)
        barrier()
        if world.main:
            (folder / f"seconds{index}").write_text(str(time.perf_counter() - start), encoding="utf-8")


def _silent(images: int) -> None:
    """Progress goes nowhere."""


def _section(folder: Path, images: int) -> DataSection:
    """Shards enough for every process to have its share."""
    return DataSection.model_validate(
        {
            "source": {"kind": "class-folders", "path": str(folder / "images")},
            "share": 1.0,
            "image_size": 256,
            "encoder": "autoencoder-kl",
            "encoder_path": str(folder / "vae"),
            "encoder_sha256": None,
            "latent_scale": 0.18215,
            "latent_shift": 0.0,
            "moments": "float16",
            "flip": True,
            "captions": None,
            "features": None,
            "shard_images": images // (4 * (os.cpu_count() or 1)),
            "max_corrupt_share": 0.0,
            "validation_images": 0,
            "split_seed": 0,
        }
    )


def _encode(encoder: AutoencoderKL, images: int, batch: int) -> None:
    pixels = torch.zeros(batch, 3, 256, 256)
    for _ in range(2 * images // batch):
        encoder.encode(pixels)


def _independence(source: ClassFolders, encoder: AutoencoderKL) -> None:
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


def _read(source: ClassFolders) -> None:
    for place in range(len(source.names)):
        source.read(place)


def _timed(function: Callable[..., None], *arguments: object) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
