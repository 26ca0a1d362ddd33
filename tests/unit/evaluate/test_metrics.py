"""Metrics against closed forms and second opinions, and intervals against repetition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch_fidelity
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from torch_fidelity.metric_fid import fid_statistics_to_metric

from mudit.config.schema import DataReference, EvaluateSection
from mudit.errors import ConfigError
from mudit.evaluate import frechet
from mudit.evaluate.frechet import Gaussian, Moments, Reference, estimate, leave_group_out, merged
from mudit.evaluate.intervals import jackknife, student, wilson
from mudit.evaluate.metrics import frechet_distance, inception_score, neighbour_metrics

from . import adm

SECTION = EvaluateSection(
    extractor="digits-cnn",
    weights=None,
    reference=DataReference(kind="data", images=None),
    protocol="any",
    kid_subsets=10,
    kid_subset_size=100,
    neighbours=3,
)


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
    first, second = (Gaussian.of(gaussian(400, mean, std, 0).numpy()) for mean, std in ((MEAN_1, STD_1), (MEAN_2, STD_2)))
    assert frechet_distance(first, second) == pytest.approx(closed_form(MEAN_1, STD_1, MEAN_2, STD_2), rel=1e-4)


def test_our_distance_gives_the_closed_form():
    first, second = (gaussian(300, mean, std, 2).numpy() for mean, std in ((MEAN_1, STD_1), (MEAN_2, STD_2)))
    expected = closed_form(MEAN_1, STD_1, MEAN_2, STD_2)
    assert Reference(Gaussian.of(first)).distance(second) == pytest.approx(expected, rel=1e-5)
    assert Reference(Gaussian.of(second)).distance(first) == pytest.approx(expected, rel=1e-5)
    assert Reference(Gaussian.of(first)).distance(first) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("count", "dims"), [(500, 16), (40, 64)], ids=["full rank", "singular"])
def test_three_implementations_agree(count, dims):
    rng = np.random.default_rng(0)
    mixing_DD = rng.standard_normal((dims, dims)) / dims**0.5
    first_ND, second_ND = rng.standard_normal((count, dims)), rng.standard_normal((count, dims)) @ mixing_DD + 0.1
    first, second = Gaussian.of(first_ND), Gaussian.of(second_ND)
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
    reference = Gaussian.of(rng.standard_normal((300, 64)) * 1.5)
    features_ND = rng.standard_normal((count, 64)) + 0.2
    root_DD = sqrtm(reference.covariance_DD).real
    other = Gaussian.of(features_ND)
    root = np.sqrt(np.linalg.eigvalsh(root_DD @ other.covariance_DD @ root_DD).clip(min=0)).sum()
    shift_D = other.mean_D - reference.mean_D
    expected = shift_D @ shift_D + np.trace(other.covariance_DD) + np.trace(reference.covariance_DD) - 2 * root
    assert Reference(reference).distance(features_ND) == pytest.approx(expected, rel=1e-7)


def test_identical_sets_are_perfect():
    features = gaussian(300, MEAN_1, STD_1, 0)
    figures = neighbour_metrics(features, features.clone(), SECTION)
    assert (figures["precision"], figures["recall"]) == (1, 1)
    assert abs(figures["kernel_distance"]) < 4 * figures["kernel_distance_std"]


def test_precision_falls_with_outliers_and_recall_with_missing_modes():
    two_modes = torch.cat([gaussian(150, [-9, 0], [1, 1], 0), gaussian(150, [9, 0], [1, 1], 1)])
    one_mode, elsewhere = gaussian(300, [-9, 0], [1, 1], 2), gaussian(300, [0, 90], [1, 1], 3)
    dropped = neighbour_metrics(one_mode, two_modes, SECTION)
    assert dropped["precision"] > 0.9
    assert dropped["recall"] < 0.6
    assert neighbour_metrics(elsewhere, two_modes, SECTION)["precision"] == 0


def test_metrics_are_repeatable():
    sets = gaussian(300, MEAN_1, STD_1, 0), gaussian(300, MEAN_2, STD_2, 1)
    assert neighbour_metrics(*sets, SECTION) == neighbour_metrics(*sets, SECTION)


@pytest.mark.parametrize(("name", "value"), [("kid_subset_size", 51), ("neighbours", 50)])
def test_more_images_than_there_are_is_a_config_error(name, value):
    section = SECTION.model_copy(update={"kid_subset_size": 20, name: value})
    with pytest.raises(ConfigError, match=rf"evaluate\.{name} {value}: the smaller set has 50 images"):
        neighbour_metrics(gaussian(50, MEAN_1, STD_1, 0), gaussian(80, MEAN_2, STD_2, 1), section)


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
    reference = Reference(Gaussian.of(rng.standard_normal((2000, 8))))
    values, halves = [], []
    for _ in range(60):
        features_ND = 1.3 * rng.standard_normal((240, 8)) + 0.3
        values.append(reference.distance(features_ND))
        low, high = jackknife(values[-1], leave_group_out(features_ND, reference, 20))
        halves.append((high - low) / 2)
    true_half = 2.093 * np.std(values, ddof=1)  # t quantile of 19 degrees of freedom
    assert 0.75 < np.median(halves) / true_half < 1.35


@settings(max_examples=30)
@given(cuts=st.lists(st.integers(1, 199), max_size=5, unique=True), offset=st.sampled_from([0.0, 1e3]))
def test_moments_of_pieces_are_those_of_the_whole(cuts, offset):
    features_ND = np.random.default_rng(0).standard_normal((200, 5)) * [1, 2, 3, 4, 5] + offset
    parts = [Moments.of(part_ND) for part_ND in np.split(features_ND, sorted(cuts))]
    whole = merged(parts)
    assert whole.images == 200
    assert np.allclose(whole.gaussian.mean_D, features_ND.mean(axis=0), rtol=1e-12)
    assert np.allclose(whole.gaussian.covariance_DD, np.cov(features_ND, rowvar=False), rtol=1e-9, atol=1e-9)
    if len(parts) > 1 and parts[0].images < 199:
        rest = whole.without(parts[0])
        assert rest.images == 200 - parts[0].images
        assert np.allclose(rest.gaussian.covariance_DD, np.cov(features_ND[parts[0].images :], rowvar=False), rtol=1e-6, atol=1e-6)


def test_moments_of_many_images_are_taken_in_blocks(monkeypatch):
    features_ND = np.random.default_rng(0).standard_normal((300, 5)).astype(np.float32)
    whole = Moments.of(features_ND)
    monkeypatch.setattr("mudit.evaluate.frechet._ROWS", 64)
    blocks = Moments.of(features_ND)
    assert np.allclose(blocks.scatter_DD, whole.scatter_DD, rtol=1e-12) and whole.images == blocks.images == 300


@pytest.mark.parametrize("dims", [8, 230])
def test_leaving_groups_out_of_moments_is_leaving_images_out(dims):
    """With more dimensions than images are left, images are left out; otherwise their moments."""
    rng = np.random.default_rng(0)
    reference, features_ND = Reference(Gaussian.of(rng.standard_normal((500, dims)))), rng.standard_normal((240, dims)) + 0.1
    images = [reference.distance(np.delete(features_ND, block, axis=0)) for block in np.array_split(np.arange(240), 20)]
    assert leave_group_out(features_ND, reference, 20) == pytest.approx(images, rel=1e-9)


@pytest.mark.parametrize(("dims", "count", "scale"), [(40, 400, 1.3), (64, 1600, 1.02)])
def test_half_widths_to_first_order_are_those_of_exact_distances(monkeypatch, dims, count, scale):
    """Ten images per dimension, where the expansion begins, and more; spectra fall, as those of real features do."""
    rng = np.random.default_rng(0)
    spectrum_D = np.arange(1, dims + 1) ** -0.5
    reference = Reference(Gaussian.of(rng.standard_normal((5000, dims)) * spectrum_D))
    features_ND = (scale * rng.standard_normal((count, dims)) + 0.05) * spectrum_D
    exact = estimate(features_ND, reference, 20)
    assert not exact.first_order and exact.without_group == leave_group_out(features_ND, reference, 20)
    monkeypatch.setattr(frechet, "EXACT_DIMENSIONS", dims - 1)
    first_order = estimate(features_ND, reference, 20)
    assert first_order.first_order and first_order.distance == pytest.approx(exact.distance, rel=1e-9)
    halves = [np.ptp(jackknife(each.distance, each.without_group)) for each in (exact, first_order)]
    assert 0.97 < halves[1] / halves[0] < 1.06
    fewer = estimate(features_ND[: 10 * dims - 1], reference, 20)
    assert not fewer.first_order
    assert fewer.without_group == pytest.approx(leave_group_out(features_ND[: 10 * dims - 1], reference, 20), rel=1e-9)


def test_precision_and_recall_of_points_on_a_line():
    """k = 1. Real points 0, 1, 10 have balls of radius 1, 1 and 9; generated ones 1.5, 4, 30 of 2.5, 2.5 and 26.

    1.5 and 4 lie in a real ball (10's reaches down to 1), 30 in none. 1 lies in the ball of 1.5, 10 and 0 ... 0 is 1.5 from 1.5,
    inside; 10 is 6 from 4, outside, and 20 from 30, inside.
    """
    real_ND, generated_ND = torch.tensor([[0.0], [1.0], [10.0]]), torch.tensor([[1.5], [4.0], [30.0]])
    section = SECTION.model_copy(update={"neighbours": 1, "kid_subset_size": 3})
    figures = neighbour_metrics(generated_ND, real_ND, section)
    assert (figures["precision"], figures["recall"]) == (pytest.approx(2 / 3), 1)
    assert neighbour_metrics(torch.tensor([[0.5], [0.6], [0.7]]), real_ND, section)["recall"] == 0
    assert adm.precision_recall(generated_ND.numpy(), real_ND.numpy(), 1) == pytest.approx((2 / 3, 1))


def test_inception_score_of_known_distributions():
    """K classes, each sure and equally frequent: K. The same answer for every image, sure or not: 1."""
    sure_NK = 100.0 * torch.eye(5).repeat(40, 1)
    assert inception_score(sure_NK) == pytest.approx((5, 0), abs=1e-9)
    assert inception_score(sure_NK[:1].repeat(200, 1)) == pytest.approx((1, 0))
    assert inception_score(torch.zeros(200, 5)) == pytest.approx((1, 0))
    two_NK = torch.cat([sure_NK[:1].repeat(100, 1), sure_NK[1:2].repeat(100, 1)])
    assert inception_score(two_NK)[0] == pytest.approx(1), "splits are in image order: each of these ten has one class"
    with pytest.raises(ConfigError, match=r"sample\.images 9: the inception score needs 10 or more"):
        inception_score(torch.zeros(9, 5))


def test_interval_of_a_score_is_the_jackknife_over_its_splits():
    scores = np.random.default_rng(0).uniform(3, 5, 10)
    without = [np.delete(scores, split).mean() for split in range(10)]
    assert student(scores.mean(), scores.std() / 3, 10) == pytest.approx(jackknife(scores.mean(), without))


def test_every_figure_is_that_of_the_adm_evaluator():
    """An independent version of its formulas, on random features: 500 images are ten splits of 50."""
    rng = np.random.default_rng(3)
    mixing_DD = rng.standard_normal((12, 12)) / 3
    generated_ND = (rng.standard_normal((500, 12)) @ mixing_DD + 0.2).astype(np.float32)
    real_ND = (rng.standard_normal((400, 12)) @ mixing_DD * 1.3).astype(np.float32)
    weights_DK = rng.standard_normal((12, 7)).astype(np.float32)
    first, second = Gaussian.of(generated_ND), Gaussian.of(real_ND)
    expected = adm.frechet_distance(generated_ND, real_ND)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)
    assert Reference(second).distance(generated_ND) == pytest.approx(expected, rel=1e-6)
    score, _ = inception_score(torch.from_numpy(generated_ND @ weights_DK))
    assert score == pytest.approx(adm.inception_score(generated_ND, weights_DK, images_per_split=50), rel=1e-6)
    figures = neighbour_metrics(torch.from_numpy(generated_ND), torch.from_numpy(real_ND), SECTION)
    assert (figures["precision"], figures["recall"]) == pytest.approx(adm.precision_recall(generated_ND, real_ND, 3), abs=1e-6)
