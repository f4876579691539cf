"""The gradient averaged over the path of integrated gradients, with its derivative."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from fragility._call import logits_of
from fragility._checks import entries, per_row
from fragility._convolution import twice_differentiable
from fragility._gradient import gradient, pick, scores_of
from fragility._pool import QuickPools
from fragility._softplus import capture
from fragility._state import changes, state


def mean_gradient(model: nn.Module, images: Tensor, labels: Tensor, x0: Tensor, steps: int, chunk: int) -> Tensor:
    """Average grad S_l(x0 + k/M (x - x0)) over k = 1..M, in the precision of `x0`; differentiable once more."""
    # The last points keep their graphs for the second derivative, as many as go through the model at a time and at
    # least four. The others are computed anew then, so memory does not grow with M.
    keep = min(steps, max(chunk, 4)) if images.requires_grad else 0
    alphas = torch.arange(1, steps + 1, dtype=x0.dtype, device=x0.device) / steps
    halves = alphas[: steps - keep], alphas[steps - keep :]
    parts = [part for half in halves for part in torch.split(half, chunk) if len(part)]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    mean: Tensor = _PathMean.apply(  # type: ignore[no-untyped-call]
        images, labels, x0, model, parts, -(-keep // chunk), *parameters
    )
    return mean


class _PathMean(torch.autograd.Function):
    """The mean over the points at the positions `parts`; of those the last `keep` parts keep their graphs."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        labels: Tensor,
        x0: Tensor,
        model: nn.Module,
        parts: list[Tensor],
        keep: int,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(images, labels, x0)
        ctx.model, ctx.parts, ctx.parameters = model, parts, parameters
        ctx.again, ctx.state = _surroundings(x0.device.type), state(model) if keep else {}
        ctx.kept, ctx.sizes = {}, []
        total = torch.zeros_like(x0)
        for number, alphas in enumerate(parts):
            graph = number >= len(parts) - keep
            points, slopes = _along(model, images, labels, x0, alphas, create_graph=graph, check=number == 0)
            if graph:
                ctx.kept[number] = points, slopes
            ctx.sizes.append(_size(slopes))
            total += slopes.view(-1, *x0.shape).sum(0, dtype=x0.dtype)
        return total / sum(map(len, parts))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        images, labels, x0 = ctx.saved_tensors
        _check_same(changes(ctx.state, ctx.model))
        by_slopes = grads[0] / sum(map(len, ctx.parts))
        into_images, into_parameters = torch.zeros_like(x0), [torch.zeros_like(each) for each in ctx.parameters]
        # Those with a graph first: when they are done, its memory is free for the others.
        order = [*ctx.kept, *(number for number in range(len(ctx.parts)) if number not in ctx.kept)]
        with ctx.again(), twice_differentiable():
            for number in order:
                alphas = ctx.parts[number]
                if number in ctx.kept:
                    points, slopes = ctx.kept.pop(number)
                else:
                    points, slopes = _along(ctx.model, images, labels, x0, alphas, create_graph=True)
                    tolerance = torch.finfo(slopes.dtype).eps ** 0.5
                    if not torch.allclose(_size(slopes), ctx.sizes[number], tolerance, 0.0, equal_nan=True):
                        _check_same(["what it computes"])
                if not slopes.requires_grad:  # a linear model
                    continue
                weights = by_slopes.to(slopes.dtype).repeat(len(alphas), *[1] * (x0.ndim - 1))
                first, *others = torch.autograd.grad(slopes, [points, *ctx.parameters], weights, materialize_grads=True)
                into_images += (first.view(-1, *x0.shape) * per_row(alphas, x0.unsqueeze(0))).sum(0)
                for into, other in zip(into_parameters, others, strict=True):
                    into += other
        return into_images.to(images.dtype), None, None, None, None, None, *into_parameters


def _along(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    x0: Tensor,
    alphas: Tensor,
    *,
    create_graph: bool,
    check: bool = False,
) -> tuple[Tensor, Tensor]:
    """Points x0 + alpha (x - x0) for every alpha and image, flattened, and the scores' gradients there."""
    at = per_row(alphas, x0.unsqueeze(0))
    points = (x0 + at * (images.detach() - x0)).flatten(0, 1).to(images.dtype).requires_grad_()
    with torch.enable_grad(), twice_differentiable() if create_graph else QuickPools():
        targets = labels.repeat(len(alphas))
        scores = scores_of(model, points, targets) if check else pick(logits_of(model, points), targets)
        return points, gradient(scores, points, create_graph=create_graph)


def _size(slopes: Tensor) -> Tensor:
    """The sum of the absolute values of every gradient, by which a changed model shows."""
    return slopes.detach().abs().sum(entries(slopes), dtype=torch.float64)


def _check_same(changed: list[str]) -> None:
    """Refuse a model that is not the same in both passes."""
    if changed:
        raise ValueError(
            "model: expected the same one in the backward pass as in integrated_gradients, but "
            f"{', '.join(changed[:3])} changed in between; call backward first"
        )


def _surroundings(device: str) -> Callable[[], ExitStack]:
    """Remember the substitution and the autocast that are active now, to enter them again."""
    substitution = capture()
    dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)

    def again() -> ExitStack:
        stack = ExitStack()
        stack.enter_context(substitution())
        stack.enter_context(torch.autocast(device, dtype, enabled))
        return stack

    return again
