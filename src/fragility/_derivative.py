"""Is a gradient the derivative of what a model computes? Compared with differences, and with those without hooks."""

import copy
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from fragility._call import OTHER_SIZE, clear_errors, logits_of
from fragility._checks import rounding
from fragility._convolution import twice_differentiable


def check_gradient(model: nn.Module, images: Tensor) -> None:
    """Refuse a model whose gradient is not the derivative of its logits: differences along two directions tell.

    They are taken of a copy in double precision, where kinks are far apart for so small a step, and near the images:
    on a white wall many pixels tie in a max-pool.

    Args:
        model: images in [0, 1] to logits (B, K).
        images: (B, ...); the first is used, where the model takes it alone.

    Raises:
        ValueError: if the gradient says something else than the differences; not of constants.
    """
    generator, watch = torch.Generator().manual_seed(0), Watch(leave=False)
    near = 0.02 + 0.96 * images.detach() + 0.02 * torch.rand(images.shape, generator=generator).to(images)
    with torch.enable_grad(), trying():
        run, x, logits = _first(model, near, watch)
        if not logits.requires_grad or not logits.isfinite().all():
            return
        labels = logits.detach().argmax(1, keepdim=True)
        with clear_errors():
            found = torch.autograd.grad(logits.gather(1, labels).sum(), x, allow_unused=True)
    gradient: Tensor | None = found[0]
    if gradient is None:
        return

    def change(v: Tensor) -> Tensor:
        high, low = (logits_of(run, x + way).gather(1, labels).sum(dtype=torch.float64) for way in (v, -v))
        return high - low

    with torch.no_grad(), trying():
        size, steepness, digit = logits.detach().abs().max(), gradient.norm(), max(rounding(x), watch.rounding)
        contrast = (x - x.mean()) / x.std(correction=0).clamp(min=1e-3)  # which a hidden statistic feels most
        ways = [contrast + torch.randn(x.shape, generator=generator).to(x) for _ in range(2)]
        step = (digit**0.5 * size / steepness.clamp(min=1e-30)).clamp(max=0.02)
        # In single precision, steps that rounding lets one see meet kinks; in double, a saturated score's may be short.
        share, shortest = (1e-3, 1024) if digit < 1e-12 else (0.2, 16)
        for shorter in (1, 4, 16, 64, 256, 1024):
            try:
                for way in ways:
                    v = step / shorter * way
                    foreseen = (gradient * ((x + v) - (x - v))).sum(dtype=torch.float64)
                    check_slope(change(v), foreseen, digit**0.8 * size + share * steepness * 2 * step / shorter)
            except ValueError:
                if shorter == shortest:
                    raise
            else:
                return


def _first(model: nn.Module, images: Tensor, watch: "Watch") -> tuple[nn.Module, Tensor, Tensor]:
    """A double copy of a model, the first image and its logits; the model itself or all images if it refuses those."""
    with suppress(*OTHER_SIZE, TypeError), watch:
        run, x = in_double(model), images[:1].double().requires_grad_()
        return run, x, logits_of(run, x)
    with suppress(*OTHER_SIZE), watch:
        x = images[:1].clone().requires_grad_()
        return model, x, logits_of(model, x)
    with watch:
        return model, images, logits_of(model, images.requires_grad_())


def in_double(model: nn.Module) -> nn.Module:
    """A copy in double precision; a TypeError where there is none, of scripts and open files, say."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of PyTorch's own, about exported models
            return copy.deepcopy(model).double()
    except Exception as error:  # whatever a part of the model raises
        raise TypeError(f"model: {type(error).__name__} while it was copied") from error


def check_slope(change: Tensor, foreseen: Tensor, allowed: Tensor) -> None:
    """Refuse a gradient that is not the derivative of what the model computes: hidden from autograd, or rewritten.

    Args:
        change: of the score between two points.
        foreseen: the same according to the gradient.
        allowed: what rounding, kinks and bends explain.

    Raises:
        ValueError: if they differ by more.
    """
    with torch._C.DisableTorchFunction():
        if (change - foreseen).abs() > allowed:  # not true of NaN
            raise ValueError(
                "model: expected gradients of what it computes, but along a random direction its score changes by "
                f"{change:.2g}, and by {foreseen:.2g} according to the gradient: is there a custom autograd function "
                "whose backward pass is not its derivative (reversed, guided, straight-through), a value computed "
                "under no_grad, detached or taken through NumPy, or half precision?"
            )


def smooth_inputs() -> bool:
    """Whether a network is being tried for kinks: a straight-through function is then the one that it is derived as."""
    return _trying.get()


_trying: ContextVar[bool] = ContextVar("whether a network is being tried for kinks", default=False)


@contextmanager
def trying() -> Iterator[None]:
    """A network's derivatives are compared with differences in here."""
    token = _trying.set(True)
    try:
        yield
    finally:
        _trying.reset(token)


