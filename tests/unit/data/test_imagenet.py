"""ImageNet as it is published: tar of tars, class tars and unpacked tree are one data set."""

from __future__ import annotations

import tarfile

import numpy as np
import pytest

from mudit.data.format import StoredFile
from mudit.data.imagenet import ImageNetTars
from mudit.data.reader import LatentStore
from mudit.data.sources import ClassFolders, open_source
from mudit.errors import DataError

from .conftest import section, write_store
from .tarred import WNIDS, add, imagenet, jpeg, write_class_tars, write_tar_of_tars, write_tree


@pytest.fixture
def forms(tmp_path, monkeypatch):
    monkeypatch.setenv("MUDIT_CACHE", str(tmp_path / "cache"))
    write_tree(tmp_path / "tree", imagenet())
    write_class_tars(tmp_path / "tars", imagenet())
    write_tar_of_tars(tmp_path / "ILSVRC2012_img_train.tar", imagenet())
    return {
        "tree": {"kind": "class-folders", "path": str(tmp_path / "tree")},
        "tars": {"kind": "imagenet-tars", "path": str(tmp_path / "tars")},
        "tar of tars": {"kind": "imagenet-tars", "path": str(tmp_path / "ILSVRC2012_img_train.tar")},
    }


def test_three_forms_are_the_same_images(forms):
    tree, tars, nested = (open_source(section(source=source, image_size=16)) for source in forms.values())
    assert isinstance(tree, ClassFolders) and isinstance(nested, ImageNetTars)
    for source in (tars, nested):
        assert list(source.names) == list(tree.names)
        assert (source.class_names, source.labels_n.tolist()) == (WNIDS, tree.labels_n.tolist())
        for place in range(len(tree.names)):
            assert np.array_equal(source.read(place), tree.read(place))


def test_three_forms_give_the_same_shards(forms, tmp_path):
    shards = []
    for number, source in enumerate(forms.values()):
        data = section(source=source, image_size=16, validation_images=3, shard_images=4, share=0.75, moments="float16")
        info = write_store(data, tmp_path / f"store{number}", tmp_path / f"state{number}")
        shards.append(info.splits)
        assert info.splits["train"].count + info.splits["validation"].count == 9
    assert shards[0] == shards[1] == shards[2]
    assert isinstance(shards[0]["train"].shards[0], StoredFile)
    LatentStore.open(tmp_path / "store2").verify()


def test_corrupt_members_are_named(forms, tmp_path):
    images = imagenet()
    images[WNIDS[1]][f"{WNIDS[1]}_3.JPEG"] = b"\xff\xd8 not a picture"
    write_class_tars(tmp_path / "damaged", images)
    source = {"kind": "imagenet-tars", "path": str(tmp_path / "damaged")}
    data = section(source=source, image_size=16, validation_images=3, shard_images=4, max_corrupt_share=0.1)
    info = write_store(data, tmp_path / "store", tmp_path / "state")
    assert (info.corrupt.count, info.corrupt.without_caption, info.corrupt.names) == (1, 0, [f"{WNIDS[1]}/{WNIDS[1]}_3.JPEG"])


def test_bad_paths_are_explained(forms, tmp_path):
    def fails(path, message):
        with pytest.raises(DataError, match=message) as caught:
            ImageNetTars(path, 16)
        assert "\n" not in str(caught.value)

    fails(tmp_path / "absent.tar", "no such file; it must be ILSVRC2012_img_train.tar")
    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty", r"no class tars such as n01440764\.tar")
    with tarfile.open(tmp_path / "none.tar", "w") as archive:
        add(archive, "readme.txt", b"")
    fails(tmp_path / "none.tar", "no images inside")
    with tarfile.open(tmp_path / "flat.tar", "w") as archive:
        add(archive, "a.JPEG", jpeg(0))
    fails(tmp_path / "flat.tar", "flat is no WordNet id")
    content = (tmp_path / "ILSVRC2012_img_train.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(content[: len(content) // 2])
    fails(tmp_path / "cut.tar", r"cut\.tar.*: cut short")
