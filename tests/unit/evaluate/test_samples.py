"""Sets of images on disk: shards, columns, and what is said of damage. Nobody may hold more than one shard."""

from __future__ import annotations

import gc
import json
import time
import weakref

import pytest
import torch

from mudit.errors import DataError
from mudit.evaluate import samples
from mudit.evaluate.generate import generate
from mudit.evaluate.samples import FINAL, SETTINGS_FILE, Samples, SampleSet, open_sets, set_name, shard_name
from mudit.jobs.crew import Crew
from mudit.jobs.interrupt import DEADLINE, Interrupt, Interrupted

from .conftest import files_of

SIDE, CLASSES = 4, 3


class Stub:
    """Image i has the value i everywhere; every fourth is not finite."""

    def __init__(self, batch_size: int = 5) -> None:
        self.batch_size, self.image_bytes = batch_size, 3 * SIDE * SIDE
        self.drawn: list[int] = []

    def draw(self, numbers_B: torch.Tensor) -> Samples:
        self.drawn += numbers_B.tolist()
        images = numbers_B.to(torch.uint8)[:, None, None, None].expand(-1, 3, SIDE, SIDE).contiguous()
        seeds = torch.stack([torch.zeros_like(numbers_B), numbers_B], dim=1)
        return Samples(images, numbers_B % CLASSES, seeds, numbers_B % 4 != 3)

    def measured(self, count) -> dict[str, int]:
        return {"measured": len(self.drawn)}


def make(folder, count=23, drawer=None, **settings):
    """A set of stub images, its state kept beside it."""
    with Interrupt() as interrupt:
        settings = {"class_names": ["a", "b", "c"], **settings}
        return generate(folder / FINAL, folder / "state", drawer or Stub(), count, settings, None, Crew(interrupt))


@pytest.fixture
def small_shards(monkeypatch):
    """Two batches of five fit a shard."""
    monkeypatch.setattr(samples, "SHARD_BYTES", 11 * 3 * SIDE * SIDE)


@pytest.fixture
def drawn(small_shards, tmp_path) -> SampleSet:
    assert make(tmp_path) == (23, 5)
    return open_sets(tmp_path)[-1]


def test_shards_hold_whole_batches_in_image_order(drawn):
    assert (len(drawn), drawn.shards) == (23, 3)
    assert [drawn.numbers(shard) for shard in range(3)] == [range(10), range(10, 20), range(20, 23)]
    assert [image[0, 0, 0].item() for shard in range(3) for image in drawn.images(shard)] == list(range(23))
    assert torch.equal(drawn.labels_N, torch.arange(23) % CLASSES) and torch.equal(drawn.seeds_N2[:, 1], torch.arange(23))
    assert drawn.finite_N.sum() == 18 and drawn.captions_N is drawn.subjects_N is None
    assert drawn.settings["measured"] == 23 and drawn.settings["images"] == 23
    assert [len(batch) for batch in drawn.batches(4)] == [4, 4, 2, 4, 4, 2, 3]
    assert drawn.picked(torch.tensor([21, 3, 12]))[:, 0, 0, 0].tolist() == [21, 3, 12]


def test_no_more_than_one_shard_is_in_memory(drawn, monkeypatch):
    alive: list[weakref.ref] = []
    most = 0
    images = SampleSet.images

    def counted(self, shard):
        nonlocal most
        loaded = images(self, shard).clone()
        alive.append(weakref.ref(loaded.untyped_storage()))
        gc.collect()
        most = max(most, sum(each() is not None for each in alive))
        return loaded

    monkeypatch.setattr(SampleSet, "images", counted)
    kept = [batch[:1] for batch in drawn.batches(4)]  # a batch that is kept does not keep its shard
    assert len(kept) == 7 and len(alive) == 3 and most == 1


def test_a_finished_set_is_put_together_again_without_drawing(small_shards, tmp_path):
    make(tmp_path)
    first = files_of(tmp_path / FINAL)
    for file in (tmp_path / FINAL).iterdir():
        file.unlink()
    again = Stub()
    make(tmp_path, drawer=again)
    assert again.drawn == []
    assert {name: text for name, text in files_of(tmp_path / FINAL).items() if name != SETTINGS_FILE}.items() <= first.items()


def test_batches_of_a_shard_that_is_there_are_not_drawn_again(small_shards, tmp_path):
    """A kill while shards are put together: the first is done and its batches are gone, the others are as they were."""
    make(tmp_path)
    state = tmp_path / "state"
    (state / shard_name(1)).unlink()
    (tmp_path / FINAL / shard_name(1)).unlink()
    again = Stub()
    for file in (tmp_path / FINAL).iterdir():
        file.unlink()
    make(tmp_path, drawer=again)
    assert again.drawn == list(range(10, 20))
    assert not list(state.glob("images-*"))


def test_shards_take_their_room_once(drawn, tmp_path):
    for shard in range(3):
        assert (tmp_path / FINAL / shard_name(shard)).samefile(tmp_path / "state" / shard_name(shard))


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "settings", "no settings"])
def test_damage_is_one_line_that_names_the_file(drawn, tmp_path, damage):
    path = tmp_path / FINAL / (SETTINGS_FILE if "settings" in damage else shard_name(1))
    content = path.read_bytes()
    path.unlink()
    if damage == "flipped":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage in ("cut", "settings"):
        path.write_bytes(content[:100])
    with pytest.raises(DataError, match=rf"{path.name}: .*; make the samples again$") as error:
        for _ in open_sets(tmp_path)[-1].batches(8):
            pass
    assert "\n" not in str(error.value)


def test_columns_of_a_cut_shard_are_refused(drawn, tmp_path):
    path = tmp_path / FINAL / shard_name(2)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"samples-00002.safetensors: missing or damaged"):
        _ = open_sets(tmp_path)[-1].labels_N


def test_snapshots_come_first_in_order_of_steps(tmp_path):
    for name in (set_name(900_000), FINAL, set_name(1_200_000), set_name(40)):
        (tmp_path / name).mkdir()
        (tmp_path / name / SETTINGS_FILE).write_text(json.dumps({"shards": [], "step": 7}))
    assert [each.name for each in open_sets(tmp_path)] == ["step-0000000040", "step-0000900000", "step-0001200000", "final"]
    assert open_sets(tmp_path)[0].step == 7


def test_a_shard_is_at_least_one_batch():
    assert samples.images_per_shard(64, 3 * 256 * 256) == 2048
    assert samples.images_per_shard(4096, 3 * 256 * 256) == 4096
    assert samples.images_per_shard(100, 3 * 256 * 256) == 2000


def test_a_deadline_is_kept_by_the_length_of_a_batch(tmp_path, monkeypatch):
    """The first batch takes longer than what is left after it, so there is no second."""
    monkeypatch.setenv(DEADLINE, str(time.time() + 3600))
    drawer = Stub()
    monkeypatch.setattr(Crew, "takes", lambda self, seconds: takes(self, 7200.0))
    with pytest.raises(Interrupted):
        make(tmp_path, drawer=drawer)
    assert drawer.drawn == list(range(5)) and not (tmp_path / FINAL / SETTINGS_FILE).exists()


takes = Crew.takes
