"""Does influence predict what happens without several training images? Leave-k-out retraining [Rubinstein2025].

Influence of a set is the sum over its images; *rescaled* influence sums Newton steps of the problem without each image,
`influence(corrected=True)`. One row per test image, over all sets.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fragility.study.influence.leave_one_out import agreement
from fragility.study.influence.setup import L2, Features, last_layer, prepare, sourced
from fragility.study.piece import Piece, Row, declared, generator, positions, row_per_image


def pieces(profile: dict[str, Any], features: Features) -> Iterator[Piece]:
    """List a piece for each kind of set: a retrained layer serves all test images."""
    shared = {
        "network": profile["source"].network,
        "l2": L2,
        "sets": profile["sets"],
        "size": profile["size"],
        "seed": 0,
    }
    checksums = {name: features.inputs[name] for name in ("weights", "training_sha256", "test_sha256")}
    for chosen in ("random", "alike"):
        yield {**checksums, **shared, "images": list(features.images.files), "chosen": chosen}


def rows(piece: Piece, features: Features) -> list[Row]:
    """Train without each set and compare with both predictions."""
    layer, where = last_layer(features, piece["l2"]), positions(features.images, piece)
    phi, labels = features.test[where], features.images.labels[where].to(features.test.device)
    sets = draw(features.training, piece)
    truth = layer.leave_one_out(phi, labels, sets)
    columns: dict[str, Any] = {}
    for end, rescaled in (("", False), ("_rescaled", True)):
        single = layer.influence(phi, labels, corrected=rescaled)
        columns[f"r{end}"], columns[f"slope{end}"] = agreement(single[:, sets].sum(2), truth)
    return row_per_image(piece, label=labels, largest_change=truth.abs().amax(1), **columns)


def draw(training: Tensor, piece: Piece) -> Tensor:
    """Draw sets of training images (sets, size), which may overlap."""
    draws = generator(piece["seed"], piece["chosen"])
    if piece["chosen"] == "random":
        parts = [torch.randperm(len(training), generator=draws)[: piece["size"]] for _ in range(piece["sets"])]
        return torch.stack(parts).to(training.device)
    first = torch.randperm(len(training), generator=draws)[: piece["sets"]].to(training.device)
    return torch.cdist(training[first], training).topk(piece["size"], largest=False).indices


STUDY = declared(__file__, prepare, pieces, rows, profile=sourced)
