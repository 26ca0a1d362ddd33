"""Reading a latent store of ImageNet's length against what training needs, and memory at the length of ImageNet and SA-1B.

The store is of 1,281,167 images of 4x32x32 in float16, mean and std. Its shards are **sparse files**: zeros that take no disk, but
pages of the cache like any other when they are read. Rates are of a part that fits the page cache and has been read before, on one
thread. DiT-XL/2 on 8 A100s needs about 1,600 images a second.

Captions are a second store, of token features as wide as T5-XXL's. Beside the time of a caption stands that of what cannot be
saved: turning as many stored numbers into float32.
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
    with tempfile.TemporaryDirectory() as scratch:
        _captions(Path(scratch))
    _index()


def _open(folder: Path) -> LatentSplit:
    """Writes headers and lengths of all shards, and no contents."""
    shards = []
    for number, start in enumerate(range(0, IMAGES, SHARD)):
        count = min(SHARD, IMAGES - start)
        moments = {name: ("F16", 2, [count, *LATENT]) for name in ("mean", "std")}
        path = folder / f"train-{number:05d}.safetensors"
        _write(path, {**moments, "labels": ("I64", 8, [count])})
        shards.append(Shard(file=path.name, bytes=path.stat().st_size, sha256="0" * 64, count=count, captions=None))
    return _split(folder, shards, None)


def _write(path: Path, tensors: dict[str, tuple[str, int, list[int]]], contents: dict[str, bytes] | None = None) -> None:
    """A safetensors file of `tensors` (name -> type, its bytes, shape), zeros on no disk but for `contents`, which come first."""
    header, end = {}, 0
    order = sorted(tensors, key=lambda name: name not in (contents or {}))
    for name in order:
        kind, size, shape = tensors[name]
        start, end = end, end + size * int(np.prod(shape))
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(
            len(text).to_bytes(8, "little") + text + b"".join((contents or {})[name] for name in order if name in (contents or {}))
        )
        file.truncate(8 + len(text) + end)


def _split(folder: Path, shards: list[Shard], text: dict[str, object] | None) -> LatentSplit:
    count = sum(shard.count for shard in shards)
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
        "text": text,
        "features": None,
        "splits": {"train": Split(count=count, shards=shards), "validation": Split(count=0, shards=[])},
        "corrupt": {
            "count": 0,
            "without_caption": 0,
            "names": [],
            "file": None,
            "unused_captions": 0,
            "unlisted_images": 0,
        },
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


def _captions(folder: Path, count: int = 2048, batch: int = 64, width: int = 4096, longest: int = 120) -> None:
    """Captions of 20 to 120 tokens, gathered at random."""
    lengths = np.random.default_rng(2).integers(20, longest + 1, count)
    ends = np.cumsum(lengths)
    path = folder / "train-00000.safetensors"
    tensors = {name: ("F16", 2, [count, *LATENT]) for name in ("mean", "std")}
    tensors |= {"labels": ("I64", 8, [count]), "pooled": ("F32", 4, [count, 8])}
    tensors |= {"tokens": ("F16", 2, [int(ends[-1]), width]), "token_ends": ("I64", 8, [count])}
    _write(path, tensors, {"token_ends": ends.astype(np.int64).tobytes()})
    names = folder / "train-00000.captions.json"
    names.write_text(json.dumps(["x"] * count), encoding="utf-8")
    file = {"file": names.name, "bytes": names.stat().st_size, "sha256": "0" * 64}
    shard = Shard.model_validate(
        {"file": path.name, "bytes": path.stat().st_size, "sha256": "0" * 64, "count": count, "captions": file}
    )
    encoder = {"name": "sparse"}
    text = {"token_dim": width, "pooled_dim": 8, "max_tokens": longest, "encoders": {"tokens": encoder, "pooled": encoder}}
    text |= {"storage": "float16", "relative_error": 0.0, "cut": 0, "section": None, "subjects": None}
    split = _split(folder, [shard], text)
    dropped, times, limits = torch.zeros(batch, dtype=torch.bool), [], []
    for _ in range(4):  # the first round fills the page cache
        took = limit = 0.0
        for start in range(0, count, batch):
            indices = torch.from_numpy(np.random.default_rng(start).permutation(count)[:batch])
            begin = time.process_time()
            condition = split.text(indices, dropped)
            took += time.process_time() - begin
            stored = torch.zeros(int(condition.mask.sum()), width, dtype=torch.float16)
            begin = time.process_time()
            stored.float()
            limit += time.process_time() - begin
        times.append(took / count)
        limits.append(limit / count)
    best, least = 1e3 * min(times[1:]), 1e3 * min(limits[1:])
    what = f"captions of {lengths.mean():.0f} tokens on average, {width} features each"
    print(f"{what}: {best:.2f} ms a caption on a core, {best / least:.1f} times {least:.2f}")


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
