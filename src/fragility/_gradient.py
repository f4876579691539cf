"""The scores of the labels, and their gradient: what every attribution is made of."""

from functools import partial

import torch
from torch import Tensor, nn

from fragility._alone import check_alone
from fragility._call import clear_errors, logits_of
from fragility._checks import check_gradients, check_images, check_labels, check_model, is_trusted
from fragility._reach import check_reached
from fragility._softplus import active_beta, check_substitutable
from fragility._state import check_once


def check_call(model: nn.Module, images: Tensor, labels: Tensor, *, copies: int = 1, eager: bool = False) -> None:
    """Refuse what nothing can be explained with; the model is looked at in an attack only once.

    Args:
        model: it has to be a function of one image.
        images: or rows of a table (B, d), of which `copies` each go through the model at a time.
        labels: one per image.
        copies: points on a path, or noisy ones.
        eager: whether its activations have to be reached outside of softplus too: DeepLIFT, which checks its sum.
    """
    check_images(images, tables=True)
    check_labels(labels, len(images))
    check_gradients(images)
    if is_trusted(model):
        return
    check_model(model)
    if eager or active_beta() is not None:
        check_substitutable(model)
    setting = images.shape[1:], images.dtype, len(images) > 1, copies > 1, eager
    check_once(partial(check_alone, model, images, copies=copies, honest=not eager), model, setting)


def scores_of(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The labels' logits, (B,), of a model that has no kink left inside `softplus`."""
    scores = pick(logits_of(model, images), labels)
    if not is_trusted(model):
        check_reached(model, images, labels, scores)
    return scores


def pick(logits: Tensor, labels: Tensor) -> Tensor:
    """The labels' logits, (B,)."""
    check_labels(labels, len(labels), logits.shape[1])
    return logits.gather(1, labels.unsqueeze(1)).squeeze(1)


def gradient(scores: Tensor, points: Tensor, *, create_graph: bool) -> Tensor:
    """One gradient per image: the images of a batch do not mix, so the gradient of the sum holds them all."""
    found = None
    if scores.requires_grad:
        with clear_errors():
            (found,) = torch.autograd.grad(scores.sum(), points, create_graph=create_graph, allow_unused=True)
    if found is None:
        raise ValueError(
            "model: expected logits that depend differentiably on the images, got constants: does "
            "it compute under no_grad or inference_mode, or detach them?"
        )
    return found
