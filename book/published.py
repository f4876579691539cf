"""A Sphinx extension: what a published site needs besides its pages (sitemap, social card, a page for wrong addresses).

The site's address follows from the repository's, which `book/address.py` fills in.
"""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import matplotlib.pyplot as plt
from address import site_address

CARD = "_static/card.jpg"
PICTURE = "_static/figures/headline.png"


def sitemap(addresses: list[str]) -> str:
    """Return a sitemap of the given addresses, as XML."""
    entries = "".join(f"<url><loc>{html.escape(address)}</loc></url>\n" for address in addresses)
    head = '<?xml version="1.0" encoding="utf-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
    return f"{head}{entries}</urlset>\n"


def not_found(title: str, home: str) -> str:
    """Return the page for an address that does not exist. It is served in place of any, so it loads nothing."""
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Not here - {html.escape(title)}</title>\n"
        "<style>:root { color-scheme: light dark; color: #1b1b1f; background: #fff; } a { color: #1a4fa0; }\n"
        "@media (prefers-color-scheme: dark) { :root { color: #ececf1; background: #16161b; } a { color: #9ec1ff; } }\n"
        "body { font: 1.1rem/1.6 system-ui, sans-serif; "
        "max-width: 34rem; margin: 15vh auto; padding: 0 1rem; }</style>\n"
        "<main>\n<h1>There is no such page</h1>\n<p>Chapters get renamed; the book is still here: "
        f'<a href="{home}">{html.escape(title)}</a>.</p>\n</main>\n</html>\n'
    )


def draw_card(target: Path, picture: Path, title: str, subtitle: str) -> None:
    """Draw what a link to the site looks like elsewhere: the title beside the book's first figure."""
    with plt.rc_context({"font.family": "DejaVu Sans"}):
        figure = plt.figure(figsize=(12, 6.3), dpi=100, facecolor="white")
        figure.text(0.04, 0.60, title.replace(" ", "\n"), fontsize=34, weight="bold", linespacing=1.15)
        figure.text(0.04, 0.36, subtitle, fontsize=17, color="#333333", linespacing=1.5)
        axes = figure.add_axes((0.40, 0.02, 0.59, 0.96))
        axes.imshow(plt.imread(picture))
        axes.axis("off")
        figure.savefig(target, pil_kwargs={"quality": 88})
        plt.close(figure)


def _configure(app: Any, config: Any) -> None:
    config.html_baseurl = config.ogp_site_url = site_address(config.html_theme_options["repository_url"])
    config.ogp_site_name, config.ogp_image = config.html_title, CARD


def _finish(app: Any, error: Exception | None) -> None:
    if error or app.builder.name != "html":
        return
    base, out = app.config.html_baseurl, Path(app.outdir)
    targets = [app.builder.get_target_uri(name) for name in sorted(app.env.found_docs)]
    (out / "sitemap.xml").write_text(sitemap([base + target for target in targets]), encoding="utf-8")
    (out / "404.html").write_text(not_found(app.config.html_title, urlsplit(base).path), encoding="utf-8")
    draw_card(out / CARD, out / PICTURE, app.config.html_title, "Same picture, same prediction,\nanother explanation")


def setup(app: Any) -> dict[str, bool]:
    """Register the extension."""
    app.connect("config-inited", _configure)
    app.connect("build-finished", _finish)
    return {"parallel_read_safe": True}
