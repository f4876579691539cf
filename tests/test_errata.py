"""The errata lab's own functions, taken from the page and held against closed forms and other libraries."""

import ast
import itertools
import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pages
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from fragility.curvature import saliency_lipschitz_bound


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def lab() -> SimpleNamespace:
    """The functions that chapter 7 defines, with its imports and nothing else of it."""
    tree = ast.parse((pages.NOTEBOOKS / "07_errata.py").read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef))]
    names: dict[str, Any] = {"generator": torch.Generator().manual_seed(0)}
    exec(compile(tree, "07_errata.py", "exec"), names)  # noqa: S102
    return SimpleNamespace(**names)


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(draw(*shape, seed=seed), dim=0)


def test_1_the_gradients_map_of_a_neuron_stays_and_that_of_integrated_gradients_is_the_inputs(
    lab: SimpleNamespace,
) -> None:
    w, x = unit(100_000), unit(100_000, seed=1).abs()
    delta = 1e-3 * w.sign()
    (first, ig), (second, ig_after) = (
        lab.neuron_attributions(lambda z: torch.sigmoid(z + 1), w, point, steps=10) for point in (x, x + delta)
    )
    s = torch.sigmoid(w @ x + 1)
    torch.testing.assert_close(first, s * (1 - s) * w, rtol=1e-12, atol=0)
    assert 0.05 < (second - first).norm() / first.norm() < 0.2
    expected = w.abs() / w.abs().sum()
    for gradient in (first, second):
        torch.testing.assert_close(lab.normalised(gradient), expected, rtol=1e-12, atol=0)
    for point, part in ((x, ig), (x + delta, ig_after)):
        product = (w * point).abs()
        torch.testing.assert_close(lab.normalised(part), product / product.sum(), rtol=1e-11, atol=1e-20)
    rho = lab.rank_correlation(ig, ig_after)
    assert rho == pytest.approx(scipy.stats.spearmanr(ig, ig_after).statistic, abs=1e-12)


