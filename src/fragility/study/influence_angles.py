"""The angle between the loss's gradient and the steepest direction of influence [Ghorbani2019, Fig. 11b].

The influence is that of the most helpful training image on a test image; the label explained is the prediction. Data,
features and last layer are those of `fragility.study.influence_attack`, the null is that of `fragility.study.angles`.
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from fragility import train
from fragility.curvature import angle
from fragility.influence.last_layer import LastLayerInfluence
from fragility.study import influence_attack
from fragility.study.angles import squared_cosines
from fragility.study.store import Columns, Piece, Plan, Recomputable, Row

VERSION = 1  # to be raised with any change of what a row means

COLUMNS: Columns = {
    "image": (str, "the test image"),
    "label": (int, "the class explained: the prediction"),
    "correct": (bool, "whether that is the true class"),
    "network": (str, "whose features, frozen"),
    "l2": (float, "penalty of the last layer, and the damping of its Hessian"),
    "dimension": (int, "d, numbers in an image"),
    "block": (str, "the images among which the null permutes: class and first image"),
    "training_image": (int, "the most helpful one, by its position"),
    "influence": (float, "its influence: what the loss would gain without it, to first order"),
    "angle": (float, "degrees between the gradients of the loss and of that influence, undirected"),
    "cos2": (float, "squared cosine of that angle"),
    "mismatched": (float, "mean squared cosine of this loss gradient with the block's other influence gradients"),
    "cos2_block": (str, "squared cosines of this loss gradient with the influence gradients of the block, in order"),
    "angle_frozen": (float, "the angle where the residual p - e_y is held fixed in the influence"),
    "confidence": (float, "probability of the label"),
}
RECOMPUTABLE = Recomputable(
    within={"angle": 0.5, "angle_frozen": 0.5, "cos2": 0.01, "mismatched": 0.01, "cos2_block": 0.02}
)


@dataclass(frozen=True)
class Profile:
    """What is computed.

    Attributes:
        source: data and features, a profile of `fragility.study.influence_attack`.
        l2: of the last layer.
        block: about how many test images of one class make a piece.
    """

    source: influence_attack.Profile
    l2: float
    block: int


INFLUENCE_ANGLES = {name: Profile(source, 1e-2, 20) for name, source in influence_attack.PROFILES.items()}


def plan(profile: Profile, device: str = "cpu") -> Plan:
    """Compute features and list the pieces.

    Args:
        profile: what to compute.
        device: where.

    Returns:
        The plan.
    """
    ready = influence_attack.prepare(profile.source, device)
    layer = LastLayerInfluence(ready.features, ready.labels, l2=profile.l2, num_classes=2)
    labels = layer.logits(ready.test_features).argmax(1).cpu()
    pieces: list[Piece] = []
    for label in (0, 1):
        rows = (labels == label).nonzero().flatten()
        # Blocks of nearly equal size: a block of one image would be its own null.
        for chosen in rows.tensor_split(max(1, round(len(rows) / profile.block))):
            pieces.append(
                {
                    "version": VERSION,
                    "weights": ready.inputs["weights"],
                    "training": ready.inputs["training_sha256"],
                    "pixels": train.fingerprint(ready.test.images[chosen]),
                    "first": int(chosen[0]),
                    "images": [ready.test.files[row] for row in chosen],
                    "network": profile.source.network,
                    "label": label,
                    "l2": profile.l2,
                }
            )
    return Plan(
        parameters=asdict(profile),
        inputs=ready.inputs,
        columns=COLUMNS,
        pieces=pieces,
        compute=lambda piece: _compute(piece, ready, layer),
        cost=lambda piece: float(len(piece["images"])),
    )


def _compute(piece: Piece, ready: influence_attack.Ready, layer: LastLayerInfluence) -> list[Row]:
    rows = [ready.test.files.index(name) for name in piece["images"]]
    labels = torch.full((len(rows),), piece["label"], device=ready.features.device)
    influences = layer.influence(ready.test_features[rows], labels)
    best = influences.argmax(1, keepdim=True)
    parts = [
        _gradients(ready, layer, ready.test.images[few].to(ready.features.device), labels[: len(few)], best[at])
        for at, few in _batches(rows, 4)
    ]
    of_loss, of_influence, frozen = (torch.cat(part) for part in zip(*parts, strict=True))
    cos2 = squared_cosines(of_loss, of_influence).cpu()
    degrees, fixed = angle(of_loss, of_influence), angle(of_loss, frozen)
    confidence = layer.logits(ready.test_features[rows]).softmax(1)[:, piece["label"]]
    return [
        {
            **{name: piece[name] for name in ("network", "label", "l2")},
            "image": name,
            "correct": bool(ready.test.labels[rows[index]] == piece["label"]),
            "dimension": ready.test.images[0].numel(),
            "block": f"{ready.test.class_names[piece['label']]} from {piece['images'][0]}",
            "training_image": int(best[index]),
            "influence": float(influences[index, best[index]]),
            "angle": float(degrees[index]),
            "cos2": float(cos2[index, index]),
            "mismatched": float((cos2[index].sum() - cos2[index, index]) / max(1, len(rows) - 1)),
            "cos2_block": " ".join(f"{value:.4g}" for value in cos2[index].tolist()),
            "angle_frozen": float(fixed[index]),
            "confidence": float(confidence[index]),
        }
        for index, name in enumerate(piece["images"])
    ]


def _batches(rows: list[int], size: int) -> list[tuple[slice, list[int]]]:
    starts = range(0, len(rows), size)
    return [(slice(start, start + size), rows[start : start + size]) for start in starts]


def _gradients(
    ready: influence_attack.Ready, layer: LastLayerInfluence, images: Tensor, labels: Tensor, best: Tensor
) -> list[Tensor]:
    """With respect to the images: of the loss, of the best image's influence, and of that with a fixed residual."""
    with torch.enable_grad():
        points = images.detach().requires_grad_()
        features = ready.backbone(points)
        flat = features.detach()
        logits = layer.logits(flat)
        residual = logits.softmax(1) - torch.nn.functional.one_hot(labels, layer.num_classes)
        change = layer.parameter_change(best)  # (B, K, P + 1)
        seeds = [
            residual @ layer.theta[:, :-1],
            layer.feature_gradient(flat, labels, best),
            (residual.unsqueeze(1) @ change).squeeze(1)[:, :-1],
        ]
        return [
            torch.autograd.grad(features, points, seed.to(features), retain_graph=True)[0].double() for seed in seeds
        ]
