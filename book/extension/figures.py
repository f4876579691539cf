"""A Sphinx extension: figures open in full size, are dark on a dark page, and keep their labels legible on a phone.

Plots are SVG files as matplotlib writes them. Their greys (paper, axes, text) become variables that follow the page's
colour scheme; data colours, photographs and maps stay as they were drawn. For a phone the panels of a figure are set
anew, as many beside each other as there is room for while the smallest label has 11 px; what is still wider scrolls.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import cos, radians, sin
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

PHONE, LEAST = 358, 11  # px: the width of a phone, edge to edge, and the smallest label
PX = 4 / 3  # of a point, in which matplotlib measures
PAD = 2  # points: what ticks and markers need beyond texts and frames
HANDLE = 40  # points: the line or mark of a legend before its text, and the gap between columns
_IMAGE = re.compile(r'(<a\b[^>]*>\s*)?(<img\b[^>]*\bsrc="([^"]*/_images/[^"]*|_images/[^"]*)"[^>]*>)')
_PLOT = re.compile(r'<img\b([^>]*\bsrc="([^"]*_images/)([^"/]+)\.svg"[^>]*)>')
_TEXT = re.compile(r"translate\((\S+) (\S+)\)(?: rotate\((\S+)\))? scale\((\S+) -")
_GREY = re.compile(r'(<g style=["\']fill: ?)?#([0-9a-f]{2})\2\2\b')
_START = re.compile(r"translate\((\S+) .*")
_SVG = "{http://www.w3.org/2000/svg}"
_USE = f"{_SVG}use"
Span = tuple[float, float]


class Box(NamedTuple):
    """A rectangle, in points."""

    x: Span
    y: Span


class Panel(NamedTuple):
    """Axes of a figure: their frame, all that belongs to them, and on which sides of the frame there is text."""

    frame: Box
    whole: Box
    sides: frozenset[str]


def around(boxes: Sequence[Box]) -> Box:
    """Return the smallest box that holds all of them."""
    xs, ys = (sorted(edge for box in boxes for edge in box[axis]) for axis in (0, 1))
    return Box((xs[0], xs[-1]), (ys[0], ys[-1]))


def parsed(svg: str) -> ElementTree.Element:
    """Parse a figure, which matplotlib wrote on this machine."""
    return ElementTree.fromstring(svg)  # noqa: S314


def texts(part: ElementTree.Element) -> Iterator[tuple[Box, float]]:
    """Find the texts in a part of a figure: where each is, roughly, and its size in points."""
    for group in part.iter(f"{_SVG}g"):
        if match := _TEXT.match(group.get("transform", "")):
            x, y, angle, size = float(match[1]), float(match[2]), radians(float(match[3] or 0)), 100 * float(match[4])
            starts = [use.get("x") or _START.sub(r"\1", use.get("transform", "0")) for use in group if use.tag == _USE]
            width = (max(map(float, ["0", *starts])) / 100 + 0.62) * size
            corners = [(right, down) for right in (0, width) for down in (-0.8 * size, 0.25 * size)]
            turned = [(r * cos(angle) - d * sin(angle), r * sin(angle) + d * cos(angle)) for r, d in corners]
            xs, ys = zip(*turned, strict=True)
            yield Box((x + min(xs), x + max(xs)), (y + min(ys), y + max(ys))), size


def frame_of(path: str) -> Box:
    """Return the box around a path of straight lines, as matplotlib writes it or as `lighter` does."""
    places = [list(map(float, numbers.split())) for numbers in re.findall("[MLHV]([^MLHVz]+)", path)]
    xs = [place[0] for place, kind in zip(places, re.findall("[MLHV]", path), strict=True) if kind != "V"]
    ys = [place[-1] for place, kind in zip(places, re.findall("[MLHV]", path), strict=True) if kind != "H"]
    return Box((min(xs), max(xs)), (min(ys), max(ys)))


def panel(axes: ElementTree.Element) -> Panel:
    """Measure one `axes` group."""
    path = next(axes.iter(f"{_SVG}path")).get("d", "")
    frame = frame_of(path)
    boxes = [box for box, _ in texts(axes)]
    ticks = any(part.get("id", "").startswith("xtick") for part in axes.iter())
    sides = {
        "above": any(box.y[1] <= frame.y[0] + 1 for box in boxes),
        "below": not ticks or any(box.y[0] >= frame.y[1] - 1 for box in boxes),  # a picture without ticks lacks nothing
        "left": any(box.x[1] <= frame.x[0] + 1 for box in boxes),
    }
    (left, right), (top, bottom) = around([frame, *boxes])
    whole = Box((left - PAD, right + PAD), (top - PAD, bottom + PAD))
    return Panel(frame, whole, frozenset(side for side, there in sides.items() if there))


def rows(panels: Sequence[Panel]) -> list[list[Panel]] | None:
    """Sort panels into rows from left to right; None where they do not form rows."""
    found: list[list[Panel]] = []
    for each in sorted(panels, key=lambda p: p.frame.y):
        if found and each.frame.y[0] < found[-1][0].frame.y[1] - 1:
            found[-1].append(each)
        else:
            found.append([each])
    for row in found:
        row.sort(key=lambda p: p.frame.x)
        if any(a.frame.x[1] > b.frame.x[0] for a, b in pairwise(row)):
            return None
    return found


def _same_column(row: Panel, other: Panel) -> bool:
    return abs(row.frame.x[0] - other.frame.x[0]) < 2


def lines(table: list[list[Panel]], room: float) -> Iterator[tuple[list[Span], list[Span]]]:
    """Set panels anew.

    Args:
        table: the panels by rows.
        room: points across.

    Yields:
        One new line after the other: the stretches of the old figure's width, and of its height, that it is made of. A
        panel without a title or ticks of its own gets those of its column and row.
    """
    for row in table:
        heights = [around([each.whole for each in row]).y]
        for side in ("above", "below"):
            if not any(side in each.sides for each in row):
                givers = [p for other in table for p in other if side in p.sides and _same_column(row[0], p)]
                givers = [p for p in givers if (p.frame.y < row[0].frame.y) == (side == "above")]
                if givers and side == "above":
                    heights.insert(0, (givers[0].whole.y[0], givers[0].frame.y[0] - PAD))
                elif givers:
                    heights.append((givers[-1].frame.y[1] + PAD, givers[-1].whole.y[1]))
        widths: list[Span] = []
        for each in row:
            new = [each.whole.x]
            if sum(b - a for a, b in [*widths, *new]) > room and widths:
                yield widths, heights
                widths = []
            if not widths and "left" not in each.sides and "left" in row[0].sides:
                new.insert(0, (row[0].whole.x[0], row[0].frame.x[0] - PAD))
            widths += new
        yield widths, heights


def entries(boxes: Sequence[Box], room: float, before: float) -> Iterator[tuple[list[Span], list[Span]]]:
    """Set the columns of a legend anew, as `lines` does panels; what stands before a text takes so many points."""
    columns: list[Box] = []
    for box in sorted(boxes):
        if columns and box.x[0] - before < columns[-1].x[1]:  # below one another, such as a legend's title
            columns[-1] = around([columns[-1], box])
        else:
            columns.append(box)
    line: list[Box] = []
    for column in columns:
        if line and sum(box.x[1] - box.x[0] + before + PAD for box in [*line, column]) > room:
            yield _window(line, before)
            line = []
        line.append(column)
    yield _window(line, before)


def _window(columns: Sequence[Box], before: float) -> tuple[list[Span], list[Span]]:
    top, bottom = around(columns).y
    return [(box.x[0] - before, box.x[1] + PAD) for box in columns], [(top - PAD, bottom + PAD)]


def smallest_label(figure: ElementTree.Element) -> float:
    """Return the size of the smallest text, in px, as wide as the figure was drawn."""
    return min((size for _, size in texts(figure)), default=LEAST / PX) * PX


def stacked(svg: str) -> tuple[str, float] | None:
    """Set a figure's panels anew for a phone.

    Args:
        svg: as matplotlib writes it.

    Returns:
        The new figure and its width in px; None if there is nothing to gain.
    """
    figure = next(part for part in parsed(svg).iter(f"{_SVG}g") if part.get("id") == "figure_1")
    room = PHONE / PX * smallest_label(figure) / LEAST
    panels = [panel(part) for part in figure if part.get("id", "").startswith("axes_")]
    outer = [p for p in panels if not any(_inside(p.frame, q.frame) for q in panels if q is not p)]
    whole = around([p.whole for p in outer]) if outer else Box((0, 0), (0, 0))
    table = rows(outer)
    extent = float(re.search("width=[\"']([\\d.]+)pt[\"']", svg)[1])  # type: ignore[index]
    if table is None or not outer or extent <= room or (len(outer) == 1 and whole.x[1] - whole.x[0] > room):
        return None
    parts = list(lines(table, room))
    taken = max(sum(b - a for a, b in widths) for widths, _ in parts)
    for extra in figure:  # a title or a legend of the whole figure
        kind = extra.get("id", "").partition("_")[0]
        boxes = [box for box, _ in texts(extra)] if kind != "axes" else []
        if boxes:
            place = 0 if around(boxes).y[1] <= whole.y[0] + PAD + 1 else len(parts)
            parts[place:place] = entries(boxes, taken, HANDLE if kind == "legend" else PAD)
    drawn, down, across = [], 0.0, max(sum(b - a for a, b in widths) for widths, _ in parts)
    for widths, heights in parts:
        for top, bottom in heights:
            right = 0.0
            for start, end in widths:
                size = f'width="{end - start:.2f}" height="{bottom - top:.2f}"'
                view = f"{start:.2f} {top:.2f} {end - start:.2f} {bottom - top:.2f}"
                corner = f'x="{right:.2f}" y="{down:.2f}"'
                drawn.append(f'<svg {corner} {size} viewBox="{view}"><use xlink:href="#figure_1"/></svg>')
                right += end - start
            down += bottom - top
        down += 4 * PAD
    head, _, rest = svg.partition("<svg ")
    inside = rest.partition(">")[2].rpartition("</svg>")[0]
    size = f'width="{across:.2f}pt" height="{down:.2f}pt" viewBox="0 0 {across:.2f} {down:.2f}"'
    names = 'xmlns:xlink="http://www.w3.org/1999/xlink" xmlns="http://www.w3.org/2000/svg" version="1.1"'
    paper = '<rect width="100%" height="100%" style="fill: #ffffff"/>'
    body = "\n".join([f"<defs>{inside}</defs>", paper, *drawn])
    return f"{head}<svg {names} {size}>\n{body}\n</svg>\n", across * PX


def _inside(inner: Box, outer: Box) -> bool:
    return all(outer[axis][0] <= inner[axis][0] and inner[axis][1] <= outer[axis][1] for axis in (0, 1))


def follow_scheme(svg: str) -> str:
    """Turn a figure's greys into variables, light or dark as the page is; text that was drawn white stays white."""
    greys: set[str] = set()

    def variable(match: re.Match[str]) -> str:
        text, grey = match[1] or "", match[2]
        if text and grey == "ff":
            return match[0]
        greys.add(grey)
        return f"{text}var(--grey-{grey})"

    changed = _GREY.sub(variable, svg)
    light = "".join(f"--grey-{grey}: #{grey * 3}; " for grey in sorted(greys))
    dark = "".join(f"--grey-{grey}: #{f'{235 - int(0.8 * int(grey, 16)):02x}' * 3}; " for grey in sorted(greys))
    style = f"<style>:root {{ {light}}} @media screen and (prefers-color-scheme: dark) {{ :root {{ {dark}}} }}</style>"
    return re.sub(r"<svg [^>]*>", lambda match: f"{match[0]}\n{style}", changed, count=1)


