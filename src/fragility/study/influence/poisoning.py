"""One training image, changed by less than 8-bit rounding, against one prediction [Koh2017, sec. 5.2].

For each correctly classified test image, one at a time, we change the training image whose influence on it has the
largest gradient in its features. (The released code takes the norm over pixels, with a backward pass for every pair of
images.) Every sign step is as large as the ball. After it the last layer is trained to its minimum, and the prediction
counts as flipped or not. Two steps instead of the released code's 100 keep `laptop` below 12 minutes on one core.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fragility import train
from fragility.influence.attack import lower_influence, training_attack
from fragility.influence.last_layer import LastLayerInfluence
from fragility.study.influence.setup import L2, Features, TwoClasses, last_layer, load, prepare, sourced
from fragility.study.piece import Piece, Row, declared

ITERATIONS = 2
BATCH = 10  # images of a piece


class Target(NamedTuple):
    """A test image whose prediction is attacked, and the training image that is changed."""

    phi: Tensor  # (1, P)
    label: Tensor  # (1,)
    confidence: float
    row: int
    name: str
    picture: Tensor  # (1, C, H, W), in main memory


class Targets(NamedTuple):
    """Features, and the attacked test images by name."""

    features: Features
    checksums: dict[str, str]
    targets: dict[str, Target]


def prepare_targets(profile: dict[str, Any], device: str) -> tuple[Targets, dict[str, Any]]:
    """Compute features and choose images; ValueError if too few are correctly classified."""
    source: TwoClasses = profile["source"]
    features, inputs = prepare(profile, device)
    validation, training = load(source, "validation"), load(source, "train")
    names = [*features.images.files, *validation.files]
    phi = torch.cat([features.test, features.validation])
    labels = torch.cat([features.images.labels.to(device), features.validation_labels])
    layer = last_layer(features, L2)
    confidence, prediction = layer.logits(phi).softmax(1).max(1)
    right = (prediction == labels).nonzero().flatten()[: source.tests].tolist()
    if len(right) < source.tests:
        raise ValueError(f"profile: expected {source.tests} correctly classified images, got {len(right)}")
    targets = {}
    for test in right:
        own = phi[test : test + 1], labels[test : test + 1]
        row = strongest(layer, *own, features.labels)
        picture = training.images[row : row + 1].clone()  # a view would keep half a gigabyte
        targets[names[test]] = Target(*own, float(confidence[test]), row, training.files[row], picture)
    checksums = {name: inputs[name] for name in ("weights", "training_sha256", "test_sha256")}
    checksums["validation_sha256"] = train.fingerprint(validation.images)
    return Targets(features, checksums, targets), inputs


def strongest(layer: LastLayerInfluence, test_features: Tensor, test_labels: Tensor, labels: Tensor) -> int:
    """Choose the training image whose features, slightly changed, move a test loss most, to first order.

    Args:
        layer: fitted to the training features.
        test_features: (1, P).
        test_labels: int64 (1,).
        labels: int64 (N,), of the training images.

    Returns:
        Its index.
    """
    change = layer.sensitivity(test_features, test_labels).expand(len(labels), -1, -1)
    points = layer.features.clone().requires_grad_()
    (slope,) = torch.autograd.grad(lower_influence(layer, labels, change)(points).sum(), points)
    return int(slope.norm(dim=1).argmax())


def pieces(profile: dict[str, Any], ready: Targets) -> Iterator[Piece]:
    """Cut the test images into batches, for every radius."""
    names = list(ready.targets)
    shared = {**ready.checksums, "network": profile["source"].network, "l2": L2, "iterations": ITERATIONS}
    for epsilon, first in product(profile["epsilons"], range(0, len(names), BATCH)):
        yield {**shared, "first": first, "images": names[first : first + BATCH], "epsilon": epsilon}


def rows(piece: Piece, ready: Targets) -> list[Row]:
    """Attack the prediction of one test image after the other."""
    return [{"image": name, **_row(piece, ready.features, ready.targets[name])} for name in piece["images"]]


def _row(piece: Piece, features: Features, target: Target) -> Row:
    layer, epsilon = last_layer(features, piece["l2"]), piece["epsilon"] / 255
    phi, label, confidence, row, name, picture = target
    picture, steps = (
        picture.to(phi.device),
        {"epsilon": epsilon, "step_size": epsilon, "iterations": piece["iterations"]},
    )
    found = training_attack(features.backbone, layer, picture, row, phi, label, **steps)
    after, old = found.last_layer.logits(phi).softmax(1), layer.features[row]
    return {
        "label": int(label),
        "training_image": name,
        "same_class": bool(features.labels[row] == label),
        "training_images": len(features.labels),
        "most_iterations": piece["iterations"],
        "iterations": found.iterations,
        "flipped": found.flipped,
        "confidence_before": confidence,
        "confidence_after": float(after[0, label]),
        "change": 255 * float((found.image - picture).abs().max()),
        "feature_change": float((found.features[row] - old).norm() / old.norm()),
    }


STUDY = declared(__file__, prepare_targets, pieces, rows, profile=sourced)
