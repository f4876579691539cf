"""Does influence predict retraining? The last layer is trained again without each training image [Koh2017, sec. 4.1].

One row per test image: the agreement between predicted and true changes of its loss over all training images.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fragility.study.influence.setup import L2, Features, last_layer, prepare, sourced
from fragility.study.piece import Piece, Row, declared, positions, row_per_image


def pieces(profile: dict[str, Any], features: Features) -> Iterator[Piece]:
    """List the one piece: a retrained layer serves all test images."""
    checksums = {name: features.inputs[name] for name in ("weights", "training_sha256", "test_sha256")}
    yield {**checksums, "images": list(features.images.files), "network": profile["source"].network, "l2": L2}


def rows(piece: Piece, features: Features) -> list[Row]:
    """Train without each training image and compare with the prediction."""
    layer = last_layer(features, piece["l2"])
    where = positions(features.images, piece)
    phi, labels = features.test[where], features.images.labels[where].to(features.test.device)
    truth = layer.leave_one_out(phi, labels, torch.arange(len(features.labels), device=phi.device))
    columns: dict[str, Any] = {}
    for end, corrected in (("", False), ("_corrected", True)):
        predicted = layer.influence(phi, labels, corrected=corrected)
        columns[f"r{end}"], columns[f"slope{end}"] = agreement(predicted, truth)
    return row_per_image(
        piece,
        label=labels,
        pairs=len(features.labels),
        features=layer.theta.shape[1],
        max_leverage=float(layer.leverage().max()),
        largest_change=truth.abs().amax(1),
        validation_accuracy=features.accuracy(layer),
        **columns,
    )


def agreement(predicted: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return of each row of changes (T, M) the correlation, and the slope of truth on prediction."""
    x, y = (change - change.mean(1, keepdim=True) for change in (predicted, truth))
    return (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1)), (x * y).sum(1) / x.square().sum(1)


STUDY = declared(__file__, prepare, pieces, rows, profile=sourced)
