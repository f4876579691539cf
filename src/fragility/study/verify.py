"""Compute a random sample of the stored rows again and compare."""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fragility._checks import check_count
from fragility.interval import mean_interval
from fragility.study.catalogue import STUDIES, find
from fragility.study.machine import repeatable
from fragility.study.piece import Columns, Piece, Row, Tolerance, Value
from fragility.study.store import piece_name, provenance, read_pieces, results_folder


class Report(NamedTuple):
    """The outcome for one table."""

    table: str
    stored: int  # rows in the table
    drawable: int  # of these, rows of pieces that take at most so many minutes
    verified: int  # rows of the sample that were computed again
    unverifiable: int  # rows of the sample whose weights or data are not available here
    reason: str  # for which they are not verifiable
    problems: tuple[str, ...]  # differences between stored and new rows


def verify(
    studies: Sequence[str] = (),
    profile: str | None = None,
    *,
    rows: int = 8,
    minutes: float | None = None,
    folder: Path | None = None,
    device: str = "cpu",
    seed: int | None = None,
) -> Iterator[Report]:
    """Compute a random sample of the stored rows again and compare, table by table.

    Rows are computed by whole pieces, as they were the first time. As in `fragility.study.run.run`, missing data and
    weights are downloaded, and missing networks trained; if that leads to other pieces, the rows are not verifiable.

    Args:
        studies: keys of `fragility.study.catalogue.STUDIES`; by default all that have results.
        profile: one of their profiles; None for all.
        rows: how many rows of each table, at least.
        minutes: draw only pieces that are estimated to take a processor at most so long each; None for all. The
            estimate is the study's `cost` times the seconds a unit of it took the stored sessions on a processor.
        folder: where the results are; None for `fragility.study.store.results_folder`.
        device: where to compute.
        seed: of the sample; None for another sample every time.

    Yields:
        A report per table.

    Raises:
        ValueError: if a study or the profile is unknown, or has no table, or `minutes` is not positive.
    """
    check_count("rows", rows)
    if minutes is not None and not minutes > 0:
        raise ValueError(f"minutes: expected a positive number, got {minutes}")
    folder = results_folder() if folder is None else folder
    for study in studies:
        find(study, profile)
    wanted = [(a, b) for a in studies or STUDIES for b in STUDIES[a].profiles if profile in (None, b)]
    tables = [(a, b) for a, b in wanted if (folder / f"{a}-{b}.csv").exists()]
    if missing := set(studies or ["any study"] * (not tables)) - {a for a, _ in tables}:
        raise ValueError(f"study: expected a table in {folder}, got none for {', '.join(sorted(missing))}")
    chance = random.Random(seed)  # noqa: S311
    with repeatable():
        for table in tables:
            yield _verify(*table, rows, minutes, folder, device, chance)


def _verify(
    study: str, profile: str, rows: int, minutes: float | None, folder: Path, device: str, chance: random.Random
) -> Report:
    table, chosen, reason = f"{study}-{profile}", STUDIES[study], ""
    try:
        stored = read_pieces(study, profile, folder)
    except (OSError, ValueError) as error:
        return Report(table, 0, 0, 0, 0, "", (str(error),))
    total, order = sum(map(len, stored.values())), chance.sample(sorted(stored), len(stored))
    try:
        plan = chosen.plan(chosen.profiles[profile], device)
    except (ImportError, OSError, ValueError) as error:
        return Report(table, total, total, 0, _count(_sample(order, stored, rows), stored), str(error), ())
    pieces = {piece_name(piece): piece for piece in plan.pieces}
    if minutes is not None:
        took = _seconds(pieces, plan.study.cost, provenance(study, profile, folder)["sessions"])
        short = [name for name in order if took.get(name, 0.0) <= 60 * minutes]
        if not short:
            reason = f"every piece is estimated to take a processor more than {minutes:g} minutes, or none ran on one"
            return Report(table, total, 0, 0, _count(_sample(order, stored, rows), stored), reason, ())
        order = short
    sample = _sample(order, stored, rows)
    old = [row for name in sample if name in pieces for row in stored[name]]
    new = [row for name in sample if name in pieces for row in plan.compute(pieces[name])]
    if unknown := _count(sample, stored) - len(old):
        reason = "made with weights, data or parameters that are not available here"
    problems = tuple(differences(old, new, chosen.columns, chosen.tolerance))
    return Report(table, total, _count(order, stored), len(old), unknown, reason, problems)


