"""Where a ReLU network is linear its gradient is constant: the ball up to the nearest kink [Lee2019], tried."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fragility import train
from fragility.data.datasets import digits
from fragility.study.explainers import certify
from fragility.study.explainers.certificates import Ready
from fragility.study.piece import Piece, Row, declared, generator, positions


def radius(model: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the L2 distance of x (d,) to the nearest kink of its linear piece, and the unit vector there."""
    value, slope, found = x, torch.eye(len(x), dtype=x.dtype), []
    for layer in [layer for layer in model if isinstance(layer, nn.Linear)][:-1]:
        value, slope = layer(value), layer.weight @ slope
        lengths = slope.norm(dim=1)
        near = (value.abs() / lengths.clamp(min=1e-30)).argmin()
        found.append((value[near].abs() / lengths[near], -value[near].sign() * slope[near] / lengths[near]))
        slope, value = slope * (value > 0).unsqueeze(1), value.relu()
    return min(found, key=lambda pair: float(pair[0]))


def gradients(model: Any, x: Tensor, label: Tensor) -> Tensor:
    """Return the gradients of a class's logit at points (B, d)."""
    points = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(model(points)[:, label].sum(), points)
    return found


def prepare(profile: dict[str, Any], device: str) -> tuple[Ready, dict[str, Any]]:
    """Train the network and draw images from the test."""
    data = digits("test", size=8, limit=profile["images"])
    model = certify.dense(digits("train", size=8), profile["widths"], nn.ReLU(), 0, profile["steps"])
    return Ready({0.0: model}, data), {"data": data.source, "images_sha256": train.fingerprint(data.images)}


def pieces(profile: dict[str, Any], ready: Ready) -> Iterator[Piece]:
    """One piece."""
    yield {**profile, "images": list(ready.data.files), "pixels": train.fingerprint(ready.data.images)}


def rows(piece: Piece, ready: Ready) -> list[Row]:
    """Move by .99 of the radius, at random and towards the kink, and by 1.01 of it."""
    model, made = ready.models[0.0], list[Row]()
    images = ready.data.images[positions(ready.data, piece)].double()
    for name, x, label in zip(piece["images"], images.flatten(1), model(images).argmax(1), strict=True):
        size, towards = radius(model, x)
        moves = torch.randn(piece["directions"], len(x), generator=generator("directions", name), dtype=x.dtype)
        moves = torch.cat([moves / moves.norm(dim=1, keepdim=True), towards[None]])
        before, inside = gradients(model, x[None], label), gradients(model, x + 0.99 * size * moves, label)
        outside = gradients(model, x + 1.01 * size * towards[None], label)
        scale = before.abs().max()
        changes = {"inside": (inside - before).abs().max() / scale, "outside": (outside - before).abs().max() / scale}
        made.append({"image": name, "radius": float(size), **{key: float(value) for key, value in changes.items()}})
    return made


STUDY = declared(__file__, prepare, pieces, rows)
