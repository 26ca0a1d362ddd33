"""The index of tars: what `tarfile` writes in any format is found where it lies, and damage is named."""

from __future__ import annotations

import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mudit.data import tars as module
from mudit.data.tars import members, open_index
from mudit.errors import DataError

from .tarred import add

JPG = frozenset({".jpg"})
FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MUDIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def written(path, files, kind=tarfile.GNU_FORMAT):
    with tarfile.open(path, "w", format=kind) as archive:
        for name, content in files:
            add(archive, name, content)
    return path


def found(path):
    with path.open("rb") as file:
        size = path.stat().st_size
        return [(m.name, path.read_bytes()[m.offset : m.offset + m.bytes]) for m in members(file.fileno(), 0, size, str(path))]


_PARTS = st.text(st.characters(codec="utf-8", exclude_characters="/\0\r\n"), min_size=1, max_size=60).filter(
    lambda s: s not in (".", "..")
)
_NAMES = st.lists(_PARTS, min_size=1, max_size=4).map("/".join)


@settings(deadline=None, max_examples=150)
@given(files=st.lists(st.tuples(_NAMES, st.binary(max_size=1500)), max_size=6), kind=st.sampled_from(FORMATS[1:]))
def test_members_are_those_of_tarfile(tmp_path_factory, files, kind):
    path = written(tmp_path_factory.mktemp("tar") / "x.tar", files, kind)
    with tarfile.open(path) as archive:
        expected = [(member.name, archive.extractfile(member).read()) for member in archive]
    assert found(path) == expected


def test_long_names_in_ustar_are_split_over_two_fields(tmp_path):
    name = "folder/" * 18 + "picture.jpg"
    assert found(written(tmp_path / "x.tar", [(name, b"abc")], tarfile.USTAR_FORMAT)) == [(name, b"abc")]


def test_other_kinds_of_members_are_passed_over(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE):
            info = tarfile.TarInfo(f"a{kind.decode()}.jpg")
            info.type, info.linkname = kind, "b.jpg"
            archive.addfile(info)
        add(archive, "b.jpg", b"picture")
    assert found(tmp_path / "x.tar") == [("b.jpg", b"picture")]


def test_sizes_above_eight_gigabytes_are_in_base_256():
    info = tarfile.TarInfo("x.jpg")
    info.size = 9 << 30
    assert module._size(info.tobuf(tarfile.GNU_FORMAT), "x.tar") == 9 << 30


def test_index_reads_in_place_through_tars_within_tars(tmp_path):
    inner = written(tmp_path / "n1.tar", [("a.jpg", b"first"), ("notes.txt", b"?"), ("._a.jpg", b"hidden")])
    outer = written(tmp_path / "all.tar", [("n1.tar", inner.read_bytes()), ("top.JPG", b"second")])
    index = open_index([outer, inner], JPG)
    assert list(index.names) == ["n1/a.jpg", "all/top.JPG", "n1/a.jpg"]
    assert [index.read(place) for place in range(3)] == [b"first", b"second", b"first"]


def test_index_is_kept_until_the_tar_changes(tmp_path, monkeypatch):
    path = written(tmp_path / "x.tar", [("a.jpg", b"1")])
    open_index([path], JPG)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_scan", lambda *arguments: pytest.fail("scanned again"))
        assert list(open_index([path], JPG).names) == ["x/a.jpg"]
    written(path, [("b.jpg", b"1")])
    assert list(open_index([path], JPG).names) == ["x/b.jpg"]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_tar_cut_anywhere_is_named(tmp_path, kind):
    whole = written(
        tmp_path / "x.tar", [("a.jpg", bytes(700)), ("b" * 120 + ".jpg", bytes(30))][: 1 if kind == FORMATS[0] else 2], kind
    )
    content = whole.read_bytes()
    end = len(content.rstrip(b"\0")) if kind != FORMATS[0] else 512
    for length in {0, 100, 512, 1000, end // 512 * 512, end - 1}:
        (tmp_path / "cut.tar").write_bytes(content[:length])
        with pytest.raises(DataError, match=r"cut\.tar: cut short") as caught:
            open_index([tmp_path / "cut.tar"], JPG)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x" * 2048, "not a tar, or damaged"),
        (b"\x1f\x8b" + bytes(2046), "is compressed, .*gunzip"),
    ],
)
def test_what_is_no_tar_is_explained(tmp_path, content, message):
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_index([tmp_path / "x.tar"], JPG)


def test_a_flipped_bit_in_a_header_is_found(tmp_path):
    path = written(tmp_path / "x.tar", [("a.jpg", b"1"), ("b.jpg", b"2")])
    content = bytearray(path.read_bytes())
    content[1024 + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        open_index([path], JPG)


def test_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MUDIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="set MUDIT_CACHE"):
        open_index([written(tmp_path / "x.tar", [("a.jpg", b"1")])], JPG)


def test_damaged_extended_header():
    with pytest.raises(DataError, match="damaged extended header"):
        module._pax(b"999 path=x\n", "x.tar")
    for size in (b"-1", b"x", b"9" * 5000):
        record = b" size=" + size + b"\n"
        with pytest.raises(DataError, match="damaged extended header"):
            module._pax(str(len(record) + (4 if len(size) > 99 else 2)).encode() + record, "x.tar")
    assert module._pax(b"10 size=7\n12 path=a/b\n", "x.tar") == ("a/b", 7)
