"""The claims that are identities: computed on demand, in float64 on small random networks, in two different ways."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise, product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fragility.attribution import deeplift, importance, integrated_gradients, simple_gradient
from fragility.curvature import saliency_lipschitz_bound, top_direction
from fragility.defense.loss_attribution import l1_norm, loss_attributions
from fragility.defense.training import adversarial_loss, ig_norm_loss, input_gradient_loss, robust_attribution_loss
from fragility.study.curvature.closed_form import draw_neuron
from fragility.study.verdict import Finding, Tables, exact

LIMIT = 1e-10
CHAINS = 1000  # random networks for the Lipschitz bounds
BALL: dict[str, Any] = {"epsilon": 0.1, "step_size": 0.04, "iterations": 4}


def axioms(tables: Tables) -> Finding:
    """M1: completeness, sensitivity, implementation invariance, linearity, symmetry; DeepLIFT's sum."""
    model, x, y = _smooth(1), _images(2, 3, 8, 8), torch.tensor([1, 3])
    x0 = torch.full((3, 1, 1), 0.4, dtype=torch.float64)
    few: dict[str, Any] = {"steps": 20, "baseline": x0}
    rectified = _network(2, lambda: [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Flatten(), nn.Linear(24, 4)])
    gap = _score(rectified, x, y) - _score(rectified, x0.expand_as(x), y)
    combined, mirrored, rewritten = (
        _Function(function)
        for function in (
            lambda z: 2 * model(z) - model(1 - z) / 2,
            lambda z: model(1 - z),
            lambda z: (model(z) * 3 + model(z)) / 4,
        )
    )
    ours, of_mirrored = (integrated_gradients(part, x, y, **few) for part in (model, mirrored))
    blind = _Function(lambda z: model(z * torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64).view(3, 1, 1)))
    twins = _Function(lambda z: model((z + z.flip(1)) / 2))
    alike = torch.cat([x[:, :1], x[:, 1:2], x[:, :1]], 1)
    in_pair = integrated_gradients(twins, alike, y, steps=20, baseline=0.0)
    bend = _Function(lambda z: 1 - F.relu(1 - 2 * z.flatten(1)[:, :1]))
    one, zero = torch.ones(1, 1, 1, 2, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    steps = (50, 100, 200, 400)
    whole = _score(model, x, y) - _score(model, x0.expand_as(x), y)
    errors = [
        (integrated_gradients(model, x, y, steps=m, baseline=x0).sum((1, 2, 3)) - whole).abs().max().item()
        for m in steps
    ]
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    limits = [
        exact("completeness, DeepLIFT", _off(deeplift(rectified, x, y, baseline=x0).sum((1, 2, 3)), gap), LIMIT),
        exact("sensitivity (a), integrated gradients", _lost(bend, one, zero), LIMIT),
        exact("sensitivity (b)", integrated_gradients(blind, x, y, **few)[:, 2].abs().max().item(), LIMIT),
        exact("implementation invariance", _off(integrated_gradients(rewritten, x, y, **few), ours), LIMIT),
        exact("linearity", _off(integrated_gradients(combined, x, y, **few), 2 * ours - of_mirrored / 2), LIMIT),
        exact("symmetry", _off(in_pair[:, 0], in_pair[:, 2]), LIMIT),
        exact("completeness, integrated gradients: distance of the error's order in 1/M from 1", abs(slope + 1), 0.1),
    ]
    return Finding(limits, exact=True)


def linear_scores(tables: Tables) -> Finding:
    """H1: the simple gradient's map of a linear score does not move; those of the other two methods do."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4)).double().requires_grad_(False).eval()
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        for part in model.parameters():
            part.copy_(torch.randn_like(part))
    x, other, y = _images(8, 3, 8, 8, seed=1), _images(8, 3, 8, 8, seed=2), torch.arange(8) % 4

    def change(method: Callable[..., Tensor]) -> float:
        return (importance(method(model, x, y)) - importance(method(model, other, y))).abs().sum((1, 2)).max().item()

    notes = [
        f"{name}: the map changes by {change(method):.2g} (sum of the absolute changes), as |w (x - x0)| says"
        for name, method in (("integrated gradients", partial(integrated_gradients, steps=3)), ("DeepLIFT", deeplift))
    ]
    return Finding(
        [exact("simple gradient: change of the map", change(simple_gradient), 1e-12)], notes=notes, exact=True
    )


def sign_of_the_weights(tables: Tables) -> Finding:
    """H3: sign(w) is the sign of the Hessian's top direction, up to one sign for all."""
    wrong = 0.0
    for activation, dimension, draw in product(("softplus", "sigmoid"), (10, 100), range(10)):
        model, x = draw_neuron(dimension, activation, 0, f"claim {draw}")
        _, direction = top_direction(model, x, torch.zeros(1, dtype=torch.int64), steps=4)
        agree = (direction.sign() == model.weights.view_as(x).sign()).double().mean().item()
        wrong = max(wrong, min(agree, 1 - agree))
    return Finding([exact("share of entries of the other sign", wrong, 0.0)], exact=True)


def lipschitz_bounds(tables: Tables) -> Finding:
    """D1: eq. 7 as printed is violated by chains of scalar softplus units; the sum over layers never is."""
    grid = torch.linspace(-10, 10, 2001, dtype=torch.float64)
    measures, notes = [], []
    for layers in (2, 3, 4):

        def chain(z: Tensor, layers: int = layers) -> Tensor:
            for _ in range(layers):
                z = F.softplus(z)
            return z

        largest = torch.func.vmap(torch.func.grad(torch.func.grad(chain)))(grid).abs().max().item()
        ratio = largest / 0.25**layers
        measures.append(exact(f"eq. 7, {layers} softplus units with weight 1: max |S''| over the bound", ratio, 1.0))
    over = _worst_over_corrected()
    notes.append(
        f"corrected, a sum over the layers: the Hessian's norm is at most {over:.2f} of the bound on {CHAINS} random "
        f"networks, {'no violation' if over <= 1 else 'VIOLATED'}"
    )
    return Finding(measures, notes=notes, exact=True)


def adversarial_training(tables: Tables) -> Finding:
    """D3: with lambda = 1 and s = sum, robust attribution regularization is adversarial training."""
    model, x, y = _smooth(3).requires_grad_(True), _images(2, 3, 8, 8), torch.tensor([1, 3])
    rule: dict[str, Any] = {"steps": 40, "inner_steps": 40, "rule": "gauss"}
    rar = robust_attribution_loss(model, x, y, size=_total, generator=_seeded(), **rule, **BALL)
    other = adversarial_loss(model, x, y, generator=_seeded(), **BALL)
    return _same_loss(model, rar, other, "for an exact path integral")


def one_layer(tables: Tables) -> Finding:
    """D4: for one layer the l1 norm and the sum have the same maximum over the ball, the soft margin loss."""
    model: Any = _network(4, lambda: [nn.Flatten(), nn.Linear(5, 2)])
    x, y = 0.3 + 0.4 * _images(6, 1, 1, 5), torch.tensor([0, 1, 0, 1, 1, 0])
    natural = F.cross_entropy(model(x), y, reduction="none")
    corners = torch.tensor(list(product([-0.2, 0.2], repeat=5)), dtype=torch.float64).view(-1, 1, 1, 1, 5)
    paths = [loss_attributions(model, x, x + corner, y, steps=40, rule="gauss").detach() for corner in corners]
    norm, whole = (torch.stack([natural + size(path) for path in paths]).amax(0) for size in (l1_norm, _total))
    weight = model[1].weight[1] - model[1].weight[0]
    margin = (model(x)[:, 1] - model(x)[:, 0]) * (2 * y - 1)
    closed = F.softplus(-margin + 0.2 * weight.abs().sum())
    measures = [
        exact("l1 norm and sum, over the corners of the ball", _off(norm, whole), LIMIT),
        exact("and the soft margin loss", _off(norm, closed), LIMIT),
    ]
    notes = ["two classes and a convex, non-decreasing loss"]
    return Finding(measures, notes=notes, exact=True)


def input_gradients(tables: Tables) -> Finding:
    """D5: the l1 norm with one step at the path's left end is input-gradient regularization."""
    model, x, y = _smooth(5).requires_grad_(True), 0.25 + 0.5 * _images(2, 3, 8, 8), torch.tensor([1, 3])
    ball = {"epsilon": 0.1, "step_size": 0.2, "iterations": 1}
    rar = ig_norm_loss(
        model, x, y, weight=0.3 / 0.1, steps=1, inner_steps=1, rule="left", generator=_seeded(), **ball
    )  # fmt: skip
    ross = input_gradient_loss(model, x, y, weight=0.3, q=1)
    return _same_loss(model, rar, ross, "at the path's left end, with q = 1 and the ball inside [0, 1]")


def _same_loss(model: nn.Module, one: Tensor, other: Tensor, assumption: str) -> Finding:
    gradients = [
        torch.cat([part.flatten() for part in torch.autograd.grad(value, list(model.parameters()))])
        for value in (one, other)
    ]
    measures = [
        exact("the two losses", _off(one.detach(), other.detach()), LIMIT),
        exact("their gradients", _off(*gradients), LIMIT),
    ]
    return Finding(measures, notes=[assumption], exact=True)


def _worst_over_corrected() -> float:
    """The largest ratio of the input Hessian's norm to the corrected bound, over random networks 6 - 5 - 4 - 1."""
    sizes = (6, 5, 4, 1)
    generator = _seeded()
    weights = [torch.randn(CHAINS, b, a, generator=generator, dtype=torch.float64) for a, b in pairwise(sizes)]
    x = torch.rand(CHAINS, sizes[0], generator=generator, dtype=torch.float64)

    def score(z: Tensor, first: Tensor, second: Tensor, last: Tensor) -> Tensor:
        hidden: Tensor = F.softplus(second @ F.softplus(first @ z))
        return (last @ hidden).squeeze(0)

    hessians = torch.func.vmap(torch.func.hessian(score))(x, *weights)
    norms = torch.stack([torch.linalg.matrix_norm(part, 2) for part in weights], 1)
    slopes, bends = (torch.tensor(part, dtype=torch.float64) for part in ([1.0, 1.0, 1.0], [0.25, 0.25, 0.0]))
    bounds = torch.stack([saliency_lipschitz_bound(row, slopes, bends) for row in norms])
    return float((torch.linalg.matrix_norm(hessians, 2) / bounds).max())


class _Function(nn.Module):
    """A function as a model."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = [function]  # in a list: what it calls is not a part of this model
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        (function,) = self.function
        return function(images)


def _network(seed: int, layers: Callable[[], list[nn.Module]]) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return nn.Sequential(*layers()).double().requires_grad_(False).eval()


def _smooth(seed: int) -> nn.Module:
    return _network(seed, lambda: [nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 36, 4)])


def _images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _score(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    scores: Tensor = model(x).gather(1, y[:, None]).squeeze(1)
    return scores.detach()


def _total(attributions: Tensor) -> Tensor:
    return attributions.flatten(1).sum(1)


def _off(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((a - b).detach().abs().max() / b.detach().abs().max())


def _lost(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return how much of a change made by one pixel that pixel is not given, beyond the Riemann error of 1 / M."""
    given = integrated_gradients(model, x, y, steps=1001)[..., 0].item()
    return max(0.0, abs(given - 1) - 1 / 1001)
