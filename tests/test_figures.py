"""Every figure of the chapters says what its axes show: read from the committed pages, as matplotlib wrote them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from io import StringIO
from xml.etree import ElementTree

import figures
import matplotlib.pyplot as plt
import pytest

from committed import outputs

SVG = "{http://www.w3.org/2000/svg}"
NUMBER = re.compile("[-+.,e%$ \u2212\u00d7]|[{^}0-9]|times")
FIGURES = [
    (f"{name} {cell.metadata.get('mystnb', {}).get('figure', {}).get('name', cell.id)}", data)
    for name, cell, data in outputs("image/svg+xml")
]


@dataclass
class Axes:
    """What one panel says: its place, its title, and of x and y the label and the texts at the ticks."""

    left: float
    top: float
    title: str = ""
    labels: list[str] = field(default_factory=lambda: ["", ""])
    ticks: list[list[str]] = field(default_factory=lambda: [[], []])


def words(group: ElementTree.Element, kind: str) -> str:
    """The texts right in a group, which matplotlib writes as comments beside their outlines."""
    parts = [part for part in group if part.get("id", "").startswith(kind)]
    comments = [comment for part in parts for comment in part.iter(ElementTree.Comment)]
    return " ".join((comment.text or "").strip() for comment in comments)


def panels(svg: str) -> list[Axes]:
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    found = []
    for group in ElementTree.fromstring(svg, parser).iter(f"{SVG}g"):
        if group.get("id", "").startswith("axes_"):
            outline = next(group.iter(f"{SVG}path")).get("d", "")
            (left, _), (top, _) = figures.frame_of(outline)
            panel = Axes(left, top, words(group, "text_"))
            axes = [part for part in group if part.get("id", "").startswith("matplotlib.axis_")]
            for number, axis in enumerate(axes):
                panel.labels[number] = words(axis, "text_")
                panel.ticks[number] = [words(tick, "text_") for tick in axis if "tick_" in tick.get("id", "")]
            found.append(panel)
    return found


def problems(svg: str) -> list[str]:
    """What a reader of a figure is not told.

    Numbers at ticks need a label, which may stand once for a column or a row of panels; for one of the two axes the
    title may say it. Words at ticks speak for themselves. A picture needs a title, of its own or its column's. No two
    plots may say the same.
    """
    found: list[str] = []
    every = panels(svg)
    said: dict[int, tuple[str, str, str]] = {}
    for number, panel in enumerate(every, 1):
        column = [other for other in every if abs(other.left - panel.left) < 2]
        row = [other for other in every if abs(other.top - panel.top) < 2]
        title = panel.title or next((other.title for other in column if other.title), "")
        x, y = (
            next((o.labels[axis] for o in [panel, *same] if o.labels[axis]), "")
            for axis, same in ((0, column), (1, row))
        )
        if not any(map(any, panel.ticks)):  # a picture
            if not (title or panel.labels[0]):
                found.append(f"panel {number}: nothing says what the picture is")
            continue
        numbers = [any(ticks) and not any(NUMBER.sub("", text) for text in ticks) for ticks in panel.ticks]
        unsaid = [name for name, bare, label in zip("xy", numbers, (x, y), strict=True) if bare and not label]
        if len(unsaid) > bool(title):
            found.append(f"panel {number}: nothing says what {unsaid[0]} is")
        found += [f"panels {n} and {number} say the same" for n, other in said.items() if other == (title, x, y)]
        said[number] = (title, x, y)
    return found


@pytest.mark.parametrize(("name", "svg"), FIGURES, ids=[name for name, _ in FIGURES])
def test_every_axis_says_what_it_shows(name: str, svg: str) -> None:
    assert problems(svg) == []


def drawn(figure: plt.Figure) -> str:
    file = StringIO()
    figure.savefig(file, format="svg")
    plt.close(figure)
    return file.getvalue()


def test_an_axis_that_says_nothing_is_found() -> None:
    figure, axes = plt.subplots(2, 2, sharex=True)
    for panel in axes.flat:
        panel.plot([1, 10], [0.1, 2e-5])
    axes[0, 1].set(title="loss")
    axes[0, 0].set(ylabel="accuracy")
    axes[1, 0].set(xlabel="steps")
    assert problems(drawn(figure)) == ["panel 3: nothing says what y is", "panel 4: nothing says what x is"]


def test_words_at_ticks_speak_for_themselves_and_pictures_need_a_title() -> None:
    figure, (bars, left, right) = plt.subplots(1, 3)
    bars.barh(["noise", "attack"], [1, 2])
    bars.set_xlabel("kept")
    for picture in (left, right):
        picture.imshow([[0, 1]])
        picture.set(xticks=[], yticks=[])
    right.set_title("map")
    assert problems(drawn(figure)) == ["panel 2: nothing says what the picture is"]


def test_two_panels_that_say_the_same_are_found() -> None:
    figure, axes = plt.subplots(1, 2)
    for panel in axes:
        panel.plot([1, 2])
        panel.set(xlabel="epsilon", ylabel="loss")
    assert problems(drawn(figure)) == ["panels 1 and 2 say the same"]


def test_a_phone_gets_a_legend_in_as_many_lines_as_it_needs() -> None:
    figure, axes = plt.subplots(1, 3, figsize=(8, 2.5), layout="constrained")
    names = ["one draw of random signs", "random walk", "top-k", "mass-centre", "another one with a long name"]
    for panel in axes:
        panel.plot([[0] * 5, range(5)], label=names)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncol=5, title="what was added")
    svg = drawn(figure)
    anew, width = figures.stacked(svg) or ("", 0.0)
    assert 0 < width * figures.LEAST / figures.smallest_label(figures.parsed(svg)) <= figures.PHONE
    shown = copies(svg, anew)
    assert shown[-6:] == [1] * 6  # the legend's
    assert all(shown)


def copies(svg: str, anew: str) -> list[int]:
    """In how many of the windows that a phone's figure is made of each text of a figure is, as a whole."""
    views = [[float(part) for part in view.split()] for view in re.findall('viewBox="([^"]+)"><use', anew)]
    return [
        sum(
            x - 1e-2 <= box.x[0] and box.x[1] <= x + w + 1e-2 and y - 1e-2 <= box.y[0] and box.y[1] <= y + h + 1e-2
            for x, y, w, h in views
        )
        for box, _ in figures.texts(figures.parsed(svg))
    ]


@pytest.mark.parametrize(("name", "svg"), FIGURES, ids=[name for name, _ in FIGURES])
def test_no_label_is_cut_off_on_a_phone(name: str, svg: str) -> None:
    anew = figures.stacked(svg)
    assert anew is None or all(copies(svg, anew[0]))