def link(body: str) -> str:
    """Wrap every image of the page's own that is not a link yet in a link to its file."""
    return _IMAGE.sub(
        lambda match: match[0] if match[1] else f'<a class="enlarge" href="{match[3]}">{match[2]}</a>', body
    )


def _page(_app: Any, _name: str, _template: str, context: dict[str, Any], _doctree: Any) -> None:
    if "body" in context:
        context["body"] = link(context["body"])


def _finish(app: Any, error: Exception | None) -> None:
    if error or app.builder.name != "html":
        return
    out = Path(app.outdir)
    labels: dict[str, str] = {}
    sources: dict[str, str] = {}
    for path in sorted(out.glob("_images/*.svg")):
        svg = path.read_text(encoding="utf-8")
        if not re.search("id=[\"']figure_1[\"']", svg):
            continue
        label = smallest_label(parsed(svg))
        width = PX * float(re.search("width=[\"']([\\d.]+)pt[\"']", svg)[1])  # type: ignore[index]
        if anew := stacked(svg):
            width = anew[1]
            path.with_name(f"{path.stem}-phone.svg").write_text(follow_scheme(anew[0]), encoding="utf-8")
            sources[path.stem] = f'<source media="(max-width: 576px)" srcset="{{}}{path.stem}-phone.svg">'
        labels[path.stem] = f' data-label="{label:.1f}" style="--least: {width * LEAST / label:.0f}px"'
        path.write_text(follow_scheme(svg), encoding="utf-8")

    def wrap(match: re.Match[str]) -> str:
        name, source = match[3], sources.get(match[3], "").format(match[2])
        return f"<picture>{source}<img{labels[name]}{match[1]}></picture>" if name in labels else match[0]

    for path in out.rglob("*.html"):
        path.write_text(_PLOT.sub(wrap, path.read_text(encoding="utf-8")), encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Register the extension."""
    app.connect("html-page-context", _page)
    app.connect("build-finished", _finish)
    return {"parallel_read_safe": True}
