"""The latent store of labelled images: what is written is what is read, from many shards, and damage is named."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from mudit.data.encoders import AutoencoderKL, Identity, open_encoder, to_uint8
from mudit.data.format import STORE_FILE, read_info
from mudit.data.reader import LatentStore
from mudit.data.sources import SklearnDigits
from mudit.data.tensors import save_tensors
from mudit.data.writer import StoreWriter
from mudit.errors import DataError

from .conftest import section

DIGITS = section()


def write(folder, data=DIGITS, encoder=None):
    out = folder / "store"
    out.mkdir()
    encoder = encoder or Identity(data.latent_scale)
    StoreWriter(data, SklearnDigits(8), encoder, out, folder / "state").write(lambda images: None)
    return out


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write(tmp_path_factory.mktemp("digits"))


@pytest.fixture
def copied(store, tmp_path):
    return shutil.copytree(store, tmp_path / "store")


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    from diffusers import AutoencoderKL as Network

    folder = tmp_path_factory.mktemp("kl") / "vae"
    torch.manual_seed(0)
    network = Network(
        in_channels=1,
        out_channels=1,
        latent_channels=2,
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=2,
        sample_size=8,
    )
    network.save_pretrained(folder)
    return folder


def test_digits_are_stored_exactly_once(store):
    digits = SklearnDigits(8)
    opened = LatentStore.open(store)
    assert [opened.info.splits[name].count for name in ("train", "validation")] == [1500, 297]
    assert [shard.count for shard in opened.info.splits["train"].shards] == [512, 512, 476]
    pairs = []
    for name in ("train", "validation"):
        split = opened.split(name)
        latents = split.gather(torch.arange(len(split)))
        assert (latents.mean_BCHW.dtype, latents.labels_B.dtype, latents.std_BCHW) == (torch.float32, torch.int64, None)
        pairs += [(int(y), x.numpy().tobytes()) for x, y in zip(latents.mean_BCHW, latents.labels_B, strict=True)]
    expected = [(int(y), digits.read(i).tobytes()) for i, y in enumerate(digits.labels_n)]
    assert sorted(pairs) == sorted(expected)
    opened.verify()


def test_gather_equals_whole_split_in_any_order_with_repeats(store):
    split = LatentStore.open(store).split("train")
    whole = split.gather(torch.arange(len(split)))
    indices = torch.tensor([1499, 0, 511, 512, 1023, 1024, 0, 700, 1499])
    some = split.gather(indices)
    assert torch.equal(some.mean_BCHW, whole.mean_BCHW[indices])
    assert torch.equal(some.labels_B, whole.labels_B[indices])
    assert torch.equal(split.labels(indices), whole.labels_B[indices])
    assert torch.equal(split.latents(indices), some.mean_BCHW)
    assert split.latents(torch.arange(0)).shape == (0, 1, 8, 8)


@pytest.mark.parametrize("index", [-1, 1500])
def test_gather_outside_the_split_is_refused(store, index):
    with pytest.raises(IndexError, match=r"outside 0\.\.1499"):
        LatentStore.open(store).split("train").gather(torch.tensor([index]))


def test_gathered_tensors_are_copies(store):
    split = LatentStore.open(store).split("train")
    split.latents(torch.arange(4)).fill_(7)
    assert split.latents(torch.arange(4)).max() <= 1


def test_writing_is_deterministic(store, tmp_path):
    again = write(tmp_path)
    assert {f.name: f.read_bytes() for f in again.iterdir()} == {f.name: f.read_bytes() for f in store.iterdir()}


def test_autoencoder_moments_flips_and_scale(autoencoder, tmp_path):
    data = DIGITS.model_copy(update={"encoder": "autoencoder-kl", "latent_scale": 0.5, "flip": True})
    encoder = AutoencoderKL(autoencoder, data.latent_scale)
    opened = LatentStore.open(write(tmp_path, data, encoder))
    assert opened.info.latent_shape == (2, 4, 4)
    split = opened.split("train")
    indices = torch.tensor([3, 900])
    moments = split.gather(indices)
    assert moments.std_BCHW is not None
    assert moments.std_BCHW.min() > 0
    noise = torch.randn(2, 2, 4, 4)
    torch.testing.assert_close(split.latents(indices, noise), 0.5 * (moments.mean_BCHW + moments.std_BCHW * noise))
    torch.testing.assert_close(split.latents(indices), 0.5 * moments.mean_BCHW)
    one_flipped = split.latents(indices, noise, torch.tensor([True, False]))
    assert not torch.allclose(one_flipped[0], split.latents(indices, noise)[0])
    torch.testing.assert_close(one_flipped[1], split.latents(indices, noise)[1])


def test_latents_are_moved_before_they_are_scaled_and_back_on_the_way_out(autoencoder, tmp_path):
    """As those of SD3's autoencoder. What is stored are the moments as the encoder gives them."""
    changes = {"encoder": "autoencoder-kl", "encoder_path": str(autoencoder), "latent_scale": 0.5}
    plain, moved = DIGITS.model_copy(update=changes), DIGITS.model_copy(update={**changes, "latent_shift": 0.75})
    for name in ("plain", "moved"):
        (tmp_path / name).mkdir()
    stores = [
        LatentStore.open(write(tmp_path / name, data, open_encoder(data))) for name, data in (("plain", plain), ("moved", moved))
    ]
    assert [store.info.latent_shift for store in stores] == [0.0, 0.75]
    first, second = (store.split("train") for store in stores)
    indices, noise = torch.arange(4), torch.randn(4, 2, 4, 4)
    assert torch.equal(first.gather(indices).mean_BCHW, second.gather(indices).mean_BCHW)
    torch.testing.assert_close(second.latents(indices, noise), first.latents(indices, noise) - 0.5 * 0.75)
    images = [store.encoder().decode(store.split("train").latents(indices)).int() for store in stores]
    assert (images[0] - images[1]).abs().max() <= 1


