"""How faithful the attacks' softplus surrogate is, by its sharpness beta, on another draw of images than theirs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from fragility import train
from fragility.study.attacks import attack_sweep, cifar_sweep
from fragility.study.attacks.attack_sweep import DEEPLIFT, GRADIENT, METHODS
from fragility.study.attacks.setup import Setup, Subject, prepare_all
from fragility.study.piece import Columns, Piece, Row, Study, Tolerance, batches, row_per_image
from fragility.study.summary import summarise
from fragility.surrogate import surrogate_fidelity

METRICS = ("spearman", "top_k_intersection", "center_shift")
COLUMNS: Columns = {
    "image": (str, "file name, or row of the data set"),
    "label": (int, "the class, predicted and true; it is the one explained"),
    "setup": (str, "network and data, see parameters"),
    "method": (str, "the attribution"),
    "multiple": (float, "beta over the one that the attacks use"),
    "beta": (float, "sharpness of the softplus, in units of 1 / pre-activation"),
    "k": (int, "how many pixels count as the most important"),
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


def _networks(profile: str) -> dict[str, Setup]:
    sweeps = {"squeezenet": attack_sweep, "cifar": cifar_sweep}
    return {name: study.PROFILES[profile].setups[name] for name, study in sweeps.items()}


PROFILES = {
    "fast": FidelityProfile(
        setups=attack_sweep.PROFILES["fast"].setups, multiples=(0.25, 1.0, 4.0), images=16, batch=8, steps=10
    ),
    "laptop": FidelityProfile(setups=_networks("laptop"), methods=GRADIENT + DEEPLIFT, images=32, batch=8),
    "paper": FidelityProfile(setups=_networks("paper"), images=512, batch=32),
}


def prepare_networks(profile: FidelityProfile, device: str) -> tuple[dict[str, Subject], dict[str, Any]]:
    """Load the networks and images."""
    return prepare_all(profile.setups, dict.fromkeys(profile.setups, profile.images), profile.seed, device)


def pieces(profile: FidelityProfile, subjects: Mapping[str, Subject]) -> Iterator[Piece]:
    """Cut the images of every network and method into batches."""
    for (name, subject), method in product(subjects.items(), profile.methods):
        for images in batches(subject.data, profile.batch):
            yield {
                **images,
                "setup": name,
                "weights": subject.weights,
                "method": method,
                "multiples": list(profile.multiples),
                "beta": subject.surrogate_beta,
                "baseline": train.fingerprint(subject.baseline.cpu()),
                "steps": profile.steps,
                "k": subject.setup.k,
                "seed": profile.seed,
            }


def rows(piece: Piece, subjects: Mapping[str, Subject]) -> list[Row]:
    """Compare the maps of the images with those of the surrogate, for every beta."""
    subject = subjects[piece["setup"]]
    images, labels = subject.batch(piece)
    betas = [multiple * piece["beta"] for multiple in piece["multiples"]]
    attribution = subject.attribution(piece["method"], piece["steps"])
    found = surrogate_fidelity(subject.model, images, labels, betas=betas, attribution=attribution, k=piece["k"])
    by_beta = [
        row_per_image(
            piece,
            label=labels,
            multiple=multiple,
            beta=beta,
            spearman=found.spearman[number],
            top_k_intersection=found.intersection[number],
            center_shift=found.center_shift[number],
        )
        for number, (multiple, beta) in enumerate(zip(piece["multiples"], betas, strict=True))
    ]
    return [row for rows in zip(*by_beta, strict=True) for row in rows]


def summary(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Average the metrics per set-up, method and multiple, with 95 % bootstrap intervals over images."""
    return summarise(rows, ("setup", "method", "multiple", "beta"), METRICS)


STUDY = Study(
    columns=COLUMNS,
    profiles=PROFILES,
    prepare=prepare_networks,
    pieces=pieces,
    rows=rows,
    cost=lambda piece: piece["steps"] if piece["method"] == "integrated_gradients" else 1.0,
    tolerance=Tolerance(within={"spearman": 0.01, "top_k_intersection": 0.02, "center_shift": 0.2}),
)
