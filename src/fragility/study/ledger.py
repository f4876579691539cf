"""A claim, and its verdict from the stored results."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from fragility.study.store import results_folder, stored
from fragility.study.verdict import Finding, Measure, Setting, Tables, Untested, Verdict, verdict

PROFILES = ("paper", "laptop")  # the larger first; digits are no evidence for a claim about photographs
Rule = Callable[[Tables], Finding]  # from those of its tables that are stored, by study


class Claim(NamedTuple):
    """A row of the ledger."""

    id: str
    text: str
    short: str  # for the picture and the heading
    source: str
    published: str  # what was published; "" where it is a table of means, see `results/published.csv`
    chapter: str  # where the book shows it
    kind: str  # one of `fragility.study.verdict.KINDS`
    needed: int  # images (or seeds, or draws) below which it is not tested; 1 for identities
    rule: Rule
    written: date  # the rule; with the time where the history has it
    rows: date | None = None  # when the first rows that it reads were stored; none for an identity
    plain: str = ""  # what the numbers say, for someone outside of the field, with places for the facts of the finding
    tables: Sequence[str] = ()  # the studies, or "published", that the rule reads; none for an identity
    setting: Setting = MappingProxyType({})  # in which it was claimed
    changed: Sequence[Mapping[str, Any]] = ()  # the rule: `on` a date, what the verdict `was` and is `now`, and `why`


class Judged(NamedTuple):
    """A claim with what was found, the verdict, and the results it was computed from."""

    claim: Claim
    finding: Finding
    verdict: Verdict
    where: str
    commits: Mapping[str, str]  # of the code that computed a table's last rows, by table


def judge(claim: Claim, folder: Path | None = None) -> Judged:
    """Evaluate a claim.

    Args:
        claim: of the ledger.
        folder: where the results lie; None for `fragility.study.store.results_folder`.

    Returns:
        The claim with its verdict. Of every study the largest profile that is stored counts.
    """
    folder = results_folder() if folder is None else folder
    names = {study: name for study in claim.tables if (name := _largest(study, folder))}
    tables = {study: stored(name, folder) for study, name in names.items()}
    kept = {names[study]: rows.attrs for study, rows in tables.items() if study != "published"}
    where = "; ".join(attrs["source"] for attrs in kept.values()) if claim.tables else "computed now"
    return Judged(claim, *decide(claim, tables), where, {name: attrs["commit"] for name, attrs in kept.items()})


def decide(claim: Claim, tables: Tables) -> tuple[Finding, Verdict]:
    """Apply a claim's rule to those of its tables that there are; nothing is found without any."""
    try:
        finding = claim.rule(tables) if tables.keys() - {"published"} or not claim.tables else Finding()
    except Untested:
        finding = Finding()
    return finding, verdict(finding, needed=claim.needed, kind=claim.kind, setting=claim.setting)


def _largest(study: str, folder: Path) -> str:
    names = (study, *(f"{study}-{profile}" for profile in PROFILES))
    return next((name for name in names if (folder / f"{name}.csv").exists()), "")


def heading(one: Judged) -> str:
    """The heading of a claim's section on the page of claims."""
    return f"{one.claim.id}: {one.claim.short} ({one.verdict.text})"


def anchor(one: Judged) -> str:
    """What leads to that section, as MyST and GitHub make it of the heading."""
    return re.sub(r"[^\w -]", "", heading(one).lower()).replace(" ", "-")


def as_markdown(found: Verdict) -> str:
    """Write a verdict as Markdown, with what the setting has least of."""
    return str(found).replace(found.text, f"*{found.text}*", 1)


def shown(measure: Measure, exact: bool = False) -> str:
    """Write a number with its interval, `.42 [.39, .45]`; of a rounding error, whose digits differ by machine, less."""
    if exact:
        return "within the limit" if measure.holds else f"{measure.value:.3g}"
    if measure.n == 0:
        return "no data"
    interval = f" [{measure.low:.3g}, {measure.high:.3g}]" if measure.n > 1 else ""
    return f"{measure.value:.3g}{interval}"
