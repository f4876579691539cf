"""Training losses that steady predictions and explanations [Madry2018], [Chen2019], [Ross2018], [Wang2020].

Each is `loss(model, images, labels, *, ...) -> scalar`; `functools.partial` sets the options for `fragility.train.fit`.
They explain the *loss* l(x) = -log p_label(x), not the logit, and IG(x, x') runs from the image x to x': its entries
sum to l(x') - l(x).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fragility._checks import check_count, check_positive, check_training
from fragility._convolution import twice_differentiable
from fragility._gradient import gradient
from fragility.defense.loss_attribution import Criterion, each_cross_entropy, each_loss, l1_norm, loss_attributions
from fragility.fingerprint import recipe
from fragility.step import ball, sign_step, uniform

Size = Callable[[Tensor], Tensor]  # attributions (B, C, H, W) -> (B,), the s of robust attribution regularization


@recipe("adversarial/1")
def adversarial_loss(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    step_size: float,
    iterations: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Adversarial training: the cross entropy at the worst image nearby, max over x' of l(x') [Madry2018].

    Args:
        model: images in [0, 1] to logits (B, K).
        images: (B, C, H, W) in [0, 1].
        labels: int64 (B,).
        epsilon: radius of the L-inf ball.
        step_size: of the sign steps, in the unit of `epsilon`.
        iterations: number of sign steps, from a random point of the ball.
        generator: source of that point; None for PyTorch's own.

    Returns:
        A scalar, the mean over the batch.
    """

    def loss(x: Tensor) -> Tensor:
        return each_loss(model, x, labels)

    return loss(ascend(loss, images, epsilon, step_size, iterations, generator)).mean()


