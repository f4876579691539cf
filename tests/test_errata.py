"""The errata, each with an oracle: what is printed fails by the number the page says, what is corrected holds."""

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from fragility.curvature import saliency_lipschitz_bound


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_1_a_neurons_normalised_map_does_not_move() -> None:
    w, x = F.normalize(draw(100_000), dim=0), F.normalize(draw(100_000, seed=1).abs(), dim=0)

    def gradient(x: Tensor) -> Tensor:
        return torch.func.grad(lambda x: torch.sigmoid(w @ x + 1))(x)

    def normalised(g: Tensor) -> Tensor:
        return g.abs() / g.abs().sum()

    before, after = gradient(x), gradient(x + 1e-3 * w.sign())
    assert (after - before).norm() / before.norm() > 0.05
    assert (normalised(after) - normalised(before)).abs().max() < 1e-17
    # The closed form, which does not depend on x.
    torch.testing.assert_close(normalised(after), w.abs() / w.abs().sum(), rtol=1e-12, atol=0)
    # Two units do move the map, except along the solution of the exercise.
    w1, w2 = torch.linalg.qr(draw(20, 2))[0].T
    point = draw(20, seed=2)

    def two(x: Tensor) -> Tensor:
        return normalised(torch.exp(w1 @ x) * w1 + torch.exp(w2 @ x) * w2)

    assert (two(point + 0.1 * (w1 + w2)) - two(point)).abs().sum() < 1e-14
    assert (two(point + 0.1 * (w1 - w2)) - two(point)).abs().sum() > 1e-2


