"""Make `weights/mnist_NAME.npy`: `python -m fragility.study.defenses.mnist_weights NAME ... FOLDER`.

A network for each NAME in `TRAININGS`, trained on the 4,000 training digits of `fragility.data.datasets.mnist_5k`,
moved by up to two pixels. The radius of the ball grows from 0 over the first half of the training: a network that has
to withstand the whole of it from the start stays at chance. Half a minute for `natural`, minutes for the others.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector

from fragility import network, train
from fragility.data import datasets
from fragility.defense import adversarial_loss, ig_norm_loss

BATCH, LEARNING_RATE = 100, 2e-3
Ball = Callable[[float], train.Loss]  # from the radius of the ball to a loss


def _adversarial(radius: float) -> train.Loss:
    return partial(adversarial_loss, epsilon=radius, step_size=radius / 3, iterations=5)


def _ig_norm(radius: float) -> train.Loss:
    return partial(ig_norm_loss, epsilon=radius, step_size=radius / 2, iterations=3, steps=3, inner_steps=1)


TRAININGS: dict[str, tuple[int, float, Ball]] = {  # epochs, the last radius and the loss
    "natural": (10, 0.0, lambda radius: train.cross_entropy),
    "adversarial": (40, 0.3, _adversarial),  # the radius of [Chen2019] on MNIST
    "ig_norm": (20, 0.2, _ig_norm),  # at 0.3 its accuracy is lost
}


def fitted(name: str, *, seed: int = 0) -> nn.Module:
    """Train one network.

    Args:
        name: a key of `TRAININGS`.
        seed: of the initial weights, the batches, their shifts and the random starts.

    Returns:
        The network, in evaluation mode.
    """
    (epochs, epsilon, ball), data = TRAININGS[name], datasets.mnist_5k("train")
    model = network.mnist_cnn(weights=None, seed=seed).requires_grad_(True)
    stepper = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        for epoch in range(epochs):
            for part, rows in enumerate(torch.split(torch.randperm(len(data)), BATCH)):
                done = (epoch + part * BATCH / len(data)) / epochs
                radius = epsilon * min(1.0, (done - 0.05) / 0.45)
                loss = ball(radius) if radius > 0 else train.cross_entropy
                stepper.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, (1 - done) / 0.4 + 0.01)
                shift = torch.randint(-2, 3, (2,)).tolist()
                stepper.zero_grad()
                loss(model, data.images[rows].roll(shift, (2, 3)), data.labels[rows]).backward()  # type: ignore[no-untyped-call]
                stepper.step()
    return model.requires_grad_(False)


def main(names: list[str], folder: Path) -> None:
    """Write the weights of each training in half precision, as one vector."""
    for name in names:
        numbers = parameters_to_vector(fitted(name).parameters()).numpy()
        np.save(folder / f"mnist_{name}.npy", numbers.astype("<f2"), allow_pickle=False)


if __name__ == "__main__":
    main(sys.argv[1:-1], Path(sys.argv[-1]))
