"""Calling a model that a user wrote: its logits, and PyTorch's errors in terms of the arguments."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from fragility._checks import check_logits
from fragility._hinges import forget

Model = Callable[[Tensor], Tensor]

# What a model raises that is given another number of images than it was written for.
OTHER_SIZE = (RuntimeError, AssertionError, ValueError, IndexError)


def logits_of(model: Model, images: Tensor) -> Tensor:
    """The logits (B, K) of a copy of the images: a model may write into its input."""
    try:
        with clear_errors():
            logits = check_logits(model(images.clone()), len(images))
    except RuntimeError as error:
        _check_kind(model, images, error)
        raise
    forget((logits,))  # |logits| is no activation of the model
    return logits


def _check_kind(model: Model, images: Tensor, error: RuntimeError) -> None:
    """Name the dtype or the device that a model's weights do not share with the images, once it has failed."""
    weights = [part for part in getattr(model, "parameters", list)() if part.is_floating_point()]
    for what, mine in (("dtype", images.dtype), ("device", images.device)):
        kinds = {getattr(part, what) for part in weights}
        if kinds and mine not in kinds:
            kind = " or ".join(sorted(map(str, kinds)))
            raise TypeError(
                f"images: expected the {what} of the model's weights, {kind}, got {mine}; pass images.to(...)"
            ) from error


@contextmanager
def clear_errors() -> Iterator[None]:
    """Restate the errors of PyTorch's engine in terms of the model.

    Yields:
        Nothing.

    Raises:
        ValueError: if the model's operations cannot be differentiated as they have to be.
        RuntimeError: for any other complaint, unchanged.
    """
    try:
        yield
    except RuntimeError as error:
        for pattern, message in _COMPLAINTS.items():
            found = re.search(pattern, str(error))
            if found:
                raise ValueError(f"model: {message.format(*found.groups())}") from error
        raise


_COMPLAINTS = {
    r"derivative for '?(?:aten::)?_?(\w+?)(?:_backward)?'? is not implemented": (
        "PyTorch has no second derivative of {0}; write it in other operations"
    ),
    r"forward AD with _?(\w+?)(?:_forward)? that does not support": (
        "PyTorch has no forward derivative of {0}; write it in other operations, or pass mode='double_backward'"
    ),
    r"Inference tensors": (
        "a part of it computes in torch.inference_mode(), where nothing can be differentiated; torch.no_grad() is "
        "allowed"
    ),
    r"register a hook on a tensor that doesn't require grad": (
        "it registers a hook on a tensor that requires no gradient; ask for tensor.requires_grad before"
    ),
    r"checkpoint is incompatible with \.grad": (
        "a checkpoint with use_reentrant=True gives no gradient of images; pass use_reentrant=False"
    ),
    r"torch\.utils\.checkpoint: (?:A different number|Recomputed values)": (
        "a checkpoint computed its part again in another way than at first: its softplus is not reached outside of the "
        "context; explain inside `softplus`, or without checkpoints"
    ),
    r"once_differentiable|does not currently support double backward": (
        "a custom or compiled function in it can be differentiated only once; write its backward pass in "
        "differentiable operations"
    ),
}
