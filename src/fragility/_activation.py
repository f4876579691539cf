"""Activations as the substitutions need them: piecewise linear ones as sums of hinges, smooth ones with slopes."""

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import resolve_name


class Hinges(NamedTuple):
    """A piecewise linear activation: constant + slope z + sum of coefficient * relu(z - offset)."""

    constant: float
    slope: float | Tensor
    terms: tuple[tuple[float | Tensor, float], ...]  # (coefficient, offset)


RELU = Hinges(0.0, 0.0, ((1.0, 0.0),))


def hinge_sum(hinges: Hinges, z: Tensor, hinge: Callable[[Tensor], Tensor]) -> Tensor:
    """Evaluate `hinges` at z with `hinge` in the place of relu."""
    bent = [(coefficient, hinge(z - offset if offset else z)) for coefficient, offset in hinges.terms]
    parts = [part if _is(coefficient, 1) else coefficient * part for coefficient, part in bent]
    total = sum(parts[1:], start=parts[0])
    if not _is(hinges.slope, 0):
        total = total + hinges.slope * z
    return total + hinges.constant if hinges.constant else total


def _is(value: float | Tensor, number: float) -> bool:
    return not isinstance(value, Tensor) and value == number


def smooth_relu(beta: float) -> Callable[[Tensor], Tensor]:
    """Softplus of sharpness beta, in the place of relu."""

    def compute(z: Tensor) -> Tensor:
        if _inside_vmap():  # where a backward pass must not leave out a gradient
            return functional.softplus(z, beta, 40.0)
        value: Tensor = _Softplus.apply(z, beta)[0]  # type: ignore[no-untyped-call]
        return value

    return compute


def _inside_vmap() -> bool:
    levels = torch._C._functorch.get_interpreter_stack() or []
    return any(level.key() == torch._C._functorch.TransformType.Vmap for level in levels)


class _Softplus(torch.autograd.Function):
    """Softplus and its slope, computed once for all derivatives; PyTorch's own takes the exponentials in each anew."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, beta: float) -> tuple[Tensor, Tensor]:
        # PyTorch's default threshold of 20 makes softplus discontinuous by 2e-9, which float64 sees.
        return functional.softplus(z, beta, 40.0), torch.sigmoid(z if beta == 1 else beta * z)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: tuple[Tensor, Tensor]) -> None:
        ctx.set_materialize_grads(False)
        # The slope is an output, so its own derivative is at hand when this backward pass is differentiated.
        # Twice, unlike a relu: a checkpoint that is computed again without the softplus has to notice.
        ctx.save_for_backward(output[1], output[1])
        ctx.save_for_forward(output[1])
        ctx.beta = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None]:
        slope = ctx.saved_tensors[0]
        by_value, by_slope = grads
        total = None if by_value is None else by_value * slope
        if by_slope is not None:
            bent = _bend(by_slope, slope, ctx.beta)
            total = bent if total is None else total + bent
        return total, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> tuple[Tensor, Tensor]:
        (slope,) = ctx.saved_tensors
        return tangents[0] * slope, _bend(tangents[0], slope, ctx.beta)


def _bend(factor: Tensor, slope: Tensor, beta: float) -> Tensor:
    """Times the derivative of the slope, beta slope (1 - slope)."""
    bent: Tensor = torch.ops.aten.sigmoid_backward.default(factor, slope)
    return bent if beta == 1 else bent * beta


def _gelu_slope(z: Tensor, approximate: str = "none") -> Tensor:
    if approximate == "none":
        density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
        return z * density + (1 + torch.erf(z / math.sqrt(2))) / 2
    scale, cubic = math.sqrt(2 / math.pi), 0.044715
    bend = torch.tanh(scale * (z + cubic * z**3))
    derivative: Tensor = (1 + bend + z * (1 - bend.square()) * scale * (1 + 3 * cubic * z.square())) / 2
    return derivative


def _softplus_slope(z: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    return torch.where(z * beta > threshold, 1.0, torch.sigmoid(z * beta))


# Smooth activations and their derivatives, called with the activation's own further arguments.
SMOOTH: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "sigmoid": (torch.sigmoid, lambda z: torch.sigmoid(z) * torch.sigmoid(-z)),
    "tanh": (torch.tanh, lambda z: 1 - torch.tanh(z).square()),
    "silu": (functional.silu, lambda z: torch.sigmoid(z) * (1 + z * torch.sigmoid(-z))),
    "gelu": (functional.gelu, _gelu_slope),
    "softplus": (functional.softplus, _softplus_slope),
}
SMOOTH["special_expit"] = SMOOTH["sigmoid"]


# Three Gauss-Legendre nodes on [0, 1] with their weights, and up to which distance between z0 and z they are used.
_NODES = ((0.5 - math.sqrt(0.15), 5 / 18), (0.5, 8 / 18), (0.5 + math.sqrt(0.15), 5 / 18))
_NEAR = 0.05


class Secant(NamedTuple):
    """An activation's value at z, and its secant (f(z) - f(z0)) / (z - z0) from the reference z0."""

    value: Tensor
    secant: Tensor


def hinge_secant(
    hinges: Hinges, z: Tensor, z0: Tensor, reference: Tensor, one: Callable[[Tensor, Tensor, Tensor | None], Secant]
) -> Secant:
    """Evaluate `hinges` and their secant; `one` does so for relu, and is given f(z0) where that is `reference`."""
    if hinges is RELU:
        return one(z, z0, reference)
    parts = [(factor, one(z - offset, z0 - offset, None)) for factor, offset in hinges.terms]
    value, secant = hinges.slope * z + hinges.constant, hinges.slope * torch.ones_like(z)
    for factor, part in parts:
        value, secant = value + factor * part.value, secant + factor * part.secant
    return Secant(value, secant)


