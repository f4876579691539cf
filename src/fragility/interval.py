"""Bootstrap intervals: how far a mean over images (or seeds) would move with other images."""

from typing import NamedTuple

import torch
from torch import Tensor

from fragility._checks import check_count


class Interval(NamedTuple):
    """A mean with the ends of its percentile interval."""

    mean: Tensor
    low: Tensor
    high: Tensor


def mean_interval(samples: Tensor, *, level: float = 0.95, draws: int = 10_000, seed: int = 0) -> Interval:
    """The percentile bootstrap interval of a mean [Efron1979].

    Args:
        samples: (..., n), one value per image in the last dimension. The draws are paired: every row sees the same
            images, so that the difference of two rows' intervals can be had as the interval of their difference.
        level: the share of bootstrap means inside.
        draws: how many bootstrap samples.
        seed: of the draws.

    Returns:
        Mean, low and high end, each float64 (...).

    Raises:
        TypeError: if `samples` is no tensor of real numbers or `draws` no integer.
        ValueError: if there are fewer than two samples, a value is NaN, or `level` is not inside (0, 1).
    """
    if not isinstance(samples, Tensor) or samples.is_complex():
        raise TypeError("samples: expected a tensor of real numbers")
    check_count("draws", draws)
    if samples.ndim == 0 or samples.shape[-1] < 2:
        raise ValueError(f"samples: expected at least two in the last dimension, got shape {tuple(samples.shape)}")
    if samples.isnan().any():
        raise ValueError("samples: expected numbers, got NaN")
    if not 0 < level < 1:
        raise ValueError(f"level: expected a share inside (0, 1), got {level}")
    values = samples.detach().double().cpu()
    n = values.shape[-1]
    picks = torch.randint(n, (draws, n), generator=torch.Generator().manual_seed(seed))
    weights = torch.zeros(draws, n, dtype=torch.float64).scatter_add_(1, picks, torch.ones(draws, n).double()) / n
    means = values @ weights.T
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = means.quantile(ends, dim=-1)
    return Interval(values.mean(-1), low, high)