def _count(names: Iterable[str], stored: Mapping[str, list[Row]]) -> int:
    return sum(len(stored[name]) for name in names)


def _sample(order: Iterable[str], stored: Mapping[str, list[Row]], rows: int) -> list[str]:
    """Take pieces in their random order until they hold so many rows."""
    sample = list[str]()
    for name in order:
        if _count(sample, stored) < rows:
            sample.append(name)
    return sample


def _seconds(
    pieces: Mapping[str, Piece], cost: Callable[[Piece], float], sessions: Iterable[Mapping[str, Any]]
) -> dict[str, float]:
    """Estimate how long a processor takes for each piece: as long as it took, or in proportion to the cost."""
    known = [session["seconds"] for session in sessions if str(session["device"]).startswith("cpu")]
    took = {name: float(seconds) for each in known for name, seconds in each.items() if name in pieces}
    each = sum(took.values()) / sum(cost(pieces[name]) for name in took) if took else float("inf")
    return {name: each * cost(piece) for name, piece in pieces.items()} | took


def differences(old: Sequence[Row], new: Sequence[Row], columns: Columns, tolerance: Tolerance) -> Iterator[str]:
    """Compare stored rows with the same rows computed now, and yield a line for everything that is wrong."""
    if len(old) != len(new):
        yield f"expected {len(old)} rows, got {len(new)}"
        return
    for column, (kind, _) in columns.items():
        pairs = [(a[column], b[column]) for a, b in zip(old, new, strict=True)]
        if column in tolerance.means:
            yield from _compare_means(column, pairs, tolerance.means[column])
            continue
        for (a, b), row in zip(pairs, old, strict=True):
            if not _agree(a, b, kind, tolerance.within.get(column)):
                yield f"{row.get('image', 'a row')}: {column} is {_shown(a)} in the table, {_shown(b)} now"


def _agree(a: Value, b: Value, kind: type, within: float | None) -> bool:
    if within is None and kind is not float:
        return a == b or (kind is str and not a and not b)  # a text that is missing is stored as an empty one
    old, new = _numbers(a), _numbers(b)
    return len(old) == len(new) and all(
        abs(x - y) <= (1e-4 * max(1.0, abs(x)) if within is None else within) or (x != x and y != y)
        for x, y in zip(old, new, strict=True)
    )


def _compare_means(column: str, pairs: Iterable[tuple[Value, Value]], slack: float) -> Iterator[str]:
    numbers = torch.tensor([_numbers(a) + _numbers(b) for a, b in pairs], dtype=torch.float64).view(-1, 2)
    numbers = numbers[~numbers[:, 0].isnan()]
    lost = numbers[:, 1].isnan()
    if 2 * lost.sum() > len(numbers):
        yield f"{column}: {int(lost.sum())} of {len(numbers)} numbers of the table are missing now"
    elif len(numbers):
        before, after = numbers[~lost].T
        low = high = before.mean().item()
        if len(before) > 1:
            _, low, high = (end.item() for end in mean_interval(before))
        mean = after.mean().item()
        if not low - slack <= mean <= high + slack:
            yield f"{column}: the mean of {len(before)} rows is {mean:.4g} now, the table says {low:.4g} to {high:.4g}"


def _numbers(value: Value) -> list[float]:
    if isinstance(value, str):
        return [float(text) for text in value.split()]
    return [float("nan") if value is None else float(value)]


def _shown(value: Value) -> str:
    return f"{value:.7g}" if isinstance(value, float) else str(value)
