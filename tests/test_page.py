"""Pictures to touch, as a cell shows them: they hold what they say, and need nothing else."""

from __future__ import annotations

import base64
import re
from io import BytesIO

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image

from fragility import page


def embedded(markup: str) -> list[Image.Image]:
    return [
        Image.open(BytesIO(base64.b64decode(data))) for data in re.findall(r"data:image/webp;base64,([^\"]+)", markup)
    ]


def test_both_pictures_of_a_comparator_are_exact_and_side_by_side_with_their_maps() -> None:
    generator = torch.Generator().manual_seed(0)
    before = torch.randint(0, 256, (3, 224, 224), generator=generator) / 255
    after = (before + 1 / 255).clamp(0, 1)
    maps = torch.rand(224, 224, generator=generator)
    piece = page.blink((before, maps), (after, maps), alt=("a <first>", "a second"), caption="Both & none.")
    pictures = embedded(piece.markup)
    assert len(pictures) == 4
    for image, picture in ((before, pictures[0]), (after, pictures[2])):
        assert (np.asarray(picture) == np.round(255 * image.movedim(0, -1).numpy())).all()
    words = re.sub("<[^>]*>", " ", piece.markup)
    assert words.split() == ["original", "changed", "Both", "&amp;", "none."]
    assert re.findall('aria-label="([^"]*)"', piece.markup) == ["original: a &lt;first&gt;", "changed: a second"]
    assert not re.search(r"https?:|<script|<link", piece.markup)
    assert piece._repr_html_() == piece.markup
    assert "a second" in repr(piece)


def test_small_pictures_are_enlarged_pixel_by_pixel_and_grey_ones_are_grey() -> None:
    image = torch.tensor([[[0.0, 1.0], [0.2, 0.6]]])
    pixels = np.asarray(page.rendered(image))
    assert pixels.shape == (224, 224, 3)
    assert (pixels == np.array([[0, 255], [51, 153]]).repeat(112, 0).repeat(112, 1)[..., None]).all()


def test_a_map_runs_from_the_darkest_colour_to_the_brightest_at_its_brightest_hundredth() -> None:
    maps = torch.linspace(0, 3, 300 * 300).view(300, 300)
    pixels = np.asarray(page.rendered(maps))
    table = np.round(255 * mpl.colormaps["magma"](np.arange(256))[:, :3])
    assert (pixels[0, 0] == table[0]).all()
    assert (pixels[-3:] == table[-1]).all()
    assert (np.asarray(page.rendered(torch.zeros(300, 300))) == table[0]).all()


@pytest.mark.parametrize(
    ("before", "after", "alt", "message"),
    [
        (torch.zeros(3, 4, 4), torch.zeros(1, 4, 4), ("a", "b"), "after: expected the shapes of before"),
        ((), (), ("a", "b"), "after: expected the shapes of before"),
        (torch.zeros(4, 4), torch.zeros(4, 4), ("a", ""), "alt: expected a sentence for each of the two"),
        (torch.zeros(2, 4, 4), torch.zeros(2, 4, 4), ("a", "b"), r"image: expected shape \(1 or 3, H, W\)"),
    ],
)
def test_what_cannot_be_compared_is_refused(before: object, after: object, alt: tuple[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        page.blink(before, after, alt=alt)
