"""How far small changes of a test image change which training images explain it [Ghorbani2019, sec. 4, Fig. 4].

The label explained is the prediction before the attack, for all test images, right or wrong; `correct` tells. A test
image that loses its label counts as unchanged (1, 1, 1): the means are intention-to-treat.
"""

from dataclasses import asdict
from functools import cache

import torch
from torch import Tensor, nn

from fragility import train
from fragility.attack import random_sign
from fragility.influence.attack import FeatureObjective, judge, lower_influence, raise_confidence, sign_attack
from fragility.influence.last_layer import LastLayerInfluence
from fragility.iterate import Perturbation
from fragility.similarity import spearman, top_k_intersection
from fragility.study.features import Profile as Profile
from fragility.study.features import Ready as Ready
from fragility.study.features import prepare as prepare
from fragility.study.store import Columns, Piece, Plan, Recomputable, Row

VERSION = 1  # to be raised with any change of what a row means

TOP = 3  # whose summed influence eq. 2 lowers
CONDITIONS = ("random", "eq2", "confidence", "frozen_residual")
COLUMNS: Columns = {
    "image": (str, "the test image"),
    "label": (int, "the class explained: the prediction before the attack"),
    "correct": (bool, "whether that is the true class"),
    "network": (str, "whose features, frozen"),
    "condition": (
        str,
        "random: one draw of signs; eq2: lower the top 3's influence; confidence: raise the label's probability; "
        "frozen_residual: eq2 with p - e_y held fixed",
    ),
    "epsilon": (float, "radius of the L-inf ball, of 255; the one step is as large"),
    "l2": (float, "penalty of the last layer, and the damping of its Hessian"),
    "seed": (int, "of the random signs"),
    "labels_kept": (bool, "whether the prediction stayed; if not, the row is that of the unchanged image"),
    "spearman": (float, "rank correlation of the training images' influence before and after, float64"),
    "spearman_float32": (float, "the same with the whole last layer in single precision"),
    "top5_overlap": (float, "share of the 5 most helpful training images in common"),
    "ratio_top3": (float, "influence of the formerly 3 most helpful images after, over before"),
    "confidence_before": (float, "probability of the label"),
    "confidence_after": (float, "the same after the change"),
    "validation_accuracy": (float, "of the last layer, on images used for nothing else"),
}

# Rounding flips the signs of a few near-zero gradients on another machine.
RECOMPUTABLE = Recomputable(
    within={
        "spearman": 0.05,
        "spearman_float32": 0.05,
        "top5_overlap": 0.4,
        "ratio_top3": 0.1,
        "confidence_after": 0.01,
    }
)


ALL = (8.0, 2.0, 4.0, 1.0)  # the most telling first
PROFILES = {
    "fast": Profile("digits", "digits_cnn", 32, 24, ((1e-2, (26.0, 51.0)), (1e-1, (51.0,))), 12, classes=(3, 8)),
    "laptop": Profile("flowers", "squeezenet", 227, 200, ((1e-2, ALL), (1e-1, (8.0,))), 20),
    "paper": Profile("flowers", "inception_v3", 299, 200, ((1e-2, ALL), (1e-3, ALL), (1e-1, ALL)), 50),
}


def plan(profile: Profile, device: str = "cpu") -> Plan:
    """Compute features and list the pieces.

    Args:
        profile: what to compute.
        device: where.

    Returns:
        The plan.
    """
    ready = prepare(profile, device)

    @cache
    def layer(l2: float, dtype: torch.dtype = torch.float64) -> LastLayerInfluence:
        return LastLayerInfluence(ready.features, ready.labels, l2=l2, num_classes=2, dtype=dtype)

    pieces = [
        {
            "version": VERSION,
            "weights": ready.inputs["weights"],
            "training": ready.inputs["training_sha256"],
            "pixels": train.fingerprint(ready.test.images[first : first + profile.batch]),
            "first": first,
            "images": list(ready.test.files[first : first + profile.batch]),
            "network": profile.network,
            "condition": condition,
            "epsilon": epsilon,
            "l2": l2,
            "seed": profile.seed,
        }
        for l2, epsilons in profile.sweep
        for epsilon in epsilons
        for condition in CONDITIONS
        for first in range(0, profile.tests, profile.batch)
    ]
    return Plan(
        parameters=asdict(profile),
        inputs=ready.inputs,
        columns=COLUMNS,
        pieces=pieces,
        compute=lambda piece: _compute(piece, ready, layer(piece["l2"]), layer(piece["l2"], torch.float32)),
        cost=lambda piece: (1.0 if piece["condition"] == "random" else 3.0) * len(piece["images"]),
    )


