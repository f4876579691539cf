"""Is a model's answer for an image its own, whatever else is in the batch?"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fragility._call import OTHER_SIZE, logits_of
from fragility._checks import rounding
from fragility._derivative import Watch, check_gradient, check_hooks


class Alone(NamedTuple):
    """What a model that was found to look at one image at a time makes of the first one."""

    logits: Tensor
    sizes: list[float]  # of what its layers compute, for `fragility._reach.check_smooth`


def check_alone(model: nn.Module, images: Tensor, *, copies: int = 1, again: bool = True, honest: bool = True) -> Alone:
    """Refuse a model whose logits for an image depend on the rest of the batch, or on chance, or whose gradients lie.

    The first image is shown three times. With other neighbours, but in the same place of an equally large batch, the
    logits are the same up to the order of sums on a GPU; in another place of a larger batch they are the same up to
    rounding. Where it is the only one that the model will be given, it is shown alone, alone again, and after another.

    Args:
        model: images in [0, 1] to logits (B, K).
        images: (B, ...); two are used.
        copies: how many of each will go through the model at a time.
        again: False if a single image need not be shown alone again, because `check_same` looks at its next logits.

        honest: False if its gradients are compared with differences elsewhere.

    Returns:
        The first image's logits, and the sizes of what the layers make of the first images.

    Raises:
        ValueError: if the first image's logits differ, a hook rewrites gradients, or the model takes batches of one
            size only and will be given others.
    """
    first = images[:1].detach()
    opposite = torch.full(first.shape, float(first.mean() < 0.5), dtype=first.dtype, device=first.device)
    opposite.view(-1)[:1] = 1 - opposite.view(-1)[:1]  # another mean, and the extremes 0 and 1

    def show(batch: Tensor, place: int = 0) -> Tensor:
        with torch.no_grad(), Watch():
            return logits_of(model, batch)[place]

    neighbours = first if len(images) == 1 < copies else images[1:2].detach()
    fixed: Exception | None = None
    try:
        logits, sizes = check_hooks(model, torch.cat([first, neighbours]))
    except OTHER_SIZE as error:
        fixed, neighbours = error, images[1:].detach()
        logits, sizes = check_hooks(model, images.detach())
    if again or len(neighbours):
        check_same(logits, show(torch.cat([first, opposite.expand_as(neighbours)])))
    try:
        other = show(torch.cat([opposite, neighbours, first]), -1)
    except OTHER_SIZE as error:
        fixed = fixed or error
    else:
        check_same(logits, other, digits=0.5)
    if fixed is not None and copies > 1:
        raise ValueError(
            f"model: expected one for any number of images at a time, got one that takes {len(images)} and fails with "
            f"others ({fixed}); pass chunk=1 where it is an argument, or mend the model"
        ) from fixed
    if honest:
        check_gradient(model, images)
    return Alone(logits, sizes)


def check_same(logits: Tensor, other: Tensor, *, digits: float = 0.75) -> None:
    """Refuse a model that gives the first image other logits at another time, beyond a share of the digits."""
    with torch._C.DisableTorchFunction():  # softplus would take the absolute values for activations
        largest = logits[logits.isfinite()].abs().max() if logits.isfinite().any() else 0.0
        if not torch.allclose(logits, other, 0.0, float(rounding(logits) ** digits * largest), equal_nan=True):
            raise ValueError(
                "model: expected logits that depend on one image each; those of image 0 change by "
                f"{(logits - other).abs().max():.2g} with the rest of the batch (or by chance): is there a "
                "normalisation over the batch, a reordering, or dropout? If there is none, rounding grows too much "
                f"in it for {logits.dtype}"
            )
