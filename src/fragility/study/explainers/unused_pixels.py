"""Weights on pixels that never vary: no image shows them, and the map shows nothing else [Anders2020]."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from fragility import network, train
from fragility.attribution import importance, simple_gradient
from fragility.data.datasets import ImageDataset, mnist_5k
from fragility.study.piece import Piece, Row, declared, positions, row_per_image


def silent(images: Tensor) -> Tensor:
    """Mark the pixels (H, W) that are the same in all images, as their neighbours are."""
    varies = (images != images[:1]).any(0).float()
    near: Tensor = max_pool2d(varies, 3, stride=1, padding=1)[0]
    return torch.logical_not(near)


class Weighted(nn.Module):
    """A model with a weight for each class on some pixels, which are 0 in every image."""

    def __init__(self, model: nn.Module, pixels: Tensor, classes: int, size: float) -> None:
        super().__init__()
        draws = torch.randn(classes, *pixels.shape, generator=torch.Generator().manual_seed(0))
        self.model, self.weights = model, size * draws.sign() * pixels
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.model(images) + torch.einsum("bchw,khw->bk", images, self.weights)
        return logits


def tangent(images: Tensor, known: Tensor, neighbours: int, directions: int) -> Tensor:
    """Return orthonormal directions (B, directions, d) in which the nearest known images differ from their mean."""
    near = torch.cdist(images.flatten(1), known.flatten(1)).topk(neighbours, largest=False).indices
    around = known.flatten(1)[near]
    axes: Tensor = torch.linalg.svd(around - around.mean(1, keepdim=True), full_matrices=False).Vh
    return axes[:, :directions]


class Ready(NamedTuple):
    """Known images and new ones."""

    known: ImageDataset
    new: ImageDataset


def prepare(profile: dict[str, Any], device: str) -> tuple[Ready, dict[str, Any]]:
    """Load the digits that come with a package."""
    ready = Ready(mnist_5k("train"), mnist_5k("test", limit=profile["images"]))
    return ready, {"data": ready.new.source, "images_sha256": train.fingerprint(ready.known.images, ready.new.images)}


def pieces(profile: dict[str, Any], ready: Ready) -> Iterator[Piece]:
    """One piece."""
    yield {**profile, "images": list(ready.new.files), "pixels": train.fingerprint(ready.new.images)}


def rows(piece: Piece, ready: Ready) -> list[Row]:
    """Explain both networks, and project the second one's gradient."""
    model, x = network.mnist_cnn(), ready.new.images[positions(ready.new, piece)]
    where, labels = silent(ready.known.images), model(x).argmax(1)
    lying = Weighted(model, where, 10, piece["size"])
    axes = tangent(x, ready.known.images, piece["neighbours"], piece["directions"])
    own, g = simple_gradient(model, x, labels), simple_gradient(lying, x, labels)
    odds = simple_gradient(network.LogOdds(lying).eval(), x, labels)
    flat = torch.einsum("bid,bd->bi", axes, g.flatten(1))
    projected = torch.einsum("bid,bi->bd", axes, flat).view_as(g)

    def mass(attributions: Tensor) -> Tensor:
        return (importance(attributions) * where).sum((1, 2))

    return row_per_image(
        piece, silent=int(where.sum()), label_changed=lying(x).argmax(1) != labels, before=mass(own), after=mass(g),
        log_odds=mass(odds), projected=mass(projected),
    )  # fmt: skip


STUDY = declared(__file__, prepare, pieces, rows)
