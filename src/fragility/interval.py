"""Bootstrap intervals: how far a mean over images (or seeds) would move with other images."""

from typing import Any, NamedTuple

import numpy as np
import scipy.stats
import torch

from fragility._checks import check_count


class Interval(NamedTuple):
    """A mean with the ends of its percentile interval."""

    mean: Any
    low: Any
    high: Any


def mean_interval(samples: Any, *, level: float = 0.95, draws: int = 10_000, seed: int = 0) -> Interval:
    """The percentile bootstrap interval of a mean [Efron1979].

    Args:
        samples: (..., n), one value per image in the last dimension. The draws are paired: every row sees the same
            images, and the interval of a difference is that of the rows' differences.
        level: the share of bootstrap means inside.
        draws: how many bootstrap samples.
        seed: of the draws.

    Returns:
        Mean, low and high end, each float64 (...).

    Raises:
        TypeError: if `samples` is not a tensor of real numbers or `draws` not an integer.
        ValueError: if there are fewer than two samples, a value is NaN, or `level` is not inside (0, 1).
    """
    check_count("draws", draws)
    values = np.array(samples.detach().cpu().numpy() if isinstance(samples, torch.Tensor) else samples, dtype=float)
    if values.ndim == 0 or values.shape[-1] < 2:
        raise ValueError(f"samples: expected at least two in the last dimension, got shape {values.shape}")
    if np.isnan(values).any():
        raise ValueError("samples: expected numbers, got NaN")
    if not 0 < level < 1:
        raise ValueError(f"level: expected a share inside (0, 1), got {level}")
    n = values.shape[-1]
    picks = torch.randint(n, (draws, n), generator=torch.Generator().manual_seed(seed))
    weights = torch.zeros(draws, n, dtype=torch.float64).scatter_add_(1, picks, torch.ones(draws, n).double()) / n
    means = torch.from_numpy(values) @ weights.T
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = means.quantile(ends, dim=-1).numpy()
    return Interval(values.mean(-1), low, high)


def difference_interval(a: Any, b: Any, *, level: float = 0.95) -> Interval:
    """The interval of the difference of two means by Welch's t, for samples of different images [Welch1947].

    Args:
        a: (n,), two at least.
        b: (m,), two at least.
        level: the share of samples whose interval holds the true difference.

    Returns:
        The mean of a less that of b, and its ends.
    """
    a, b = (np.asarray(part, dtype=float) for part in (a, b))
    variances = [part.var(ddof=1) / len(part) for part in (a, b)]
    total, mean = sum(variances), a.mean() - b.mean()
    if total == 0:
        return Interval(mean, mean, mean)
    freedom = total**2 / sum(v**2 / (len(part) - 1) for v, part in zip(variances, (a, b), strict=True))
    half = scipy.stats.t.ppf((1 + level) / 2, freedom) * total**0.5
    return Interval(mean, mean - half, mean + half)
