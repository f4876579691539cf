"""The report of an audit: one HTML file that needs nothing else, and report.json."""

import json
import math
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import pandas as pd

from fragility.attribution import importance
from fragility.audit.images import read_png
from fragility.audit.measure import ATTACKS, Setting
from fragility.audit.summary import by_image, sentences
from fragility.page import embedded

CARDS = 12  # images in the gallery
PICTURES = {
    "before": "original",
    "map": "its explanation",
    "after": "changed, same answer",
    "map_after": "its explanation",
}
BARS = {"noise": "random noise, one try", "draws": "random noise, worst of {}", "worst": "worst found"}


def write(setting: Setting, rows: pd.DataFrame, summary: dict[str, Any]) -> None:
    """Write report.html and report.json into the folder of an audit.

    Args:
        setting: what was audited.
        rows: of the audit.
        summary: of `fragility.audit.summary.summarise`, with `title` and `class_names`; `sentences` are added.
    """
    *said, last = summary["sentences"] = sentences(summary)
    text = json.dumps(_plain(summary), indent=1, allow_nan=False)
    (setting.folder / "report.json").write_text(f"{text}\n", encoding="utf-8")
    counted = f"{summary['measured']} of {summary['images']} images"
    content = {
        "title": escape(summary["title"]),
        "kicker": f"Audit of {escape(summary['title'])} &middot; {counted}",
        "headline": "No explanation could be audited",
        "sentences": "".join(f"<p>{escape(sentence)}</p>" for sentence in said),
        "conclusion": escape(last),
        "figure": "",
        "gallery": "",
        "tables": _tables(summary, rows),
    }
    if summary["cells"]:
        cell = summary["cells"][0]
        frame = by_image(rows[(rows.method == cell["method"]) & (rows.epsilon == cell["epsilon"])])
        frame = frame.sort_values("worst_top_k_intersection")
        lost = 1 - cell["worst_top_k_intersection"]["mean"]
        content["headline"] = f"Same answer, {lost:.0%} of the explanation replaced"
        content["figure"] = _figure(setting, cell, frame[frame.correct != "no"])
        content["gallery"] = _gallery(setting, summary, cell, frame)
    template = Template(files("fragility.audit").joinpath("report.html").read_text(encoding="utf-8"))
    (setting.folder / "report.html").write_text(template.substitute(content), encoding="utf-8")


def _pictures(setting: Setting, name: str, method: str, file: Any) -> dict[str, str]:
    """Two images and their maps, and the change, as addresses that hold them."""
    place = setting.images.names.index(name)
    before, label = setting.images.pixels[place], setting.labels[place : place + 1]
    after = read_png(setting.folder / file, before) if isinstance(file, str) else before
    explain = setting.methods[method].judge
    maps = [importance(explain(setting.model, x.unsqueeze(0), label).detach())[0] for x in (before, after)]
    largest = (after - before).abs().max().clamp_min(1e-9)
    pictures = {"before": before, "after": after, "change": ((after - before) / (2 * largest) + 0.5).clamp(0, 1)}
    return {key: embedded(x) for key, x in {**pictures, "map": maps[0], "map_after": maps[1]}.items()}


