"""A claim, its verdict from the stored results, and the page of the book that lists all of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from fragility.study.store import provenance, results_folder, stored
from fragility.study.verdict import Finding, Measure, verdict

PROFILES = ("paper", "laptop")  # the larger first; digits are no evidence for a claim about photographs
Rule = Callable[[Mapping[str, pd.DataFrame]], Finding]  # from those of its tables that are stored, by study


class Claim(NamedTuple):
    """A row of the ledger."""

    id: str
    text: str
    source: str
    published: str  # what was published; "" where it is a table of means, see `results/published.csv`
    chapter: str  # where the book shows it
    needed: int  # images (or seeds, or draws) below which it is not tested; 1 for identities
    rule: Rule
    tables: Sequence[str] = ()  # the studies, or "published", that the rule reads; none for an identity


class Judged(NamedTuple):
    """A claim with what was found, the verdict, and the results it was computed from."""

    claim: Claim
    finding: Finding
    verdict: str
    where: str


def judge(claim: Claim, folder: Path | None = None) -> Judged:
    """Evaluate a claim.

    Args:
        claim: of the ledger.
        folder: where the results lie; None for `fragility.study.store.results_folder`.

    Returns:
        The claim with its verdict. Of every study the largest profile that is stored counts.
    """
    folder = results_folder() if folder is None else folder
    names = {study: _largest(study, folder) for study in claim.tables}
    tables = {study: stored(name, folder) for study, name in names.items() if name}
    finding, outcome = decide(claim, tables)
    sources = [
        _source(name, len(tables[study]), folder) for study, name in names.items() if name and study != "published"
    ]
    return Judged(claim, finding, outcome, "; ".join(sources) if claim.tables else "computed now")


def decide(claim: Claim, tables: Mapping[str, pd.DataFrame]) -> tuple[Finding, str]:
    """Apply a claim's rule to those of its tables that there are; nothing is found without any."""
    finding = claim.rule(tables) if tables.keys() - {"published"} or not claim.tables else Finding()
    return finding, verdict(finding, claim.needed)


def _largest(study: str, folder: Path) -> str:
    names = (study, *(f"{study}-{profile}" for profile in PROFILES))
    return next((name for name in names if (folder / f"{name}.csv").exists()), "")


def _source(name: str, rows: int, folder: Path) -> str:
    study, _, profile = name.rpartition("-")
    return f"`{name}.csv`, {rows} rows, {provenance(study, profile, folder)['sessions'][-1]['device']}"


INTRODUCTION = (
    "This page is written by `fragility claims --write` from the files in `results/`; no verdict is typed by hand. The",
    "rules and their thresholds were fixed before the numbers were looked at. A claim is *reproduced* if every",
    "interval lies on the right side of its threshold as a whole and our 90 % intervals lie within a fixed margin of",
    "the published means in at least 80 % of the cases; *direction only* if the second fails or a sensitivity analysis",
    "disagrees; *refuted* if an interval lies on the wrong side as a whole; *not yet tested* if there are fewer images",
    "(or seeds) than the rule asks for, whatever they look like; else *not reproduced*. Images without a kept label",
    "count as unchanged. Intervals are 95 % bootstrap intervals unless it is said otherwise.",
)


def page(judged: Sequence[Judged], chapters: Iterable[str]) -> str:
    """Write the book's page.

    Args:
        judged: the claims, in order.
        chapters: the names of the chapters that exist; others are not linked.

    Returns:
        Markdown.
    """
    known = set(chapters)
    lines = [
        *("---", "myst:", "  heading_anchors: 2", "---", ""),  # the chapters link to the sections
        "# The claims, and what became of them",
        "",
        *INTRODUCTION,
        "",
        "| claim | verdict |",
        "|---|---|",
        *(f"| [{one.claim.id}](#{one.claim.id.lower()}) {one.claim.text} | *{one.verdict}* |" for one in judged),
        "",
    ]
    for one in judged:
        lines += _section(one, known)
    return "\n".join(lines)


def _section(one: Judged, chapters: set[str]) -> list[str]:
    claim, finding, outcome, where = one
    name = claim.chapter
    number = name.split("_")[0].lstrip("0")
    link = f"[chapter {number}](../notebooks/{name}.ipynb)" if name in chapters else f"chapter {number}, to come"
    lines = [
        f"({claim.id.lower()})=",
        f"## {claim.id}: {outcome}",
        "",
        claim.text,
        "",
        f"- Source: {claim.source}; published: {claim.published}.",
        f"- Shown in {link}.",
    ]
    if where:
        lines.append(f"- Computed from: {where}.")
    if finding.measures and not finding.exact:
        lines.append(f"- n = {finding.n}, of the {claim.needed} that the rule asks for.")
    if finding.equality is not None:
        inside, total = finding.equality
        lines.append(f"- Published means matched: {inside} of the {total} for which there are enough images.")
    lines += [f"- Doubt: {text}." for text in finding.doubts]
    lines += [f"- {text[0].upper()}{text[1:]}." for text in finding.notes]
    lines.append("")
    if finding.measures:
        lines += ["| measured | ours | threshold | n |", "|---|---|---|---|"]
        lines += [_row(measure, finding.exact) for measure in finding.measures]
        lines.append("")
    return lines


def _row(measure: Measure, exact: bool) -> str:
    mark = "holds" if measure.holds else "fails" if measure.n > 1 or exact else ""
    name = measure.name.replace("|", "\\|")
    n = "-" if exact else str(measure.n)
    return f"| {name} | {shown(measure, exact)} | {measure.threshold} {mark} | {n} |"


def shown(measure: Measure, exact: bool = False) -> str:
    """Write a number with its interval, `.42 [.39, .45]`; of a rounding error, whose digits differ by machine, less."""
    if exact:
        return "within the limit" if measure.holds else f"{measure.value:.3g}"
    if measure.n == 0:
        return "no data"
    interval = f" [{measure.low:.3g}, {measure.high:.3g}]" if measure.n > 1 else ""
    return f"{measure.value:.3g}{interval}"
