"""Certificates for gradients of a network with one hidden layer of softplus, and an attack that may refute them."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy

from fragility.data.datasets import ImageDataset
from fragility.similarity import top_k_intersection


def dense(data: ImageDataset, widths: list[int], activation: nn.Module, seed: int, steps: int) -> nn.Sequential:
    """Train a dense float64 network on all images at once."""
    images, layers = data.images.double(), [nn.Flatten()]
    sizes = [images[0].numel(), *widths]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for before, width in zip(sizes, widths, strict=False):
            layers += [nn.Linear(before, width), activation]  # type: ignore[list-item]
        model = nn.Sequential(*layers, nn.Linear(sizes[-1], len(data.class_names))).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model(images), data.labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model.eval().requires_grad_(False)


def slopes(model: Any, x: Tensor, labels: Tensor) -> Tensor:
    """Return the gradients of the labels' logits at points (B, d), in closed form."""
    first, bend, last = model[1:]
    g: Tensor = (last.weight[labels] * torch.sigmoid(bend.beta * first(x))) @ first.weight
    return g


def hessian_bound(model: Any, x: Tensor, labels: Tensor, epsilon: float | None) -> Tensor:
    """Bound the norm of the Hessian of the labels' logits by K (B,): in balls around x (B, d), or everywhere."""
    # H = W^T diag(a s) W with 0 <= s_j <= softplus''(z) at the z of the ball that is nearest to 0, where it is largest.
    first, bend, last = model[1:]
    reach = torch.inf if epsilon is None else epsilon * first.weight.norm(dim=1)
    nearest = bend.beta * (first(x).abs() - reach).clamp(min=0)
    weights = last.weight[labels] * bend.beta * torch.sigmoid(nearest) * torch.sigmoid(-nearest)
    parts = [first.weight.T @ (sign * weights).clamp(min=0).diag_embed() @ first.weight for sign in (1, -1)]
    return torch.stack([torch.linalg.eigvalsh(part)[:, -1] for part in parts]).amax(0)


def certified_overlap(sizes: Tensor, k: int, radius: Tensor) -> Tensor:
    """Return the share (B,) of the top k of |g| (B, d) left after any change of g shorter than `radius` (B,)."""
    # If the i-th stays above the (2k - i + 1)-th, at most k - i pixels from below can enter.
    ranked = sizes.sort(dim=1, descending=True).values
    gaps = ranked[:, :k] - ranked[:, k : 2 * k].flip(1)
    # Two entries of a vector of length r differ by 2^(1/2) r at most.
    share: Tensor = (gaps > 2**0.5 * radius.unsqueeze(1)).sum(1).to(sizes.dtype) / k
    return share


def certified_cosine(g: Tensor, radius: Tensor) -> Tensor:
    """Return the least cosine (B,) with g (B, d) that a change with a norm of at most `radius` (B,) leaves."""
    sine: Tensor = (radius / g.norm(dim=1)).clamp(max=1)
    return (1 - sine.square()).sqrt()


def in_ball(x: Tensor, epsilon: float, source: torch.Generator) -> Tensor:
    """Draw a point from the surface of the ball around each row."""
    move = torch.randn(x.shape, generator=source, dtype=x.dtype)
    y: Tensor = x + epsilon * move / move.norm(dim=1, keepdim=True)
    return y


def climb(
    maps: Callable[[Tensor], Tensor], x: Tensor, epsilon: float, k: int, steps: int, starts: int, seed: int
) -> Iterator[Tensor]:
    """Attack in the L2 ball around x (B, d): gradient steps of unit norm, towards less of the top k, or another angle.

    The first start is next to x, where the angle's gradient is not zero; the others are on the surface.
    """
    source, before = torch.Generator().manual_seed(seed), maps(x)
    top = before.abs().topk(k, dim=1).indices
    for number in range(2 * starts):
        y = in_ball(x, epsilon * (1 if number > 1 else 1e-3), source)
        for step in range(steps):
            y.requires_grad_()
            g = maps(y)
            value = cosine_similarity(g, before) if number % 2 else g.abs().gather(1, top).sum(1) / g.abs().sum(1)
            (down,) = torch.autograd.grad(-value.sum(), y)
            size = epsilon * (1 - step / steps) / 4
            move = y.detach() - x + size * down / down.norm(dim=1, keepdim=True).clamp(min=1e-30)
            y = x + move * (epsilon / move.norm(dim=1, keepdim=True)).clamp(max=1)
            yield y


def least(maps: Callable[[Tensor], Tensor], x: Tensor, points: Iterator[Tensor], k: int) -> tuple[Tensor, Tensor]:
    """Return the least overlap of the top k and the least cosine (B,) of the maps of points with those of x."""
    before, overlap, cosine = maps(x), torch.ones(len(x), dtype=x.dtype), torch.ones(len(x), dtype=x.dtype)
    for y in points:
        after = maps(y)
        shared = top_k_intersection(before.abs(), after.abs(), k).to(x.dtype)
        overlap, cosine = torch.minimum(overlap, shared), torch.minimum(cosine, cosine_similarity(before, after))
    return overlap, cosine
