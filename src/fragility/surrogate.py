"""How faithful the softplus surrogate is: its maps against those of the ReLU network, by the sharpness beta."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fragility._convolution import twice_differentiable
from fragility._reach import check_smooth
from fragility._softplus import SoftplusNetwork as SoftplusNetwork
from fragility._softplus import softplus as softplus
from fragility.attribution import importance, simple_gradient
from fragility.iterate import explain
from fragility.similarity import center_shift, spearman, top_k_intersection

Attribution = Callable[[nn.Module, Tensor, Tensor], Tensor]

POWERS_OF_TWO = tuple(2.0**exponent for exponent in range(-10, 21))


@dataclass(frozen=True, eq=False)
class Fidelity:
    """The surrogate's maps compared with the network's own, per beta and image.

    Attributes:
        betas: (N,) sharpness of the softplus.
        spearman: (N, B) rank correlation.
        intersection: (N, B) share of the k most important pixels in common.
        center_shift: (N, B) distance of the centres of mass, in pixels.
    """

    betas: Tensor
    spearman: Tensor
    intersection: Tensor
    center_shift: Tensor


def surrogate_fidelity(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    betas: Sequence[float],
    attribution: Attribution = simple_gradient,
    k: int | None = None,
) -> Fidelity:
    """Compare the maps of the softplus surrogate with those of the network itself, for several beta.

    Args:
        model: images in [0, 1] to logits (B, K), in evaluation mode.
        images: (B, C, H, W) in [0, 1].
        labels: int64 (B,), the classes explained.
        betas: N values, in units of 1 / pre-activation.
        attribution: (model, images, labels) -> signed attributions (B, C, H, W).
        k: how many pixels count as most important; None is a fiftieth of the pixels, about the paper's 1000 of 227^2.

    Returns:
        One row per beta, in the order given.

    Raises:
        ValueError: if there is none, or one is not positive, or if softplus does not reach an activation.
    """
    if len(betas) == 0:
        raise ValueError("betas: expected one value or more, got none")
    rows = _fidelities(model, images.detach(), labels, betas, attribution, k)
    return Fidelity(torch.tensor(betas), *(torch.stack(column) for column in zip(*rows, strict=True)))


def _fidelities(
    model: nn.Module, images: Tensor, labels: Tensor, betas: Sequence[float], attribution: Attribution, k: int | None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The rank correlation, the intersection and the centre's shift of every beta, one after another."""
    reference = importance(explain(attribution, model, images, labels)).detach()
    k = max(1, reference[0].numel() // 50) if k is None else k
    for beta in betas:
        with softplus(beta):
            if beta == betas[0]:
                check_smooth(model, images, labels)
            maps = importance(explain(attribution, model, images, labels)).detach()
        yield spearman(maps, reference), top_k_intersection(maps, reference, k), center_shift(maps, reference)


def suggest_beta(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    attribution: Attribution = simple_gradient,
    fidelity: float = 0.95,
    betas: Sequence[float] = POWERS_OF_TWO,
) -> float:
    """Suggest the smallest beta whose maps agree with the network's to a mean rank correlation of `fidelity`.

    The larger beta, the more faithful the surrogate; the smaller, the further a unit's second derivative reaches from
    its kink, and the longer a step stays right. The trade is settled where the paper did: beta = 1 for the Caffe
    SqueezeNet in pixel units, whose maps correlate by .96 there and by .93 at half of it. A network whose
    pre-activations are c times as large gets beta / c, as it should: softplus_beta(c z) = c softplus_(c beta)(z).

    Args:
        model: images in [0, 1] to logits (B, K), in evaluation mode.
        images: (B, C, H, W) in [0, 1]; a few, and not those of an experiment.
        labels: int64 (B,), the classes explained.
        attribution: (model, images, labels) -> signed attributions (B, C, H, W).
        fidelity: the mean rank correlation to reach, between 0 and 1.
        betas: the candidates, in ascending order.

    Returns:
        The first of `betas` that is faithful enough.

    Raises:
        ValueError: if `fidelity` is out of range, softplus changes nothing in the network or does not reach all of its
            activations, or no candidate is faithful enough.
    """
    if not 0 < fidelity < 1:
        raise ValueError(f"fidelity: expected a number between 0 and 1, got {fidelity}")
    found = _fidelities(model, images.detach(), labels, betas, attribution, None)
    for beta, (rho, intersection, shift) in zip(betas, found, strict=True):
        if beta == betas[0] and (shift < 1e-4).all() and (intersection == 1).all():
            raise ValueError(f"model: softplus changes nothing in it: {_without_kinks(model, images, labels)}")
        if rho.mean() >= fidelity:
            return beta
    raise ValueError(f"fidelity: expected what one of {len(betas)} betas reaches, got {fidelity}; pass larger betas")


def _without_kinks(model: nn.Module, images: Tensor, labels: Tensor) -> str:
    """What an attack can do with a network in which softplus changes nothing."""
    points = images.detach().requires_grad_()
    gradient = simple_gradient(model, points, labels)
    if gradient.requires_grad:
        with twice_differentiable():
            (bend,) = torch.autograd.grad(gradient.square().sum(), points, materialize_grads=True)
        if bend.any():
            return "it has second derivatives of its own, so leave surrogate_beta=None"
    return "it is linear, or linear in pieces, and its gradient cannot be moved by small steps"
