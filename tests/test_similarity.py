"""Similarity of maps against SciPy, against definitions and against maps worked out by hand."""

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from fragility.similarity import (
    center_of_mass,
    center_shift,
    kendall,
    neighborhood_recall,
    spearman,
    top_k_intersection,
    top_k_mask,
)

METRICS = [spearman, kendall, center_shift, lambda a, b: top_k_intersection(a, b, 1)]


def tied_rows() -> st.SearchStrategy[Tensor]:
    """Two rows of small integers, so that ties abound."""
    shapes = st.integers(2, 40).map(lambda n: (2, n))
    arrays = shapes.flatmap(lambda shape: hnp.arrays("float64", shape, elements=st.integers(-3, 3).map(float)))
    return arrays.map(torch.from_numpy)


def scipys_rho(a: Tensor, b: Tensor) -> float:
    return scipy.stats.spearmanr(a.numpy(), b.numpy()).statistic


def tau_pair_by_pair(a: Tensor, b: Tensor) -> float:
    """By the definition of tau-b: every pair of pixels."""
    x, y = ((part[:, None] - part).sign().double() for part in (a, b))
    return float((x * y).sum() / (x.abs().sum() * y.abs().sum()).sqrt())


@pytest.mark.parametrize(("ours", "oracle"), [(spearman, scipys_rho), (kendall, tau_pair_by_pair)], ids=["rho", "tau"])
class TestRankCorrelations:
    @given(rows=tied_rows())
    @settings(max_examples=200, deadline=None)
    def test_ties(self, ours, oracle, rows):
        a, b = rows
        if a.unique().numel() == 1 or b.unique().numel() == 1:
            assert ours(a[None], b[None]).isnan().all()
        else:
            torch.testing.assert_close(ours(a[None], b[None]).item(), oracle(a, b), rtol=0, atol=1e-12)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
    def test_batches_of_maps(self, ours, oracle, dtype):
        generator = torch.Generator().manual_seed(0)
        a = torch.randint(0, 200, (5, 23, 31), generator=generator).to(dtype)
        b = (a + torch.randint(0, 100, a.shape, generator=generator)).to(dtype)
        expected = [oracle(x.flatten(), y.flatten()) for x, y in zip(a, b, strict=True)]
        torch.testing.assert_close(ours(a, b), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)

    def test_extremes(self, ours, oracle):
        a = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(ours(a, a.exp()), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-15)
        torch.testing.assert_close(ours(a, -a), -torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-15)

    def test_negative_zero_ties_with_zero(self, ours, oracle):
        a, b = torch.tensor([[0.0, -0.0, 1.0, 2.0]]), torch.tensor([[1.0, 0.0, 2.0, 3.0]])
        assert ours(a, b).item() == pytest.approx(oracle(a[0], b[0]), abs=1e-12)


def test_large_maps_are_counted_in_threads():
    a = torch.arange(8200.0)
    b = a.roll(41)  # the last 41 pixels come first: 41 * 8159 pairs are turned round
    pairs = 8200 * 8199 / 2
    torch.testing.assert_close(kendall(a[None], b[None]).item(), 1 - 2 * 41 * 8159 / pairs, rtol=0, atol=1e-12)


class TestTopK:
    def test_by_hand(self):
        a = torch.tensor([[[9.0, 8.0], [7.0, 1.0]], [[4.0, 3.0], [2.0, 1.0]]])
        b = torch.tensor([[[9.0, 1.0], [7.0, 8.0]], [[1.0, 2.0], [3.0, 4.0]]])
        torch.testing.assert_close(top_k_intersection(a, b, 3), torch.tensor([2 / 3, 2 / 3], dtype=torch.float64))
        torch.testing.assert_close(top_k_intersection(a, b, 2), torch.tensor([0.5, 0.0], dtype=torch.float64))
        torch.testing.assert_close(top_k_intersection(a, b, 4), torch.ones(2, dtype=torch.float64))

    @given(rows=tied_rows(), data=st.data())
    @settings(max_examples=100, deadline=None)
    def test_mask_is_the_stable_sort(self, rows, data):
        k = data.draw(st.integers(1, rows.shape[1]))
        expected = torch.zeros_like(rows, dtype=torch.bool)
        for row in range(2):
            values = rows[row].tolist()
            for index in sorted(range(len(values)), key=lambda i: -values[i])[:k]:
                expected[row, index] = True
        assert torch.equal(top_k_mask(rows, k), expected)

    @pytest.mark.parametrize(("k", "error"), [(0, ValueError), (5, ValueError), (1.5, TypeError), (True, TypeError)])
    def test_bad_k(self, k, error):
        with pytest.raises(error, match="k: expected an integer"):
            top_k_intersection(torch.rand(1, 2, 2), torch.rand(1, 2, 2), k)


