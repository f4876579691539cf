"""How alike two importance maps are: batched, on the maps' device, one number per pair."""

import numpy as np
import torch
from torch import Tensor

from fragility.checks import check_count, check_maps

_BLOCK = 128  # entries compared with one another when inversions are counted
_AT_ONCE = 2**24  # such comparisons in memory


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
    _, by_b = _order(y)
    _, then_a = _order(x.gather(1, by_b))
    order = by_b.gather(1, then_a)
    joint = (x * n + y).gather(1, order)
    discordant = _inversions(joint % n).double()
    pairs = n * (n - 1) / 2
    tied_a, tied_b = _tied_pairs(joint // n), _tied_pairs(y.gather(1, by_b))
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
    ordered, order = _order(maps.detach().flatten(1))
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
    ordered, order = _order(maps.detach().flatten(1))
    return torch.empty_like(order).scatter_(1, order, _runs(ordered).cumsum(1) - 1)


def _tied_pairs(ordered: Tensor) -> Tensor:
    """The number of pairs of equal entries in each sorted row, float64 (B,)."""
    group = _runs(ordered).cumsum(1) - 1
    sizes = torch.zeros_like(group).scatter_add_(1, group, torch.ones_like(group)).double()
    return (sizes * (sizes - 1) / 2).sum(1)


def _inversions(ranks: Tensor) -> Tensor:
    """Count pairs i < j with ranks[i] > ranks[j] in each row of int64 (B, N), entries in [0, N)."""
    # Positions and values are cut into blocks of _BLOCK. A pair lies in one block of positions (compare there), or in
    # two, with values of one block (compare there, by the blocks of the positions), or in two both ways (a histogram).
    n = ranks.shape[1]
    rows = max(1, _AT_ONCE // (n * _BLOCK))
    return torch.cat([_inversions_of_few(part, n) for part in torch.split(ranks, rows)])


def _inversions_of_few(ranks: Tensor, n: int) -> Tensor:
    _, where = _order(ranks)  # equal ranks keep their order, which makes them no inversions
    padding = torch.arange(n, n + -n % _BLOCK, device=ranks.device).expand(len(ranks), -1)
    where = torch.cat([where, padding], 1)
    size = where.shape[1]
    what = torch.empty_like(where).scatter_(1, where, torch.arange(size, device=where.device).expand_as(where))
    block = where // _BLOCK
    same_block, same_value = (part.view(len(ranks), -1, _BLOCK).int() for part in (what, block))
    total = _inverted_pairs(same_block) + _inverted_pairs(same_value)
    blocks = size // _BLOCK
    cell = block * blocks + torch.arange(size, device=where.device) // _BLOCK  # (block of the position, of the value)
    exact = torch.float32 if size * _BLOCK < 2**24 else torch.float64
    ones = torch.ones((), dtype=exact, device=where.device).expand_as(cell)
    counts = ones.new_zeros(len(ranks), blocks * blocks).scatter_add_(1, cell, ones).view(-1, blocks, blocks)
    before = counts.cumsum(1) - counts  # in earlier blocks of positions, by value
    larger = before.flip(2).cumsum(2).flip(2) - before
    return total + (counts * larger).sum((1, 2), dtype=torch.float64).long()


def _inverted_pairs(parts: Tensor) -> Tensor:
    """Count the inversions inside of each part, (B, parts, size), and add the parts: (B,)."""
    larger = torch.zeros_like(parts, dtype=torch.uint8)  # of each entry, how many before it are larger
    for distance in range(1, parts.shape[2]):
        larger[..., distance:] += parts[..., :-distance] > parts[..., distance:]
    return larger.sum((1, 2))


def _order(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Sort the rows of (B, N), stably: the values and where they stood."""
    if maps.device.type != "cpu" or maps.dtype not in (torch.float32, torch.int64) or maps.shape[1] >= 2**31:
        return maps.sort(dim=1, stable=True)
    # Many times faster there: NumPy's vectorised sort of integers that hold a value above its position. A float's bits
    # rise with it, if those below the sign bit are flipped for negative ones.
    if maps.dtype == torch.float32:
        bits = (maps + 0.0).contiguous().view(torch.int32).long()  # + 0.0 makes -0.0 the 0.0 that it is equal to
        keys = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    else:
        keys = maps  # ranks, which are below 2^31
    position = torch.arange(maps.shape[1])
    order = torch.from_numpy(np.sort(((keys << 32) | position).numpy(), axis=1)) & 0xFFFFFFFF
    return maps.gather(1, order), order
