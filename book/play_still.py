"""Pictures that stand where a piece to touch has no JavaScript to live on."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from browser import chromium
from PIL import Image

FOLDER = Path(__file__).parent / "_static" / "play"
# The theme's, light.
COLOURS = "--pst-color-text-base: #222832; --pst-color-surface: #f3f4f5; --pst-color-border: #d1d5da"


def side_by_side(file: str, pictures: Sequence[Image.Image], gap: int = 12, quality: int = 85) -> None:
    """Write pictures of one height beside each other."""
    width = sum(picture.width + gap for picture in pictures) - gap
    whole = Image.new("RGBA" if gap else "RGB", (width, pictures[0].height))
    right = 0
    for picture in pictures:
        whole.paste(picture, (right, 0))
        right += picture.width + gap
    whole.save(FOLDER / file, quality=quality, method=6)


def photograph(name: str) -> None:
    """Write the panels of a piece as its script draws them, as NAME.webp."""
    static = FOLDER.parent
    head = (
        f'<link rel="stylesheet" href="{(static / "custom.css").as_uri()}"><style>body {{ background: #fff }}</style>'
    )
    style = f"<style>:root {{ {COLOURS} }} body {{ font-family: sans-serif }}</style>"
    script = f'<script src="{(static / "pieces.js").as_uri()}"></script>'
    body = f'<main class="bd-article"><figure class="piece" data-piece="{name}"></figure></main>'
    with TemporaryDirectory() as folder, chromium() as browser:
        file = Path(folder) / "piece.html"
        file.write_text(f"<!doctype html>{head}{style}{script}{body}", encoding="utf-8")
        shown = browser.new_page(viewport={"width": 700, "height": 900})
        shown.goto(file.as_uri())
        shown.wait_for_selector("figure.live")
        shown.wait_for_load_state("networkidle")
        shot = shown.locator(".piece-panels").screenshot()
    Image.open(BytesIO(shot)).save(FOLDER / f"{name}.webp", quality=85, method=6)
