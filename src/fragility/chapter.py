"""What a chapter has beside figures: its opening, tables, numbers with intervals, and the table that closes it."""

import ast
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from fragility.interval import mean_interval
from fragility.plot import use_style
from fragility.study.claims import LEDGER
from fragility.study.claims_page import distance, sentence
from fragility.study.ledger import Judged, anchor, as_markdown, judge, shown
from fragility.titles import METRICS, TITLES, in_order

PROFILES = ("fast", "laptop", "paper")


def start(*, profile: object, seed: object, cells: Sequence[str] | None = None) -> str:
    """Open a chapter: refuse wrong parameters, set the book's style, and say on which device it computes.

    Args:
        profile: one of `PROFILES`.
        seed: a whole number, not negative.
        cells: the source of the cells executed so far; None for those of the notebook that calls. Papermill puts the
            parameters it was given into a cell of their own, and only warns if a notebook does not know a name; here
            it is refused.

    Returns:
        `"cuda"` or `"cpu"`.

    Raises:
        ValueError: if a parameter has no such value, or was given and does not exist.
        TypeError: if the seed is no whole number.
    """
    known = {"profile", "seed"}
    cells = vars(sys.modules["__main__"]).get("In", []) if cells is None else cells
    if unknown := sorted(
        {name for cell in cells if cell.startswith("# Parameters\n") for name in _assigned(cell)} - known
    ):
        raise ValueError(f"{', '.join(unknown)}: expected parameters among {', '.join(sorted(known))}")
    if profile not in PROFILES:
        raise ValueError(f"profile: expected {', '.join(PROFILES[:-1])} or {PROFILES[-1]}, got {profile!r}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed: expected a whole number, got {seed!r}")
    if seed < 0:
        raise ValueError(f"seed: expected 0 or more, got {seed}")
    use_style()
    if "ipykernel" in sys.modules:  # vector graphics for the site, pixels for what cannot show those
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("svg", "png", metadata={"Date": None})  # type: ignore[no-untyped-call]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"profile {profile}, seed {seed}, device {torch.cuda.get_device_name() if device == 'cuda' else device}")
    return device


def _assigned(cell: str) -> set[str]:
    lines = [node for node in ast.parse(cell).body if isinstance(node, ast.Assign)]
    return {target.id for line in lines for target in line.targets if isinstance(target, ast.Name)}


