"""How alike two importance maps are: batched, one number per pair."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from fragility._checks import check_count, check_maps

_LARGE = 2**13  # pixels


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rank correlation: Pearson's correlation of the average ranks [Spearman1904].

    Args:
        a: (B, H, W), or (B, N) for rankings that are not pictures.
        b: the same shape.

    Returns:
        (B,) float64 in [-1, 1]; NaN where a row of `a` or `b` is constant and so has no ranking.

    Raises:
        TypeError: if `a` or `b` is not a tensor of real numbers.
        ValueError: if the shapes differ or a value is NaN.
    """
    check_maps(a, b)
    x, y = (ranks - ranks.mean(1, keepdim=True) for ranks in (_average_ranks(a), _average_ranks(b)))
    return (x * y).sum(1) / (x.square().sum(1) * y.square().sum(1)).sqrt()


def kendall(a: Tensor, b: Tensor) -> Tensor:
    """Kendall's tau-b, corrected for ties, in O(n log n), computed by SciPy on the processor [Kendall1938].

    Args:
        a: (B, H, W) or (B, N).
        b: the same shape.

    Returns:
        (B,) float64 in [-1, 1]; NaN where a row of `a` or `b` is constant.

    Raises:
        TypeError: if `a` or `b` is not a tensor of real numbers.
        ValueError: if the shapes differ or a value is NaN.
    """
    check_maps(a, b)
    from scipy.stats import kendalltau  # here, not to slow the import of the package

    rows = [maps.detach().flatten(1).double().cpu().numpy() for maps in (a, b)]
    # SciPy lets other threads run while it sorts and counts, which is most of its time on large maps alone.
    workers = torch.get_num_threads() if rows[0].shape[1] >= _LARGE else 1
    with ThreadPoolExecutor(workers) as pool:
        taus = list(pool.map(lambda x, y: kendalltau(x, y).statistic, *rows))
    return torch.tensor(taus, dtype=torch.float64, device=a.device)


def top_k_intersection(a: Tensor, b: Tensor, k: int) -> Tensor:
    """The share of the k most important pixels of `a` that are among the k of `b` [Ghorbani2019, sec. 2.3].

    Args:
        a: (B, H, W) or (B, N).
        b: the same shape.
        k: how many pixels count as most important; ties are broken by position, first in reading order.

    Returns:
        (B,) float64 in [0, 1].

    Raises:
        TypeError: if `a` or `b` is not a tensor of real numbers, or `k` not an integer.
        ValueError: if the shapes differ, a value is NaN, or `k` exceeds the number of pixels.
    """
    check_maps(a, b)
    return (top_k_mask(a, k) & top_k_mask(b, k)).flatten(1).sum(1).double() / k


def neighborhood_recall(a: Tensor, b: Tensor, k: int, *, radius: int) -> Tensor:
    """The share of the k most important pixels of `b` that lie near one of the k of `a` [Kamath2024].

    |N_w(S_k(a)) & S_k(b)| / k, N_w(S) being all pixels whose row and column differ by at most w from a pixel of S: a
    shift of the map by w pixels costs nothing. With the arguments exchanged it is the precision, with w = 0
    `top_k_intersection`. Unrelated maps do not score 0: compare with the map of another image.

    Args:
        a: (B, H, W), the reference.
        b: the same shape.
        k: how many pixels count as most important; ties as in `top_k_intersection`.
        radius: w, in pixels.

    Returns:
        (B,) float64 in [0, 1].

    Raises:
        TypeError: if `a` or `b` is not a tensor of real numbers, or `k` or `radius` not an integer.
        ValueError: if the shapes differ or are not (B, H, W), a value is NaN, or `k` or `radius` is out of range.
    """
    _check_pictures(a, b)
    check_count("radius", radius, least=0)
    near = max_pool2d(top_k_mask(a, k).float(), 2 * radius + 1, stride=1, padding=radius) > 0
    return (near & top_k_mask(b, k)).flatten(1).sum(1).double() / k


def center_shift(a: Tensor, b: Tensor) -> Tensor:
    """How far the centre of mass moves: Euclidean distance in pixels [Ghorbani2019, App. D].

    Args:
        a: (B, H, W), non-negative; each map is divided by its sum.
        b: the same shape.

    Returns:
        (B,) float64, in pixels of the maps.

    Raises:
        TypeError: if `a` or `b` is not a tensor of real numbers.
        ValueError: if the shapes differ or are not (B, H, W), or a map holds NaN, a negative number or only zeros.
    """
    _check_pictures(a, b)
    for name, maps in (("a", a), ("b", b)):
        if (maps < 0).any() or not (maps.flatten(1).sum(1) > 0).all():
            raise ValueError(f"{name}: expected non-negative maps with a positive sum, got others")
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
        TypeError: if `k` is not an integer.
        ValueError: if `k` is not between 1 and the number of pixels.
    """
    flat = maps.detach().flatten(1)
    check_count("k", k, flat.shape[1])
    smallest = flat.topk(k, dim=1, sorted=False).values.amin(1, keepdim=True)
    above, level = flat > smallest, flat == smallest
    missing = k - above.sum(1, keepdim=True)
    return (above | (level & (level.cumsum(1) <= missing))).view_as(maps)


def _check_pictures(a: Tensor, b: Tensor) -> None:
    check_maps(a, b)
    if a.ndim != 3:
        raise ValueError(f"a: expected shape (B, H, W), got {tuple(a.shape)}")


def _average_ranks(maps: Tensor) -> Tensor:
    """Ranks 1..N of each row, float64 (B, N); ties share the mean of the ranks they span."""
    ordered, order = _order(maps.detach().flatten(1))
    starts = torch.ones_like(ordered, dtype=torch.bool)  # of runs of equal values
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    position = torch.arange(1, ordered.shape[1] + 1, device=maps.device).expand_as(order)
    ends = starts.roll(-1, 1)
    ends[:, -1] = True
    first = position.where(starts, 0).cummax(1).values
    last = position.where(ends, ordered.shape[1]).flip(1).cummin(1).values.flip(1)
    average = (first + last).double() / 2
    return torch.empty_like(average).scatter_(1, order, average)


def _order(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Sort the rows of (B, N), stably: the values and where they stood."""
    if maps.device.type != "cpu" or maps.dtype != torch.float32 or maps.shape[1] >= 2**31:
        return maps.sort(dim=1, stable=True)
    # NumPy's vectorised sort is many times faster: of integers that hold a value's bits above its position. Read as an
    # integer, a float's bits rise with the float once those below the sign bit are flipped for negative ones.
    bits = (maps + 0.0).contiguous().view(torch.int32).long()  # + 0.0 makes -0.0 the 0.0 that it is equal to
    keys = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    position = torch.arange(maps.shape[1])
    order = torch.from_numpy(np.sort(((keys << 32) | position).numpy(), axis=1)) & 0xFFFFFFFF
    return maps.gather(1, order), order
