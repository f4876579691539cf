"""Softmax regression with an l2 penalty, solved by Newton's method: the last layer as a convex problem of its own.

The loss is (1/n) sum_i w_i CE(theta x_i, y_i) + l2/2 |theta|^2. Adding one vector to every row of theta changes no
probability, and the penalty makes the rows sum to zero; everything here lives in the K - 1 directions that remain
(theta = contrasts beta), where the binary case is ordinary logistic regression.
"""

import torch
from torch import Tensor


def contrasts(num_classes: int, like: Tensor) -> Tensor:
    """Return an orthonormal basis of the vectors that sum to zero.

    Args:
        num_classes: K.
        like: a tensor with the dtype and device wanted.

    Returns:
        (K, K - 1).
    """
    basis = torch.zeros(num_classes, num_classes - 1, dtype=like.dtype, device=like.device)
    for column in range(1, num_classes):  # Helmert's contrasts
        basis[:column, column - 1], basis[column, column - 1] = 1, -column
        basis[:, column - 1] /= (column * (column + 1)) ** 0.5
    return basis


def residuals(logits: Tensor, labels: Tensor) -> Tensor:
    """The derivative of the cross entropy by the logits: probabilities minus the one-hot label.

    Args:
        logits: (B, K).
        labels: int64 (B,).

    Returns:
        (B, K), each row summing to zero; exact to rounding also where the label's probability is nearly 1.
    """
    others = logits.softmax(1).scatter(1, labels.unsqueeze(1), 0.0)
    return others.scatter_add(1, labels.unsqueeze(1), -others.sum(1, keepdim=True))


def covariances(logits: Tensor) -> Tensor:
    """The second derivative of the cross entropy by the logits: A = diag(p) - p p^T.

    Args:
        logits: (B, K).

    Returns:
        (B, K, K).
    """
    p = logits.softmax(1)
    return p.diag_embed() - p.unsqueeze(2) * p.unsqueeze(1)


def hessian(inputs: Tensor, curvature: Tensor, l2: float) -> Tensor:
    """The loss's Hessian (1/n) sum_i A_i (x) x_i x_i^T + l2 I, without a tensor per example.

    Args:
        inputs: (N, D).
        curvature: the A_i in some basis of the classes, (N, K', K'); a weight of an example multiplies its A_i.
        l2: strength of the penalty.

    Returns:
        (K' D, K' D), ordered by class first.
    """
    n, width = inputs.shape
    classes = curvature.shape[1]
    result = inputs.new_empty(classes, width, classes, width)
    for a in range(classes):
        for b in range(a + 1):
            block = inputs.T @ (curvature[:, a, b].unsqueeze(1) * inputs) / n
            result[a, :, b], result[b, :, a] = block, block
    result = result.view(classes * width, classes * width)
    result.diagonal().add_(l2)
    return result


def factor(matrix: Tensor) -> Tensor:
    """Factor a positive definite matrix.

    Args:
        matrix: (M, M), symmetric.

    Returns:
        The lower Cholesky factor.

    Raises:
        ValueError: if there is none, because the matrix is singular up to rounding.
    """
    lower, failed = torch.linalg.cholesky_ex(matrix)
    if failed:
        raise ValueError(_singular(float("inf"), matrix.dtype))
    result: Tensor = lower
    return result


