"""Solvers on matrices with a known solution, and on networks against dense autograd and the exact last layer."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from scipy.sparse.linalg import cg
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrizations, weight_norm

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
def test_solvers_solve(system, solve) -> None:
    matrix, rhs = system
    found = solve(times(matrix), rhs)
    assert found.converged
    assert (found.x - torch.linalg.solve(matrix, rhs.T).T).abs().max() < 1e-6
    assert torch.allclose(found.residual, (found.x @ matrix - rhs).norm(dim=1) / rhs.norm(dim=1))


def test_conjugate_gradients_take_the_steps_of_scipys(system) -> None:
    matrix, rhs = system
    theirs, _ = cg(matrix.numpy(), rhs[0].numpy(), rtol=0, atol=0, maxiter=7)
    ours = conjugate_gradient(times(matrix), rhs[:1], max_iterations=7, tolerance=1e-14)
    assert torch.allclose(ours.x[0], torch.from_numpy(theirs), rtol=1e-9)
    assert not ours.converged
    assert ours.iterations == 7


def test_an_indefinite_matrix_is_refused_by_conjugate_gradients_and_solved_directly(system) -> None:
    matrix, rhs = system
    bent = matrix - torch.eye(20).double()
    with pytest.raises(ValueError, match=r"positive definite matrix, found a .* curvature -.*raise the damping"):
        conjugate_gradient(times(bent), rhs)
    assert direct(times(bent), rhs).converged


def test_lissa_is_the_neumann_series_and_says_whether_it_converged(system) -> None:
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


class Tokens(nn.Module):
    """Rows of an image (B, 1, 4, 4) as tokens, mixed by a layer."""

    def __init__(self, mix: nn.Module) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Linear(4, 6), mix, nn.Linear(6, 3)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images.squeeze(1))
        mixed = self.mix(*[tokens] * (3 if isinstance(self.mix, nn.MultiheadAttention) else 1))
        return self.head((mixed if isinstance(mixed, Tensor) else mixed[0]).mean(1))


def stack(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "softplus": lambda: stack(nn.Softplus()),
    "max-pool": lambda: stack(nn.ReLU(), nn.MaxPool2d(2)),
    "batch norm": lambda: stack(nn.BatchNorm2d(4), nn.GELU()),
    "group norm": lambda: stack(nn.GroupNorm(2, 4), nn.SiLU()),
    "weight norm": lambda: stack(nn.Softplus(), parametrizations.weight_norm(nn.Conv2d(4, 4, 2))),
    "old weight norm": lambda: stack(nn.Softplus(), weight_norm(nn.Conv2d(4, 4, 2), dim=1)),
    "spectral norm": lambda: stack(nn.Softplus(), parametrizations.spectral_norm(nn.Conv2d(4, 4, 2))),
    "attention": lambda: Tokens(nn.MultiheadAttention(6, 2, batch_first=True)),
    "transformer": lambda: Tokens(nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)),
    "LSTM": lambda: Tokens(nn.LSTM(6, 6, batch_first=True)),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize("name", NETWORKS)
def test_products_and_influence_are_those_of_differences_and_single_losses(name: str, data) -> None:
    images, labels = data
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = NETWORKS[name]().double().eval()
    parameters, generator = list(model.parameters()), torch.Generator().manual_seed(0)
    point = flat_parameters(model)

    def gradients(at: Tensor) -> Tensor:
        """Of every image's own loss, (N, D)."""
        nn.utils.vector_to_parameters(at, parameters)
        losses = [cross_entropy(model(x.unsqueeze(0)), y.unsqueeze(0)) for x, y in zip(images, labels, strict=True)]
        rows = [torch.autograd.grad(loss, parameters) for loss in losses]
        return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])

    rows = torch.randn(3, len(point), generator=generator, dtype=torch.float64)
    changes = [(gradients(point + 1e-5 * row) - gradients(point - 1e-5 * row)).mean(0) / 2e-5 for row in rows]
    every = gradients(point)
    product = parameter_product(model, images, labels, l2=0.1, damping=0.2)
    expected = torch.stack(changes) + 0.3 * rows
    assert (product(rows) - expected).norm() < 1e-7 * expected.norm()

    ours, solution = network_influence(model, images, labels, images[:3], labels[:3], l2=0.1, damping=3.0)
    assert solution.converged
    assert torch.allclose(ours, solution.x @ every.T / 30, rtol=1e-9, atol=1e-12)
    solved = parameter_product(model, images, labels, l2=0.1, damping=3.0)(solution.x)
    assert torch.allclose(solved, every[:3], rtol=1e-6, atol=1e-8)


def test_batches_are_unbiased_and_seeded(network, data) -> None:
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
def test_on_a_last_layer_every_solver_agrees_with_the_exact_form(solve, tolerance: float) -> None:
    layer, model, test, test_labels = last_layer_problem()
    data = (layer.features, layer.labels, test, test_labels)
    ours, solution = network_influence(model, *data, l2=0.1, damping=0.0, solve=solve)
    exact = layer.influence(test, test_labels)
    assert solution.converged
    assert (ours - exact).abs().max() / exact.abs().max() < tolerance


def test_sampled_lissa_agrees_on_a_last_layer_to_a_few_percent() -> None:
    layer, model, test, test_labels = last_layer_problem(l2=1.0)
    data = (layer.features, layer.labels)
    generator = torch.Generator().manual_seed(0)
    sampled = parameter_product(model, *data, l2=1.0, batch_size=20, generator=generator)
    solve = partial(lissa, scale=2.0, iterations=20, repeats=10, sampled=sampled, tolerance=0.1)
    ours, solution = network_influence(model, *data, test, test_labels, l2=1.0, damping=0.0, solve=solve)
    exact = layer.influence(test, test_labels)
    assert solution.converged
    assert 1e-6 < (ours - exact).norm() / exact.norm() < 0.05


