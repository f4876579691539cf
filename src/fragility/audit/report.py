"""The report of an audit: one HTML file that needs nothing else, and report.json."""

import json
import math
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import pandas as pd
import torch

from fragility.attribution import importance
from fragility.audit.images import read_png
from fragility.audit.measure import Setting
from fragility.audit.summary import by_image, sentences
from fragility.page import embedded

CARDS = 12  # images in the gallery
EXPLANATIONS = (
    (
        "What the numbers mean",
        "<p>An <em>explanation</em> here is a map that says how much every pixel matters for the model's answer. The "
        "<em>share replaced</em> is the part of the {k:,} most important pixels that are no longer among them "
        "after the change; all numbers are of changed images for which the model's answer is the same, "
        "read from the files in the folder <code>images</code>. An attack that finds nothing for an image counts as no "
        "change.</p><p>The <em>worst case found</em> is a lower bound: a stronger attack may find more, and nothing "
        "here certifies that an explanation is safe. <em>Samples</em> is what the usual tools report: max-sensitivity "
        "(the largest relative change of the map) and the local "
        "Lipschitz estimate (the largest change per change of the "
        "image) over uniform draws from the same ball; the factors say by how much the attacks' images surpass "
        "them. A map that moves need not be wrong, and one that stays need not be right: fragility is about "
        "whether it can be relied on, not about whether it is true.</p>",
    ),
)


def write(setting: Setting, rows: pd.DataFrame, summary: dict[str, Any]) -> None:
    """Write report.html and report.json into the folder of an audit.

    Args:
        setting: what was audited.
        rows: of the audit.
        summary: of `fragility.audit.summary.summarise`, with `title` and `class_names`.
    """
    said = sentences(summary)
    summary["sentences"] = said
    text = json.dumps(_plain(summary), indent=1, allow_nan=False)
    (setting.folder / "report.json").write_text(f"{text}\n", encoding="utf-8")
    template = Template(files("fragility.audit").joinpath("report.html").read_text(encoding="utf-8"))
    *first, last = said
    paragraphs = "".join(f"<p>{escape(sentence)}</p>" for sentence in first)
    content = {
        "title": escape(summary["title"]),
        "kicker": f"Audit of {escape(summary['title'])} &middot; {summary['measured']} of {summary['images']} images "
        f"&middot; {escape(summary['source'].split(';')[0])}",
        "headline": "How fragile are the explanations of this model?",
        "sentences": f'{paragraphs}<p class="conclusion">{escape(last)}</p>',
        "figure": "",
        "gallery": "",
        "tables": _tables(summary, rows),
    }
    if summary["cells"]:
        cell = summary["cells"][0]
        chosen = rows[(rows.method == cell["method"]) & (rows.epsilon == cell["epsilon"])]
        frame = by_image(chosen).sort_values("worst_top_k_intersection")
        frame = frame[frame.worst_top_k_intersection.notna()]
        content["headline"] = escape(_headline(cell))
        content["figure"] = _figure(setting, cell, frame[frame.correct != "no"])
        content["gallery"] = _gallery(setting, summary, cell, frame)
    (setting.folder / "report.html").write_text(template.substitute(content), encoding="utf-8")


def _headline(cell: dict[str, Any]) -> str:
    lost = 1 - cell["worst_top_k_intersection"]["mean"]
    found = "can be rearranged" if lost > 0.5 else "can partly be moved" if lost > 0.2 else "held"
    return f"Same answer, but the explanation {found}" if lost > 0.2 else "Same answer, and the explanation held"


def _pictures(setting: Setting, name: str, method: str, file: str) -> dict[str, str]:
    """Two images and their maps, and the change, as addresses that hold them."""
    place = setting.images.names.index(name)
    before, label = setting.images.pixels[place], setting.labels[place : place + 1]
    after = read_png(setting.folder / file, before) if file else before
    explain = setting.methods[method].judge
    maps = [importance(explain(setting.model, x.unsqueeze(0), label).detach())[0] for x in (before, after)]
    largest = (after - before).abs().max().clamp_min(1e-9)
    pictures = {"before": before, "after": after, "change": ((after - before) / (2 * largest) + 0.5).clamp(0, 1)}
    return {key: embedded(x) for key, x in {**pictures, "map": maps[0], "map_after": maps[1]}.items()}


