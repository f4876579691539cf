"""Images of two networks matched by how far they are from the decision boundary, and slopes of what then differs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

CALIPER = 0.1  # standard deviations of the logarithm of the distance
LEAST = 20  # pairs below which a share of permuted labels is left out


def pairs(a: Any, b: Any, caliper: float) -> tuple[Any, Any]:
    """Match numbers that differ by the caliper at most: as many pairs as there can be, and of those the closest.

    Args:
        a: (n,) numbers.
        b: (m,) numbers, each of which is taken once at most.
        caliper: the largest difference.

    Returns:
        The positions in a and in b.
    """
    apart = np.abs(np.subtract.outer(np.asarray(a, dtype=float), np.asarray(b, dtype=float)))
    # A pair that is too far apart costs more than all others together can.
    cost = np.where(apart <= caliper, apart, (1 + caliper) * (1 + min(apart.shape)))
    rows, columns = linear_sum_assignment(cost)
    near = apart[rows, columns] <= caliper
    return rows[near], columns[near]


def differences(rows: pd.DataFrame, reference: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Match on log(margin / |grad margin|) and subtract.

    Args:
        rows: of one network, a row per image, with a column `distance`.
        reference: of another network.
        columns: what is subtracted.

    Returns:
        The columns of `rows` less those of `reference`, a row per pair.
    """
    a, b = (np.log(part.distance.to_numpy()) for part in (rows, reference))
    spread = float(np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2))
    ours, theirs = pairs(a, b, CALIPER * spread)
    chosen = list(columns)
    return pd.DataFrame(rows[chosen].to_numpy()[ours] - reference[chosen].to_numpy()[theirs], columns=chosen)


def against_true(rows: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Compare each share of permuted labels with none, within one seed; pairs with their `share`."""
    reference = rows[rows.share == 0]
    parts = [
        differences(part, reference, columns).assign(share=share)
        for share, part in rows[rows.share > 0].groupby("share")
    ]
    return pd.concat([part for part in parts if len(part) >= LEAST] or [pd.DataFrame(columns=["share", *columns])])


def slope(compared: pd.DataFrame, value: str, beside: Sequence[str] = ()) -> float:
    """Fit the differences of pairs by share, and by the differences of other columns; the slope per unit of share."""
    if len(compared) <= len(beside):
        return float("nan")
    terms = compared[["share", *beside]].to_numpy(dtype=float)
    return float(np.linalg.lstsq(terms, compared[value].to_numpy(dtype=float), rcond=None)[0][0])
