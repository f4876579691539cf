"""Weights at random from the top down: which maps notice [Adebayo2018], and what an input factor hides."""

import math
from collections.abc import Iterator, Mapping
from copy import deepcopy
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from fragility import train
from fragility._path import mean_gradient
from fragility.similarity import spearman
from fragility.study.attacks.setup import Subject, changed_all, prepare_images
from fragility.study.piece import Piece, Row, batches, declared, generator, row_per_image


def randomised(model: nn.Module, share: float, draws: torch.Generator) -> tuple[nn.Module, int]:
    """A copy with random weights in a share of its layers, the last ones and one at least; and how many they are."""
    copy = deepcopy(model)
    layers = [layer for layer in copy.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    count = max(1, round(share * len(layers)))
    for layer in layers[len(layers) - count :]:
        deviation = math.sqrt(2 / layer.weight[0].numel())
        layer.weight.data.copy_(deviation * torch.randn(layer.weight.shape, generator=draws))
        layer.bias.data.zero_()  # type: ignore[union-attr]
    return copy, count


def pieces(profile: dict[str, Any], subjects: Mapping[str, Subject]) -> Iterator[Piece]:
    """Cut the images into batches, for every method and depth."""
    shared = {name: profile[name] for name in ("steps", "seed")}
    for (name, subject), (layers, share), method in product(
        subjects.items(), profile["layers"].items(), profile["methods"]
    ):
        own = {"setup": name, "weights": subject.weights, "baseline": train.fingerprint(subject.baseline.cpu())}
        for images in batches(subject.data, profile["batch"]):
            yield {**images, **shared, **own, "layers": layers, "share": share, "method": method}


def rows(piece: Piece, subjects: Mapping[str, Subject]) -> list[Row]:
    """Compare the maps of the trained network and of the random one."""
    subject, method = subjects[piece["setup"]], piece["method"]
    images, labels = subject.batch(piece)
    other, count = randomised(subject.model, piece["share"], generator(piece["seed"], "weights"))
    attribution = subject.attribution(method, piece["steps"])
    explained = [(model, images, model(images).argmax(1)) for model in (subject.model, other)]
    if method == "integrated_gradients":
        # Not their quotient: where an image has the reference's value it is 0 / 0.
        x0 = subject.baseline.expand_as(images)
        averages = [mean_gradient(*each, x0, piece["steps"], len(images)) for each in explained]
        maps = {method: [(images - x0) * mean for mean in averages], "averaged_gradient": averages}
    else:
        maps = {method: [attribution(*each) for each in explained]}
    shared = {"label": labels, "layers": piece["layers"], "randomised": count}
    return [
        row
        for name, pair in maps.items()
        for row in row_per_image(
            piece, **shared, method=name, spearman=spearman(*(_map(part) for part in pair)),
            steps=None if "gradient" not in name or name == "simple_gradient" else piece["steps"],
        )
    ]  # fmt: skip


def _map(attributions: Tensor) -> Tensor:
    return attributions.abs().sum(1)


def cost(piece: Piece) -> float:
    """Count gradients, roughly."""
    each = {"integrated_gradients": piece["steps"], "simple_gradient": 1}.get(piece["method"], 3)
    return float(2 * len(piece["images"]) * each)


STUDY = declared(__file__, prepare_images, pieces, rows, profile=changed_all, cost=cost)