@recipe("robust_attribution/1")
def robust_attribution_loss(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    size: Size,
    epsilon: float,
    step_size: float,
    iterations: int,
    weight: float = 1.0,
    steps: int = 50,
    inner_steps: int = 10,
    rule: str = "right",
    criterion: Criterion = each_cross_entropy,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Robust attribution regularization in general: l(x) + lambda max over x' of s(IG(x, x')) [Chen2019, eq. 3].

    The maximum is sought by sign steps in x', which need the derivative of an integrated *gradient*. In a ReLU network
    that derivative misses the kinks: all that remains of the Hessian of l is the curvature of the cross entropy itself.
    Between two kinks the steps still climb the right function. The derivative with respect to the parameters lacks only
    the motion of the kinks. Train a softplus network (`fragility.surrogate.softplus`) to have all of both.

    Args:
        model: images in [0, 1] to logits (B, K).
        images: (B, C, H, W) in [0, 1].
        labels: int64 (B,).
        size: s, from attributions (B, C, H, W) to one number per image, (B,).
        epsilon: radius of the L-inf ball.
        step_size: of the sign steps, in the unit of `epsilon`.
        iterations: number of sign steps. They start at a random point of the ball, because the l1 norm has its minimum,
            and gradient zero, at x' = x.
        weight: lambda.
        steps: m, the number of points on the path from x to x' where the loss is evaluated.
        inner_steps: the same during the ascent.
        rule: where the points lie, see `loss_attributions`.
        criterion: l, from logits and labels to one loss per image.
        generator: source of the random start; None for PyTorch's own.

    Returns:
        A scalar, the mean over the batch.
    """

    def regularizer(x: Tensor, count: int) -> Tensor:
        return size(loss_attributions(model, images, x, labels, steps=count, rule=rule, criterion=criterion))

    worst = ascend(lambda x: regularizer(x, inner_steps), images, epsilon, step_size, iterations, generator)
    natural = each_loss(model, images, labels, criterion)
    return (natural + weight * regularizer(worst, steps)).mean()


@recipe("ig_norm/1")
def ig_norm_loss(model: nn.Module, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """IG-NORM: l(x) + lambda max over x' of the l1 norm of IG(x, x') [Chen2019].

    Args:
        model: images in [0, 1] to logits (B, K).
        images: (B, C, H, W) in [0, 1].
        labels: int64 (B,).
        **options: `epsilon`, `step_size`, `iterations` and the other options of `robust_attribution_loss`.

    Returns:
        A scalar, the mean over the batch.
    """
    return robust_attribution_loss(model, images, labels, size=l1_norm, **options)


@recipe("ig_sum_norm/1")
def ig_sum_norm_loss(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    step_size: float,
    iterations: int,
    beta: float = 0.1,
    steps: int = 50,
    inner_steps: int = 10,
    rule: str = "right",
    generator: torch.Generator | None = None,
) -> Tensor:
    """IG-SUM-NORM: the size s = sum + beta l1 with lambda = 1 [Chen2019].

    By completeness l(x) + sum IG(x, x') = l(x'), which we compute exactly, not as a sum over the path: the loss is the
    maximum over x' of l(x') + beta times the l1 norm of IG(x, x'). With beta = 0 it is `adversarial_loss`.

    Args:
        model: images in [0, 1] to logits (B, K).
        images: (B, C, H, W) in [0, 1].
        labels: int64 (B,).
        epsilon: radius of the L-inf ball.
        step_size: of the sign steps, in the unit of `epsilon`.
        iterations: number of sign steps, from a random point of the ball.
        beta: weight of the norm.
        steps: m, points on the path from x to x' where the loss is evaluated.
        inner_steps: the same during the ascent.
        rule: see `loss_attributions`.
        generator: source of the random start; None for PyTorch's own.

    Returns:
        A scalar, the mean over the batch.
    """

    def loss(x: Tensor, count: int) -> Tensor:
        norm = l1_norm(loss_attributions(model, images, x, labels, steps=count, rule=rule))
        value: Tensor = each_loss(model, x, labels) + beta * norm
        return value

    worst = ascend(lambda x: loss(x, inner_steps), images, epsilon, step_size, iterations, generator)
    return loss(worst, steps).mean()


@recipe("input_gradient/1")
def input_gradient_loss(model: nn.Module, images: Tensor, labels: Tensor, *, weight: float, q: int = 2) -> Tensor:
    """Input-gradient regularization: l(x) + lambda |grad_x l(x)|_q^q [Ross2018].

    Args:
        model: images in [0, 1] to logits (B, K).
        images: (B, C, H, W) in [0, 1].
        labels: int64 (B,).
        weight: lambda.
        q: 2 for the sum of squares, 1 for the sum of absolute values.

    Returns:
        A scalar, the mean over the batch.

    Raises:
        ValueError: if `q` is neither 1 nor 2.
    """
    if q not in (1, 2):
        raise ValueError(f"q: expected 1 or 2, got {q}")
    losses, slopes, _ = _loss_gradient(model, images, labels)
    return (losses + weight * slopes.abs().pow(q).flatten(1).sum(1)).mean()


@recipe("curvature/1")
def curvature_loss(
    model: nn.Module, images: Tensor, labels: Tensor, *, weight: float, iterations: int = 5, seed: int = 0
) -> Tensor:
    """Smooth surface regularization: l(x) + lambda |H(x)|, the largest modulus of an eigenvalue [Wang2020].

    H is the Hessian of l with respect to the image. Power iteration finds its top direction v without a graph; |H v| is
    then differentiated with v held fixed. At convergence this is exact, even where the two extreme eigenvalues are
    opposite and v mixes their directions: u^T H v with u = H v / |H v| attains the norm. For a ReLU network H is the
    curvature of the cross entropy alone; train inside `fragility.surrogate.softplus`.

    Args:
        model: images in [0, 1] to logits (B, K).
        images: (B, C, H, W) in [0, 1].
        labels: int64 (B,).
        weight: lambda.
        iterations: products with H in the power iteration.
        seed: of its starting direction, the same for every image.

    Returns:
        A scalar, the mean over the batch.
    """
    check_count("iterations", iterations)
    losses, slopes, points = _loss_gradient(model, images, labels)

    def product(v: Tensor, *, create_graph: bool) -> Tensor:
        options: dict[str, Any] = {"create_graph": create_graph, "retain_graph": True, "materialize_grads": True}
        return torch.autograd.grad(slopes, points, v, **options)[0]

    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(images.shape[1:], generator=generator, dtype=images.dtype).to(images.device).expand_as(images)
    for _ in range(iterations):
        v = product(v, create_graph=False)
        v = v / torch.linalg.vector_norm(v, dim=(1, 2, 3), keepdim=True).clamp(min=torch.finfo(v.dtype).tiny)
    norms = torch.linalg.vector_norm(product(v, create_graph=True), dim=(1, 2, 3))
    result: Tensor = (losses + weight * norms).mean()
    return result


def ascend(
    value: Callable[[Tensor], Tensor],
    images: Tensor,
    epsilon: float,
    step_size: float,
    iterations: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Climb a function of the images by sign steps inside the ball, from a random point of it [Madry2018].

    Args:
        value: images to (B,), each depending on its own image alone.
        images: (B, C, H, W) in [0, 1].
        epsilon: radius of the L-inf ball.
        step_size: of the sign steps.
        iterations: how many.
        generator: source of the random start; None for PyTorch's own.

    Returns:
        The last iterate, without a graph.
    """
    check_positive("step_size", step_size)
    check_count("iterations", iterations)
    lower, upper = ball(images, epsilon)
    x = torch.lerp(lower, upper, uniform(images, generator)).clamp(lower, upper)
    for _ in range(iterations):
        with torch.enable_grad():
            x.requires_grad_()
            (slope,) = torch.autograd.grad(value(x).sum(), x)
        x = sign_step(x.detach(), slope, step_size, lower, upper)
    return x


def _loss_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Every image's loss (B,), its gradient with respect to the image, with a graph, and the images it was taken at."""
    check_training(model)
    with torch.enable_grad(), twice_differentiable():
        points = images.detach().requires_grad_()
        losses = each_loss(model, points, labels)
        return losses, gradient(losses, points, create_graph=True), points
