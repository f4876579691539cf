"""Wrong labels found by influence [Koh2017, sec. 5.4]: in which order should somebody check the training images?

A tenth of the labels is flipped, the last layer fitted to them, and the training images are sorted by a score, the
largest first. A row is one draw of flips in one order.
"""

from collections.abc import Callable
from dataclasses import asdict
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from fragility import train
from fragility.influence.last_layer import LastLayerInfluence
from fragility.study.features import Profile, prepare
from fragility.study.influence_attack import PROFILES as SETTINGS
from fragility.study.store import Columns, Piece, Plan, Row

VERSION = 1  # to be raised with any change of what a row means

FLIPPED = 0.1  # share of the training labels
STEPS = 20  # in which the share of images checked goes from 0 to 1
Score = Callable[[LastLayerInfluence, torch.Generator], Tensor]
ORDERS: dict[str, Score] = {
    "self_influence": lambda layer, _: layer.self_influence(),
    "loss": lambda layer, _: cross_entropy(layer.logits(layer.features), layer.labels, reduction="none"),
    "leverage": lambda layer, _: layer.leverage(),
    "random": lambda layer, generator: torch.rand(len(layer.labels), generator=generator),
}
COLUMNS: Columns = {
    "image": (str, "which draw of flipped labels"),
    "order": (str, "the score by which images are checked, the largest first"),
    "network": (str, "whose features, frozen"),
    "l2": (float, "penalty of the last layer"),
    "seed": (int, "of the draws"),
    "training_images": (int, "how many there are"),
    "flips": (int, "how many of them have the wrong label"),
    "auc": (float, "mean share of the flips found, over 0, 1, ... all images checked"),
    "found": (str, f"share of the flips found when 0, 1/{STEPS}, 2/{STEPS}, ... of the images are checked"),
    "agreement": (float, "share of the flips that the fitted layer predicts as the true label"),
}

# The attack's data and features, one l2, and ten draws.
DRAWS = 10
PROFILES: dict[str, Profile] = {
    name: Profile(**{**vars(settings), "sweep": ((1e-2, ()),), "tests": 2, "batch": DRAWS})
    for name, settings in SETTINGS.items()
}


def plan(profile: Profile, device: str = "cpu") -> Plan:
    """Compute features and list the pieces, one per order.

    Args:
        profile: what to compute.
        device: where.

    Returns:
        The plan.
    """
    ready = prepare(profile, device)
    n = len(ready.labels)

    @cache
    def fitted(l2: float, seed: int, name: str) -> tuple[LastLayerInfluence, Tensor]:
        flipped = torch.randperm(n, generator=_generator(seed, name))[: int(FLIPPED * n)].to(device)
        labels = ready.labels.index_put((flipped,), 1 - ready.labels[flipped])
        return LastLayerInfluence(ready.features, labels, l2=l2, num_classes=2), flipped

    def row(piece: Piece, name: str) -> Row:
        layer, flipped = fitted(piece["l2"], piece["seed"], name)
        hits = found(ORDERS[piece["order"]](layer, _generator(piece["seed"], name, "order")), flipped)
        shown = hits[torch.linspace(0, n, STEPS + 1).round().long()]
        return {
            **{key: piece[key] for key in ("order", "network", "l2", "seed")},
            "image": name,
            "training_images": n,
            "flips": len(flipped),
            "auc": float(hits.mean()),
            "found": " ".join(f"{share:.4g}" for share in shown.tolist()),
            "agreement": float(
                (layer.logits(ready.features[flipped]).argmax(1) == ready.labels[flipped]).double().mean()
            ),
        }

    pieces = [
        {
            "version": VERSION,
            **{name: ready.inputs[name] for name in ("weights", "training_sha256")},
            "first": 0,
            "images": [f"{draw}" for draw in range(profile.batch)],
            "network": profile.network,
            "order": order,
            "l2": l2,
            "seed": profile.seed,
        }
        for l2, _ in profile.sweep
        for order in ORDERS
    ]
    return Plan(
        parameters=asdict(profile),
        inputs=ready.inputs,
        columns=COLUMNS,
        pieces=pieces,
        compute=lambda piece: [row(piece, name) for name in piece["images"]],
        cost=lambda piece: float(len(piece["images"])),
    )


def found(score: Tensor, flipped: Tensor) -> Tensor:
    """Check images by falling score.

    Args:
        score: of the training images, (N,).
        flipped: int64 (F,), which have the wrong label.

    Returns:
        (N + 1,) float64: the share of these found after 0, 1, ... N images.
    """
    wrong = torch.zeros(len(score), dtype=torch.float64).index_fill_(0, flipped.cpu(), 1.0)
    return pad(wrong[score.cpu().argsort(descending=True, stable=True)].cumsum(0), (1, 0)) / len(flipped)


def _generator(*names: object) -> torch.Generator:
    return torch.Generator().manual_seed(int(train.fingerprint(*names)[:15], 16))
