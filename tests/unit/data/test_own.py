"""Your own data: every kind of folder and file becomes the same rows, and what is missing is named."""

from __future__ import annotations

import csv
import io
import json
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from mudit.config.data import DatasetSource
from mudit.data.images import UnreadableImageError
from mudit.data.own import open_dataset
from mudit.data.reader import LatentStore
from mudit.data.sources import open_source
from mudit.errors import ConfigError, DataError

from .conftest import CAPTIONS, section, write_store

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
LABELS = {"red": "warm", "green": "cold", "blue": "cold", "white": "cold"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MUDIT_CACHE", str(tmp_path / "cache"))


def png(name: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (10, 12), COLOURS[name]).save(buffer, "PNG")
    return buffer.getvalue()


def class_folders(root):
    for name in COLOURS:
        (root / LABELS[name]).mkdir(exist_ok=True)
        (root / LABELS[name] / f"{name}.png").write_bytes(png(name))
    return {"kind": "imagefolder", "image_column": "image", "caption_column": None, "label_column": "label"}


def metadata_csv(root):
    (root / "pictures").mkdir()
    with (root / "pictures" / "metadata.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file_name", "caption", "kind"])
        for name in COLOURS:
            (root / "pictures" / f"{name}.png").write_bytes(png(name))
            rows.writerow([f"{name}.png", f"a {name}, square", LABELS[name]])
    return {"kind": "imagefolder", "image_column": "image", "caption_column": "caption", "label_column": "kind"}


def metadata_jsonl(root):
    lines = []
    for name in COLOURS:
        (root / f"{name}.png").write_bytes(png(name))
        lines.append(json.dumps({"file_name": f"{name}.png", "caption": f"a {name}, square", "kind": LABELS[name]}))
    (root / "metadata.jsonl").write_text("\n".join(lines))
    return {"kind": "imagefolder", "image_column": "image", "caption_column": "caption", "label_column": "kind"}


def text_files(root):
    for name in COLOURS:
        (root / LABELS[name]).mkdir(exist_ok=True)
        (root / LABELS[name] / f"{name}.png").write_bytes(png(name))
        (root / LABELS[name] / f"{name}.txt").write_text(f"a {name}, square\n")
    return {"kind": "imagefolder", "image_column": "image", "caption_column": "text", "label_column": "label"}


def tars(root):
    for number, names in enumerate([["red", "green"], ["blue", "white"]]):
        members = []
        for name in names:
            members += [(f"{name}.png", png(name)), (f"{name}.txt", f"a {name}, square".encode())]
            members.append((f"{name}.cls", b"1" if LABELS[name] == "warm" else b"0"))
        tar(root / f"shard-{number:03d}.tar", members)
    return {"kind": "webdataset", "image_column": "png", "caption_column": "txt", "label_column": "cls"}


def tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def parquet(root):
    """As `push_to_hub` writes it: image bytes, and the features in the file's own metadata."""
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "text": datasets.Value("string"), "label": datasets.ClassLabel(names=["warm", "cold"])}
    )
    (root / "data").mkdir()
    for number, names in enumerate([["red", "green"], ["blue", "white"]]):
        rows = {
            "image": [{"bytes": png(name), "path": f"{name}.png"} for name in names],
            "text": [f"a {name}, square" for name in names],
            "label": [LABELS[name] for name in names],
        }
        datasets.Dataset.from_dict(rows, features=features).to_parquet(root / "data" / f"train-{number:05d}-of-00002.parquet")
    return {"kind": "parquet", "image_column": "image", "caption_column": "text", "label_column": "label"}


