"""A step of an attack: the ball of images allowed, the sign step in it, draws, and parameters that stay as they are."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fragility._checks import check_epsilon, check_images
from fragility._state import remembered


def ball(images: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Bound the images allowed: between the bounds, |x' - x| <= epsilon and 0 <= x' <= 1 hold exactly.

    Args:
        images: (B, C, H, W) in [0, 1], or rows of a table (B, d).
        epsilon: radius of the L-inf ball.

    Returns:
        The least and the greatest image.

    Raises:
        TypeError: if the images are neither float32 nor float64.
    """
    check_images(images, tables=True)
    check_epsilon(epsilon)
    if images.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"images: expected float32 or float64, got {images.dtype}")
    radius = torch.tensor(epsilon, dtype=images.dtype, device=images.device)
    if radius.item() > epsilon:
        radius = radius.nextafter(torch.zeros_like(radius))
    # x + radius may be rounded outwards by half a unit in the last place; the next number inwards is safe.
    return (images - radius).nextafter(images).clamp(min=0), (images + radius).nextafter(images).clamp(max=1)


def sign_step(x: Tensor, slope: Tensor, size: float | Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Take one step of projected gradient ascent in the L-inf ball: clip(x + size sign(slope)) [Ghorbani2019, Alg. 1].

    Args:
        x: (B, C, H, W), or (B, d), where.
        slope: of the same shape, the gradient, or whatever has its signs.
        size: alpha, broadcastable to `x`.
        lower: the least image, from `ball`.
        upper: the greatest.

    Returns:
        Images between the bounds.
    """
    return (x + size * slope.sign()).clamp(lower, upper)


def uniform(images: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw one number from [0, 1) per entry, on the generator's device.

    Args:
        images: their shape, dtype and device are those of the result.
        generator: None for PyTorch's own.

    Returns:
        A tensor of that shape.
    """
    device = images.device if generator is None else generator.device
    return torch.rand(images.shape, generator=generator, dtype=images.dtype, device=device).to(images.device)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Take no gradients with respect to the parameters, leave them as they were, and remember DeepLIFT's reference.

    Args:
        model: a network, some of whose parameters may require gradients.

    Yields:
        Nothing.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        with remembered():
            yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