def _figure(setting: Setting, cell: dict[str, Any], frame: pd.DataFrame) -> str:
    """The example in the middle of the order, and how many of the important pixels were replaced."""
    with_file = frame[frame.file != ""]
    example = ""
    if len(with_file):
        line = with_file.iloc[len(with_file) // 2]
        pictures = _pictures(setting, str(line.name), cell["method"], line.file)
        titles = {"before": "the image", "map": "its explanation", "after": "changed image, same answer",
                  "map_after": "its explanation now"}  # fmt: skip
        example = "".join(
            f'<div><img src="{pictures[key]}" alt=""><span>{title}</span></div>' for key, title in titles.items()
        )
    bars, spoken = [], []
    titles = {"noise": "random noise, one try", "draws": f"random noise, worst of {cell['draws']}",
              "worst": "worst case found"}  # fmt: skip
    for name, title in titles.items():
        column = f"{name}_top_k_intersection"
        if not cell.get(column):
            continue
        lost = 1 - cell[column]["mean"]
        dots = "".join(f'<i class="dot" style="left:{100 * (1 - value):.1f}%"></i>' for value in frame[column].dropna())
        track = f'<span class="track"><i class="fill" style="width:{100 * lost:.1f}%"></i>{dots}</span>'
        bars.append(f'<div class="bar {name}"><span>{escape(title)}</span>{track}<b>{lost:.0%}</b></div>')
        spoken.append(f"{title}: {lost:.0%}")
    caption = (
        "Share of the most important pixels that the change replaced: the bar is the mean, a dot an image. The "
        f"explanation is the {escape(cell['title'])}, every pixel moved by at most {cell['epsilon']:g}/255."
    )
    return (
        f'<figure><div class="four" role="img" aria-label="An image and its explanation, before and after the change">'
        f'{example}</div><div role="img" aria-label="Share replaced. {escape("; ".join(spoken))}">{"".join(bars)}</div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _gallery(setting: Setting, summary: dict[str, Any], cell: dict[str, Any], frame: pd.DataFrame) -> str:
    """A card for each image: it and its map before and after in one place, and the change magnified."""
    cards = []
    for name, line in frame.head(CARDS).iterrows():
        label = int(setting.labels[setting.images.names.index(str(name))])
        answer = summary["class_names"][label] if summary["class_names"] else f"class {label}"
        pictures = _pictures(setting, str(name), cell["method"], line.file)
        lost = 1 - line.worst_top_k_intersection
        found = f"{lost:.0%} of the important pixels replaced" if line.file else "no attack kept the answer here"
        wrong = " The label says otherwise: not counted above." if line.correct == "no" else ""

        def stack(one: str, other: str, what: str, pictures: dict[str, str] = pictures) -> str:
            return (
                f'<div><div class="stack"><img src="{pictures[one]}" alt="{what}, original">'
                f'<img src="{pictures[other]}" alt="{what}, changed"></div><span class="label" data-one="{what}" '
                f'data-other="{what}, changed">{what}</span></div>'
            )

        cards.append(
            f'<section class="card"><h3>{escape(str(name))}: {escape(answer)}</h3><div class="row">'
            f"{stack('before', 'after', 'image')}{stack('map', 'map_after', 'explanation')}"
            f'<div><img class="change" src="{pictures["change"]}" alt="the change, magnified">'
            '<span class="label">the change, magnified</span></div></div><div class="buttons">'
            '<button type="button" aria-pressed="false">Show the changed image</button>'
            f'<button type="button" aria-pressed="false">Blink</button></div><p class="note">{found}.{wrong}</p>'
            "</section>"
        )
    shown = "" if len(frame) <= CARDS else f" The {CARDS} that changed most, of {len(frame)}."
    return (
        f'<h2>Look for yourself</h2><p class="note">The model gives the same answer for both images of a pair.{shown}'
        f'</p><div class="cards">{"".join(cards)}</div>'
    )


def _interval(found: dict[str, float] | None, digits: int = 2) -> str:
    if found is None:
        return "-"
    text = f"{found['mean']:.{digits}f}"
    return f"{text} [{found['low']:.{digits}f}, {found['high']:.{digits}f}]" if "low" in found else text


def _table(head: list[str], body: list[list[str]], name: str) -> str:
    """A table that scrolls by itself on a narrow screen, with the keyboard too."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in body)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}"><table><thead><tr>{top}'
        f"</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _worst_case(cells: list[dict[str, Any]]) -> str:
    body = []
    for cell in cells:
        steps = cell["attacks"]
        text = ", ".join(
            f"{name.replace('_', ' ')} {found['steps']}{' (settled)' if found['settled'] else ''}"
            for name, found in steps.items()
        )
        keys = ("noise_top_k_intersection", "draws_top_k_intersection", "worst_top_k_intersection", "worst_recall",
                "worst_spearman")  # fmt: skip
        body.append([
            cell["title"], f"{cell['epsilon']:g}/255", *(_interval(cell.get(key)) for key in keys),
            _interval(cell.get("worst_center_shift"), 1), text,
        ])  # fmt: skip
    head = ["explanation", "change", "kept by noise", "by worst of draws", "by worst found", "with neighbours",
            "rank correlation", "centre moved, px", "steps of the attacks"]  # fmt: skip
    return _table(head, body, "Noise, draws and the worst case found")


def _samples(cells: list[dict[str, Any]]) -> str:
    body = [
        [cell["title"], f"{cell['epsilon']:g}/255", _interval(cell.get("sampled_relative_change")),
         _interval(cell.get("worst_relative_change")), _factor(cell.get("understated_relative_change")),
         _factor(cell.get("understated_lipschitz")), str(cell["draws"])]
        for cell in cells if cell.get("sampled_relative_change")
    ]  # fmt: skip
    head = ["explanation", "change", "max-sensitivity", "of the images found", "factor", "factor, local Lipschitz",
            "draws"]  # fmt: skip
    return _table(head, body, "Samples against the worst case") if body else "<p>Not reached.</p>"


def _factor(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} x"


def _remedies(cells: list[dict[str, Any]]) -> str:
    helps = [cell for cell in cells if cell["helps"]]
    if not helps:
        return "<p>Not reached, or not a question for this model.</p>"
    plain = [cell for cell in cells if cell["method"] == "simple_gradient" and cell["epsilon"] == helps[0]["epsilon"]]
    body = [
        [cell["title"], _interval(cell["noise_top_k_intersection"]) if cell.get("noise_top_k_intersection") else "-",
         _interval(cell["worst_top_k_intersection"]), _interval(cell["fidelity"])]
        for cell in plain + helps
    ]  # fmt: skip
    text = "Each was attacked knowing it. Fidelity is the rank correlation with the model's own gradient map."
    head = ["explanation", "kept by noise", "by worst found", "fidelity"]
    return f"<p>{text}</p>{_table(head, body, 'What helps')}"


def _tables(summary: dict[str, Any], rows: pd.DataFrame) -> str:
    """All that is folded below."""
    cells = summary["cells"]

    def listed(lines: list[str]) -> str:
        return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else "<p>None.</p>"

    late = [f"{key}: {', '.join(found)}" for key, found in summary["not_reached"].items()]
    files_table = rows[rows.file != ""].groupby(["image", "method", "epsilon"], sort=False).head(4)
    names = ["image", "measure", "budget", "label_kept", "confidence_before", "confidence_after", "distance",
             "top_k_intersection", "spearman", "center_shift", "file"]  # fmt: skip
    body = [[_short(value) for value in line] for line in files_table.head(200)[names].itertuples(index=False)]
    folded = [
        *((title, text.format(k=summary["k"])) for title, text in EXPLANATIONS),
        ("Noise, draws and the worst case found", _worst_case([cell for cell in cells if not cell["helps"]])),
        ("What samples would have reported", _samples(cells)),
        ("What helps", _remedies(cells)),
        ("Checks of the model", listed(summary["checks"])),
        ("Image by image", _table([name.replace("_", " ") for name in names], body, "Image by image")),
        (f"Not reached in the time ({len(late)})", listed(late)),
        (f"Files that were left out ({len(summary['left_out'])})", listed(summary["left_out"])),
        ("How it was made", f"<p>{escape(summary['source'])}. Wrong predictions, reported apart: "
         f"{summary['misclassified']}. All numbers are in <code>rows.csv</code> and <code>report.json</code>.</p>"
         + listed([f"{key}: {value}" for run in summary["provenance"]["sessions"] for key, value in run.items()])),
    ]  # fmt: skip
    return "".join(f"<details><summary>{escape(title)}</summary>{text}</details>" for title, text in folded)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    """Numbers that JSON has: nothing in place of NaN."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, torch.Tensor):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
