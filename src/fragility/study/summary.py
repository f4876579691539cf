"""Means of stored rows, with intervals."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from fragility.interval import mean_interval
from fragility.study.piece import Row, Value


def summarise(
    rows: Iterable[Row], by: Sequence[str], values: Sequence[str], *, level: float = 0.95
) -> list[dict[str, Any]]:
    """Average the rows of every group, with bootstrap intervals.

    Args:
        rows: from `read`, or some of them.
        by: the columns whose values make a group.
        values: the columns to average.
        level: of the intervals.

    Returns:
        Per group, in the order of appearance: the columns `by`, `n`, and for each value v its mean `v` and the ends
        `v_low` and `v_high` (NaN where n is 1).

    Raises:
        ValueError: if a value to average is no number.
    """
    groups: dict[tuple[Value, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in by), []).append(row)
    result = []
    for key, members in groups.items():
        try:
            samples = torch.tensor([[row[name] for row in members] for name in values], dtype=torch.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"values: expected columns of numbers, got {', '.join(values)} ({error})") from error
        if len(members) > 1:
            ends = mean_interval(samples, level=level)
            low, high = ends.low.tolist(), ends.high.tolist()
        else:
            low = high = [float("nan")] * len(values)
        summary: dict[str, Any] = {**dict(zip(by, key, strict=True)), "n": len(members)}
        for name, mean, down, up in zip(values, samples.mean(1).tolist(), low, high, strict=True):
            summary |= {name: mean, f"{name}_low": down, f"{name}_high": up}
        result.append(summary)
    return result
