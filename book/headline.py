"""Draw the README's picture: three methods, each before and after the mass-centre attack on a free photograph.

    python book/headline.py [book/_static/figures/headline.png]

Minutes on two cores. The figure states what was used; nothing in it is typed by hand.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from fragility import network, plot
from fragility.attack import iterative
from fragility.attribution import deeplift, importance, integrated_gradients, simple_gradient
from fragility.data import datasets
from fragility.objective import mass_center
from fragility.similarity import center_shift

EPSILON, STEP, STEPS = 8 / 255, 1 / 255, 40
MEAN = torch.tensor([123, 117, 104]).view(3, 1, 1) / 255  # of ImageNet, the reference of both methods that need one
METHODS: dict[str, tuple[str, Callable[..., Tensor]]] = {
    "simple gradient": ("Egyptian cat", simple_gradient),
    "DeepLIFT": ("espresso", partial(deeplift, baseline=MEAN)),
    "integrated gradients": ("stupa", partial(integrated_gradients, baseline=MEAN, steps=50)),
}
CHEAP = {"integrated gradients": partial(integrated_gradients, baseline=MEAN, steps=5)}  # for the attack's steps


def main(target: Path) -> None:
    """Attack, draw and write the figure."""
    photographs, model = datasets.photographs(), network.squeezenet()
    parts: list[tuple[Tensor, ...]] = []
    rows, shifts, changed_captions = [], [], []
    for name, (title, method) in METHODS.items():
        label = photographs.class_names.index(title)
        row = int((photographs.labels == label).nonzero()[0])
        image, labels = photographs.images[row : row + 1], torch.tensor([label])
        found = iterative(
            model, image, labels, attribution=CHEAP.get(name, method), objective=mass_center(), epsilon=EPSILON,
            step_size=STEP, iterations=STEPS, surrogate_beta=1.0, progress=True,
        )  # fmt: skip
        before, after = importance(method(model, image, labels)), importance(method(model, found.images, labels))
        parts.append((image, before, found.images, after))
        rows.append(name)
        shifts.append(f"centre of mass moved {center_shift(before, after).item():.0f} px")
        kept = "still" if found.labels_kept.item() else "NO LONGER"
        changed_captions.append(f"{kept} {title}, {found.confidence_after.item():.0%}")
        print(name, found.confidence_before.item(), changed_captions[-1], shifts[-1], found.iteration.item())
    image, before, changed, after = (torch.cat(column) for column in zip(*parts, strict=True))
    plot.use_style()
    figure = plot.grid(
        {"image": image, "its map": before, f"image + at most {EPSILON * 255:.0f}/255": changed, "map now": after},
        rows=rows,
        notes={f"image + at most {EPSILON * 255:.0f}/255": changed_captions, "map now": shifts},
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "book/_static/figures/headline.png"))
