"""A Sphinx extension: of Font Awesome only the icons that the pages show, and not its script (0.85 MB a page less)."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path
from typing import Any

from fontTools import subset
from fontTools.ttLib import TTFont

_LOADED = re.compile(r'\s*<(?:link|script)\b[^>]*"([^"]*_static/)vendor/fontawesome/[^>]*>(?:</script>)?')
_RULE = re.compile(r'([^{}]+)\{content:"\\([0-9a-f]+)"\}')
_STYLE = """@font-face { font-family: "Font Awesome 6 Free"; font-weight: 400 900; src: url(icons-solid.woff); }
@font-face { font-family: "Font Awesome 6 Brands"; src: url(icons-brands.woff); }
:root { --fa-font-solid: normal 900 1em/1 "Font Awesome 6 Free"; --fa-font-regular: var(--fa-font-solid);
  --fa-font-brands: normal 400 1em/1 "Font Awesome 6 Brands"; }
.fa, .fas, .fa-solid, .fab, .fa-brands { display: inline-block; font: var(--fa-font-solid); text-rendering: auto;
  -webkit-font-smoothing: antialiased; }
.fab, .fa-brands { font: var(--fa-font-brands); }
.fa-lg { font-size: 1.25em; line-height: 0.05em; vertical-align: -0.075em; }
"""


def codes(style: str, names: set[str]) -> dict[str, int]:
    """Return the code points of named icons.

    Args:
        style: Font Awesome's own style sheet.
        names: such as "rocket".

    Returns:
        Name to code point, of those names that are icons.
    """
    found = {}
    for selectors, code in _RULE.findall(style):
        for name in names & set(re.findall(r"\.fa-([a-z0-9-]+):?:before", selectors)):
            found[name] = int(code, 16)
    return found


def _shrink(app: Any, error: Exception | None) -> None:
    if error or app.builder.name != "html":
        return
    logging.getLogger("fontTools").setLevel(logging.WARNING)
    out = Path(app.outdir)
    static = out / "_static"
    (vendor,) = (static / "vendor" / "fontawesome").iterdir()
    pages = {path: path.read_text(encoding="utf-8") for path in out.rglob("*.html")}
    names = {name for page in pages.values() for name in re.findall(r"\bfa-([a-z0-9-]+)", page)}
    known = codes((vendor / "css" / "all.min.css").read_text(encoding="utf-8"), names)
    sheets = [path.read_text(encoding="utf-8") for path in static.rglob("*.css") if vendor not in path.parents]
    theme = {ord(icon) for sheet in sheets for icon in re.findall("[\ue000-\uf8ff]", sheet)}
    theme |= {int(code, 16) for sheet in sheets for code in re.findall(r"\\(f[0-9a-f]{3})\b", sheet)}
    for face, weight in (("solid", 900), ("brands", 400)):
        font = TTFont(vendor / "webfonts" / f"fa-{face}-{weight}.ttf", recalcTimestamp=False)
        cut = subset.Subsetter(subset.Options(notdef_outline=False, layout_features=[]))
        cut.populate(unicodes=theme | set(known.values()))
        cut.subset(font)
        font.flavor = "woff"
        font.save(static / f"icons-{face}.woff")
    rules = [f'.fa-{name}::before {{ content: "\\{code:x}"; }}\n' for name, code in sorted(known.items())]
    (static / "icons.css").write_text(_STYLE + "".join(rules), encoding="utf-8")
    for path, page in pages.items():
        if loaded := _LOADED.search(page):
            link = f'\n  <link rel="stylesheet" href="{loaded[1]}icons.css" />'
            path.write_text(_LOADED.sub("", page).replace("</head>", f"{link}\n</head>", 1), encoding="utf-8")
    shutil.rmtree(vendor.parent)


def setup(app: Any) -> dict[str, bool]:
    """Register the extension, the last of those that look at the finished pages."""
    app.connect("build-finished", _shrink, priority=900)
    return {"parallel_read_safe": True}
