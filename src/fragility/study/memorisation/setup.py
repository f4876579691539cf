"""Data that can only be memorised, and the training that memorises it [Zhang2017]."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fragility import train
from fragility.data import datasets
from fragility.data.datasets import ImageDataset


def corrupted(labels: Tensor, share: float, seed: int) -> Tensor:
    """Replace every label, with probability `share`, by a class drawn uniformly; a tenth of them stay right."""
    # Uniform draws only, whose stream NumPy keeps between releases; here and below.
    chosen, drawn = np.random.default_rng(seed).random((2, len(labels)))
    return torch.where(torch.from_numpy(chosen < share), torch.from_numpy((10 * drawn).astype(np.int64)), labels)


def permuted(labels: Tensor, share: float, seed: int) -> Tensor:
    """Pass the labels of a share of the images round among them, at random: a larger share holds a smaller one's."""
    order = np.random.default_rng(seed).random(len(labels)).argsort()[: round(share * len(labels))]
    result = labels.clone()
    result[order] = labels[np.roll(order, 1)]
    return result


def shuffled(images: Tensor, seed: int, *, each: bool) -> Tensor:
    """Put the pixels into another order: the same for all images, or `each` its own."""
    draws = np.random.default_rng(seed).random((len(images) if each else 1, images[0].numel()))
    order = torch.from_numpy(draws.argsort(1)).expand(len(images), -1)
    return images.flatten(1).gather(1, order).view_as(images)


def gaussian(images: Tensor, seed: int, like: Tensor) -> Tensor:
    """Draw as many images of normal noise, with the mean and the variance that the pixels of `like` have."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return like.mean() + like.std() * noise


# Of an arm the training images, their labels and the test images; the labels of the test are the true ones.
Arm = Callable[[ImageDataset, ImageDataset, int], tuple[Tensor, Tensor, Tensor]]
ARMS: dict[str, Arm] = {
    "true": lambda train, test, seed: (train.images, train.labels, test.images),
    "half random": lambda train, test, seed: (train.images, corrupted(train.labels, 0.5, seed), test.images),
    "random labels": lambda train, test, seed: (train.images, corrupted(train.labels, 1.0, seed), test.images),
    "one shuffle": lambda train, test, seed: (
        shuffled(train.images, seed, each=False), train.labels, shuffled(test.images, seed, each=False),
    ),
    "a shuffle each": lambda train, test, seed: (
        shuffled(train.images, seed, each=True), train.labels, shuffled(test.images, seed + 10**6, each=True),
    ),
    "Gaussian": lambda train, test, seed: (
        gaussian(train.images, seed, train.images), train.labels, gaussian(test.images, seed + 10**6, train.images),
    ),
}  # fmt: skip


def perceptron(widths: tuple[int, ...], activation: Callable[[], nn.Module], seed: int, *, norm: bool) -> nn.Module:
    """Return an untrained network of dense layers for MNIST, with batch norm before each activation if asked for."""
    layers: list[nn.Module] = [nn.Flatten()]
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        for before, width in zip((784, *widths), widths, strict=False):
            layers += [nn.Linear(before, width), *([nn.BatchNorm1d(width)] if norm else []), activation()]
        layers.append(nn.Linear(widths[-1], 10))
    return nn.Sequential(*layers)


def steps(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    stepper: torch.optim.Optimizer,
    *,
    batch: int,
    seed: int,
    shift: int = 0,
) -> Iterator[int]:
    """Train by cross-entropy, a step in each turn of the loop that calls it, which gets the number of steps so far.

    Args:
        model: the network, which is in evaluation mode between the steps.
        images: (N, 1, H, W).
        labels: int64 (N,).
        stepper: of the model's parameters.
        batch: images per step.
        seed: of their order, and of the shifts.
        shift: augmentation moves every batch by up to so many pixels, up or down and left or right.

    Yields:
        The number of steps taken, after each.
    """
    generator, count = torch.Generator().manual_seed(seed), 0
    while True:
        for rows in torch.split(torch.randperm(len(images), generator=generator), batch):
            x = images[rows]
            if shift:
                down, right = torch.randint(-shift, shift + 1, (2,), generator=generator).tolist()
                x = F.pad(x, [shift] * 4)[..., shift - down :, shift - right :][..., : x.shape[2], : x.shape[3]]
            model.train()
            stepper.zero_grad()
            F.cross_entropy(model(x), labels[rows]).backward()  # type: ignore[no-untyped-call]
            stepper.step()
            model.eval()
            count += 1
            yield count


@torch.no_grad()
def margins(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return by how much the label's logit exceeds every other, (N,); positive where the label is predicted."""
    return margin_of(model(images), labels)


def margin_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the label's logit less the largest other one."""
    own: Tensor = logits.gather(1, labels[:, None]).squeeze(1)
    return own - logits.scatter(1, labels[:, None], -torch.inf).amax(1)


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of images whose label is predicted."""
    return (margins(model, images, labels) > 0).double().mean().item()


def source(data: ImageDataset) -> dict[str, Any]:
    """Describe the images for the record."""
    return {"data": data.source, "images_sha256": train.fingerprint(data.images)}


class Material(NamedTuple):
    """Images, and where they come from."""

    training: ImageDataset
    test: ImageDataset
    inputs: dict[str, Any]


def prepare(profile: dict[str, Any], device: str) -> tuple[Material, dict[str, Any]]:
    """Load the digits that come with a package."""
    parts = {"training": datasets.mnist_5k("train"), "test": datasets.mnist_5k("test")}
    inputs = {name: source(data) for name, data in parts.items()}
    return Material(**parts, inputs=inputs), inputs
