"""Influence through all parameters of small networks, by depth and weight decay, against retraining [Basu2021].

Networks of 16 inputs and six tanh units per layer tell threes from eights; the Hessian is exact and slightly damped.
For the training images of the largest influence the network is trained again without the image, starting from the
trained parameters, as in [Koh2017]. Training is not exact either: it is repeated from slightly shifted parameters *with
nothing left out*, and the change of the test losses is the noise floor. All profiles use digits.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise, product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy

from fragility import train
from fragility.influence.whole_network import direct, network_influence
from fragility.study.influence.setup import SOURCES, load
from fragility.study.piece import Piece, Row, declared, generator

SMALL_GRADIENT = 1e-6  # at which a training counts as converged


SETTINGS = {
    "training_images": 60, "test_images": 10,  # of a draw
    "left_out": 8,  # training images, one at a time, those of the largest influence
    "repeats": 2,  # trainings from shifted parameters with nothing left out
    "steps": 400, "more_steps": 150,  # of L-BFGS, in the first training and in each later one
    "damping": 1e-5,  # added to the Hessian's diagonal
    "shift": 0.02,  # standard deviation of the shift
    "seed": 0,  # of all draws
}  # fmt: skip


class Digits(NamedTuple):
    """Threes and eights, 16 numbers each, float64 and centred."""

    images: Tensor
    labels: Tensor
    checksum: str


def prepare(profile: dict[str, Any], device: str) -> tuple[Digits, dict[str, Any]]:
    """Load the digits, in float64 and on the processor whatever the device."""
    digits = load(SOURCES["fast"], "train")
    images, checksum = avg_pool2d(digits.images, 8).flatten(1).double(), train.fingerprint(digits.images, digits.labels)
    inputs = {"data": digits.source, "training_sha256": checksum}
    return Digits(images - images.mean(0), digits.labels, checksum), inputs


def pieces(profile: dict[str, Any], digits: Digits) -> Iterator[Piece]:
    """List a piece per draw, depth and decay."""
    shared = {**SETTINGS, "training": digits.checksum}
    for draw, depth, decay in product(range(profile["draws"]), profile["depths"], profile["decays"]):
        yield {**shared, "first": draw, "images": [f"{draw}"], "depth": depth, "decay": decay}


def mlp(depth: int, draws: torch.Generator) -> nn.Sequential:
    """Make a network of 16 inputs, six tanh units a hidden layer, and two classes: variance 1 / fan-in, no biases."""
    layers: list[nn.Module] = []
    for a, b in pairwise([16] + [6] * depth + [2]):
        layer = nn.Linear(a, b).double()
        nn.init.normal_(layer.weight, std=a**-0.5, generator=draws)
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1]).eval()


def fit(model: nn.Module, loss: Callable[[], Tensor], steps: int) -> float:
    """Train in place by full-batch L-BFGS, and return the largest entry of the gradient where it ended."""
    parameters = list(model.parameters())
    options: dict[str, Any] = {"tolerance_grad": 1e-8, "tolerance_change": 1e-14, "line_search_fn": "strong_wolfe"}
    solver = torch.optim.LBFGS(parameters, max_iter=steps, **options)

    def closure() -> Tensor:
        solver.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    solver.step(closure)  # type: ignore[no-untyped-call]
    return max(float(gradient.abs().max()) for gradient in torch.autograd.grad(loss(), parameters))


def rows(piece: Piece, digits: Digits) -> list[Row]:
    """Predict and retrain, draw by draw."""
    return [{"image": name, **_row(piece, digits, name)} for name in piece["images"]]


def _row(piece: Piece, digits: Digits, name: str) -> Row:
    draws, n = generator(piece["seed"], name), piece["training_images"]
    drawn = torch.randperm(len(digits.images), generator=draws)
    training, tests = drawn[:n], drawn[n : n + piece["test_images"]]
    images, labels, test_images, test_labels = data = (
        digits.images[training], digits.labels[training], digits.images[tests], digits.labels[tests],
    )  # fmt: skip
    model, decay = mlp(piece["depth"], draws), piece["decay"]

    def loss(weights: Tensor) -> Tensor:
        entropy = cross_entropy(model(images), labels, reduction="none")
        penalty = torch.cat([parameter.flatten() for parameter in model.parameters()]).square().sum()
        value: Tensor = (weights * entropy).mean() + decay / 2 * penalty
        return value

    def test_losses() -> Tensor:
        with torch.no_grad():
            return cross_entropy(model(test_images), test_labels, reduction="none")

    everything = torch.ones(n, dtype=torch.float64)
    gradients = [fit(model, lambda: loss(everything), piece["steps"])]
    start = {key: value.clone() for key, value in model.state_dict().items()}
    base = test_losses()
    predicted, _ = network_influence(model, *data, l2=decay, damping=piece["damping"], solve=direct)

    def change(weights: Tensor, shift: float = 0.0) -> Tensor:
        noise = {k: shift * torch.randn(v.shape, generator=draws, dtype=v.dtype) for k, v in start.items()}
        model.load_state_dict({key: value + noise[key] for key, value in start.items()})
        gradients.append(fit(model, lambda: loss(weights), piece["more_steps"]))
        return test_losses() - base

    largest = predicted.abs().sum(0).topk(piece["left_out"]).indices
    true = torch.stack([change(everything.index_fill(0, index, 0.0)) for index in largest], 1)
    noise = torch.stack([change(everything, piece["shift"]) for _ in range(piece["repeats"])], 1)
    pair = torch.stack([predicted[:, largest].flatten(), true.flatten()])
    return {
        "pairs": true.numel(),
        "r": float(torch.corrcoef(pair)[0, 1]),
        "ceiling": float((1 - noise.square().mean() / true.var()).clamp(min=0).sqrt()),
        "mean_change": float(true.abs().mean()),
        "noise_floor": float(noise.abs().mean()),
        "gradient": max(gradients),
        "converged": max(gradients) <= SMALL_GRADIENT,
    }


STUDY = declared(__file__, prepare, pieces, rows)
