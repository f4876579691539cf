"""Solvers on matrices with a known solution, and on networks against dense autograd and the exact last layer."""

from functools import partial

import pytest
import torch
from scipy.sparse.linalg import cg
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fragility.influence.last_layer import LastLayerInfluence
from fragility.influence.whole_network import (
    Product,
    conjugate_gradient,
    direct,
    flat_parameters,
    lissa,
    network_influence,
    parameter_product,
)


@pytest.fixture
def system() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(20, 20, generator=generator, dtype=torch.float64)
    return root @ root.T / 20 + 0.1 * torch.eye(20).double(), torch.randn(70, 20, generator=generator).double()


def times(matrix: Tensor) -> Product:
    return lambda rows: rows @ matrix


@pytest.fixture
def network() -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Softplus(), nn.Flatten(), nn.Linear(8, 3)).double().eval()


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(30, 1, 4, 4, generator=generator, dtype=torch.float64)
    return images, torch.randint(3, (30,), generator=generator)


def last_layer_problem(l2: float = 0.1) -> tuple[LastLayerInfluence, nn.Module, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(45, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (45,), generator=generator)
    layer = LastLayerInfluence(features[:40], labels[:40], l2=l2, num_classes=3)
    model = nn.Linear(6, 3).double().eval()
    model.load_state_dict({"weight": layer.theta[:, :-1], "bias": layer.theta[:, -1]})
    return layer, model, features[40:], labels[40:]


@pytest.mark.parametrize("solve", [direct, conjugate_gradient, partial(conjugate_gradient, tolerance=1e-12)])
def test_solvers_solve(system, solve) -> None:  # type: ignore[no-untyped-def]
    matrix, rhs = system
    found = solve(times(matrix), rhs)
    assert found.converged
    assert (found.x - torch.linalg.solve(matrix, rhs.T).T).abs().max() < 1e-6
    assert torch.allclose(found.residual, (found.x @ matrix - rhs).norm(dim=1) / rhs.norm(dim=1))


def test_conjugate_gradients_take_the_steps_of_scipys(system) -> None:  # type: ignore[no-untyped-def]
    matrix, rhs = system
    theirs, _ = cg(matrix.numpy(), rhs[0].numpy(), rtol=0, atol=0, maxiter=7)
    mine = conjugate_gradient(times(matrix), rhs[:1], max_iterations=7, tolerance=1e-14)
    assert torch.allclose(mine.x[0], torch.from_numpy(theirs), rtol=1e-9)
    assert not mine.converged
    assert mine.iterations == 7


def test_an_indefinite_matrix_is_refused_by_conjugate_gradients_and_solved_directly(system) -> None:  # type: ignore[no-untyped-def]
    matrix, rhs = system
    bent = matrix - torch.eye(20).double()
    with pytest.raises(ValueError, match=r"positive definite matrix, found a .* curvature -.*raise the damping"):
        conjugate_gradient(times(bent), rhs)
    assert direct(times(bent), rhs).converged


def test_lissa_is_the_neumann_series_and_says_whether_it_converged(system) -> None:  # type: ignore[no-untyped-def]
    matrix, rhs = system
    top = float(torch.linalg.eigvalsh(matrix)[-1])
    by_hand, power = torch.zeros_like(rhs), rhs
    for _ in range(6):
        by_hand, power = by_hand + power / top, power - power @ matrix / top
    short = lissa(times(matrix), rhs, scale=top, iterations=5)
    assert torch.allclose(short.x, by_hand)
    assert not short.converged
    assert lissa(times(matrix), rhs, scale=top, iterations=400, tolerance=1e-3).converged
    with pytest.raises(ValueError, match="scale: the recursion diverges"):
        lissa(times(matrix), rhs, scale=top / 4, iterations=100)


def test_products_are_those_of_autograds_dense_hessian(network, data) -> None:  # type: ignore[no-untyped-def]
    images, labels = data
    names = [name for name, _ in network.named_parameters()]

    def loss(*parts: Tensor) -> Tensor:
        logits = torch.func.functional_call(network, dict(zip(names, parts, strict=True)), (images,))
        return cross_entropy(logits, labels) + 0.05 * sum(part.square().sum() for part in parts)

    blocks = torch.autograd.functional.hessian(loss, tuple(p.detach() for p in network.parameters()))
    sizes = [parameter.numel() for parameter in network.parameters()]
    rows = [torch.cat([block.reshape(size, -1) for block in row], 1) for size, row in zip(sizes, blocks, strict=True)]
    matrix = torch.cat(rows) + 0.2 * torch.eye(sum(sizes)).double()
    product = parameter_product(network, images, labels, l2=0.1, damping=0.2)
    vectors = torch.randn(70, sum(sizes), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert (product(vectors) - vectors @ matrix).abs().max() < 1e-12


def test_batches_are_unbiased_and_seeded(network, data) -> None:  # type: ignore[no-untyped-def]
    images, labels = data
    vector = torch.ones(1, len(flat_parameters(network)), dtype=torch.float64)

    def mean(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        product = parameter_product(network, images, labels, l2=0.1, batch_size=5, generator=generator)
        return torch.stack([product(vector) for _ in range(60)]).mean(0)

    exact = parameter_product(network, images, labels, l2=0.1)(vector)
    assert torch.equal(mean(0), mean(0))
    assert not torch.equal(mean(0), mean(1))
    assert (mean(0) - exact).norm() / exact.norm() < 0.2


@pytest.mark.parametrize(
    ("solve", "tolerance"),
    [
        (direct, 1e-10),
        (partial(conjugate_gradient, tolerance=1e-12), 1e-9),
        (partial(lissa, scale=1.5, iterations=300), 1e-8),
    ],
)
def test_on_a_last_layer_every_solver_agrees_with_the_exact_form(solve, tolerance: float) -> None:  # type: ignore[no-untyped-def]
    layer, model, test, test_labels = last_layer_problem()
    data = (layer.features, layer.labels, test, test_labels)
    mine, solution = network_influence(model, *data, l2=0.1, damping=0.0, solve=solve)
    exact = layer.influence(test, test_labels)
    assert solution.converged
    assert (mine - exact).abs().max() / exact.abs().max() < tolerance


def test_sampled_lissa_agrees_on_a_last_layer_to_a_few_percent() -> None:
    layer, model, test, test_labels = last_layer_problem(l2=1.0)
    data = (layer.features, layer.labels)
    generator = torch.Generator().manual_seed(0)
    sampled = parameter_product(model, *data, l2=1.0, batch_size=20, generator=generator)
    solve = partial(lissa, scale=2.0, iterations=20, repeats=10, sampled=sampled, tolerance=0.1)
    mine, solution = network_influence(model, *data, test, test_labels, l2=1.0, damping=0.0, solve=solve)
    exact = layer.influence(test, test_labels)
    assert solution.converged
    assert 1e-6 < (mine - exact).norm() / exact.norm() < 0.05


def test_influence_through_a_network_uses_the_gradients_of_single_losses(network, data) -> None:  # type: ignore[no-untyped-def]
    images, labels = data
    test, test_labels = images[:3] * 0.9, labels[:3]
    mine, _ = network_influence(network, images, labels, test, test_labels, l2=0.1, damping=2.0, solve=direct)
    matrix = parameter_product(network, images, labels, l2=0.1, damping=2.0)(
        torch.eye(len(flat_parameters(network))).double()
    )

    def gradient(image: Tensor, label: Tensor) -> Tensor:
        loss = cross_entropy(network(image.unsqueeze(0)), label.unsqueeze(0))
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(network.parameters()))])

    left = torch.stack([gradient(x, y) for x, y in zip(test, test_labels, strict=True)])
    right = torch.stack([gradient(x, y) for x, y in zip(images, labels, strict=True)])
    assert torch.allclose(mine, left @ torch.linalg.inv(matrix) @ right.T / 30, rtol=1e-10)


def test_bad_input_is_refused(network, data) -> None:  # type: ignore[no-untyped-def]
    images, labels = data
    with pytest.raises(ValueError, match="damping: expected"):
        parameter_product(network, images, labels, l2=0.1, damping=-1.0)
    with pytest.raises(ValueError, match="labels: expected shape"):
        parameter_product(network, images, labels[:3], l2=0.1)
    with pytest.raises(ValueError, match="tolerance: expected"):
        conjugate_gradient(lambda x: x, torch.ones(1, 2), tolerance=0.0)
    with pytest.raises(ValueError, match="scale: expected"):
        lissa(lambda x: x, torch.ones(1, 2), scale=0.0, iterations=3)
