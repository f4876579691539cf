"""The sparsified smoothed gradient and its guarantee from samples [Levine2019], beside attacks."""

import math
from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from fragility.study.explainers import certify
from fragility.study.explainers.certificates import Ready, prepare
from fragility.study.piece import Piece, Row, batches, declared, generator, positions, row_per_image

CONFIDENCE = 0.95


def marked(model: Any, x: Tensor, label: Tensor, sigma: float, share: float, q: int, source: torch.Generator) -> Tensor:
    """Return how often each pixel (d,) is among the largest |gradients| of the class at q noisy copies of x (d,)."""
    copies = x + sigma * torch.randn(q, len(x), generator=source, dtype=x.dtype)
    sizes = certify.slopes(model, copies, label.expand(q)).abs()
    chosen = sizes.topk(round(share * len(x)), dim=1).indices
    return torch.bincount(chosen.flatten(), minlength=len(x)).to(x.dtype) / q


def error(pixels: int, q: int) -> float:
    """Return what no frequency is off by, but for one time in twenty: Hoeffding's bound over all pixels."""
    return math.sqrt(math.log(2 * pixels / (1 - CONFIDENCE)) / (2 * q))


def certified(shares: Tensor, k: int, slack: float, ratio: float) -> float:
    """Return what is left of the top k of frequencies (d,) at any point nearer than `ratio` sigma."""
    ranked = shares.sort(descending=True).values
    least = torch.special.ndtr(torch.special.ndtri((ranked[:k] - slack).clamp(min=0)) - 2 * ratio) - slack
    return float((least > ranked[k : 2 * k].flip(0)).sum() / k)


def left(before: Tensor, after: Tensor, k: int, slack: float = 0.0) -> float:
    """Return the share of the top k before that is among the top k after, or may be if frequencies are off."""
    top = before.topk(k).indices
    return float((after[top] + slack >= after.topk(k).values[-1] - slack).sum() / k)


def pieces(profile: dict[str, Any], ready: Ready) -> Iterator[Piece]:
    """A piece is a radius and some images."""
    shared = {name: value for name, value in profile.items() if name not in ("betas", "rhos")}
    for beta, rho in product(profile["betas"], profile["rhos"]):
        for piece in batches(ready.data, profile["batch"]):
            yield {**shared, **piece, "beta": beta, "rho": rho}


def rows(piece: Piece, ready: Ready) -> list[Row]:
    """Certify by one sample, attack on another, judge by a third."""
    model, k, rho, q = ready.models[piece["beta"]], piece["k"], piece["rho"], piece["q"]
    images = ready.data.images[positions(ready.data, piece)].double()
    columns: dict[str, list[float]] = {name: [] for name in ("certified", "broken", "attacked", "attacked_at_most")}
    for name, x, label in zip(piece["images"], images.flatten(1), model(images).argmax(1), strict=True):
        count = partial(marked, model, label=label, sigma=piece["sigma"], share=piece["share"])
        before = count(x, q=q, source=generator("certify", name))
        noise = piece["sigma"] * torch.randn(64, len(x), generator=generator("attack", name), dtype=x.dtype)

        def mean(y: Tensor, noise: Tensor = noise, label: Tensor = label) -> Tensor:
            return certify.slopes(model, (y + noise), label.expand(64)).abs().mean(0, keepdim=True)

        steps = piece["iterations"]
        tries = list(certify.climb(mean, x[None], rho, k, steps, 2, 0))[steps - 1 :: steps]
        seen = [(left(before, count(y[0], q=q, source=generator("choose", name)), k), y[0]) for y in tries]
        worst = min(seen, key=lambda pair: pair[0])[1]
        after, slack = count(worst, q=4 * q, source=generator("judge", name)), error(len(x), q)
        found = (
            certified(before, k, slack, rho / piece["sigma"]),
            certified(before, k, 0.0, 0.0),
            left(before, after, k),
            left(before, after, k, error(len(x), 4 * q)),
        )
        for column, value in zip(columns.values(), found, strict=True):
            column.append(value)
    return row_per_image(piece, **columns)


STUDY = declared(__file__, prepare, pieces, rows)
