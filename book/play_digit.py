"""The network that a reader attacks in the browser, and its digits: `_static/play/digit-data.js`, by `make play`.

Trained on the 4,000 training digits of `fragility.data.datasets.mnist_5k`, turned, sheared, scaled and moved at random,
as the digits that people draw are. Two minutes on one thread; another processor rounds otherwise and comes to other
weights of the same quality. `_static/pieces/network.js` computes with them what `fragility` computes in PyTorch.
"""

from __future__ import annotations

import json
import math
from base64 import b64decode, b64encode
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import play_still
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fragility import page, train
from fragility.attack import iterative
from fragility.attribution import importance, simple_gradient
from fragility.data import datasets
from fragility.objective import box, targeted

FILE = Path(__file__).parent / "_static" / "play" / "digit-data.js"
EPOCHS, BATCH, LEARNING_RATE = 24, 128, 2e-3
# Channels in and out, kernel and stride of the convolutions, all with one pixel of padding; sizes of the linear layers.
CONVOLUTIONS = [(1, 12, 4, 2), (12, 12, 3, 1), (12, 12, 3, 1), (12, 24, 4, 2), (24, 24, 3, 1), (24, 24, 3, 1)]
LINEAR = [24 * 7 * 7, 32, 10]


def untrained() -> nn.Sequential:
    """Build the network, from images (B, 1, 28, 28) to logits (B, 10), with PyTorch's initial weights."""
    layers: list[nn.Module] = []
    for channels_in, channels_out, kernel, stride in CONVOLUTIONS:
        layers += [nn.Conv2d(channels_in, channels_out, kernel, stride, padding=1), nn.ReLU()]
    layers.append(nn.Flatten())
    for size_in, size_out in pairwise(LINEAR):
        layers += [nn.Linear(size_in, size_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def varied(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turn, shear, scale and move every image at random, by up to 11 degrees, a fifth, an eighth and a pixel."""

    def draw(size: float) -> Tensor:
        return size * (2 * torch.rand(len(images), generator=generator) - 1)

    angle, shear, wide, high = draw(0.2), draw(0.2), 1 + draw(0.12), 1 + draw(0.12)
    across = torch.stack([wide * angle.cos(), shear - high * angle.sin(), draw(0.08)], 1)
    down = torch.stack([wide * angle.sin(), high * angle.cos(), draw(0.08)], 1)
    grid = F.affine_grid(torch.stack([across, down], 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False).clamp(0, 1)


def trained(seed: int = 0) -> nn.Sequential:
    """Train the network; the step falls to nothing along half a cosine."""
    digits, generator = datasets.mnist_5k("train"), torch.Generator().manual_seed(seed)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = untrained()
    stepper = torch.optim.Adam(model.parameters())
    for epoch in range(EPOCHS):
        for part, rows in enumerate(torch.split(torch.randperm(len(digits), generator=generator), BATCH)):
            done = (epoch + part * BATCH / len(digits)) / EPOCHS
            stepper.param_groups[0]["lr"] = LEARNING_RATE * (1 + math.cos(math.pi * done)) / 2
            stepper.zero_grad()
            images = varied(digits.images[rows], generator)
            train.cross_entropy(model, images, digits.labels[rows]).backward()  # type: ignore[no-untyped-call]
            stepper.step()
    return model.requires_grad_(False).eval()


def loaded() -> tuple[nn.Sequential, Tensor, Tensor]:
    """Read what the browser reads.

    Returns:
        The network in double precision, the ten digits (10, 1, 28, 28) in [0, 1], and their labels, 0 to 9.
    """
    data = json.loads(FILE.read_text(encoding="utf-8").partition("=")[2].rstrip(";\n"))
    model = untrained().double().requires_grad_(False).eval()
    numbers = np.frombuffer(b64decode(data["weights"]), "<i2").astype("f8")
    start = 0
    for parameter, scale in zip(model.parameters(), data["scales"], strict=True):
        count = parameter.numel()
        parameter.copy_(torch.from_numpy(scale * numbers[start : start + count]).view(parameter.shape))
        start += count
    digits = np.frombuffer(b64decode(data["digits"]), "u1").reshape(10, 1, 28, 28)
    return model, torch.from_numpy(digits / 255), torch.arange(10)


def write() -> None:
    """Train the network and write it, in integers of 16 bits per parameter, with a digit of each class."""
    model, test = trained(), datasets.mnist_5k("test")
    scales, numbers = [], []
    for parameter in model.parameters():
        scale = parameter.abs().max().item() / 32767
        scales.append(scale)
        numbers.append((parameter / scale).round().flatten().numpy().astype("<i2"))
    right = model(test.images).argmax(1) == test.labels
    # The class's own look: the correctly read test digit that is nearest to the mean of its class.
    chosen = []
    for label in range(10):
        rows = (right & (test.labels == label)).nonzero()[:, 0]
        images = test.images[rows]
        chosen.append(images[(images - images.mean(0)).square().sum((1, 2, 3)).argmin()])
    data: dict[str, Any] = {
        "convolutions": CONVOLUTIONS,
        "linear": LINEAR,
        "accuracy": round(right.double().mean().item(), 3),
        "scales": scales,
        "weights": b64encode(np.concatenate(numbers).tobytes()).decode(),
        "digits": b64encode((255 * torch.stack(chosen)).round().numpy().astype("u1").tobytes()).decode(),
    }
    FILE.write_text(f"const digitData = {json.dumps(data)};\n", encoding="utf-8")
    print(f"{data['accuracy']:.1%} of {len(right)} test digits read correctly")


def picture() -> None:
    """Draw what there is to see without JavaScript: a digit and its map, before and after the attack."""
    model, images, labels = loaded()
    corner = box((28, 28), 19, 0, 28, 9)
    found = iterative(
        model, images[4:5], labels[4:5], attribution=simple_gradient, objective=targeted(corner), epsilon=32 / 255,
        step_size=3.2 / 255, iterations=40, surrogate_beta=24.0,
    )  # fmt: skip
    pictures = []
    for image in (images[4:5], found.images):
        pictures += [page.rendered(image[0]), page.rendered(importance(simple_gradient(model, image, labels[4:5]))[0])]
    play_still.side_by_side("digit.webp", pictures)


def main() -> None:
    """Train, write, draw."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    write()
    picture()


if __name__ == "__main__":
    main()
