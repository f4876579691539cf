"""Randomisation tests: a network trained on true labels, on random ones, and on pixels without a meaning [Zhang2017].

A row is one training: an arm (what was randomised) with one way of regularising, or with none.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from fragility.data import datasets
from fragility.study.memorisation.setup import ARMS, Material, accuracy, perceptron, prepare, steps
from fragility.study.piece import Piece, Row, declared

WAYS: dict[str, dict[str, Any]] = {
    "none": {},
    "weight decay": {"weight_decay": 5e-4},  # as published
    "shifts": {"shift": 2},
    "batch norm": {"norm": True},
}
STEADY = 5  # epochs with all images fitted, after which a training ends


TRIALS = [(arm, "none") for arm in ARMS]
TRIALS += [(arm, way) for arm in ("true", "random labels") for way in WAYS if way != "none"]


def pieces(profile: dict[str, Any], ready: Material) -> Iterator[Piece]:
    """A piece is a training."""
    settings = {name: value for name, value in profile.items() if name != "seeds"}
    for seed in range(profile["seeds"]):
        for arm, way in TRIALS:
            what = {"arm": arm, "regulariser": way, "options": WAYS[way]}
            yield {**settings, **what, "inputs": ready.inputs, "images": [f"seed {seed}"], "seed": seed}


def rows(piece: Piece, ready: Material) -> list[Row]:
    """Train one network."""
    seed, options = piece["seed"], piece["options"]
    drawn = datasets.sample(ready.training, piece["training_images"], seed=seed)
    images, labels, test = ARMS[piece["arm"]](drawn, ready.test, seed)
    model = perceptron((piece["width"],), nn.ReLU, seed, norm=options.get("norm", False))
    stepper = torch.optim.SGD(
        model.parameters(), lr=piece["learning_rate"], momentum=0.9, weight_decay=options.get("weight_decay", 0.0)
    )
    course: list[tuple[float, float]] = []
    run = steps(model, images, labels, stepper, batch=piece["batch"], seed=seed, shift=options.get("shift", 0))
    per_epoch = -(-len(images) // piece["batch"])
    for count in run:
        if count % per_epoch:
            continue
        course.append((accuracy(model, images, labels), accuracy(model, test, ready.test.labels)))
        if len(course) == piece["epochs"] or [one for one, _ in course[-STEADY:]] == [1.0] * STEADY:
            break
    trained, tested = zip(*course, strict=True)
    return [
        {
            "image": piece["images"][0],
            "epochs": len(course),
            "train_accuracy": trained[-1],
            "test_accuracy": tested[-1],
            "best_test_accuracy": max(tested),
            "fitted": next((number for number, share in enumerate(trained, 1) if share >= 0.99), None),
        }
    ]


STUDY = declared(__file__, prepare, pieces, rows, cost=lambda piece: 1.0 if piece["regulariser"] == "none" else 3.0)
