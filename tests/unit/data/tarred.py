"""Tiny stand-ins for published tars, in exactly their formats."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

WNIDS = ["n01440764", "n01443537", "n15075141"]


def jpeg(seed: int, size: tuple[int, int] = (40, 30)) -> bytes:
    """A picture of smooth noise, in JPEG."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def imagenet(per_class: int = 4) -> dict[str, dict[str, bytes]]:
    """WordNet id -> file name -> JPEG."""
    return {
        wnid: {f"{wnid}_{17 * image + 3}.JPEG": jpeg(100 * place + image) for image in range(per_class)}
        for place, wnid in enumerate(WNIDS)
    }


def write_tree(folder: Path, images: dict[str, dict[str, bytes]]) -> None:
    for wnid, files in images.items():
        (folder / wnid).mkdir(parents=True)
        for name, content in files.items():
            (folder / wnid / name).write_bytes(content)


def write_class_tars(folder: Path, images: dict[str, dict[str, bytes]]) -> None:
    """Members in another order than that of their names, as in the published ones."""
    folder.mkdir(parents=True)
    for wnid, files in images.items():
        with tarfile.open(folder / f"{wnid}.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
            for name, content in reversed(list(files.items())):
                add(archive, name, content)


def write_tar_of_tars(path: Path, images: dict[str, dict[str, bytes]]) -> None:
    folder = path.with_suffix(".parts")
    write_class_tars(folder, images)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for tar in sorted(folder.iterdir(), reverse=True):
            add(archive, tar.name, tar.read_bytes())


def write_sa1b(folder: Path, tars: dict[str, list[int]]) -> None:
    """`./sa_N.jpg` and `./sa_N.json` for each number of each tar."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, numbers in tars.items():
        with tarfile.open(folder / name, "w", format=tarfile.GNU_FORMAT) as archive:
            for number in numbers:
                add(archive, f"./sa_{number}.jpg", jpeg(number))
                add(archive, f"./sa_{number}.json", json.dumps({"image": {"image_id": number}, "annotations": []}).encode())


def caption(number: int) -> str:
    return f"a red apple number {number}"


def write_caption_tar(path: Path, numbers: list[int]) -> None:
    """The form of SAM-LLaVA-Captions10M: one .txt per image in a compressed tar."""
    with tarfile.open(path, "w:gz") as archive:
        for number in numbers:
            add(archive, f"captions/sa_{number}.txt", caption(number).encode())


def write_caption_lines(path: Path, numbers: list[int]) -> None:
    path.write_text("".join(json.dumps({"image": f"sa_{n}.jpg", "text": caption(n)}) + "\n" for n in numbers))


def write_caption_parquet(path: Path, numbers: list[int]) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"__key__": [f"sa_{n}" for n in numbers], "txt": [caption(n) for n in numbers]})
    pyarrow.parquet.write_table(table, path)
