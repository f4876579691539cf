"""How far attributions move: over draws from a ball, as sampling tools report it, and under an attack on just that."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fragility._checks import check_count
from fragility._convolution import twice_differentiable
from fragility._softplus import softplus
from fragility.attack import annealed
from fragility.iterate import Attribution, Judge, explain, safe_importance
from fragility.similarity import top_k_intersection
from fragility.step import ball, frozen, uniform


class Extremes(NamedTuple):
    """The most that was found at points with the original prediction; of no such point, what does not move.

    Attributes:
        change: (B,) the largest |a(x') - a(x)| / |a(x)|, max-sensitivity [Yeh2019].
        lipschitz: (B,) the largest |a(x') - a(x)| / |x' - x|, the local Lipschitz estimate [AlvarezMelis2018].
        top_k: (B,) the least top-k intersection of the importance maps.
        kept: (B,) the share of points with the original prediction.
    """

    change: Tensor
    lipschitz: Tensor
    top_k: Tensor
    kept: Tensor


def extremes(judge: Judge, points: Iterable[Tensor], k: int) -> Iterator[Extremes]:
    """Follow the extremes over points.

    Args:
        judge: made with the original images.
        points: each (B, C, H, W), one point for every image.
        k: how many pixels count as the most important.

    Yields:
        The extremes of the points so far, after every point.
    """
    before, _ = judge.look(judge.images)
    zero = torch.zeros_like(judge.confidence)
    most = Extremes(zero, zero, torch.ones(len(zero), dtype=torch.float64, device=zero.device), zero)
    for count, x in enumerate(points, 1):
        attributions, logits = judge.look(x)
        maps, alive = safe_importance(attributions)
        kept = alive & judge.sound & (logits.argmax(1) == judge.prediction)
        moved, step = ((a - b).flatten(1).norm(dim=1) for a, b in ((attributions, before), (x, judge.images)))
        found = (moved / before.flatten(1).norm(dim=1), (moved / step).where(step > 0, 0))
        change, lipschitz = (torch.maximum(old, new.where(kept, 0)) for old, new in zip(most[:2], found, strict=True))
        least = torch.minimum(most.top_k, top_k_intersection(maps, judge.reference, k).where(kept, 1))
        most = Extremes(change, lipschitz, least, most.kept + (kept.to(zero) - most.kept) / count)
        yield most


def draws(images: Tensor, epsilon: float, generators: Sequence[torch.Generator], *, block: int = 1) -> Iterator[Tensor]:
    """Draw uniformly from the ball, without end.

    Args:
        images: (B, C, H, W) in [0, 1].
        epsilon: radius of the L-inf ball, in units of the pixel range.
        generators: one for each image, whose draws then do not depend on the batch.
        block: the change is constant on squares of so many pixels, before it is clipped to [0, 1].

    Yields:
        Images, (B, C, H, W).
    """
    coarse, (lower, upper) = _coarse(images, block), ball(images, epsilon)
    while True:
        shares = [uniform(one, source) for one, source in zip(torch.split(coarse, 1), generators, strict=True)]
        yield _moved(images, epsilon * (2 * torch.cat(shares) - 1), block, lower, upper)


def climb(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    attribution: Attribution,
    epsilon: float,
    beta: float,
    iterations: int,
    generators: Sequence[torch.Generator],
    block: int = 1,
) -> Iterator[Tensor]:
    """Attack the attributions themselves: sign steps along the gradient of |a(x') - a(x)|^2, from a draw of the ball.

    Step sizes and surrogate are those of `fragility.attack.annealed`, without its momentum.

    Args:
        model: images in [0, 1] to logits (B, K), in evaluation mode.
        images: (B, C, H, W) in [0, 1].
        labels: int64 (B,), the classes explained.
        attribution: (model, images, labels) -> signed attributions (B, C, H, W).
        epsilon: radius of the L-inf ball, in units of the pixel range.
        beta: sharpness of the surrogate at the end.
        iterations: P, the number of steps.
        generators: one for each image, for the draw.
        block: as for `draws`.

    Yields:
        The iterates.
    """
    budget = annealed(epsilon, beta, iterations)
    first, last = budget["surrogate_beta"]
    coarse, (lower, upper) = _coarse(images, block), ball(images, epsilon)
    shares = [uniform(one, source) for one, source in zip(torch.split(coarse, 1), generators, strict=True)]
    change = epsilon * (2 * torch.cat(shares) - 1)
    with frozen(model):
        before = explain(attribution, model, images, labels).detach()
        for step in range(iterations):
            with softplus(first * (last / first) ** (step / max(1, iterations - 1))), torch.enable_grad():
                leaf = change.detach().requires_grad_()
                with twice_differentiable():
                    x = _moved(images, leaf, block, lower, upper)
                    moved = explain(attribution, model, x, labels) - before
                    (slope,) = torch.autograd.grad(moved.square().sum(), leaf)
            size = budget["step_size"] * (1 - step / iterations)
            change = (change + size * slope.nan_to_num(0, 0, 0).sign()).clamp(-epsilon, epsilon)
            yield _moved(images, change, block, lower, upper)


def _coarse(images: Tensor, block: int) -> Tensor:
    """Images of one pixel for each square."""
    check_count("block", block)
    return images[..., ::block, ::block]


def _moved(images: Tensor, change: Tensor, block: int, lower: Tensor, upper: Tensor) -> Tensor:
    """Add a change, a number for each square, inside the bounds."""
    fine = change.repeat_interleave(block, 2).repeat_interleave(block, 3)
    return (images + fine[..., : images.shape[2], : images.shape[3]]).clamp(lower, upper)
