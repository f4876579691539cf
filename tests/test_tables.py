"""Rows of a table in place of images: attributions against their formulas, attacks against finite differences."""

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

METHODS = {
    "simple_gradient": simple_gradient,
    "integrated_gradients": partial(integrated_gradients, baseline=0.2, steps=5),
    "deeplift": partial(deeplift, baseline=0.2),
}


def network(activation: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 12), activation or nn.Softplus(), nn.Linear(12, 3)).double().eval()


def rows(batch: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(batch, 7, dtype=torch.float64, generator=generator), torch.arange(batch) % 3


def slopes(model: nn.Sequential, x: Tensor, labels: Tensor) -> Tensor:
    """The gradient of W2 softplus(W1 x + b1), written down."""
    first, last = model[0], model[2]
    return (torch.sigmoid(x @ first.weight.T + first.bias) * last.weight[labels]) @ first.weight


def test_the_simple_gradient_is_its_formula() -> None:
    model, (x, labels) = network(), rows()
    found = simple_gradient(model, x, labels)
    torch.testing.assert_close(found, slopes(model, x, labels))
    maps = importance(found)
    torch.testing.assert_close(maps, found.abs() / found.abs().sum(1, keepdim=True))
    assert spearman(maps, maps).tolist() == [1.0] * 4
    assert top_k_intersection(maps, maps, 3).tolist() == [1.0] * 4


def test_integrated_gradients_are_their_sum() -> None:
    model, (x, labels) = network(), rows()
    points = [slopes(model, 0.2 + k / 5 * (x - 0.2), labels) for k in range(1, 6)]
    expected = (x - 0.2) * torch.stack(points).mean(0)
    for chunk in (1, 5):
        found = integrated_gradients(model, x, labels, baseline=0.2, steps=5, chunk=chunk)
        torch.testing.assert_close(found, expected)
    _, delta = integrated_gradients(model, x, labels, baseline=0.2, steps=5, return_convergence_delta=True)
    change = (model(x) - model(torch.full_like(x, 0.2))).gather(1, labels[:, None]).squeeze(1)
    torch.testing.assert_close(delta, expected.sum(1) - change)


def test_deeplift_is_its_secants() -> None:
    model, (x, labels) = network(nn.ReLU()), rows()
    z, z0 = (model[0](point) for point in (x, torch.full_like(x, 0.2)))
    secants = (z.relu() - z0.relu()) / (z - z0)
    expected = (x - 0.2) * ((secants * model[2].weight[labels]) @ model[0].weight)
    torch.testing.assert_close(deeplift(model, x, labels, baseline=0.2), expected)


@pytest.mark.parametrize("method", METHODS)
def test_the_first_step_of_an_attack_follows_finite_differences(method: str) -> None:
    model, (x, labels), objective = network(), rows(2), top_k(3)
    attribution = METHODS[method]
    reference = importance(attribution(model, x, labels))
    moved = iterative(
        model, x, labels, attribution=attribution, objective=objective, epsilon=0.05, step_size=1e-3, iterations=1
    )  # fmt: skip
    for j in range(7):
        step = torch.zeros_like(x)
        step[:, j] = 1e-5
        above, below = (
            objective(importance(attribution(model, point, labels)), reference) for point in (x + step, x - step)
        )
        assert ((moved.images - x)[:, j].sign() == (above - below).sign()).all()
    torch.testing.assert_close(moved.distance, torch.full((2,), 1e-3, dtype=torch.float64))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("schedule", ["linear", "adaptive"])
def test_an_attack_on_rows_is_that_on_pictures_one_pixel_high(method: str, schedule: str) -> None:
    model, (x, labels) = network(nn.ReLU()), rows()
    options: dict[str, Any] = {**annealed(0.1, beta=10.0, iterations=12), "schedule": schedule}
    options |= {"epsilon": 0.1, "attribution": METHODS[method], "objective": top_k(2), "restarts": 1}
    found, pictures = (
        iterative(network_, images, labels, generator=torch.Generator().manual_seed(2), **options)
        for network_, images in ((model, x), (nn.Sequential(nn.Flatten(), *model).eval(), x.view(4, 1, 1, 7)))
    )
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


def test_curvature_and_smoothing_are_their_formulas() -> None:
    model, (x, labels) = network(), rows()
    first, last = model[0].weight.detach(), model[2].weight.detach()
    slope = torch.sigmoid(model[0](x))
    bends = last[labels] * slope * (1 - slope)
    hessians = first.T @ (bends.detach().unsqueeze(2) * first)
    vectors = torch.rand(4, 7, dtype=torch.float64)
    for mode in ("double_backward", "forward_over_reverse"):
        found = input_hvp(model, x, labels, vectors, mode=mode)
        torch.testing.assert_close(found, (hessians @ vectors.unsqueeze(2)).squeeze(2))
    values, directions = top_direction(model, x, labels, steps=7)
    all_values = torch.linalg.eigvalsh(hessians)
    torch.testing.assert_close(values.abs(), all_values.abs().amax(1))
    torch.testing.assert_close((hessians @ directions.unsqueeze(2)).squeeze(2), values.unsqueeze(1) * directions)
    smooth = smooth_gradient(model, x, labels, sigma=0.1, samples=8, seed=3)
    noise = 0.1 * torch.randn(8, 1, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = torch.stack([slopes(model, x + each, labels) for each in noise]).mean(0)
    torch.testing.assert_close(smooth, expected)


def test_importance_is_drawn_into_a_column() -> None:
    model, (x, labels) = network(), rows()
    maps = importance(simple_gradient(model, x, labels))
    column = torch.arange(7) == 2
    torch.testing.assert_close(targeted(column)(maps, maps), maps[:, 2])
    each = torch.eye(7, dtype=torch.bool)[:4]
    torch.testing.assert_close(targeted(each)(maps, maps), maps[range(4), range(4)])
    each[1] = False
    with pytest.raises(ValueError, match="region: expected a part"):
        targeted(each)(maps, maps)


def test_what_needs_a_picture_is_refused() -> None:
    model, (x, labels) = network(), rows()
    maps = importance(simple_gradient(model, x, labels))
    with pytest.raises(ValueError, match=r"maps: expected the shape \(B, H, W\) of the reference, got \(4, 7\)"):
        mass_center()(maps, maps)
    with pytest.raises(ValueError, match=r"columns scaled to lie in \[0, 1\], got values from"):
        simple_gradient(model, 2 * x, labels)
    with pytest.raises(
        ValueError, match=r"expected shape \(B, C, H, W\), or \(B, d\) for rows of a table, got \(4, 7, 1\)"
    ):
        simple_gradient(model, x.unsqueeze(2), labels)
    with pytest.raises(ValueError, match=r"attribution: expected \(4, 7\), one for each column, got \(4, 3\)"):
        iterative(
            model, x, labels, attribution=lambda model, x, labels: model(x), objective=top_k(2), epsilon=0.1,
            step_size=0.1, iterations=1,
        )  # fmt: skip
