"""The page of the book that lists all claims: a picture, a sentence each, how verdicts come about, and all numbers.

Its words stand in `claims_page.md`, its style in `book/_static/custom.css`. Beside it lies the same as data,
`claims.json`.
"""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from itertools import groupby
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from fragility.interval import FEW
from fragility.study.ledger import Judged, as_markdown, heading, shown
from fragility.study.verdict import ELSEWHERE, VERDICTS, Finding, Measure, differs


def page(judged: Sequence[Judged], chapters: Iterable[str]) -> str:
    """Write the book's page.

    Args:
        judged: the claims, in order.
        chapters: the names of the chapters that exist; others are not linked.

    Returns:
        Markdown.
    """
    known = set(chapters)
    table = [
        f"| [{one.claim.id}](#{one.claim.id.lower()}) {one.claim.text} | {sentence(one)} | {as_markdown(one.verdict)} |"
        for one in judged
    ]
    text = Template(Path(__file__).with_suffix(".md").read_text(encoding="utf-8"))
    sections = [line for one in judged for line in _section(one, known)]
    return text.substitute(picture=picture(judged), table="\n".join(table), few=FEW, sections="\n".join(sections))


def sentence(one: Judged) -> str:
    """Say what was measured, for someone outside of the field."""
    finding = one.finding
    if not any(measure.n for measure in finding.measures):
        return "Nothing is stored yet."
    count = {"holding": sum(measure.holds for measure in finding.measures), "count": len(finding.measures)}
    text = "" if finding.facts is None else one.claim.plain.format(**count, **finding.facts)
    few = f" (In one condition only {one.verdict.n} of the {one.claim.needed} needed: nothing is decided.)"
    return text + (few if one.verdict.text == VERDICTS[-1] else "")


def picture(judged: Sequence[Judged]) -> str:
    """Draw one line per claim, as HTML: the interval against its threshold, the verdict, n, and the distance."""
    lines = [
        '<table class="forest">',
        '<thead><tr><th scope="col">claim</th><th scope="col">the claim\'s side is tinted</th>'
        '<th scope="col">verdict</th></tr></thead><tbody>',
    ]
    for chapter, some in groupby(judged, key=lambda one: one.claim.chapter):
        number, _, name = chapter.partition("_")
        lines.append(f'<tr class="chapter"><th colspan="3" scope="colgroup">Chapter {int(number)}, {name}</th></tr>')
        for one in some:
            claim, text = one.claim, one.verdict.text
            tone = f"verdict verdict-{text.replace(' ', '-')}"
            size = "exact" if one.finding.exact else f"n = {one.verdict.n}"
            beside = ", ".join(filter(None, [size, distance(one)]))
            drawn = _drawn(one.finding.decisive(), one) if one.finding.measures else ""
            lines.append(
                f'<tr><th scope="row"><a href="#{claim.id.lower()}">{claim.id}</a> {html.escape(claim.short)}</th>'
                f'<td class="{tone}">{drawn}</td>'
                f'<td><span class="{tone}">{text}</span> <small>{html.escape(beside)}</small></td></tr>'
            )
    return "\n".join([*lines, "</tbody></table>"])


def distance(one: Judged) -> str:
    """How our setting differs most from the claim's: less effort, another network, or other data."""
    theirs, ours = one.claim.setting, one.finding.setting
    other = {"network": ELSEWHERE, "data": "other data"}
    return one.verdict.gap or next((text for name, text in other.items() if differs(theirs, ours, name)), "")


def _drawn(measure: Measure, one: Judged) -> str:
    """The number and its interval on a line whose middle is the threshold, the claim's side right."""
    ends = [measure.side * (end - measure.limit) for end in (measure.value, measure.low, measure.high)]
    said = html.escape(f"{measure.name}: {shown(measure, one.finding.exact)}, {measure.threshold}")
    parts = [
        '<rect class="side" x="50%" width="50%" height="100%"/>',
        '<line class="limit" x1="50%" x2="50%" y2="100%"/>',
    ]
    if one.finding.exact:
        parts.append(
            f'<svg x="{80 if measure.holds else 20}%" y="50%"><path class="dot" d="M-6 0L0 -6L6 0L0 6Z"/></svg>'
        )
    elif all(map(math.isfinite, ends)):
        scale = 46 / max(max(map(abs, ends)), 1e-300)
        middle, low, high = (f"{50 + scale * end:.1f}%" for end in ends)
        hollow = " hollow" if measure.n < one.claim.needed else ""
        parts += [
            f'<line class="bar" x1="{low}" x2="{high}" y1="50%" y2="50%"/>',
            f'<circle class="dot{hollow}" cx="{middle}" cy="50%" r="4"/>',
        ]
    return f'<svg role="img" aria-label="{said}">{"".join(parts)}</svg>'


