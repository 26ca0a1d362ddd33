"""The plan of a store is held against stores that were written, and says no before anything is encoded."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import namedtuple

import pytest
import torch

from mudit.data import room
from mudit.data.encoders import Identity, open_encoder
from mudit.data.reader import LatentStore
from mudit.data.size import store_bytes, store_files
from mudit.data.sources import open_source
from mudit.data.text import CaptionEncoder
from mudit.errors import ResultsError

from .conftest import CAPTIONS, emoji_section, section, write_store


@pytest.mark.parametrize(
    "changes", [{}, {"flip": True}, {"moments": "float16", "shard_images": 100}, {"share": 0.3, "validation_images": 0}]
)
def test_planned_bytes_are_those_of_the_store(changes, tmp_path):
    data = section(**changes)
    info = write_store(data, tmp_path / "store", tmp_path / "state")
    images = sum(split.count for split in info.splits.values())
    written = sum(shard.bytes for split in info.splits.values() for shard in split.shards)
    assert store_bytes(data, 1, 8, images, 0, 0, 0) == pytest.approx(written, rel=0.02)
    assert store_files(data, images) == len(list((tmp_path / "store").iterdir()))


@pytest.mark.parametrize("storage", ["float16", "bfloat16", "int8", "on-the-fly"])
def test_planned_bytes_with_captions(storage, emoji_cache, tmp_path):
    data = emoji_section(captions=CAPTIONS | {"storage": storage})
    info = write_store(data, tmp_path / "store", tmp_path / "state")
    written = sum(file.bytes for split in info.splits.values() for shard in split.shards for file in shard.files())
    text = CaptionEncoder(data.captions)
    captions = [c for name in ("train", "validation") for c in _captions(tmp_path / "store", name)]
    mean = sum(text.lengths(captions)) / 14
    assert store_bytes(data, 3, 16, 14, mean, 384, 384) == pytest.approx(written, rel=0.05)
    assert store_files(data, 14) == len(list((tmp_path / "store").iterdir()))


def _captions(folder, name):
    split = LatentStore.open(folder).split(name)
    return split.captions(torch.arange(len(split)))


def test_full_imagenet_is_the_known_size():
    data = section(encoder="autoencoder-kl", moments="float16", flip=True, shard_images=8192, validation_images=10000)
    assert store_bytes(data, 4, 32, 1_281_167, 0, 0, 0) == pytest.approx(42e9, rel=0.001)
    assert store_files(data, 1_281_167) == 156 + 2 + 1 + 2


def test_features_of_an_unknown_dinov2_are_those_of_vit_b(tmp_path):
    features = {"encoder": "dinov2", "encoder_path": str(tmp_path), "grid": 16}
    without = store_bytes(section(), 1, 8, 10, 0, 0, 0)
    assert store_bytes(section(features=features), 1, 8, 10, 0, 0, 0) - without == 10 * 256 * 768 * 2
    (tmp_path / "config.json").write_text('{"hidden_size": 1024}')
    assert store_bytes(section(features=features), 1, 8, 10, 0, 0, 0) - without == 10 * 256 * 1024 * 2


def test_a_plan_needs_no_torch():
    code = "import sys, mudit.data.size; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, env=os.environ).returncode == 0


def test_plan_is_logged_and_too_little_disk_is_refused(tmp_path, monkeypatch, caplog):
    data = section()
    source, encoder = open_source(data), open_encoder(data)
    caplog.set_level("INFO", "mudit")
    room.check_room(data, source, encoder, None, tmp_path / "out", tmp_path / "state")
    assert "planned store: 0.5 MB in 5 files (1797 images of (1, 8, 8))" in caplog.text
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(room.shutil, "disk_usage", lambda folder: usage(400_000))
    with pytest.raises(ResultsError, match=r"state: the store needs 0\.5 MB and 0\.4 MB are free; make room, or set data\.share"):
        room.check_room(data, source, encoder, None, tmp_path / "out", tmp_path / "state")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "train-00000.safetensors").write_bytes(bytes(200_000))
    room.check_room(data, source, encoder, None, tmp_path / "out", tmp_path / "state")  # the killed run's shard is there already


def test_plan_counts_the_tokens_of_captions(emoji_cache, tmp_path, caplog):
    data = emoji_section()
    caplog.set_level("INFO", "mudit")
    room.check_room(data, open_source(data), Identity(1.0), CaptionEncoder(data.captions), tmp_path, tmp_path / "state")
    assert "(14 images of (3, 16, 16), 1" in caplog.text and "tokens a caption)" in caplog.text
