"""Softmax regression with an l2 penalty, solved by Newton's method: the convex problem of a last layer.

The loss is (1/n) sum_i w_i CE(theta x_i, y_i) + l2/2 |theta|^2. Adding one vector to every row of theta changes no
probability, and the penalty makes the rows sum to zero. We solve in the K - 1 directions that remain, theta = contrasts
beta, where the binary case is ordinary logistic regression.
"""

import os

import torch
from torch import Tensor
from torch.nn.functional import softplus


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


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy of each image, with a small relative error even where the label is nearly certain.

    Args:
        logits: (B, K).
        labels: int64 (B,).

    Returns:
        (B,), log(1 + sum over the other classes of e^(z_k - z_y)); its two derivatives are as accurate.
    """
    label = labels.unsqueeze(1)
    others = logits.scatter(1, label, float("-inf")).logsumexp(1, keepdim=True)
    # PyTorch's default threshold of 20 makes softplus discontinuous by 2e-9, which float64 sees.
    return softplus(others - logits.gather(1, label), threshold=40.0).squeeze(1)


def residuals(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the derivative of the cross entropy by the logits: probabilities minus the one-hot label.

    Args:
        logits: (B, K).
        labels: int64 (B,).

    Returns:
        (B, K), each row summing to zero; exact to rounding even where the label's probability is nearly 1.
    """
    others = logits.softmax(1).scatter(1, labels.unsqueeze(1), 0.0)
    return others.scatter_add(1, labels.unsqueeze(1), -others.sum(1, keepdim=True))


def directions(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the residuals over 1 - p_y, which stay finite where the label's probability is exactly 1.

    Args:
        logits: (B, K).
        labels: int64 (B,).

    Returns:
        (B, K), -1 at the label and the shares of the other classes.
    """
    label = labels.unsqueeze(1)
    return logits.scatter(1, label, float("-inf")).softmax(1).scatter(1, label, -1.0)


def covariances(logits: Tensor) -> Tensor:
    """Return the second derivative of the cross entropy by the logits: A = diag(p) - p p^T.

    Args:
        logits: (B, K).

    Returns:
        (B, K, K), with a small relative error even where one probability is nearly 1.
    """
    p = logits.softmax(1)
    pairs = p.unsqueeze(2) * p.unsqueeze(1)
    pairs = pairs - pairs.diagonal(dim1=1, dim2=2).diag_embed()
    return pairs.sum(2).diag_embed() - pairs  # p (1 - p) would cancel


def hessian(inputs: Tensor, curvature: Tensor, l2: float) -> Tensor:
    """Return the loss's Hessian (1/n) sum_i A_i (x) x_i x_i^T + l2 I, without a tensor per example.

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
        ValueError: if the matrix is singular up to rounding.
    """
    lower, failed = torch.linalg.cholesky_ex(matrix)
    if failed:
        raise ValueError(_singular(float("inf"), matrix.dtype))
    result: Tensor = lower
    return result


def extreme_eigenvalues(matrix: Tensor, lower: Tensor) -> tuple[float, float]:
    """Estimate the largest and the smallest eigenvalue of a positive definite matrix, by power iterations.

    Args:
        matrix: (M, M).
        lower: its Cholesky factor.

    Returns:
        Both, up to a small factor.

    Raises:
        ValueError: if their ratio is so large that rounding may change influences by a percent.
    """
    start = torch.randn(len(matrix), 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(matrix)
    sizes = []
    for inverse in (False, True):
        vector = start / start.norm()
        for _ in range(30):
            vector = torch.cholesky_solve(vector, lower) if inverse else matrix @ vector
            size = float(vector.norm())
            vector = vector / size
        sizes.append(size)
    # Against a computation with 330 digits, influences were off by at most three times the condition number times eps.
    if not sizes[0] * sizes[1] < 3e-3 / torch.finfo(matrix.dtype).eps:
        raise ValueError(_singular(sizes[0] * sizes[1], matrix.dtype))
    return sizes[0], 1 / sizes[1]


def check_memory(unknowns: int, matrices: int, like: Tensor, advice: str) -> None:
    """Refuse a Hessian that the machine cannot hold, before anything is allocated.

    Args:
        unknowns: its number of rows.
        matrices: how many of that size are needed at the same time.
        like: a tensor with the dtype and device wanted.
        advice: what to do instead.

    Raises:
        ValueError: if the matrices need more than all memory there is; it names the size.
    """
    needed = matrices * unknowns**2 * like.element_size()
    if like.is_cuda:
        there = torch.cuda.get_device_properties(like.device).total_memory
    elif hasattr(os, "sysconf"):
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:  # on Windows the allocation itself fails
        return
    if needed > there:
        raise ValueError(
            f"model: the Hessian of {unknowns:,} unknowns would need {needed / 1e12:,.2f} TB of memory, the machine "
            f"has {there / 1e12:,.2f}; {advice}"
        )


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
        entropy = cross_entropies(inputs @ point.T @ basis.T, labels)
        return (weight * entropy).mean() + l2 / 2 * point.square().sum()

    last = float("inf")
    for _ in range(100):
        logits = inputs @ beta.T @ basis.T
        residual = weight.unsqueeze(1) * (residuals(logits, labels) @ basis)
        gradient = residual.T @ inputs / n + l2 * beta
        # The size of rounding errors is that of the sums if nothing cancelled.
        rounding = 8 * eps * (residual.abs().T @ inputs.abs() / n + l2 * beta.abs()).amax()
        if gradient.abs().amax() <= rounding:
            return beta
        curvature = weight.view(-1, 1, 1) * (basis.T @ covariances(logits) @ basis)
        lower = factor(hessian(inputs, curvature, l2))
        step = torch.cholesky_solve(gradient.view(-1, 1), lower).view_as(beta)
        value, slope, length = loss(beta), (gradient * step).sum(), 1.0
        # Near the minimum every step squares the decrement; once it stops falling it is all rounding.
        slack = 8 * eps * value * (1 + logits.abs().amax())  # the relative error of e^-z is the error of z
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
        TypeError: if it is not a floating-point tensor.
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
        f"l2: the Hessian is singular up to rounding (condition number {condition:.0e} in {dtype}), and influences "
        "would be rounding errors in part; expected a larger l2, more training images than features"
        f"{', or dtype=torch.float64' if dtype == torch.float32 else ''}"
    )
