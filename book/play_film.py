"""The attack as a film: every iterate of Algorithm 1 on a photograph, for `_static/pieces/film.js`; by `make play`."""

from __future__ import annotations

import json
from pathlib import Path

import play_still
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fragility import network, page
from fragility.attack import iterative
from fragility.attribution import importance, simple_gradient
from fragility.data import datasets
from fragility.iterate import Iterate
from fragility.objective import mass_center
from fragility.similarity import center_of_mass

FOLDER = Path(__file__).parent / "_static" / "play"
STEPS, EPSILON, ALPHA = 30, 8 / 255, 1 / 255
SIDES = {"photograph": 180, "change": 128, "map": 128}  # px


def strip(name: str, pictures: list[Tensor]) -> None:
    """Write pictures (3, H, W), or maps (H, W), beside each other."""
    side = SIDES[name]
    whole = Image.new("RGB", (side * len(pictures), side))
    for place, picture in enumerate(pictures):
        size = (side, side)
        small = F.interpolate(picture.view(1, -1, *picture.shape[-2:]), size, mode="area")[0]
        shown = page.rendered(small[0] if picture.ndim == 2 else small).resize(size, Image.Resampling.BOX)
        whole.paste(shown, (place * side, 0))
    whole.save(FOLDER / f"film-{name}.webp", quality=70 if name == "photograph" else 45, method=6)


def main() -> None:
    """Attack, and write what each step came to."""
    photographs = datasets.photographs()
    image, label, model = photographs.images[:1], photographs.labels[:1], network.squeezenet()
    reference = importance(simple_gradient(model, image, label))
    objective, seen = mass_center(), list[Iterate]()
    iterative(
        model, image, label, attribution=simple_gradient, objective=objective, epsilon=EPSILON, step_size=ALPHA,
        iterations=STEPS, surrogate_beta=1.0, callback=seen.append,
    )  # fmt: skip
    images = torch.cat([image, *(iterate.images for iterate in seen)])
    maps = torch.cat([reference, *(iterate.maps for iterate in seen)])
    strip("photograph", list(images))
    strip("change", list(0.5 + (images - image) / (2 * EPSILON)))
    strip("map", list(maps))
    values = objective(maps, reference.expand_as(maps)).tolist()
    sure = model(images).softmax(1)[:, label.item()].tolist()
    kept = [True, *(bool(iterate.kept) for iterate in seen)]
    data = {
        "steps": STEPS,
        "values": [round(value, 2) for value in values],
        "sure": [round(p, 3) for p in sure],
        "kept": kept,
        "centres": [[round(100 * (at + 0.5) / 227, 1) for at in point] for point in center_of_mass(maps).tolist()],
    }
    (FOLDER / "film-data.js").write_text(f"const filmData = {json.dumps(data)};\n", encoding="utf-8")
    play_still.photograph("film")


if __name__ == "__main__":
    torch.set_flush_denormal(True)
    main()
