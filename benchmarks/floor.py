"""The floor: every kernel in forward-equivalents, its time over the network's own forward pass on the same batch."""

from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.harness import Point, Row, interleaved
from fragility import network
from fragility.attribution import deeplift, importance, integrated_gradients, simple_gradient
from fragility.curvature import input_hvp
from fragility.data import datasets
from fragility.iterate import Attribution, Judge, gradient
from fragility.objective import top_k
from fragility.surrogate import softplus

K = 1000  # the most important pixels of 227 x 227, as in the paper
TARGETS = {
    "attack step, simple gradient": "<= 4.0",
    "attack step, DeepLIFT": "<= 12",
    "integrated gradients, per point of the path": "<= 1.6",
    "attack step, integrated gradients, per point": "<= 4.5",
}


def photographs(batch: int, size: int = 227) -> Tensor:
    """Return free photographs, repeated to fill the batch."""
    images = datasets.photographs(size=size).images
    return images.repeat(-(-batch // len(images)), 1, 1, 1)[:batch]


def attack_step(model: nn.Module, x: Tensor, labels: Tensor, attribution: Attribution, reference: Tensor) -> Tensor:
    """Return all that is needed for the next direction: grad_x D through the softplus surrogate."""
    with softplus(1.0):
        return gradient(model, x, labels, attribution, top_k(K), reference)[0]


def measure(quick: bool) -> tuple[list[Row], list[Point]]:
    """Measure SqueezeNet at 227 pixels."""
    batch, steps, repeats = (2, 2, 2) if quick else (8, 4, 3)
    model, x = network.squeezenet(), photographs(batch)
    labels = model(x).argmax(1)
    reference = importance(simple_gradient(model, x, labels))
    judge, moved = Judge(model, x, labels, simple_gradient), (x + 1 / 255).clamp(max=1)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    path = partial(integrated_gradients, steps=steps)

    def forward() -> Tensor:
        with torch.no_grad():
            return model(x)  # type: ignore[no-any-return]

    def smooth_forward() -> Tensor:
        with softplus(1.0):
            return forward()

    def curvature() -> Tensor:
        with softplus(1.0):
            return input_hvp(model, x, labels, direction)

    times = interleaved(
        {
            "forward": forward,
            "forward of the softplus surrogate": smooth_forward,
            "simple gradient": lambda: simple_gradient(model, x, labels),
            "attack step, simple gradient": lambda: attack_step(model, x, labels, simple_gradient, reference),
            "selection pass, simple gradient": lambda: judge(moved),
            "Hessian-vector product (jvp of the gradient)": curvature,
            "DeepLIFT": lambda: deeplift(model, x, labels),
            "attack step, DeepLIFT": lambda: attack_step(model, x, labels, deeplift, reference),
            "integrated gradients, per point of the path": lambda: path(model, x, labels),
            "attack step, integrated gradients, per point": lambda: attack_step(model, x, labels, path, reference),
        },
        repeats,
        base="forward",
    )
    note, rows = f"SqueezeNet, 227 px, batch {batch}", []
    for name, seconds in times.items():
        points = steps if "per point" in name else 1
        detail = f"{note}, M = {steps}" if "per point" in name else note
        value = seconds / times["forward"] / points
        rows.append(Row("floor", name, value, "forwards", TARGETS.get(name, ""), detail))
    rows.append(Row("floor", "forward, per image", times["forward"] / batch, "s", "", note))
    return rows, []
