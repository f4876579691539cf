"""Pairs of an original and an attacked photograph, for `_static/pieces/original.js`; by `make play`."""

from __future__ import annotations

import json
from pathlib import Path

import play_still
import torch
from PIL import Image

from fragility import network, page
from fragility.attack import iterative
from fragility.attribution import importance, simple_gradient
from fragility.data import datasets
from fragility.objective import mass_center
from fragility.similarity import center_shift, top_k_intersection

FOLDER = Path(__file__).parent / "_static" / "play"
ROUNDS = [(0, 4), (1, 2), (2, 8), (3, 4), (0, 8)]  # a photograph, and epsilon in steps of 255
SIDE, STEPS, K = 160, 20, 1000


def main() -> None:
    """Attack, and write the middle of each photograph at its own resolution, original above, attacked below."""
    photographs, model = datasets.photographs(), network.squeezenet()
    whole, rounds = Image.new("RGB", (SIDE * len(ROUNDS), 2 * SIDE)), []
    edge = (photographs.images.shape[-1] - SIDE) // 2
    for place, (row, size) in enumerate(ROUNDS):
        image = photographs.images[row : row + 1]
        label = model(image).argmax(1)
        found = iterative(
            model, image, label, attribution=simple_gradient, objective=mass_center(), epsilon=size / 255,
            step_size=min(1.0, size / 4) / 255, iterations=STEPS, surrogate_beta=1.0,
        )  # fmt: skip
        if not found.labels_kept.all():
            raise RuntimeError(
                f"photograph {row}: expected an attack that keeps the answer at {size}/255, as the page says"
            )
        before, after = (importance(simple_gradient(model, x, label)) for x in (image, found.images))
        for below, picture in enumerate((image, found.images)):
            middle = picture[0, :, edge : edge + SIDE, edge : edge + SIDE]
            shown = page.rendered(middle).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            whole.paste(shown, (place * SIDE, below * SIDE))
        rounds.append(
            {
                "epsilon": size,
                "name": photographs.class_names[int(label)],
                "shift": round(center_shift(before, after).item()),
                "left": round(top_k_intersection(before, after, K).item(), 2),
            }
        )
    whole.save(FOLDER / "original-pairs.webp", quality=90, method=6)
    (FOLDER / "original-data.js").write_text(f"const originalData = {json.dumps(rounds)};\n", encoding="utf-8")
    play_still.photograph("original")


if __name__ == "__main__":
    torch.set_flush_denormal(True)
    main()
