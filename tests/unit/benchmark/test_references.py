"""Reference images from a folder and from archives are the same, prepared as training images are."""

from __future__ import annotations

import tarfile
import zipfile

import numpy as np
import pytest

from mudit.benchmark.references import open_references
from mudit.data.images import UnreadableImageError, read_image
from mudit.errors import DataError

from .conftest import write_image

NAMES = ["animals/a1.png", "food/b2.png"]


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(NAMES):
        write_image(tmp_path / "images" / name, number)
    return tmp_path / "images"


def archive(folder, kind, names=NAMES):
    path = folder.parent / f"images.{kind}"
    files = [(folder / name, f"mjhq30k_imgs/{name}") for name in names]
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as target:
            for file, name in files:
                target.write(file, name)
    else:
        with tarfile.open(path, "w") as target:
            for file, name in files:
                target.add(file, name)
    return path


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_an_image_is_found_by_its_name_and_cropped_as_in_training(folder, kind, tmp_path, monkeypatch):
    monkeypatch.setenv("MUDIT_CACHE", str(tmp_path / "cache"))
    read = open_references(folder if kind == "folder" else archive(folder, kind), 16, "here")
    for name in NAMES:
        np.testing.assert_array_equal(read(name), read_image(folder / name, 16))
    with pytest.raises(UnreadableImageError):
        read("food/c3.png")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_no_image_is_taken_for_one_of_another_folder(folder, kind, tmp_path, monkeypatch):
    """A tar's folders are not known."""
    monkeypatch.setenv("MUDIT_CACHE", str(tmp_path / "cache"))
    write_image(folder / "food/a1.png", 7)
    read = open_references(archive(folder, kind, [*NAMES, "food/a1.png"]), 16, "here")
    for name in ("animals/a1.png", "food/a1.png") if kind == "zip" else ():
        np.testing.assert_array_equal(read(name), read_image(folder / name, 16))
    for name in ("a1.png", "plants/a1.png") if kind == "zip" else ("a1.png", "animals/a1.png"):
        with pytest.raises(UnreadableImageError, match=r"a1\.png may be any of 2 images of the archive; unpack it"):
            read(name)


def test_what_is_no_archive_is_one_line(tmp_path):
    with pytest.raises(DataError, match=r"benchmarks\.mjhq\.prompts\.images .*nowhere: no such folder or archive"):
        open_references(tmp_path / "nowhere", 16, "benchmarks.mjhq.prompts.images")
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(DataError, match=r"cut\.zip: not a \.zip, or cut short"):
        open_references(tmp_path / "cut.zip", 16, "here")
    (tmp_path / "images.rar").write_bytes(b"")
    with pytest.raises(DataError, match=r"a folder, a \.zip or a plain \.tar"):
        open_references(tmp_path / "images.rar", 16, "here")


def test_a_damaged_member_is_one_unreadable_image(folder):
    path = archive(folder, "zip")
    content = path.read_bytes()
    place = content.index((folder / NAMES[0]).read_bytes()[100:140])
    path.write_bytes(content[:place] + b"junk" + content[place + 4 :])
    read = open_references(path, 16, "here")
    with pytest.raises(UnreadableImageError):
        read(NAMES[0])
    assert read(NAMES[1]).shape == (3, 16, 16)


def _patched(path, member, offset, value):
    """Two bytes of a member's local and central header are replaced."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as opened:
        local = opened.getinfo(member).header_offset
        central = opened.start_dir
    while content[central + 46 : central + 46 + len(member)] != member.encode():
        central += 46 + sum(int.from_bytes(content[central + at : central + at + 2], "little") for at in (28, 30, 32))
    for place in (central + 8 + offset, local + 6 + offset):
        content[place : place + 2] = value.to_bytes(2, "little")
    path.write_bytes(content)


FLAGS, METHOD = 0, 2


def test_an_encrypted_archive_is_one_line(folder):
    path = archive(folder, "zip")
    _patched(path, f"mjhq30k_imgs/{NAMES[1]}", FLAGS, 1)
    with pytest.raises(DataError, match=r"here .*images\.zip: mjhq30k_imgs/food/b2\.png is encrypted; unpack it") as caught:
        open_references(path, 16, "here")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (9, "compression method is not supported"),  # Deflate64, of large archives by Windows
        (zipfile.ZIP_DEFLATED, "invalid"),
        (zipfile.ZIP_BZIP2, "Invalid data stream"),
        (zipfile.ZIP_LZMA, ""),
    ],
)
def test_a_member_that_cannot_be_unpacked_is_one_unreadable_image(folder, method, message):
    path = archive(folder, "zip")
    _patched(path, f"mjhq30k_imgs/{NAMES[0]}", METHOD, method)
    read = open_references(path, 16, "here")
    with pytest.raises(UnreadableImageError, match=rf"mjhq30k_imgs/animals/a1\.png: .*{message}"):
        read(NAMES[0])
    assert read(NAMES[1]).shape == (3, 16, 16)
