"""SA-1B tars with captions in three public forms; what has no counterpart is counted and named."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import torch

from mudit.config.data import SA1BSource
from mudit.data.caption_table import CaptionTable, number_of
from mudit.data.reader import LatentStore
from mudit.data.sa1b import SA1B
from mudit.data.subset import Subset
from mudit.errors import ConfigError, DataError

from .conftest import CAPTIONS, section, write_store
from .tarred import caption, write_caption_lines, write_caption_parquet, write_caption_tar, write_sa1b

TARS = {"sa_000000.tar": [1, 12, 3], "sa_000001.tar": [40, 5, 6, 70]}
NUMBERS = [1, 3, 5, 6, 12, 40, 70]
FORMS = {
    "tar": (write_caption_tar, "c.tar.gz", "__key__", "txt"),
    "parquet": (write_caption_parquet, "c.parquet", "__key__", "txt"),
    "lines": (write_caption_lines, "c.jsonl", "image", "text"),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MUDIT_CACHE", str(tmp_path / "cache"))
    write_sa1b(tmp_path / "sa1b", TARS)


def source(tmp_path, form="tar", numbers=NUMBERS, **changes):
    write, name, key, text = FORMS[form]
    write(tmp_path / name, numbers)
    fields = {"path": str(tmp_path / "sa1b"), "captions": str(tmp_path / name), "id_column": key, "caption_column": text}
    return SA1BSource.model_validate({"kind": "sa-1b", **fields} | changes)


@pytest.mark.parametrize("form", FORMS)
def test_images_are_joined_with_captions_of_any_form(tmp_path, form):
    images = SA1B(source(tmp_path, form, [70, *NUMBERS[:-1]]), 16)
    assert list(images.names) == [f"sa_{number}" for number in NUMBERS]
    assert [images.caption(place) for place in range(7)] == [caption(number) for number in NUMBERS]
    assert (images.read(0).shape, images.unused_captions, images.has_captions) == ((3, 16, 16), 0, True)
    assert images.names[2:4] == ["sa_5", "sa_6"]


def test_the_partition_into_tars_does_not_matter(tmp_path):
    write_sa1b(tmp_path / "other", {"sa_000007.tar": NUMBERS})
    one, other = SA1B(source(tmp_path), 16), SA1B(source(tmp_path, path=str(tmp_path / "other")), 16)
    assert list(one.names) == list(other.names)
    assert all(np.array_equal(one.read(place), other.read(place)) for place in range(7))


def test_what_has_no_counterpart_is_counted_and_named(tmp_path):
    captions = CAPTIONS | {"max_tokens": 6}  # [CLS] a red apple number N [SEP] is seven
    data = section(
        source=source(tmp_path, numbers=[1, 3, 5, 6, 40, 70, 99, 98, 1]).model_dump(),
        image_size=16,
        captions=captions,
        validation_images=2,
        shard_images=3,
        max_corrupt_share=0.2,
    )
    info = write_store(data, tmp_path / "store", tmp_path / "state")
    assert (info.corrupt.count, info.corrupt.without_caption, info.corrupt.names) == (1, 1, ["sa_12"])
    assert info.corrupt.unused_captions == 3, "98, 99, and 1 for the second time"
    assert info.text.cut == 6
    with pytest.raises(DataError, match=r"1 of 7 images have no caption: sa_12; .* raise data.max_corrupt_share from 0.1"):
        write_store(data.model_copy(update={"max_corrupt_share": 0.1}), tmp_path / "strict", tmp_path / "untouched")
    assert not (tmp_path / "untouched").exists(), "before anything is encoded"


def test_a_share_counts_its_own_images_without_captions(tmp_path):
    whole = SA1B(source(tmp_path, numbers=[1, 3, 6, 40]), 16)
    assert [whole.names[place] for place in whole.captionless()] == ["sa_5", "sa_12", "sa_70"]
    part = Subset(whole, 0.5, seed=2)
    lacking = [name for name in part.names if name in ("sa_5", "sa_12", "sa_70")]
    assert [part.names[place] for place in part.captionless()] == lacking and 0 < len(lacking) < 3


def test_a_number_beyond_64_bits_is_no_image(tmp_path):
    images = SA1B(source(tmp_path, numbers=[*NUMBERS, 10**19]), 16)
    assert images.unused_captions == 1


def test_long_lists_of_what_is_left_out_have_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr("mudit.data.writer.LISTED", 1)
    changes = {"image_size": 16, "captions": CAPTIONS, "validation_images": 1, "shard_images": 3, "max_corrupt_share": 0.5}
    data = section(source=source(tmp_path, numbers=[1, 3, 6, 40]).model_dump(), **changes)
    info = write_store(data, tmp_path / "store", tmp_path / "state")
    assert (info.corrupt.count, info.corrupt.names, info.corrupt.file.file) == (3, [], "left-out.json")
    assert (tmp_path / "store" / "left-out.json").read_text().split() == ["[", '"sa_12",', '"sa_5",', '"sa_70"', "]"]
    LatentStore.open(tmp_path / "store").verify()


def test_captions_in_the_store_are_those_of_the_images(tmp_path):
    data = section(source=source(tmp_path).model_dump(), image_size=16, captions=CAPTIONS, validation_images=2, shard_images=3)
    write_store(data, tmp_path / "store", tmp_path / "state")
    images, split = SA1B(source(tmp_path), 16), LatentStore.open(tmp_path / "store").split("train")
    pixels = {images.read(place).tobytes(): images.caption(place) for place in range(7)}
    stored = split.gather(torch.arange(5)).mean_BCHW.numpy()
    assert [pixels[image.tobytes()] for image in stored] == split.captions(torch.arange(5))


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("sa_12", 12),
        ("sa_12.jpg", 12),
        ("a/b/sa_7.txt", 7),
        ("19", 19),
        ("x_1", None),
        ("", None),
        ("sa_.jpg", None),
        ("sa_1.5", None),
    ],
)
def test_numbers_of_names(name, number):
    assert number_of(name) == number


@pytest.mark.parametrize(
    ("form", "changes", "error", "message"),
    [
        ("lines", {"id_column": "key"}, ConfigError, r"id_column 'key': no such column in .*; there are image, text"),
        (
            "parquet",
            {"caption_column": "text"},
            ConfigError,
            r"caption_column 'text': no such column in .*; there are __key__, txt",
        ),
        ("tar", {"caption_column": "text"}, ConfigError, "captions in a tar have the columns __key__ and txt"),
        ("lines", {"id_column": "text"}, DataError, r"no caption is of an image sa_NUMBER; check data\.source\.id_column 'text'"),
        ("tar", {"captions": "absent"}, DataError, "captions absent: no such file or folder"),
        ("tar", {"path": "absent"}, DataError, r"no sa_\*\.tar files"),
    ],
)
def test_bad_settings_are_one_line(tmp_path, form, changes, error, message):
    with pytest.raises(error, match=message) as caught:
        SA1B(source(tmp_path, form, **changes), 16)
    assert "\n" not in str(caught.value)


def test_bad_caption_files_are_one_line(tmp_path):
    def fails(name, content, message):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message) as caught:
            CaptionTable(tmp_path / name, "__key__", "txt")
        assert "\n" not in str(caught.value)

    fails("x.parquet", b"PAR1 not", "not a Parquet file")
    fails("x.jsonl", b"{\n", "line 1 is not JSON")
    fails("y.jsonl", b"[1]\n", "line 1 is no JSON object")
    fails("x.tar.gz", b"junk", r"not a tar\.gz, or cut short")
    write_caption_tar(tmp_path / "c.tar.gz", list(range(300)))
    for cut in (1, 9, 400):
        fails("cut.tar.gz", (tmp_path / "c.tar.gz").read_bytes()[:-cut], r"not a tar\.gz, or cut short")
    plain = gzip.decompress((tmp_path / "c.tar.gz").read_bytes())
    fails("plain.tar", plain[:1024], "cut short")
    (tmp_path / "plain.tar").write_bytes(plain)
    assert CaptionTable(tmp_path / "plain.tar", "__key__", "txt").caption(299) == caption(299)
    fails("x.csv", b"", "captions come as")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="no captions inside"):
        CaptionTable(tmp_path / "none", "__key__", "txt")


def test_a_folder_of_caption_files_is_read_whole(tmp_path):
    (tmp_path / "many").mkdir()
    write_caption_parquet(tmp_path / "many" / "0.parquet", NUMBERS[:3])
    write_caption_parquet(tmp_path / "many" / "1.parquet", NUMBERS[3:])
    assert CaptionTable(tmp_path / "many", "__key__", "txt").ids_m.tolist() == NUMBERS


def test_captions_of_other_images_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"none is of an image in .* \(sa_1000, and there sa_1\)"):
        SA1B(source(tmp_path, numbers=[1000, 1001]), 16)


def test_an_image_in_two_tars_is_refused(tmp_path):
    write_sa1b(tmp_path / "sa1b", {"sa_000009.tar": [12]})
    with pytest.raises(DataError, match=r"sa_12\.jpg lies in two places"):
        SA1B(source(tmp_path), 16)


def test_other_files_among_the_images_are_refused(tmp_path):
    import tarfile

    from .tarred import add, jpeg

    with tarfile.open(tmp_path / "sa1b" / "sa_000009.tar", "w") as archive:
        add(archive, "holiday.jpg", jpeg(0))
    with pytest.raises(DataError, match=r"holiday\.jpg is not named sa_NUMBER\.jpg"):
        SA1B(source(tmp_path), 16)
