"""How fast the gradient of a score turns: the Hessian with respect to the image [Ghorbani2019, app. F to I].

To first order grad S(x + delta) - grad S(x) = H delta with H = grad^2 S(x). A ReLU network's H is zero almost
everywhere: call these functions inside `fragility.surrogate.softplus`, for a network trained with ReLU or retrained.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fragility._call import clear_errors, logits_of
from fragility._checks import check_choice, check_count, check_gradients, check_images, trusting
from fragility._convolution import twice_differentiable
from fragility._gradient import check_call, gradient, pick, scores_of
from fragility._reach import check_smooth
from fragility._softplus import active_beta
from fragility.attribution import simple_gradient

MODES = ("double_backward", "forward_over_reverse")

Product = Callable[[Tensor], Tensor]


class Directions(NamedTuple):
    """The leading eigenvectors of every image's Hessian, by the modulus of their eigenvalues."""

    values: Tensor  # (B, n), signed
    directions: Tensor  # (B, n, C, H, W), unit length
    gap: Tensor  # (B,), (|value 1| - |value 2|) / |value 1|; 0 is a tie, which leaves the direction undetermined
    residual: Tensor  # (B, n), |H v - value v| / |value 1|, of a product taken anew


def input_hvp(
    model: nn.Module, images: Tensor, labels: Tensor, vectors: Tensor, *, mode: str = "double_backward"
) -> Tensor:
    """Multiply the Hessian of each image's score by a vector, H(x) v [Pearlmutter1994].

    Args:
        model: images in [0, 1] to logits (B, K), in evaluation mode.
        images: (B, C, H, W) in [0, 1], or rows of a table (B, d).
        labels: int64 (B,), the classes whose logits are differentiated.
        vectors: of the images' shape, one per image.
        mode: `"double_backward"`, the gradient of grad S . v; or `"forward_over_reverse"`, the directional derivative
            of grad S. They agree up to rounding.

    Returns:
        H v, of the images' shape, without a graph; zeros for a piecewise linear model.

    Raises:
        TypeError: if an argument has the wrong type, or softplus is asked for and cannot be substituted in the model.
        ValueError: if pixels, labels, vectors, the mode or the model's mode or output are wrong.
    """
    product = _product(model, images, labels, mode)
    if not isinstance(vectors, Tensor) or vectors.dtype != images.dtype:
        raise TypeError(f"vectors: expected a tensor of {images.dtype}, got {getattr(vectors, 'dtype', type(vectors))}")
    if vectors.shape != images.shape:
        raise ValueError(f"vectors: expected the shape of images, {tuple(images.shape)}, got {tuple(vectors.shape)}")
    return product(vectors)


def top_direction(
    model: nn.Module, images: Tensor, labels: Tensor, *, steps: int = 30, seed: int = 0, mode: str = "double_backward"
) -> tuple[Tensor, Tensor]:
    """Find the most fragile direction: the eigenvector of H whose eigenvalue is largest in modulus.

    H is symmetric, so this is the paper's first singular vector [Ghorbani2019, app. F]. It is the first of
    `top_directions`, which also returns the gap to the second and the residual: look at them before you trust it.

    Args:
        model: images in [0, 1] to logits (B, K), in evaluation mode.
        images: (B, C, H, W) in [0, 1].
        labels: int64 (B,), the classes whose logits are differentiated.
        steps: as for `top_directions`.
        seed: as for `top_directions`.
        mode: as for `input_hvp`.

    Returns:
        The eigenvalues (B,) with their signs, and unit directions (B, C, H, W), whose own sign is arbitrary.
    """
    found = top_directions(model, images, labels, steps=steps, seed=seed, mode=mode)
    return found.values[:, 0], found.directions[:, 0]