def entry(one: Judged) -> dict[str, Any]:
    """Collect what the page says of a claim as data, in the form that `book/_static/claims.schema.json` describes."""
    claim, finding, found = one.claim, one.finding, one.verdict
    refuted = finding.refuted()
    measures = [
        {
            "statistic": measure.name,
            "value": _number(measure.value, finding.exact),
            "interval": [_number(end, finding.exact) for end in (measure.low, measure.high)],
            "n": measure.n,
            "threshold": measure.threshold,
            "holds": bool(measure.holds),
            "refutes": measure in refuted,
        }
        for measure in finding.measures
    ]
    changed = [{**change, "on": f"{change['on']:%Y-%m-%d}"} for change in claim.changed]
    return {
        "id": claim.id,
        "text": claim.text,
        "source": claim.source,
        "published": claim.published,
        "kind": claim.kind,
        "sentence": sentence(one),
        "verdict": found.text,
        "by_size": dict(found.parts),
        "distance": distance(one),
        "n": found.n,
        "needed": claim.needed,
        "setting": {"theirs": _plain(claim.setting), "ours": _plain(finding.setting)},
        "measures": measures,
        "agreement": None if finding.equality is None else list(finding.equality),
        "doubts": list(finding.doubts),
        "rule": {
            "text": _rule(one),
            "written": claim.written.isoformat(),
            "first_rows": claim.rows.isoformat() if claim.rows else None,
            "changed": changed,
        },
        "commits": dict(one.commits),
    }


def _number(value: float, exact: bool) -> float | None:
    """Four digits; none of a rounding error, whose digits differ by machine, and of what is not known."""
    return None if exact or not math.isfinite(value) else float(f"{value:.4g}")


def _plain(setting: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value if isinstance(value, str) else np.asarray(value).tolist() for name, value in setting.items()}


def _day(day: date) -> str:
    return f"{day.day} {day:%B %Y}" + (f", {day:%H:%M}" if isinstance(day, datetime) else "")


def _rule(one: Judged) -> str:
    return str(one.claim.rule.__doc__).removeprefix(f"{one.claim.id}: ")


def _section(one: Judged, chapters: set[str]) -> list[str]:
    """All there is about one claim."""
    claim, finding, found = one.claim, one.finding, one.verdict
    name = claim.chapter
    number = name.split("_")[0].lstrip("0")
    link = f"[chapter {number}](../notebooks/{name}.ipynb)" if name in chapters else f"chapter {number}, to come"
    stored = f"; its first rows were stored on {_day(claim.rows)}" if claim.rows else ""
    lines = [
        f"({claim.id.lower()})=",
        f"## {heading(one)}",
        "",
        f"{claim.text} {sentence(one)}",
        "",
        f"- Source: {claim.source}; published: {claim.published}.",
        f"- Shown in {link}.",
        f"- Rule, of the kind *{claim.kind}*: {_rule(one)}",
        f"- Written on {_day(claim.written)}{stored}.",
    ]
    for change in claim.changed:
        moved = f"*{change['was']}* became *{change['now']}*" if change["was"] != change["now"] else "no verdict moved"
        lines.append(f"- Changed on {_day(change['on'])}, {moved}: {change['why']}")
    if one.where:
        lines.append(f"- Computed from: {one.where}.")
    if finding.measures and not finding.exact:
        lines.append(f"- n = {found.n}, of the {claim.needed} that the rule asks for.")
    if found.gap:
        lines.append(f"- Largest gap to the setting of the claim: {found.gap}.")
    if found.parts:
        lines.append(f"- By size: {', '.join(f'{part} *{text}*' for part, text in found.parts.items())}.")
    if finding.equality is not None:
        inside, total = finding.equality
        lines.append(f"- Published means matched: {inside} of the {total} for which there are enough images.")
    lines += [f"- Doubt: {text}." for text in finding.doubts]
    lines += [f"- {text[0].upper()}{text[1:]}." for text in finding.notes]
    lines.append("")
    if names := [name for name in dict.fromkeys([*claim.setting, *finding.setting]) if finding.measures]:
        lines += ["| setting | theirs | ours |", "|---|---|---|"]
        lines += [f"| {key} | {_value(claim.setting.get(key))} | {_value(finding.setting.get(key))} |" for key in names]
        lines.append("")
    if finding.measures:
        lines += ["| measured | ours | threshold | n |", "|---|---|---|---|"]
        lines += [_row(measure, finding) for measure in finding.measures]
        lines.append("")
    return lines


def _value(value: Any) -> str:
    """A number, a text, or the numbers of several rows."""
    if value is None or value == "":
        return ""
    numbers = [f"{number:g}" for number in np.atleast_1d(value)] if not isinstance(value, str) else [value]
    return ", ".join(dict.fromkeys(numbers))


def _row(measure: Measure, finding: Finding) -> str:
    name = measure.name.replace("|", "\\|")
    n = "-" if finding.exact else str(measure.n)
    return f"| {name} | {shown(measure, finding.exact)} | {measure.threshold} {finding.mark(measure)} | {n} |"
