"""Wrong labels found by influence [Koh2017, sec. 5.4]: in which order should one check the training images?

A tenth of the labels is flipped, the last layer is fitted to them, and the training images are sorted by a score, the
largest first. A row is one draw of flips in one order.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from fragility.influence.last_layer import LastLayerInfluence
from fragility.study.influence.setup import L2, Features, TwoClasses, prepare, sourced
from fragility.study.piece import Piece, Row, declared, generator

FLIPPED = 0.1  # share of the training labels
DRAWS = 10  # of flips
STEPS = 20  # in which the share of images checked goes from 0 to 1
ORDERS: dict[str, Callable[[LastLayerInfluence, torch.Generator], Tensor]] = {
    "self_influence": lambda layer, _: layer.self_influence(),
    "loss": lambda layer, _: cross_entropy(layer.logits(layer.features), layer.labels, reduction="none"),
    "leverage": lambda layer, _: layer.leverage(),
    "random": lambda layer, draws: torch.rand(len(layer.labels), generator=draws),
}


def pieces(profile: dict[str, Any], features: Features) -> Iterator[Piece]:
    """List a piece per order."""
    source: TwoClasses = profile["source"]
    checksums = {name: features.inputs[name] for name in ("weights", "training_sha256")}
    shared = {**checksums, "images": [f"{draw}" for draw in range(DRAWS)], "network": source.network, "l2": L2}
    return ({**shared, "order": order, "seed": source.seed} for order in ORDERS)


def rows(piece: Piece, features: Features) -> list[Row]:
    """Check the training images of every draw in one order."""
    return [_row(piece, features, name) for name in piece["images"]]


def _row(piece: Piece, features: Features, name: str) -> Row:
    (layer, flipped), n = _fitted(features, piece["l2"], piece["seed"], name), len(features.labels)
    hits = found(ORDERS[piece["order"]](layer, generator(piece["seed"], name, "order")), flipped)
    shown = hits[torch.linspace(0, n, STEPS + 1).round().long()]
    right = layer.logits(features.training[flipped]).argmax(1) == features.labels[flipped]
    return {
        "image": name,
        "training_images": n,
        "flips": len(flipped),
        "auc": float(hits.mean()),
        "found": " ".join(f"{share:.4g}" for share in shown.tolist()),
        "agreement": float(right.double().mean()),
    }


@lru_cache(maxsize=16)  # all orders share the draws
def _fitted(features: Features, l2: float, seed: int, name: str) -> tuple[LastLayerInfluence, Tensor]:
    n = len(features.labels)
    flipped = torch.randperm(n, generator=generator(seed, name))[: int(FLIPPED * n)].to(features.labels.device)
    labels = features.labels.index_put((flipped,), 1 - features.labels[flipped])
    return LastLayerInfluence(features.training, labels, l2=l2, num_classes=2), flipped


def found(score: Tensor, flipped: Tensor) -> Tensor:
    """Check images by falling score.

    Args:
        score: of the training images, (N,).
        flipped: int64 (F,), which have the wrong label.

    Returns:
        (N + 1,) float64: the share of these found after 0, 1, ... N images.
    """
    wrong = torch.zeros(len(score), dtype=torch.float64).index_fill_(0, flipped.cpu(), 1.0)
    return pad(wrong[score.cpu().argsort(descending=True, stable=True)].cumsum(0), (1, 0)) / len(flipped)


STUDY = declared(__file__, prepare, pieces, rows, profile=sourced)
