"""Are two directions more orthogonal than chance? A null that permutes them among the images of one class.

In high dimension almost any two directions are nearly orthogonal. So images come in blocks of one class, a row holds
the squared cosines of its gradient with the direction of every image of its block, and the null permutes the directions
within blocks: it keeps what the class has in common and breaks the pairing.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from fragility._checks import check_count
from fragility.curvature import angle


class Null(NamedTuple):
    """The statistic T = mean cos^2 of gradient and direction, and its distribution for permuted directions."""

    statistic: float
    mean: float  # of T under the null
    low: float  # 2.5 % quantile
    high: float  # 97.5 % quantile
    below: float  # share of permutations with a T as small as the statistic: the p-value of "more orthogonal"
    above: float  # share of those with a T that comes within the margin of the statistic: of "more aligned by more"


def squared_cosines(gradients: Tensor, directions: Tensor) -> Tensor:
    """Compare every gradient with every direction.

    Args:
        gradients: (n, C, H, W).
        directions: (n, C, H, W).

    Returns:
        cos^2 of the angle of gradient i and direction j, (n, n), float64.
    """
    a, b = (vectors.flatten(1).double() for vectors in (gradients, directions))
    cosines: Tensor = (a / a.norm(dim=1, keepdim=True)) @ (b / b.norm(dim=1, keepdim=True)).T
    return cosines.square()


def angle_columns(gradients: Tensor, directions: Tensor) -> dict[str, Any]:
    """Compute the columns that are about the null, but for the block's name, for the images of a block."""
    cos2 = squared_cosines(gradients, directions).cpu()
    return {
        "angle": angle(gradients.double(), directions.double()),
        "cos2": cos2.diag(),
        "mismatched": (cos2.sum(1) - cos2.diag()) / max(1, len(cos2) - 1),
        "cos2_block": [" ".join(f"{value:.4g}" for value in row) for row in cos2.tolist()],
    }


def permutation_null(blocks: Sequence[Tensor], *, margin: float = 0.0, draws: int = 10_000, seed: int = 0) -> Null:
    """Permute the directions among the images of a block, many times.

    Args:
        blocks: (n, n) each, the squared cosine of gradient i and direction j.
        margin: what the statistic has to exceed a T by in order to count as more aligned.
        draws: how many permutations.
        seed: of these.

    Returns:
        The statistic and its null; the p-values count the identity as one permutation.

    Raises:
        ValueError: if there are no blocks, or one is not square.
    """
    check_count("draws", draws)
    if not blocks or any(block.ndim != 2 or block.shape[0] != block.shape[1] for block in blocks):
        raise ValueError(f"blocks: expected square matrices, got {[tuple(block.shape) for block in blocks]}")
    generator = torch.Generator().manual_seed(seed)
    totals, statistic, count = torch.zeros(draws, dtype=torch.float64), 0.0, 0
    for block in blocks:
        size, values = len(block), block.double().cpu()
        orders = torch.rand(draws, size, generator=generator).argsort(1)
        totals += values[torch.arange(size), orders].sum(1)
        statistic += values.trace().item()
        count += size
    totals, statistic = totals / count, statistic / count
    low, high = totals.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    # Up to rounding: with blocks of one image every permutation is the identity.
    below, above = (totals <= statistic * (1 + 1e-12)), (totals >= (statistic - margin) * (1 - 1e-12))
    chances = [(int(extreme.sum()) + 1) / (draws + 1) for extreme in (below, above)]
    return Null(statistic, totals.mean().item(), low, high, *chances)


def stored_null(rows: pd.DataFrame, *, margin: float = 0.0, draws: int = 10_000, seed: int = 0) -> Null:
    """Compute the permutation null of stored rows.

    Args:
        rows: of one set-up, whole pieces.
        margin: as for `permutation_null`.
        draws: as for `permutation_null`.
        seed: as for `permutation_null`.

    Returns:
        The statistic and its null.
    """
    cosines = rows.groupby("block", sort=False)["cos2_block"]
    blocks = [torch.tensor(part.str.split(expand=True).to_numpy(dtype=float)) for _, part in cosines]
    return permutation_null(blocks, margin=margin, draws=draws, seed=seed)
