"""How faithful the attacks' softplus surrogate is, by its sharpness beta, on another draw of images than theirs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fragility import train
from fragility.study.profile import ATTACK_SWEEP, CIFAR_SWEEP, Setup
from fragility.study.setup import Ready, prepare
from fragility.study.store import Columns, Piece, Plan, Recomputable, Row
from fragility.study.summary import summarise
from fragility.surrogate import surrogate_fidelity

VERSION = 1  # to be raised with any change of what a row means


@dataclass(frozen=True)
class Profile:
    """What is compared.

    Attributes:
        setups: by name; their `surrogate_beta` is the one that the attacks use.
        methods: keys of `fragility.attribution.ATTRIBUTIONS`.
        multiples: of that beta.
        images: of each setup.
        batch: how many images make a piece; divides `images`.
        steps: M of integrated gradients.
        seed: of the drawn images.
    """

    setups: dict[str, Setup]
    methods: tuple[str, ...]
    multiples: tuple[float, ...]
    images: int
    batch: int
    steps: int = 100
    seed: int = 1


METHODS = ("simple_gradient", "deeplift", "integrated_gradients")
MULTIPLES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


def _networks(profile: str) -> dict[str, Setup]:
    named = ((ATTACK_SWEEP, "squeezenet"), (CIFAR_SWEEP, "cifar"))
    return {name: study[profile].setups[name] for study, name in named}


PROFILES = {
    "fast": Profile(ATTACK_SWEEP["fast"].setups, METHODS, (0.25, 1.0, 4.0), 16, 8, steps=10),
    "laptop": Profile(_networks("laptop"), METHODS[:2], MULTIPLES, 32, 8),
    "paper": Profile(_networks("paper"), METHODS, MULTIPLES, 512, 32),
}

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
RECOMPUTABLE = Recomputable(within={"spearman": 0.01, "top_k_intersection": 0.02, "center_shift": 0.2})


def plan(profile: Profile, device: str = "cpu") -> Plan:
    """Load networks and images, and list the pieces.

    Args:
        profile: what to compute.
        device: where.

    Returns:
        The plan.

    Raises:
        ValueError: if too few images are classified correctly.
    """
    ready = {name: prepare(setup, profile.images, profile.seed, device) for name, setup in profile.setups.items()}
    return Plan(
        parameters=asdict(profile),
        inputs={name: part.inputs for name, part in ready.items()},
        columns=COLUMNS,
        pieces=[
            _piece(profile, name, part, method, first)
            for name, part in ready.items()
            for method in profile.methods
            for first in range(0, profile.images, profile.batch)
        ],
        compute=lambda piece: _compute(piece, ready[piece["setup"]]),
        cost=lambda piece: piece["steps"] if piece["method"] == "integrated_gradients" else 1.0,
    )


def summary(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Average the metrics, with 95 % bootstrap intervals over images.

    Args:
        rows: from `fragility.study.store.read`.

    Returns:
        Per setup, method and multiple: beta, n, and the means of `METRICS` with `_low` and `_high`.
    """
    return summarise(rows, ("setup", "method", "multiple", "beta"), METRICS)


def _piece(profile: Profile, name: str, ready: Ready, method: str, first: int) -> Piece:
    rows = slice(first, first + profile.batch)
    return {
        "version": VERSION,
        "setup": name,
        "weights": ready.weights,
        "pixels": train.fingerprint(ready.data.images[rows]),
        "first": first,
        "images": list(ready.data.files[rows]),
        "method": method,
        "multiples": list(profile.multiples),
        "beta": ready.surrogate_beta,
        "baseline": train.fingerprint(ready.baseline.cpu()),
        "steps": profile.steps,
        "k": ready.setup.k,
        "seed": profile.seed,
    }


def _compute(piece: Piece, ready: Ready) -> list[Row]:
    rows = [ready.data.files.index(name) for name in piece["images"]]
    images, labels = ready.data.images[rows].to(ready.device), ready.data.labels[rows].to(ready.device)
    betas = [multiple * piece["beta"] for multiple in piece["multiples"]]
    attribution = ready.attribution(piece["method"], piece["steps"])
    found = surrogate_fidelity(ready.model, images, labels, betas=betas, attribution=attribution, k=piece["k"])
    return [
        {
            **{name: piece[name] for name in ("setup", "method", "k", "seed")},
            "image": name,
            "label": int(labels[column]),
            "multiple": multiple,
            "beta": beta,
            "spearman": float(found.spearman[row, column]),
            "top_k_intersection": float(found.intersection[row, column]),
            "center_shift": float(found.center_shift[row, column]),
        }
        for column, name in enumerate(piece["images"])
        for row, (multiple, beta) in enumerate(zip(piece["multiples"], betas, strict=True))
    ]
