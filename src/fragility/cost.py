"""What a training step costs, in forward passes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


def forward_equivalents(
    model: nn.Module, loss: Callable[[nn.Module, Tensor, Tensor], Tensor], images: Tensor, labels: Tensor
) -> float:
    """Count what one training step costs, in forward passes of the same batch.

    Only the floating-point operations of convolutions and matrix products are counted, in backward passes of any order
    too.

    Args:
        model: the network; at least one parameter must require a gradient.
        loss: (model, images, labels) -> scalar.
        images: (B, C, H, W) in [0, 1].
        labels: int64 (B,).

    Returns:
        About 3 for plain training: forward, and backward into activations and weights.
    """
    with torch.no_grad(), _Flops() as forward:
        model(images)
    with torch.random.fork_rng([]), _Flops() as step:
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        torch.autograd.grad(loss(model, images, labels), parameters, allow_unused=True)
    return float(step.total / forward.total)


class _Flops(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count operations; PyTorch's own mode also tracks modules, which breaks under `torch.autograd.grad`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func._overloadpacket):
            self.total += count(*args, **(kwargs or {}), out_val=result)
        return result
