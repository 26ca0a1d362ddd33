"""What is encoded is encoded once, whatever comes between: kills, damaged images, a deadline."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mudit.config.load import load
from mudit.data import rounds
from mudit.data.reader import LatentStore
from mudit.data.sources import ClassFolders
from mudit.errors import DataError, ResultsError
from mudit.files import sha256_file
from mudit.jobs.interrupt import Interrupt, Interrupted
from mudit.provenance import manifest as manifests
from mudit.provenance.execute import make
from mudit.provenance.verdict import Inspector
from mudit.stages import parse

from .conftest import section, write_store
from .kill_after_writing import POINTS

SMOKE = Path(__file__).parents[2] / "smoke" / "config.yaml"
DAMAGED = ["birds/3.png", "birds/7.png"]


@pytest.fixture
def images(tmp_path):
    """Sixteen images in two classes, two of them damaged."""
    rng = np.random.default_rng(0)
    for name in [f"{kind}/{number}.png" for kind in ("birds", "cats") for number in range(8)]:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        if name in DAMAGED:
            (tmp_path / "images" / name).write_bytes(b"junk")
        else:
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / "images" / name)
    return tmp_path / "images"


@pytest.fixture
def read(monkeypatch):
    """Names of the images that are read, as it happens."""
    names, true = [], ClassFolders.read

    def noted(self, index):
        names.append(self.names[index])
        return true(self, index)

    monkeypatch.setattr(ClassFolders, "read", noted)
    return names


def folder_section(images, **changes):
    source = {"kind": "class-folders", "path": str(images)}
    return section(source=source, image_size=8, shard_images=3, validation_images=4, **changes)


def mend(images, name):
    Image.new("RGB", (16, 16), "red").save(images / name)


def finished(state):
    """Records of the shards that are done."""
    return [json.loads(path.read_text()) for path in state.glob("*-*.json")]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_nothing_is_encoded_again_after_a_kill_between_the_last_shard_and_its_place(tmp_path):
    """Real signals at each step on the way; the artefact is whole in the end and no state is left."""
    shutil.copy(SMOKE, tmp_path / "config.yaml")
    script = Path(__file__).with_name("kill_after_writing.py")
    subprocess.run([sys.executable, str(script), "record"], cwd=tmp_path, check=True, capture_output=True)
    record = [json.loads(line) for line in (tmp_path / "record").read_text().splitlines()]
    assert [where for where, _ in record] == [*(name for _, name, _, _ in POINTS), "nothing"]
    first, *later = (count for _, count in record)
    assert first > 1797 and set(later) <= {0, 1}, "one image is read to know the size of the store"
    folder = tmp_path / "results/smoke/data"
    LatentStore.open(folder).verify()
    manifest = manifests.read(folder)
    assert manifest is not None and manifest["outputs"] == manifests.outputs(folder)
    assert not (tmp_path / "state/smoke/data").exists()
    assert [path.name for path in (tmp_path / "results/smoke").iterdir()] == ["data"]


def test_a_mended_image_is_read_again_and_no_other_shard_is_made_again(images, read, tmp_path):
    data = folder_section(images)
    with pytest.raises(DataError, match=r"mend or remove them"):
        write_store(data, tmp_path, tmp_path / "state")
    for name in DAMAGED:
        mend(images, name)
    kept = [each["shard"] for each in finished(tmp_path / "state") if not each["left_out"]]
    read.clear()
    info = write_store(data, tmp_path / "store", tmp_path / "state")
    assert info.corrupt.count == 0
    assert len(set(read)) == 16 - sum(shard["count"] for shard in kept)
    write_store(data, tmp_path / "fresh", tmp_path / "other")
    assert contents(tmp_path / "store") == contents(tmp_path / "fresh")


def test_a_raised_share_uses_what_was_encoded(images, read, tmp_path, monkeypatch):
    """Through the stage and its provenance: neither the artefact's state nor the writer's is set aside."""
    monkeypatch.chdir(tmp_path)
    smoke = load(SMOKE).experiments["smoke"]
    strict, lenient = (smoke.model_copy(update={"data": folder_section(images, max_corrupt_share=share)}) for share in (0.1, 0.2))
    data = parse("smoke", "data")
    with pytest.raises(DataError, match=r"2 of the first \d+ images \(of 16\).*; mend or remove them, or raise .* from 0\.1"):
        make(data, strict, force=False)
    encoded = [each["shard"] for each in finished(Path("state/smoke/data/shards")) if each["shard"]]
    read.clear()
    assert make(data, lenient, force=False)
    assert not list(Path("state/smoke").glob("data.superseded*"))
    to_know_the_size, left = 1, 16 - sum(shard["count"] for shard in encoded) - len(DAMAGED)
    assert len(read) == to_know_the_size + len(DAMAGED) + left
    info = LatentStore.open(data.path).info
    assert info.corrupt.names == DAMAGED
    assert {shard["sha256"] for shard in encoded} <= {entry.sha256 for entry in info.files()}
    assert Inspector(strict, quick=False).verdict(data).fresh, "a store that is there does not depend on the share"


def test_a_store_on_another_file_system_than_its_state_is_a_copy(images, tmp_path, monkeypatch):
    data = folder_section(images, max_corrupt_share=0.2)
    write_store(data, tmp_path / "linked", tmp_path / "state")

    def no_links(source, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("mudit.files.os.link", no_links)
    write_store(data, tmp_path / "copied", tmp_path / "state")
    assert contents(tmp_path / "copied") == contents(tmp_path / "linked")
    shard = next((tmp_path / "copied").glob("*.safetensors"))
    assert shard.stat().st_nlink == 1 and (tmp_path / "linked" / shard.name).stat().st_nlink == 2


def test_a_round_that_would_last_beyond_the_deadline_is_not_begun(monkeypatch):
    now = [1000.0]
    monkeypatch.setenv("MUDIT_DEADLINE", "1030")
    monkeypatch.setattr(rounds.time, "monotonic", lambda: now[0])
    monkeypatch.setattr("mudit.jobs.interrupt.time.time", lambda: now[0])
    done = []

    def work(seconds):
        now[0] += seconds
        done.append(seconds)
        return seconds

    with Interrupt() as interrupt, pytest.raises(Interrupted):
        list(rounds.in_rounds([3.0, 12.0, 2.0, 1.0, 1.0], work, interrupt))
    assert done == [3.0, 12.0, 2.0, 1.0], "at 18 of 30 seconds a round of 12 would not end in time"


def test_the_manifest_takes_over_what_the_stage_knows(tmp_path):
    (tmp_path / "known").write_text("abc")
    (tmp_path / "other").write_text("de")
    described = manifests.outputs(tmp_path, {"known": ("0" * 64, 3)})
    assert described["known"] == {"sha256": "0" * 64, "bytes": 3}
    assert described["other"] == {"sha256": sha256_file(tmp_path / "other"), "bytes": 2}
    for known, message in (({"known": ("0" * 64, 4)}, "3 bytes instead of the 4"), ({"gone": ("0" * 64, 4)}, "no bytes instead")):
        with pytest.raises(ResultsError, match=message):
            manifests.outputs(tmp_path, known)
