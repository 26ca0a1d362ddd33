"""Several processes share a preparation: any number of them, killed or not, makes the same bytes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mudit.data.format import read_info
from mudit.data.reader import LatentStore
from mudit.errors import DataError
from mudit.jobs.interrupt import Interrupted

from .conftest import section, write_store
from .tarred import WNIDS, imagenet, write_class_tars

RANK = Path(__file__).with_name("rank_of_store.py")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Thirty ImageNet-like images, one of them damaged, in eight shards."""
    folder = tmp_path_factory.mktemp("imagenet")
    images = imagenet(per_class=10)
    images[WNIDS[1]][f"{WNIDS[1]}_20.JPEG"] = b"junk"
    write_class_tars(folder / "tars", images)
    source = {"kind": "imagenet-tars", "path": str(folder / "tars")}
    changes = {"image_size": 16, "flip": True, "moments": "float16", "shard_images": 4, "validation_images": 3}
    return section(source=source, max_corrupt_share=0.1, **changes)


@pytest.fixture(scope="module")
def reference(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MUDIT_CACHE", str(folder / "cache"))
        write_store(data, folder / "store", folder / "state")
    return contents(folder / "store")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def start(data, folder, ranks, *kill_at):
    """The ranks of a job, as torchrun starts them."""
    (folder / "store").mkdir(exist_ok=True)
    (folder / "section.json").write_text(data.model_dump_json())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    arguments = [
        sys.executable,
        str(RANK),
        *(str(folder / name) for name in ("section.json", "store", "state")),
        *map(str, kill_at),
    ]
    environment = os.environ | common | {"MUDIT_CACHE": str(folder / "cache")}
    return [
        subprocess.Popen(
            arguments, env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE, text=True
        )
        for rank in range(ranks)
    ]


def finish(processes):
    """Exit codes. When one dies the others are killed, as torchrun does."""
    while all(process.poll() is None for process in processes):
        time.sleep(0.05)
    if any(process.poll() for process in processes):
        for process in processes:
            process.kill()
    return [process.wait() for process in processes]


@pytest.mark.parametrize("ranks", [2, 3])
def test_any_number_of_ranks_makes_the_same_store(data, reference, ranks, tmp_path):
    processes = start(data, tmp_path, ranks)
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * ranks, errors
    assert contents(tmp_path / "store") == reference
    LatentStore.open(tmp_path / "store").verify()


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 1)])
def test_a_killed_job_goes_on_with_another_number_of_ranks(data, reference, before, after, tmp_path):
    codes = finish(start(data, tmp_path, before, 9))
    assert -signal.SIGKILL in codes
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "state").glob("*.safetensors")}
    assert 0 < len(kept) < 8
    processes = start(data, tmp_path, after)
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * after, errors
    assert contents(tmp_path / "store") == reference
    for name, written in kept.items():
        assert (tmp_path / "store" / name).stat().st_mtime_ns == written, "finished shards are not made again"


def test_a_finished_shard_that_was_damaged_is_made_again(data, reference, tmp_path):
    finish(start(data, tmp_path, 1, 9))
    damaged = sorted((tmp_path / "state").glob("*.safetensors"))[0]
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    assert finish(start(data, tmp_path, 1)) == [0]
    assert contents(tmp_path / "store") == reference


def test_a_deadline_stops_between_shards_and_the_same_command_goes_on(data, reference, tmp_path, monkeypatch):
    monkeypatch.setenv("MUDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MUDIT_DEADLINE", str(time.time() - 1))
    with pytest.raises(Interrupted, match="75"):
        write_store(data, tmp_path / "store", tmp_path / "state")
    for rounds in range(1, 100):
        monkeypatch.setenv("MUDIT_DEADLINE", str(time.time() + 0.2 * rounds))
        with contextlib.suppress(Interrupted):
            write_store(data, tmp_path / f"store-{rounds}", tmp_path / "state")
            break
    assert contents(tmp_path / f"store-{rounds}") == reference


def test_the_share_of_damaged_images_is_of_all_ranks(data, tmp_path):
    strict = data.model_copy(update={"max_corrupt_share": 0.01})
    processes = start(strict, tmp_path, 2)
    errors = [process.communicate()[1] for process in processes]
    assert all(process.returncode for process in processes)
    assert all("DataError: 1 of the first" in error for error in errors), errors
    assert not contents(tmp_path / "store")


def test_one_process_reports_the_damaged_image(data, tmp_path, monkeypatch):
    monkeypatch.setenv("MUDIT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataError, match=f"of 30. cannot be read: {WNIDS[1]}/{WNIDS[1]}_20.JPEG"):
        write_store(data.model_copy(update={"max_corrupt_share": 0.0}), tmp_path / "store", tmp_path / "state")


def test_reference_has_what_it_should(data, reference, tmp_path):
    for name, content in reference.items():
        (tmp_path / name).write_bytes(content)
    info = read_info(tmp_path)
    assert (info.splits["train"].count + info.splits["validation"].count, info.corrupt.count, info.moments) == (29, 1, "float16")
