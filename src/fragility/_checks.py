"""What every function asks of its arguments, said once: errors name the argument, what was expected and what came."""

import torch
from torch import Tensor, nn


def check_model(model: nn.Module) -> None:
    """Refuse anything but a module in evaluation mode.

    Args:
        model: the network to be explained.

    Raises:
        TypeError: if `model` is no `nn.Module`.
        ValueError: if it is in training mode (dropout and batch statistics would make every answer random).
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected an nn.Module, got {type(model).__name__}")
    if model.training:
        raise ValueError("model: expected evaluation mode, got training mode; call model.eval() first")


def check_images(images: Tensor, *, name: str = "images") -> None:
    """Refuse anything but a batch of finite floating-point images in [0, 1].

    Args:
        images: (B, C, H, W).
        name: how the error calls the argument.

    Raises:
        TypeError: if it is no floating-point tensor.
        ValueError: if the shape, the pixel range or a value (NaN) is wrong, or the batch is empty.
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(images).__name__}")
    if not images.is_floating_point():
        raise TypeError(f"{name}: expected a floating-point tensor, got {images.dtype}")
    if images.ndim != 4:
        raise ValueError(f"{name}: expected shape (B, C, H, W), got {tuple(images.shape)}")
    if images.numel() == 0:
        raise ValueError(f"{name}: expected at least one image, got shape {tuple(images.shape)}")
    low, high = (extreme.item() for extreme in images.detach().aminmax())
    if not (low >= 0 and high <= 1):  # also true of NaN
        raise ValueError(f"{name}: expected pixels in [0, 1], got values from {low:.6g} to {high:.6g}")


def check_labels(labels: Tensor, batch: int, num_classes: int | None = None, *, name: str = "labels") -> None:
    """Refuse anything but one class index per image.

    Args:
        labels: int64 (B,).
        batch: the number B of images.
        num_classes: the number K of classes, if it is known already.
        name: how the error calls the argument.

    Raises:
        TypeError: if it is no int64 tensor.
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
        TypeError: if the output is no tensor.
        ValueError: if its shape is not (B, K).
    """
    if not isinstance(logits, Tensor):
        raise TypeError(f"model: expected it to return a tensor of logits (B, K), got {type(logits).__name__}")
    if logits.ndim != 2 or logits.shape[0] != batch:
        raise ValueError(f"model: expected logits ({batch}, K), got shape {tuple(logits.shape)}")
    return logits


def check_positive(name: str, value: float) -> None:
    """Refuse a number that is not positive and finite.

    Args:
        name: how the error calls the argument.
        value: the number.

    Raises:
        ValueError: if it is zero, negative, infinite or NaN.
    """
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}: expected a finite number > 0, got {value}")


def check_count(name: str, value: int, most: int | None = None, *, least: int = 1) -> None:
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
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}")
    if value < least or (most is not None and value > most):
        limit = f">= {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name}: expected an integer {limit}, got {value}")


def check_maps(a: Tensor, b: Tensor) -> None:
    """Refuse two batches of maps that cannot be compared entry by entry.

    Args:
        a: (B, ...).
        b: the same shape.

    Raises:
        TypeError: if one is no tensor of real numbers.
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