def test_an_autoencoder_with_a_shift_of_its_own_must_be_given_it(autoencoder, tmp_path):
    folder = Path(shutil.copytree(autoencoder, tmp_path / "vae"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"shift_factor": 0.0609}))
    with pytest.raises(DataError, match=r"vae: its config\.json has shift_factor 0\.0609, data\.latent_shift says 0; set that"):
        AutoencoderKL(folder, 1.5305)
    assert AutoencoderKL(folder, 1.5305, 0.0609).latent_shift == 0.0609


def test_flipped_moments_are_those_of_mirrored_pixels(tmp_path):
    split = LatentStore.open(write(tmp_path, DIGITS.model_copy(update={"flip": True}))).split("train")
    indices = torch.arange(5)
    assert torch.equal(split.latents(indices, flip_B=torch.ones(5, dtype=torch.bool)), split.latents(indices).flip(-1))


def test_store_carries_its_decoder(autoencoder, tmp_path):
    data = DIGITS.model_copy(update={"encoder": "autoencoder-kl", "latent_scale": 0.5})
    encoder = AutoencoderKL(autoencoder, 0.5)
    folder = write(tmp_path, data, encoder)
    latents = LatentStore.open(folder).split("train").latents(torch.arange(3))
    decoded = LatentStore.open(folder).encoder().decode(latents)
    assert (decoded.dtype, decoded.shape) == (torch.uint8, (3, 1, 8, 8))
    assert torch.equal(decoded, encoder.decode(latents))
    (folder / "encoder" / "config.json").write_text("{}")
    with pytest.raises(DataError, match="not "):
        LatentStore.open(folder).encoder()


def test_identity_decodes_to_the_pixels_it_was_given(store):
    opened = LatentStore.open(store)
    latents = opened.split("train").latents(torch.arange(4))
    assert torch.equal(opened.encoder().decode(latents), to_uint8(latents))
    assert torch.equal(to_uint8(torch.tensor([-1.0, 0.0, 1.0, -9.0, 9.0])), torch.tensor([0, 128, 255, 0, 255], dtype=torch.uint8))


