"""Reading a latent store of ImageNet's length against what training needs, and memory at the length of ImageNet and SA-1B.

The store is of 1,281,167 images of 4x32x32 in float16, mean and std. Its shards are **sparse files**: zeros that take no disk, but
pages of the cache like any other when they are read. Rates are of a part that fits the page cache and has been read before, on one
thread. DiT-XL/2 on 8 A100s needs about 1,600 images a second.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from mudit.data.format import Shard, Split, StoreInfo, write_info
from mudit.data.names import PackedNames
from mudit.data.reader import LatentSplit, LatentStore
from mudit.data.tars import TarIndex

IMAGES, SHARD = 1_281_167, 8192
NEED = 1600
LATENT = (4, 32, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--warm-images", type=int, default=65_536, help="images of the part that is read from the page cache")
    parser.add_argument("--epoch-images", type=int, default=IMAGES, help="images of the epoch whose memory is watched")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        split = _open(Path(scratch))
        _rate(split, arguments.warm_images)
        _epoch(split, arguments.epoch_images)
    _index()


def _open(folder: Path) -> LatentSplit:
    """Writes headers and lengths of all shards, and no contents."""
    shards = []
    for number, start in enumerate(range(0, IMAGES, SHARD)):
        count = min(SHARD, IMAGES - start)
        size = count * int(np.prod(LATENT)) * 2
        header = {
            "mean": {"dtype": "F16", "shape": [count, *LATENT], "data_offsets": [0, size]},
            "std": {"dtype": "F16", "shape": [count, *LATENT], "data_offsets": [size, 2 * size]},
            "labels": {"dtype": "I64", "shape": [count], "data_offsets": [2 * size, 2 * size + 8 * count]},
        }
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        path = folder / f"train-{number:05d}.safetensors"
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + 2 * size + 8 * count)
        shards.append(Shard(file=path.name, bytes=path.stat().st_size, sha256="0" * 64, count=count, captions=None))
    info = {
        "format": "mudit-latents",
        "version": 4,
        "source": {"name": "sparse"},
        "encoder": {"name": "sparse"},
        "latent_shape": LATENT,
        "latent_scale": 0.18215,
        "latent_shift": 0.0,
        "moments": "float16",
        "has_std": True,
        "flip": False,
        "num_classes": 1000,
        "class_names": [str(number) for number in range(1000)],
        "text": None,
        "features": None,
        "splits": {"train": Split(count=IMAGES, shards=shards), "validation": Split(count=0, shards=[])},
        "corrupt": {"count": 0, "without_caption": 0, "names": [], "file": None, "unused_captions": 0},
    }
    write_info(folder, StoreInfo.model_validate(info))
    return LatentStore.open(folder).split("train")


def _rate(split: LatentSplit, images: int, batch: int = 256) -> None:
    order = np.random.default_rng(0).permutation(IMAGES)[:images]  # from every shard
    batches = [torch.from_numpy(order[start : start + batch]) for start in range(0, images - batch + 1, batch)]
    noise = torch.randn(batch, *LATENT)
    rates = []
    for _ in range(4):  # the first round fills the page cache
        start = time.process_time()  # of this one thread: a busy machine takes turns away and must not count
        for indices in batches:
            split.latents(indices, noise)
        rates.append(len(batches) * batch / (time.process_time() - start))
    best = max(rates[1:])
    print(f"random batches of {batch} of {images} images: {best:,.0f} images per core second, {best / NEED:.1f} times {NEED:,}")


def _epoch(split: LatentSplit, images: int, batch: int = 256) -> None:
    order = np.random.default_rng(1).permutation(IMAGES)[:images]
    marks = []
    for place, start in enumerate(range(0, images, batch)):
        split.latents(torch.from_numpy(order[start : start + batch]))
        if place in (40, images // batch // 2, images // batch - 1):
            marks.append(_anonymous())
    print("memory of its own after 40 batches, half and all of the epoch: " + ", ".join(f"{mark / 1e6:.0f} MB" for mark in marks))


def _index(images: int = 11_185_362) -> None:
    """SA-1B's number of images in 1,000 tars."""
    before, start = _anonymous(), time.perf_counter()
    numbers = np.arange(images)
    index = TarIndex(
        [Path(f"sa_{number:06d}.tar") for number in range(1000)],
        (numbers % 1000).astype(np.uint16),
        numbers * 1_000_000,
        np.full(images, 1_000_000),
        PackedNames.of(f"sa_{tar:06d}/sa_{number}.jpg" for number, tar in zip(range(images), np.repeat(0, images), strict=True)),
    )
    assert index.names[images - 1] == f"sa_000000/sa_{images - 1}.jpg"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    held = (_anonymous() - before) / 1e6
    print(
        f"index of {images:,} images: {held:,.0f} MB held, process peak {peak / 1e6:,.0f} MB, {time.perf_counter() - start:.0f} s"
    )


def _anonymous() -> int:
    """Bytes of memory that are the process's own, without mapped files."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))


if __name__ == "__main__":
    main()
