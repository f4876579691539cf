"""Influence attacked by whoever trains the model [Yadav2024], and by whoever contributes training images [Wang2025].

The trainer looks near the minimum for a last layer that is as accurate on the training images, and at which influence
names one of his choice; theirs adds a damping of .25 to the Hessian, ours has the penalty alone. He follows the
gradient of the chosen image's share of the norm of all influences. A contributor is paid by how often his
images are among the most helpful ones of a prediction, and changes them, with their labels, before anything is trained;
he knows the backbone, and images of his own for a layer that stands in for the one to come.
"""

from collections.abc import Iterator
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, pad

from fragility.attack import random_sign
from fragility.influence import logistic
from fragility.influence.last_layer import LastLayerInfluence
from fragility.step import ball, frozen, sign_step
from fragility.study.influence.setup import L2, Features, TwoClasses, last_layer, load, prepare, sourced
from fragility.study.piece import Piece, Row, declared, generator, positions

TOP = 3  # the ranks that a trainer aims at
PAID = 10  # of each prediction, the images that share the pay


def pieces(profile: dict[str, Any], features: Features) -> Iterator[Piece]:
    """List the trainer's test images by tens, then the draws of a contributor's images, attacked and with noise."""
    checksums = {name: features.inputs[name] for name in ("weights", "training_sha256", "test_sha256")}
    shared = {**checksums, "network": profile["source"].network, "l2": L2, "seed": 0}
    for first in range(0, profile["pairs"], 10):
        names = list(features.images.files[first : min(first + 10, profile["pairs"])])
        goal = {name: profile[name] for name in ("reach", "most")}
        yield {**shared, **goal, "first": first, "images": names, "who": "trainer"}
    goal = {name: profile[name] for name in ("contributed", "epsilon", "steps")}
    for draw in range(profile["draws"]):
        for who in ("contributor", "noise"):
            where = {"first": draw, "images": [f"draw {draw}"], "source": asdict(profile["source"])}
            yield {**shared, **goal, **where, "who": who}


def rows(piece: Piece, features: Features) -> list[Row]:
    """Attack, test image by test image or draw by draw."""
    attack = _train if piece["who"] == "trainer" else _contribute
    common = {"training_images": len(features.labels), "undone": None}
    return [{"image": name, **common, **attack(piece, features, name)} for name in piece["images"]]


def influences(w: Tensor, inputs: Tensor, labels: Tensor, test: Tensor, label: Tensor, l2: float) -> Tensor:
    """Return the influence (N,) on one test loss of a layer that need not be trained to its minimum.

    Args:
        w: (D,), the logit of class 1 less that of class 0, per feature.
        inputs: (N, D), of the training images, with the bias's.
        labels: (N,), 0 or 1, of the type of w.
        test: (D,).
        label: 0 or 1.
        l2: penalty on both rows of theta = (-w/2, w/2).

    Returns:
        g_t^T H^-1 g_i / n, positive where the image helps; differentiable with respect to w.
    """
    z, sign = inputs @ w, 2 * labels - 1
    hessian = inputs.T @ ((z.sigmoid() * (-z).sigmoid()).unsqueeze(1) * inputs) / len(inputs)
    hessian = hessian + l2 / 2 * torch.eye(len(w)).to(w)
    # p - y without cancellation: a certain prediction has a small residual, not none.
    own, asked = sign * (-sign * z).sigmoid(), (2 * label - 1) * (-(2 * label - 1) * (test @ w)).sigmoid()
    influence: Tensor = own * (inputs @ torch.linalg.solve(hessian, asked * test)) / len(inputs)
    return influence


