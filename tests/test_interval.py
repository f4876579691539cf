"""Intervals and tests of means: against SciPy where the code is ours, against simulations of what they promise."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch

from fragility.interval import FEW, chance_of, difference_interval, holm, mean_interval


@pytest.fixture
def chance():
    return np.random.default_rng(0)


def test_few_samples_have_students_interval(chance):
    samples = chance.exponential(size=(3, FEW - 1))
    found = mean_interval(samples, level=0.9)
    for row, mean, low, high in zip(samples, *found, strict=True):
        expected = scipy.stats.ttest_1samp(row, 0).confidence_interval(0.9)
        assert (mean, low, high) == pytest.approx((row.mean(), expected.low, expected.high))


def test_many_samples_have_an_interval_that_leans_where_they_do(chance):
    samples = chance.exponential(size=200)
    mean, low, high = mean_interval(torch.from_numpy(samples))
    # By the first Edgeworth correction [Hall1988]: both ends move by skewness (1 + 2 z^2) / 6 / n against Student's.
    z, size = 1.96, samples.std() / 200**0.5
    shift = size * scipy.stats.skew(samples) * (1 + 2 * z**2) / 6 / 200**0.5
    assert (mean, low, high) == pytest.approx(
        (samples.mean(), mean - z * size + shift, mean + z * size + shift), abs=0.01
    )
    assert (low + high) / 2 - mean == pytest.approx(shift, abs=0.0045)  # the percentile bootstrap's is half as large
    assert high - mean > mean - low
    assert mean_interval(samples) == (mean, low, high)
    assert mean_interval(3 * samples + 1) == pytest.approx((3 * mean + 1, 3 * low + 1, 3 * high + 1))


def test_a_shares_interval_inverts_the_binomial_test():
    for successes in (0, 3, 30):
        share, low, high = mean_interval(torch.arange(30) < successes)
        assert share == successes / 30
        for end, reached in ((low, successes - 1), (1 - high, 29 - successes)):
            tail = 1 - scipy.stats.binom.cdf(reached, 30, end)
            assert end == 0 or tail == pytest.approx(0.025)


def test_no_spread_no_width():
    assert mean_interval([2.0] * 30) == mean_interval([2, 2, 2]) == (2, 2, 2)
    assert difference_interval([2, 2], [1, 1, 1]) == (1, 1, 1)


def test_numbers_of_one_image_count_once(chance):
    images = np.repeat(np.arange(8), 5)
    samples = chance.normal(size=40)
    by_image = pd.Series(samples).groupby(images).mean()
    assert mean_interval(samples, images=images) == pytest.approx(mean_interval(by_image))
    both = mean_interval(np.stack([samples, samples + 1]), images=images)
    assert both.low == pytest.approx([mean_interval(by_image).low, mean_interval(by_image + 1).low])


def test_half_precision_is_read_in_double():
    samples = torch.rand(30, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert mean_interval(samples) == mean_interval(samples.double())


def test_the_difference_of_two_samples_is_scipys(chance):
    a, b = chance.normal(1, 2, 30), chance.normal(0, 0.5, 12)
    expected = scipy.stats.ttest_ind(a, b, equal_var=False)
    ends = expected.confidence_interval(0.9)
    assert difference_interval(a, b, level=0.9) == pytest.approx((a.mean() - b.mean(), ends.low, ends.high))
    assert chance_of(a, 0, b) == pytest.approx(1 - scipy.stats.ttest_ind(a, b, equal_var=False).pvalue / 2)
    assert chance_of(a, 1.5) == pytest.approx(scipy.stats.ttest_1samp(a, 1.5, alternative="less").pvalue)


def test_a_limit_at_the_intervals_end_has_the_chance_of_that_end(chance):
    few, shares = chance.normal(size=9), np.arange(50) < 20
    assert chance_of(few, mean_interval(few).high) == pytest.approx(0.025)
    assert chance_of(shares, mean_interval(shares).high) == pytest.approx(0.025)
    other = chance.normal(size=30)
    assert chance_of(few, difference_interval(few, other).high, other) == pytest.approx(0.025)
    assert chance_of(few, few.mean()) == pytest.approx(0.5)
    assert [chance_of([1.0, 1.0], limit) for limit in (0.9, 1.0, 1.1)] == [1, 1, 0]
    assert chance_of(shares, -0.1) == 1


def test_holms_example():
    # Adjusted by hand: 4 x .01, then 3 x .02, 2 x .03 and 1 x .04, none below the one before.
    assert holm([0.04, 0.01, 0.03, 0.02]).tolist() == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("samples", "options", "error", "message"),
    [
        ([1.0], {}, ValueError, "samples: expected at least two"),
        (torch.tensor(1.0), {}, ValueError, "samples: expected at least two"),
        ([1.0, np.nan], {}, ValueError, "samples: expected finite numbers"),
        ([1.0, np.inf], {}, ValueError, "samples: expected finite numbers"),
        ([1.0, 2.0], {"level": 1.0}, ValueError, "level: expected a share"),
        ([1.0, 2.0], {"images": ["a", "a"]}, ValueError, "samples: expected at least two"),
        ([1.0, 2.0], {"images": ["a"]}, ValueError, "images: expected 2 names"),
        (["a", "b"], {}, TypeError, "samples: expected real numbers"),
        ([1j, 2j], {}, TypeError, "samples: expected real numbers"),
    ],
)
def test_bad_input(samples, options, error, message):
    with pytest.raises(error, match=message):
        mean_interval(samples, **options)


def test_bad_input_of_two_samples():
    with pytest.raises(ValueError, match="b: expected at least two"):
        difference_interval([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="other: expected finite numbers"):
        chance_of([1.0, 2.0], 0, [1.0, np.nan])


@pytest.mark.slow
@pytest.mark.parametrize("n", [FEW, 64])
@pytest.mark.parametrize("kind", ["normal", "skewed"])
def test_the_bootstrap_covers_normal_and_skewed_samples(chance, n, kind):
    # Skewed: bounded with many small values, as an intersection.
    draw, mean = {
        "normal": (lambda: chance.normal(size=n), 0.0),
        "skewed": (lambda: chance.beta(0.5, 2, size=n), 0.2),
    }[kind]

    intervals = [mean_interval(draw()) for _ in range(2000)]
    share = np.mean([found.low <= mean <= found.high for found in intervals])
    assert share >= 0.93 - 3 * (0.95 * 0.05 / 2000) ** 0.5  # three standard errors