class Logistic:
    """Logistic regression on the 64 pixels of the digits 3 and 8, fitted by scikit-learn, n of them."""

    def __init__(self, n: int, l2: float) -> None:
        bunch = load_digits()
        rows = np.isin(bunch.target, (3, 8))
        pixels, self.l2 = np.hstack([bunch.data[rows] / 16, np.ones((rows.sum(), 1))]), l2
        labels = (bunch.target[rows] == 8).astype(float)
        order = np.random.default_rng(0).permutation(len(labels))
        self.X, self.y = torch.tensor(pixels[order[:n]]), torch.tensor(labels[order[:n]])
        self.X_test, self.y_test = torch.tensor(pixels[order[-60:]]), torch.tensor(labels[order[-60:]])
        self.theta = self.fit(np.ones(n))

    def fit(self, weights: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> Tensor:
        """Minimise sum_i weight_i L_i / n + l2/2 |theta|^2."""
        model = LogisticRegression(C=1 / (self.l2 * len(self.y)), fit_intercept=False, tol=1e-12, max_iter=20_000)
        model.fit(self.X.numpy(), self.y.numpy(), sample_weight=weights)
        return torch.tensor(model.coef_[0])

    def loss(self, theta: Tensor, X: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(X @ theta, y, reduction="none")

    def hessian(self) -> Tensor:
        def objective(theta: Tensor) -> Tensor:
            return self.loss(theta, self.X, self.y).mean() + self.l2 / 2 * theta.square().sum()

        matrix: Tensor = torch.autograd.functional.hessian(objective, self.theta)
        return matrix

    def gradients(self, X: Tensor, y: Tensor) -> Tensor:
        jacobian: Tensor = torch.autograd.functional.jacobian(lambda theta: self.loss(theta, X, y), self.theta)
        return jacobian


def test_2_eq_2_raises_what_eq_1_calls_influence_and_splits_into_confidence_and_similarity() -> None:
    model = Logistic(280, 0.01)
    solved = torch.linalg.solve(model.hessian(), model.gradients(model.X, model.y).T)

    def eq_1(x: Tensor, y: Tensor) -> Tensor:
        return -model.gradients(x[None], y[None])[0] @ solved

    checked = 0
    for x, y in zip(model.X_test, model.y_test, strict=True):
        before = eq_1(x, y)
        top = before.topk(3).indices
        pixels = x.clone().requires_grad_()
        residual = torch.sigmoid(pixels @ model.theta) - y
        by_hand = -residual * (pixels @ solved)  # (p - y) phi^T u: the product of the two factors
        torch.testing.assert_close(by_hand, before, rtol=1e-9, atol=1e-12)
        (gradient,) = torch.autograd.grad(by_hand[top].sum(), pixels)
        step = 1e-3 * gradient.sign()
        assert eq_1(x + step, y)[top].sum() > before[top].sum() > eq_1(x - step, y)[top].sum()
        # Confidence alone: the same ranking at any residual of the same sign, and zero in the limit.
        scaled = before / residual.detach()
        orders = [scipy.stats.spearmanr(before, r * residual.detach().sign() * scaled).statistic for r in (0.5, 1e-6)]
        assert min(orders) > 1 - 1e-12
        checked += 1
    assert checked == 60


def test_3_eq_5_lacks_a_term() -> None:
    w, x = F.normalize(draw(3072), dim=0), F.normalize(draw(3072, seed=1).abs(), dim=0)
    delta = 1e-3 * w.sign()

    def J(x: Tensor) -> Tensor:
        return torch.func.grad(lambda w: (2.0 - F.softplus(w @ x)).abs())(w)

    true = J(x + delta) - J(x)
    s = torch.sigmoid(w @ x)
    printed = -x * s * (1 - s) * (w @ delta)
    assert 0.90 < (printed - true).norm() / true.norm() < 0.97
    assert (printed - s * delta - true).norm() / true.norm() < 0.03
    # The corrected Jacobian is the one of automatic differentiation.
    small_w, small_x = draw(6, seed=3), draw(6, seed=4)
    dense = torch.func.jacrev(lambda x: torch.func.grad(lambda w: (9.0 - F.softplus(w @ x)).abs())(small_w))(small_x)
    s = torch.sigmoid(small_w @ small_x)
    expected = -(s * (1 - s) * torch.outer(small_x, small_w) + s * torch.eye(6))
    torch.testing.assert_close(dense, expected, rtol=1e-12, atol=1e-14)


def test_4_the_exponential_is_not_parallel_and_the_printed_normaliser_is_none() -> None:
    angles = []
    for seed in range(200):
        weights, v, z = torch.linalg.qr(draw(12, 8, seed=seed))[0], draw(8, seed=1000 + seed), draw(8, seed=2000 + seed)
        x = weights @ z
        score = lambda x, weights=weights, v=v: torch.exp(x @ weights) @ v  # noqa: E731
        gradient, hessian = torch.func.grad(score)(x), torch.func.hessian(score)(x)
        values, vectors = torch.linalg.eigh(hessian)
        top = vectors[:, values.abs().argmax()]
        k = (v * z.exp()).abs().argmax()
        assert (top @ weights[:, k]).abs() > 1 - 1e-9
        angles.append(math.degrees(math.acos(min(1.0, float((gradient @ top).abs() / gradient.norm())))))
        c = v * z.exp()
        torch.testing.assert_close(gradient / c.square().sum().sqrt(), gradient / gradient.norm())
    assert 30 < np.median(angles) < 45
    assert np.quantile(angles, 0.9) < 80  # not parallel is not orthogonal
    assert abs(float((gradient / c.sum().square()).norm()) - 1) > 0.1


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_5_eq_7_fails_for_scalar_chains(layers: int) -> None:
    def score(x: float) -> float:
        """Nested softplus in closed form."""
        return float(np.log(layers + np.exp(x)))

    nested = 0.7
    for _ in range(layers):
        nested = float(np.log1p(np.exp(nested)))
    assert nested == pytest.approx(score(0.7), rel=1e-14)

    def curvature(x: float) -> float:
        return float(layers * np.exp(x) / (layers + np.exp(x)) ** 2)

    step = 1e-4
    for x in (-2.0, 0.3, 3.0):
        by_differences = (score(x + step) - 2 * score(x) + score(x - step)) / step**2
        assert curvature(x) == pytest.approx(by_differences, abs=1e-6)
    top = -scipy.optimize.minimize_scalar(lambda x: -curvature(x), bounds=(-5, 5), method="bounded").fun
    assert top == pytest.approx(0.25, abs=1e-9)
    ones = torch.ones(layers)
    printed, corrected = 0.25**layers, saliency_lipschitz_bound(ones, ones, ones / 4)
    assert (top > printed + 0.1) == (layers > 1)
    assert top <= corrected + 1e-9


def test_5_a_linear_output_makes_eq_7_zero_and_the_corrected_bound_holds_for_a_trained_network() -> None:
    bunch = load_digits()
    X, y = torch.tensor(bunch.data / 16), torch.tensor(bunch.target)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        layers = [torch.nn.Linear(a, b) for a, b in itertools.pairwise((64, 24, 16, 10))]
    optimizer = torch.optim.Adam([p for layer in layers for p in layer.parameters()], lr=1e-2)

    def logits(x: Tensor) -> Tensor:
        for layer in layers[:-1]:
            x = F.softplus(layer(x))
        return layers[-1](x)  # type: ignore[no-any-return]

    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(logits(X), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert (logits(X).argmax(1) == y).double().mean() > 0.95
    norms = torch.stack([torch.linalg.matrix_norm(layer.weight.detach(), 2) for layer in layers])
    bends = torch.tensor([0.25, 0.25, 0.0])
    for label in range(10):
        norms[-1] = layers[-1].weight[label].norm()
        bound = saliency_lipschitz_bound(norms, torch.ones(3), bends)
        hessians = torch.func.vmap(torch.func.hessian(lambda x, label=label: logits(x)[label]))(X[:20])
        found = torch.linalg.matrix_norm(hessians, 2).max()
        assert (norms.square() * bends).prod() == 0 < found <= bound


def secants(g: Callable[[float], float], z: float, a: float) -> tuple[float, float]:
    """max |IG|_1 and max sum IG in the ball, two classes, one layer, by SciPy's quadrature and search."""

    def norm(s: float) -> float:
        mean_slope = scipy.integrate.quad(
            lambda t: (g(z + t * s + 1e-6) - g(z + t * s - 1e-6)) / 2e-6, 0, 1, epsabs=1e-10
        )[0]
        return a * float(mean_slope)

    best = scipy.optimize.minimize_scalar(lambda s: -norm(s), bounds=(-a, a), method="bounded")
    return max(-float(best.fun), norm(a)), g(z + a) - g(z)


def test_6_the_one_layer_theorem_needs_a_convex_loss() -> None:
    for z in (-2.0, 0.0, 1.5):
        norm, total = secants(lambda s: float(np.log1p(np.exp(s))), z, 2.4)
        assert norm == pytest.approx(total, abs=1e-6)
    norm, total = secants(lambda s: float(1 / (1 + np.exp(-s))), 0.0, 2.4)
    assert norm == pytest.approx(2.4 / 4, abs=1e-6)  # the slope at 0
    assert norm - total == pytest.approx(0.183, abs=1e-3)
    norm, total = secants(lambda s: float(1 / (1 + np.exp(-s))), -3.0, 2.4)  # all of it in the convex half
    assert norm == pytest.approx(total, abs=1e-6)


def test_6_the_one_layer_theorem_needs_two_classes() -> None:
    corners = 0.5 * torch.tensor(list(itertools.product((-1.0, 1.0), repeat=6)))

    def excess(classes: int, seed: int) -> float:
        W, x = draw(classes, 6, seed=seed), draw(6, seed=seed + 500)

        def loss(x: Tensor) -> Tensor:
            return torch.logsumexp(x @ W.T, -1) - x @ W[0]

        def gradient(t: float) -> Tensor:
            return torch.func.vmap(torch.func.grad(loss))(x + t * corners)

        nodes, weights = np.polynomial.legendre.leggauss(20)
        IG = corners * sum(
            w / 2 * gradient(float(t + 1) / 2) for t, w in zip(nodes, torch.tensor(weights), strict=True)
        )
        torch.testing.assert_close(IG.sum(1), loss(x + corners) - loss(x), rtol=1e-9, atol=1e-11)  # completeness
        return float(IG.abs().sum(1).max() / IG.sum(1).max() - 1)

    assert max(excess(2, seed) for seed in range(40)) < 1e-9
    assert max(excess(10, seed) for seed in range(40)) > 0.02


@pytest.mark.parametrize(("q", "p"), [(1.0, math.inf), (2.0, 2.0), (4.0, 4 / 3)])
def test_7_approximate_ig_gives_the_gradient_penalty_on_the_dual_ball_at_the_left_end(q: float, p: float) -> None:
    A, x, epsilon = draw(6, 4), draw(4, seed=1), 0.3

    def loss(x: Tensor) -> Tensor:
        return torch.logsumexp(torch.tanh(A @ x), 0)

    at_x = torch.func.grad(loss)(x).numpy()
    # The maximum of sum |delta_i g_i| over |delta|_p <= epsilon, numerically over the positive orthant.
    if math.isinf(p):
        left = epsilon * np.abs(at_x).sum()
    else:
        constraint = {"type": "ineq", "fun": lambda d: epsilon**p - np.sum(np.abs(d) ** p)}
        start = np.full(4, 0.5 * epsilon)
        found = scipy.optimize.minimize(
            lambda d: -np.sum(d * np.abs(at_x)),
            start,
            bounds=[(1e-12, None)] * 4,
            constraints=[constraint],
            method="SLSQP",
            options={"ftol": 1e-15, "maxiter": 1000},
        )
        left = -found.fun
    promised = np.sum(np.abs(at_x) ** q)
    assert left**q / epsilon**q == pytest.approx(promised, rel=1e-5)
    # Another ball does not give it, nor does the right end, whose gradient is another.
    if q == 2:
        assert np.abs(at_x).sum() ** 2 > 1.05 * promised
    corner = epsilon * torch.tensor(list(itertools.product((-1.0, 1.0), repeat=4)))
    right = (corner * torch.func.vmap(torch.func.grad(loss))(x + corner)).abs().sum(1).max()
    assert abs(float(right) / (epsilon * np.abs(at_x).sum()) - 1) > 0.01


def test_8_the_regularisers_gradient_shifts_all_influences_of_a_test_image_alike() -> None:
    model = Logistic(280, 0.01)
    test, inverse = model.gradients(model.X_test, model.y_test), torch.linalg.inv(model.hessian())
    train = model.gradients(model.X, model.y)
    assert (train.mean(0) + model.l2 * model.theta).abs().max() < 1e-6  # the optimum
    plain, regularised = test @ inverse @ train.T, test @ inverse @ (train + model.l2 * model.theta).T
    shift = regularised - plain
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift), rtol=1e-6, atol=1e-12)
    for row, other in zip(plain, regularised, strict=True):
        assert scipy.stats.spearmanr(row, other).statistic > 1 - 1e-9
    assert (plain.sign() != regularised.sign()).double().mean() > 0.1


def test_8_leverage_is_what_the_slope_lacks() -> None:
    model = Logistic(40, 1e-4)
    n, inverse = 40, torch.linalg.inv(model.hessian())
    predicted = model.gradients(model.X, model.y) @ inverse / n
    p = torch.sigmoid(model.X @ model.theta)
    leverage = p * (1 - p) * ((model.X @ inverse) * model.X).sum(1) / n
    assert leverage.sum() == pytest.approx(float(65 - model.l2 * inverse.trace()), rel=1e-6)
    retrained = []
    for index in range(n):
        weights = np.ones(n)
        weights[index] = 0
        retrained.append(model.fit(weights) - model.theta)
    moved = model.gradients(model.X_test, model.y_test) @ torch.stack(retrained).T
    slopes = {}
    for name, guess in {"plain": predicted, "corrected": predicted / (1 - leverage)[:, None]}.items():
        u = (model.gradients(model.X_test, model.y_test) @ guess.T).flatten()
        slopes[name] = float(u @ moved.flatten() / u.square().sum())
        assert torch.corrcoef(torch.stack([u, moved.flatten()]))[0, 1] > 0.7
    assert slopes["plain"] > 1.3
    assert abs(slopes["corrected"] - 1) < 0.25
    # One whole Newton step of the problem without the image, for one of them.
    index = 3
    without = model.hessian() - (p * (1 - p))[index] * torch.outer(model.X[index], model.X[index]) / n
    step = torch.linalg.solve(without, model.gradients(model.X, model.y)[index] / n)
    torch.testing.assert_close(step, (predicted / (1 - leverage)[:, None])[index], rtol=1e-6, atol=1e-9)
