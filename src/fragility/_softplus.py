"""Softplus in the place of ReLU, without touching the model [Ghorbani2019, footnote c].

A `TorchFunctionMode`: inside the context every call of an activation, by module, function or method, in place or
reused, passes through it. Nothing is hooked, copied or mutated.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from fragility._activation import deliver, hinge_sum, short_name, smooth_relu, split_input
from fragility._checks import check_positive
from fragility._convolution import differentiate
from fragility._hinges import note, read

Hinge = Callable[[Tensor], Tensor]

_active_beta: ContextVar[float | None] = ContextVar("beta of the active softplus substitution", default=None)
_deferred: ContextVar[bool] = ContextVar("whether another mode substitutes, by the active beta", default=False)


def softplus(beta: float = 1.0) -> AbstractContextManager[None]:
    """Compute every ReLU as softplus_beta(z) = log(1 + exp(beta z)) / beta [Ghorbani2019, footnote c].

    ReLU6 and hard tanh become differences of two softplus, leaky ReLU keeps its slope. Whatever bends at 0 after a
    layer with weights is taken for an activation: `abs` of a layer's output is smoothed too, to softplus_beta(z) +
    softplus_beta(-z), also where the model means a distance by it. As beta grows the network tends to the original one.

    Args:
        beta: sharpness, in units of 1 / pre-activation.

    Returns:
        A context manager; contexts nest, the innermost counts.

    Raises:
        ValueError: if `beta` is not positive.
    """
    check_positive("beta", beta)
    return _softplus(beta)


def capture() -> Callable[[], AbstractContextManager[None]]:
    """Remember the softplus substitution active now, to enter it again where it no longer is (a backward pass).

    Returns:
        A function that gives a context manager: the substitution, or one that does nothing where none was active.
    """
    beta = _active_beta.get()
    return nullcontext if beta is None else partial(softplus, beta)


def check_substitutable(model: nn.Module) -> None:
    """Refuse a model whose activations no substitution can reach.

    Args:
        model: the network; used by `deeplift`, and by every attribution inside `softplus`.

    Raises:
        TypeError: if a part of it is TorchScript or compiled.
    """
    for name, module in model.named_modules():
        compiled = type(module).__name__ == "OptimizedModule" or getattr(module, "_compiled_call_impl", None)
        if compiled or isinstance(module, torch.jit.ScriptModule):
            kind = "compiled" if compiled else "TorchScript"
            place = f"its part {name!r}" if name else "it"
            raise TypeError(f"model: expected eager modules, got {kind} code in {place}: nothing can be substituted")


def active_beta() -> float | None:
    """Return the sharpness of the softplus substitution active now, None where there is none."""
    return _active_beta.get()


@contextmanager
def deferred() -> Iterator[None]:
    """Leave activations to another mode, which computes them by `active_beta()`, also in a `SoftplusNetwork`.

    Yields:
        Nothing.
    """
    token = _deferred.set(True)
    try:
        yield
    finally:
        _deferred.reset(token)


def substituted(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Compute an activation by the active softplus, as a mode does to which it is deferred."""
    beta = _active_beta.get()
    return func(*args, **kwargs) if beta is None else _Softplus(beta)._call(func, args, kwargs)


@contextmanager
def _softplus(beta: float) -> Iterator[None]:
    token = _active_beta.set(beta)
    try:
        with _Softplus(beta):
            yield
    finally:
        _active_beta.reset(token)


class _Softplus(TorchFunctionMode):
    def __init__(self, beta: float) -> None:
        super().__init__()
        self.hinge = smooth_relu(beta)

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.autograd.grad:
            return differentiate(self, *args, **kwargs)
        result = func(*args, **kwargs) if _deferred.get() else self._call(func, args, kwargs)
        note(func, args, kwargs, result)
        return result

    def _call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        bend = _BENT.get(short_name(func))
        if bend is not None:
            z, rest, options = split_input(args, kwargs)
            return deliver(func, args, kwargs, z, lambda source: bend(source, self.hinge, *rest, **options))
        found = read(func, args, kwargs)
        if found is None:
            return func(*args, **kwargs)

        def compute(z: Tensor) -> Tensor:
            value = hinge_sum(found.hinges, z, self.hinge)
            return value if found.plus is None else found.plus + value

        return deliver(func, args, kwargs, found.z, compute)


def _hardswish(z: Tensor, hinge: Hinge, inplace: bool = False) -> Tensor:
    return z * (hinge(z + 3) - hinge(z - 3)) / 6


def _elu(
    z: Tensor, hinge: Hinge, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0, inplace: bool = False
) -> Tensor:
    """ELU's slopes differ at 0 unless alpha is 1: the smooth one with the same exponential, and a hinge."""
    slope = alpha * input_scale
    smooth = functional.celu(z, 1 / input_scale)
    return scale * (smooth if slope == 1 else slope * smooth + (1 - slope) * hinge(z))


def _selu(z: Tensor, hinge: Hinge, inplace: bool = False) -> Tensor:
    return _elu(z, hinge, 1.6732632423543772, 1.0507009873554805)


# Activations with a kink that are not piecewise linear.
_BENT: dict[str, Callable[..., Tensor]] = {"hardswish": _hardswish, "elu": _elu, "selu": _selu}


class SoftplusNetwork(nn.Module):
    """A network whose every ReLU is computed as a softplus: for explanations without retraining [Dombrowski2019].

    Unlike the context manager `softplus` it is a model of its own, for training, explaining and
    attacking; an attack's own surrogate does not reach inside.
    """

    def __init__(self, model: nn.Module, beta: float) -> None:
        super().__init__()
        check_positive("beta", beta)
        check_substitutable(model)
        self.model, self.beta = model, beta
        self.train(model.training)

    def forward(self, images: Tensor) -> Tensor:
        """Return the softplus network's logits.

        Args:
            images: (B, C, H, W) in [0, 1].

        Returns:
            (B, K).
        """
        with softplus(self.beta):
            output: Tensor = self.model(images)
        return output

    def extra_repr(self) -> str:
        """Name beta, by which one network differs from another.

        Returns:
            For example `beta=10`.
        """
        return f"beta={self.beta:g}"