def plain_parquet(root):
    """Bytes and strings, as another program may write them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = {"img": [png(name) for name in COLOURS], "words": [f"a {name}, square" for name in COLOURS]}
    pq.write_table(pa.table(table | {"kind": [LABELS[name] for name in COLOURS]}), root / "all.parquet")
    return {"kind": "parquet", "image_column": "img", "caption_column": "words", "label_column": "kind"}


KINDS = [class_folders, metadata_csv, metadata_jsonl, text_files, tars, parquet, plain_parquet]


def opened(make, root, **changes):
    root.mkdir(exist_ok=True)
    fields = make(root)
    return open_dataset(DatasetSource.model_validate({"path": str(root)} | fields | changes), 8)


@pytest.mark.parametrize("make", KINDS)
def test_every_kind_gives_the_same_rows(make, tmp_path):
    source = opened(make, tmp_path / "data")
    assert len(source.names) == len(source.labels_n) == 4
    rows = {}
    for index in range(4):
        pixels = source.read(index)
        assert (pixels.shape, pixels.dtype) == ((3, 8, 8), np.float32)
        name = next(name for name, rgb in COLOURS.items() if np.allclose(pixels[:, 4, 4], np.array(rgb) / 127.5 - 1))
        rows[name] = index
        if source.has_captions:
            assert source.caption(index) == f"a {name}, square"
        if make is not plain_parquet:
            assert name in source.names[index]
    assert set(rows) == set(COLOURS)
    assert source.has_captions == (make is not class_folders)
    classes = {name: source.class_names[source.labels_n[index]] for name, index in rows.items()}
    assert classes == ({name: str(int(label == "warm")) for name, label in LABELS.items()} if make is tars else LABELS)
    assert str(tmp_path) not in "".join(source.names), "names do not depend on where the data lies"


@pytest.mark.parametrize("make", KINDS)
def test_order_does_not_depend_on_the_place(make, tmp_path):
    one, two = opened(make, tmp_path / "one"), opened(make, tmp_path / "two")
    assert (list(one.names), one.identity) == (list(two.names), two.identity)
    assert np.array_equal(one.labels_n, two.labels_n)


@pytest.mark.parametrize("make", KINDS[1:])
def test_columns_may_be_left_out(make, tmp_path):
    source = opened(make, tmp_path / "data", caption_column=None, label_column=None)
    assert (source.has_captions, source.class_names, source.labels_n.tolist()) == (False, ["all"], [0] * 4)


@pytest.mark.parametrize(
    ("make", "columns"),
    [
        (class_folders, "image, label"),
        (metadata_csv, "image, caption, kind"),
        (text_files, "image, text, label"),
        (tars, "png, txt, cls, __key__, __url__"),
        (parquet, "image, text, label"),
    ],
)
@pytest.mark.parametrize("field", ["image_column", "caption_column", "label_column"])
def test_missing_columns_are_answered_with_those_there_are(make, columns, field, tmp_path):
    with pytest.raises(ConfigError, match=rf"^data\.source\.{field} 'absent': no such column; there are {columns}$"):
        opened(make, tmp_path / "data", **{field: "absent"})


def test_captions_and_labels_have_types(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.source\.caption_column 'cls': holds Value\('int64'\), not string"):
        opened(tars, tmp_path / "tars", caption_column="cls")
    with pytest.raises(ConfigError, match=r"data\.source\.label_column 'image': holds Image"):
        opened(parquet, tmp_path / "parquet", label_column="image")


@pytest.mark.parametrize("make", KINDS)
def test_damaged_images_fail_alone(make, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "png", lambda name, whole=png: whole(name)[:40] if name == "green" else whole(name))
    source = opened(make, tmp_path / "data")
    failed = []
    for index in range(4):
        try:
            source.read(index)
        except UnreadableImageError:
            failed.append(source.names[index])
    assert len(failed) == 1
    assert "green" in failed[0] or make is plain_parquet


def test_missing_captions_are_counted_like_damaged_images(tmp_path):
    source = opened(text_files, tmp_path / "data")
    (tmp_path / "data" / "cold" / "blue.txt").unlink()
    (tmp_path / "data" / "cold" / "green.txt").write_text(" \n")
    data = section(
        source={"path": str(tmp_path / "data"), **text_files_fields()},
        image_size=8,
        captions=CAPTIONS,
        validation_images=1,
        max_corrupt_share=0.5,
    )
    info = write_store(data, tmp_path / "store", tmp_path / "state")
    assert (info.corrupt.count, info.corrupt.names) == (2, ["cold/blue.png", "cold/green.png"])
    strict = data.model_copy(update={"max_corrupt_share": 0.0})
    with pytest.raises(DataError, match="cannot be read or have no caption: cold/"):
        write_store(strict, tmp_path / "store", tmp_path / "state")
    assert len(source.names) == 4


@pytest.mark.parametrize("make", [metadata_csv, metadata_jsonl])
def test_images_that_the_metadata_does_not_name_are_counted_and_said(make, tmp_path, caplog):
    root = tmp_path / "data"
    assert opened(make, root).unlisted_images == 0 and caplog.text == ""
    (root / "more").mkdir()
    for number in range(7):
        (root / "more" / f"{number}.png").write_bytes(png("red"))
    source = open_dataset(DatasetSource.model_validate({"path": str(root)} | _fields_of(make, tmp_path)), 8)
    assert (len(source.names), source.unlisted_images) == (4, 7)
    assert "names 7 of 11 images, which are left out: more/0.png, more/1.png" in caplog.text and "and 2 more" in caplog.text


def _fields_of(make, tmp_path):
    (tmp_path / "again").mkdir()
    return make(tmp_path / "again")


def text_files_fields():
    return {"kind": "imagefolder", "image_column": "image", "caption_column": "text", "label_column": "label"}


def test_rows_without_label_are_named(tmp_path):
    def make(root):
        fields = metadata_jsonl(root)
        lines = (root / "metadata.jsonl").read_text().splitlines()
        broken = json.loads(lines[2]) | {"kind": None}
        (root / "metadata.jsonl").write_text("\n".join([*lines[:2], json.dumps(broken), lines[3]]))
        return fields

    with pytest.raises(DataError, match=r"label_column 'kind': row 2 has no label"):
        opened(make, tmp_path / "data")


@pytest.mark.parametrize(
    ("kind", "message"),
    [("imagefolder", r"no images \("), ("webdataset", r"no \.tar files"), ("parquet", r"no \.parquet files")],
)
def test_empty_and_missing_folders(kind, message, tmp_path):
    def make(root):
        return {"kind": kind, "image_column": "image", "caption_column": None, "label_column": None}

    with pytest.raises(DataError, match=message):
        opened(make, tmp_path / "data")
    with pytest.raises(DataError, match="no such folder"):
        open_dataset(DatasetSource.model_validate({"path": str(tmp_path / "absent")} | make(None)), 8)


@pytest.mark.parametrize(
    ("make", "file"),
    [
        (tars, "shard-000.tar"),
        (parquet, "data/train-00000-of-00002.parquet"),
        (metadata_csv, "pictures/metadata.csv"),
    ],
)
def test_files_that_are_something_else_are_one_line(make, file, tmp_path):
    def broken(root):
        fields = make(root)
        (root / file).write_bytes(b"\xff junk " * 40)
        return fields

    with pytest.raises(DataError, match=r"^data\.source\.path .*: `datasets` cannot read it as") as caught:
        opened(broken, tmp_path / "data")
    assert "\n" not in str(caught.value)


def test_changed_files_are_read_again(tmp_path):
    """The rows that `datasets` keeps in the cache are those of the files as they are now."""
    source = opened(plain_parquet, tmp_path / "data")
    before = source.read(0)
    COLOURS["red"] = (255, 255, 0)
    try:
        plain_parquet(tmp_path / "data")
    finally:
        COLOURS["red"] = (255, 0, 0)
    path = tmp_path / "data" / "all.parquet"
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime + 5))
    fields = {"kind": "parquet", "image_column": "img", "caption_column": None, "label_column": None}
    again = open_dataset(DatasetSource.model_validate({"path": str(tmp_path / "data")} | fields), 8)
    assert not np.array_equal(before, again.read(0))


def test_no_network_is_asked(tmp_path, monkeypatch):
    import socket

    asked = []

    def refuse(*arguments, **named):
        asked.append(arguments)
        raise OSError("no network")  # which `datasets` would swallow

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for make in KINDS:
        opened(make, tmp_path / make.__name__)
    assert not asked


def test_from_tars_to_a_store_with_captions(tmp_path):
    (tmp_path / "data").mkdir()
    source = {"path": str(tmp_path / "data"), **tars(tmp_path / "data")}
    data = section(source=source, image_size=8, captions=CAPTIONS, validation_images=1, shard_images=2)
    info = write_store(data, tmp_path / "store", tmp_path / "state")
    assert (info.num_classes, info.text.subjects, info.source["name"]) == (2, None, "webdataset")
    import torch

    split = LatentStore.open(tmp_path / "store").split("train")
    for index, caption in enumerate(split.captions(torch.arange(3))):
        pixels = (split.latents(torch.tensor([index]))[0, :, 4, 4] + 1) * 127.5
        assert caption == f"a {next(name for name, rgb in COLOURS.items() if rgb == tuple(pixels.tolist()))}, square"


def test_captions_need_a_column(tmp_path):
    (tmp_path / "data").mkdir()
    source = {"path": str(tmp_path / "data"), **class_folders(tmp_path / "data")}
    with pytest.raises(ConfigError, match=r"data\.captions: the source imagefolder has no captions; name their column"):
        open_source(section(source=source, captions=CAPTIONS))
