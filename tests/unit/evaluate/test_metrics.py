"""Metrics against closed forms and second opinions, and intervals against repetition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch_fidelity
from scipy.linalg import sqrtm
from torch_fidelity.metric_fid import fid_statistics_to_metric

from mudit.config.schema import EvaluateSection
from mudit.errors import ConfigError
from mudit.evaluate.frechet import Moments, Reference, leave_group_out
from mudit.evaluate.intervals import jackknife, wilson
from mudit.evaluate.metrics import distribution_metrics

SECTION = EvaluateSection(extractor="digits-cnn", kid_subsets=10, kid_subset_size=100, neighbours=3)


def gaussian(count: int, mean_D, std_D, seed: int) -> torch.Tensor:
    """Features [N, D] whose sample mean and covariance are exactly the given ones."""
    raw_ND = np.random.default_rng(seed).standard_normal((count, len(mean_D)))
    centred_ND = raw_ND - raw_ND.mean(axis=0)
    white_ND = centred_ND @ np.linalg.inv(np.linalg.cholesky(np.cov(centred_ND, rowvar=False)).T)
    return torch.from_numpy(white_ND * np.asarray(std_D) + np.asarray(mean_D)).float()


def closed_form(mean_1, std_1, mean_2, std_2) -> float:
    """Fréchet distance of Gaussians with diagonal covariances."""
    return float(np.sum((np.array(mean_1) - mean_2) ** 2) + np.sum((np.array(std_1) - std_2) ** 2))


MEAN_1, STD_1 = [0.0, 1.0, -2.0, 0.5], [1.0, 2.0, 0.5, 3.0]
MEAN_2, STD_2 = [0.3, 1.0, -1.0, 0.0], [1.5, 1.0, 0.7, 2.0]


def test_torch_fidelity_gives_the_closed_form():
    figures = distribution_metrics(gaussian(400, MEAN_1, STD_1, 0), gaussian(300, MEAN_2, STD_2, 1), SECTION)
    assert figures["frechet_distance"] == pytest.approx(closed_form(MEAN_1, STD_1, MEAN_2, STD_2), rel=1e-4)


def test_our_distance_gives_the_closed_form():
    first, second = (gaussian(300, mean, std, 2).numpy() for mean, std in ((MEAN_1, STD_1), (MEAN_2, STD_2)))
    expected = closed_form(MEAN_1, STD_1, MEAN_2, STD_2)
    assert Reference(Moments.of(first)).distance(second) == pytest.approx(expected, rel=1e-5)
    assert Reference(Moments.of(second)).distance(first) == pytest.approx(expected, rel=1e-5)
    assert Reference(Moments.of(first)).distance(first) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("count", "dims"), [(500, 16), (40, 64)], ids=["full rank", "singular"])
def test_three_implementations_agree(count, dims):
    rng = np.random.default_rng(0)
    mixing_DD = rng.standard_normal((dims, dims)) / dims**0.5
    first_ND, second_ND = rng.standard_normal((count, dims)), rng.standard_normal((count, dims)) @ mixing_DD + 0.1
    first, second = Moments.of(first_ND), Moments.of(second_ND)
    ours = Reference(first).distance(second_ND)
    stats = [{"mu": moments.mean_D, "sigma": moments.covariance_DD} for moments in (first, second)]
    theirs = fid_statistics_to_metric(*stats, verbose=False)[torch_fidelity.KEY_METRIC_FID]
    shift_D = first.mean_D - second.mean_D
    root_DD = sqrtm(first.covariance_DD @ second.covariance_DD).real
    scipys = shift_D @ shift_D + np.trace(first.covariance_DD + second.covariance_DD - 2 * root_DD)
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert ours == pytest.approx(scipys, rel=1e-5 if count > dims else 1e-2)  # sqrtm itself is inexact on singular matrices


@pytest.mark.parametrize("count", [30, 63, 64, 65, 200])
def test_both_forms_of_the_distance_agree(count):
    """Fewer images than features take the smaller matrix; the distance must not notice.

    The tolerance is the expected value's: eigenvalues that are zero come out as 1e-16 and have roots of 1e-8.
    """
    rng = np.random.default_rng(1)
    reference = Moments.of(rng.standard_normal((300, 64)) * 1.5)
    features_ND = rng.standard_normal((count, 64)) + 0.2
    root_DD = sqrtm(reference.covariance_DD).real
    other = Moments.of(features_ND)
    root = np.sqrt(np.linalg.eigvalsh(root_DD @ other.covariance_DD @ root_DD).clip(min=0)).sum()
    shift_D = other.mean_D - reference.mean_D
    expected = shift_D @ shift_D + np.trace(other.covariance_DD) + np.trace(reference.covariance_DD) - 2 * root
    assert Reference(reference).distance(features_ND) == pytest.approx(expected, rel=1e-7)


def test_identical_sets_are_perfect():
    features = gaussian(300, MEAN_1, STD_1, 0)
    figures = distribution_metrics(features, features.clone(), SECTION)
    assert figures["frechet_distance"] == pytest.approx(0, abs=1e-4)
    assert (figures["precision"], figures["recall"]) == (1, 1)
    assert abs(figures["kernel_distance"]) < 4 * figures["kernel_distance_std"]


def test_precision_falls_with_outliers_and_recall_with_missing_modes():
    two_modes = torch.cat([gaussian(150, [-9, 0], [1, 1], 0), gaussian(150, [9, 0], [1, 1], 1)])
    one_mode, elsewhere = gaussian(300, [-9, 0], [1, 1], 2), gaussian(300, [0, 90], [1, 1], 3)
    dropped = distribution_metrics(one_mode, two_modes, SECTION)
    assert dropped["precision"] > 0.9
    assert dropped["recall"] < 0.6
    assert distribution_metrics(elsewhere, two_modes, SECTION)["precision"] == 0


def test_metrics_are_repeatable():
    sets = gaussian(300, MEAN_1, STD_1, 0), gaussian(300, MEAN_2, STD_2, 1)
    assert distribution_metrics(*sets, SECTION) == distribution_metrics(*sets, SECTION)


@pytest.mark.parametrize(("name", "value"), [("kid_subset_size", 51), ("neighbours", 50)])
def test_more_images_than_there_are_is_a_config_error(name, value):
    section = SECTION.model_copy(update={"kid_subset_size": 20, name: value})
    with pytest.raises(ConfigError, match=rf"evaluate\.{name} {value}: the smaller set has 50 images"):
        distribution_metrics(gaussian(50, MEAN_1, STD_1, 0), gaussian(80, MEAN_2, STD_2, 1), section)


def test_wilson_interval():
    assert wilson(8, 10) == pytest.approx([0.4901625, 0.9433178], abs=1e-6)
    assert wilson(0, 10)[0] == 0
    assert wilson(10, 10)[1] == 1


def test_jackknife_error_of_a_mean_is_the_textbook_one():
    values = np.random.default_rng(0).standard_normal(400)
    low, high = jackknife(values.mean(), [np.delete(values, block).mean() for block in np.array_split(np.arange(400), 400)])
    half = 1.96592 * values.std(ddof=1) / 20  # t quantile of 399 degrees of freedom
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=1e-5)


def test_jackknife_of_the_frechet_distance_matches_repetition():
    """Half-width over many sets against the true spread of the estimate over those sets."""
    rng = np.random.default_rng(0)
    reference = Reference(Moments.of(rng.standard_normal((2000, 8))))
    values, halves = [], []
    for _ in range(60):
        features_ND = 1.3 * rng.standard_normal((240, 8)) + 0.3
        values.append(reference.distance(features_ND))
        low, high = jackknife(values[-1], leave_group_out(features_ND, reference, 20))
        halves.append((high - low) / 2)
    true_half = 2.093 * np.std(values, ddof=1)  # t quantile of 19 degrees of freedom
    assert 0.75 < np.median(halves) / true_half < 1.35
