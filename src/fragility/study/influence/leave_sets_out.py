"""Does influence predict what happens without several training images? Leave-k-out retraining [Rubinstein2025].

Influence of a set is the sum over its images; *rescaled* influence sums Newton steps of the problem without each image,
`influence(corrected=True)`. One row per test image, over all sets.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fragility.study.influence.leave_one_out import agreement
from fragility.study.influence.setup import L2, SOURCES, Features, TwoClasses, last_layer
from fragility.study.influence.setup import prepare as prepare_features
from fragility.study.piece import Columns, Piece, Row, Study, generator, positions, row_per_image

COLUMNS: Columns = {
    "image": (str, "the test image"),
    "label": (int, "its true class, whose loss is predicted"),
    "network": (str, "whose features, frozen"),
    "l2": (float, "penalty of the last layer"),
    "chosen": (str, "how the images of a set are: drawn at random, or alike: one and those nearest to it in features"),
    "size": (int, "training images left out together"),
    "sets": (int, "how many sets, each left out once"),
    "r": (float, "Pearson correlation of predicted and true changes, summed influence"),
    "slope": (float, "least-squares slope of true against predicted changes, summed influence"),
    "r_rescaled": (float, "the same with rescaled influence"),
    "slope_rescaled": (float, "the same with rescaled influence"),
    "largest_change": (float, "the largest true change of the loss, in modulus"),
}


@dataclass(frozen=True, kw_only=True)
class SetsProfile:
    """What is computed: `sets` of `size` training images are left out, of each kind."""

    source: TwoClasses
    sets: int = 50
    size: int = 10


TESTS = {"fast": 12, "laptop": 50, "paper": 50}
PROFILES = {name: SetsProfile(source=replace(SOURCES[name], tests=tests)) for name, tests in TESTS.items()}


def prepare(profile: SetsProfile, device: str) -> tuple[Features, dict[str, Any]]:
    """Compute features."""
    return prepare_features(profile.source, device)


def pieces(profile: SetsProfile, features: Features) -> Iterator[Piece]:
    """List a piece for each kind of set: a retrained layer serves all test images."""
    shared = {"network": profile.source.network, "l2": L2, "sets": profile.sets, "size": profile.size, "seed": 0}
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


STUDY = Study(COLUMNS, PROFILES, prepare, pieces, rows)
