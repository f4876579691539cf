"""Integrated gradients of the loss between two images, which robust attribution regularization bounds."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fragility._call import logits_of
from fragility._checks import check_choice, check_count, check_labels, check_training
from fragility._convolution import twice_differentiable
from fragility._gradient import gradient
from fragility.fingerprint import recipe

Criterion = Callable[[Tensor, Tensor], Tensor]  # logits (B, K), labels (B,) -> (B,)

each_cross_entropy: Criterion = partial(F.cross_entropy, reduction="none")


def each_loss(model: nn.Module, images: Tensor, labels: Tensor, criterion: Criterion = each_cross_entropy) -> Tensor:
    """Compute the loss of every image.

    Args:
        model: images to logits (B, K).
        images: (B, C, H, W).
        labels: int64 (B,).
        criterion: from logits and labels to one loss per image.

    Returns:
        (B,).
    """
    logits = logits_of(model, images)
    check_labels(labels, len(images), logits.shape[1])
    return criterion(logits, labels)


def loss_attributions(
    model: nn.Module,
    images: Tensor,
    perturbed: Tensor,
    labels: Tensor,
    *,
    steps: int = 50,
    rule: str = "right",
    criterion: Criterion = each_cross_entropy,
) -> Tensor:
    """Integrated gradients of the loss from x to x', (x' - x) sum_k w_k grad l(x + a_k (x' - x)) [Chen2019].

    Args:
        model: images to logits (B, K).
        images: x, (B, C, H, W).
        perturbed: x', the same shape.
        labels: int64 (B,).
        steps: m, the number of points on the path.
        rule: where they lie. `"right"`: a_k = k / m, as published; `"left"`: a_k = (k - 1) / m, for m = 1 the gradient
            at x; `"gauss"`: Gauss-Legendre nodes, the most accurate for a smooth network.
        criterion: l, from logits and labels to one loss per image.

    Returns:
        Signed attributions (B, C, H, W), differentiable with respect to x' and the parameters.

    Raises:
        ValueError: if a shape or the rule is wrong, or batch norm or dropout is in training mode.
    """
    if perturbed.shape != images.shape:
        raise ValueError(
            f"perturbed: expected the shape of images, {tuple(images.shape)}, got {tuple(perturbed.shape)}"
        )
    check_count("steps", steps)
    check_training(model, path=True)
    check_choice("rule", rule, RULES)
    alphas, weights = (
        torch.tensor(part, dtype=images.dtype, device=images.device).view(-1, 1, 1, 1, 1) for part in RULES[rule](steps)
    )
    with torch.enable_grad(), twice_differentiable():
        points = (images + alphas * (perturbed - images)).flatten(0, 1)
        points = points if points.requires_grad else points.requires_grad_()
        losses = each_loss(model, points, labels.repeat(steps), criterion)
        slopes = gradient(losses, points, create_graph=True)
        return (perturbed - images) * (weights * slopes.view(steps, *images.shape)).sum(0)


@recipe("l1_norm/1")
def l1_norm(attributions: Tensor) -> Tensor:
    """Return the sum of the absolute values of every image's attributions, (B,).

    Args:
        attributions: (B, C, H, W).

    Returns:
        (B,).
    """
    return attributions.abs().flatten(1).sum(1)


def _right(steps: int) -> tuple[list[float], list[float]]:
    return [k / steps for k in range(1, steps + 1)], [1 / steps] * steps


def _left(steps: int) -> tuple[list[float], list[float]]:
    return [k / steps for k in range(steps)], [1 / steps] * steps


def _gauss(steps: int) -> tuple[list[float], list[float]]:
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return ((nodes + 1) / 2).tolist(), (weights / 2).tolist()


RULES = {"right": _right, "left": _left, "gauss": _gauss}