def check_hooks(model: nn.Module, images: Tensor) -> tuple[Tensor, list[float]]:
    """The first image's logits of a model none of whose backward hooks rewrites a gradient; and its layers' sizes."""
    noticed, x = Watch(leave=False), images.requires_grad_()
    with torch.enable_grad(), twice_differentiable():
        with noticed:
            logits = logits_of(model, x)
        names = [f"that of its part {name!r}" for name, part in model.named_modules() if any(_hooks(part))]
        if logits.requires_grad and (noticed.count or names or any(_hooks(torch_module, "_global"))):
            found = _derivatives(logits, x)
            with _without_hooks(model):
                expected = _derivatives(logits_of(model, x), x)
            with torch._C.DisableTorchFunction():
                for a, b in zip(found, expected, strict=True):
                    if not torch.allclose(a, b, 0.0, rounding(b) ** 0.75 * float(b.abs().max()), equal_nan=True):
                        which = ", ".join(names) or "one of a tensor, or of all modules"
                        raise ValueError(
                            f"model: expected gradients of what it computes, but a backward hook rewrites them "
                            f"({which}); remove it: handle.remove()"
                        )
    return logits[0].detach(), noticed.sizes


def _derivatives(logits: Tensor, x: Tensor) -> list[Tensor]:
    """The first derivative of some mixture of the logits, and a product with the second where there is one."""
    weights, v = (torch.rand(part.shape, generator=torch.Generator().manual_seed(0)).to(part) for part in (logits, x))
    found = list(torch.autograd.grad((weights * logits).sum(), x, create_graph=True, materialize_grads=True))
    if not found[0].requires_grad:
        found.append(torch.zeros_like(x))
    with suppress(RuntimeError, ValueError):  # PyTorch has none of some operations
        found += torch.autograd.grad(found[0], x, v, materialize_grads=True)
    return [part.detach() for part in found]


def _hooks(owner: Any, prefix: str = "") -> list[dict[int, Any]]:
    """The backward hooks of a module, or of all."""
    return [getattr(owner, f"{prefix}_backward_{kind}") for kind in ("hooks", "pre_hooks")]


@contextmanager
def _without_hooks(model: nn.Module) -> Iterator[None]:
    held = [each for part in model.modules() for each in _hooks(part)] + _hooks(torch_module, "_global")
    copies = [dict(each) for each in held]
    try:
        for each in held:
            each.clear()
        with Watch():
            yield
    finally:
        for each, copy in zip(held, copies, strict=True):
            each.update(copy)


class Watch(TorchFunctionMode):
    """Counts the hooks that a model registers on tensors, and leaves them out; else it measures what layers compute."""

    def __init__(self, *, leave: bool = True) -> None:
        super().__init__()
        self.leave, self.count, self.sizes, self.rounding = leave, 0, list[float](), 0.0

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.register_hook:
            self.count += 1
            if self.leave:
                return RemovableHandle(OrderedDict())
        result = func(*args, **kwargs)
        if getattr(func, "__self__", None) is Tensor.grad_fn and result is not None:  # a node, which takes hooks too
            self.count += 1
            return _Unhooked(result) if self.leave else result
        if not self.leave and of_layer(result, args, kwargs):
            self.sizes.append(root_mean_square(result.detach()))
        if not self.leave and isinstance(result, Tensor) and result.requires_grad:
            self.rounding = max(self.rounding, rounding(result))
        return result


class _Unhooked:
    """A node of autograd's graph on which nothing can be registered."""

    def __init__(self, node: Any) -> None:
        self._node = node

    def __getattr__(self, name: str) -> Any:
        if name in ("register_hook", "register_prehook"):
            return lambda hook: RemovableHandle(OrderedDict())
        return getattr(self._node, name)


def root_mean_square(tensor: Tensor) -> float:
    """How large a tensor's entries are."""
    return tensor.square().mean().sqrt().item()


def of_layer(result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call is that of a layer: it takes parameters."""
    given = (*args, *kwargs.values())
    computed = isinstance(result, Tensor) and result.is_floating_point()
    return computed and any(isinstance(value, nn.Parameter) for value in given)
