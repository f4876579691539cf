"""What an attack on an importance map maximises: D(maps, reference) -> (B,), larger = more changed.

Your own objective can be any differentiable function of the attacked maps and of the `reference`, the maps of the
original images by the network itself (without a surrogate); both are (B, H, W), for rows of a table (B, d),
non-negative, and each map sums to 1.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fragility import similarity
from fragility._checks import check_count, entries

Objective = Callable[[Tensor, Tensor], Tensor]


def top_k(k: int) -> Objective:
    """Push importance out of the pixels that were the most important ones [Ghorbani2019, Alg. 1].

    D = minus the sum of the map over the k most important pixels of the reference.

    Args:
        k: how many pixels; the paper takes 1000 on ImageNet and 100 on CIFAR-10.

    Returns:
        An objective with values in [-1, 0].
    """
    check_count("k", k)

    def objective(maps: Tensor, reference: Tensor) -> Tensor:
        _check_shapes(maps, reference)
        return -(maps * similarity.top_k_mask(reference, k)).sum(entries(maps))

    return objective


def mass_center() -> Objective:
    """Move the centre of mass [Ghorbani2019, Alg. 1].

    D = |C(map) - C(reference)|, in pixels. Without a surrogate, both centres coincide at the original image, where the
    gradient of the distance is 0 / 0; autograd returns 0, and an attack would never move. There, and within rounding of
    it, we return the sub-gradient along the diagonal that leads from the centre into the opposite quadrant, where there
    is most room. Values and all other gradients are exact.

    Returns:
        An objective with values in [0, the image's diagonal].
    """

    def objective(maps: Tensor, reference: Tensor) -> Tensor:
        _check_shapes(maps, reference, pictures=True)
        center = similarity.center_of_mass(reference.detach())
        offset = similarity.center_of_mass(maps) - center
        distance = torch.linalg.vector_norm(offset, dim=1)
        diagonal = torch.where(center < _middle(reference), 0.5**0.5, -(0.5**0.5))
        tie_break = (offset * diagonal).sum(1)
        start = distance.detach() <= 64 * torch.finfo(maps.dtype).eps * sum(maps.shape[1:])
        return torch.where(start, distance.detach() + tie_break - tie_break.detach(), distance)

    return objective


def targeted(region: Tensor | Callable[[Tensor], Tensor]) -> Objective:
    """Draw the importance into a region [Ghorbani2019, Alg. 1]: D = the sum of the map over the region.

    Args:
        region: bool (H, W), or (B, H, W) with one region per image, such as `box` gives; or a function of the
            reference that gives one, such as `opposite_quadrant`. For rows of a table: (d,) or (B, d).

    Returns:
        An objective with values in [0, 1].

    Raises:
        TypeError: if `region` is neither a function nor a bool tensor.
        ValueError: if it has another number of dimensions, or is empty or full for an image.
    """
    if not callable(region):
        _check_region(region)

    def objective(maps: Tensor, reference: Tensor) -> Tensor:
        _check_shapes(maps, reference)
        mask = region(reference) if callable(region) else region
        if mask.shape not in (maps.shape, maps.shape[1:]):
            wanted = f"{tuple(maps.shape[1:])} or {tuple(maps.shape)}"
            raise ValueError(f"region: expected shape {wanted}, got {tuple(mask.shape)}")
        if maps.ndim == 2:
            _check_share(mask.double().mean(-1))
        return (maps * mask.to(maps.device)).sum(entries(maps))

    return objective


def box(shape: tuple[int, int], top: int, left: int, bottom: int, right: int) -> Tensor:
    """Mark the rows `top` to `bottom` and the columns `left` to `right`, the ends excluded.

    Args:
        shape: (H, W).
        top: first row.
        left: first column.
        bottom: the row after the last.
        right: the column after the last.

    Returns:
        bool (H, W).

    Raises:
        ValueError: if the box is empty or leaves the image.
    """
    height, width = shape
    if not (0 <= top < bottom <= height and 0 <= left < right <= width):
        raise ValueError(
            f"box: expected a box inside {height} x {width}, got rows {top}:{bottom}, columns {left}:{right}"
        )
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def opposite_quadrant(maps: Tensor) -> Tensor:
    """Mark the quarter of the image that lies diagonally across from each map's centre of mass.

    Args:
        maps: (B, H, W), non-negative.

    Returns:
        bool (B, H, W); if the number of rows or columns is odd, the middle one belongs to no quadrant.
    """
    middle = _middle(maps)
    below_right = similarity.center_of_mass(maps.detach()) < middle  # (B, 2): where the quadrant lies
    sides = []
    for axis, size in enumerate(maps.shape[1:]):
        position = torch.arange(size, dtype=maps.dtype, device=maps.device)
        beyond, before = position > middle[axis], position < middle[axis]
        sides.append(torch.where(below_right[:, axis, None], beyond, before))
    return sides[0].unsqueeze(2) & sides[1].unsqueeze(1)


def _middle(maps: Tensor) -> Tensor:
    return torch.tensor([(size - 1) / 2 for size in maps.shape[1:]], dtype=maps.dtype, device=maps.device)


def _check_shapes(maps: Tensor, reference: Tensor, *, pictures: bool = False) -> None:
    if maps.ndim not in ((3,) if pictures else (2, 3)) or maps.shape != reference.shape:
        wanted, got = "(B, H, W)" + " or (B, d)" * (not pictures), f"{tuple(maps.shape)} and {tuple(reference.shape)}"
        raise ValueError(f"maps: expected the shape {wanted} of the reference, got {got}")


def _check_region(region: Tensor) -> None:
    if not isinstance(region, Tensor) or region.dtype != torch.bool:
        kind = region.dtype if isinstance(region, Tensor) else type(region).__name__
        raise TypeError(f"region: expected a bool tensor or a function, got {kind}")
    if region.ndim not in (1, 2, 3):
        wanted = "(H, W) or (B, H, W), or (d,) or (B, d) for rows of a table"
        raise ValueError(f"region: expected shape {wanted}, got {tuple(region.shape)}")
    _check_share(region.double().mean((-2, -1) if region.ndim > 1 else -1))


def _check_share(share: Tensor) -> None:
    if not ((share > 0) & (share < 1)).all():
        raise ValueError("region: expected a part of the image, got none or all of it")
