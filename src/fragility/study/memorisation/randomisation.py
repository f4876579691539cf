"""Randomisation tests: a network trained on true labels, on random ones, and on pixels without a meaning [Zhang2017].

A row is one training: an arm (what was randomised) with one way of regularising, or with none.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from fragility import train
from fragility.data import datasets
from fragility.study.memorisation.setup import ARMS, accuracy, perceptron, source, steps
from fragility.study.piece import Columns, Piece, Row, Study, Tolerance

COLUMNS: Columns = {
    "image": (str, "which seed: of the choice of images, the start, the order of batches and what is random"),
    "arm": (str, "what was randomised"),
    "regulariser": (str, "none, or one of: weight decay, shifts (augmentation), batch norm"),
    "training_images": (int, "how many"),
    "epochs": (int, "trained: until all images were fitted for five epochs in a row, or to the limit"),
    "train_accuracy": (float, "on the images as they are, after the last epoch"),
    "test_accuracy": (float, "after the last epoch; labels of the test are the true ones"),
    "best_test_accuracy": (float, "of all epochs, what early stopping can reach at most"),
    "fitted": (int, "the first epoch after which 99 % of the training images are read rightly; empty if there is none"),
}
WAYS: dict[str, dict[str, Any]] = {
    "none": {},
    "weight decay": {"weight_decay": 5e-4},  # as published
    "shifts": {"shift": 2},
    "batch norm": {"norm": True},
}
STEADY = 5  # epochs with all images fitted, after which a training ends


@dataclass(frozen=True, kw_only=True)
class RandomisationProfile:
    """What is computed.

    Attributes:
        training_images: drawn for each seed.
        seeds: how many.
        width: of the hidden layer.
        epochs: at most.
        learning_rate: of stochastic gradient descent with momentum .9.
        batch: images per step.
    """

    training_images: int
    seeds: int
    width: int = 512
    epochs: int
    learning_rate: float = 0.1
    batch: int = 100


PROFILES = {
    "fast": RandomisationProfile(training_images=200, seeds=1, width=128, epochs=100, batch=50),
    "laptop": RandomisationProfile(training_images=500, seeds=5, epochs=100),
    "paper": RandomisationProfile(training_images=4000, seeds=5, epochs=300),
}
TRIALS = [(arm, "none") for arm in ARMS]
TRIALS += [(arm, way) for arm in ("true", "random labels") for way in WAYS if way != "none"]


class Material(NamedTuple):
    """Images."""

    training: datasets.ImageDataset
    test: datasets.ImageDataset
    inputs: dict[str, Any]


def prepare(profile: RandomisationProfile, device: str) -> tuple[Material, dict[str, Any]]:
    """Load the digits that come with a package."""
    training, test = datasets.mnist_5k("train"), datasets.mnist_5k("test")
    parts = {"training": training, "test": test}
    inputs = {name: source(data, train.fingerprint(data.images)) for name, data in parts.items()}
    return Material(training, test, inputs), inputs


def pieces(profile: RandomisationProfile, ready: Material) -> Iterator[Piece]:
    """A piece is a training."""
    settings = asdict(profile)
    del settings["seeds"]
    for seed in range(profile.seeds):
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


STUDY = Study(
    COLUMNS, PROFILES, prepare, pieces, rows,
    cost=lambda piece: 1.0 if piece["regulariser"] == "none" else 3.0,
    tolerance=Tolerance(
        within={"epochs": 1000, "fitted": 1000},
        means=dict.fromkeys(("train_accuracy", "test_accuracy", "best_test_accuracy"), 0.05),
    ),
)  # fmt: skip
