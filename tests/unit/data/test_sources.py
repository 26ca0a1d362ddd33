"""Sources: digits, and image folders with damaged files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from mudit.data.encoders import Identity, open_encoder
from mudit.data.images import UnreadableImageError
from mudit.data.reader import LatentStore
from mudit.data.sources import ClassFolders, SklearnDigits
from mudit.errors import ConfigError, DataError

from .conftest import section, write_store

FOLDER = section(source={"kind": "class-folders", "path": "images"}, image_size=16, flip=True, shard_images=4, validation_images=4)


@pytest.fixture
def images(tmp_path):
    """Two classes of eight noise images of several sizes and modes, and a file that is no image."""
    rng = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        folder = tmp_path / "images" / name / "deep"
        folder.mkdir(parents=True)
        for index in range(8):
            pixels = rng.integers(0, 256, (20 + index, 33, 3), dtype=np.uint8)
            Image.fromarray(pixels).convert("L" if index % 2 else "RGB").save(folder / f"{index}.png")
        (folder / "notes.txt").write_text("not an image")
    return tmp_path / "images"


def write(images, tmp_path, **changes):
    source = FOLDER.source.model_copy(update={"path": str(images)})
    return write_store(FOLDER.model_copy(update={"source": source, **changes}), tmp_path / "store", tmp_path / "state")


def test_digits_span_minus_one_to_one():
    digits = SklearnDigits(8)
    image = digits.read(0)
    assert (image.shape, image.dtype, len(digits.names), digits.class_names[3]) == ((1, 8, 8), np.float32, 1797, "3")
    assert set(np.unique(image * 8)) <= set(range(-8, 9))
    assert (image.min(), max(digits.read(i).max() for i in range(20))) == (-1, 1)


def test_digits_have_one_size():
    with pytest.raises(ConfigError, match=r"data\.image_size 16"):
        SklearnDigits(16)


def test_folder_of_classes_becomes_a_store(images, tmp_path):
    info = write(images, tmp_path)
    assert (info.class_names, info.latent_shape, info.corrupt.count) == (["cats", "dogs"], (3, 16, 16), 0)
    assert (info.splits["train"].count, info.splits["validation"].count) == (12, 4)
    split = LatentStore.open(tmp_path / "store").split("validation")
    assert sorted(split.labels(torch.arange(4)).tolist()) == [0, 0, 1, 1]


def test_corrupt_images_are_named_and_counted(images, tmp_path):
    (images / "cats" / "deep" / "3.png").write_bytes(b"\x89PNG not really")
    whole = (images / "dogs" / "deep" / "5.png").read_bytes()
    (images / "dogs" / "deep" / "5.png").write_bytes(whole[: len(whole) // 2])
    info = write(images, tmp_path, max_corrupt_share=0.2)
    assert (info.corrupt.count, info.corrupt.names) == (2, ["cats/deep/3.png", "dogs/deep/5.png"])
    assert info.splits["train"].count + info.splits["validation"].count == 14


def test_too_many_corrupt_images_stop_the_preparation(images, tmp_path):
    (images / "cats" / "deep" / "3.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of the first \d+ images \(of 16\) cannot be read: cats/deep/3\.png; .*max_corrupt"):
        write(images, tmp_path)
    assert not any((tmp_path / "store").iterdir())


def test_unreadable_image(images):
    (images / "cats" / "deep" / "0.png").write_bytes(b"junk")
    with pytest.raises(UnreadableImageError):
        ClassFolders(images, 16).read(0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such folder; it must hold one sub-folder"),
        (lambda path: path.mkdir(), "no class folders"),
        (lambda path: (path / "cats").mkdir(parents=True), "class folder cats has no images"),
    ],
)
def test_bad_folders_are_explained(tmp_path, make, message):
    make(tmp_path / "images")
    with pytest.raises(DataError, match=message):
        ClassFolders(tmp_path / "images", 16)


def test_missing_encoder_path_is_a_config_error():
    with pytest.raises(ConfigError, match=r"data\.encoder_path is null"):
        open_encoder(FOLDER.model_copy(update={"encoder": "autoencoder-kl"}))


def test_missing_autoencoder_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match=r"no config\.json; data\.encoder_path"):
        open_encoder(FOLDER.model_copy(update={"encoder": "autoencoder-kl", "encoder_path": str(tmp_path)}))


def test_empty_validation_split_is_explained(images, tmp_path):
    write(images, tmp_path, validation_images=0)
    with pytest.raises(DataError, match="split validation is empty"):
        LatentStore.open(tmp_path / "store").split("validation")


def test_identity_scales_on_the_way_out(images, tmp_path):
    write(images, tmp_path, latent_scale=0.25)
    opened = LatentStore.open(tmp_path / "store")
    split = opened.split("train")
    latents = split.latents(torch.arange(2))
    torch.testing.assert_close(latents, 0.25 * split.gather(torch.arange(2)).mean_BCHW)
    assert torch.equal(opened.encoder().decode(latents), Identity(1.0).decode(latents / 0.25))
