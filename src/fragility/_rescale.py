"""DeepLIFT's Rescale rule in three passes of a model that is not touched [Shrikumar2017].

1. The reference x0 goes through the model; the input z0 and the output f(z0) of every activation are recorded.
2. The images x go through it; every activation has its secant s = (f(z) - f(z0)) / (z - z0).
3. A copy t of the images goes through it; an activation returns f(z), with s as its derivative. The scores are linear
   in t, and their gradient holds the multipliers. They depend on x through s alone: t is a constant.

Where no second derivative is asked for, passes 2 and 3 are one. A max-pool is treated as an activation of the pixels
that it chooses. That everything else is linear in t is read off autograd's graph, see `fragility._linear`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from fragility._activation import (
    SMOOTH,
    Hinges,
    hinge_secant,
    hinge_sum,
    in_place,
    relu_secant,
    short_name,
    smooth_relu,
    smooth_secant,
    softplus_secant,
    split_input,
    vanishing,
)
from fragility._call import Model, logits_of
from fragility._convolution import differentiate
from fragility._gradient import gradient, pick
from fragility._hinges import note, read
from fragility._linear import Dependence
from fragility._softplus import active_beta, deferred

_POOLS = {f"{kind}max_pool{d}d": d for kind in ("", "adaptive_") for d in (1, 2, 3)}


class Meeting(NamedTuple):
    """An activation or a max-pool as the reference met it; `indices` are the places of a pool's maxima."""

    name: str
    z: Tensor
    y: Tensor
    indices: Tensor | None


class Reference(NamedTuple):
    """The reference's way through the model."""

    meetings: list[Meeting]
    logits: Tensor


class Multipliers(NamedTuple):
    """The scores' derivative with respect to t, the logits, and the kinds of operations between the two."""

    values: Tensor
    logits: Tensor
    kinds: set[str]


class _Secant(NamedTuple):
    """The derivative of an activation, or of a pool with respect to the pixels that it chose (`indices`)."""

    slope: Tensor
    indices: Tensor | None = None


class _Call(NamedTuple):
    """A call of an activation or a max-pool, taken apart.

    Attributes:
        name: of the function.
        z: its input.
        settings: its further arguments.
        hinges: what it is if it is piecewise linear.
        plus: a tensor that is added to the result.
        target: the tensor that the result is written into, if it is.
    """

    name: str
    z: Tensor
    settings: tuple[tuple[Any, ...], dict[str, Any]]
    hinges: Hinges | None
    plus: Tensor | None
    target: Tensor | None

    def copied(self) -> "_Call":
        """The same call on a copy of z, where it would lose it."""
        return self._replace(z=self.z.clone()) if self.target is self.z else self


class _Intercept(TorchFunctionMode):
    """Lets `meet` compute every activation and max-pool; shows every other call to `watch`."""

    def __init__(self, meet: Callable[[_Call], Tensor], watch: Callable[..., None] | None = None) -> None:
        super().__init__()
        self.meet, self.watch = meet, watch

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.autograd.grad:
            return differentiate(self, *args, **kwargs)
        call = _read(func, args, kwargs)
        if call is not None:
            with torch._C.DisableTorchFunction():
                result = self.meet(call)
        else:
            if self.watch is not None:
                self.watch(func, args, kwargs)
            result = func(*args, **kwargs)
        note(func, args, kwargs, result)
        return result


