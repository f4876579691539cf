"""Is what was computed linear in a tensor? Read off autograd's graph."""

import re
from typing import Any

from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node, get_gradient_edge
from torch.nn.modules._functions import BackwardHookFunction

from fragility._activation import full_name, short_name, tensors_in
from fragility._convolution import LINEAR

# Names of autograd's nodes, without "1D" to "3D" and "Backward0". Linear in all their inputs together:
_JOINTLY = set(
    "Add Sub Rsub Neg Cat Stack Mean Sum Cumsum Alias Clone Copy CopySlices ToCopy View UnsafeView ReshapeAlias "
    "AsStrided Expand Squeeze Unsqueeze Transpose T Permute Select Slice Split SplitWithSizes Unbind Diagonal Repeat "
    "Tril Triu Flip Roll Rot90 Unfold Im2Col Col2Im PixelShuffle PixelUnshuffle ChannelShuffle ConstantPadNd "
    "ReflectionPad ReplicationPad AvgPool AdaptiveAvgPool UpsampleNearest UpsampleNearestExact UpsampleLinear "
    "UpsampleBilinear UpsampleBilinear2DAa UpsampleTrilinear UpsampleBicubic UpsampleBicubic2DAa IndexAdd "
    "Zero Fill".split()
)
# Linear as long as what they choose is the same for all images: which index, which side of a condition.
CHOOSING = set("Where MaskedFill Index IndexSelect IndexPut IndexCopy Gather Scatter ScatterAdd".split())
# Linear in each input alone: products.
_PRODUCTS = set(
    "Mul Mm Bmm Mv Dot Addmm Addmv Addbmm Baddbmm Addcmul Linear Convolution MkldnnConvolution CudnnConvolution".split()
)
# Linear in their first input alone.
_FIRST = set("Div NativeBatchNorm CudnnBatchNorm MiopenBatchNorm GridSampler".split())
_ACTIVATIONS = set(
    "Relu Hardtanh LeakyRelu Sigmoid Tanh Silu Gelu Softplus MaxPool2DWithIndices MaxPool3DWithIndices".split()
)
# Calls that write into their first argument, and those that may do so with a view.
_IN_PLACE = re.compile("__i(add|sub|mul|div|truediv|floordiv|mod|pow)__|[a-z].*[^_]_")
_INTO_VIEWS = set("copy add iadd sub isub zero fill masked_fill index_put requires_grad".split())
_SCALINGS = set("mul imul div idiv itruediv".split())


class Dependence:
    """Which nodes of autograd's graph depend on a leaf; every node is visited once, however often one asks."""

    def __init__(self, leaf: Tensor) -> None:
        self._known: dict[Node, bool] = {_origin(leaf): True}

    def of(self, tensor: Tensor) -> bool:
        """Tell whether a tensor depends on the leaf, as far as the graph shows."""
        if not tensor.requires_grad:
            return False
        root = _origin(tensor)
        stack = [root]
        while stack:
            inputs = [node for node, _ in stack[-1].next_functions if node is not None]
            unknown = [node for node in inputs if node not in self._known]
            if stack[-1] in self._known or not unknown:
                node = stack.pop()
                self._known.setdefault(node, any(self._known[other] for other in inputs))
            stack += unknown
        return self._known[root]

    def nodes(self, tensor: Tensor) -> set[Node]:
        """The nodes on the way from a tensor to the leaf."""
        self.of(tensor)
        return {node for node, depends in self._known.items() if depends}

    def linear(self, tensor: Tensor, own: tuple[type, ...] = ()) -> set[str]:
        """Refuse a tensor that is not linear in the leaf, and return the kinds of operations that lead to it.

        Args:
            tensor: what depends on the leaf.
            own: custom autograd functions that are linear.

        Returns:
            For example {"Convolution", "Add"}.

        Raises:
            ValueError: if an operation is not linear, or none is known to be; it is named.
        """
        stack, seen, kinds = [_origin(tensor)] if self.of(tensor) else [], set[Node](), set[str]()
        while stack:
            node = stack.pop()
            carrying = [k for k, (other, _) in enumerate(node.next_functions) if other and self._known.get(other)]
            if node in seen or not carrying:
                continue
            kind = kind_of(node)
            if not _is_linear(node, kind, carrying, own):
                raise ValueError(
                    f"model: DeepLIFT's Rescale rule has no rule for {_spell(node, kind)}; simple_gradient "
                    "and integrated_gradients need none"
                )
            seen.add(node)
            kinds.add(kind)
            stack += [other for other, _ in node.next_functions if other and self._known.get(other)]
        return kinds

    def check_view(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse a call that writes into a view, unless it is linear: the graph does not show which function it was."""
        if not (_IN_PLACE.fullmatch(str(getattr(func, "__name__", ""))) or kwargs.get("inplace")):
            return
        if kwargs.get("training") is False:  # a dropout that does nothing
            return
        tensors = list(tensors_in((args, kwargs)))
        if not any(self.of(tensor) for tensor in tensors) or not tensors[0]._is_view():
            return
        scales = short_name(func) in _SCALINGS and not any(self.of(other) for other in tensors[1:])
        if not scales and short_name(func) not in _INTO_VIEWS:
            raise ValueError(f"model: DeepLIFT's Rescale rule has no rule for {full_name(func)} on a view, in place")


def _origin(tensor: Tensor) -> Node:
    """The node that computed a tensor; a leaf's is the one that accumulates its gradient."""
    return get_gradient_edge(tensor).node


def kind_of(node: Node) -> str:
    """The name of a node's operation, such as Relu or MaxPool."""
    return re.sub(r"([123]D)?(Backwards?)?\d*$", "", node.name().rpartition("::")[2])


def is_custom(node: Any) -> bool:
    """Whether a node belongs to a custom autograd function."""
    return isinstance(node, BackwardCFunction)


def _is_linear(node: Any, kind: str, carrying: list[int], own: tuple[type, ...]) -> bool:
    if is_custom(node):
        return node._forward_cls in (*LINEAR, BackwardHookFunction, *own)
    if kind in _PRODUCTS:
        return len(carrying) == 1
    if kind in _FIRST:
        rounds, trains = (getattr(node, name, None) for name in ("_saved_rounding_mode", "_saved_training"))
        return carrying == [0] and not rounds and not trains
    return kind in _JOINTLY or kind in CHOOSING


def _spell(node: Any, kind: str) -> str:
    """Name an operation as a user knows it."""
    if is_custom(node):
        return f"{node._forward_cls.__name__}, a custom autograd function"
    name = re.sub("(?<=[a-z0-9])(?=[A-Z])", "_", kind).lower()
    if kind in _PRODUCTS:
        return f"{name}, a product of two tensors that both depend on the images"
    if kind in _ACTIVATIONS:
        return f"{name}, an activation out of reach: in another function of PyTorch, a thread, vmap or compiled code"
    return "a function that has no derivative, such as floor_divide" if kind == "NotImplemented" else name