class Digits:
    """The lab's two digits, n of them to train on, and a fit by scikit-learn."""

    def __init__(self, lab: SimpleNamespace, n: int, l2: float) -> None:
        (X, y), (self.X_test, self.y_test) = map(lab.three_against_eight, ("train", "test"))
        self.X, self.y, self.l2 = X[:n], y[:n], l2
        self.theta = self.fit(torch.ones(n))

    def fit(self, weights: Tensor) -> Tensor:
        """Minimise sum_i weight_i L_i / n + l2/2 |theta|^2."""
        C = 1 / (self.l2 * len(self.y))
        model = LogisticRegression(C=C, fit_intercept=False, tol=1e-10, max_iter=200, solver="newton-cholesky")
        model.fit(self.X.numpy(), self.y.numpy(), sample_weight=weights.numpy())
        return torch.tensor(model.coef_[0])

    def losses(self, theta: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(self.X_test @ theta, self.y_test, reduction="none")

    def hessian(self) -> Tensor:
        def objective(theta: Tensor) -> Tensor:
            loss = F.binary_cross_entropy_with_logits(self.X @ theta, self.y)
            return loss + self.l2 / 2 * theta.square().sum()

        return torch.autograd.functional.hessian(objective, self.theta)


@pytest.fixture(scope="module")
def digits(lab: SimpleNamespace) -> Digits:
    return Digits(lab, 240, 0.01)


def solved(lab: SimpleNamespace, digits: Digits) -> tuple[Tensor, Tensor, Tensor]:
    """theta, the Hessian and H^-1 grad L(z_i), by the lab."""
    theta, hessian = lab.fit(digits.X, digits.y, digits.l2)
    gradients = (torch.sigmoid(digits.X @ theta) - digits.y)[:, None] * digits.X
    return theta, hessian, torch.linalg.solve(hessian, gradients.T)


def test_2_the_labs_fit_is_that_of_another_library(lab: SimpleNamespace, digits: Digits) -> None:
    theta, hessian, _ = solved(lab, digits)
    torch.testing.assert_close(theta, digits.theta, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(hessian, digits.hessian(), rtol=1e-8, atol=1e-11)


def test_2_more_weight_for_a_helpful_image_lowers_the_test_loss(lab: SimpleNamespace, digits: Digits) -> None:
    theta, _, columns = solved(lab, digits)
    helped = torch.stack(
        [lab.helpfulness(x, y, theta, columns) for x, y in zip(digits.X_test, digits.y_test, strict=True)]
    )
    for image in (3, 7):
        weights = 0.01 * torch.eye(len(digits.y))[image]
        more, less = (digits.losses(digits.fit(1 + sign * weights)) for sign in (1, -1))
        slope = (more - less) / 0.02 * len(digits.y)
        torch.testing.assert_close(slope, -helped[:, image], rtol=1e-3, atol=1e-6)


def test_2_the_printed_step_lowers_helpfulness_on_every_image(lab: SimpleNamespace, digits: Digits) -> None:
    theta, _, columns = solved(lab, digits)
    for x, y in zip(digits.X_test, digits.y_test, strict=True):
        top = lab.helpfulness(x, y, theta, columns).topk(3).indices

        def helped(x: Tensor, y: Tensor = y, top: Tensor = top) -> Tensor:
            return lab.helpfulness(x, y, theta, columns)[top].sum()

        stepped, opposite = (lab.sign_step(x, lambda x, s=sign: -s * helped(x), 1e-3) for sign in (1, -1))
        assert helped(stepped) < helped(x) < helped(opposite)
        assert stepped[-1] == x[-1]
        assert set((stepped - x)[:-1].abs().round(decimals=6).tolist()) <= {0.0, 1e-3}


def test_3_eq_5_lacks_a_term(lab: SimpleNamespace) -> None:
    w, x = unit(3072), unit(3072, seed=1).abs()
    true, printed, repaired = lab.jacobian_changes(F.softplus, w, x, 1e-3 * w.sign())
    assert 0.90 < (printed - true).norm() / true.norm() < 0.97
    assert (repaired - true).norm() / true.norm() < 0.03
    # The dense Jacobian of the loss's gradient, by automatic differentiation.
    w, x, delta = draw(6, seed=3), draw(6, seed=4), 1e-5 * draw(6, seed=5)
    dense = torch.func.jacrev(lambda x: torch.func.grad(lambda w: (9.0 - F.softplus(w @ x)).abs())(w))(x)
    true, _, repaired = lab.jacobian_changes(F.softplus, w, x, delta)
    torch.testing.assert_close(repaired, dense @ delta, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(true, dense @ delta, rtol=1e-3, atol=1e-9)


def test_4_parallel_needs_a_single_unit_and_not_equal_derivatives(lab: SimpleNamespace) -> None:
    softplus, exp = (F.softplus, torch.sigmoid, lambda z: torch.sigmoid(z) * torch.sigmoid(-z)), (torch.exp,) * 3
    for g, slope, curve in (softplus, exp):
        alone = lab.angle_to_fragile(g, draw(1), draw(1, 5, seed=1), draw(5, seed=2))
        W = torch.linalg.qr(draw(12, 8, seed=3))[0].T
        single = lab.angle_to_fragile(g, torch.eye(8)[2], W, draw(12, seed=4))
        assert max(alone, single) < 1e-5  # degrees: the arc cosine of 1 less a rounding error
        angles = []
        for seed in range(40):
            v, x = draw(8, seed=1000 + seed), draw(12, seed=2000 + seed)
            c = v * slope(W @ x)  # the gradient in the basis of the w_j
            k = (v * curve(W @ x)).abs().argmax()
            expected = math.degrees(math.acos(float(c[k].abs() / c.norm())))
            angles.append(expected)
            assert lab.angle_to_fragile(g, v, W, x) == pytest.approx(expected, abs=1e-4)
        assert 25 < np.median(angles) < 70


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_5_eq_7_fails_for_scalar_chains(lab: SimpleNamespace, layers: int) -> None:
    def curvature(x: float) -> float:
        """The second derivative of K nested softplus, log(K + e^x)."""
        return float(layers * np.exp(x) / (layers + np.exp(x)) ** 2)

    best = scipy.optimize.minimize_scalar(lambda x: -curvature(x), bounds=(-5, 5), method="bounded")
    found = lab.largest_curvature(layers, torch.tensor([-2.0, float(best.x), 3.0]))
    assert found == pytest.approx(-best.fun, rel=1e-9) == pytest.approx(0.25, rel=1e-9)
    assert lab.largest_curvature(layers, torch.tensor([0.3])) == pytest.approx(curvature(0.3), rel=1e-9)
    ones = torch.ones(layers)
    assert (found > 0.25**layers + 0.1) == (layers > 1)
    assert found <= saliency_lipschitz_bound(ones, ones, ones / 4) + 1e-9


def test_5_the_repaired_bound_holds_for_random_networks_and_the_printed_one_does_not(lab: SimpleNamespace) -> None:
    violated = 0
    for widths, scale in [([10, 8, 1], 2.0), ([10, 8, 8, 1], 1.0), *[([10, 8, 8, 8, 1], 0.5)] * 6]:
        score, norms = lab.random_network(widths, scale)
        points = 2 * draw(5, widths[0], seed=7)
        found, bound, printed = lab.curvature_and_bounds(score, norms, points)
        step = 1e-5 * torch.eye(widths[0])
        by_differences = torch.stack(
            [
                torch.stack([torch.func.grad(score)(x + d) - torch.func.grad(score)(x - d) for d in step]) / 2e-5
                for x in points
            ]
        )
        assert found == pytest.approx(np.linalg.svd(by_differences.numpy(), compute_uv=False).max(), rel=1e-6)
        assert found <= bound
        violated += int(found > printed)
    assert violated > 0


def test_6_the_one_layer_theorem_needs_a_convex_loss(lab: SimpleNamespace) -> None:
    def by_quadrature(g: Callable[[float], float], z: float, a: float) -> float:
        """The largest |IG|_1 in the ball, from the mean slope along the path."""

        def norm(s: float) -> float:
            slope = scipy.integrate.quad(lambda t: (g(z + t * s + 1e-6) - g(z + t * s - 1e-6)) / 2e-6, 0, 1)[0]
            return a * float(slope)

        best = scipy.optimize.minimize_scalar(lambda s: -norm(s), bounds=(-a, a), method="bounded")
        return max(-float(best.fun), norm(a))

    for g, torch_g, places, excess in (
        (lambda s: math.log1p(math.exp(s)), F.softplus, (-2.0, 0.0, 1.5), (0, 0, 0)),
        (lambda s: 1 / (1 + math.exp(-s)), torch.sigmoid, (-3.0, 0.0), (0, 0.183)),
    ):
        for z, expected in zip(places, excess, strict=True):
            norm, total = lab.norm_and_sum(torch_g, z, 2.4)
            assert norm == pytest.approx(by_quadrature(g, z, 2.4), abs=1e-5)
            assert total == pytest.approx(g(z + 2.4) - g(z), abs=1e-12)
            assert norm - total == pytest.approx(expected, abs=1e-3)


def test_6_the_one_layer_theorem_needs_two_classes(lab: SimpleNamespace) -> None:
    def by_gauss_legendre(W: Tensor, x: Tensor) -> float:
        delta = 0.5 * torch.tensor(list(itertools.product((-1.0, 1.0), repeat=6)))

        def loss(x: Tensor) -> Tensor:
            return torch.logsumexp(x @ W.T, -1) - x @ W[0]

        nodes, weights = np.polynomial.legendre.leggauss(20)
        slopes = [torch.func.vmap(torch.func.grad(loss))(x + (t + 1) / 2 * delta) for t in nodes]
        IG = delta * sum(float(w) / 2 * part for w, part in zip(weights, slopes, strict=True))
        torch.testing.assert_close(IG.sum(1), loss(x + delta) - loss(x), rtol=1e-9, atol=1e-11)  # completeness
        return float(IG.abs().sum(1).max() / IG.sum(1).max() - 1)

    for classes, low, high in ((2, -1e-9, 1e-9), (10, 0.01, 0.2)):
        cases = [(draw(classes, 6, seed=seed), draw(6, seed=seed + 500)) for seed in range(20)]
        largest = max(by_gauss_legendre(W, x) for W, x in cases)
        assert low <= largest <= high
        # The midpoint rule with 200 nodes is off by its second derivative over 24 * 200^2: below 1e-4 here.
        assert max(float(lab.softmax_excess(W, x, 0.5)) for W, x in cases) == pytest.approx(largest, abs=1e-4)


@pytest.mark.parametrize(("q", "p"), [(2.0, 2.0), (4.0, 4 / 3)])
def test_7_approximate_ig_is_the_gradient_penalty_on_the_dual_ball_at_the_left_end(
    lab: SimpleNamespace, q: float, p: float
) -> None:
    A, x, epsilon = draw(6, 4), draw(4, seed=1), 0.3

    def loss(x: Tensor) -> Tensor:
        return torch.logsumexp(torch.tanh(A @ x), 0)

    slopes = torch.func.grad(loss)(x).abs().numpy()
    # The maximum of sum delta_i g_i over |delta|_p <= epsilon, by SciPy's search over the positive orthant.
    found = scipy.optimize.minimize(
        lambda d: -np.sum(d * slopes),
        np.full(4, 0.5 * epsilon),
        bounds=[(1e-12, None)] * 4,
        constraints=[{"type": "ineq", "fun": lambda d: epsilon**p - np.sum(d**p)}],
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    left, right = lab.one_step_penalties(loss, x, torch.tensor(found.x)[None], q, epsilon)
    assert left == pytest.approx(1, rel=1e-5)
    assert abs(right - 1) > 0.01
    cube = epsilon * lab.corners(4)
    assert lab.one_step_penalties(loss, x, cube, 1, epsilon)[0] == pytest.approx(1, rel=1e-12)
    assert lab.one_step_penalties(loss, x, cube, q, epsilon)[0] > 1.05  # of another ball


def test_8_the_regularisers_gradient_shifts_all_influences_of_a_test_image_alike(
    lab: SimpleNamespace, digits: Digits
) -> None:
    theta, hessian, _ = solved(lab, digits)
    data = (digits.X, digits.y, digits.X_test, digits.y_test, theta, hessian)
    plain, decayed = lab.influences(*data), lab.influences(*data, decay=digits.l2)
    expected = torch.autograd.functional.jacobian(digits.losses, theta) @ torch.linalg.inv(hessian) @ theta * digits.l2
    torch.testing.assert_close(decayed - plain, (expected / len(digits.y))[:, None].expand_as(plain))
    flips = (plain.sign() != decayed.sign()).double().mean(1)
    assert 0.2 < flips.median() < 0.45


def test_8_leverage_is_what_the_slope_lacks_image_by_image(lab: SimpleNamespace) -> None:
    few, n = Digits(lab, 40, 1e-4), 40
    theta, hessian, columns = solved(lab, few)
    plain = lab.influences(few.X, few.y, few.X_test, few.y_test, theta, hessian)
    h, without = lab.leverages(few.X, theta, hessian), lab.retrained(few.X, few.y, few.l2)
    assert h.sum() == pytest.approx(float(len(theta) - few.l2 * torch.linalg.inv(hessian).trace()), rel=1e-9)
    # One whole Newton step of the problem without the image: its Hessian, inverted.
    p = torch.sigmoid(few.X @ theta)
    reduced = hessian - (p * (1 - p))[3] * torch.outer(few.X[3], few.X[3]) / n
    step = torch.linalg.solve(reduced, (p - few.y)[3] * few.X[3] / n)
    torch.testing.assert_close(columns[:, 3] / n / (1 - h[3]), step, rtol=1e-7, atol=1e-10)
    weights = torch.ones(n)
    weights[3] = 0
    torch.testing.assert_close(without[3], few.fit(weights), rtol=1e-6, atol=1e-7)
    test = (torch.sigmoid(few.X_test @ theta) - few.y_test)[:, None]
    true = test * (few.X_test @ (without - theta).T)
    slopes = {}
    for name, promised in {"plain": plain, "corrected": plain / (1 - h)}.items():
        r, slope = lab.agreement(promised, true)
        for row in (0, 30):
            line = scipy.stats.linregress(promised[row], true[row])
            assert (r[row], slope[row]) == pytest.approx((line.rvalue, line.slope), rel=1e-9)
        slopes[name] = float(slope.median())
    assert slopes["plain"] > 1.3
    assert abs(slopes["corrected"] - 1) < 0.2
