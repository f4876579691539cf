"""The angle between the loss's gradient and the steepest direction of influence [Ghorbani2019, Fig. 11b].

The influence is that of the most helpful training image on a test image; the label explained is the prediction. The
null is that of `fragility.study.curvature.null`.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from fragility import train
from fragility.curvature import angle
from fragility.influence.last_layer import LastLayerInfluence
from fragility.study.curvature import null
from fragility.study.influence.setup import L2, Features, last_layer, prepare, sourced
from fragility.study.piece import Piece, Row, declared, positions, row_per_image

BLOCK = 20  # about how many test images of one class make a piece


def pieces(profile: dict[str, Any], features: Features) -> Iterator[Piece]:
    """Cut the test images of each predicted class into blocks."""
    layer = last_layer(features, L2)
    labels = layer.logits(features.test).argmax(1).cpu()
    for label in (0, 1):
        rows = (labels == label).nonzero().flatten()
        # Blocks of nearly equal size: a block of one image would be its own null.
        for chosen in rows.tensor_split(max(1, round(len(rows) / BLOCK))):
            images = {"first": int(chosen[0]), "images": [features.images.files[row] for row in chosen]}
            checksums = features.checksums | {"pixels": train.fingerprint(features.images.images[chosen])}
            yield {**images, **checksums, "network": profile["source"].network, "label": label, "l2": L2}


def rows(piece: Piece, features: Features) -> list[Row]:
    """Compare the two gradients on every image of a block."""
    layer = last_layer(features, piece["l2"])
    where, label = positions(features.images, piece), piece["label"]
    phi, images = features.test[where], features.images.images[where]
    labels = torch.full((len(where),), label, device=phi.device)
    influences = layer.influence(phi, labels)
    largest, best = influences.max(1, keepdim=True)
    batches = zip(*(torch.split(column, 4) for column in (images.to(phi.device), labels, best)), strict=True)
    gradients = [_gradients(features.backbone, layer, *batch) for batch in batches]
    of_loss, of_influence, frozen = (torch.cat(column) for column in zip(*gradients, strict=True))
    return row_per_image(
        piece,
        correct=features.images.labels[where] == label,
        dimension=images[0].numel(),
        block=f"{features.images.class_names[label]} from {piece['images'][0]}",
        training_image=best.flatten(),
        influence=largest.flatten(),
        **null.angle_columns(of_loss, of_influence),
        angle_frozen=angle(of_loss, frozen),
        confidence=layer.logits(phi).softmax(1)[:, label],
    )


def _gradients(
    backbone: nn.Module, layer: LastLayerInfluence, images: Tensor, labels: Tensor, best: Tensor
) -> list[Tensor]:
    """With respect to the images: of the loss, of the best image's influence, and of that with a fixed residual."""
    with torch.enable_grad():
        points = images.detach().requires_grad_()
        features = backbone(points)
        phi = features.detach()
        residual = layer.logits(phi).softmax(1) - one_hot(labels, layer.num_classes)
        seeds = [
            residual @ layer.theta[:, :-1],
            layer.feature_gradient(phi, labels, best),
            (residual.unsqueeze(1) @ layer.parameter_change(best)).squeeze(1)[:, :-1],
        ]
        return [
            torch.autograd.grad(features, points, seed.to(features), retain_graph=True)[0].double() for seed in seeds
        ]


STUDY = declared(__file__, prepare, pieces, rows, profile=sourced)
