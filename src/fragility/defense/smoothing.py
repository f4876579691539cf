"""Steadier explanations of a network as it is: gradients averaged over a neighbourhood."""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from fragility._checks import check_count, check_positive
from fragility._convolution import twice_differentiable
from fragility._gradient import check_call, gradient, scores_of

Draw = Callable[[torch.Size, torch.Generator, torch.dtype], Tensor]


def smooth_gradient(
    model: nn.Module, images: Tensor, labels: Tensor, *, sigma: float, samples: int = 16, seed: int = 0
) -> Tensor:
    """SmoothGrad: the gradient averaged over Gaussian noise [Smilkov2017].

    The noise depends on `seed` alone, the same for every image and every call, so the result can be differentiated and
    attacked like any attribution. Judge an attack with another seed: it may have fitted the noise.

    Args:
        model: images to logits (B, K), in evaluation mode; it also sees pixels outside [0, 1].
        images: (B, C, H, W) in [0, 1], or rows of a table (B, d).
        labels: int64 (B,), the classes explained.
        sigma: standard deviation of the noise, in units of the pixel range.
        samples: how many noisy copies.
        seed: of the noise.

    Returns:
        Signed attributions of the images' shape; they carry a graph exactly when `images.requires_grad`.
    """
    check_positive("sigma", sigma)

    def draw(shape: torch.Size, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        return sigma * torch.randn(shape, generator=generator, dtype=dtype)

    return _averaged(model, images, labels, draw, samples, seed)


def uniform_gradient(
    model: nn.Module, images: Tensor, labels: Tensor, *, radius: float, samples: int = 16, seed: int = 0
) -> Tensor:
    """The gradient averaged over the cube of pixels that differ by at most `radius` [Wang2020].

    Args:
        model: images to logits (B, K), in evaluation mode; it also sees pixels outside [0, 1].
        images: (B, C, H, W) in [0, 1], or rows of a table (B, d).
        labels: int64 (B,), the classes explained.
        radius: half the edge of the cube, in units of the pixel range.
        samples: how many points of it.
        seed: of the points; see `smooth_gradient`.

    Returns:
        Signed attributions of the images' shape; they carry a graph exactly when `images.requires_grad`.
    """
    check_positive("radius", radius)

    def draw(shape: torch.Size, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        return radius * (2 * torch.rand(shape, generator=generator, dtype=dtype) - 1)

    return _averaged(model, images, labels, draw, samples, seed)


def _averaged(model: nn.Module, images: Tensor, labels: Tensor, draw: Draw, samples: int, seed: int) -> Tensor:
    check_count("samples", samples)
    check_call(model, images, labels, copies=samples)
    generator = torch.Generator().manual_seed(seed)
    noise = draw(torch.Size((samples, 1, *images.shape[1:])), generator, images.dtype).to(images.device)
    with torch.enable_grad(), twice_differentiable() if images.requires_grad else nullcontext():
        points = (images + noise).flatten(0, 1)
        points = points if points.requires_grad else points.requires_grad_()
        scores = scores_of(model, points, labels.repeat(samples))
        slopes = gradient(scores, points, create_graph=images.requires_grad)
        return slopes.view(samples, *images.shape).mean(0)
