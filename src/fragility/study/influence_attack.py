"""How far small changes of a test image change which training images explain it [Ghorbani2019, sec. 4, Fig. 4].

The label explained is the prediction before the attack, for all test images, right or wrong; `correct` tells. A test
image that loses its label counts as unchanged (1, 1, 1): the means are intention-to-treat.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from fragility import dataset, network, train
from fragility.attack import random_sign
from fragility.dataset import ImageDataset
from fragility.influence import LastLayerInfluence
from fragility.influence_attack import FeatureObjective, judge, lower_influence, raise_confidence, sign_attack
from fragility.search import Perturbation
from fragility.similarity import spearman, top_k_intersection
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


@dataclass(frozen=True)
class Profile:
    """Data, features, and what is varied.

    Attributes:
        data: `"flowers"` (roses, sunflowers) or `"digits"`, of which `classes` are kept.
        network: a key of `NETWORKS`.
        size: height and width of the images.
        tests: how many test images are attacked.
        sweep: pairs of l2 and the epsilons (of 255) tried with it.
        batch: how many images make a piece.
        seed: of the random signs.
        classes: the digits kept; None for both flowers.
    """

    data: str
    network: str
    size: int
    tests: int
    sweep: tuple[tuple[float, tuple[float, ...]], ...]
    batch: int
    seed: int = 0
    classes: tuple[int, int] | None = None


ALL = (8.0, 2.0, 4.0, 1.0)  # the most telling first
PROFILES = {
    "fast": Profile("digits", "digits_cnn", 32, 24, ((1e-2, (26.0, 51.0)), (1e-1, (51.0,))), 12, classes=(3, 8)),
    "laptop": Profile("flowers", "squeezenet", 227, 200, ((1e-2, ALL), (1e-1, (8.0,))), 20),
    "paper": Profile("flowers", "inception_v3", 299, 200, ((1e-2, ALL), (1e-3, ALL), (1e-1, ALL)), 50),
}


def digits_features() -> nn.Module:
    """Return the features of the small network trained on all ten digits."""
    training, model = dataset.digits("train"), network.digits_cnn()
    train.fit_cached(model, training.images, training.labels, epochs=12, progress=False)
    return network.feature_extractor(model)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "digits_cnn": digits_features,
    "squeezenet": lambda: network.feature_extractor("squeezenet"),
    "inception_v3": lambda: network.feature_extractor("inception_v3"),
}


@dataclass(frozen=True, eq=False)
class Ready:
    """A profile with its features at hand.

    Attributes:
        backbone: images to features.
        labels: of the training images.
        features: of the training images, (N, P).
        test: the test images.
        test_features: theirs, (T, P).
        validation_features: of images used for nothing else.
        validation_labels: theirs.
        inputs: where data and weights come from, with checksums.
    """

    backbone: nn.Module
    features: Tensor
    labels: Tensor
    test: ImageDataset
    test_features: Tensor
    validation_features: Tensor
    validation_labels: Tensor
    inputs: dict[str, Any]


def prepare(profile: Profile, device: str = "cpu") -> Ready:
    """Load a profile's images and compute their features.

    Args:
        profile: which.
        device: where the network and the last layer live; the test images stay in main memory.

    Returns:
        The profile made ready.
    """
    backbone = NETWORKS[profile.network]()
    weights = train.fingerprint(backbone)
    backbone = backbone.to(device)
    training = part(profile, "train")
    features = _features(backbone, training.images, device)
    pixels, labels = train.fingerprint(training.images, training.labels), training.labels.to(device)
    source = training.source
    del training  # half a gigabyte
    validation = part(profile, "validation")
    validation_features = _features(backbone, validation.images, device)
    test = part(profile, "test")
    test = dataset.sample(test, profile.tests, seed=profile.seed)
    return Ready(
        backbone=backbone,
        features=features,
        labels=labels,
        test=test,
        test_features=_features(backbone, test.images, device),
        validation_features=validation_features,
        validation_labels=validation.labels.to(device),
        inputs={
            "data": source,
            "training_images": len(labels),
            "training_sha256": pixels,
            "test_sha256": train.fingerprint(test.images),
            "weights": weights,
        },
    )


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


def part(profile: Profile, split: str) -> ImageDataset:
    """Load the images of a profile's training, test or validation part.

    Args:
        profile: which.
        split: `"train"`, `"test"` or `"validation"`.

    Returns:
        Images of two classes, labelled 0 and 1.
    """
    if profile.classes is None:
        return dataset.flowers(split, size=profile.size)
    # Digits have no third part: every other test image validates.
    whole = dataset.digits("train" if split == "train" else "test", size=profile.size)
    kept = (whole.labels.unsqueeze(1) == torch.tensor(profile.classes)).any(1).nonzero().flatten()
    if split != "train":
        kept = kept[int(split == "validation") :: 2]
    return replace(
        whole,
        images=whole.images[kept],
        labels=(whole.labels[kept] == profile.classes[1]).long(),
        class_names=tuple(whole.class_names[digit] for digit in profile.classes),
        files=tuple(whole.files[row] for row in kept),
    )


def _features(backbone: nn.Module, images: Tensor, device: str) -> Tensor:
    with torch.no_grad():
        return torch.cat([backbone(batch.to(device)) for batch in images.split(8)])


def _generator(*names: object) -> torch.Generator:
    return torch.Generator().manual_seed(int(train.fingerprint(*names)[:15], 16))
