"""Make the figures of executed notebooks lighter: pictures packed as WebP, vector graphics without what nobody sees.

Matplotlib writes every coordinate with six decimals and repeats a style for every mark. Nothing of that shows: a
hundredth of a point is a seventieth of a pixel.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Iterator
from io import BytesIO
from itertools import pairwise
from math import nan
from xml.etree import ElementTree

from PIL import Image

QUALITY = 64  # of WebP, at most 100: maps and photographs look the same as at 90
_SPACE = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
_G, _PATH, _USE, _DEFS, _STYLE, _METADATA = (
    f"{{{_SPACE}}}{name}" for name in ("g", "path", "use", "defs", "style", "metadata")
)
_NUMBER = re.compile(r"-?\d+\.\d{3,}(?:e-?\d+)?")
_SCALE = re.compile(r"(scale\([^)]*\))")
_MOVE = re.compile(r"translate\((\S+) 0\)")
# Groups by which book/extension/figures.py and the tests find their way, and the texts, which stand in comments.
_KEPT = re.compile("(figure|axes|legend|matplotlib.axis|[xy]tick|text)_")
Point = tuple[float, float]


def packed(text: str) -> str:
    """Pack the pictures inside a figure or a cell's HTML where that makes them smaller.

    Args:
        text: SVG or HTML that holds pictures.

    Returns:
        The same with PNG pictures as WebP and lossless WebP ones, which show a small change, as JPEG, whose colours
        keep their resolution; others stay as they are.
    """

    def pack(match: re.Match[str]) -> str:
        data = b64decode(match[2])
        if match[1] == "png":
            kind, options = "webp", {"quality": QUALITY, "method": 6}
        elif data[12:16] == b"VP8L":
            kind, options = "jpeg", {"quality": 92, "subsampling": 0, "optimize": True}
        else:
            return match[0]
        Image.open(BytesIO(data)).convert("RGB").save(file := BytesIO(), kind, **options)
        smaller = b64encode(file.getvalue()).decode()
        return f"data:image/{kind};base64,{smaller}" if len(smaller) < len(match[2]) else match[0]

    return re.sub(r"data:image/(png|webp);base64,([A-Za-z0-9+/=\s]+)", pack, text)


def tidy(svg: str) -> str:
    """Write a figure of matplotlib's shorter.

    Args:
        svg: the figure.

    Returns:
        The same figure: coordinates to a hundredth of a point, lines and marks that look alike written once, no
        metadata. A figure written so stays as it is.
    """
    ElementTree.register_namespace("", _SPACE)
    ElementTree.register_namespace("xlink", _LINK[1:].partition("}")[0])
    svg = re.sub("\\bDejaVuSans-(?=[0-9a-f]+[\"'])", "dv", svg)
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))  # noqa: S314
    root = ElementTree.fromstring(svg, parser)  # noqa: S314 - matplotlib wrote it on this machine
    for part in root.findall(_METADATA):
        root.remove(part)
    for part in root.iter():
        part.tail = None
        if part.tag not in (_STYLE, ElementTree.Comment):
            part.text = None
        if not _KEPT.match(part.get("id", "")) and f"#{part.get('id')}" not in svg:
            part.attrib.pop("id", None)
        for key in {"d", "x", "y", "width", "height", "transform", "viewBox"} & set(part.attrib):
            part.set(key, _short(part.attrib[key]))
        if "style" in part.attrib:
            part.set("style", re.sub(r"\s*([;:])\s*", r"\1", part.attrib["style"]))
        if part.tag == _USE and "href" in part.attrib:
            part.set(_LINK, part.attrib.pop("href"))
        if part.tag == _USE and (move := _MOVE.fullmatch(part.get("transform", ""))):
            del part.attrib["transform"]
            part.set("x", move[1])
    marks = {f"#{part.get('id')}": part for part in root.iter(_PATH) if part.get("id")}
    for part in root.iter():
        if part.tag == _USE and (mark := marks.get(part.get(_LINK, ""))) is not None:
            _draw(part, mark)
        path = part.get("d", "") if part.tag == _PATH else ""
        if re.fullmatch("[MLHV0-9.z -]+", path):
            part.set("d", _lines(path))
        elif re.fullmatch("[MLQ0-9z -]+", path):
            part.set("d", _steps(path))
    for part in reversed(list(root.iter(_G))):
        _unwrap(part)
        _join(part)
    drawn = {part.get(_LINK) for part in root.iter(_USE)}
    for part in reversed(list(root.iter())):
        for inner in list(part):
            undrawn = inner.tag == _PATH and part.tag == _DEFS and f"#{inner.get('id')}" not in drawn
            if undrawn or inner.get("d") == "" or (inner.tag in (_DEFS, _G) and not len(inner)):
                part.remove(inner)
    for part in root.iter(_USE):
        part.set("href", part.attrib.pop(_LINK))  # as SVG 2 writes it
    text = ElementTree.tostring(root, encoding="unicode").replace(" />", "/>")
    return (
        re.sub("<[^!>]*>", lambda tag: tag[0] if "'" in tag[0] else tag[0].replace('"', "'"), text) + "\n"
    )  # for JSON


def _short(value: str) -> str:
    """Round the numbers of a path, a place or a move to a hundredth, but not those of a scale."""
    parts = _SCALE.split(re.sub(r"\s+", " ", value.strip()))
    parts[::2] = [_NUMBER.sub(lambda match: _number(float(match[0])), part) for part in parts[::2]]
    return re.sub(r" ?\b([A-Za-z]) ?(?=[-\d]|$)", r"\1", "".join(parts))


def _number(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}".rstrip("0").rstrip(".")


def _stretches(path: str) -> Iterator[tuple[list[Point], bool]]:
    """Read a path of straight lines: its points, and whether it is closed."""
    points: list[Point] = []
    for command, text in re.findall("([MLHVz])([^MLHVz]*)", path):
        numbers = [float(number) for number in text.split()]
        if command == "M" and points:
            yield points, False
            points = []
        if command == "z":
            yield points, True
            points = []
        elif command in "ML":
            points.append((numbers[0], numbers[1]))
        else:
            x, y = points[-1]
            points.append((numbers[0], y) if command == "H" else (x, numbers[0]))
    if points:
        yield points, False


def _lines(path: str) -> str:
    """Leave out points on the way of a horizontal or vertical line, and say such a line by where it ends."""
    written = []
    for points, closed in _stretches(path):
        kept = points[:1]
        for point, after in pairwise([*points[1:], (nan, nan)]):
            if not any(
                kept[-1][axis] == point[axis] == after[axis]
                and _between(kept[-1][1 - axis], point[1 - axis], after[1 - axis])
                for axis in (0, 1)
            ):
                kept.append(point)
        text = "M{} {}".format(*map(_number, kept[0]))
        for (x, y), (right, down) in pairwise(kept):
            sideways = f"H{_number(right)}" if y == down else f"L{_number(right)} {_number(down)}"
            text += f"V{_number(down)}" if x == right else sideways
        written.append(text + "z" * closed)
    return "".join(written)


def _between(start: float, value: float, end: float) -> bool:
    return min(start, end) < value < max(start, end)


def _steps(path: str) -> str:
    """Write a letter's outline, whose coordinates are whole numbers, as steps from point to point."""
    written, last, here = "", "", (0, 0)
    start = here
    for command, text in re.findall("([MLQz])([^MLQz]*)", path):
        numbers = [int(number) for number in text.split()]
        steps = [number - here[at % 2] for at, number in enumerate(numbers)]
        kind = command.lower()
        if command == "L" and 0 in steps:
            kind, steps = ("h", steps[:1]) if steps[1] == 0 else ("v", steps[1:])
        words = " ".join(map(str, steps)).replace(" -", "-")
        written += kind + words if kind != last or kind in "mz" else words if words.startswith("-") else f" {words}"
        here = (numbers[-2], numbers[-1]) if numbers else start
        start, last = (here if command == "M" else start), kind
    return written


