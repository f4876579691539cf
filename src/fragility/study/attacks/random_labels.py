"""Two networks on the same labels, and one on labels that were passed round: how alike their maps are [Adebayo2018].

The control is what the published test lacks: two networks that learned the same from another start differ too.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fragility import train
from fragility.attribution import importance, simple_gradient
from fragility.data import datasets
from fragility.data.datasets import ImageDataset
from fragility.network import digits_cnn
from fragility.similarity import spearman
from fragility.study.piece import Piece, Row, declared, generator

Data = tuple[ImageDataset, ImageDataset]


def prepare(profile: dict[str, Any], device: str) -> tuple[Data, dict[str, Any]]:
    """Load the digits."""
    known, test = (datasets.digits(split, limit=profile[name], seed=0)
                   for split, name in (("train", "training_images"), ("test", "tests")))  # fmt: skip
    return (known, test), {"data": known.source, "images_sha256": train.fingerprint(known.images)}


def pieces(profile: dict[str, Any], data: Data) -> Iterator[Piece]:
    """One for each seed."""
    shared = {name: profile[name] for name in ("training_images", "epochs", "tests")}
    inputs = {"training": train.fingerprint(data[0].images), "test": train.fingerprint(data[1].images)}
    yield from ({"images": [f"seed {seed}"], "seed": seed, **shared, **inputs} for seed in range(profile["seeds"]))


def rows(piece: Piece, data: Data) -> list[Row]:
    """Train three networks, and compare their maps of the test images."""
    known, test = data
    seed = piece["seed"]
    order = torch.randperm(len(known), generator=generator(seed, "labels"))
    runs = [(known.labels, 2 * seed), (known.labels, 2 * seed + 1), (known.labels[order], 2 * seed + 1)]
    first, second, random = (_trained(known.images, labels, start, piece["epochs"]) for labels, start in runs)
    maps = [_maps(model, test.images) for model in (first, second, random)]
    return [
        {
            "image": f"seed {seed}",
            "true_accuracy": _accuracy(first, known.images, known.labels),
            "random_accuracy": _accuracy(random, known.images, known.labels[order]),
            "same": spearman(maps[0], maps[1]).mean().item(),
            "other": spearman(maps[0], maps[2]).mean().item(),
        }
    ]


def _trained(images: Tensor, labels: Tensor, seed: int, epochs: int) -> nn.Module:
    model = digits_cnn(seed=seed)
    train.fit(model, train.Batches(images, labels, 32), train.cross_entropy, epochs=epochs, seed=seed, progress=False)
    return model


def _maps(model: nn.Module, images: Tensor) -> Tensor:
    return importance(simple_gradient(model, images, model(images).argmax(1)))


def _accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return float((model(images).argmax(1) == labels).float().mean())


STUDY = declared(__file__, prepare, pieces, rows)
