"""Defenses and their trained networks: all of a seed begin with the same naturally trained weights."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fragility import defense as losses
from fragility import train
from fragility.cost import forward_equivalents
from fragility.data.datasets import ImageDataset
from fragility.defense import Discretized
from fragility.surrogate import SoftplusNetwork


@dataclass(frozen=True, kw_only=True)
class Defense:
    """How a network is trained or built.

    Attributes:
        loss: `"cross_entropy"` or the name of one of `fragility.defense` without its `_loss`, for the training after
            the common beginning; None for no more training.
        options: of that loss.
        beta: of a softplus in place of every ReLU, in that training and after it.
        levels: of discretised inputs, in that training and after it.
    """

    loss: str | None = "cross_entropy"
    options: dict[str, Any] = field(default_factory=dict)
    beta: float | None = None
    levels: int | None = None

    def function(self) -> train.Loss:
        """Return the loss with its options."""
        plain = self.loss == "cross_entropy"
        return partial(train.cross_entropy if plain else getattr(losses, f"{self.loss}_loss"), **self.options)


def small_cnn(*, size: int, stride: int, seed: int) -> nn.Module:
    """Return an untrained network of two convolutions and two dense layers, without pooling.

    Args:
        size: height and width of the images, 28 or 32.
        stride: of the first convolution, 2 or 4.
        seed: of the initial weights; the global random state is left alone.

    Returns:
        A network from (B, 1, size, size) to logits (B, 10).
    """
    width, side = 4 * stride, size // stride // 2
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        first = nn.Conv2d(1, width, 4, stride=stride, padding=(4 - stride) // 2)
        second = nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)
        dense = [nn.Linear(2 * width * side * side, 64), nn.ReLU(), nn.Linear(64, 10)]
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), *dense).requires_grad_(False).eval()


def madry_cnn(*, seed: int) -> nn.Module:
    """Return the untrained MNIST network of [Madry2018], which [Chen2019] also takes.

    Args:
        seed: of the initial weights; the global random state is left alone.

    Returns:
        A network from (B, 1, 28, 28) to logits (B, 10).
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        first = [nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
        second = [nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
        dense = [nn.Linear(64 * 7 * 7, 1024), nn.ReLU(), nn.Linear(1024, 10)]
    return nn.Sequential(*first, *second, nn.Flatten(), *dense).requires_grad_(False).eval()


NETWORKS: dict[str, Callable[..., nn.Module]] = {"small_cnn": small_cnn, "madry_cnn": madry_cnn}


def trained(
    profile: dict[str, Any], name: str, seed: int, training: ImageDataset, device: str
) -> tuple[nn.Module, float]:
    """Train the network of a defense, resume its training, or load it.

    Args:
        profile: of the study.
        name: a key of its defenses.
        seed: of weights and training.
        training: the training images.
        device: where.

    Returns:
        The network in evaluation mode, and the mean loss of the last epoch (NaN without training of its own).
    """
    defense = Defense(**profile["defenses"][name])
    model = NETWORKS[profile["network"]](**profile["network_options"], seed=seed).to(device)
    settings = {name: profile[name] for name in ("batch_size", "learning_rate")}
    fit: Callable[..., train.History] = partial(train.fit_cached, seed=seed, progress=False, **settings)
    data = (training.images, training.labels)
    if profile["natural_epochs"]:
        fit(model, *data, epochs=profile["natural_epochs"])
    if defense.beta is not None:
        model = SoftplusNetwork(model, defense.beta)
    if defense.levels is not None:
        model = Discretized(model, levels=defense.levels)
    if defense.loss is None:
        return model, float("nan")
    return model, fit(model, *data, defense.function(), epochs=profile["epochs"]).losses[-1]


def training_cost(defense: Defense, model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Count what one training step on a batch costs, in forward passes; 0 for a defense that is not trained."""
    if defense.loss is None:
        return 0.0
    try:
        model.requires_grad_(True)
        return forward_equivalents(model, defense.function(), images[:8], labels[:8])
    finally:
        model.requires_grad_(False)
