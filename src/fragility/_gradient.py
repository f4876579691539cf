"""The scores of the labels, and their gradient: what every attribution is made of."""

from collections.abc import Callable

import torch
from torch import Tensor

from fragility._checks import check_labels, check_logits

Model = Callable[[Tensor], Tensor]


def logits_of(model: Model, images: Tensor) -> Tensor:
    """The logits (B, K) of a copy of the images: a model may write into its input."""
    return check_logits(model(images.clone()), len(images))


def pick(logits: Tensor, labels: Tensor) -> Tensor:
    """The labels' logits, (B,)."""
    check_labels(labels, len(labels), logits.shape[1])
    return logits.gather(1, labels.unsqueeze(1)).squeeze(1)


def gradient(scores: Tensor, points: Tensor, *, create_graph: bool) -> Tensor:
    """One gradient per image: the images of a batch do not mix, so the gradient of the sum holds them all."""
    found = None
    if scores.requires_grad:
        (found,) = torch.autograd.grad(scores.sum(), points, create_graph=create_graph, allow_unused=True)
    if found is None:
        raise ValueError("model: expected logits that depend differentiably on the images, got constants")
    return found