def _read(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Call | None:
    """Take the call of an activation or a max-pool apart; None for any other."""
    name, found = short_name(func), read(func, args, kwargs)
    if found is None and name not in SMOOTH and name not in _POOLS:
        return None
    first, rest, options = split_input(args, kwargs)
    z, hinges, plus = (first, None, None) if found is None else found
    if torch._C._functorch.is_functorch_wrapped_tensor(z):
        raise ValueError(f"model: DeepLIFT's Rescale rule cannot follow {name} inside torch.vmap or torch.func")
    options = {key: value for key, value in options.items() if key not in ("inplace", "return_indices")}
    return _Call(name, z, (rest, options), hinges, plus, first if in_place(func, kwargs) else None)


def record(model: Model, x0: Tensor, *, copy: bool = False) -> Reference:
    """Pass 1: the reference's way through the model."""
    meetings, versions = list[Meeting](), list[tuple[Tensor, int]]()

    def meet(call: _Call) -> Tensor:
        source = call._replace(z=call.z.clone()) if copy else call.copied()
        y, indices = _pool(source) if call.name in _POOLS else (_value(source), None)
        meetings.append(Meeting(call.name, source.z, y.clone() if copy else y, indices))
        versions.extend((part, part._version) for part in meetings[-1][1:3])
        return _deliver(call, y)

    with deferred(), _Intercept(meet):
        logits = logits_of(model, x0)
    if any(part._version != version for part, version in versions):  # the model wrote into what is recorded
        return record(model, x0, copy=True)
    return Reference(meetings, logits)


def multiply(model: Model, images: Tensor, labels: Tensor, reference: Reference, *, create_graph: bool) -> Multipliers:
    """Passes 2 and 3: the gradient of the labels' scores along secants."""
    secants, expected = _secants(model, images, reference) if create_graph else ([], None)
    t = images.detach().requires_grad_()
    depends, met, finished = Dependence(t), 0, False

    def meet(call: _Call) -> Tensor:
        nonlocal met
        if finished:
            raise ValueError("model: expected no activation in the backward pass, where a checkpoint computes it anew")
        before = _counterpart(reference, call, met)
        secant, met = secants[met] if secants else None, met + 1
        if not depends.of(call.z):
            return _deliver(call, _value(call))
        with torch.no_grad():
            y, secant = (_value(call), secant) if secant else _evaluate(call, before)
        chosen = call.z if secant.indices is None else _take(call.z, secant.indices, call.name)
        # The value in a list: autograd would make a view of an argument that is returned.
        return _deliver(call, _Follow.apply(chosen, secant.slope, [y]))  # type: ignore[no-untyped-call]

    with deferred(), _Intercept(meet, depends.check_view):
        logits = logits_of(model, t)
        finished = True
        _check_count(reference, met)
        if expected is not None and not torch.allclose(logits, expected, atol=1e-5 * float(expected.abs().max())):
            raise ValueError(
                "model: expected the same logits when it is called again: does it draw random numbers (dropout?), or "
                "count its calls?"
            )
        kinds = depends.linear(logits, own=(_Follow, _Overwrite))
        values = gradient(pick(logits, labels), t, create_graph=create_graph)
    return Multipliers(values, logits.detach(), kinds)


def _secants(model: Model, images: Tensor, reference: Reference) -> tuple[list[_Secant], Tensor]:
    """Pass 2: the secants as functions of the images, and the logits."""
    secants = list[_Secant]()

    def meet(call: _Call) -> Tensor:
        source = call.copied()
        y, secant = _evaluate(source, _counterpart(reference, call, len(secants)))
        secants.append(secant)
        return _deliver(call, y)

    with deferred(), _Intercept(meet):
        logits = logits_of(model, images).detach()
    _check_count(reference, len(secants))
    return secants, logits


def _value(call: _Call) -> Tensor:
    """What an activation or a max-pool returns."""
    rest, options = call.settings
    if call.hinges is None:
        function = SMOOTH[call.name][0] if call.name in SMOOTH else getattr(functional, call.name)
        return function(call.z, *rest, **options)
    beta = active_beta()
    return hinge_sum(call.hinges, call.z, torch.relu if beta is None else smooth_relu(beta))


def _evaluate(call: _Call, before: Meeting) -> tuple[Tensor, _Secant]:
    """What an activation or a max-pool returns, and its secant."""
    (rest, options), beta = call.settings, active_beta()
    if before.indices is not None:
        return _pool_secant(call, before, before.indices)
    if call.hinges is not None:
        one = relu_secant if beta is None else partial(softplus_secant, beta=beta)
        value, secant = hinge_secant(call.hinges, call.z, before.z, before.y, one)
        return value, _Secant(secant)
    function, slope = SMOOTH[call.name]
    bend = options.get("beta", rest[0] if rest else 1.0) if call.name == "softplus" else 1.0
    value = function(call.z, *rest, **options)
    steepness = lambda z: slope(z, *rest, **options)  # noqa: E731
    return value, _Secant(smooth_secant(steepness, call.z, before.z, value, before.y, 1 / bend))


def _pool(call: _Call) -> tuple[Tensor, Tensor]:
    """What a max-pool returns, and where the maxima are."""
    rest, options = call.settings
    pooled: tuple[Tensor, Tensor] = getattr(functional, call.name)(call.z, *rest, **options, return_indices=True)
    return pooled


def _pool_secant(call: _Call, before: Meeting, index0: Tensor) -> tuple[Tensor, _Secant]:
    """Max-pooling: per window, t passes at the arg max of whichever of z and z0 has the larger maximum."""
    # Times (y - y0) over that pixel's own difference, so that the window's difference is accounted for; autograd sums
    # overlapping windows by itself.
    y, index = _pool(call)
    chosen = torch.where(y >= before.y, index, index0)
    run = _take(call.z, chosen, call.name) - _take(before.z, chosen, call.name)
    # One pixel leads in both: the ratio is 1 whatever the run, and its derivative must not be inf - inf.
    same = (index == index0) | (run.abs() < vanishing(run.dtype))
    return y, _Secant(torch.where(same, 1.0, (y - before.y) / torch.where(same, 1.0, run)), chosen)


def _take(z: Tensor, indices: Tensor, name: str) -> Tensor:
    """The entries of z that a pool's indices name."""
    d = _POOLS[name]
    return z.flatten(-d).gather(-1, indices.flatten(-d)).view_as(indices)


class _Follow(torch.autograd.Function):
    """A given value, whose derivative with respect to t is a given slope."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, slope: Tensor, value: list[Tensor]) -> Tensor:
        ctx.save_for_backward(slope)
        return value[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0] * ctx.saved_tensors[0], None, None


class _Overwrite(torch.autograd.Function):
    """Writes a value into a tensor; unlike `copy_` it makes no gradient of zeros for what stood there."""

    @staticmethod
    def forward(ctx: Any, target: Tensor, value: Tensor) -> Tensor:
        ctx.mark_dirty(target)
        return target.copy_(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, grads[0]


def _deliver(call: _Call, value: Tensor) -> Tensor:
    """Return a value as the call would: as a new tensor, or written into the activation's input."""
    if call.plus is not None:
        value = call.plus + value
    if call.target is None:
        return value
    if call.target._is_view():  # autograd has to tell its base
        return call.target.copy_(value)
    written: Tensor = _Overwrite.apply(call.target, value)  # type: ignore[no-untyped-call]
    return written


def _counterpart(reference: Reference, call: _Call, number: int) -> Meeting:
    """What the reference met in the place of this call."""
    met = reference.meetings[number : number + 1]
    if not met or (met[0].name, met[0].z.shape) != (call.name, call.z.shape):
        expected = f"{met[0].name} of {tuple(met[0].z.shape)}" if met else "no further one"
        raise ValueError(
            f"model: expected the same activations for the images as for the reference, got {call.name} of "
            f"{tuple(call.z.shape)} as number {number + 1}, there {expected}: DeepLIFT pairs them one by one, so no "
            "branch may depend on pixels, and none may be called from another thread"
        )
    return met[0]


def _check_count(reference: Reference, count: int) -> None:
    """Refuse a pass that met fewer activations than the reference did."""
    if count < len(reference.meetings):
        raise ValueError(
            f"model: expected the same activations for the images as for the reference, got {count} of "
            f"{len(reference.meetings)}: DeepLIFT pairs them one by one, so no branch may depend on pixels"
        )
