"""Which calls are piecewise linear activations, in whatever spelling, and which sum of hinges each of them is.

`clamp`, `maximum`, `where`, `abs` and a product with `z > 0` are activations when they bend at 0 (or at 0 and 6, or at
-1 and 1) and come after a layer with parameters. Elsewhere they are guards: `x.clamp(0, 1)`, `norm.clamp(min=1e-6)`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakValueDictionary, ref

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from fragility._activation import RELU, Hinges, short_name


class Activation(NamedTuple):
    """A call that was read: `hinges` at z, plus a further tensor for the larger of two tensors, b + relu(a - b)."""

    z: Tensor
    hinges: Hinges
    plus: Tensor | None = None


def read(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, guards: bool = False) -> Activation | None:
    """Read a call as an activation; None for any other call, and for guards unless they are asked for."""
    name = short_name(func)
    if name in NAMED:
        z, *rest = _positional(args, kwargs)
        options = {key: value for key, value in kwargs.items() if key not in ("input", "inplace")}
        return Activation(z, NAMED[name](z, *rest, **options))
    if name not in _SPELLED or "out" in kwargs:
        return None
    found = _SPELLED[name](*_positional(args, kwargs), **{key: kwargs[key] for key in kwargs if key != "input"})
    if found is None or not found.z.is_floating_point():
        return None
    usual = found.plus is not None or (_from_layer(found.z) and _bends(found.hinges) in _USUAL)
    return found if guards or usual else None


def note(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Remember of a call's result what later calls are read by: where it comes from, and gates and multiples of z."""
    # Most calls ask for a property.
    if result is not None and (isinstance(result, torch.Size) or not isinstance(result, (Tensor, tuple, list))):
        return
    name = short_name(func)
    if (result is None and name != "setitem") or name in _FRESH:
        return
    data = weights = others = False
    for tensor in _tensors(args[:1] if name in _LIKE else (*args, *kwargs.values())):
        if id(tensor) in _after_layer:
            data = True
        elif isinstance(tensor, nn.Parameter) or id(tensor) in _of_weights:
            weights = True
        else:
            others = True
    if data or (weights and others):
        memory = _after_layer
    elif weights:
        memory = _of_weights
    else:
        return
    for output in _tensors(args[:1] if name == "setitem" else (result,)):
        memory[id(output)] = output
    if memory is _after_layer and isinstance(result, Tensor) and args and isinstance(args[0], Tensor):
        if name in _GATING:
            _note_gate(name, args, result)
        elif name in _SCALING:
            _note_multiple(name, args, result)


