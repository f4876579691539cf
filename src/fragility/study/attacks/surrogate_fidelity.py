"""How faithful the attacks' softplus surrogate is, by its sharpness beta, on another draw of images than theirs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch

from fragility import train
from fragility.study.attacks import attack_sweep, cifar_sweep
from fragility.study.attacks.attack_sweep import DEEPLIFT, GRADIENT, METHODS
from fragility.study.attacks.setup import Setup, Subject, prepare_all
from fragility.study.piece import Columns, Piece, Row, Study, Tolerance, batches
from fragility.surrogate import surrogate_fidelity
from fragility.titles import METRICS

COLUMNS: Columns = {
    **{name: attack_sweep.COLUMNS[name] for name in ("image", "label", "setup", "method")},
    "multiple": (float, "beta over the one that the attacks use"),
    "beta": (float, "sharpness of the softplus, in units of 1 / pre-activation"),
    "k": attack_sweep.COLUMNS["k"],
    "seed": (int, "of the drawn images"),
    "spearman": (float, "rank correlation of the surrogate's map with the network's own"),
    "top_k_intersection": (float, "share of the k most important pixels in common"),
    "center_shift": (float, "distance of the centres of mass, in pixels"),
}


@dataclass(frozen=True, kw_only=True)
class FidelityProfile:
    """What is compared.

    Attributes:
        setups: by name; their `surrogate_beta` is the one that the attacks use.
        methods: keys of `fragility.attribution.ATTRIBUTIONS`.
        multiples: of that beta.
        images: of each set-up.
        batch: how many images make a piece; divides `images`.
        steps: M of integrated gradients.
        seed: of the drawn images.
    """

    setups: dict[str, Setup]
    methods: tuple[str, ...] = METHODS
    multiples: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
    images: int
    batch: int
    steps: int = 100
    seed: int = 1


_FAST = attack_sweep.PROFILES["fast"].setups
_LAPTOP, _PAPER = (
    {
        "squeezenet": attack_sweep.PROFILES[name].setups["squeezenet"],
        "cifar": cifar_sweep.PROFILES[name].setups["cifar"],
    }
    for name in ("laptop", "paper")
)
PROFILES = {
    "fast": FidelityProfile(setups=_FAST, multiples=(0.25, 1.0, 4.0), images=16, batch=8, steps=10),
    "laptop": FidelityProfile(setups=_LAPTOP, methods=GRADIENT + DEEPLIFT, images=32, batch=8),
    "paper": FidelityProfile(setups=_PAPER, images=512, batch=32),
}


def prepare(profile: FidelityProfile, device: str) -> tuple[dict[str, Subject], dict[str, Any]]:
    """Load the networks and images."""
    return prepare_all(profile.setups, dict.fromkeys(profile.setups, profile.images), profile.seed, device)


def pieces(profile: FidelityProfile, subjects: Mapping[str, Subject]) -> Iterator[Piece]:
    """Cut the images of every network and method into batches."""
    shared = {"multiples": list(profile.multiples), "steps": profile.steps, "seed": profile.seed}
    for (name, subject), method in product(subjects.items(), profile.methods):
        baseline = train.fingerprint(subject.baseline.cpu())
        own = {"setup": name, "weights": subject.weights, "beta": subject.surrogate_beta, "k": subject.setup.k}
        for images in batches(subject.data, profile.batch):
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


TOLERANCE = Tolerance(within={"spearman": 0.01, "top_k_intersection": 0.02, "center_shift": 0.2})
STUDY = Study(COLUMNS, PROFILES, prepare, pieces, rows, cost=cost, tolerance=TOLERANCE)
