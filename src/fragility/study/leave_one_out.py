"""Does influence predict retraining? The last layer is trained again without each training image [Koh2017, sec. 4.1].

One row per test image: the agreement between predicted and true changes of its loss over all training images.
"""

from dataclasses import asdict
from typing import Any

import torch

from fragility.influence.last_layer import LastLayerInfluence
from fragility.study.features import Profile, prepare
from fragility.study.influence_attack import PROFILES as SETTINGS
from fragility.study.store import Columns, Piece, Plan, Row

VERSION = 1  # to be raised with any change of what a row means

COLUMNS: Columns = {
    "image": (str, "the test image"),
    "label": (int, "its true class, whose loss is predicted"),
    "network": (str, "whose features, frozen"),
    "l2": (float, "penalty of the last layer"),
    "pairs": (int, "training images left out, each once"),
    "features": (int, "per class, the bias included"),
    "max_leverage": (float, "the largest of the training images"),
    "r": (float, "Pearson correlation of predicted and true changes, first order"),
    "slope": (float, "least-squares slope of true against predicted changes, first order"),
    "r_corrected": (float, "the same with the leverage correction"),
    "slope_corrected": (float, "likewise"),
    "largest_change": (float, "the largest true change of the loss, in modulus"),
    "validation_accuracy": (float, "of the last layer"),
}

# The attack's settings, one l2 and fewer test images.
PROFILES: dict[str, Profile] = {
    name: Profile(**{**vars(SETTINGS[name]), "tests": tests, "sweep": ((1e-2, ()),), "batch": tests})
    for name, tests in (("fast", 12), ("laptop", 30), ("paper", 30))
}


def plan(profile: Profile, device: str = "cpu") -> Plan:
    """Compute features and list the pieces, one per l2, because a retrained layer serves all test images.

    Args:
        profile: what to compute.
        device: where.

    Returns:
        The plan.
    """
    ready = prepare(profile, device)

    def compute(piece: Piece) -> list[Row]:
        layer = LastLayerInfluence(ready.features, ready.labels, l2=piece["l2"], num_classes=2)
        rows = [ready.test.files.index(name) for name in piece["images"]]
        features = ready.test_features[rows]
        labels = ready.test.labels[rows].to(device)
        truth = layer.leave_one_out(features, labels, torch.arange(len(ready.labels), device=device))
        right = layer.logits(ready.validation_features).argmax(1) == ready.validation_labels
        common: dict[str, Any] = {
            "network": piece["network"],
            "l2": piece["l2"],
            "pairs": len(ready.labels),
            "features": layer.theta.shape[1],
            "max_leverage": float(layer.leverage().max()),
            "validation_accuracy": float(right.double().mean()),
        }
        result: list[Row] = [
            {**common, "image": name, "label": label, "largest_change": largest}
            for name, label, largest in zip(piece["images"], labels.tolist(), truth.abs().amax(1).tolist(), strict=True)
        ]
        for end, corrected in (("", False), ("_corrected", True)):
            predicted = layer.influence(features, labels, corrected=corrected)
            for row, true, guess in zip(result, truth, predicted, strict=True):
                x, y = guess - guess.mean(), true - true.mean()
                row[f"r{end}"] = float((x * y).sum() / (x.norm() * y.norm()))
                row[f"slope{end}"] = float((x * y).sum() / x.square().sum())
        return result

    pieces = [
        {
            "version": VERSION,
            **{name: ready.inputs[name] for name in ("weights", "training_sha256", "test_sha256")},
            "first": 0,
            "images": list(ready.test.files),
            "network": profile.network,
            "l2": l2,
        }
        for l2, _ in profile.sweep
    ]
    return Plan(asdict(profile), ready.inputs, COLUMNS, pieces, compute, lambda piece: float(len(piece["images"])))