def condition_number(matrix: Tensor, lower: Tensor) -> float:
    """Estimate how far from singular a positive definite matrix is, by power iterations.

    Args:
        matrix: (M, M).
        lower: its Cholesky factor.

    Returns:
        The ratio of the largest to the smallest eigenvalue, up to a small factor.

    Raises:
        ValueError: if it is so large that an inverse would consist of rounding errors.
    """
    start = torch.randn(len(matrix), 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(matrix)
    condition = 1.0
    for inverse in (False, True):
        vector = start / start.norm()
        for _ in range(30):
            vector = torch.cholesky_solve(vector, lower) if inverse else matrix @ vector
            size = vector.norm()
            vector = vector / size
        condition *= float(size)
    if not condition < 1 / torch.finfo(matrix.dtype).eps:
        raise ValueError(_singular(condition, matrix.dtype))
    return condition


def newton(
    inputs: Tensor,
    labels: Tensor,
    *,
    l2: float,
    num_classes: int,
    weights: Tensor | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """Minimise the loss to rounding, by Newton's method with step halving.

    Args:
        inputs: (N, D), float32 or float64.
        labels: int64 (N,).
        l2: strength of the penalty.
        num_classes: K.
        weights: (N,) of the examples, the sum still divided by N; None for ones. A zero leaves an example out.
        start: (K - 1, D); None for zeros.

    Returns:
        beta (K - 1, D); theta is `contrasts(K) @ beta`.

    Raises:
        ValueError: if the Hessian is singular, or no minimum is found (without a penalty separable classes have none).
    """
    n = len(inputs)
    basis = contrasts(num_classes, inputs)
    beta = inputs.new_zeros(num_classes - 1, inputs.shape[1]) if start is None else start
    weight = inputs.new_ones(n) if weights is None else weights
    eps = torch.finfo(inputs.dtype).eps

    def loss(point: Tensor) -> Tensor:
        entropy = torch.nn.functional.cross_entropy(inputs @ point.T @ basis.T, labels, reduction="none")
        return (weight * entropy).mean() + l2 / 2 * point.square().sum()

    last = float("inf")
    for _ in range(100):
        logits = inputs @ beta.T @ basis.T
        residual = weight.unsqueeze(1) * (residuals(logits, labels) @ basis)
        gradient = residual.T @ inputs / n + l2 * beta
        # What the sums would be if nothing cancelled tells how large rounding errors are.
        rounding = 8 * eps * (residual.abs().T @ inputs.abs() / n + l2 * beta.abs()).amax()
        if gradient.abs().amax() <= rounding:
            return beta
        curvature = weight.view(-1, 1, 1) * (basis.T @ covariances(logits) @ basis)
        lower = factor(hessian(inputs, curvature, l2))
        step = torch.cholesky_solve(gradient.view(-1, 1), lower).view_as(beta)
        value, slope, length = loss(beta), (gradient * step).sum(), 1.0
        # Near the minimum the decrement squares itself in every step; where it no longer falls, rounding is all it is.
        slack = 8 * eps * (value + logits.abs().amax())  # a loss near zero is no better known than the logits
        if slope <= slack and slope >= last / 2:
            return beta
        last = float(slope)
        while loss(beta - length * step) > value - length / 4 * slope + slack and length > 1e-8:
            length /= 2
        beta = beta - length * step
    raise ValueError(
        f"l2: no minimum found in 100 Newton steps; without a penalty separable classes have none, got {l2}"
    )


def check_features(features: Tensor, name: str, width: int | None = None) -> None:
    """Refuse anything but a batch of finite feature vectors.

    Args:
        features: (B, P).
        name: how the error calls the argument.
        width: P, if it is known already.

    Raises:
        TypeError: if it is no floating-point tensor.
        ValueError: if the shape is wrong, the batch is empty or a number is not finite.
    """
    if not isinstance(features, Tensor) or not features.is_floating_point():
        raise TypeError(f"{name}: expected a floating-point tensor, got {getattr(features, 'dtype', type(features))}")
    if features.ndim != 2 or features.numel() == 0 or (width is not None and features.shape[1] != width):
        raise ValueError(f"{name}: expected shape (B, {width or 'P'}) with B >= 1, got {tuple(features.shape)}")
    if not features.detach().isfinite().all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")


def _singular(condition: float, dtype: torch.dtype) -> str:
    return (
        f"l2: the Hessian is singular up to rounding (condition number {condition:.0e} in {dtype}), so that an inverse "
        "of it, and with it every influence, would consist of rounding errors; expected a larger l2, or more training "
        "images than features"
    )
