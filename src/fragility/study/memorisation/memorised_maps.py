"""Does memorising make maps fragile? Networks that memorise more and more labels, attacked where they were trained.

The five networks of a seed have the same start, the same training images and the same order of batches; the labels of a
share p of the images are passed round among them. Each is trained until it predicts all its labels, then all go on
until they have the same mean margin, the largest that one of them had at that time. The maps of training images are
attacked; how fragile they are is compared at equal distance from the decision boundary (see `matching`).
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fragility.attack import iterative
from fragility.attribution import importance, simple_gradient
from fragility.curvature import top_direction
from fragility.data import datasets
from fragility.iterate import BestIterate, Iterate
from fragility.objective import top_k
from fragility.similarity import spearman, top_k_intersection
from fragility.study.memorisation.setup import (
    Material,
    accuracy,
    margin_of,
    margins,
    perceptron,
    permuted,
    prepare,
    steps,
)
from fragility.study.piece import Piece, Row, declared, positions, row_per_image


def pieces(profile: dict[str, Any], ready: Material) -> Iterator[Piece]:
    """A piece is a seed: its networks are trained to one margin."""
    settings = {name: value for name, value in profile.items() if name != "seeds"}
    for seed in range(profile["seeds"]):
        drawn = datasets.sample(ready.training, profile["training_images"], seed=seed)
        yield {**settings, "inputs": ready.inputs, "images": list(drawn.files[: profile["images"]]), "seed": seed}


class Memorised(NamedTuple):
    """A network that predicts all labels it was given."""

    model: nn.Module
    labels: Tensor
    epochs: int
    margin: float


def memorise(images: Tensor, labels: Sequence[Tensor], seed: int, piece: Piece) -> list[Memorised]:
    """Train one network for each labelling, all to the same mean margin; ValueError where one does not get there."""
    activation, batch = partial(nn.Softplus, piece["beta"]), 100
    per_epoch = -(-len(images) // batch)
    models = [perceptron(tuple(piece["widths"]), activation, seed, norm=False) for _ in labels]
    runs = [
        steps(model, images, given, torch.optim.Adam(model.parameters(), lr=1e-3), batch=batch, seed=seed)
        for model, given in zip(models, labels, strict=True)
    ]

    def train_to(number: int, least: float) -> tuple[int, float]:
        for count in runs[number]:
            found, epochs = margins(models[number], images, labels[number]), -(-count // per_epoch)
            if (found > 0).all() and (mean := found.mean().item()) >= least:
                return epochs, mean
            if epochs > piece["limit"]:
                break
        raise ValueError(f"limit: expected enough epochs to fit all labels, got {piece['limit']} (network {number})")

    common = max(train_to(number, 0.0)[1] for number in range(len(models)))
    done = [train_to(number, common) for number in range(len(models))]
    return [Memorised(*one) for one in zip(models, labels, *zip(*done, strict=True), strict=True)]


def rows(piece: Piece, ready: Material) -> list[Row]:
    """Train the networks of a seed, measure and attack them."""
    seed = piece["seed"]
    drawn = datasets.sample(ready.training, piece["training_images"], seed=seed)
    where, made = positions(drawn, piece), []
    labellings = [permuted(drawn.labels, share, seed) for share in piece["shares"]]
    for share, one in zip(piece["shares"], memorise(drawn.images, labellings, seed, piece), strict=True):
        model = one.model.requires_grad_(False)
        images, labels = drawn.images[where], one.labels[where]
        distance, slope = boundary(model, images, labels)
        made += row_per_image(
            piece,
            seed=seed,
            share=share,
            moved=labels != drawn.labels[where],
            epochs=one.epochs,
            mean_margin=one.margin,
            test_accuracy=accuracy(model, ready.test.images, ready.test.labels),
            distance=distance,
            bend=top_direction(model, images, labels, steps=20)[0].abs() / slope,
            radius=relu_radius(model, images),
            **attacked(model, images, labels, piece["epsilon"] / 255, piece["k"], piece["iterations"]),
        )
    return made


def boundary(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return margin / |grad margin|_1, and the length of the gradient of the label's logit."""
    x = images.clone().requires_grad_()
    margin = margin_of(model(x), labels)
    (slope,) = torch.autograd.grad(margin.sum(), x)
    own = simple_gradient(model, images, labels)
    return margin.detach() / slope.abs().sum((1, 2, 3)), own.flatten(1).norm(dim=1)


def relu_radius(model: nn.Module, images: Tensor) -> Tensor:
    """Return min_j |z_j| / |grad z_j|_1 over all hidden units, with ReLU in the place of softplus [Lee2019]."""
    dense = [layer for layer in model if isinstance(layer, nn.Linear)][:-1]  # type: ignore[attr-defined]
    found = []
    for image in images.flatten(1):
        values, jacobian, least = image, torch.eye(len(image)), []
        for layer in dense:
            values, jacobian = layer(values), layer.weight @ jacobian
            least.append((values.abs() / jacobian.abs().sum(1).clamp(min=1e-30)).min())
            active = values > 0
            values, jacobian = values * active, jacobian * active[:, None]
        found.append(torch.stack(least).min())
    return torch.stack(found)


def attacked(
    model: nn.Module, images: Tensor, labels: Tensor, epsilon: float, k: int, iterations: int
) -> dict[str, Tensor]:
    """Attack the top k of the simple gradient: the best iterate with the label kept, and the best of all."""
    aim, free = top_k(k), BestIterate(images, torch.ones(len(images)))
    reference = importance_of(model, images, labels)

    def offer(iterate: Iterate) -> None:
        anything = torch.ones_like(iterate.kept)
        free.offer(iterate.number, iterate.images, aim(iterate.maps, reference), iterate.confidence, anything)

    found = iterative(
        model, images, labels, attribution=simple_gradient, objective=aim, epsilon=epsilon, step_size=epsilon / 8,
        iterations=iterations, schedule="linear", callback=offer,
    )  # fmt: skip
    kept, all_of_them = (importance_of(model, x, labels) for x in (found.images, free.images))
    return {
        "labels_kept": found.labels_kept,
        "top_k_intersection": top_k_intersection(reference, kept, k),
        "spearman": spearman(reference, kept),
        "free_intersection": top_k_intersection(reference, all_of_them, k),
    }


def importance_of(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the importance map of the simple gradient."""
    return importance(simple_gradient(model, images, labels))


STUDY = declared(__file__, prepare, pieces, rows, cost=lambda piece: float(piece["training_images"]))
