"""Pictures that stand where a piece to touch has no JavaScript to live on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

FOLDER = Path(__file__).parent / "_static" / "play"


def side_by_side(name: str, pictures: Sequence[Image.Image], gap: int = 12) -> None:
    """Write pictures of one height beside each other, as NAME.webp."""
    width = sum(picture.width + gap for picture in pictures) - gap
    whole = Image.new("RGBA", (width, pictures[0].height))
    right = 0
    for picture in pictures:
        whole.paste(picture, (right, 0))
        right += picture.width + gap
    whole.save(FOLDER / f"{name}.webp", quality=85, method=6)
