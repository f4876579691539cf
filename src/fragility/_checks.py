"""What every function asks of its arguments, said once: errors name the argument, what was expected and what came."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Integral
from typing import SupportsFloat, SupportsIndex

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.dropout import _DropoutNd


def check_model(model: nn.Module) -> None:
    """Refuse anything but a module in evaluation mode with all its parts, whose answer for an image is its own.

    Args:
        model: the network to be explained.

    Raises:
        TypeError: if `model` is not an `nn.Module`.
        ValueError: if it or a part of it is in training mode (dropout and batch statistics would make every answer
            random), normalises by the batch's own statistics, or has quantised weights, which have no gradient.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected an nn.Module, got {type(model).__name__}")
    if model.training and not isinstance(model, torch.fx.GraphModule):  # an exported one has no eval()
        raise ValueError("model: expected evaluation mode, got training mode; call model.eval() first")
    for name, module in model.named_modules():
        part = f"its part {name!r} ({type(module).__name__})"
        if "quantiz" in type(module).__module__:
            raise ValueError(
                f"model: {part} has quantised weights, which have no gradient; explain the network before quantisation"
            )
        if module.training and _depends_on_mode(module):
            raise ValueError(f"model: expected evaluation mode, got training mode in {part}; call model.eval() first")
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise ValueError(
                f"model: {part} has no running statistics, so an image's answer depends on the others in the batch; "
                "train it with track_running_stats=True, or use nn.GroupNorm"
            )


def check_training(model: nn.Module, *, path: bool = False) -> None:
    """Refuse to differentiate an image's loss where training mode makes it more than a function of that image.

    Batch norm that uses the batch's statistics mixes the images, so the gradient of the batch's loss with respect to an
    image is not that of the image's loss. Its statistics are not frozen silently: the loss would be another network's.

    Args:
        model: the network in training.
        path: whether the loss is looked at in several points, which dropout would give to another network each.

    Raises:
        ValueError: if there is such a module.
    """
    for name, module in model.named_modules():
        batch = isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)
        if batch or (path and isinstance(module, _DropoutNd) and module.training and module.p > 0):
            kind = "batch norm" if batch else "dropout"
            raise ValueError(
                f"model: {kind} in training mode in its part {name!r}, which makes a loss depend on "
                f"{'the other images of the batch' if batch else 'chance'}; call eval() on that part (the rest may "
                f"train){', or use nn.GroupNorm' if batch else ''}"
            )


def _depends_on_mode(module: nn.Module) -> bool:
    """Whether training mode changes what the module itself computes."""
    if isinstance(module, _DropoutNd):
        return module.p > 0
    if isinstance(module, (nn.MultiheadAttention, nn.RNNBase)):
        return module.dropout > 0
    if isinstance(module, (_NormBase, nn.RReLU)):
        return not isinstance(module, _NormBase) or isinstance(module, _BatchNorm) or module.track_running_stats
    # A module of one's own may do anything; those of PyTorch that are left do the same in both modes.
    return not type(module).__module__.startswith(("torch.nn.modules.", "torch.fx.", "torch.export."))


