"""What two pieces show of the stored results, written when the site is built: `_static/play/{draw,dial}-data.js`.

    python book/play_stored.py FOLDER

What stands there without JavaScript is by `make play PIECE=stored`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import play_still

from fragility.interval import mean_interval
from fragility.study.store import stored

BINS = 30  # of 3 degrees each, as chapter 5 draws them


def draw() -> dict[str, Any]:
    """How many of the leading pixels still lead, against epsilon: of noise and of the top-k attack, on ImageNet."""
    rows = stored("attack_sweep-laptop").query("setup == 'squeezenet' and method == 'simple_gradient'")
    sizes, curves = sorted(rows.epsilon.unique().tolist()), {}
    for attack in ("random", "top_k"):
        parts = [rows[(rows.attack == attack) & (rows.epsilon == size)].groupby("image") for size in sizes]
        found = [mean_interval(part.top_k_intersection.mean().to_numpy()) for part in parts]
        curves[attack] = {
            "images": min(len(part) for part in parts),
            "mean": [round(float(each.mean), 4) for each in found],
            "ends": [[round(float(each.low), 4), round(float(each.high), 4)] for each in found],
        }
    return {"sizes": sizes, "k": int(rows.k.iloc[0]), **curves}


def dial() -> dict[str, Any]:
    """The angles between gradient and most fragile direction, by the number of dimensions."""
    rows = stored("angles-laptop")
    found = {}
    for setup, name in (("digits", "digits"), ("cifar10", "CIFAR-10")):
        part = rows[rows.setup == setup]
        counts, _ = np.histogram(part.angle, bins=BINS, range=(0, 90))
        found[str(part.dimension.iloc[0])] = {
            "name": name,
            "median": round(float(part.angle.median()), 2),
            "counts": counts.tolist(),
        }
    return found


def write(folder: Path) -> None:
    """Write both files."""
    for name, data in (("draw", draw()), ("dial", dial())):
        (folder / f"{name}-data.js").write_text(f"const {name}Data = {json.dumps(data)};\n", encoding="utf-8")


def pictures() -> None:
    """Photograph both pieces."""
    write(play_still.FOLDER)
    for name in ("draw", "dial"):
        play_still.photograph(name)
        (play_still.FOLDER / f"{name}-data.js").unlink()


if __name__ == "__main__":
    write(Path(sys.argv[1]))
