"""Operator norms of layers, exact for convolutions too, and the training losses that bound them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fragility._checks import check_count
from fragility.fingerprint import recipe

Layer = nn.Linear | nn.Conv2d
BLOCK = 4  # vectors in the power iteration


def operator_norm(layer: nn.Module, shape: tuple[int, ...], *, iterations: int = 100, seed: int = 0) -> Tensor:
    """Compute the largest singular value of a layer as a linear map of whole images [Sedghi2019].

    By power iteration on A^T A, with a block of four vectors because the singular values of convolutions lie close
    together. For a convolution A is the full map with its stride and padding; the norm of the kernel reshaped to a
    matrix can be smaller or larger.

    Args:
        layer: `nn.Linear` or `nn.Conv2d` (zero padding); the bias does not count.
        shape: of one input, (C, H, W) or (features,).
        iterations: of the power iteration; the error falls as (fifth / first singular value)^(4 iterations).
        seed: of the starting vectors.

    Returns:
        A scalar, differentiable with respect to the weight: its gradient is u v^T, with the singular vectors u, v.

    Raises:
        TypeError: if the layer is of another kind.
    """
    check_count("iterations", iterations)
    apply = _linear_map(layer)
    weight: Any = layer.weight
    generator = torch.Generator().manual_seed(seed)
    block = min(BLOCK, torch.Size(shape).numel())
    v = torch.randn(block, *shape, generator=generator, dtype=weight.dtype).to(weight.device)
    for _ in range(iterations):
        with torch.enable_grad():
            v.requires_grad_()
            output = apply(v, weight.detach())
            (v,) = torch.autograd.grad(output, v, output.detach())  # A^T A v
        v = torch.linalg.qr(v.flatten(1).T).Q.T.reshape(v.shape)
    with torch.no_grad():  # the best combination of the block
        left = torch.linalg.svd(apply(v, weight).flatten(1), full_matrices=False).U
        v = torch.einsum("b,b...->...", left[:, 0], v).unsqueeze(0)
    norm: Tensor = torch.linalg.vector_norm(apply(v, weight))
    return norm


def operator_norms(model: nn.Module, images: Tensor, *, iterations: int = 100) -> dict[str, Tensor]:
    """Compute the operator norm of every linear and convolutional layer, for inputs of the size of `images`.

    Args:
        model: whose layers.
        images: (B, C, H, W); the first one is run through the model to see what each layer receives.
        iterations: see `operator_norm`.

    Returns:
        By the layer's name, in the order of the model, a scalar each.

    Raises:
        ValueError: if the model has no such layer.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    layers = {name: part for name, part in model.named_modules() if isinstance(part, Layer)}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def note(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            shapes[name] = tuple(inputs[0].shape[1:])

        return note

    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            model(images[:1])
    finally:
        for handle in handles:
            handle.remove()
    if not shapes:
        raise ValueError("model: expected an nn.Linear or nn.Conv2d in it, found none")
    return {name: operator_norm(layers[name], shape, iterations=iterations) for name, shape in shapes.items()}


def operator_norm_penalty(model: nn.Module, images: Tensor, *, iterations: int = 10) -> Tensor:
    """Sum the squared operator norms of all layers: spectral norm regularization [Yoshida2017].

    Args:
        model: whose layers.
        images: (B, C, H, W); only their size counts.
        iterations: see `operator_norm`.

    Returns:
        A scalar, differentiable with respect to the weights.
    """
    norms = operator_norms(model, images, iterations=iterations)
    return torch.stack([norm.square() for norm in norms.values()]).sum()


@recipe("operator_norm/1")
def operator_norm_loss(
    model: nn.Module, images: Tensor, labels: Tensor, *, weight: float, iterations: int = 10
) -> Tensor:
    """Cross entropy + (lambda / 2) times the sum of the squared operator norms [Yoshida2017].

    Args:
        model: images in [0, 1] to logits (B, K).
        images: (B, C, H, W) in [0, 1].
        labels: int64 (B,).
        weight: lambda.
        iterations: see `operator_norm`.

    Returns:
        A scalar.
    """
    return F.cross_entropy(model(images), labels) + weight / 2 * operator_norm_penalty(
        model, images, iterations=iterations
    )


def parseval_penalty(model: nn.Module) -> Tensor:
    """Sum |G - 1|_F^2 over the layers, G the Gram matrix of the rows or columns, whichever are fewer [Cisse2017].

    It vanishes where all singular values of every weight matrix are 1. The matrix of a convolution is its kernel
    reshaped to (channels out, channels in x height x width), times the square root of height x width: a pixel enters at
    most height x width windows, so operator norms are at most 1 where the penalty vanishes.

    Args:
        model: whose `nn.Linear` and `nn.Conv2d`.

    Returns:
        A scalar, differentiable with respect to the weights.

    Raises:
        ValueError: if the model has no such layer.
    """
    parts = []
    for layer in model.modules():
        if isinstance(layer, Layer):
            matrix = layer.weight.flatten(1) * layer.weight[0, 0].numel() ** 0.5
            gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
            parts.append((gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).square().sum())
    if not parts:
        raise ValueError("model: expected an nn.Linear or nn.Conv2d in it, found none")
    return torch.stack(parts).sum()


@recipe("parseval/1")
def parseval_loss(model: nn.Module, images: Tensor, labels: Tensor, *, weight: float) -> Tensor:
    """Cross entropy + (beta / 2) times the Parseval penalty [Cisse2017].

    Args:
        model: images in [0, 1] to logits (B, K).
        images: (B, C, H, W) in [0, 1].
        labels: int64 (B,).
        weight: beta.

    Returns:
        A scalar.
    """
    return F.cross_entropy(model(images), labels) + weight / 2 * parseval_penalty(model)


def _linear_map(layer: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """Return what a layer without its bias does, as a function of input and weight."""
    if isinstance(layer, nn.Linear):
        return F.linear
    if isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros":
        stride, padding, dilation, groups = layer.stride, layer.padding, layer.dilation, layer.groups
        return lambda v, weight: F.conv2d(v, weight, None, stride, padding, dilation, groups)
    raise TypeError(f"layer: expected nn.Linear or nn.Conv2d with zero padding, got {layer}")