def top_directions(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    count: int = 1,
    steps: int = 30,
    seed: int = 0,
    mode: str = "double_backward",
) -> Directions:
    """Find the eigenvectors of H with the largest eigenvalues in modulus, by Lanczos' method [Golub2013].

    The largest and the smallest eigenvalue of a network are often nearly opposite, which stalls the power iteration;
    the Krylov space holds both ends. All images run side by side, each from the same random start, so an image's result
    does not depend on the others in the batch.

    Args:
        model: images in [0, 1] to logits (B, K), in evaluation mode.
        images: (B, C, H, W) in [0, 1], or rows of a table (B, d).
        labels: int64 (B,), the classes whose logits are differentiated.
        count: how many directions, at most `steps`; accurate ones take far more steps.
        steps: products with H, at most C H W; `count` more are taken for the residuals.
        seed: of the start.
        mode: as for `input_hvp`.

    Returns:
        Values, directions, gap and residuals. An image with H = 0 has value 0 and an arbitrary direction.

    Raises:
        TypeError: if an argument has the wrong type, or softplus is asked for and cannot be substituted in the model.
        ValueError: if an argument is out of range, H is zero for the whole batch, or not finite.
    """
    check_count("count", count)
    check_count("steps", steps)
    check_images(images, tables=True)
    size = images[0].numel()
    steps = min(steps, size)
    check_count("count", count, steps)
    product = _product(model, images, labels, mode)
    check_smooth(model, images, labels)

    def flat_product(vectors: Tensor) -> Tensor:
        return product(vectors.view_as(images)).flatten(1)

    values, basis = _lanczos(flat_product, images.flatten(1), steps, seed)
    order = values.abs().argsort(dim=1, descending=True, stable=True)
    values = values.gather(1, order)
    picked = basis.gather(2, order[:, None, :count].expand(-1, size, -1)).mT  # (B, count, d)
    picked = picked / picked.norm(dim=2, keepdim=True)
    leading = values.abs()[:, 0]
    scale = leading.where(leading > 0, 1)
    products = torch.stack([flat_product(vectors) for vectors in picked.unbind(1)], 1)
    residual = (products - values[:, :count, None] * picked).norm(dim=2) / scale[:, None]
    if not leading.any():
        reason = (
            "a ReLU network is piecewise linear: call inside fragility.surrogate.softplus(beta)"
            if active_beta() is None
            else "also inside softplus, so it has no activation, or they are all saturated"
        )
        raise ValueError(
            "model: expected scores with a second derivative, got a Hessian that is zero for the whole batch; " + reason
        )
    second = values.abs()[:, 1] if steps > 1 else torch.zeros_like(leading)
    directions = picked.view(len(images), count, *images.shape[1:])
    return Directions(values[:, :count], directions, (leading - second) / scale, residual)


def input_hessian(model: nn.Module, images: Tensor, labels: Tensor, *, chunk: int = 256) -> Tensor:
    """Compute the whole Hessian of each image's score, for small images: d = C H W products per image.

    Its spectrum is `torch.linalg.eigvalsh` of the result.

    Args:
        model: images in [0, 1] to logits (B, K), in evaluation mode.
        images: (B, C, H, W) in [0, 1].
        labels: int64 (B,), the classes whose logits are differentiated.
        chunk: how many products are taken at a time.

    Returns:
        Symmetric matrices (B, d, d).
    """
    check_count("chunk", chunk)
    check_call(model, images, labels, copies=chunk)
    units = torch.eye(images[0].numel(), dtype=images.dtype, device=images.device).view(-1, *images.shape[1:])
    rows = []
    scores_of(model, images.detach().requires_grad_(), labels)
    with trusting(model):
        for image, label in zip(images, labels, strict=True):
            parts = [(image.expand_as(part), label.expand(len(part)), part) for part in torch.split(units, chunk)]
            rows.append(torch.cat([input_hvp(model, *part) for part in parts]).flatten(1))
    matrices = torch.stack(rows)
    return (matrices + matrices.mT) / 2


def angle(a: Tensor, b: Tensor) -> Tensor:
    """Measure the angle between two undirected lines, accurate near 0 and near 90 degrees.

    Args:
        a: (B, ...).
        b: the same shape.

    Returns:
        Degrees in [0, 90], (B,).

    Raises:
        TypeError: if one is not a floating-point tensor.
        ValueError: if the shapes differ, or a row is zero or not finite.
    """
    lines = []
    for name, part in (("a", a), ("b", b)):
        if not isinstance(part, Tensor) or not part.is_floating_point():
            raise TypeError(f"{name}: expected a floating-point tensor")
        if part.ndim < 2 or part.shape != a.shape:
            raise ValueError(f"{name}: expected shape (B, ...), both the same, got {tuple(part.shape)}")
        flat = part.flatten(1)
        flat = flat / flat.abs().amax(1, keepdim=True)  # the squares of small numbers would underflow
        length = flat.norm(dim=1, keepdim=True)
        if not length.isfinite().all():
            rows = (~length.isfinite()).flatten().nonzero().flatten().tolist()
            raise ValueError(f"{name}: expected finite vectors that are not zero, got others in rows {rows}")
        lines.append(flat / length)
    apart, together = ((lines[0] - sign * lines[1]).norm(dim=1) for sign in (1, -1))
    return 2 * torch.atan2(torch.minimum(apart, together), torch.maximum(apart, together)) * (180 / math.pi)