def perturb(
    condition: str,
    backbone: nn.Module,
    layer: LastLayerInfluence,
    images: Tensor,
    features: Tensor,
    epsilon: float,
    draws: list[torch.Generator],
) -> Perturbation:
    """Change test images by one step, in one of the ways that are compared.

    Args:
        condition: one of `CONDITIONS`.
        backbone: images to features.
        layer: fitted to them.
        images: (B, C, H, W) in [0, 1].
        features: theirs, (B, P).
        epsilon: size of the step.
        draws: a generator per image, for `"random"`.

    Returns:
        The changed images, or the originals where the prediction changed.
    """
    if condition == "random":
        parts = [random_sign(x.unsqueeze(0), epsilon, generator=g) for x, g in zip(images, draws, strict=True)]
        return judge(backbone, layer, images, [torch.cat(parts)])
    return sign_attack(backbone, layer, images, objective=_objective(condition, layer, features), epsilon=epsilon)


def _objective(condition: str, layer: LastLayerInfluence, features: Tensor) -> FeatureObjective:
    logits = layer.logits(features)
    labels = logits.argmax(1)
    change = layer.parameter_change(layer.influence(features, labels).topk(TOP).indices)
    if condition == "confidence":
        return raise_confidence(layer, labels)
    fixed = logits.softmax(1) - torch.nn.functional.one_hot(labels, layer.num_classes)
    return lower_influence(layer, labels, change, fixed_residuals=fixed if condition == "frozen_residual" else None)


def _compute(piece: Piece, ready: Ready, layer: LastLayerInfluence, single: LastLayerInfluence) -> list[Row]:
    rows = [ready.test.files.index(name) for name in piece["images"]]
    images = ready.test.images[rows].to(ready.features.device)
    draws = [_generator(piece["seed"], name) for name in piece["images"]]
    features = ready.test_features[rows]
    found = perturb(piece["condition"], ready.backbone, layer, images, features, piece["epsilon"] / 255, draws)
    with torch.no_grad():
        after = ready.backbone(found.images)
    labels = layer.logits(features).argmax(1)
    old, new = layer.influence(features, labels), layer.influence(after, labels)
    top = old.topk(TOP).indices
    right = layer.logits(ready.validation_features).argmax(1) == ready.validation_labels
    columns = {
        "label": labels,
        "correct": labels.cpu() == ready.test.labels[rows],
        "labels_kept": found.labels_kept,
        "spearman": spearman(old, new),
        "spearman_float32": spearman(single.influence(features, labels), single.influence(after, labels)),
        "top5_overlap": top_k_intersection(old, new, 5),
        "ratio_top3": new.gather(1, top).sum(1) / old.gather(1, top).sum(1),
        "confidence_before": found.confidence_before,
        "confidence_after": found.confidence_after,
    }
    common: Row = {
        **{name: piece[name] for name in ("network", "condition", "epsilon", "l2", "seed")},
        "validation_accuracy": float(right.double().mean()),
    }
    return [
        {**common, "image": name, **dict(zip(columns, values, strict=True))}
        for name, *values in zip(piece["images"], *(part.tolist() for part in columns.values()), strict=True)
    ]


def _generator(*names: object) -> torch.Generator:
    return torch.Generator().manual_seed(int(train.fingerprint(*names)[:15], 16))
