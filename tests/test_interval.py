"""Bootstrap intervals against SciPy's and against the normal theory."""

import numpy as np
import pytest
import scipy.stats
import torch

from fragility.interval import difference_interval, mean_interval


def test_as_scipys_percentile_bootstrap():
    samples = torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64).exp()
    mean, low, high = mean_interval(samples)
    expected = scipy.stats.bootstrap(
        (samples.numpy(),), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert mean == pytest.approx(samples.mean().item(), abs=1e-14)
    assert low == pytest.approx(expected.low, abs=0.02)
    assert high == pytest.approx(expected.high, abs=0.02)


def test_width_of_a_large_sample():
    samples = torch.randn(2, 400, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    _, low, high = mean_interval(samples, level=0.9)
    expected = 2 * 1.645 * samples.std(-1) / 20
    np.testing.assert_allclose(high - low, expected, rtol=0.05)


def test_draws_are_paired_and_seeded():
    samples = torch.rand(30, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    shifted = mean_interval(torch.stack([samples, samples + 1]))
    assert shifted.low[1] - shifted.low[0] == pytest.approx(1)
    assert mean_interval(samples).low == mean_interval(samples).low
    assert mean_interval(samples, seed=1).low != mean_interval(samples).low


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        (torch.rand(1), {}, "samples: expected at least two"),
        (torch.tensor(1.0), {}, "samples: expected at least two"),
        (torch.tensor([1.0, torch.nan]), {}, "samples: expected numbers, got NaN"),
        (torch.rand(3), {"level": 1.0}, "level: expected a share"),
        (torch.rand(3), {"draws": 0}, "draws: expected an integer >= 1"),
    ],
)
def test_bad_input(samples, options, message):
    with pytest.raises(ValueError, match=message):
        mean_interval(samples, **options)


def test_the_difference_of_two_samples_is_scipys_welch():
    chance = np.random.default_rng(3)
    a, b = chance.normal(1, 2, 30), chance.normal(0, 0.5, 12)
    found = difference_interval(a, b, level=0.9)
    expected = scipy.stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.9)
    assert found.mean == pytest.approx(a.mean() - b.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert difference_interval([2, 2], [1, 1, 1]) == (1, 1, 1)
