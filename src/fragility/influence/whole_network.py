"""Influence for whole networks: H^-1 v by iterations that only need Hessian-vector products [Koh2017, sec. 3].

H is the Hessian of (1/n) sum_i CE(f(x_i), y_i) + l2/2 |theta|^2 with respect to all parameters. Away from a minimum it
need not be positive definite, so the damping is explicit: we invert H + damping I, and a solver that does not converge
says so.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from fragility._alone import check_alone
from fragility._call import logits_of
from fragility._checks import check_count, check_gradients, check_labels, check_model, check_positive
from fragility.influence.logistic import check_memory, cross_entropies

Product = Callable[[Tensor], Tensor]
"""Rows (M, D) to their products with a symmetric matrix (M, D)."""

CHUNK = 64  # how many rows are multiplied at once


@dataclass(frozen=True, eq=False)
class Solution:
    """What a solver found.

    Attributes:
        x: (M, D).
        residual: (M,), |A x - b| / |b| of each row, computed from x; |A x| where b is zero.
        iterations: how many products each row took.
        converged: whether every residual is within the tolerance.
    """

    x: Tensor
    residual: Tensor
    iterations: int
    converged: bool


Solver = Callable[[Product, Tensor], Solution]


def direct(product: Product, rhs: Tensor, *, tolerance: float = 1e-8) -> Solution:
    """Solve A x = b by building A: for small networks, and to judge the other solvers by.

    Args:
        product: multiplication by A.
        rhs: b, (M, D).
        tolerance: largest relative residual that counts as solved.

    Returns:
        The solution; D products.

    Raises:
        ValueError: if the machine cannot hold A.
    """
    advice = "expected conjugate_gradient or lissa, which only multiply by it"
    check_memory(rhs.shape[1], 4, rhs, advice)
    rows = torch.eye(rhs.shape[1]).to(rhs)
    matrix = torch.cat([product(part) for part in torch.split(rows, CHUNK)])
    x = torch.linalg.solve((matrix + matrix.T) / 2, rhs.T).T
    return _solution(product, x, rhs, rhs.shape[1], tolerance)


def conjugate_gradient(
    product: Product, rhs: Tensor, *, tolerance: float = 1e-8, max_iterations: int | None = None
) -> Solution:
    """Solve A x = b for positive definite A by conjugate gradients, all rows of b at a time [Martens2010].

    Args:
        product: multiplication by A.
        rhs: b, (M, D).
        tolerance: relative residual at which a row is solved.
        max_iterations: None for 10 D.

    Returns:
        The solution, converged or not.

    Raises:
        ValueError: if A is found not to be positive definite.
    """
    check_positive("tolerance", tolerance)
    x, r = torch.zeros_like(rhs), rhs.clone()
    p, rr = r, r.square().sum(1)
    goal = tolerance**2 * rr
    iterations, most = 0, max_iterations or 10 * rhs.shape[1]
    while iterations < most and (rr > goal).any():
        iterations += 1
        ap = product(p)
        curvature = (p * ap).sum(1)
        active = rr > goal
        if (curvature[active] <= 0).any():
            worst = float((curvature / p.square().sum(1))[active].min())
            raise ValueError(
                f"product: expected a positive definite matrix, found a direction of curvature {worst:.3g}; "
                "the parameters are not at a minimum, raise the damping above that"
            )
        alpha = torch.where(active, rr / curvature, 0.0).unsqueeze(1)
        x, r = x + alpha * p, r - alpha * ap
        last, rr = rr, r.square().sum(1)
        p = r + torch.where(rr > goal, rr / last, 0.0).unsqueeze(1) * p
    return _solution(product, x, rhs, iterations, 2 * tolerance)


def lissa(
    product: Product,
    rhs: Tensor,
    *,
    scale: float,
    iterations: int,
    repeats: int = 1,
    sampled: Product | None = None,
    tolerance: float = 1e-2,
) -> Solution:
    """Solve A x = b by LiSSA: h <- b + (I - A_j / scale) h with a fresh sample A_j each time, x = h / scale.

    From [Agarwal2017], as used in [Koh2017]. Without sampling it is the Neumann series, whose error shrinks by
    1 - lambda_min / scale in every iteration.

    Args:
        product: multiplication by A, for the residual.
        rhs: b, (M, D).
        scale: more than half the largest eigenvalue of every A_j; the closer to that, the faster.
        iterations: length of the recursion.
        repeats: how many independent recursions are averaged.
        sampled: multiplication by a fresh random A_j at each call, unbiased for A; None for A itself.
        tolerance: largest relative residual that counts as solved.

    Returns:
        The solution, converged or not.

    Raises:
        ValueError: if the recursion diverges.
    """
    check_positive("scale", scale)
    check_count("iterations", iterations)
    check_count("repeats", repeats)
    total = torch.zeros_like(rhs)
    for _ in range(repeats):
        h = rhs
        for _ in range(iterations):
            h = rhs + h - (sampled or product)(h) / scale
        if not h.isfinite().all() or h.norm() > 1e6 * iterations * rhs.norm():
            raise ValueError(
                f"scale: the recursion diverges; expected more than half the largest eigenvalue, got {scale}"
            )
        total += h / scale
    return _solution(product, total / repeats, rhs, iterations * repeats, tolerance)


def parameter_product(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    l2: float,
    damping: float = 0.0,
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
) -> Product:
    """Return multiplication by the Hessian of a network's loss in its parameters, plus damping [Pearlmutter1994].

    Args:
        model: inputs to logits (B, K), in evaluation mode.
        images: inputs (N, ...).
        labels: int64 (N,).
        l2: strength of the penalty in the loss.
        damping: added to the Hessian's diagonal.
        batch_size: take a fresh random batch at every call, for LiSSA; None for all inputs.
        generator: source of randomness for the batches; None for PyTorch's own.

    Returns:
        Rows (M, D), parameters flattened in the order of `model.parameters()`, to rows.

    Raises:
        ValueError: if the damping is negative or not finite, the model gives fewer than two logits, a label is not one
            of its classes, or PyTorch lacks a second derivative that the model needs.
    """
    _check_data(model, images, labels)
    if not 0 <= damping < float("inf"):
        raise ValueError(f"damping: expected a finite number >= 0, got {damping}")
    point = flat_parameters(model).requires_grad_()

    def multiply(rows: Tensor) -> Tensor:
        x, y = images, labels
        if batch_size is not None:
            chosen = torch.randint(len(images), (batch_size,), generator=generator)
            x, y = images[chosen], labels[chosen]
        with _second_derivatives():
            loss = _losses(model, point, x, y).mean() + l2 / 2 * point.square().sum()
            (slope,) = torch.autograd.grad(loss, point, create_graph=True)
            return _times_jacobian(slope, point, rows) + damping * rows

    return multiply


def network_influence(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    test_images: Tensor,
    test_labels: Tensor,
    *,
    l2: float,
    damping: float,
    solve: Solver = conjugate_gradient,
) -> tuple[Tensor, Solution]:
    """Return the influence through all parameters of a network: g_t^T (H + damping I)^-1 g_i / n [Koh2017].

    Args:
        model: inputs to logits (B, K), in evaluation mode, at a minimum of the loss or near one.
        images: training inputs (N, ...), of the parameters' dtype.
        labels: int64 (N,).
        test_images: (T, ...).
        test_labels: int64 (T,).
        l2: strength of the penalty in the training loss.
        damping: added to the Hessian's diagonal.
        solve: `direct`, `conjugate_gradient` or `lissa`, options set by `functools.partial`.

    Returns:
        Influence (T, N), positive where the training image helps, and the solution behind it.

    Raises:
        ValueError: as `parameter_product`, or if the gradient of a test image is not finite.
    """
    product = parameter_product(model, images, labels, l2=l2, damping=damping)
    _check_data(model, test_images, test_labels, "test_")
    point = flat_parameters(model).requires_grad_()
    with _second_derivatives():
        every = torch.eye(len(test_images)).to(point)
        gradients = _times_jacobian(_losses(model, point, test_images, test_labels), point, every)
        if not gradients.isfinite().all():
            bad = (~gradients.isfinite().all(1)).nonzero().flatten().tolist()
            raise ValueError(f"test_images: expected finite gradients, got others for the images {bad}")
        # Gradients of nearly certain predictions are so small that their squares underflow: solve for rows of size 1.
        size = gradients.abs().amax(1, keepdim=True)
        size = torch.where(size > 0, size, 1.0)
        solution = solve(product, gradients / size)
        solution = replace(solution, x=size * solution.x)
        # The derivative of sum u_i loss_i along x, differentiated by u, holds every image's: no gradient per image.
        u = torch.zeros(len(images)).to(point).requires_grad_()
        (slope,) = torch.autograd.grad(_losses(model, point, images, labels), point, u, create_graph=True)
        return _times_jacobian(slope, u, solution.x) / len(images), solution


def flat_parameters(model: nn.Module) -> Tensor:
    """Return all parameters of a network in one vector.

    Args:
        model: the network.

    Returns:
        (D,), without a graph.

    Raises:
        ValueError: if there are none.
    """
    parts = [parameter.detach().flatten() for parameter in model.parameters()]
    if not parts:
        raise ValueError("model: expected parameters, got none")
    return torch.cat(parts)


def _check_data(model: nn.Module, inputs: Tensor, labels: Tensor, prefix: str = "") -> None:
    """Refuse labels without a logit, which a loss might ignore, and models whose parameters cannot be varied."""
    check_model(model)
    if isinstance(model, (torch.jit.ScriptModule, nn.DataParallel)):
        raise ValueError(
            f"model: expected the module itself, whose parameters can be varied, got {type(model).__name__}"
        )
    check_gradients(inputs)
    if len(inputs) == 0:
        raise ValueError(f"{prefix}images: expected at least one, got shape {tuple(inputs.shape)}")
    with torch.no_grad():
        classes = logits_of(model, inputs[:1]).shape[1]
    if classes < 2:
        raise ValueError(
            "model: expected a logit per class, got one in all; return torch.cat([-z / 2, z / 2], 1) instead, which "
            "gives the same two probabilities"
        )
    check_labels(labels, len(inputs), classes, name=f"{prefix}labels")
    check_alone(model, inputs, honest=False)  # nothing is differentiated by images


def _losses(model: nn.Module, flat: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """Compute the loss of each image (N,) as a function of the flattened parameters."""
    named = dict(model.named_parameters())
    parts = torch.split(flat, [parameter.numel() for parameter in named.values()])
    values = {name: part.view_as(named[name]) for name, part in zip(named, parts, strict=True)}
    return cross_entropies(functional_call(model, values, (images.clone(),)), labels)  # it may write into its input


def _times_jacobian(outputs: Tensor, point: Tensor, rows: Tensor) -> Tensor:
    """Multiply rows (M, ...) by the Jacobian of outputs (...) with respect to point (D,): (M, D)."""
    try:
        parts = [
            torch.autograd.grad(outputs, point, part, retain_graph=True, is_grads_batched=True)[0]
            for part in torch.split(rows, CHUNK)
        ]
        return torch.cat(parts)
    except RuntimeError:  # an operation without a rule for batches
        pass
    try:
        return torch.stack([torch.autograd.grad(outputs, point, row, retain_graph=True)[0] for row in rows])
    except RuntimeError as error:
        raise ValueError(f"model: expected operations that PyTorch can differentiate twice; {error}") from error


class _WeightNorm(TorchFunctionMode):
    """Compute weight normalisation by its formula: the second derivative of the kernel is off by 10 % or more."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is not torch._weight_norm:
            return func(*args, **(kwargs or {}))
        v, g, *dim = args
        return v * (g / torch.norm_except_dim(v, 2, *dim))


@contextmanager
def _second_derivatives() -> Iterator[None]:
    """Use the forms of attention and weight normalisation whose second derivative is right."""
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), _WeightNorm():
        yield


def _solution(product: Product, x: Tensor, rhs: Tensor, iterations: int, tolerance: float) -> Solution:
    size, error = rhs.norm(dim=1), (product(x) - rhs).norm(dim=1)
    residual = error / torch.where(size > 0, size, 1.0)
    return Solution(x, residual, iterations, bool((residual <= tolerance).all()))