def check_images(images: Tensor, *, name: str = "images", tables: bool = False) -> None:
    """Refuse anything but a batch of finite floating-point images in [0, 1].

    Args:
        images: (B, C, H, W).
        name: how the error calls the argument.
        tables: whether rows of a table, (B, d), will do as well.

    Raises:
        TypeError: if it is not a floating-point tensor.
        ValueError: if the shape, the pixel range or a value (NaN) is wrong, or the batch is empty.
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(images).__name__}")
    if not images.is_floating_point():
        raise TypeError(f"{name}: expected a floating-point tensor, got {images.dtype}")
    if images.layout != torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got {images.layout}; pass images.to_dense()")
    if images.is_meta:
        raise ValueError(f"{name}: expected a tensor with values, got one on the meta device")
    if images.ndim != 4 and not (tables and images.ndim == 2):
        wanted = "(B, C, H, W), or (B, d) for rows of a table" if tables else "(B, C, H, W)"
        raise ValueError(f"{name}: expected shape {wanted}, got {tuple(images.shape)}")
    if images.numel() == 0:
        raise ValueError(f"{name}: expected at least one image, got shape {tuple(images.shape)}")
    low, high = (extreme.item() for extreme in images.detach().aminmax())
    if not (low >= 0 and high <= 1):  # also true of NaN
        what = "pixels" if images.ndim == 4 else "columns scaled to lie"
        raise ValueError(f"{name}: expected {what} in [0, 1], got values from {low} to {high}")


def check_gradients(images: Tensor) -> None:
    """Refuse to explain where PyTorch records nothing to differentiate.

    Args:
        images: to be explained.

    Raises:
        ValueError: inside `torch.inference_mode`, or for images that were made there.
    """
    if torch.is_inference_mode_enabled():
        raise ValueError("expected gradients to be available, got torch.inference_mode(); torch.no_grad() is allowed")
    if images.is_inference():
        raise ValueError("images: expected an ordinary tensor, got one made in torch.inference_mode(); clone() it")


def check_labels(labels: Tensor, batch: int, num_classes: int | None = None, *, name: str = "labels") -> None:
    """Refuse anything but one class index per image.

    Args:
        labels: int64 (B,).
        batch: the number B of images.
        num_classes: the number K of classes, if it is known already.
        name: how the error calls the argument.

    Raises:
        TypeError: if it is not an int64 tensor.
        ValueError: if the shape is wrong or a label lies outside [0, K).
    """
    if not isinstance(labels, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(labels).__name__}")
    if labels.dtype != torch.int64:
        raise TypeError(f"{name}: expected dtype torch.int64, got {labels.dtype}")
    if labels.shape != (batch,):
        raise ValueError(f"{name}: expected shape ({batch},), got {tuple(labels.shape)}")
    if num_classes is None:
        return
    low, high = (extreme.item() for extreme in labels.aminmax())
    if low < 0 or high >= num_classes:
        raise ValueError(f"{name}: expected classes in [0, {num_classes}), got values from {low} to {high}")


def check_logits(logits: object, batch: int) -> Tensor:
    """Refuse a model whose output is not one row of logits per image.

    Args:
        logits: what the model returned.
        batch: the number B of images it was given.

    Returns:
        The logits, (B, K).

    Raises:
        TypeError: if the output is not a tensor of floating-point numbers.
        ValueError: if its shape is not (B, K).
    """
    if not isinstance(logits, Tensor):
        raise TypeError(f"model: expected it to return a tensor of logits (B, K), got {type(logits).__name__}")
    if logits.ndim != 2 or logits.shape[0] != batch:
        raise ValueError(f"model: expected logits ({batch}, K), got shape {tuple(logits.shape)}")
    if not logits.is_floating_point():
        raise TypeError(f"model: expected floating-point logits, got {logits.dtype}")
    return logits


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """Shape a value for each image, (B,), such that it broadcasts along images or rows of a table."""
    return values.view(-1, *[1] * (like.ndim - 1))


def entries(like: Tensor) -> tuple[int, ...]:
    """All dimensions but the first."""
    return tuple(range(1, like.ndim))


def rounding(tensor: Tensor) -> float:
    """The rounding error of the arithmetic that a tensor was computed in.

    Args:
        tensor: floating-point.

    Returns:
        The spacing of numbers above 1; that of TensorFloat-32's ten bits where convolutions may use it.
    """
    coarse = tensor.is_cuda and tensor.dtype == torch.float32 and torch.backends.cudnn.allow_tf32
    return 2.0**-10 if coarse else torch.finfo(tensor.dtype).eps


@contextmanager
def trusting(model: nn.Module) -> Iterator[None]:
    """Inside this context a model that was checked is not checked again, at every step of an attack, say.

    Args:
        model: that model.

    Yields:
        Nothing.
    """
    token = _trusted.set(model)
    try:
        yield
    finally:
        _trusted.reset(token)


def is_trusted(model: nn.Module) -> bool:
    """Whether a model needs no further check."""
    return _trusted.get() is model


_trusted: ContextVar[nn.Module | None] = ContextVar("the model that was checked", default=None)


def check_positive(name: str, value: float) -> None:
    """Refuse a number that is not positive and finite.

    Args:
        name: how the error calls the argument.
        value: the number.

    Raises:
        TypeError: if it is not a number.
        ValueError: if it is zero, negative, infinite or NaN.
    """
    given: object = value
    if isinstance(given, (bool, str)) or not isinstance(given, SupportsFloat):
        raise TypeError(f"{name}: expected a number, got {type(given).__name__}")
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}: expected a finite number > 0, got {value}")


def check_epsilon(epsilon: float, name: str = "epsilon") -> None:
    """Refuse a change of pixels that is not positive, or larger than the whole range of pixels.

    Args:
        epsilon: in units of the pixel range.
        name: how the error calls it.

    Raises:
        ValueError: if it is out of range.
    """
    check_positive(name, epsilon)
    if epsilon > 1:
        hint = f"{epsilon:g} / 255 for {epsilon:g} of 255 grey levels" if epsilon <= 255 else "8 / 255, say"
        raise ValueError(f"{name}: expected at most 1, in units of the pixel range, got {epsilon}; pass {hint}")


def check_count(name: str, value: SupportsIndex, most: int | None = None, *, least: int = 1) -> None:
    """Refuse anything but an integer from `least` to `most`.

    Args:
        name: how the error calls the argument.
        value: the count.
        most: the largest count allowed; None for no limit.
        least: the smallest count allowed.

    Raises:
        TypeError: if it is not an integer.
        ValueError: if it is out of range.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):  # NumPy's integers are some
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}")
    if int(value) < least or (most is not None and int(value) > most):
        limit = f">= {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name}: expected an integer {limit}, got {value}")


def check_choice(name: str, value: object, choices: Collection[str | None]) -> None:
    """Refuse anything but one of several words.

    Args:
        name: how the error calls the argument.
        value: the word.
        choices: those allowed.

    Raises:
        ValueError: if it is another one.
    """
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(str, choices))}, got {value!r}")


def check_maps(a: Tensor, b: Tensor) -> None:
    """Refuse two batches of maps that cannot be compared entry by entry.

    Args:
        a: (B, ...).
        b: the same shape.

    Raises:
        TypeError: if one is not a tensor of real numbers.
        ValueError: if the shapes differ, are empty or hold fewer than two entries a row, or a value is NaN.
    """
    for name, maps in (("a", a), ("b", b)):
        if not isinstance(maps, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(maps).__name__}")
        if maps.is_complex() or maps.dtype == torch.bool:
            raise TypeError(f"{name}: expected real numbers, got {maps.dtype}")
        if maps.ndim < 2 or maps.shape[0] == 0 or maps[0].numel() < 2:
            raise ValueError(f"{name}: expected shape (B, H, W) with B >= 1 and two pixels, got {tuple(maps.shape)}")
        if maps.isnan().any():
            raise ValueError(f"{name}: expected numbers, got NaN")
    if a.shape != b.shape:
        raise ValueError(f"b: expected the shape of a, {tuple(a.shape)}, got {tuple(b.shape)}")
