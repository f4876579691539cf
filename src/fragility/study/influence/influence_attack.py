"""How small changes of a test image change which training images explain it [Ghorbani2019, sec. 4, Fig. 4].

The label explained is the prediction before the attack, right or wrong; `correct` says which. A test image that loses
its label counts as unchanged (1, 1, 1): the means are intention-to-treat.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from fragility.influence.attack import judge, lower_influence, raise_confidence, sign_attack
from fragility.influence.last_layer import LastLayerInfluence
from fragility.iterate import Perturbation
from fragility.similarity import spearman, top_k_intersection
from fragility.study.influence.setup import Features, last_layer, prepare, sourced
from fragility.study.piece import Piece, Row, batches, declared, noise, positions, row_per_image

TOP = 3  # whose summed influence eq. 2 lowers
CONDITIONS = ("random", "eq2", "confidence", "frozen_residual")


def pieces(profile: dict[str, Any], features: Features) -> Iterator[Piece]:
    """Cut every condition into batches of test images."""
    listed = list(batches(features.images, profile["batch"]))
    shared = {**features.checksums, "network": profile["source"].network, "seed": profile["seed"]}
    for l2, epsilons in profile["epsilons"]:
        for epsilon, condition, images in product(epsilons, CONDITIONS, listed):
            yield {**images, **shared, "condition": condition, "epsilon": epsilon, "l2": l2}


def perturb(
    condition: str,
    backbone: nn.Module,
    layer: LastLayerInfluence,
    images: Tensor,
    features: Tensor,
    epsilon: float,
    draw: Tensor,
) -> Perturbation:
    """Change test images by one step, under one of the conditions.

    Args:
        condition: one of `CONDITIONS`.
        backbone: images to features.
        layer: fitted to them.
        images: (B, C, H, W) in [0, 1].
        features: theirs, (B, P).
        epsilon: size of the step.
        draw: (B, C, H, W), the images after a random step, for `"random"`.

    Returns:
        The changed images, or the originals where the prediction changed.
    """
    if condition == "random":
        return judge(backbone, layer, images, [draw])
    logits = layer.logits(features)
    labels = logits.argmax(1)
    if condition == "confidence":
        aim = raise_confidence(layer, labels)
    else:
        change = layer.parameter_change(layer.influence(features, labels).topk(TOP).indices)
        fixed = logits.softmax(1) - one_hot(labels, layer.num_classes) if condition == "frozen_residual" else None
        aim = lower_influence(layer, labels, change, fixed_residuals=fixed)
    return sign_attack(backbone, layer, images, objective=aim, epsilon=epsilon)


def rows(piece: Piece, features: Features) -> list[Row]:
    """Change the images of a piece and compare the influences before and after."""
    layer, single = (last_layer(features, piece["l2"], dtype) for dtype in (torch.float64, torch.float32))
    where = positions(features.images, piece)
    phi, images = features.test[where], features.images.images[where].to(features.test.device)
    draw, epsilon = noise(images, piece), piece["epsilon"] / 255
    found = perturb(piece["condition"], features.backbone, layer, images, phi, epsilon, draw)
    with torch.no_grad():
        after = features.backbone(found.images)
    labels = layer.logits(phi).argmax(1)
    old, new = layer.influence(phi, labels), layer.influence(after, labels)
    top = old.topk(TOP).indices
    return row_per_image(
        piece,
        label=labels,
        correct=labels.cpu() == features.images.labels[where],
        labels_kept=found.labels_kept,
        spearman=spearman(old, new),
        spearman_float32=spearman(single.influence(phi, labels), single.influence(after, labels)),
        top5_overlap=top_k_intersection(old, new, 5),
        ratio_top3=new.gather(1, top).sum(1) / old.gather(1, top).sum(1),
        confidence_before=found.confidence_before,
        confidence_after=found.confidence_after,
        validation_accuracy=features.accuracy(layer),
    )


STUDY = declared(__file__, prepare, pieces, rows, profile=sourced)
