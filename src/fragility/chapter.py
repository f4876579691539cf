"""What a chapter has beside figures: its opening, tables, numbers with intervals, and the table that closes it."""

import ast
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fragility.plot import use_style
from fragility.study.claims import LEDGER, Judged, shown
from fragility.study.evidence import Results, verdict
from fragility.study.piece import Row
from fragility.study.store import results_folder

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
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __post_init__(self) -> None:
        if wrong := [row for row in self.rows if len(row) != len(self.header)]:
            raise ValueError(f"rows: expected {len(self.header)} cells each, got {wrong[0]}")

    def _repr_markdown_(self) -> str:
        rule = ["---"] + ["--:" if _numbers(column) else "---" for column in list(zip(*self.rows, strict=True))[1:]]
        return "\n".join("| " + " | ".join(row) + " |" for row in (self.header, rule, *self.rows))

    def __repr__(self) -> str:
        return self._repr_markdown_()


def _numbers(column: Sequence[str]) -> bool:
    told = [cell for cell in column if cell]
    return all(any(map(str.isdigit, cell)) and 2 * sum(map(str.isalpha, cell)) < len(cell) for cell in told)


def interval(cell: Mapping[str, Any], name: str, digits: int = 2) -> str:
    """Write a mean with its interval.

    Args:
        cell: from a study's summary, with the keys `name`, `name_low` and `name_high`.
        name: of the mean.
        digits: behind the point.

    Returns:
        For example `.42 [.39, .45]`.
    """
    mean, low, high = (_short(cell[name + end], digits) for end in ("", "_low", "_high"))
    return f"{mean} [{low}, {high}]"


def _short(number: float, digits: int) -> str:
    """Without the 0 before the point, as the paper writes shares."""
    return re.sub(r"^(-?)0(?=\.)", r"\1", f"{number:.{digits}f}")


@dataclass(frozen=True)
class _Named(Results):
    """Stored results of which a page may read only the tables that its source names: its fingerprint follows those."""

    tables: Collection[str] = ()

    def rows(self, study: str) -> tuple[list[Row], str]:
        rows, where = super().rows(study)
        name = where.partition(".")[0].strip("`")
        if name and name not in self.tables:
            raise ValueError(f"tables: expected {name!r} among them, got {sorted(self.tables)}")
        return rows, where


def ledger(*ids: str, tables: Collection[str] = (), folder: Path | None = None) -> Table:
    """Close a chapter: what was claimed and published, what the stored results say, and the verdict of the rules.

    Args:
        *ids: of claims, for instance `"A1"`.
        tables: the stored tables that the rules may read, for instance `"attack_sweep-laptop"`.
        folder: where the results lie; None for `fragility.study.store.results_folder`.

    Returns:
        One row per claim, which links to its section of the ledger, with one condition: the first that refutes
        it, else the first that fails, else the first.

    Raises:
        ValueError: if there is no such claim, or a rule reads a table that is not named.
    """
    by_id = {claim.id: claim for claim in LEDGER}
    if unknown := [name for name in ids if name not in by_id]:
        raise ValueError(f"ids: expected some of {list(by_id)}, got {unknown}")
    results, rows = _Named(folder or results_folder(), tables), []
    for claim in (by_id[name] for name in ids):
        finding = claim.rule(results)
        one = Judged(claim, finding, verdict(finding, claim.needed))
        section = f"../book/claims.md#{claim.id}-{one.verdict}".replace(" ", "-").lower()
        text = f"[{claim.id}]({section}): {claim.text}"
        rows.append([text, claim.published, _measured(one), f"*{one.verdict}*"])
    return Table(["claimed", "published", "measured", "verdict"], rows)


def _measured(one: Judged) -> str:
    """One line; the book's ledger has every condition."""
    claim, finding, outcome = one
    if not finding.measures:
        return "nothing stored yet"
    if outcome == "not yet tested":
        return f"n = {finding.n} of the {claim.needed} that the rule asks for"
    failing = [measure for measure in finding.measures if not measure.holds]
    refuted = [measure for measure in failing if measure.refuted]
    count, first = len(finding.measures), (refuted or failing or finding.measures)[0]
    told = [f"{count - len(failing)} of {count} {'identities' if finding.exact else 'conditions'} hold"]
    if failing or not finding.exact:
        side = "asked" if first.holds else "misses"
        told.append(f"for one, {first.name}: {shown(first, finding.exact)} ({side} {first.threshold})")
    if finding.equality is not None:
        told.append(f"{finding.equality.inside} of {finding.equality.total} published means matched")
    told += finding.doubts
    return "; ".join(told).replace("|", "\\|") + ("" if finding.exact else f" (n = {finding.n})")