class TestCenterShift:
    def test_by_hand(self):
        a, b = torch.zeros(2, 5, 7), torch.zeros(2, 5, 7)
        a[0, 0, 0], b[0, 3, 4] = 2.0, 0.5  # a 3-4-5 triangle; mass does not matter
        a[1, 2, 1], a[1, 2, 3], b[1, 2, 2] = 1.0, 1.0, 9.0
        torch.testing.assert_close(center_shift(a, b), torch.tensor([5.0, 0.0], dtype=torch.float64))

    def test_center_is_row_then_column(self):
        maps = torch.zeros(1, 3, 4, dtype=torch.float64)
        maps[0, 2, 1] = 3.0
        assert center_of_mass(maps).tolist() == [[2.0, 1.0]]

    @pytest.mark.parametrize("bad", [torch.zeros(1, 2, 2), -torch.ones(1, 2, 2)])
    def test_no_mass(self, bad):
        with pytest.raises(ValueError, match="b: expected non-negative maps with a positive sum"):
            center_shift(torch.ones(1, 2, 2), bad)

    def test_rankings_have_no_center(self):
        with pytest.raises(ValueError, match=r"a: expected shape \(B, H, W\)"):
            center_shift(torch.ones(1, 4), torch.ones(1, 4))


class TestNeighborhoodRecall:
    @given(seed=st.integers(0, 10**6), radius=st.integers(0, 3), k=st.integers(1, 12))
    @settings(max_examples=40, deadline=None)
    def test_pixel_by_pixel(self, seed, radius, k):
        """Against the definition, on pairs of positions."""
        generator = torch.Generator().manual_seed(seed)
        a, b = torch.rand(2, 1, 7, 9, generator=generator)
        tops = [{divmod(int(i), 9) for i in maps.flatten().topk(k).indices} for maps in (a, b)]
        near = sum(any(max(abs(r - i), abs(c - j)) <= radius for i, j in tops[0]) for r, c in tops[1])
        assert neighborhood_recall(a, b, k, radius=radius).tolist() == [near / k]

    def test_a_map_shifted_by_a_pixel_loses_its_intersection_and_not_its_recall(self):
        a = torch.zeros(1, 8, 8)
        a[0, ::2, 2] = 1 + torch.arange(4)
        assert top_k_intersection(a, a.roll(1, 2), 4) == 0
        assert neighborhood_recall(a, a.roll(1, 2), 4, radius=1) == 1
        assert neighborhood_recall(a, a.roll(2, 2), 4, radius=1) == 0

    @pytest.mark.parametrize(("radius", "error"), [(-1, ValueError), (0.5, TypeError)])
    def test_bad_radius(self, radius, error):
        with pytest.raises(error, match="radius: expected an integer"):
            neighborhood_recall(torch.rand(1, 4, 4), torch.rand(1, 4, 4), 2, radius=radius)


MAPS, NAN = torch.rand(1, 3, 4) + 0.1, torch.tensor([[[0.5, torch.nan]]])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("a", "b", "error", "message"),
    [
        (MAPS, MAPS.mT, ValueError, r"b: expected the shape of a, \(1, 3, 4\), got \(1, 4, 3\)"),
        (MAPS, MAPS.expand(2, 3, 4), ValueError, "b: expected the shape of a"),
        (NAN, NAN.nan_to_num(), ValueError, "a: expected numbers, got NaN"),
        (NAN.nan_to_num(), NAN, ValueError, "b: expected numbers, got NaN"),
        (MAPS[:0], MAPS[:0], ValueError, "a: expected shape"),
        (MAPS[:, :1, :1], MAPS[:, :1, :1], ValueError, "a: expected shape"),
        ([[0.5, 0.5]], [[0.5, 0.5]], TypeError, "a: expected a tensor, got list"),
        (MAPS > 0, MAPS > 0, TypeError, "a: expected real numbers, got torch.bool"),
    ],
)
def test_bad_maps(metric, a, b, error, message):
    with pytest.raises(error, match=message):
        metric(a, b)
