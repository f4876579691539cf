"""Does softplus reach every kink of a network? Read off autograd's graph, and tried by differences of the gradient."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from fragility._activation import short_name
from fragility._call import OTHER_SIZE, logits_of
from fragility._checks import rounding
from fragility._convolution import twice_differentiable
from fragility._derivative import check_slope, in_double, of_layer, root_mean_square, trying
from fragility._linear import Dependence, is_custom, kind_of
from fragility._softplus import SoftplusNetwork, active_beta, check_substitutable, softplus

ADVICE = (
    "write it as a call of torch.nn.functional (relu, leaky_relu, prelu, hardtanh, ...), outside of custom autograd "
    "functions, threads and compiled code, or train the network with softplus"
)


def check_reached(model: nn.Module, images: Tensor, labels: Tensor, scores: Tensor) -> None:
    """Inside `softplus`, refuse a network with an activation that the substitution did not reach.

    Args:
        model: images to logits (B, K).
        images: (B, C, H, W), of which the scores were computed.
        labels: int64 (B,).
        scores: (B,), the labels' logits, with their graph.
    """
    if active_beta() is not None and scores.requires_grad and _suspects(scores, images):
        check_smooth(model, images, labels)


def check_smooth(
    model: nn.Module, images: Tensor, labels: Tensor, *, seed: int = 0, sizes: list[float] | None = None
) -> None:
    """Compare the gradient's change along a random direction with what the Hessian says of it.

    For a network inside `softplus` or with a `SoftplusNetwork` in it; of another one nothing is expected. What softplus
    does not reach is the same at every beta, so one is chosen at which many units lie within its width, and the step is
    a quarter of it: some units of a hidden ReLU change sides, where the gradient jumps and the Hessian is zero.
    Max-pools keep what they choose.

    Args:
        model: images to logits (B, K).
        images: (B, C, H, W) in [0, 1]; small images are tried at several points.
        labels: int64 (B,).
        seed: of the direction.
        sizes: of what the layers compute, if `fragility._alone.check_alone` has measured it.

    Raises:
        ValueError: if they differ.
    """
    networks = (part for part in model.modules() if isinstance(part, SoftplusNetwork))
    beta = active_beta() or next((network.beta for network in networks), None)
    if beta is None:
        return
    check_substitutable(model)
    with torch.enable_grad():
        try:
            _try_points(model, images, labels, seed, beta, sizes)
        except ValueError as error:  # or does rounding hide the change?
            if images.dtype == torch.float64:
                raise
            try:
                _try_points(in_double(model), images.double(), labels, seed, beta, sizes)
            except (*OTHER_SIZE, TypeError):
                raise error from None


def _try_points(
    model: nn.Module, images: Tensor, labels: Tensor, seed: int, beta: float, sizes: list[float] | None
) -> None:
    """Try at several points, or at the images of a model for batches of one size."""
    try:
        _try(model, *_points(images, labels, seed, max(1, min(16, 2**12 // images[0].numel()))), beta, sizes)
    except (RuntimeError, AssertionError):
        _try(model, *_points(images, labels, seed, len(images)), beta, sizes)


def _try(model: nn.Module, x: Tensor, labels: Tensor, v: Tensor, beta: float, sizes: list[float] | None) -> None:
    """Refuse a model whose gradient does not change along v as its derivative says, from some of the points x."""
    substitution: AbstractContextManager[None] = nullcontext()
    if active_beta() is not None:
        beta = _wide(_sizes(model, x) if sizes is None else sizes, beta)
        substitution = softplus(beta)
    probe = _Probe()

    def score(points: Tensor) -> Tensor:
        with probe, trying():
            probe.rewind()
            return logits_of(model, points).gather(1, labels.unsqueeze(1)).sum()

    def slope(points: Tensor) -> tuple[Tensor, Tensor]:
        points.requires_grad_()
        value = score(points)
        if not value.requires_grad:
            return torch.zeros_like(points), value
        return torch.autograd.grad(value, points, materialize_grads=True)[0].detach(), value.detach()

    with substitution, twice_differentiable():
        here = score(x.requires_grad_())
        before, suspects = probe.outputs, _suspects(here, x) if here.requires_grad else []
        with torch.no_grad():
            score(x.detach() + 1e-3 * v)
        step = _step(before, probe.outputs, beta)
        (gradient,) = torch.autograd.grad(here, x, create_graph=True, materialize_grads=True)
        floor = 256 * rounding(x) * _lengths(gradient.detach())
        undecided, last, found = torch.ones_like(floor, dtype=torch.bool), torch.zeros_like(floor), list[Tensor]()
        for _ in range(_HALVINGS):
            ends = [(x + side * step * v).detach() for side in (1, -1)]
            expected = torch.zeros_like(x)
            run = ends[0] - ends[1]  # what rounding leaves of 2 step v
            if gradient.requires_grad:
                (expected,) = torch.autograd.grad(gradient, x, run, retain_graph=True, materialize_grads=True)
            (up, high), (down, low) = map(slope, ends)
            change = up - down
            size, foreseen, off = map(_lengths, (change, expected.detach(), change - expected.detach()))
            miss = off / (size + foreseen + floor / _MISS).clamp(min=torch.finfo(x.dtype).tiny)
            found = found or [size.max(), foreseen.max()]
            # As the step is halved, what a smooth function misses by falls to a quarter; what a kink misses by stays,
            # until no kink is left in between and it falls to nothing.
            if (undecided & (16 * miss < last)).any():
                break
            undecided &= miss > _MISS
            if not undecided.any():
                typical = _lengths(gradient.detach()).norm() * 2 * step
                with torch._C.DisableTorchFunction():
                    allowed = _MISS * typical + rounding(x) ** 0.75 * here.detach().abs()
                check_slope(high - low, (gradient.detach() * run).sum(), allowed)
                return
            last, step = miss, step / 2
    named = f" (its graph shows {', '.join(suspects)})" if suspects else ""
    raise ValueError(
        f"model: softplus does not reach all of its kinks{named}: along a random direction the gradient changes by "
        f"{found[0]:.2g}, and by {found[1]:.2g} according to its derivative; {ADVICE}"
        f"{'; or rounding hides the change: try float64' if x.dtype != torch.float64 else ''}"
    )


_MISS, _HALVINGS = 0.02, 6


def _lengths(vectors: Tensor) -> Tensor:
    lengths: Tensor = vectors.flatten(1).norm(dim=1)
    return lengths


def _wide(sizes: list[float], beta: float) -> float:
    """A beta, at most the one given, whose width is a quarter of the usual pre-activation's size."""
    sound = [size for size in sizes if 0 < size < math.inf]
    return min(beta, 4 / median(sound)) if sound else beta


