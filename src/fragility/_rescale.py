"""DeepLIFT's Rescale rule as a way for a model to compute, without touching the model [Shrikumar2017]."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from fragility import _softplus
from fragility._activation import (
    SMOOTH,
    deliver,
    full_name,
    hinge_secant,
    relu_secant,
    short_name,
    smooth_secant,
    softplus_secant,
    split_input,
    tensors_in,
    vanishing,
)
from fragility._hinges import NAMED


def rescale(*, create_graph: bool = True) -> AbstractContextManager[None]:
    """Compute DeepLIFT's Rescale rule [Shrikumar2017] while a model runs on the stacked batch [x; x0; t].

    The first two thirds are the images and their reference; the third, which must require a gradient, is carried by
    the *linear* network whose activations are the secants (f(z) - f(z0)) / (z - z0). The multipliers are the gradient
    of the third part's scores with respect to t, whatever t is. Inside `softplus` the secants are the softplus's.
    Whatever has no rule, such as a product of two activations, raises a `ValueError` that names it.

    Args:
        create_graph: let the multipliers be differentiated with respect to the images; the reference is a constant.

    Returns:
        A context manager.
    """
    return _Rescale(_softplus.active_beta(), create_graph)


class _Rescale(TorchFunctionMode):
    def __init__(self, beta: float | None, create_graph: bool) -> None:
        super().__init__()
        self.beta, self.create_graph = beta, create_graph
        # Tensors made of parameters alone (weight norm, say): they may require a gradient but carry no images.
        self.constants: WeakValueDictionary[int, Tensor] = WeakValueDictionary()
        # Tensors whose first dimension is no longer the stacked batch: no activation can take its thirds.
        self.moved: WeakValueDictionary[int, Tensor] = WeakValueDictionary()

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = list(tensors_in((args, kwargs)))
        batches = [tensor for tensor in tensors if self._carries_images(tensor)]
        name = short_name(func)
        if not batches:
            result = func(*args, **kwargs)
            if tensors:
                self.constants.update({id(tensor): tensor for tensor in tensors_in(result)})
            return result
        if name in NAMED or name in SMOOTH or name in _MAX_POOLS:
            z, rest, options = split_input(args, kwargs)
            if self.moved.get(id(z)) is z:
                raise ValueError(f"model: {full_name(func)} meets a batch that was moved out of the first dimension")
            rule = self._rule(name, z, rest, options)
            return deliver(func, args, kwargs, z, lambda source: self._by_thirds(source, rule))
        result = func(*args, **kwargs)
        outputs = list(tensors_in(result))
        if name in _CONSTANTS or not outputs:
            return result
        if not self._is_linear(name, args, kwargs, len(batches)):
            # No TypeError: Python's binary operators would replace it by one of their own.
            raise ValueError(
                f"model: DeepLIFT's Rescale rule has no rule for {full_name(func)}; simple_gradient and "
                "integrated_gradients need none"
            )
        rows = batches[0].shape[0]
        swapped = name in _REORDER and any(output.stride(0) != batches[0].stride(0) for output in outputs)
        unequal = not name.startswith("cat") and any(part.ndim == 0 or part.shape[0] != rows for part in outputs)
        if swapped or unequal or any(self.moved.get(id(tensor)) is tensor for tensor in batches):
            self.moved.update({id(output): output for output in outputs})
        return result

    def _by_thirds(self, stacked: Tensor, rule: Callable[..., tuple[Tensor, ...]]) -> Tensor:
        if stacked.shape[0] % 3:
            raise ValueError(f"rescale: expected a stacked batch [x; x0; t], got {stacked.shape[0]} rows")
        with torch._C.DisableTorchFunction():  # a softplus outside would take the rule's own |z - z0| for an activation
            z, z0, t = stacked.chunk(3)
            return torch.cat(rule(z if self.create_graph else z.detach(), z0.detach(), t))

    def _carries_images(self, tensor: Tensor) -> bool:
        return (
            tensor.requires_grad
            and not isinstance(tensor, nn.Parameter)
            and self.constants.get(id(tensor)) is not tensor
        )

    def _is_linear(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], batches: int) -> bool:
        if name in _NOISE and kwargs.get("training", True):
            return False
        if name in _SUMS:
            return True
        first = args[0] if args else kwargs.get("input")
        leads = isinstance(first, Tensor) and self._carries_images(first)
        return batches == 1 and (name in _PRODUCTS or (leads and name in _LINEAR))

    def _rule(self, name: str, given: Tensor, rest: Any, options: dict[str, Any]) -> Callable[..., tuple[Tensor, ...]]:
        """What an activation or a max-pool does to the three parts z, z0 and t."""
        if name in _MAX_POOLS:
            return lambda z, z0, t: _pool_thirds(name, z, z0, t, rest, options)
        if name in NAMED:
            settings = {key: option for key, option in options.items() if key != "inplace"}
            hinges, bent = NAMED[name](given, *rest, **settings), self.beta
            one = relu_secant if bent is None else lambda z, z0: softplus_secant(z, z0, bent)

            def combined(z: Tensor, z0: Tensor, t: Tensor) -> tuple[Tensor, ...]:
                value, reference, secant = hinge_secant(hinges, z, z0, one)
                return value, reference, secant * t

            return combined
        settings = {key: option for key, option in options.items() if key != "inplace"}
        beta = settings.get("beta", rest[0] if rest else 1.0) if name == "softplus" else 1.0

        function, derivative = SMOOTH[name]

        def value(z: Tensor) -> Tensor:
            return function(z, *rest, **settings)

        def secant(z: Tensor, z0: Tensor) -> Tensor:
            return smooth_secant(value, lambda s: derivative(s, *rest, **settings), z, z0, 1 / beta)

        return lambda z, z0, t: (value(z), value(z0), secant(z, z0) * t)


# The allow-list, by the functions' names without underscores (add, add_, __add__ and so on are one).
_MAX_POOLS = {f"{kind}max_pool{d}d" for kind in ("", "adaptive_") for d in (1, 2, 3)}
_SUMS = set("add radd iadd sub rsub isub subtract cat concat neg stack".split())
_PRODUCTS = set("mul rmul imul multiply".split())
_NOISE = set("dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout batch_norm".split())
_REORDER = set("permute transpose movedim moveaxis swapaxes swapdims".split())
_LINEAR = (
    {f"{kind}{d}d" for kind in ("conv", "conv_transpose", "avg_pool", "adaptive_avg_pool") for d in (1, 2, 3)}
    | set("linear matmul div idiv truediv itruediv divide mean sum pad interpolate flatten unflatten reshape".split())
    | set("view reshape_as view_as contiguous clone to float double type_as squeeze unsqueeze expand getitem".split())
    | set("chunk split narrow select index_select gather flip roll unfold pixel_shuffle pixel_unshuffle".split())
    | set("channel_shuffle copy".split())
    | _NOISE
    | _REORDER
)
_CONSTANTS = set("zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty new_tensor".split())


def _pool_thirds(name: str, z: Tensor, z0: Tensor, t: Tensor, rest: Any, options: dict[str, Any]) -> tuple[Tensor, ...]:
    """Max-pooling: per window, t passes at the arg max of whichever of z and z0 has the larger maximum."""
    # Times (y - y0) over that pixel's own difference, so that the window's difference is accounted for; autograd sums
    # overlapping windows by itself.
    options = {key: option for key, option in options.items() if key != "return_indices"}
    pool = getattr(functional, name)
    pooled, indices = pool(torch.cat([z, z0]), *rest, **options, return_indices=True)
    (y, y0), (index, index0) = pooled.chunk(2), indices.chunk(2)
    chosen = torch.where(y >= y0, index, index0).flatten(2)
    at, at0, t_at = (part.flatten(2).gather(2, chosen).view_as(y) for part in (z, z0, t))
    run = at - at0
    # One pixel leads in both: the ratio is 1 whatever the run, and its derivative must not be inf - inf.
    same = (index == index0) | (run.abs() < vanishing(run.dtype))
    ratio = torch.where(same, 1.0, (y - y0) / torch.where(same, 1.0, run))
    return y, y0, ratio * t_at