def test_killed_preparation_goes_on_at_the_first_missing_shard(store, tmp_path, monkeypatch):
    data, out, state = DIGITS, tmp_path / "store", tmp_path / "state"
    out.mkdir()
    source = SklearnDigits(8)

    class KilledError(Exception):
        pass

    def stop_at_second(images, seen=[]):  # noqa: B006
        seen.append(images)
        if len(seen) == 2:
            raise KilledError

    with pytest.raises(KilledError):
        StoreWriter(data, source, Identity(1.0), out, state).write(stop_at_second)
    assert not any(out.iterdir())
    reads = []
    monkeypatch.setattr(source, "read", lambda index: reads.append(index) or SklearnDigits.read(source, index))
    StoreWriter(data, source, Identity(1.0), out, state).write(lambda images: None)
    assert len(reads) == 1797 - 1024
    assert read_info(out) == read_info(store)


def test_changed_settings_throw_away_unfinished_shards(tmp_path):
    out, state = tmp_path / "store", tmp_path / "state"
    out.mkdir()
    with pytest.raises(RuntimeError):
        StoreWriter(DIGITS, SklearnDigits(8), Identity(1.0), out, state).write(lambda images: (_ for _ in ()).throw(RuntimeError))
    other = DIGITS.model_copy(update={"split_seed": 1})
    StoreWriter(other, SklearnDigits(8), Identity(1.0), out, state).write(lambda images: None)
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    assert read_info(out) == read_info(write(fresh, other))


def test_no_store(tmp_path):
    with pytest.raises(DataError, match="no latent store here; run: mudit data EXPERIMENT"):
        LatentStore.open(tmp_path)
    with pytest.raises(DataError, match=r"run: mudit data digits$"):
        LatentStore.open(tmp_path / "results" / "digits" / "data")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / STORE_FILE).write_text("{"), "not valid JSON"),
        (lambda f: (f / STORE_FILE).write_text('{"format": "other"}'), "not a mudit-latents store of version 4"),
        (
            lambda f: (f / STORE_FILE).write_text(json.dumps({**json.loads((f / STORE_FILE).read_text()), "flip": "?"})),
            'flip: "\\?" must be a valid boolean',
        ),
        (lambda f: (f / "train-00001.safetensors").unlink(), "train-00001.safetensors: shard is missing"),
        (lambda f: truncate(f / "train-00001.safetensors"), "train-00001.safetensors: shard has 1000 bytes"),
        (lambda f: overwrite(f / "train-00001.safetensors", 0), "train-00001.safetensors: not a safetensors file"),
        (lambda f: overwrite(f / "train-00001.safetensors", 10), "train-00001.safetensors: damaged safetensors header"),
    ],
)
def test_damage_is_named_when_a_split_is_opened(copied, damage, message):
    damage(copied)
    with pytest.raises(DataError, match=message) as caught:
        LatentStore.open(copied).split("train")
    assert "\n" not in str(caught.value)


def test_changed_bytes_are_found_by_verify(copied):
    overwrite(copied / "train-00001.safetensors", -100)
    with pytest.raises(DataError, match=r"train-00001\.safetensors: contents differ from the checksum"):
        LatentStore.open(copied).verify()


def test_gather_over_many_shards_is_fast(tmp_path):
    import time

    split = LatentStore.open(write(tmp_path, DIGITS.model_copy(update={"shard_images": 4}))).split("train")
    indices = torch.from_numpy(np.random.default_rng(0).integers(0, 1500, 256))
    split.gather(indices)
    start = time.perf_counter()
    for _ in range(5):
        split.gather(indices)
    assert (time.perf_counter() - start) / 5 < 0.1  # 375 shards; about 2 ms on an idle core


def truncate(path):
    with path.open("r+b") as file:
        file.truncate(1000)


def overwrite(path, position):
    """Flips bytes at `position` (from the end if negative) without changing the size."""
    data = bytearray(path.read_bytes())
    for offset in range(8):
        data[position + offset] ^= 0xFF
    path.write_bytes(bytes(data))


def test_full_disk_is_an_os_error_that_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full(tensors, path):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("mudit.data.tensors.save_file", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write(tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert not any((tmp_path / "store").iterdir())
    monkeypatch.undo()
    StoreWriter(DIGITS, SklearnDigits(8), Identity(1.0), tmp_path / "store", tmp_path / "state").write(lambda images: None)
    LatentStore.open(tmp_path / "store").verify()


def test_missing_folder_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        save_tensors({"a": torch.zeros(2)}, tmp_path / "absent" / "file.safetensors")