def _sizes(model: nn.Module, x: Tensor) -> list[float]:
    probe = _Probe()
    with torch.no_grad(), probe, trying():
        logits_of(model, x)
    return list(map(root_mean_square, probe.outputs))


def _points(images: Tensor, labels: Tensor, seed: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where to try, inside the range of pixels; the labels; and in which directions. Small networks have few units."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.arange(count, device=images.device) % len(images)
    shape = (count, *images.shape[1:])
    noise, v = (torch.randn(shape, generator=generator, dtype=torch.float64).to(images) for _ in range(2))
    noise[: len(images)] = 0
    return (images.detach()[rows] + 0.1 * noise).clamp(0.1, 0.9), labels[rows], v


def _step(before: list[Tensor], after: list[Tensor], beta: float) -> float:
    """The step at which no pre-activation changes by more than its share; both were 1e-3 apart."""
    # A quarter of the softplus's width, and of the pre-activations' size.
    with torch._C.DisableTorchFunction():
        step = 0.05
        for a, b in zip(before[:-1] or before, after, strict=False):
            if a.shape != b.shape:
                raise ValueError(
                    f"model: expected the same layers when it is called again, got {tuple(b.shape)} instead of "
                    f"{tuple(a.shape)}: does it keep what it computed, or branch on the pixels?"
                )
            change = (b - a).abs().max().item() / 1e-3
            share = 0.25 * min(1 / beta, root_mean_square(a) or math.inf)
            step = min(step, share / change) if change else step
        return step


def _suspects(scores: Tensor, images: Tensor) -> list[str]:
    """Name what in the graph from scores to images has a kink, values on both sides of it; refuse known activations."""
    seen, stack = set[Node](), [get_gradient_edge(scores).node]
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack += [other for other, _ in node.next_functions if other is not None]
    found = {node: name for node in seen if (name := _kink(node))}
    carrying = Dependence(images).nodes(scores) if found else set()
    names = sorted({name for node, name in found.items() if node in carrying})
    activations = [name for name in names if name in _ACTIVATIONS]
    if activations:
        raise ValueError(f"model: softplus does not reach its {', '.join(activations)}: {ADVICE}")
    return names


class _Probe(TorchFunctionMode):
    """Keeps the results of layers, and lets max-pools choose again what they chose at first."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[Tensor] = []
        self.chosen: list[Tensor] = []
        self.replay: Iterator[Tensor] | None = None

    def rewind(self) -> None:
        """Begin another pass."""
        self.replay = iter(self.chosen) if self.outputs else None
        self.outputs = []

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = short_name(func)
        pool = name.removesuffix("_with_indices")
        if pool in _POOLS and args and args[0].ndim == int(pool[-2]) + 2:  # else it may be maxout
            asked = kwargs.pop("return_indices", len(args) > _POOLS[pool] and args[-1]) or pool != name
            pooled, indices = self._pool(pool, args[: _POOLS[pool]], kwargs)
            return (pooled, indices) if asked else pooled
        if name in ("elu", "celu", "selu"):  # their second derivative jumps; any smooth function of this width does
            return functional.silu(args[0] if args else kwargs["input"])
        result = func(*args, **kwargs)
        if of_layer(result, args, kwargs):
            self.outputs.append(result.detach())
        return result

    def _pool(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Choose the largest values, or those that were chosen at first."""
        if self.replay is None:
            pooled, indices = getattr(functional, name)(*args, **kwargs, return_indices=True)
            self.chosen.append(indices)
            return pooled, indices
        indices = next(self.replay)
        return args[0].flatten(2).gather(2, indices.flatten(2)).view(indices.shape), indices


# How many arguments come before the one that asks for indices.
_POOLS = {f"{kind}max_pool{d}d": count for kind, count in (("", 6), ("adaptive_", 2)) for d in (1, 2, 3)}


def _inside(node: Any) -> Tensor:
    z: Tensor = node._saved_self
    bounds = [z if bound is None else bound for bound in (node._saved_min, node._saved_max)]
    return (z >= bounds[0]) & (z <= bounds[1])


def _larger(node: Any) -> Tensor:
    return torch.as_tensor(node._saved_self > node._saved_other)


# On which side of the kink every value lies, by the kind of node.
_ACTIVATIONS: dict[str, Callable[[Any], Tensor]] = {
    "Relu": lambda node: node._saved_result > 0,
    "LeakyRelu": lambda node: (node._saved_self if hasattr(node, "_saved_self") else node._saved_result) > 0,
    "Hardtanh": lambda node: (node._saved_self > node._saved_min_val) & (node._saved_self < node._saved_max_val),
    "Threshold": lambda node: node._saved_self > node._saved_threshold,
    "PreluKernel": lambda node: node._saved_self > 0,
    "RreluWithNoise": lambda node: node._saved_self > 0,
    "Hardswish": lambda node: node._saved_self.abs() < 3,
    "Hardsigmoid": lambda node: node._saved_self.abs() < 3,
    "Softshrink": lambda node: node._saved_self.abs() < node._saved_lambd,
    "Hardshrink": lambda node: node._saved_self.abs() < node._saved_lambd,
}
_SUSPECTS: dict[str, Callable[[Any], Tensor]] = {
    "Clamp": _inside,
    "ClampMin": lambda node: node._saved_self > node._saved_min,
    "ClampMax": lambda node: node._saved_self > node._saved_max,
    "Abs": lambda node: node._saved_self > 0,
    "Where": lambda node: node._saved_condition,
    "MaskedFill": lambda node: node._saved_mask,
    **dict.fromkeys(("Maximum", "Minimum", "Fmax", "Fmin"), _larger),
}
_CHOICES = set("Amax Amin Max Min Sort Topk Kthvalue Median Cummax Cummin Sgn Sign Round Floor Ceil Trunc".split())


def _kink(node: Any) -> str | None:
    """Name a node that may bend or jump where it is; None for the smooth ones."""
    if is_custom(node):
        function: Any = node._forward_cls
        ours = function.__module__.startswith("fragility.")
        return None if ours else f"{function.__name__} (a custom autograd function)"
    kind = kind_of(node)
    if kind in _CHOICES:
        return kind
    side = _ACTIVATIONS.get(kind) or _SUSPECTS.get(kind)
    if side is None:
        return None
    with torch._C.DisableTorchFunction():
        try:
            on = side(node)
        except RuntimeError:  # what the node saved is gone, or a checkpoint does not give it here
            return kind
        return kind if bool(on.any()) and not bool(on.all()) else None
