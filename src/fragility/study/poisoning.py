"""One training image, changed by less than 8-bit rounding sees, against one prediction [Koh2017, sec. 5.2].

For each correctly classified test image, one at a time, the training image is changed whose features have the largest
gradient of influence on it. (The released code takes the norm over pixels, one backward pass for every pair of
images.) Every sign step is as large as the ball and is followed by a training of the last layer to its minimum; a flip
is a flip after that training. Two steps rather than the released code's 100, to stay below 12 minutes of one
processor core at `laptop`.
"""

from dataclasses import asdict

import torch
from torch import Tensor

from fragility import train
from fragility.influence.attack import lower_influence, training_attack
from fragility.influence.last_layer import LastLayerInfluence
from fragility.study.features import Profile, Ready, part, prepare
from fragility.study.influence_attack import PROFILES as SETTINGS
from fragility.study.store import Columns, Piece, Plan, Recomputable, Row

VERSION = 1  # to be raised with any change of what a row means

L2 = 1e-2
ITERATIONS = 2
COLUMNS: Columns = {
    "image": (str, "the test image, correctly classified; validation images stand in where there are too few"),
    "label": (int, "its class"),
    "training_image": (str, "the one training image that is changed"),
    "same_class": (bool, "whether that is of the test image's class"),
    "network": (str, "whose features, frozen"),
    "l2": (float, "penalty of the last layer"),
    "training_images": (int, "how many there are"),
    "epsilon": (float, "radius of the L-inf ball around the training image, of 255; each step is as large"),
    "most_iterations": (int, "steps allowed, each with a training of the last layer"),
    "iterations": (int, "steps taken, up to the first flip"),
    "flipped": (bool, "whether the trained layer misclassifies the test image"),
    "confidence_before": (float, "probability of the label"),
    "confidence_after": (float, "the same after the last training"),
    "change": (float, "largest change of a pixel, of 255"),
    "feature_change": (float, "change of the training image's features, relative to their norm"),
}

# Rounding flips the signs of a few near-zero gradients on another machine.
RECOMPUTABLE = Recomputable(within={"iterations": 1, "confidence_after": 0.01, "change": 1e-3, "feature_change": 0.01})

RADII = (0.5, 8.0)  # of 255: what an 8-bit file does not see, and what the attacks of the test image have
PROFILES: dict[str, Profile] = {
    name: Profile(**{**vars(SETTINGS[name]), "tests": tests, "sweep": ((L2, radii),), "batch": 10})
    for name, tests, radii in (("fast", 20, (0.5, 51.0)), ("laptop", 200, RADII), ("paper", 200, RADII))
}


def plan(profile: Profile, device: str = "cpu") -> Plan:
    """Compute features, choose test and training images, and list the pieces.

    Args:
        profile: what to compute.
        device: where.

    Returns:
        The plan.

    Raises:
        ValueError: if too few images are correctly classified.
    """
    ready = prepare(profile, device)
    validation = part(profile, "validation")
    names = [*ready.test.files, *validation.files]
    features = torch.cat([ready.test_features, ready.validation_features])
    labels = torch.cat([ready.test.labels.to(device), ready.validation_labels])
    ((l2, radii),) = profile.sweep
    layer = LastLayerInfluence(ready.features, ready.labels, l2=l2, num_classes=2)
    confidence, prediction = layer.logits(features).softmax(1).max(1)
    right = (prediction == labels).nonzero().flatten()[: profile.tests]
    if len(right) < profile.tests:
        raise ValueError(f"profile: expected {profile.tests} correctly classified images, got {len(right)}")
    where = {names[row]: row for row in right.tolist()}
    chosen = {
        name: strongest(layer, features[row : row + 1], labels[row : row + 1], ready.labels)
        for name, row in where.items()
    }
    training = part(profile, "train")
    pictures = {index: training.images[index : index + 1].clone() for index in set(chosen.values())}
    files = training.files
    del training  # half a gigabyte

    def row(piece: Piece, name: str) -> Row:
        index, one = chosen[name], slice(where[name], where[name] + 1)
        picture, epsilon = pictures[index].to(device), piece["epsilon"] / 255
        found = training_attack(
            ready.backbone,
            layer,
            picture,
            index,
            features[one],
            labels[one],
            epsilon=epsilon,
            step_size=epsilon,
            iterations=piece["iterations"],
        )
        after = found.last_layer.logits(features[one]).softmax(1)
        old = layer.features[index]
        return {
            **{key: piece[key] for key in ("network", "l2", "epsilon")},
            "image": name,
            "label": int(labels[one]),
            "training_image": files[index],
            "same_class": bool(ready.labels[index] == labels[one]),
            "training_images": len(files),
            "most_iterations": piece["iterations"],
            "iterations": found.iterations,
            "flipped": found.flipped,
            "confidence_before": float(confidence[one]),
            "confidence_after": float(after[0, labels[one]]),
            "change": 255 * float((found.image - picture).abs().max()),
            "feature_change": float((found.features[index] - old).norm() / old.norm()),
        }

    return Plan(
        parameters=asdict(profile),
        inputs=ready.inputs,
        columns=COLUMNS,
        pieces=_pieces(profile, ready, list(where), l2, radii, train.fingerprint(validation.images)),
        compute=lambda piece: [row(piece, name) for name in piece["images"]],
        cost=lambda piece: float(len(piece["images"])),
    )


def strongest(layer: LastLayerInfluence, test_features: Tensor, test_labels: Tensor, labels: Tensor) -> int:
    """Choose the training image a small change of whose features moves a test loss most, to first order.

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


def _pieces(
    profile: Profile, ready: Ready, names: list[str], l2: float, radii: tuple[float, ...], validation: str
) -> list[Piece]:
    return [
        {
            "version": VERSION,
            **{name: ready.inputs[name] for name in ("weights", "training_sha256", "test_sha256")},
            "validation_sha256": validation,
            "first": first,
            "images": names[first : first + profile.batch],
            "network": profile.network,
            "epsilon": epsilon,
            "l2": l2,
            "iterations": ITERATIONS,
        }
        for epsilon in radii
        for first in range(0, len(names), profile.batch)
    ]
