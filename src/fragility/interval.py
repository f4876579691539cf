"""Means with their intervals, and tests of thresholds: how far a mean over images (or seeds) would move with others."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.stats
import torch

FEW = 25  # samples below which a bootstrap's interval is too short: of 20 normal ones it covers .928


class Interval(NamedTuple):
    """A mean with the ends of its interval."""

    mean: Any
    low: Any
    high: Any


def mean_interval(samples: Any, *, level: float = 0.95, images: Any = None) -> Interval:
    """Estimate a mean.

    By Student's t for fewer than `FEW` samples, by the bias-corrected and accelerated bootstrap [Efron1987] for more. A
    mean of truth values is a share: its interval is that of Clopper and Pearson [Clopper1934], which also holds near 0
    and 1.

    Args:
        samples: (..., n) numbers or truth values, one per image in the last dimension.
        level: the share of samples whose interval holds the true mean.
        images: n names, for numbers of which several belong to one image: those are averaged first.

    Returns:
        Mean, low and high end, each float64 (...).

    Raises:
        TypeError: if `samples` are not real numbers.
        ValueError: if there are fewer than two samples, a value is not finite, `level` is not inside (0, 1), or
            `images` does not name every sample.
    """
    values = _checked("samples", samples)
    if not 0 < level < 1:
        raise ValueError(f"level: expected a share inside (0, 1), got {level}")
    if images is not None:
        if len(images) != values.shape[-1]:
            raise ValueError(f"images: expected {values.shape[-1]} names, one per sample, got {len(images)}")
        averaged = pd.DataFrame(values.T.astype(float)).groupby(np.asarray(images), sort=False).mean()
        values = _checked("samples", averaged.to_numpy().T.reshape(*values.shape[:-1], -1))
    rows = [_interval(row, level) for row in values.reshape(-1, values.shape[-1])]
    return Interval(*(np.array(column).reshape(values.shape[:-1])[()] for column in zip(*rows, strict=True)))


def _interval(values: Any, level: float) -> Interval:
    """Estimate one mean."""
    n, mean = len(values), float(values.mean())
    if values.dtype == bool:
        ends = scipy.stats.binomtest(int(values.sum()), n).proportion_ci(level)  # Clopper and Pearson's
        return Interval(mean, ends.low, ends.high)
    values = values.astype(float)
    if n < FEW or np.ptp(values) <= 1e-12 * np.abs(values).max():  # a bootstrap needs some spread
        return _student(values, np.zeros(1), level)
    rng = np.random.default_rng(0)
    found = scipy.stats.bootstrap((values,), np.mean, confidence_level=level, method="BCa", batch=1000, rng=rng)
    return Interval(mean, *found.confidence_interval)


def difference_interval(a: Any, b: Any, *, level: float = 0.95) -> Interval:
    """Estimate the difference of two means by Welch's t, from samples of different images [Welch1947].

    Args:
        a: (n,) numbers, two at least.
        b: (m,) numbers, two at least.
        level: the share of samples whose interval holds the true difference.

    Returns:
        The mean of a less that of b, and its ends.

    Raises:
        TypeError: if `a` or `b` are not real numbers.
        ValueError: if one of them has fewer than two, or a value is not finite.
    """
    return _student(_checked("a", a).astype(float), _checked("b", b).astype(float), level)


def chance_of(samples: Any, limit: float, other: Any = None) -> float:
    """Test whether a mean lies below a limit.

    Args:
        samples: (n,) numbers or truth values, two at least.
        limit: that the true mean reaches or exceeds, if the null hypothesis holds.
        other: (m,) numbers of different images, two at least; the mean is then that of `samples` less theirs.

    Returns:
        How probable so small a mean is under the null hypothesis: by the binomial distribution for truth values, by
        Student's t for numbers, by Welch's for two samples.

    Raises:
        TypeError: if `samples` or `other` are not real numbers.
        ValueError: if one of them has fewer than two, or a value is not finite.
    """
    values = _checked("samples", samples)
    if other is None and values.dtype == bool:
        return float(scipy.stats.binomtest(int(values.sum()), len(values), limit, "less").pvalue) if limit > 0 else 1.0
    second = np.zeros(1) if other is None else _checked("other", other).astype(float)
    mean, size, freedom = _difference(values.astype(float), second)
    return float(scipy.stats.t.cdf((mean - limit) / size, freedom) if size > 0 else mean >= limit)


def _checked(name: str, samples: Any) -> Any:
    """The samples as an array of truth values or finite numbers, at least two in the last dimension."""
    if isinstance(samples, torch.Tensor):
        samples = (samples.double() if samples.is_floating_point() else samples).detach().cpu().numpy()
    values = np.asarray(samples)
    if values.dtype.kind not in "biuf":
        raise TypeError(f"{name}: expected real numbers or truth values, got {values.dtype}")
    if values.ndim == 0 or values.shape[-1] < 2:
        raise ValueError(f"{name}: expected at least two in the last dimension, got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    return values


def _student(a: Any, b: Any, level: float) -> Interval:
    """The interval of a difference of means."""
    mean, size, freedom = _difference(a, b)
    half = scipy.stats.t.ppf((1 + level) / 2, freedom) * size if size > 0 else 0.0
    return Interval(mean, mean - half, mean + half)


def _difference(a: Any, b: Any) -> tuple[float, float, float]:
    """The difference of two means, its standard error and degrees of freedom; a single number has no error."""
    squares = [part.var(ddof=1) / len(part) if len(part) > 1 else 0.0 for part in (a, b)]
    spread = sum(square**2 / (len(part) - 1) for square, part in zip(squares, (a, b), strict=True) if square > 0)
    return float(a.mean() - b.mean()), float(sum(squares) ** 0.5), float(sum(squares) ** 2 / spread) if spread else 0.0


def holm(chances: Sequence[float]) -> Any:
    """Adjust the p-values of several tests, to keep the chance of a single false alarm among them [Holm1979].

    Args:
        chances: (m,) p-values.

    Returns:
        (m,) adjusted ones, to be compared with the level that one test alone would have.
    """
    p = np.asarray(chances, dtype=float)
    order = p.argsort()
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]))
    return adjusted
