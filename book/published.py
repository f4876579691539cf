"""A Sphinx extension: where the site is published, its social card, and the version and commit that it was built from.

The address follows from the repository's.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import matplotlib.pyplot as plt
from address import ROOT, site_address

CARD = "_static/card.jpg"
PICTURE = "_static/figures/headline-moving.webp"


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


def built_from(repository: str, folder: Path = ROOT) -> str:
    """Say from which version and commit a site is built: the same for the same commit.

    Args:
        repository: its address.
        folder: inside of the checkout.

    Returns:
        HTML; only the version where there is no checkout.
    """
    command = ["git", "log", "-1", "--format=%H %cs"]
    said = []
    if shutil.which("git"):
        said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout.split()
    text = f"Version {version('fragility')}"
    if len(said) == 2:
        commit, day = said
        text += f', commit <a href="{repository}/commit/{commit}">{commit[:10]}</a> of {day}'
    return text


def _configure(app: Any, config: Any) -> None:
    home = site_address(config.html_theme_options["repository_url"])
    config.html_baseurl = config.ogp_site_url = home
    config.html_theme_options["extra_footer"] = built_from(config.html_theme_options["repository_url"])
    # The page for wrong addresses is served in place of any: its own addresses are absolute.
    config.notfound_urls_prefix, title = urlsplit(home).path, "There is no such page"
    back = f'<a href="{config.notfound_urls_prefix}">the book</a>'
    body = f"<h1>{title}</h1><p>Chapters get renamed; {back} is still here.</p>"
    config.notfound_context = {"title": title, "body": body}
    config.ogp_site_name, config.ogp_image = config.html_title, CARD


def forward(page: str, title: str) -> str:
    """Write what the bare address of the site shows: a page that leads on to another."""
    # The empty icon keeps a browser from asking the host for /favicon.ico, which is not the site's to give.
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
  <meta charset="utf-8" />
  <meta http-equiv="Refresh" content="0; url={page}" />
  <link rel="icon" href="data:," />
  <title>{title}</title>
</head>
<body><a href="{page}">{title}</a></body>
</html>
"""


def without_edit(page: str) -> str:
    """Take the button that edits a page's source off a page that has none, as the build wrote it."""
    return re.sub(r'(?s)<li><a href="[^"]*/edit/main/[^"]*".*?</li>', "", page)


def _finish(app: Any, error: Exception | None) -> None:
    if not error and app.builder.name == "html":
        out, subtitle = Path(app.outdir), "Same picture, same prediction,\nanother explanation"
        for path in [out / "book" / "status.html", *out.glob("book/instructor/*.html")]:
            path.write_text(without_edit(path.read_text(encoding="utf-8")), encoding="utf-8")
        draw_card(out / CARD, out / PICTURE, app.config.html_title, subtitle)
        first = f"{app.config.root_doc}.html"
        (out / "index.html").write_text(forward(first, app.config.html_title), encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Register the extension."""
    app.connect("config-inited", _configure)
    app.connect("build-finished", _finish)
    return {"parallel_read_safe": True}