def _style(part: ElementTree.Element) -> dict[str, str]:
    return dict(entry.split(":", 1) for entry in part.get("style", "").split(";") if entry)


def _draw(use: ElementTree.Element, mark: ElementTree.Element) -> None:
    """Turn a mark that is a line into a path; of another one, leave the properties to its own style that it has."""
    own = _style(mark)
    path = mark.get("d", "")
    if mark.get("transform") or not (lines := re.fullmatch("M[^MzQC]*", path)):
        kept = {key: value for key, value in _style(use).items() if key not in own}
        _set_style(use, kept)
        return
    x, y = float(use.get("x", "0")), float(use.get("y", "0"))
    ((points, _),) = _stretches(lines[0])
    text = "".join(
        f"{'L' if at else 'M'}{_number(x + right)} {_number(y + down)}" for at, (right, down) in enumerate(points)
    )
    look = {"fill": "none"} | {key: value for key, value in (_style(use) | own).items() if key != "fill"}
    clip = use.get("clip-path")
    use.attrib.clear()
    use.tag = _PATH
    use.set("d", _lines(text))
    _set_style(use, look)
    if clip:
        use.set("clip-path", clip)


def _set_style(part: ElementTree.Element, style: dict[str, str]) -> None:
    part.attrib.pop("style", None)
    if style:
        part.set("style", ";".join(f"{key}:{value}" for key, value in style.items()))


def _join(group: ElementTree.Element) -> None:
    """Make one path of lines that look alike, and say a style once that all marks of a group share."""
    ticks = group.get("id", "").startswith("matplotlib.axis")  # between which there are only labels
    last: ElementTree.Element | None = None
    for part in list(group):
        style = part.get("style", "")
        if part.tag != _PATH or "fill:none" not in style or "opacity" in style:
            last = last if ticks and part.tag != _PATH else None
        elif last is not None and _look(part) == _look(last):
            last.set("d", last.get("d", "") + part.get("d", ""))
            group.remove(part)
        else:
            last = part
    looks = {(part.tag, part.get("style", "")) for part in group}
    if (
        len(group) > 1
        and len(looks) == 1
        and "style" not in group.attrib
        and group[0].tag == _USE
        and group[0].get("style")
    ):
        group.set("style", group[0].attrib["style"])
        for part in group:
            del part.attrib["style"]


def _look(path: ElementTree.Element) -> dict[str, str]:
    return {key: value for key, value in path.attrib.items() if key != "d"}


def _unwrap(group: ElementTree.Element) -> None:
    """Put what lies in groups that say nothing into the group around them."""
    if group.get("id", "").startswith("figure_"):
        return
    for index in reversed(range(len(group))):
        if group[index].tag == _G and not group[index].attrib:
            group[index : index + 1] = list(group[index])