@dataclass(frozen=True)
class Table:
    """A table that notebooks show as Markdown.

    Attributes:
        header: the columns' titles.
        rows: as many texts per row as there are columns.
        folded: what stands on the line that unfolds it; empty for an open table.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: str = ""

    def __post_init__(self) -> None:
        if wrong := [row for row in self.rows if len(row) != len(self.header)]:
            raise ValueError(f"rows: expected {len(self.header)} cells each, got {wrong[0]}")

    def _repr_markdown_(self) -> str:
        rule = ["---"] + ["--:" if _numbers(column) else "---" for column in list(zip(*self.rows, strict=True))[1:]]
        table = "\n".join("| " + " | ".join(row) + " |" for row in (self.header, rule, *self.rows))
        return f"<details><summary>{self.folded}</summary>\n\n{table}\n\n</details>" if self.folded else table

    def __repr__(self) -> str:
        return self._repr_markdown_()


def _numbers(column: Sequence[str]) -> bool:
    filled = [cell for cell in column if cell]
    return all(any(map(str.isdigit, cell)) and 2 * sum(map(str.isalpha, cell)) < len(cell) for cell in filled)


def means(
    rows: pd.DataFrame,
    by: Sequence[str],
    values: Sequence[str] = METRICS,
    *,
    digits: Mapping[str, int] = {"center_shift": 1},
    published: pd.DataFrame | None = None,
    folded: str = "",
) -> Table:
    """Average rows under every condition, with 95 % intervals.

    Args:
        rows: one for each image and condition. With a column `labels_kept` its share is told as well.
        by: the columns that make a condition.
        values: the columns to average.
        digits: behind the point, where there are not two.
        published: means to set in brackets beside ours, with the columns `by`, `metric` and `value`.
        folded: as for `Table`.

    Returns:
        A line for each condition, those with a title in the order of `fragility.titles.TITLES`.
    """
    theirs = {} if published is None else published.set_index([*by, "metric"])["value"].to_dict()
    counted, lines = "labels_kept" in rows, []
    for key, part in rows.groupby(list(by), sort=False):
        cells = [_mean(part[value], digits.get(value, 2)) for value in values]
        beside = [theirs.get((*key, value)) for value in values]
        cells = [c if p is None else f"{c} ({_short(f'{p:g}')})" for c, p in zip(cells, beside, strict=True)]
        kept = [f"{share:.0%}" if (share := part["labels_kept"].mean()) >= 0 else ""] if counted else []
        lines.append((key, [", ".join(map(_named, by, key)), *cells, str(len(part)), *kept]))
    order = [in_order(key[level] for key, _ in lines) for level in range(len(by))]
    lines.sort(key=lambda line: [names.index(name) for names, name in zip(order, line[0], strict=True)])
    header = ["", *(TITLES.get(value, value) for value in values), "n", *(["kept"] if counted else [])]
    return Table(header, [cells for _, cells in lines], folded)


def _mean(samples: pd.Series, digits: int) -> str:
    if len(samples) < 2:
        return _short(f"{samples.mean():.{digits}f}")
    return interval(*mean_interval(samples), digits)


def _named(column: str, value: Any) -> str:
    if column == "epsilon":
        return f"{value:g}/255"
    return TITLES.get(value) or (f"{column} {value:g}" if isinstance(value, float) else str(value))


def interval(mean: float, low: float, high: float, digits: int = 2) -> str:
    """Write a mean with its interval, for example `.42 [.39, .45]`.

    Args:
        mean: of the samples.
        low: end of the interval.
        high: end of the interval.
        digits: behind the point.

    Returns:
        The text.
    """
    mean_, low_, high_ = (_short(f"{number:.{digits}f}") for number in (mean, low, high))
    return f"{mean_} [{low_}, {high_}]"


def _short(number: str) -> str:
    """Without the 0 before the point, as the paper writes shares."""
    return re.sub(r"^(-?)0(?=\.)", r"\1", number)


def ledger(*ids: str, folder: Path | None = None) -> Table:
    """Close a chapter: what was claimed and published, what the stored results say, and the verdict of the rules.

    Args:
        *ids: of claims, for instance `"A1"`.
        folder: where the results lie; None for `fragility.study.store.results_folder`.

    Returns:
        One row per claim, which links to its section of the ledger: a sentence with its numbers, how many conditions
        hold, the one that decides against it if one does, and how far our setting is from the paper's.

    Raises:
        ValueError: if there is no such claim.
    """
    by_id = {claim.id: claim for claim in LEDGER}
    if unknown := [name for name in ids if name not in by_id]:
        raise ValueError(f"ids: expected some of {list(by_id)}, got {unknown}")
    rows = []
    for one in (judge(by_id[name], folder) for name in ids):
        claim = one.claim
        text = f"[{claim.id}](../book/claims.md#{anchor(one)}): {claim.text}"
        rows.append([text, claim.published, _measured(one), as_markdown(one.verdict)])
    return Table(["claimed", "published", "measured", "verdict"], rows)


def _measured(one: Judged) -> str:
    """What was found in a sentence, and what decided; the book's ledger has every condition."""
    finding = one.finding
    if not finding.measures or one.verdict.text == "not yet tested":
        return sentence(one)
    holding, count, decisive = sum(m.holds for m in finding.measures), len(finding.measures), finding.decisive()
    parts = [f"{holding} of {count} {'identities' if finding.exact else 'conditions'} hold"]
    if not decisive.holds:
        parts.append(
            f"{decisive.name}: {shown(decisive, finding.exact)} ({decisive.threshold} {finding.mark(decisive)})"
        )
    if one.verdict.parts:
        parts.append(", ".join(f"{size} {text}" for size, text in one.verdict.parts.items()))
    if finding.equality is not None:
        parts.append(f"{finding.equality.inside} of {finding.equality.total} published means matched")
    parts += [*finding.doubts, distance(one)]
    n = "" if finding.exact else f" (n = {one.verdict.n})"
    return f"{sentence(one)} {'; '.join(filter(None, parts))}".replace("|", "\\|") + n
