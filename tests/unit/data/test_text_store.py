"""The latent store with captions and image features: ragged tokens come back as they went in, from every shard."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mudit.data import writer
from mudit.data.emoji import Emoji
from mudit.data.features import open_feature_encoder
from mudit.data.format import read_info
from mudit.data.reader import LatentStore
from mudit.data.sources import open_source
from mudit.data.text import CaptionEncoder
from mudit.errors import ConfigError, DataError

from .conftest import CAPTIONS, emoji_section, section, write_store

KEPT = ["red apple", "onion", "red heart", "eyes", "family: man, boy", "Santa Claus", "dog face"]


def keep(count):
    return torch.zeros(count, dtype=torch.bool)


def test_store_says_what_it_holds(emoji_store):
    info = read_info(emoji_store)
    assert (info.text.token_dim, info.text.pooled_dim, info.text.max_tokens) == (384, 384, 20)
    assert (info.text.subjects, info.class_names) == (KEPT, ["noto", "fluent-3d"])
    assert (info.features.grid, info.features.dim) == (2, 112)
    assert {name: split.count for name, split in info.splits.items()} == {"train": 10, "validation": 4}
    assert [shard.count for shard in info.splits["train"].shards] == [5, 5]
    assert sum("sha256" in encoder for encoder in [*info.text.encoders.values(), info.features.encoder]) == 3


def test_captions_subjects_and_styles_belong_together(emoji_store):
    store = LatentStore.open(emoji_store)
    subjects = {}
    for name in ("train", "validation"):
        split = store.split(name)
        whole = torch.arange(len(split))
        captions = split.captions(whole)
        for caption, subject, label in zip(captions, split.subjects(whole).tolist(), split.labels(whole).tolist(), strict=True):
            assert caption.startswith(("a flat", "a 3D")[label] + " emoji of ")
            assert caption.endswith(KEPT[subject])
            subjects.setdefault(name, set()).add(subject)
    assert not subjects["train"] & subjects["validation"]
    assert subjects["train"] | subjects["validation"] == set(range(7))


def test_features_in_the_store_are_the_encoders(emoji_store):
    """Encoded one caption at a time: neither the batch nor the padding may matter."""
    split = LatentStore.open(emoji_store).split("train")
    indices = torch.tensor([9, 0, 4, 5, 5])
    condition = split.text(indices, keep(5))
    encoder = CaptionEncoder(emoji_section().captions)
    for place, caption in enumerate(split.captions(indices)):
        tokens, pooled_BP, _ = encoder.encode([caption])
        length = len(tokens[0])
        torch.testing.assert_close(condition.tokens[place, :length], tokens[0].float(), atol=2e-3, rtol=1e-3)
        torch.testing.assert_close(condition.pooled[place], pooled_BP[0], atol=1e-5, rtol=1e-4)
        assert condition.mask[place].tolist() == [True] * length + [False] * (20 - length)
        assert not condition.tokens[place, length:].any()
    assert len({int(row.sum()) for row in condition.mask}) > 1, "captions of one length prove nothing"
    images = open_feature_encoder(emoji_section().features)
    expected_BNZ = images.encode(split.gather(indices).mean_BCHW)
    torch.testing.assert_close(split.features(indices), expected_BNZ, atol=0.05, rtol=2e-3)
    assert (split.features(indices).dtype, condition.tokens.dtype) == (torch.float32, torch.float32)


@settings(deadline=None, max_examples=40)
@given(indices=st.lists(st.integers(0, 9), max_size=24))
def test_gather_equals_whole_split_in_any_order_with_repeats(emoji_store, indices):
    split = LatentStore.open(emoji_store).split("train")
    whole = split.text(torch.arange(10), keep(10))
    dropped = torch.tensor([index % 3 == 0 for index in indices], dtype=torch.bool)
    chosen = torch.tensor(indices, dtype=torch.int64)
    some = split.text(chosen, dropped)
    for name in ("tokens", "mask", "pooled"):
        assert torch.equal(getattr(some, name), getattr(whole, name)[chosen])
    assert torch.equal(some.dropped, dropped)
    assert torch.equal(split.features(chosen), split.features(torch.arange(10))[chosen])
    assert split.captions(chosen) == [split.captions(torch.arange(10))[index] for index in indices]


def test_dropped_is_a_copy(emoji_store):
    dropped = keep(2)
    condition = LatentStore.open(emoji_store).split("train").text(torch.tensor([0, 1]), dropped)
    dropped.fill_(True)
    assert not condition.dropped.any()


def test_writing_is_deterministic(emoji_store, emoji_cache, tmp_path):
    write_store(emoji_section(), tmp_path / "again", tmp_path / "state")
    contents = [{file.name: file.read_bytes() for file in folder.iterdir()} for folder in (emoji_store, tmp_path / "again")]
    assert contents[0] == contents[1]


def test_killed_preparation_goes_on_with_captions(emoji_store, emoji_cache, tmp_path, monkeypatch):
    data = emoji_section()
    out, state = tmp_path / "store", tmp_path / "state"
    out.mkdir()
    killed = []

    def stop_at_second(images):
        killed.append(images)
        if len(killed) == 2:
            raise RuntimeError

    def prepare(advance):
        text, features = CaptionEncoder(data.captions), open_feature_encoder(data.features)
        encoder = writer.StoreWriter(data, open_source(data), _identity(), out, state, text, features)
        return encoder.write(advance)

    with pytest.raises(RuntimeError):
        prepare(stop_at_second)
    (state / "train-00001.captions.json").unlink()  # as if killed while it moved files to `out`
    reads = []
    read = Emoji.read
    monkeypatch.setattr(Emoji, "read", lambda self, index: reads.append(index) or read(self, index))
    prepare(lambda images: None)
    assert len(reads) == 14 - 5, "the shard that lost its captions is made again, the other is not"
    assert read_info(out) == read_info(emoji_store)
    LatentStore.open(out).verify()


def _identity():
    from mudit.data.encoders import Identity

    return Identity(1.0)


def test_other_captions_throw_away_unfinished_shards(emoji_cache, tmp_path):
    data = emoji_section(captions=CAPTIONS | {"max_tokens": 9}, features=None)
    info = write_store(data, tmp_path / "store", tmp_path / "state")
    split = LatentStore.open(tmp_path / "store").split("train")
    condition = split.text(torch.arange(10), keep(10))
    assert condition.tokens.shape == (10, 9, 384)
    assert condition.mask.sum(1).max() == 9, "cut to nine tokens"
    assert info.features is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "train-00001.captions.json").unlink(), r"train-00001\.captions\.json: shard is missing"),
        (lambda f: (f / "train-00001.captions.json").write_text("[]"), r"captions\.json: shard has 2 bytes"),
        (lambda f: flip(f / "train-00001.captions.json"), r"captions\.json: contents differ from the checksum"),
        (lambda f: edit(f, lambda raw: raw["text"].update(token_dim=383)), r"train-00000\.safetensors: shard holds"),
        (lambda f: edit(f, lambda raw: raw.update(text=None)), "some shards of split"),
        (lambda f: edit(f, lambda raw: raw["features"].update(grid=3)), r"shard holds"),
    ],
)
def test_damage_is_named(emoji_store, tmp_path, damage, message):
    folder = shutil.copytree(emoji_store, tmp_path / "store")
    damage(folder)
    with pytest.raises(DataError, match=message) as caught:
        LatentStore.open(folder).verify()
    assert "\n" not in str(caught.value)


def test_damaged_captions_are_named_when_they_are_read(emoji_store, tmp_path):
    folder = shutil.copytree(emoji_store, tmp_path / "store")
    path = folder / "train-00000.captions.json"
    path.write_text(path.read_text()[:-3] + "   ")
    with pytest.raises(DataError, match=r"captions\.json: not valid JSON"):
        LatentStore.open(folder).split("train").captions(torch.tensor([0]))


def test_source_without_captions_is_refused():
    with pytest.raises(ConfigError, match=r"data\.captions: the source sklearn-digits has no captions"):
        open_source(section(captions=CAPTIONS))


def flip(path):
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(bytes(data))


def edit(folder, change):
    raw = json.loads((folder / "store.json").read_text())
    change(raw)
    (folder / "store.json").write_text(json.dumps(raw))


def stored_as(storage, folder):
    data = emoji_section(captions=CAPTIONS | {"storage": storage}, features=None)
    info = write_store(data, folder / "store", folder / "state")
    return info, LatentStore.open(folder / "store").split("train")


@pytest.mark.parametrize(("storage", "error"), [("float16", 3e-4), ("bfloat16", 2.5e-3), ("int8", 1.2e-2)])
def test_the_measured_error_of_a_type_is_that_of_its_features(storage, error, emoji_cache, tmp_path):
    info, split = stored_as(storage, tmp_path)
    assert 0 < info.text.relative_error < error
    condition = split.text(torch.arange(10), keep(10))
    encoded = CaptionEncoder(emoji_section().captions).encode(split.captions(torch.arange(10)))
    assert condition.tokens.dtype == torch.float32
    true = torch.cat(encoded.tokens)
    measured = (condition.tokens[condition.mask] - true).norm() / true.norm()
    assert float(measured) == pytest.approx(info.text.relative_error, rel=0.2), "of the training captions, and of all"


def test_features_on_the_fly_are_those_that_would_be_stored(emoji_cache, tmp_path):
    info, split = stored_as("on-the-fly", tmp_path)
    assert (info.text.relative_error, info.text.token_dim, info.text.pooled_dim) == (None, 384, 384)
    assert set(info.tensors(5)) == {"mean", "labels", "subjects"}
    (tmp_path / "half").mkdir()
    _, half = stored_as("float16", tmp_path / "half")
    indices = torch.tensor([3, 9, 0, 3])
    fly, stored = split.text(indices, keep(4)), half.text(indices, keep(4))
    assert torch.equal(fly.mask, stored.mask) and fly.tokens.shape == stored.tokens.shape
    torch.testing.assert_close(fly.tokens, stored.tokens, atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(fly.pooled, stored.pooled, atol=1e-5, rtol=1e-4)
    assert not fly.tokens[~fly.mask].any()


def test_on_the_fly_needs_the_encoder_that_was_there(t5_folder, emoji_cache, tmp_path):
    t5 = {"name": "t5", "path": str(shutil.copytree(t5_folder, tmp_path / "t5"))}
    data = emoji_section(captions=CAPTIONS | {"tokens": t5, "pooled": t5, "storage": "on-the-fly"}, features=None)
    write_store(data, tmp_path / "store", tmp_path / "state")
    config = json.loads((tmp_path / "t5" / "config.json").read_text())
    (tmp_path / "t5" / "config.json").write_text(json.dumps(config | {"dropout_rate": 0.5}))
    with pytest.raises(DataError, match=r"the text encoder in .*t5 is another now"):
        LatentStore.open(tmp_path / "store").split("train").text(torch.tensor([0]), keep(1))
    shutil.rmtree(tmp_path / "t5")
    with pytest.raises(DataError, match=r"no config\.json"):
        LatentStore.open(tmp_path / "store").split("train").text(torch.tensor([0]), keep(1))
