"""Rows of a table in place of images: the same as pictures one pixel high, whose numbers other tests have checked."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fragility.attack import annealed, iterative, random_sign, random_walk
from fragility.attribution import deeplift, importance, integrated_gradients, simple_gradient
from fragility.curvature import input_hvp, top_direction
from fragility.defense import smooth_gradient
from fragility.objective import mass_center, targeted, top_k
from fragility.similarity import spearman, top_k_intersection

METHODS: dict[str, Any] = {
    "simple_gradient": simple_gradient,
    "integrated_gradients": partial(integrated_gradients, baseline=0.2, steps=5, chunk=2),
    "convergence delta": partial(integrated_gradients, baseline=0.2, steps=5, return_convergence_delta=True),
    "deeplift": partial(deeplift, baseline=0.2),
    "SmoothGrad": partial(smooth_gradient, sigma=0.1, samples=8, seed=3),
    "Hessian": lambda model, x, labels: input_hvp(model, x, labels, x),
    "Hessian, forward": lambda model, x, labels: input_hvp(model, x, labels, x, mode="forward_over_reverse"),
    "direction": partial(top_direction, steps=7),
}


def network(activation: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 12), activation or nn.Softplus(), nn.Linear(12, 3)).double().eval()


def rows() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(4, 7, dtype=torch.float64, generator=generator), torch.arange(4) % 3


def both(function: Any, model: nn.Sequential) -> tuple[Any, Any]:
    """What a function says of a network and rows, and of the same network and pictures one pixel high."""
    x, labels = rows()
    return function(model, x, labels), function(nn.Sequential(nn.Flatten(), *model).eval(), x.view(4, 1, 1, 7), labels)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_computed_of_rows_is_that_of_pictures(method: str) -> None:
    for ours, pictures in zip(*both(METHODS[method], network()), strict=True):
        torch.testing.assert_close(ours, pictures.view_as(ours))


@pytest.mark.parametrize("method", ["simple_gradient", "integrated_gradients", "deeplift"])
@pytest.mark.parametrize("schedule", ["linear", "momentum", "adaptive"])
def test_an_attack_on_rows_is_that_on_pictures(method: str, schedule: str) -> None:
    model, (x, _) = network(nn.ReLU()), rows()
    options: dict[str, Any] = {**annealed(0.1, beta=10.0, iterations=12), "schedule": schedule}
    options |= {"epsilon": 0.1, "attribution": METHODS[method], "objective": top_k(2), "restarts": 1}
    found, pictures = both(lambda *a: iterative(*a, generator=torch.Generator().manual_seed(2), **options), model)
    torch.testing.assert_close(found.images, pictures.images.view(4, 7))
    torch.testing.assert_close(found.objective, pictures.objective)
    assert found.labels_kept.all()
    assert (model(found.images).argmax(1) == model(x).argmax(1)).all()
    assert (found.images - x).abs().max() <= 0.1


def test_random_steps_stay_in_the_ball() -> None:
    model, (x, labels) = network(), rows()
    assert (random_sign(x, 0.1) - x).abs().max() <= 0.1
    walk = random_walk(
        model, x, labels, attribution=simple_gradient, objective=top_k(2), epsilon=0.1, step_size=0.02, iterations=3
    )  # fmt: skip
    assert walk.images.shape == x.shape
    assert 0 < walk.distance.max() <= 0.1


def test_importance_is_drawn_into_a_column_and_compared_with_itself() -> None:
    model, (x, labels) = network(), rows()
    attributions = simple_gradient(model, x, labels)
    maps = importance(attributions)
    torch.testing.assert_close(maps, attributions.abs() / attributions.abs().sum(1, keepdim=True))
    assert spearman(maps, maps).tolist() == top_k_intersection(maps, maps, 3).tolist() == [1.0] * 4
    torch.testing.assert_close(targeted(torch.arange(7) == 2)(maps, maps), maps[:, 2])
    each = torch.eye(7, dtype=torch.bool)[:4]
    torch.testing.assert_close(targeted(each)(maps, maps), maps[range(4), range(4)])
    each[1] = False
    with pytest.raises(ValueError, match="region: expected a part"):
        targeted(each)(maps, maps)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x, y: mass_center()(x, x), r"maps: expected the shape \(B, H, W\) of the reference, got \(4, 7\)"),
        (lambda m, x, y: simple_gradient(m, 2 * x, y), r"columns scaled to lie in \[0, 1\], got values from"),
        (
            lambda m, x, y: simple_gradient(m, x.unsqueeze(2), y),
            r"expected shape \(B, C, H, W\), or \(B, d\) for rows of a table, got \(4, 7, 1\)",
        ),
        (
            lambda m, x, y: iterative(
                m, x, y, attribution=lambda m, x, y: m(x), objective=top_k(2), **annealed(0.1, 1.0), epsilon=0.1
            ),
            r"attribution: expected \(4, 7\), one for each column, got \(4, 3\)",
        ),
    ],
)
def test_what_needs_a_picture_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(network(), *rows())
