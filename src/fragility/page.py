"""Pictures that a reader of a page can touch: the HTML that a notebook's cell shows.

Nothing is loaded from outside. On the book's site `book/_static/pieces.js` brings them to life; everywhere else, and
without JavaScript, they are plain pictures with their titles.
"""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import matplotlib as mpl
import numpy as np
from PIL import Image
from torch import Tensor

from fragility.plot import COLORMAP

_LEAST = 224  # px: smaller pictures are enlarged, pixel by pixel
# Where no style sheet of the book's is: two pictures beside each other, or below where there is no room.
_SIDES = "display:flex;flex-wrap:wrap;gap:1rem"
_SIDE = "flex:1 1 224px;max-width:480px"
_PICTURE = "flex:1;min-width:0;height:auto"


@dataclass(frozen=True)
class Piece:
    """What a cell shows.

    Attributes:
        markup: HTML, which needs nothing else.
        text: the same in words, where HTML cannot be shown.
    """

    markup: str
    text: str

    def _repr_html_(self) -> str:
        return self.markup

    def __repr__(self) -> str:
        return self.text


def rendered(image: Tensor) -> Image.Image:
    """Turn an image or an importance map into a picture, in the colours of the book's figures.

    Args:
        image: (C, H, W) in [0, 1] with 1 or 3 channels, or a map (H, W), non-negative.

    Returns:
        An RGB picture of H x W pixels, or of a whole multiple where those are fewer than 224.

    Raises:
        ValueError: if `image` has another shape.
    """
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[0] not in (1, 3)):
        raise ValueError(f"image: expected shape (1 or 3, H, W), or (H, W) for a map, got {tuple(image.shape)}")
    values = image.detach().cpu().float()
    if image.ndim == 2:
        brightest = values.quantile(0.99).clamp_min(1e-30)
        rgb = mpl.colormaps[COLORMAP]((values / brightest).clamp(0, 1).numpy())[..., :3]
    else:
        rgb = values.expand(3, -1, -1).movedim(0, -1).numpy()
    pixels = np.round(255 * rgb).astype(np.uint8)
    factor = -(-_LEAST // min(pixels.shape[:2]))
    return Image.fromarray(pixels.repeat(factor, 0).repeat(factor, 1))


def blink(
    before: Tensor | Sequence[Tensor],
    after: Tensor | Sequence[Tensor],
    *,
    alt: tuple[str, str],
    titles: tuple[str, str] = ("original", "changed"),
    caption: str = "",
) -> Piece:
    """Two pictures in one place: hold the button (or the space bar on it, or a finger on the picture) to see the other.

    As the last line of a cell::

        page.blink(
            (image, map_before),
            (changed, map_after),
            titles=("original", "after the attack"),
            alt=("Cat, its map on the face.", "Same cat, its map in a corner."),
        )

    Args:
        before: the picture seen first: an image (C, H, W) in [0, 1] or an importance map (H, W); or several of them,
            shown side by side.
        after: the other one, of the same shapes.
        alt: what the two show, for readers who do not see them.
        titles: what the two are called.
        caption: a sentence below; none when empty.

    Returns:
        What the cell shows.

    Raises:
        ValueError: if the shapes differ, or an `alt` is empty.
    """
    sides = [[side] if isinstance(side, Tensor) else list(side) for side in (before, after)]
    shapes = [[tuple(image.shape) for image in side] for side in sides]
    if shapes[0] != shapes[1] or not shapes[0]:
        raise ValueError(f"after: expected the shapes of before, {shapes[0]}, got {shapes[1]}")
    if not all(alt):
        raise ValueError(f"alt: expected a sentence for each of the two, got {alt}")
    parts = [_side(side, title, words) for side, title, words in zip(sides, titles, alt, strict=True)]
    below = f"<figcaption>{html.escape(caption)}</figcaption>\n" if caption else ""
    markup = (
        f'<figure class="blink">\n<div class="blink-sides" style="{_SIDES}">\n{"".join(parts)}</div>\n{below}</figure>'
    )
    return Piece(markup, f"{titles[0]}: {alt[0]}\n{titles[1]}: {alt[1]}")


def _side(images: Sequence[Tensor], title: str, alt: str) -> str:
    """One of the two: its title above its pictures."""
    pictures = "".join(f'<img src="{embedded(image)}" alt="" style="{_PICTURE}">' for image in images)
    name, words = html.escape(title), html.escape(alt)
    return (
        f'<div class="blink-side" style="{_SIDE}"><div>{name}</div>'
        f'<div role="img" aria-label="{name}: {words}" style="display:flex;gap:4px">{pictures}</div></div>\n'
    )


def embedded(image: Tensor) -> str:
    """Return an image or a map as an address that holds it; every pixel of an image as it is, of a map nearly so.

    Args:
        image: as `rendered` takes it.

    Returns:
        A data URL that holds a WebP picture.
    """
    file = BytesIO()
    # Lossy WebP halves the resolution of colours, which would take away most of a small change.
    rendered(image).save(file, "WebP", lossless=image.ndim == 3, quality=90, method=6)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