@pytest.mark.parametrize(("margin", "dtype"), [(2000.0, torch.float32), (50.0, torch.float32), (400.0, torch.float64)])
def test_influence_on_a_nearly_certain_prediction_is_small_and_right(margin: float, dtype: torch.dtype) -> None:
    model = nn.Linear(2, 2).to(dtype).eval()
    model.load_state_dict({"weight": torch.tensor([[1.0, 0.0], [0.0, 1.0]]), "bias": torch.zeros(2)})
    images, labels = torch.tensor([[0.5, 0.0], [0.0, 1.0], [1.0, 0.0]], dtype=dtype), torch.tensor([0, 1, 1])
    test = torch.tensor([[margin, 0.0]], dtype=dtype)
    ours, solution = network_influence(model, images, labels, test, torch.tensor([0]), l2=0.1, damping=0.2)
    # In u = theta_1 - theta_0 the test image's residual is e^-margin: the rest is a solve with numbers of size 1.
    x, t = (torch.nn.functional.pad(part.double(), (0, 1), value=1.0) for part in (images, test))
    p = torch.sigmoid(images[:, 1] - images[:, 0]).double()
    matrix = x.T @ ((p * (1 - p)).unsqueeze(1) * x) / 3 + 0.15 * torch.eye(3)
    expected = t @ torch.linalg.solve(matrix, x.T * (p - labels)) / 3
    assert solution.converged or dtype == torch.float32
    assert solution.residual.max() < 1e-5
    scale = torch.tensor(-margin).double().exp()
    assert torch.allclose(ours.double() / scale.clamp(min=1e-300), expected * (scale > 0), rtol=1e-4)


def test_an_input_that_the_network_overwrites_stays_as_it_is(network, data) -> None:
    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network

        def forward(self, images: Tensor) -> Tensor:
            return network(images.sub_(0.5))

    images, labels = data[0].clone(), data[1]
    ours, _ = network_influence(Centred().eval(), images, labels, images[:3], labels[:3], l2=0.1, damping=2.0)
    assert torch.equal(images, data[0])
    shifted = data[0] - 0.5
    plain, _ = network_influence(network, shifted, labels, shifted[:3], labels[:3], l2=0.1, damping=2.0)
    assert torch.allclose(ours, plain)


def quantised(network: nn.Module) -> nn.Module:
    whole = nn.Sequential(*network, nn.Linear(3, 3)).float()
    return torch.ao.quantization.quantize_dynamic(whole.eval(), {nn.Linear})


def single_logit(network: nn.Module) -> nn.Module:
    return nn.Sequential(network, nn.Linear(3, 1)).double().eval()


class CentredByTheBatch(nn.Sequential):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images - images.mean(0))


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"damping": -1.0}, "damping: expected"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "labels: expected shape"),
        ({"labels": torch.full((30,), -100)}, r"labels: expected classes in \[0, 3\), got values from -100"),
        ({"test_labels": torch.tensor([3])}, r"test_labels: expected classes in \[0, 3\)"),
        ({"test_images": torch.rand(0, 1, 4, 4)}, "test_images: expected at least one"),
        ({"test_images": torch.full((1, 1, 4, 4), torch.nan).double()}, r"test_images: expected finite .* \[0\]"),
        ({"model": single_logit}, r"a logit per class, got one in all; return torch\.cat\(\[-z / 2, z / 2\], 1\)"),
        ({"model": lambda _: nn.Flatten().eval()}, "model: expected parameters, got none"),
        ({"model": quantised}, "model: its part '3' .Linear. has quantised weights"),
        ({"model": lambda net: net.train()}, "model: expected evaluation mode"),
        ({"model": lambda net: CentredByTheBatch(net).eval()}, "model: expected logits that depend on one image each"),
        ({"model": lambda net: nn.Sequential(net, nn.Hardsigmoid()).eval()}, "model: expected .* differentiate twice"),
        ({"model": lambda net: nn.DataParallel(net).eval()}, "model: expected the module itself, .* got DataParallel"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_input_is_refused(network, data, change, message: str) -> None:
    images, labels = data
    arguments = {"model": network, "images": images, "labels": labels, "l2": 0.1, "damping": 1.0}
    arguments |= {"test_images": images[:1], "test_labels": labels[:1]} | change
    if "model" in change:
        arguments["model"] = change["model"](network)
    with pytest.raises(ValueError, match=message):
        network_influence(**arguments)


def test_inference_mode_is_named(network, data) -> None:
    with torch.inference_mode(), pytest.raises(ValueError, match=r"got torch\.inference_mode\(\)"):
        network_influence(network, *data, data[0][:1], data[1][:1], l2=0.1, damping=1.0)


def test_bad_settings_of_solvers_are_refused() -> None:
    with pytest.raises(ValueError, match="tolerance: expected"):
        conjugate_gradient(lambda x: x, torch.ones(1, 2), tolerance=0.0)
    with pytest.raises(ValueError, match="scale: expected"):
        lissa(lambda x: x, torch.ones(1, 2), scale=0.0, iterations=3)
    with pytest.raises(ValueError, match=r"of 2,000,000 unknowns would need 64\.00 TB .* conjugate_gradient"):
        direct(lambda x: x, torch.ones(1, 2_000_000))