def _train(piece: Piece, features: Features, name: str) -> Row:
    layer, draws = last_layer(features, piece["l2"]), generator(piece["seed"], name)
    (where,) = positions(features.images, {"images": [name]})
    inputs, tests = (pad(part.double(), (0, 1), value=1.0) for part in (features.training, features.test))
    labels, truth = features.labels.double(), features.images.labels.to(features.labels.device)

    def ranks(w: Tensor) -> tuple[Tensor, Tensor]:
        found = influences(w, inputs, labels, tests[where], truth[where], piece["l2"])
        return found, 1 + found.argsort(descending=True).argsort()

    def accuracy(w: Tensor, x: Tensor, y: Tensor) -> float:
        return float(((x @ w > 0) == (y > 0)).double().mean())

    start = layer.theta[1] - layer.theta[0]
    least, before = accuracy(start, inputs, labels) - 0.01, ranks(start)[1]
    candidates = (before > TOP).nonzero().flatten()
    target = candidates[torch.randint(len(candidates), (1,), generator=draws)]
    w, size = start.clone().requires_grad_(), start.norm()
    stepper = torch.optim.Adam([w], lr=0.02 * float(size) / len(w) ** 0.5)
    for _ in range(piece["most"]):
        found, rank = ranks(w)
        if rank[target] <= TOP and accuracy(w, inputs, labels) > least:
            break
        share = (found[target] / found.norm()).sum()
        stepper.zero_grad()
        (binary_cross_entropy_with_logits(inputs @ w, labels) - share).backward()
        stepper.step()
        with torch.no_grad():
            w.copy_(start + (w - start) * (piece["reach"] * size / (w - start).norm()).clamp(max=1))
    else:  # he fails, and publishes what he trained
        w = start
    w = w.detach()
    fitted = logistic.newton(inputs, features.labels, l2=piece["l2"], num_classes=2, start=-w.unsqueeze(0) / 2**0.5)
    return {
        "before": float(before[target]),
        "after": float(ranks(w)[1][target]),
        "undone": float(ranks(-fitted.squeeze(0) * 2**0.5)[1][target]),
        "change": float((w - start).norm() / size),
        "accuracy_lost": accuracy(start, tests, truth) - accuracy(w, tests, truth),
    }


def _contribute(piece: Piece, features: Features, name: str) -> Row:
    layer, draws = last_layer(features, piece["l2"]), generator(piece["seed"], name)
    own = torch.randperm(len(features.labels), generator=draws)[: piece["contributed"]]
    x, epsilon = training_images(features, TwoClasses(**piece["source"]))[own], piece["epsilon"] / 255
    own, x, labels = own.to(features.labels.device), x.to(features.test.device), features.labels[own]
    if piece["who"] == "noise":
        changed = random_sign(x, epsilon, generator=draws)
    else:
        stand_in = LastLayerInfluence(features.validation, features.validation_labels, l2=piece["l2"], num_classes=2)
        changed = harder(features, stand_in, x, labels, epsilon, piece["steps"])
    with torch.no_grad():
        phi = features.training.index_copy(0, own, features.backbone(changed))
    new = LastLayerInfluence(phi, features.labels, l2=piece["l2"], num_classes=2)
    truth = features.images.labels.to(features.labels.device)
    pay, right = [], []
    for one in (layer, new):
        helpful = one.influence(features.test, truth).topk(PAID).indices
        pay.append(float(torch.isin(helpful, own).double().mean()))
        right.append(float((one.logits(features.test).argmax(1) == truth).double().mean()))
    change = 255 * float((changed - x).abs().max())
    return {"before": pay[0], "after": pay[1], "change": change, "accuracy_lost": right[0] - right[1]}


def harder(
    features: Features, layer: LastLayerInfluence, images: Tensor, labels: Tensor, epsilon: float, steps: int
) -> Tensor:
    """Raise a layer's loss at images by sign steps in the ball: what is hard to learn is influential."""
    lower, upper = ball(images, epsilon)
    x = images
    with frozen(features.backbone):
        for _ in range(steps):
            point = x.detach().requires_grad_()
            losses = logistic.cross_entropies(layer.logits(features.backbone(point.clone())), labels)
            (slope,) = torch.autograd.grad(losses.sum(), point)
            x = sign_step(x, slope, epsilon / 4, lower, upper)
    return x


@lru_cache(maxsize=1)
def training_images(features: Features, source: TwoClasses) -> Tensor:
    """Load the training images of some features once for all draws: half a gigabyte of flowers."""
    return load(source, "train").images


STUDY = declared(__file__, prepare, pieces, rows, profile=sourced)
