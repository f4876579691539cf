"""Draw the book's first figure and the README's moving picture: three methods, each before and after an attack.

    python book/headline.py [book/_static/figures]

Minutes on two cores. The pictures state what was used; nothing in them is typed by hand.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO, StringIO
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import torch
from lighter import packed, tidy
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor

from fragility import network, plot
from fragility.attack import iterative
from fragility.attribution import deeplift, importance, integrated_gradients, simple_gradient
from fragility.data import datasets
from fragility.objective import mass_center
from fragility.similarity import center_of_mass, center_shift

EPSILON, STEP, STEPS = 8 / 255, 1 / 255, 40
MEAN = torch.tensor([123, 117, 104]).view(3, 1, 1) / 255  # of ImageNet, the reference of both methods that need one
METHODS: dict[str, tuple[str, Callable[..., Tensor]]] = {
    "simple gradient": ("Egyptian cat", simple_gradient),
    "DeepLIFT": ("espresso", partial(deeplift, baseline=MEAN)),
    "integrated gradients": ("stupa", partial(integrated_gradients, baseline=MEAN, steps=50)),
}
CHEAP = {"integrated gradients": partial(integrated_gradients, baseline=MEAN, steps=5)}  # for the attack's steps


class Attacked(NamedTuple):
    """A photograph (1, 3, H, W) and its map (1, H, W), before and after, and what is said below them."""

    images: tuple[Tensor, Tensor]
    maps: tuple[Tensor, Tensor]
    predictions: tuple[str, str]
    shift: str


def attack(name: str) -> Attacked:
    """Attack one method on its photograph."""
    title, method = METHODS[name]
    photographs, model = datasets.photographs(), network.squeezenet()
    labels = torch.tensor([photographs.class_names.index(title)])
    image = photographs.images[photographs.labels == labels][:1]
    found = iterative(
        model, image, labels, attribution=CHEAP.get(name, method), objective=mass_center(), epsilon=EPSILON,
        step_size=STEP, iterations=STEPS, surrogate_beta=1.0, progress=True,
    )  # fmt: skip
    maps = [importance(method(model, each, labels)) for each in (image, found.images)]
    still = f"still {title}" if found.labels_kept.item() else f"NO LONGER {title}"
    predictions = f"{title}, {found.confidence_before.item():.0%}", f"{still}, {found.confidence_after.item():.0%}"
    shift = f"centre moved {center_shift(*maps).item():.0f} px"
    print(name, *predictions, shift, found.iteration.item())
    return Attacked((image, found.images), (maps[0], maps[1]), predictions, shift)


def ring(axes: Axes, maps: Tensor, color: str = "white") -> None:
    """Mark a map's centre of mass."""
    row, column = center_of_mass(maps)[0].tolist()
    axes.plot(column, row, "o", markersize=9, markerfacecolor="none", markeredgecolor="black", markeredgewidth=3.2)
    axes.plot(column, row, "o", markersize=9, markerfacecolor="none", markeredgecolor=color, markeredgewidth=1.8)


def still(parts: Sequence[Attacked], target: Path) -> None:
    """Draw all of it in one figure."""
    changed = f"image + at most {EPSILON * 255:.0f}/255"
    images, maps = zip(*[(part.images, part.maps) for part in parts], strict=True)
    columns = {
        "image": torch.cat([pair[0] for pair in images]),
        "its map": torch.cat([pair[0] for pair in maps]),
        changed: torch.cat([pair[1] for pair in images]),
        "map now": torch.cat([pair[1] for pair in maps]),
    }
    notes = {
        "image": [part.predictions[0] for part in parts],
        changed: [part.predictions[1] for part in parts],
        "map now": [part.shift for part in parts],
    }
    figure = plot.grid(columns, rows=list(METHODS), notes=notes)
    for number, pair in enumerate(maps):
        ring(figure.axes[4 * number + 1], pair[0])
        ring(figure.axes[4 * number + 3], pair[1])
    file = StringIO()
    figure.savefig(file, format="svg", dpi=130, metadata={"Date": None})
    plt.close(figure)
    target.write_text(tidy(packed(file.getvalue())), encoding="utf-8")


def moving(parts: Sequence[Attacked], target: Path) -> None:
    """Draw the two states in turn, as one animated picture."""
    frames = []
    place = {"left": 0.01, "right": 0.99, "top": 0.93, "bottom": 0.09, "wspace": 0.03, "hspace": 0.12}  # in both alike
    for state, title in enumerate(["Photographs and maps", f"No pixel changed by more than {EPSILON * 255:.0f}/255"]):
        figure, panels = plt.subplots(2, len(parts), figsize=(7.2, 5.6), layout="none", gridspec_kw=place)
        for column, (part, method) in enumerate(zip(parts, METHODS, strict=True)):
            plot.picture(panels[0, column], part.images[state][0])
            panels[0, column].set_xlabel(part.predictions[state])
            plot.importance_map(panels[1, column], part.maps[state][0])
            panels[1, column].set_xlabel(f"{method}\n{part.shift if state else ' '}")
            ring(panels[1, column], part.maps[state])
        figure.suptitle(title)
        file = BytesIO()
        figure.savefig(file, dpi=100)
        plt.close(figure)
        frames.append(Image.open(file).convert("RGB"))
    frames[0].save(target, save_all=True, append_images=frames[1:], duration=1800, loop=0, quality=80, method=6)


def main(folder: Path) -> None:
    """Attack, draw and write both pictures."""
    plot.use_style()
    parts = [attack(name) for name in METHODS]
    still(parts, folder / "headline.svg")
    moving(parts, folder / "headline-moving.webp")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "book/_static/figures"))
