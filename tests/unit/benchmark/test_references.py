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


def archive(folder, kind):
    path = folder.parent / f"images.{kind}"
    files = [(folder / name, f"mjhq30k_imgs/{name}") for name in NAMES]
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


def test_what_is_no_archive_is_one_line(tmp_path):
    with pytest.raises(DataError, match=r"benchmarks\.mjhq\.prompts\.images .*nowhere: no such folder or archive"):
        open_references(tmp_path / "nowhere", 16, "benchmarks.mjhq.prompts.images")
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(DataError, match=r"cut\.zip: not a \.zip, or cut short"):
        open_references(tmp_path / "cut.zip", 16, "here")
    (tmp_path / "images.rar").write_bytes(b"")
    with pytest.raises(DataError, match=r"a folder, a \.zip or a plain \.tar"):
        open_references(tmp_path / "images.rar", 16, "here")


def test_an_encrypted_member_is_one_unreadable_image(folder):
    path = archive(folder, "zip")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag in the directory's first entry
    content[content.index(b"PK\x03\x04") + 6] |= 1
    path.write_bytes(content)
    read = open_references(path, 16, "here")
    with pytest.raises(UnreadableImageError, match="encrypted"):
        read(NAMES[0])
    assert read(NAMES[1]).shape == (3, 16, 16)


def test_a_damaged_member_is_one_unreadable_image(folder):
    path = archive(folder, "zip")
    content = path.read_bytes()
    place = content.index((folder / NAMES[0]).read_bytes()[100:140])
    path.write_bytes(content[:place] + b"junk" + content[place + 4 :])
    read = open_references(path, 16, "here")
    with pytest.raises(UnreadableImageError):
        read(NAMES[0])
    assert read(NAMES[1]).shape == (3, 16, 16)
