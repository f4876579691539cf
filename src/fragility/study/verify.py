"""Compute a random sample of the stored rows again and compare."""

import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from fragility._checks import check_count
from fragility.interval import mean_interval
from fragility.study.catalogue import STUDIES, find
from fragility.study.machine import repeatable
from fragility.study.piece import Columns, Row, Tolerance, Value
from fragility.study.store import piece_name, read_pieces, results_folder


class Report(NamedTuple):
    """The outcome for one table."""

    table: str
    stored: int  # rows in the table
    verified: int  # rows of the sample that were computed again
    unverifiable: int  # rows of the sample whose weights or data are not available here
    reason: str  # for which they are not verifiable
    problems: tuple[str, ...]  # differences between stored and new rows


def verify(
    studies: Sequence[str] = (),
    profile: str | None = None,
    *,
    rows: int = 8,
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
        folder: where the results are; None for `fragility.study.store.results_folder`.
        device: where to compute.
        seed: of the sample; None for another sample every time.

    Yields:
        A report per table.

    Raises:
        ValueError: if a study or the profile is unknown, or has no table.
    """
    check_count("rows", rows)
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
            yield _verify(*table, rows, folder, device, chance)


def _verify(study: str, profile: str, rows: int, folder: Path, device: str, chance: random.Random) -> Report:
    table, chosen = f"{study}-{profile}", STUDIES[study]
    try:
        stored = read_pieces(study, profile, folder)
    except (OSError, ValueError) as error:
        return Report(table, 0, 0, 0, "", (str(error),))
    total, sample = sum(map(len, stored.values())), list[str]()
    for name in chance.sample(sorted(stored), len(stored)):  # pieces in random order, until they hold so many rows
        if sum(len(stored[drawn]) for drawn in sample) < rows:
            sample.append(name)
    try:
        plan = chosen.plan(chosen.profiles[profile], device)
    except (ImportError, OSError, ValueError) as error:
        return Report(table, total, 0, sum(len(stored[name]) for name in sample), str(error), ())
    pieces = {piece_name(piece): piece for piece in plan.pieces}
    old = [row for name in sample if name in pieces for row in stored[name]]
    new = [row for name in sample if name in pieces for row in plan.compute(pieces[name])]
    unknown = sum(len(stored[name]) for name in sample if name not in pieces)
    reason = "made with weights, data or parameters that are not available here" if unknown else ""
    problems = tuple(differences(old, new, chosen.columns, chosen.tolerance))
    return Report(table, total, len(old), unknown, reason, problems)


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
