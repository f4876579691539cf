"""Activations of a user's own: autograd functions, one with a kink and one without, and a ReLU in another thread."""

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor


def in_a_thread(z: Tensor) -> Tensor:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.relu, z).result()


class Ramp(torch.autograd.Function):
    """A ReLU, whose kink nothing outside of it can see."""

    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return z * (z.data > 0)

    @staticmethod
    def backward(ctx, grad):
        return grad * (ctx.saved_tensors[0] > 0)


class Swish(torch.autograd.Function):
    """A smooth activation with a backward pass that can be differentiated."""

    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return z * torch.sigmoid(z)

    @staticmethod
    def backward(ctx, grad):
        (z,) = ctx.saved_tensors
        gate = torch.sigmoid(z)
        return grad * gate * (1 + z * (1 - gate))