def _figure(setting: Setting, cell: dict[str, Any], frame: pd.DataFrame) -> str:
    """The image whose loss is the median one, and what noise and attack replaced on all of them."""
    name = str(frame.index[len(frame) // 2])
    pictures = _pictures(setting, name, cell["method"], frame.file.loc[name])
    example = "".join(
        f'<div><img src="{pictures[key]}" alt=""><span>{title}</span></div>' for key, title in PICTURES.items()
    )
    bars, spoken = [], []
    for kind, title in BARS.items():
        if found := cell.get(f"{kind}_top_k_intersection"):
            lost, text = 1 - found["mean"], title.format(cell["draws"])
            dots = "".join(
                f'<i class="dot" style="left:{100 * (1 - value):.1f}%"></i>'
                for value in frame[f"{kind}_top_k_intersection"]
            )
            track = f'<span class="track"><i class="fill" style="width:{100 * lost:.1f}%"></i>{dots}</span>'
            bars.append(f'<div class="bar {kind}"><span>{text}</span>{track}<b>{lost:.0%}</b></div>')
            spoken.append(f"{text}: {lost:.0%}")
    return (
        f'<figure><div class="four" role="img" aria-label="{escape(name)} and its explanation, before and after the '
        f'change">{example}</div><div role="img" aria-label="Share replaced. {"; ".join(spoken)}">{"".join(bars)}</div>'
        f"<figcaption>How much of what the {escape(cell['title'])} calls most important was replaced: the bar is the "
        f"mean, a dot an image; pixels moved by at most {cell['epsilon']:g}/255. Above: {escape(name)}."
        "</figcaption></figure>"
    )


def _gallery(setting: Setting, summary: dict[str, Any], cell: dict[str, Any], frame: pd.DataFrame) -> str:
    """A card for each image: it and its map before and after in one place, and the change magnified."""
    cards = []
    for name, line in frame.head(CARDS).iterrows():
        label = int(setting.labels[setting.images.names.index(str(name))])
        answer = summary["class_names"][label] if summary["class_names"] else f"class {label}"
        found = isinstance(line.file, str)
        pictures = _pictures(setting, str(name), cell["method"], line.file)
        stacks = "".join(
            f'<div><div class="stack"><img src="{pictures[one]}" alt="{what}, original"><img src="{pictures[other]}" '
            f'alt="{what}, changed"></div><span class="label" data-one="{what}" data-other="{what}, changed">{what}'
            "</span></div>"
            for what, one, other in (("image", "before", "after"), ("explanation", "map", "map_after"))
        )
        note = f"{1 - line.worst_top_k_intersection:.0%} replaced" if found else "no attack kept the answer here"
        note += "; the label says another class: not counted above" if line.correct == "no" else ""
        cards.append(
            f'<section class="card"><h3>{escape(str(name))}: {escape(answer)}</h3><div class="row">{stacks}<div><img '
            f'class="change" src="{pictures["change"]}" alt="the change, magnified"><span class="label">the'
            ' change</span></div></div><div class="foot"><button type="button" aria-pressed="false">Changed</button>'
            f'<button type="button" aria-pressed="false">Blink</button><span class="note">{note}</span></div></section>'
        )
    shown = "" if len(frame) <= CARDS else f" The {CARDS} that changed most, of {len(frame)}."
    return (
        '<h2>Look for yourself</h2><p class="note">The model gives the same answer for both images of a pair.'
        f'{shown}</p><div class="cards">{"".join(cards)}</div>'
    )


def _interval(found: dict[str, float] | None, digits: int = 2) -> str:
    if found is None:
        return "-"
    text = f"{found['mean']:.{digits}f}"
    return f"{text} [{found['low']:.{digits}f}, {found['high']:.{digits}f}]" if "low" in found else text


def _table(lines: list[dict[str, Any]], name: str) -> str:
    """A table that scrolls by itself on a narrow screen, with the keyboard too."""
    if not lines:
        return "<p>Not reached, or not a question for this model.</p>"
    text = (
        pd.DataFrame(lines)
        .rename(columns=lambda name: name.replace("_", " "))
        .to_html(index=False, border=0, float_format=lambda value: f"{value:.3g}", na_rep="-")
    )
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}">{text}</div>'


def _line(cell: dict[str, Any], columns: dict[str, str], **more: Any) -> dict[str, Any]:
    """A line of a table of cells."""
    shown = {title: _interval(cell.get(key), 1 if "px" in title else 2) for title, key in columns.items()}
    return {"explanation": cell["title"], "change": f"{cell['epsilon']:g}/255", "images": cell["n"], **shown, **more}


def _steps(cell: dict[str, Any]) -> str:
    """How many steps an attack had, and what the last doubling did."""
    texts = []
    for name, found in cell["attacks"].items():
        moved = (
            "" if found["moved"] is None else f" (doubling moved {found['moved']:.3f}{', settled' * found['settled']})"
        )
        texts.append(f"{name.replace('_', '-')} {found['steps']}{moved}")
    return "; ".join(texts)


def _factor(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} x"


def _tables(summary: dict[str, Any], rows: pd.DataFrame) -> str:
    """All that is folded below."""
    cells = summary["cells"]
    kept = {"kept by noise": "noise_top_k_intersection", "by worst of draws": "draws_top_k_intersection",
            "by worst found": "worst_top_k_intersection"}  # fmt: skip
    worst = kept | {"with neighbours": "worst_recall", "rank correlation": "worst_spearman",
                    "centre moved, px": "worst_center_shift"}  # fmt: skip
    samples = {"max-sensitivity": "sampled_relative_change", "of what was found": "worst_relative_change"}
    helps = [cell for cell in cells if cell["helps"]]
    plain = [cell for cell in cells[:1] if helps]
    names = ["image", "method", "measure", "epsilon", "budget", "label_kept", "confidence_before", "confidence_after",
             "distance", "top_k_intersection", "spearman", "center_shift", "file"]  # fmt: skip
    files = rows[rows.measure.isin(ATTACKS)].head(200)[names]
    late = [f"{key}: {', '.join(found)}" for key, found in summary["not_reached"].items()]

    def listed(lines: list[str]) -> str:
        return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else "<p>None.</p>"

    runs = [f"{key}: {value}" for run in summary["provenance"]["sessions"] for key, value in run.items()
            if key != "packages"]  # fmt: skip
    folded = {
        "Noise, draws and the worst found": _table(
            [_line(cell, worst, steps=_steps(cell)) for cell in cells if not cell["helps"]], "The worst found"
        ),
        "What samples would have reported": _table(
            [
                _line(cell, samples, **{"factor": _factor(cell.get("understated_relative_change")),
                                        "factor, local Lipschitz": _factor(cell.get("understated_lipschitz"))})
                for cell in cells if cell.get("sampled_relative_change")
            ],
            "Samples",
        ),
        "What helps": "<p>Each was attacked knowing it. Fidelity is the rank correlation with the model's own gradient "
        f"map.</p>{_table([_line(cell, kept | {'fidelity': 'fidelity'}) for cell in plain + helps], 'What helps')}",
        "Checks of the model": listed(summary["checks"]),
        "Image by image": _table(files.to_dict("records"), "Image by image"),
        f"Not reached in the time ({len(late)})": listed(late),
        f"Files that were left out ({len(summary['left_out'])})": listed(summary["left_out"]),
        "How it was made": f"<p>{escape(summary['source'])}. Wrong predictions, reported apart: "
        f"{summary['misclassified']}. All numbers are in <code>rows.csv</code> and <code>report.json</code>.</p>"
        + listed(runs),
    }  # fmt: skip
    return "".join(f"<details><summary>{escape(title)}</summary>{text}</details>" for title, text in folded.items())


def _plain(value: Any) -> Any:
    """Numbers that JSON has: nothing in place of NaN."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
