"""Second derivatives: other forms of what PyTorch differentiates only once, and quicker ones of what takes long.

PyTorch's derivative of a convolution's backward pass computes the weights' gradient too, which nobody asks for while
an image is attacked; that of a concatenation pads every part with zeros.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from fragility._activation import in_place, short_name
from fragility._call import clear_errors
from fragility._hinges import forget, note
from fragility._pool import quick_pool

_NAMES = {"conv1d": 1, "conv2d": 2, "conv3d": 3}


def differentiate(
    mode: TorchFunctionMode, outputs: Any, inputs: Any, grad_outputs: Any = None, **options: Any
) -> tuple[Tensor, ...]:
    """Call `torch.autograd.grad` with a mode kept on, which a checkpoint needs to recompute its part identically."""
    if torch._C._functorch.peek_interpreter_stack() is not None:  # edges would leave out its levels
        return torch.autograd.grad(outputs, inputs, grad_outputs, **options)
    # PyTorch takes a mode off the stack for a call with tensors. Edges of the graph are none.
    outputs, inputs = ([part] if isinstance(part, Tensor) else list(part) for part in (outputs, inputs))
    if grad_outputs is None or isinstance(grad_outputs, Tensor):
        grad_outputs = [grad_outputs] * len(outputs)
    if any(seed is None and output.numel() > 1 for seed, output in zip(grad_outputs, outputs, strict=True)):
        raise RuntimeError("grad can be implicitly created only for scalar outputs")
    seeds = [torch.ones_like(a) if b is None else b for a, b in zip(outputs, grad_outputs, strict=True)]
    edges, into = (
        [get_gradient_edge(part) if isinstance(part, Tensor) else part for part in parts] for parts in (outputs, inputs)
    )
    materialize = options.pop("materialize_grads", False)
    if materialize:
        options["allow_unused"] = True
    with mode, clear_errors():
        results = forget(torch.autograd.grad(edges, into, seeds, **options))
    if not materialize:
        return results
    return tuple(torch.zeros_like(a) if b is None else b for a, b in zip(inputs, results, strict=True))


class twice_differentiable(TorchFunctionMode):
    """Inside this context attention and hard sigmoid take forms with a second derivative, which fused kernels lack.

    A convolution whose weight and bias require no gradient is differentiated for its input only. Values and derivatives
    of every order are PyTorch's, also those of concatenations and max-pools. Made for two reverse passes, not for
    `torch.func`.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Replace a convolution, a concatenation, a max-pool, attention or a hard sigmoid."""
        kwargs = kwargs or {}
        if func is torch.autograd.grad:
            return differentiate(self, *args, **kwargs)
        name = short_name(func)
        if name in _ATTENTION:
            with sdpa_kernel(SDPBackend.MATH):
                return func(*args, **kwargs)
        if name == "hardsigmoid" and not in_place(func, kwargs):
            z = args[0] if args else kwargs["input"]
            return functional.relu6(z + 3) / 6
        if name in _NAMES and (call := _call(_NAMES[name], *args, **kwargs)) is not None:
            result = _Convolution.apply(*call)  # type: ignore[no-untyped-call]
        elif name in _JOINED and (parts := _parts(*args, **kwargs)) is not None:
            result = _Concatenation.apply(*parts)  # type: ignore[no-untyped-call]
        elif name == "max_pool2d" and (pooled := quick_pool(*args, **kwargs)) is not None:
            result = pooled
        else:
            return func(*args, **kwargs)
        note(func, args, kwargs, result)  # softplus does not see the call
        return result


_JOINED = ("cat", "concat", "concatenate")
_ATTENTION = ("scaled_dot_product_attention", "multi_head_attention_forward")


class _Geometry(NamedTuple):
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


def _call(
    dimensions: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> tuple[Tensor, Tensor, Tensor | None, _Geometry] | None:
    """Sort a convolution's arguments; return None if it is better left to PyTorch."""
    trained = weight.requires_grad or (bias is not None and bias.requires_grad)
    plain = input.ndim == dimensions + 2 and not torch._C._functorch.is_functorch_wrapped_tensor(input)
    if trained or isinstance(padding, str) or not plain or not input.requires_grad:
        return None
    device = input.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        input, weight, bias = input.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)

    def each(value: int | Sequence[int]) -> tuple[int, ...]:
        return (value,) * dimensions if isinstance(value, int) else tuple(value)

    return input, weight, bias, _Geometry(each(stride), each(padding), each(dilation), groups)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, shape: _Geometry) -> Tensor:
    origin = [0] * len(shape.stride)
    result: Tensor = torch.ops.aten.convolution.default(
        x, weight, bias, shape.stride, shape.padding, shape.dilation, False, origin, shape.groups
    )
    return result


class _Convolution(torch.autograd.Function):
    """y = w * x + b; linear in x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, shape: _Geometry) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.size = shape, x.shape
        return _convolve(x, weight, bias, shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        by_input = _Adjoint.apply(grads[0], weight, ctx.size, ctx.shape)  # type: ignore[no-untyped-call]
        return by_input, None, None, None


class _Adjoint(torch.autograd.Function):
    """The transpose of the convolution, whose own transpose is the convolution."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, weight: Tensor, size: torch.Size, shape: _Geometry) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape = shape
        origin, only_input = [0] * len(shape.stride), [True, False, False]
        result: Tensor = torch.ops.aten.convolution_backward.default(
            grad,
            grad.new_empty(size),  # only its shape is used, but an expanded one would be filled
            weight,
            None,
            shape.stride,
            shape.padding,
            shape.dilation,
            False,
            origin,
            shape.groups,
            only_input,
        )[0]
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        by_grad = _Convolution.apply(grads[0], weight, None, ctx.shape)  # type: ignore[no-untyped-call]
        return by_grad, None, None, None


def _parts(
    tensors: Sequence[Tensor], dim: int = 0, *, axis: int | None = None, out: Tensor | None = None
) -> tuple[Any, ...] | None:
    """Sort the arguments of a concatenation; return None if it is better left to PyTorch."""
    tensors, dim = tuple(tensors), dim if axis is None else axis
    wrapped = any(map(torch._C._functorch.is_functorch_wrapped_tensor, tensors))
    plain = not wrapped and out is None and isinstance(dim, int) and len({part.ndim for part in tensors}) == 1
    alike = plain and len({part.dtype for part in tensors}) == 1 and any(part.requires_grad for part in tensors)
    return (dim, *tensors) if alike else None


class _Concatenation(torch.autograd.Function):
    """Tensors along a dimension; PyTorch's own second derivative pads each part with zeros and adds them up."""

    @staticmethod
    def forward(ctx: Any, dim: int, *tensors: Tensor) -> Tensor:
        ctx.dim, ctx.sizes = dim, [part.shape[dim] for part in tensors]
        return torch.cat(tensors, dim)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_Separation.apply(grads[0], ctx.dim, ctx.sizes)  # type: ignore[no-untyped-call]


class _Separation(torch.autograd.Function):
    """The transpose of the concatenation, whose own transpose is the concatenation."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, dim: int, sizes: list[int]) -> tuple[Tensor, ...]:
        ctx.dim = dim
        return torch.split(grad, sizes, dim)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _Concatenation.apply(ctx.dim, *grads), None, None  # type: ignore[no-untyped-call]


# Custom functions that are linear in their inputs together.
LINEAR = (_Convolution, _Concatenation)