def saliency_lipschitz_bound(norms: Tensor, slopes: Tensor, bends: Tensor) -> Tensor:
    """Bound how fast the gradient of a chain of dense layers turns: eq. 7 of [Ghorbani2019], corrected.

    For a scalar S = f_K(... f_1(x)), f_i(y) = g_i(W_i y + b_i), the product rule gives a sum over the layers,

        L(S') <= sum_i L(g_i') |W_i|^2 prod_{j<i} (|W_j| L(g_j))^2 prod_{j>i} |W_j| L(g_j),

    because H = sum_i J_i^T diag(g_i'' * dS/dy_i) J_i with J_i = dz_i/dx and |dS/dy_i|_inf <= prod_{j>i} |W_j| L(g_j).
    The printed bound multiplies the layers' constants instead, and fails for scalar chains already.

    Args:
        norms: operator norms |W_i| (largest singular values), (K,), first layer first; the last W of one logit is a
            row.
        slopes: L(g_i) = max |g_i'|, (K,): 1 for softplus, 1/4 for the sigmoid, 1 for a linear layer.
        bends: L(g_i') = max |g_i''|, (K,): beta/4 for softplus, 1/(6 sqrt 3) for the sigmoid, 0 for a linear layer;
            infinite for ReLU.

    Returns:
        The bound, a scalar that is differentiable with respect to the norms.

    Raises:
        ValueError: if the shapes differ or a constant is negative or NaN.
    """
    for name, part in (("norms", norms), ("slopes", slopes), ("bends", bends)):
        if part.ndim != 1 or part.shape != norms.shape or not len(part):
            raise ValueError(f"{name}: expected one number per layer, the shape of norms, got {tuple(part.shape)}")
        if not (part >= 0).all():
            raise ValueError(f"{name}: expected numbers >= 0, got {part.tolist()}")
    terms = []
    for layer, bend in enumerate(bends):
        if bend > 0:  # a linear layer adds nothing, and 0 times infinity is not a number
            below = (norms[:layer] * slopes[:layer]).prod()
            above = (norms[layer + 1 :] * slopes[layer + 1 :]).prod()
            terms.append(bend * norms[layer].square() * below.square() * above)
    return torch.stack(terms).sum() if terms else torch.zeros_like(norms[0])


def _product(model: nn.Module, images: Tensor, labels: Tensor, mode: str) -> Product:
    """Return v -> H v; double backward builds the graph of the gradient once for all products."""
    check_choice("mode", mode, MODES)
    check_images(images, tables=True)
    check_gradients(images)
    points = images.detach().requires_grad_()
    if mode == "double_backward":
        slope = simple_gradient(model, points, labels)
        if not slope.requires_grad:  # a linear model
            return torch.zeros_like

        def backward(vectors: Tensor) -> Tensor:
            with twice_differentiable():
                (product,) = torch.autograd.grad(
                    slope, points, vectors.detach(), retain_graph=True, materialize_grads=True
                )
            return product

        return backward
    check_call(model, images, labels)
    with torch.enable_grad():
        gradient(scores_of(model, points, labels), points, create_graph=False)  # refuses constants

    def score(x: Tensor) -> Tensor:
        return pick(logits_of(model, x), labels).sum()

    def forward(vectors: Tensor) -> Tensor:
        with clear_errors(), sdpa_kernel(SDPBackend.MATH):
            product: Tensor = torch.func.jvp(torch.func.grad(score), (images.detach(),), (vectors.detach(),))[1]
        return product.detach()

    return forward


def _lanczos(product: Product, like: Tensor, steps: int, seed: int) -> tuple[Tensor, Tensor]:
    """Ritz values (B, steps) and vectors (B, d, steps) of symmetric operators, all rows at once."""
    batch, size = like.shape
    generator = torch.Generator().manual_seed(seed)
    fresh = torch.randn(steps, size, generator=generator, dtype=torch.float64).to(like)
    basis = like.new_zeros(batch, steps, size)
    diagonal, beside = like.new_zeros(batch, steps), like.new_zeros(batch, steps)
    scale = like.new_zeros(batch)
    vector = (fresh[0] / fresh[0].norm()).expand(batch, size)
    for step in range(steps):
        basis[:, step] = vector
        image = product(vector)
        scale = torch.maximum(scale, image.norm(dim=1))
        diagonal[:, step] = (image * vector).sum(1)
        if step + 1 == steps:
            break
        rest = _orthogonal(image, basis[:, : step + 1])
        length = rest.norm(dim=1)
        # The Krylov space may be exhausted (H of low rank): go on with a new random direction, uncoupled.
        ended = length <= 64 * torch.finfo(like.dtype).eps * scale
        other = _orthogonal(fresh[step + 1].expand(batch, size), basis[:, : step + 1])
        beside[:, step] = length.masked_fill(ended, 0)
        rest, other = rest / length.where(~ended, 1)[:, None], other / other.norm(dim=1, keepdim=True)
        vector = other.where(ended[:, None], rest)
    if not diagonal.isfinite().all():
        raise ValueError("model: expected finite second derivatives, got NaN or infinity")
    coupling = torch.diag_embed(beside[:, : steps - 1], 1)[:, :steps, :steps]
    values, mixing = torch.linalg.eigh(torch.diag_embed(diagonal) + coupling + coupling.mT)
    return values, basis.mT @ mixing


def _orthogonal(vectors: Tensor, basis: Tensor) -> Tensor:
    """Remove the components along the basis, twice: after one pass rounding errors remain, and grow."""
    for _ in range(2):
        vectors = vectors - ((basis @ vectors[..., None]).mT @ basis).squeeze(1)
    return vectors