def relu_secant(z: Tensor, z0: Tensor, reference: Tensor | None) -> Secant:
    """The secant of relu, exact: 0 or 1 where the kink does not lie between z0 and z."""
    off = z <= 0
    # Not z.relu(), which keeps its result for the backward pass: the model may write into it.
    value, reference = torch.where(off, 0.0, z), z0.relu() if reference is None else reference
    run = z - z0
    same = run.abs() <= vanishing(z.dtype)
    secant = torch.where(same, (~off).to(z.dtype), (value - reference) / torch.where(same, 1.0, run))
    return Secant(value, secant)


def softplus_secant(z: Tensor, z0: Tensor, reference: Tensor | None, beta: float) -> Secant:
    """The secant of softplus."""
    value, slope = _Softplus.apply(z, beta)  # type: ignore[no-untyped-call]
    if reference is None:
        reference = functional.softplus(z0.detach(), beta, 40.0)
    secant: Tensor = _SoftplusSecant.apply(z, z0, value, reference, slope, beta)  # type: ignore[no-untyped-call]
    return Secant(value, secant)


class _SoftplusSecant(torch.autograd.Function):
    """r = (f(z) - f(z0)) / (z - z0) with dr/dz = (f'(z) - r) / (z - z0), dr/dz0 = (r - f'(z0)) / (z - z0).

    What f(z), f'(z) and f(z0) are is known already. Where z and z0 are close both quotients cancel; there r is the mean
    of f' between them, see `smooth_secant`.
    """

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, z0: Tensor, value: Tensor, reference: Tensor, slope: Tensor, beta: float
    ) -> Tensor:
        run = z - z0
        near = (run.abs() < _NEAR / beta).nonzero(as_tuple=True)
        run[near] = 1.0
        secant = (value - reference).div_(run)
        a, b = z[near], z0[near]
        secant[near] = sum(weight * torch.sigmoid(beta * (b + at * (a - b))) for at, weight in _NODES)
        ctx.save_for_backward(run, slope, secant, a, b, *near, *([z0] if ctx.needs_input_grad[1] else []))
        ctx.beta = beta
        return secant

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        run, slope, secant, a, b, *near = ctx.saved_tensors
        z0 = near.pop() if ctx.needs_input_grad[1] else None
        nodes = [(at, weight, torch.sigmoid(ctx.beta * (b + at * (a - b)))) for at, weight in _NODES]

        def bend(rise: Tensor, share: Callable[[float], float]) -> Tensor:
            mean = sum(share(at) * weight * ctx.beta * node * (1 - node) for at, weight, node in nodes)
            return grads[0] * rise.div_(run).index_put_(tuple(near), mean)

        by_z = bend(slope - secant, lambda at: at) if ctx.needs_input_grad[0] else None
        by_z0 = None if z0 is None else bend(secant - torch.sigmoid(ctx.beta * z0), lambda at: 1 - at)
        return by_z, by_z0, None, None, None, None


def vanishing(dtype: torch.dtype) -> float:
    """The size below which a difference has no finite reciprocal slope left: its inverse square overflows."""
    return float(torch.finfo(dtype).tiny ** 0.5)


def smooth_secant(
    slope: Callable[[Tensor], Tensor], z: Tensor, z0: Tensor, value: Tensor, reference: Tensor, width: float
) -> Tensor:
    """The secant of a smooth activation that bends over a distance `width`."""
    # Where z and z0 are close, the quotient and above all its derivative cancel; there the secant is the mean of the
    # slope between them (error below 1e-14 within the radius used).
    run = z - z0
    near = run.abs() < _NEAR * width
    means = [weight * slope(z0 + at * run) for at, weight in _NODES]
    mean_slope = sum(means[1:], start=means[0])
    return torch.where(near, mean_slope, (value - reference) / torch.where(near, 1.0, run))


@lru_cache(maxsize=1024)
def short_name(func: Any) -> str:
    """The name of a function without underscores and overload: add, add_, __add__ and aten's add.Tensor are one."""
    return str(getattr(func, "__name__", "")).partition(".")[0].strip("_")


def full_name(func: Any) -> str:
    """The name of a function as a user would write it."""
    return str(resolve_name(func) or getattr(func, "__name__", func))


def tensors_in(tree: Any) -> Iterator[Tensor]:
    """Every tensor in nested lists, tuples and dictionaries."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (tuple, list)):
        for branch in tree:
            yield from tensors_in(branch)
    elif isinstance(tree, dict):
        yield from tensors_in(list(tree.values()))


def split_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, tuple[Any, ...], dict[str, Any]]:
    """Separate the input of an activation from its settings."""
    options = dict(kwargs)
    z = args[0] if args else options.pop("input")
    return z, args[1:], options


def in_place(func: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a call writes its result into its first argument."""
    return bool(kwargs.get("inplace")) or str(func.__name__).partition(".")[0].endswith("_")


def deliver(func: Any, args: Any, kwargs: Any, z: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the result as `func` would: a new tensor, or written into the first argument."""
    if not in_place(func, kwargs):
        return compute(z)
    target: Tensor = args[0] if args else kwargs["input"]
    return target.copy_(compute(z.clone() if z is target else z))  # the clone is what the backward pass reads
