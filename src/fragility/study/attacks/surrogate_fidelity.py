"""How faithful the attacks' softplus surrogate is, by its sharpness beta, on another draw of images than theirs."""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import torch

from fragility import train
from fragility.study.attacks.setup import Subject, changed_all, prepare_images
from fragility.study.piece import Piece, Row, batches, declared
from fragility.surrogate import surrogate_fidelity
from fragility.titles import METRICS


def pieces(profile: dict[str, Any], subjects: Mapping[str, Subject]) -> Iterator[Piece]:
    """Cut the images of every network and method into batches."""
    shared = {name: profile[name] for name in ("multiples", "steps", "seed")}
    for (name, subject), method in product(subjects.items(), profile["methods"]):
        baseline = train.fingerprint(subject.baseline.cpu())
        own = {"setup": name, "weights": subject.weights, "beta": subject.surrogate_beta, "k": subject.setup.k}
        for images in batches(subject.data, profile["batch"]):
            yield {**images, **shared, **own, "method": method, "baseline": baseline}


def rows(piece: Piece, subjects: Mapping[str, Subject]) -> list[Row]:
    """Compare the maps of the images with those of the surrogate, for every beta."""
    subject = subjects[piece["setup"]]
    images, labels = subject.batch(piece)
    betas = [multiple * piece["beta"] for multiple in piece["multiples"]]
    attribution = subject.attribution(piece["method"], piece["steps"])
    found = surrogate_fidelity(subject.model, images, labels, betas=betas, attribution=attribution, k=piece["k"])
    metrics = torch.stack([found.intersection, found.spearman, found.center_shift], 2)  # (beta, image, metric)
    return [
        {"image": image, "label": int(labels[row]), "multiple": multiple, "beta": beta}
        | dict(zip(METRICS, metrics[column, row].tolist(), strict=True))
        for row, image in enumerate(piece["images"])
        for column, (multiple, beta) in enumerate(zip(piece["multiples"], betas, strict=True))
    ]


def cost(piece: Piece) -> float:
    """Count gradient passes through the network, roughly."""
    return float(piece["steps"]) if piece["method"] == "integrated_gradients" else 1.0


STUDY = declared(__file__, prepare_images, pieces, rows, profile=changed_all, cost=cost)
