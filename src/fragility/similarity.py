"""How alike two importance maps are: batched, on the maps' device, one number per pair."""

import torch
from torch import Tensor

from fragility.checks import check_count, check_maps


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rank correlation: Pearson's correlation of the average ranks [Spearman1904].

    Args:
        a: (B, H, W), or (B, N) for rankings that are no pictures.
        b: the same shape.

    Returns:
        (B,) float64 in [-1, 1]; NaN where a row of `a` or `b` is constant and so has no ranking.

    Raises:
        TypeError: if `a` or `b` is no tensor of real numbers.
        ValueError: if the shapes differ or a value is NaN.
    """
    check_maps(a, b)
    x, y = (ranks - ranks.mean(1, keepdim=True) for ranks in (_average_ranks(a), _average_ranks(b)))
    return (x * y).sum(1) / (x.square().sum(1) * y.square().sum(1)).sqrt()


def kendall(a: Tensor, b: Tensor) -> Tensor:
    """Kendall's tau-b, corrected for ties, in O(n log n) [Kendall1938].

    Args:
        a: (B, H, W) or (B, N).
        b: the same shape.

    Returns:
        (B,) float64 in [-1, 1]; NaN where a row of `a` or `b` is constant.

    Raises:
        TypeError: if `a` or `b` is no tensor of real numbers.
        ValueError: if the shapes differ or a value is NaN.
    """
    check_maps(a, b)
    x, y = _dense_ranks(a), _dense_ranks(b)
    n = x.shape[1]
    # Sorted by a and, within its ties, by b, the discordant pairs are the inversions of what b reads.
    joint = (x * n + y).sort(1).values
    discordant = _inversions(joint % n).double()
    pairs = n * (n - 1) / 2
    tied_a, tied_b = _tied_pairs(x.sort(1).values), _tied_pairs(y.sort(1).values)
    surplus = pairs - tied_a - tied_b + _tied_pairs(joint) - 2 * discordant
    return surplus / ((pairs - tied_a) * (pairs - tied_b)).sqrt()


def top_k_intersection(a: Tensor, b: Tensor, k: int) -> Tensor:
    """The share of the k most important pixels of `a` that are among the k of `b` [Ghorbani2019, sec. 2.3].

    Args:
        a: (B, H, W) or (B, N).
        b: the same shape.
        k: how many pixels count as most important; ties are broken by position, first in reading order.

    Returns:
        (B,) float64 in [0, 1].

    Raises:
        TypeError: if `a` or `b` is no tensor of real numbers or `k` no integer.
        ValueError: if the shapes differ, a value is NaN, or `k` exceeds the number of pixels.
    """
    check_maps(a, b)
    return (top_k_mask(a, k) & top_k_mask(b, k)).flatten(1).sum(1).double() / k


def center_shift(a: Tensor, b: Tensor) -> Tensor:
    """How far the centre of mass moves: Euclidean distance in pixels [Ghorbani2019, App. D].

    Args:
        a: (B, H, W), non-negative; each map is divided by its sum.
        b: the same shape.

    Returns:
        (B,) float64, in pixels of the maps.

    Raises:
        TypeError: if `a` or `b` is no tensor of real numbers.
        ValueError: if the shapes differ or are not (B, H, W), or a map holds NaN, a negative number or only zeros.
    """
    check_maps(a, b)
    if a.ndim != 3:
        raise ValueError(f"a: expected shape (B, H, W), got {tuple(a.shape)}")
    for name, maps in (("a", a), ("b", b)):
        if (maps < 0).any() or not (maps.flatten(1).sum(1) > 0).all():
            raise ValueError(f"{name}: expected non-negative maps with a positive sum, got another")
    return (center_of_mass(a.double()) - center_of_mass(b.double())).square().sum(1).sqrt()


def center_of_mass(maps: Tensor) -> Tensor:
    """The centre of mass C = sum_ij R_ij [i, j] of each map divided by its sum [Ghorbani2019, App. A].

    Args:
        maps: (B, H, W), non-negative.

    Returns:
        (B, 2): row and column, in pixels counted from 0; differentiable.
    """
    rows, columns = (torch.arange(size, dtype=maps.dtype, device=maps.device) for size in maps.shape[1:])
    moments = torch.stack([maps.sum(2) @ rows, maps.sum(1) @ columns], dim=1)
    return moments / maps.sum((1, 2)).unsqueeze(1)


def top_k_mask(maps: Tensor, k: int) -> Tensor:
    """Mark the k largest entries of each map; of equal ones those that come first in reading order.

    Args:
        maps: (B, H, W) or (B, N).
        k: how many.

    Returns:
        bool, the shape of `maps`, with k True entries per row.

    Raises:
        TypeError: if `k` is no integer.
        ValueError: if `k` is not between 1 and the number of pixels.
    """
    flat = maps.detach().flatten(1)
    check_count("k", k, flat.shape[1])
    smallest = flat.topk(k, dim=1, sorted=False).values.amin(1, keepdim=True)
    above, level = flat > smallest, flat == smallest
    missing = k - above.sum(1, keepdim=True)
    return (above | (level & (level.cumsum(1) <= missing))).view_as(maps)


def _runs(ordered: Tensor) -> Tensor:
    """True where a sorted row (B, N) starts a run of equal values."""
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return starts


def _average_ranks(maps: Tensor) -> Tensor:
    """Ranks 1..N of each row, float64 (B, N); ties share the mean of the ranks they span."""
    ordered, order = maps.detach().flatten(1).sort(1)
    starts = _runs(ordered)
    position = torch.arange(1, ordered.shape[1] + 1, device=maps.device).expand_as(order)
    ends = starts.roll(-1, 1)
    ends[:, -1] = True
    first = position.where(starts, 0).cummax(1).values
    last = position.where(ends, ordered.shape[1]).flip(1).cummin(1).values.flip(1)
    average = (first + last).double() / 2
    return torch.empty_like(average).scatter_(1, order, average)


def _dense_ranks(maps: Tensor) -> Tensor:
    """Ranks 0, 1, 2, ... of each row, int64 (B, N); equal values share one."""
    ordered, order = maps.detach().flatten(1).sort(1)
    return torch.empty_like(order).scatter_(1, order, _runs(ordered).cumsum(1) - 1)


def _tied_pairs(ordered: Tensor) -> Tensor:
    """The number of pairs of equal entries in each sorted row, float64 (B,)."""
    group = _runs(ordered).cumsum(1) - 1
    sizes = torch.zeros_like(group).scatter_add_(1, group, torch.ones_like(group)).double()
    return (sizes * (sizes - 1) / 2).sum(1)


def _inversions(ranks: Tensor) -> Tensor:
    """Count pairs i < j with ranks[i] > ranks[j] in each row of int64 (B, N), entries in [0, N)."""
    # A radix sort from the highest bit down: among entries that agree in all higher bits, a pair is out of order at
    # this bit when a one stands before a zero. All rows advance together.
    n = ranks.shape[1]
    position = torch.arange(n, device=ranks.device).expand_as(ranks)
    start, stop = torch.zeros_like(ranks), torch.full_like(ranks, n)
    total = torch.zeros(ranks.shape[0], dtype=torch.int64, device=ranks.device)
    for bit in reversed(range((n - 1).bit_length())):
        one = (ranks >> bit) & 1
        count = torch.nn.functional.pad(one.cumsum(1), (1, 0))
        before = count[:, :-1] - count.gather(1, start)
        total += (before * (1 - one)).sum(1)
        middle = stop - (count.gather(1, stop) - count.gather(1, start))
        is_one = one.bool()
        target = torch.where(is_one, middle + before, position - before)
        start, stop = torch.where(is_one, middle, start), torch.where(is_one, stop, middle)
        ranks, start, stop = (torch.empty_like(part).scatter_(1, target, part) for part in (ranks, start, stop))
    return total
