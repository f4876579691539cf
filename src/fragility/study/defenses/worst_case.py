"""The attack that judges defenses: two aims, adaptive steps, the lowest Kendall's tau [Chen2019]."""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fragility import objective
from fragility.attack import iterative
from fragility.attribution import integrated_gradients
from fragility.iterate import Iterate
from fragility.similarity import kendall


class WorstCase(NamedTuple):
    """The worst iterates of both attacks."""

    images: Tensor  # (B, C, H, W); the original where no iterate keeps the label
    labels_kept: Tensor  # (B,) bool
    first: Tensor  # the first iterate, label kept or not
    taus: tuple[float, ...]  # each attack's own mean tau; unchanged counts 1


def worst_case(
    model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, k: int, steps: int, seed: int, **budget: Any
) -> WorstCase:
    """Attack integrated gradients twice, at the importance of the top k and at the order, and keep the lowest tau.

    Args:
        model: images in [0, 1] to logits (B, K), in evaluation mode.
        images: (B, C, H, W) in [0, 1].
        labels: int64 (B,).
        epsilon: radius of the L-inf ball, and the first step.
        k: how many pixels the first attack pushes importance out of.
        steps: M of integrated gradients.
        seed: of the restarts.
        **budget: `iterations`, `restarts` and `surrogate_beta` of `fragility.attack.iterative`.

    Returns:
        The worst iterates.
    """
    first: list[Tensor] = []

    def keep_first(iterate: Iterate) -> None:
        if iterate.number == 1:
            first.append(iterate.images)

    changed, lowest, taus = images, torch.ones(len(images), dtype=torch.float64, device=images.device), []
    kept = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    attribution = partial(integrated_gradients, steps=steps)
    search = {"selection": lambda maps, reference: -kendall(maps, reference), "callback": keep_first, **budget}
    search |= {"epsilon": epsilon, "step_size": epsilon, "schedule": "adaptive"}
    for aim in (objective.top_k(k), soft_kendall()):
        search["generator"] = torch.Generator().manual_seed(seed)
        found = iterative(model, images, labels, attribution=attribution, objective=aim, **search)
        tau = torch.where(found.labels_kept, -found.objective.double(), 1.0)
        changed = torch.where((tau < lowest).view(-1, 1, 1, 1), found.images, changed)
        lowest, kept = torch.minimum(tau, lowest), kept | found.labels_kept
        taus.append(tau.mean().item())
    return WorstCase(changed, kept, first[0], tuple(taus))


def soft_kendall(pairs: int = 4096, seed: int = 0) -> objective.Objective:
    """Reverse the order of pixels: an objective that stands in for Kendall's tau, whose own derivative is zero.

    D = - mean of sign(b_i - b_j) tanh((a_i - a_j) / c) over random pairs of pixels, b the reference and a the map, c
    the mean difference of the reference's pairs.

    Args:
        pairs: how many.
        seed: of their draw.

    Returns:
        An objective with values in [-1, 1].
    """

    def value(maps: Tensor, reference: Tensor) -> Tensor:
        a, b = maps.flatten(1), reference.flatten(1)
        i, j = torch.randint(a.shape[1], (2, pairs), generator=torch.Generator().manual_seed(seed)).to(a.device)
        gaps = b[:, i] - b[:, j]
        scale = gaps.abs().mean(1, keepdim=True)
        return -(gaps.sign() * torch.tanh((a[:, i] - a[:, j]) / scale)).mean(1)

    return value
