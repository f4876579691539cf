"""Is a model's answer for an image its own, and the gradient that of the answer?"""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from fragility._call import clear_errors, logits_of
from fragility._checks import rounding
from fragility._convolution import twice_differentiable
from fragility._reach import check_slope, of_layer, root_mean_square, trying

# What a model raises that is given another number of images than it was written for.
_OTHER_SIZE = (RuntimeError, AssertionError, ValueError, IndexError)


class Alone(NamedTuple):
    """What a model that was found to look at one image at a time makes of the first one."""

    logits: Tensor
    sizes: list[float]  # of what its layers compute, for `fragility._reach.check_smooth`


def check_alone(model: nn.Module, images: Tensor, *, copies: int = 1, again: bool = True, honest: bool = True) -> Alone:
    """Refuse a model whose logits for an image depend on the rest of the batch, or on chance, or whose gradients lie.

    The first image is shown three times. With other neighbours, but in the same place of an equally large batch, the
    logits are the same up to the order of sums on a GPU; in another place of a larger batch they are the same up to
    rounding. Where it is the only one that the model will be given, it is shown alone, alone again, and after another.

    Args:
        model: images in [0, 1] to logits (B, K).
        images: (B, ...); two are used.
        copies: how many of each will go through the model at a time.
        again: False if a single image need not be shown alone again, because `check_same` looks at its next logits.

        honest: False if its gradients are compared with differences elsewhere.

    Returns:
        The first image's logits, and the sizes of what the layers make of the first images.

    Raises:
        ValueError: if the first image's logits differ, a hook rewrites gradients, or the model takes batches of one
            size only and will be given others.
    """
    first = images[:1].detach()
    opposite = torch.full(first.shape, float(first.mean() < 0.5), dtype=first.dtype, device=first.device)
    opposite.view(-1)[:1] = 1 - opposite.view(-1)[:1]  # another mean, and the extremes 0 and 1

    def show(batch: Tensor, place: int = 0) -> Tensor:
        with torch.no_grad(), _Hooks():
            return logits_of(model, batch)[place]

    neighbours = first if len(images) == 1 < copies else images[1:2].detach()
    fixed: Exception | None = None
    try:
        logits, sizes = _logits(model, torch.cat([first, neighbours]))
    except _OTHER_SIZE as error:
        fixed, neighbours = error, images[1:].detach()
        logits, sizes = _logits(model, images.detach())
    if again or len(neighbours):
        check_same(logits, show(torch.cat([first, opposite.expand_as(neighbours)])))
    try:
        other = show(torch.cat([opposite, neighbours, first]), -1)
    except _OTHER_SIZE as error:
        fixed = fixed or error
    else:
        check_same(logits, other, digits=0.5)
    if fixed is not None and copies > 1:
        raise ValueError(
            f"model: expected one for any number of images at a time, got one that takes {len(images)} and fails with "
            f"others ({fixed}); pass chunk=1 where it is an argument, or mend the model"
        ) from fixed
    if honest:
        check_gradient(model, images)
    return Alone(logits, sizes)


def check_gradient(model: nn.Module, images: Tensor) -> None:
    """Refuse a model whose gradient is not the derivative of its logits: differences along two directions tell.

    Args:
        model: images in [0, 1] to logits (B, K).
        images: (B, ...); the first is used, where the model takes it alone.

    Raises:
        ValueError: if the gradient says something else than the differences; not of constants.
    """
    generator, noticed = torch.Generator().manual_seed(0), _Hooks(leave=False)
    x = images[:1].detach()
    with torch.enable_grad(), trying():
        try:
            with noticed:
                logits = logits_of(model, x.requires_grad_())
        except _OTHER_SIZE:
            logits = logits_of(model, x := images.detach().requires_grad_())
        weights = torch.rand(logits.shape, generator=generator).to(logits)
        if not logits.requires_grad or not logits.isfinite().all():
            return
        with clear_errors():
            found = torch.autograd.grad((weights * logits).sum(), x, allow_unused=True)
    gradient: Tensor | None = found[0]
    if gradient is None:
        return

    def change(v: Tensor) -> Tensor:
        high, low = ((weights * logits_of(model, x + way)).sum(dtype=torch.float64) for way in (v, -v))
        return high - low

    with torch.no_grad(), trying():
        size, steepness, digit = logits.detach().abs().max(), gradient.norm(), max(rounding(x), noticed.rounding)
        contrast = (x - x.mean()) / x.std().clamp(min=1e-3)  # which a hidden statistic feels most
        ways = [contrast + torch.randn(x.shape, generator=generator).to(x) for _ in range(2)]
        step = (digit**0.4 * size / steepness.clamp(min=1e-30)).clamp(max=0.02)
        for shorter in (1, 4):  # a kink or another pixel's turn in a max-pool may have been in between
            try:
                for way in ways:
                    v = step / shorter * way
                    foreseen = (gradient * ((x + v) - (x - v))).sum(dtype=torch.float64)
                    typical = steepness * 2 * step / shorter
                    check_slope(change(v), foreseen, digit**0.75 * size + 2 * digit**0.3 * typical)
            except ValueError:
                if shorter > 1:
                    raise
            else:
                return


def check_same(logits: Tensor, other: Tensor, *, digits: float = 0.75) -> None:
    """Refuse a model that gives the first image other logits at another time, beyond a share of the digits."""
    with torch._C.DisableTorchFunction():  # softplus would take the absolute values for activations
        largest = logits[logits.isfinite()].abs().max() if logits.isfinite().any() else 0.0
        if not torch.allclose(logits, other, 0.0, float(rounding(logits) ** digits * largest), equal_nan=True):
            raise ValueError(
                "model: expected logits that depend on one image each; those of image 0 change by "
                f"{(logits - other).abs().max():.2g} with the rest of the batch (or by chance): is there a "
                "normalisation over the batch, a reordering, or dropout? If there is none, rounding grows too much "
                f"in it for {logits.dtype}"
            )


def _logits(model: nn.Module, images: Tensor) -> tuple[Tensor, list[float]]:
    """The first image's logits of a model none of whose backward hooks rewrites a gradient; and its layers' sizes."""
    noticed, x = _Hooks(leave=False), images.requires_grad_()
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
        with _Hooks():
            yield
    finally:
        for each, copy in zip(held, copies, strict=True):
            each.update(copy)


class _Hooks(TorchFunctionMode):
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
        if not self.leave and isinstance(result, Tensor) and result.is_floating_point():
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
