"""Importance of every pixel for the score of a class, differentiable with respect to the image once more."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fragility._checks import check_count, check_images, check_labels, check_logits, check_model
from fragility._convolution import fixed_weights
from fragility._rescale import rescale
from fragility._softplus import active_beta, capture, check_substitutable

Baseline = float | Tensor | None


def simple_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The gradient of the score, grad_x S_l(x) [Simonyan2014], [Ghorbani2019, sec. 2.1].

    Args:
        model: images in [0, 1] to logits (B, K), in evaluation mode.
        images: (B, C, H, W) in [0, 1].
        labels: int64 (B,), the classes explained.

    Returns:
        Signed attributions (B, C, H, W) of the labels' logits; they carry a graph exactly when
        `images.requires_grad`.

    Raises:
        TypeError: if an argument has the wrong type, or the model cannot be substituted where that is asked for.
        ValueError: if pixels, labels, the model's mode or its output are wrong.
    """
    _check(model, images, labels)
    with torch.enable_grad():
        points = images if images.requires_grad else images.detach().requires_grad_()
        return _gradient(_scores(model, points, labels), points, create_graph=images.requires_grad)


def integrated_gradients(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    baseline: Baseline = None,
    steps: int = 100,
    chunk: int | None = None,
) -> Tensor:
    """Integrated gradients by the right Riemann sum [Sundararajan2017], [Ghorbani2019, sec. 2.1].

    (x - x0) * (1 / M) sum_{k=1..M} grad_x S_l(x0 + k/M (x - x0)). The second derivative is taken in a second pass over
    the path, so that memory does not grow with M; it is the last one: a third derivative is refused.

    Args:
        model: images in [0, 1] to logits (B, K), in evaluation mode.
        images: (B, C, H, W) in [0, 1].
        labels: int64 (B,), the classes explained.
        baseline: the reference x0, a number or a tensor broadcastable to the images, taken as a constant; None is 0.
        steps: M, the number of points on the path.
        chunk: how many points of every image go through the model at a time; None chooses eight inputs a pass.

    Returns:
        Signed attributions (B, C, H, W) whose sum tends to S(x) - S(x0) as 1 / M; they carry a graph exactly when
        `images.requires_grad`.

    Raises:
        TypeError: if an argument has the wrong type, or the model cannot be substituted where that is asked for.
        ValueError: if pixels, labels, baseline, the model's mode or its output are wrong.
    """
    _check(model, images, labels)
    check_count("steps", steps)
    chunk = max(1, 8 // images.shape[0]) if chunk is None else chunk
    check_count("chunk", chunk)
    reference = _reference(baseline, images)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    points = images if images.requires_grad else images.detach()
    with torch.set_grad_enabled(images.requires_grad):
        mean: Tensor = _PathMean.apply(  # type: ignore[no-untyped-call]
            points, labels, reference, model, steps, chunk, *parameters
        )
        attributions: Tensor = (points - reference) * mean
    return attributions


def deeplift(model: nn.Module, images: Tensor, labels: Tensor, *, baseline: Baseline = None) -> Tensor:
    """DeepLIFT with the Rescale rule [Shrikumar2017].

    The multipliers are the gradient of a linear network in a dummy input (see `fragility._rescale.rescale`), and
    the attributions sum to S(x) - S(x0).

    Args:
        model: images in [0, 1] to logits (B, K), in evaluation mode, made of linear layers, max-pools and the
            activations ReLU, ReLU6, leaky ReLU, hard tanh, sigmoid, tanh, SiLU, GELU and softplus.
        images: (B, C, H, W) in [0, 1].
        labels: int64 (B,), the classes explained.
        baseline: the reference x0, a number or a tensor broadcastable to the images, taken as a constant; None is 0.

    Returns:
        Signed attributions (B, C, H, W) of the labels' logits; they carry a graph exactly when
        `images.requires_grad`.

    Raises:
        TypeError: if an argument has the wrong type, or the model is TorchScript or compiled.
        ValueError: if pixels, labels, baseline, the model's mode or its output are wrong, or the model does something
            for which the Rescale rule has no rule; the error names it.
    """
    _check(model, images, labels)
    check_substitutable(model)
    reference = _reference(baseline, images)
    with torch.enable_grad():
        points = images if images.requires_grad else images.detach()
        dummy = torch.zeros_like(points).requires_grad_()
        stacked = torch.cat([points, reference, dummy])
        with rescale(create_graph=images.requires_grad):
            logits = model(stacked)
        third = check_logits(logits, 3 * len(images))[2 * len(images) :]
        multipliers = _gradient(_pick(third, labels), dummy, create_graph=images.requires_grad)
        return (points - reference) * multipliers


def importance(attributions: Tensor) -> Tensor:
    """The importance map: absolute values, summed over channels, divided by their sum [Ghorbani2019, sec. 2.1].

    Args:
        attributions: (B, C, H, W), signed.

    Returns:
        Maps (B, H, W), non-negative, each summing to 1; differentiable.

    Raises:
        TypeError: if `attributions` is no floating-point tensor.
        ValueError: if the shape is wrong, a value is not finite, or an image's attributions are all zero.
    """
    if not isinstance(attributions, Tensor) or not attributions.is_floating_point():
        raise TypeError("attributions: expected a floating-point tensor")
    if attributions.ndim != 4 or attributions.numel() == 0:
        raise ValueError(f"attributions: expected shape (B, C, H, W), got {tuple(attributions.shape)}")
    maps = attributions.abs().sum(1)
    totals = maps.sum((1, 2), keepdim=True)
    sound = (totals > 0) & totals.isfinite()
    if not sound.all():
        rows = (~sound).flatten().nonzero().flatten().tolist()
        raise ValueError(f"attributions: expected finite values, not all zero; rows {rows} are not so")
    return maps / totals


ATTRIBUTIONS: dict[str, Callable[..., Tensor]] = {
    "simple_gradient": simple_gradient,
    "integrated_gradients": integrated_gradients,
    "deeplift": deeplift,
}


class _PathMean(torch.autograd.Function):
    """The gradient averaged over the path from the reference to x, with its derivative in a second pass."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        labels: Tensor,
        reference: Tensor,
        model: nn.Module,
        steps: int,
        chunk: int,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(images, labels, reference)
        ctx.model, ctx.steps, ctx.chunk, ctx.parameters = model, steps, chunk, parameters
        ctx.substitution = capture()
        mean = torch.zeros_like(images)
        for alphas in _path(steps, chunk, images):
            points, targets = _points(images, reference, labels, alphas)
            with torch.enable_grad():
                gradient = _gradient(_scores(model, points, targets), points, create_graph=False)
            mean += gradient.view(-1, *images.shape).sum(0)
        return mean / steps

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_mean: Tensor) -> tuple[Tensor | None, ...]:
        images, labels, reference = ctx.saved_tensors
        into_images = torch.zeros_like(images)
        into_parameters = [torch.zeros_like(parameter) for parameter in ctx.parameters]
        for alphas in _path(ctx.steps, ctx.chunk, images):
            points, targets = _points(images, reference, labels, alphas)
            with torch.enable_grad(), ctx.substitution(), fixed_weights():
                gradient = _gradient(_scores(ctx.model, points, targets), points, create_graph=True)
                product = (gradient.view(-1, *images.shape) * grad_mean).sum() / ctx.steps
            if not product.requires_grad:  # a linear model
                continue
            first, *others = torch.autograd.grad(product, [points, *ctx.parameters], materialize_grads=True)
            into_images += (first.view(-1, *images.shape) * alphas.view(-1, 1, 1, 1, 1)).sum(0)
            for total, part in zip(into_parameters, others, strict=True):
                total += part
        return into_images, None, None, None, None, None, *into_parameters


def _path(steps: int, chunk: int, images: Tensor) -> tuple[Tensor, ...]:
    """The positions k / M on the path, in pieces of `chunk`."""
    alphas = torch.arange(1, steps + 1, dtype=images.dtype, device=images.device) / steps
    return torch.split(alphas, chunk)


def _points(images: Tensor, reference: Tensor, labels: Tensor, alphas: Tensor) -> tuple[Tensor, Tensor]:
    """Points x0 + alpha (x - x0) for every alpha and image, flattened, with their labels."""
    x, x0 = images.detach(), reference
    points = x0 + alphas.view(-1, 1, 1, 1, 1) * (x - x0)
    return points.flatten(0, 1).requires_grad_(), labels.repeat(len(alphas))


def _scores(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return _pick(check_logits(model(images), len(images)), labels)


def _pick(logits: Tensor, labels: Tensor) -> Tensor:
    check_labels(labels, len(labels), logits.shape[1])
    return logits.gather(1, labels.unsqueeze(1)).squeeze(1)


def _gradient(scores: Tensor, points: Tensor, *, create_graph: bool) -> Tensor:
    """One gradient per image: the images of a batch do not mix, so that the gradient of the sum holds them all."""
    if not scores.requires_grad:
        raise ValueError("model: expected logits that depend differentiably on the images, got constants")
    (gradient,) = torch.autograd.grad(scores.sum(), points, create_graph=create_graph, materialize_grads=True)
    return gradient


def _check(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    check_model(model)
    check_images(images)
    check_labels(labels, len(images))
    if active_beta() is not None:
        check_substitutable(model)


def _reference(baseline: Baseline, images: Tensor) -> Tensor:
    """The baseline as a constant tensor of the images' shape."""
    value = torch.as_tensor(0.0 if baseline is None else baseline, dtype=images.dtype, device=images.device).detach()
    if not value.isfinite().all():
        raise ValueError("baseline: expected finite values")
    try:
        return value.expand_as(images)
    except RuntimeError as error:
        message = f"baseline: expected a shape broadcastable to {tuple(images.shape)}, got {tuple(value.shape)}"
        raise ValueError(message) from error