def forget(results: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Unmark gradients: the backward pass uses the weights of layers too."""
    for result in results:
        if result is not None:
            _after_layer.pop(id(result), None)
    return results


# What layers with parameters made of data, and what is made of parameters alone.
_after_layer: WeakValueDictionary[int, Tensor] = WeakValueDictionary()
_of_weights: WeakValueDictionary[int, Tensor] = WeakValueDictionary()
# (z, its version, what) of a mask z > 0 (True) or z < 0 (False), of factor z, and of z cut from the graph.
_gates: WeakIdKeyDictionary = WeakIdKeyDictionary()
_multiples: WeakIdKeyDictionary = WeakIdKeyDictionary()
_detached: WeakIdKeyDictionary = WeakIdKeyDictionary()


def _tensors(values: tuple[Any, ...] | list[Any]) -> list[Tensor]:
    """The tensors among values, and in lists of them."""
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found += _tensors(value)
    return found


def _from_layer(z: Tensor) -> bool:
    return id(z) in _after_layer


def _bends(hinges: Hinges) -> tuple[float, ...]:
    return tuple(offset for _, offset in hinges.terms)


_USUAL = ((0.0,), (0.0, 6.0), (-1.0, 1.0))
_FRESH = set("zeros_like ones_like full_like new_zeros new_ones new_full new_tensor".split())
_LIKE = set("to type_as view_as reshape_as expand_as".split())


def _positional(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    return (kwargs["input"], *args) if "input" in kwargs and "condition" not in kwargs else args


def _number(value: Any) -> float | None:
    """A bound as a number, if it is the same everywhere."""
    if isinstance(value, Tensor):
        if value.numel() == 0 or value.requires_grad or _from_layer(value) or id(value) in _of_weights:
            return None
        first = value.flatten()[0]
        return float(first) if (value == first).all() else None
    return float(value)


def _recall(memory: WeakIdKeyDictionary, tensor: Any) -> tuple[Tensor, Any] | None:
    """What is known of a tensor and of the z it was made of, if z is still what it was."""
    if not isinstance(tensor, Tensor) or tensor not in memory:
        return None
    origin, version, what = memory[tensor]
    z = origin()
    return None if z is None or _version(z) != version else (z, what)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _factor(value: Any, z: Tensor) -> float | None:
    """By which number z is multiplied to give the value; None if it is not a multiple of z."""
    if value is z:
        return 1.0
    found = _recall(_multiples, value)
    if found is not None:
        return float(found[1]) if found[0] is z else None
    return 0.0 if _number(value) == 0 and _fits(value, z) else None


def _fits(value: Any, z: Tensor) -> bool:
    """Whether the result of both has the shape of z."""
    return not isinstance(value, Tensor) or torch.broadcast_shapes(value.shape, z.shape) == z.shape


def _note_gate(name: str, args: tuple[Any, ...], result: Tensor) -> None:
    first = args[0]
    if name == "detach":
        _detached[result] = ref(first), _version(first), None
    elif name in _COMPARISONS:
        if len(args) == 2 and _number(args[1]) == 0:
            found = _recall(_detached, first)
            z = first if found is None else found[0]
            _gates[result] = ref(z), _version(z), _COMPARISONS[name]
    elif first in _gates:
        origin, version, positive = _gates[first]
        _gates[result] = origin, version, positive != (name in ("invert", "logical_not", "bitwise_not"))


def _note_multiple(name: str, args: tuple[Any, ...], result: Tensor) -> None:
    numbers = [value for value in args if isinstance(value, (int, float))]
    tensors = [value for value in args if isinstance(value, Tensor)]
    if len(tensors) != 1 or len(numbers) != (name != "neg") or result is tensors[0]:
        return
    factor = -1.0 if name == "neg" else numbers[0] if name == "mul" else 1 / numbers[0]
    _multiples[result] = ref(tensors[0]), _version(tensors[0]), factor


_COMPARISONS = dict.fromkeys("gt ge greater greater_equal".split(), True) | dict.fromkeys(
    "lt le less less_equal".split(), False
)
_CASTS = set("to type type_as float double half bfloat16 clone contiguous invert logical_not bitwise_not".split())
_GATING = {"detach", *_COMPARISONS, *_CASTS}
_SCALING = {"mul", "div", "neg"}


def _slopes(left: float | Tensor, right: float | Tensor) -> Hinges:
    """A slope below 0 and another above."""
    return Hinges(0.0, left, ((right - left, 0.0),))


def _between(low: float, high: float) -> Hinges:
    return Hinges(low, 0.0, ((1.0, low), (-1.0, high)))


def _prelu(z: Tensor, weight: Tensor) -> Hinges:
    return _slopes(weight.reshape(-1, *[1] * (z.ndim - 2)) if z.ndim > 1 else weight, 1.0)


def _rrelu(
    z: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, generator: Any = None
) -> Hinges:
    if training:
        raise ValueError("model: RReLU draws its slopes in training mode; call model.eval() first")
    return _slopes((lower + upper) / 2, 1.0)


def _threshold(z: Tensor, threshold: float, value: float) -> Hinges:
    if value != threshold:
        raise ValueError(
            f"model: threshold({threshold:g}, {value:g}) jumps at {threshold:g}: no softplus is near it, and it has no "
            "derivative"
        )
    return Hinges(threshold, 0.0, ((1.0, threshold),))


NAMED: dict[str, Callable[..., Hinges]] = {
    "relu": lambda z: RELU,
    "leaky_relu": lambda z, negative_slope=0.01: _slopes(negative_slope, 1.0),
    "hardtanh": lambda z, min_val=-1.0, max_val=1.0: _between(min_val, max_val),
    "relu6": lambda z: _between(0.0, 6.0),
    "prelu": _prelu,
    "rrelu": _rrelu,
    "threshold": _threshold,
    "hardsigmoid": lambda z: Hinges(0.0, 0.0, ((1 / 6, -3.0), (-1 / 6, 3.0))),
    "softshrink": lambda z, lambd=0.5: Hinges(lambd, 1.0, ((-1.0, -lambd), (1.0, lambd))),
}


def _clamp(z: Tensor, min: Any = None, max: Any = None) -> Activation | None:
    low, high = (None if bound is None else _number(bound) for bound in (min, max))
    if (low is None) != (min is None) or (high is None) != (max is None):
        return None
    if low is not None:
        return Activation(z, Hinges(low, 0.0, ((1.0, low),)) if high is None else _between(low, high))
    return None if high is None else Activation(z, Hinges(0.0, 1.0, ((-1.0, high),)))


def _where(*args: Any, **options: Any) -> Activation | None:
    """`torch.where(condition, a, b)` and `a.where(condition, b)`."""
    if options or len(args) != 3:
        return None
    first, second, b = args
    condition, a = (first, second) if first.dtype == torch.bool else (second, first)
    found = _recall(_gates, condition)
    if found is None:
        return None
    z, positive = found
    right, left = (_factor(value, z) for value in ((a, b) if positive else (b, a)))
    return None if left is None or right is None else Activation(z, _slopes(left, right))


def _product(a: Any, b: Any = None, **options: Any) -> Activation | None:
    """A mask z > 0 times a multiple of z."""
    if options:
        return None
    for mask, value in ((a, b), (b, a)):
        found = _recall(_gates, mask)
        if found is not None:
            z, positive = found
            factor = _factor(value, z)
            sides = (0.0, factor) if positive else (factor, 0.0)
            return None if factor is None else Activation(z, _slopes(*sides))
    return None


def _extreme(pick: Callable[[float, float], float], a: Any, b: Any = None, **options: Any) -> Activation | None:
    """The larger (or the smaller) of two tensors; not that along a dimension."""
    b = options.pop("other", b)
    if options or not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return None
    larger = pick(0.0, 1.0) == 1.0
    for z, other in ((a, b), (b, a)):
        bound = _number(other)
        if bound is not None and _fits(other, z):
            return _clamp(z, min=bound) if larger else _clamp(z, max=bound)
        factor = _factor(other, z)
        if factor is not None:
            right = pick(1.0, factor)
            return Activation(z, _slopes(1.0 + factor - right, right))
    if not (_from_layer(a) and _from_layer(b)):
        return None
    return Activation(a - b, _slopes(0.0, 1.0 if larger else -1.0), plus=b if larger else a)


_SPELLED: dict[str, Callable[..., Activation | None]] = {
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": _clamp,
    "clamp_max": lambda z, max: _clamp(z, max=max),
    "where": _where,
    "masked_fill": lambda z, mask, value: _where(mask, value, z),
    **dict.fromkeys(("mul", "multiply"), _product),
    **dict.fromkeys(("abs", "absolute"), lambda z: Activation(z, _slopes(-1.0, 1.0))),
    **dict.fromkeys(("maximum", "max", "fmax"), partial(_extreme, max)),
    **dict.fromkeys(("minimum", "min", "fmin"), partial(_extreme, min)),
}
