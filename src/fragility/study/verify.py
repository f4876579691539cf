"""Are the stored rows what this machine computes? A random sample of them is computed again and compared."""

import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from fragility._checks import check_count
from fragility.interval import mean_interval
from fragility.study import STUDIES, find, within_memory
from fragility.study.machine import repeatable
from fragility.study.store import Columns, Recomputable, Row, Value, piece_name, read_pieces, results_folder


class Report(NamedTuple):
    """What came of one table."""

    table: str
    stored: int  # rows there are
    sampled: int  # rows drawn: the sum of the next two
    verified: int  # rows computed again
    unverifiable: int  # rows for which weights or data are not at hand
    reason: str  # why not
    problems: tuple[str, ...]  # in which the rows computed again differ


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

    Rows are computed by whole pieces, as they were. Data and weights are downloaded, and networks trained, as by
    `fragility.study.run` if they are not in the data folder; where that does not lead to the same pieces, the rows are
    not verifiable here.

    Args:
        studies: keys of `STUDIES`; none for all that have results.
        profile: one of their profiles; None for all.
        rows: how many rows of each table, at least.
        folder: where the results lie; None for `fragility.study.store.results_folder`.
        device: where to compute.
        seed: of the sample; None for another one every time.

    Yields:
        A report per table.

    Raises:
        ValueError: if a study or the profile is unknown, or there is no such table.
    """
    check_count("rows", rows)
    folder = results_folder() if folder is None else folder
    names = _tables(studies, profile, folder)
    chance = random.Random(seed)  # noqa: S311
    with repeatable():
        for name in names:
            yield _verify(*name, rows, folder, device, chance)


def _tables(studies: Sequence[str], profile: str | None, folder: Path) -> list[tuple[str, str]]:
    """The stored tables, at least one of every study that is named."""
    for study in studies:
        find(study, next(iter(STUDIES[study].profiles)) if profile is None and study in STUDIES else str(profile))
    wanted = [(a, b) for a in studies or STUDIES for b in STUDIES[a].profiles if profile in (None, b)]
    found = [(a, b) for a, b in wanted if (folder / f"{a}-{b}.csv").exists()]
    if missing := set(studies or ["any study"] * (not found)) - {a for a, _ in found}:
        raise ValueError(f"study: expected a table in {folder}, got none for {', '.join(sorted(missing))}")
    return found


def _verify(study: str, profile: str, rows: int, folder: Path, device: str, chance: random.Random) -> Report:
    table = f"{study}-{profile}"
    try:
        stored = read_pieces(study, profile, folder)
    except (OSError, ValueError) as error:
        return Report(table, 0, 0, 0, 0, "", (str(error),))
    total = sum(map(len, stored.values()))
    sample = _sample(stored, rows, chance)
    try:
        plan = STUDIES[study].plan(STUDIES[study].profiles[profile], device)
    except (ImportError, OSError, ValueError) as error:
        count = sum(len(stored[name]) for name in sample)
        return Report(table, total, count, 0, count, str(error), ())
    pieces = {piece_name(piece): piece for piece in plan.pieces}
    known = [name for name in sample if name in pieces]
    unknown = sum(len(stored[name]) for name in sample if name not in pieces)
    reason = "made with weights, data or parameters that are not at hand" if unknown else ""
    old = [row for name in known for row in stored[name]]
    new = [row for name in known for row in within_memory(plan.compute, pieces[name])]
    problems = tuple(differences(old, new, plan.columns, STUDIES[study].recomputable))
    return Report(table, total, len(old) + unknown, len(old), unknown, reason, problems)


def _sample(stored: dict[str, list[Row]], rows: int, chance: random.Random) -> list[str]:
    """Pieces in random order, until they hold so many rows."""
    names, count = [], 0
    for name in chance.sample(sorted(stored), len(stored)):
        if count >= rows:
            break
        names.append(name)
        count += len(stored[name])
    return names


def differences(old: Sequence[Row], new: Sequence[Row], columns: Columns, allowed: Recomputable) -> Iterator[str]:
    """Compare rows with the same rows computed again.

    Args:
        old: the stored rows.
        new: the same rows, computed now.
        columns: of both.
        allowed: how closely they have to agree.

    Yields:
        What is wrong, one line each.
    """
    if len(old) != len(new):
        yield f"expected {len(old)} rows, got {len(new)}"
        return
    for column, (kind, _) in columns.items():
        pairs = [(a[column], b[column]) for a, b in zip(old, new, strict=True)]
        if column in allowed.means:
            yield from _compare_means(column, pairs, allowed.means[column])
            continue
        for (a, b), row in zip(pairs, old, strict=True):
            if not _agree(a, b, kind, allowed.within.get(column)):
                yield f"{row.get('image', 'a row')}: {column} is {_shown(a)} in the table, {_shown(b)} now"


def _agree(a: Value, b: Value, kind: type, within: float | None) -> bool:
    if kind is str and within is not None:
        numbers = str(a).split(), str(b).split()
        return len(numbers[0]) == len(numbers[1]) and all(
            abs(float(x) - float(y)) <= within for x, y in zip(*numbers, strict=True)
        )
    if kind is not float and (within is None or a is None or b is None):
        return a == b or (kind is str and not a and not b)  # a text that is missing is stored as an empty one
    x, y = (float("nan") if value is None else float(value) for value in (a, b))
    if x != x or y != y:
        return x != x and y != y
    return abs(x - y) <= (1e-4 * max(1.0, abs(x)) if within is None else within)


def _compare_means(column: str, pairs: Iterable[tuple[Value, Value]], slack: float) -> Iterator[str]:
    numbers = torch.tensor(
        [[float("nan") if value is None else float(value) for value in pair] for pair in pairs], dtype=torch.float64
    ).view(-1, 2)
    numbers = numbers[~numbers[:, 0].isnan()]
    lost = int(numbers[:, 1].isnan().sum())
    if 2 * lost > len(numbers):
        yield f"{column}: {lost} of {len(numbers)} numbers of the table are missing now"
        return
    before, after = numbers[~numbers[:, 1].isnan()].T
    if len(before) == 0:
        return
    low = high = before.mean().item()
    if len(before) > 1:
        _, low, high = (end.item() for end in mean_interval(before))
    mean = after.mean().item()
    if not low - slack <= mean <= high + slack:
        yield f"{column}: the mean of {len(before)} rows is {mean:.4g} now, the table says {low:.4g} to {high:.4g}"


def _shown(value: Value) -> str:
    return f"{value:.7g}" if isinstance(value, float) else str(value)
