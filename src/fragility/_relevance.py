"""Layer-wise relevance propagation (LRP): how relevance gets from a score back to the pixels [Bach2015].

A mode follows the images through a model that is not touched, call by call, and notes for every call how the relevance
of its result is passed on to its inputs. Whatever it has no rule for is refused. All layers share one form: where their
contributions add up to z, the relevance R of z goes to every part x of them as x times the gradient of z along R / z.

The ratios R / z are functions of the images in the model's own graph, so the derivative of a map is that of its
formula. If the ratio were detached, the map would be the same and its derivative wrong.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fragility._activation import SMOOTH, full_name, short_name, tensors_in
from fragility._call import Model
from fragility._hinges import NAMED
from fragility._softplus import deferred, substituted

Back = Callable[[Tensor], Sequence[Tensor]]


class Rules(NamedTuple):
    """Which rule a layer follows, by what it is given, and the rules' constants.

    Attributes:
        pixels: of the first layer.
        convolution: of other convolutions.
        dense: of other linear layers.
        epsilon: by how much |z| is enlarged in the epsilon rule.
        gamma: by how much positive weights are enlarged in the gamma rule.
        alpha: the weight of positive contributions in alpha-beta; that of negative ones is alpha - 1.
        biases: whether biases take a share in z-plus and alpha-beta.
    """

    pixels: str
    convolution: str
    dense: str
    epsilon: float
    gamma: float
    alpha: float
    biases: bool = True


class Layer(NamedTuple):
    """The call of a linear layer: its input, the parameters, and the call as a function of those."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    call: Callable[[Tensor, Tensor, Tensor | None], Tensor]


def share(
    relevance: Tensor, parts: Sequence[Tensor], compute: Callable[..., Tensor], epsilon: float = 0.0
) -> list[Tensor]:
    """Share out the relevance of z = compute(*parts), linear in the parts, by contributions: x (dz/dx)^T (R / z)."""
    with torch.enable_grad():
        z = compute(*parts)
        if epsilon:
            z = z + epsilon * torch.where(z < 0, -1.0, 1.0).to(z.dtype)
    # Where no contributions came in, none go back.
    gradients = _gradients(z, parts, relevance / z.masked_fill(z == 0, float("inf")))
    return [part * gradient for part, gradient in zip(parts, gradients, strict=True)]


def route(relevance: Tensor, parts: Sequence[Tensor], compute: Callable[..., Tensor]) -> Sequence[Tensor]:
    """Send relevance to the entries that a max-pool, a concatenation or another shape takes over."""
    with torch.enable_grad():
        result = compute(*parts)
    return _gradients(result, parts, relevance)


def _gradients(result: Tensor, parts: Sequence[Tensor], along: Tensor) -> Sequence[Tensor]:
    return torch.autograd.grad(result, list(parts), along, create_graph=torch.is_grad_enabled())


def pass_on(rule: str, relevance: Tensor, layer: Layer, rules: Rules, bounds: tuple[Tensor, Tensor] | None) -> Tensor:
    """The relevance of a layer's input, by one of the rules."""
    x, weight, bias, call = layer
    above, below = weight.clamp(min=0), weight.clamp(max=0)

    def signed(own: Tensor, other: Tensor, share_of_bias: Tensor | None) -> Tensor:
        """Share out by the contributions of one sign."""
        if (x >= 0).all():
            return share(relevance, [x], lambda x: call(x, own, share_of_bias))[0]
        with torch.enable_grad():
            halves = [x.clamp(min=0), x.clamp(max=0)]
        up, down = share(relevance, halves, lambda up, down: call(up, own, share_of_bias) + call(down, other, None))
        return up + down

    if rule == "z_box":
        if bounds is None:
            raise ValueError("rules: expected z_box for the first layer only, whose input has bounds")
        sides = [side.expand_as(x).clone().requires_grad_() for side in bounds]
        box = share(
            relevance,
            [x, *sides],
            lambda x, low, high: call(x, weight, None) - call(low, above, None) - call(high, below, None),
        )
        return box[0] + box[1] + box[2]
    if rule in ("z_plus", "alpha_beta"):
        known = bias if rules.biases else None
        alpha = rules.alpha if rule == "alpha_beta" else 1.0
        total = alpha * signed(above, below, None if known is None else known.clamp(min=0))
        if alpha == 1:
            return total
        return total - (alpha - 1) * signed(below, above, None if known is None else known.clamp(max=0))
    if rule == "gamma":
        weight = weight + rules.gamma * above
        bias = None if bias is None else bias + rules.gamma * bias.clamp(min=0)
    return share(relevance, [x], lambda x: call(x, weight, bias), rules.epsilon if rule == "epsilon" else 0.0)[0]


class _Node(NamedTuple):
    """A tensor that is followed: its number (0 for pixels, also normalised ones), its version, the range of pixels."""

    tensor: Tensor
    number: int
    version: int
    bounds: tuple[Tensor, Tensor] | None


class Trail(TorchFunctionMode):
    """Follows images through a model, and passes relevance back along the way."""

    def __init__(self, model: nn.Module, rules: Rules) -> None:
        super().__init__()
        self._rules, self._copy = rules, False
        self._nodes = dict[int, _Node]()
        self._steps = list[tuple[int, list[int], Back]]()
        self._read = list[tuple[Tensor, int]]()
        self._owners = {
            id(part): name.rpartition(".")[0] for name, part in [*model.named_parameters(), *model.named_buffers()]
        }

    def follow(self, model: Model, images: Tensor) -> Tensor:
        """Run the model on images that are followed from here on."""
        self._nodes, self._steps, self._read = {}, [], []
        self._enter(images, 0, (torch.zeros_like(images[:1]), torch.ones_like(images[:1])))
        with deferred(), self:
            logits = model(images)
        if any(part._version != version for part, version in self._read):  # the model wrote into what a layer has read
            self._copy = True
            return self.follow(model, images.clone())
        return logits

    def back(self, logits: Tensor, relevance: Tensor, images: Tensor) -> Tensor:
        """Pass the relevance of logits on to the images."""
        found = {self._find(logits).number: relevance} if id(logits) in self._nodes else {}
        for result, inputs, back in reversed(self._steps):
            if result in found:
                for number, part in zip(inputs, back(found.pop(result)), strict=True):
                    shaped = part.reshape(images.shape) if number == 0 else part
                    found[number] = found[number] + shaped if number in found else shaped
        if 0 not in found:
            raise ValueError(
                "model: LRP lost the images on their way to the logits: is there a custom autograd function, a "
                "backward hook, a thread or scripted code in it? Write it as calls of torch.nn.functional"
            )
        return found[0]

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        followed = [part for part in tensors_in((args, kwargs)) if id(part) in self._nodes]
        inputs = list({id(part): part for part in followed}.values())
        name = short_name(func)
        if not inputs:
            return func(*args, **kwargs)
        if name in _QUERIES:
            answer = func(*args, **kwargs)
            if any(tensors_in((answer,))):
                raise self._refusal(func, args, kwargs)
            return answer
        nodes = [self._find(part) for part in inputs]
        first = args[0] if args else kwargs.get("input")
        if name in _LAYERS and len(nodes) == 1 and first is inputs[0]:
            return self._layer(func, name, args, kwargs, nodes[0])
        scales = self._constants(args, kwargs) and (first is inputs[0] or "div" not in name)
        if any(node.number == 0 for node in nodes):
            known = len(followed) == 1 and (name in _RESHAPING or (name in _AFFINE and scales))
            return self._pixels(func, args, kwargs, nodes[0], known=known)
        if name in _UNCHANGED and not ("dropout" in name and _drops(args, kwargs)):
            return self._enter(substituted(func, args, kwargs), nodes[0].number, None)
        linear = name in _PROPORTIONAL and scales and len(followed) == len(inputs) == 1 + (name in _SUMS)
        writes = bool(_WRITES.fullmatch(func.__name__))
        if not (linear or name in _ROUTING) or (writes and name not in _WRITTEN) or "rounding_mode" in kwargs:
            raise self._refusal(func, args, kwargs)
        parts = [self._input(part, copy=writes) for part in inputs]
        compute = _replacing(_WRITTEN[name] if writes else func, args, kwargs, inputs)
        result = compute(*parts)
        if not isinstance(result, Tensor):
            raise self._refusal(func, args, kwargs)
        if writes:
            result = args[0].copy_(result)
        pass_back = share if linear else route
        return self._step(result, nodes, lambda relevance: pass_back(relevance, parts, compute))

    def _layer(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], node: _Node) -> Tensor:
        """A convolution or a linear layer."""
        named = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
        rest = args[3:]
        options = {key: value for key, value in kwargs.items() if key not in ("input", "weight", "bias")}
        layer = Layer(
            self._input(node.tensor),
            named["weight"],
            named.get("bias"),
            lambda x, weight, bias: func(x, weight, bias, *rest, **options),
        )
        rules, bounds = self._rules, node.bounds
        kind = rules.pixels if node.number == 0 else rules.dense if name == "linear" else rules.convolution
        result = func(*args, **kwargs)
        return self._step(result, [node], lambda relevance: [pass_on(kind, relevance, layer, rules, bounds)])

    def _pixels(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], node: _Node, *, known: bool) -> Tensor:
        """What happens to pixels before the first layer: a normalisation, or another shape."""
        before, bounds = node.tensor, node.bounds
        if not known or bounds is None:
            raise self._refusal(func, args, kwargs, " of pixels, before the first layer")
        ends = [_replacing(func, args, kwargs, [before])(end.expand_as(before).clone()) for end in bounds]
        result: Tensor = func(*args, **kwargs)
        if result.numel() != before.numel():
            raise self._refusal(func, args, kwargs, ", which changes the number of pixels")
        return self._enter(result, 0, (torch.minimum(*ends), torch.maximum(*ends)))

    def _enter(self, tensor: Tensor, number: int, bounds: tuple[Tensor, Tensor] | None) -> Tensor:
        """Follow a tensor from here on."""
        self._nodes[id(tensor)] = _Node(tensor, number, tensor._version, bounds)
        return tensor

    def _step(self, result: Tensor, nodes: list[_Node], back: Back) -> Tensor:
        """Note how the relevance of a result is passed on."""
        self._steps.append((len(self._steps) + 1, [node.number for node in nodes], back))
        return self._enter(result, len(self._steps), None)

    def _find(self, tensor: Tensor) -> _Node:
        node = self._nodes[id(tensor)]
        if node.version != tensor._version:
            raise ValueError("model: LRP cannot follow a tensor that is written into through a view; use a copy of it")
        return node

    def _input(self, tensor: Tensor, *, copy: bool = False) -> Tensor:
        """The input of a call, as it is now."""
        if not (tensor.requires_grad and torch.is_grad_enabled()):
            raise ValueError(
                "model: expected logits that depend differentiably on the images, got a part that is computed under "
                "no_grad or in a custom autograd function; write it as calls of torch.nn.functional"
            )
        if self._copy or copy:
            return tensor.clone()
        part = tensor.view_as(tensor)
        self._read.append((part, part._version))
        return part

    def _constants(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether the further tensors of a call are constants: parameters, or what nothing was computed for."""
        others = [part for part in tensors_in((args, kwargs)) if id(part) not in self._nodes]
        return all(isinstance(part, nn.Parameter) or part.grad_fn is None for part in others)

    def _refusal(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], why: str = "") -> ValueError:
        """Name a call that LRP has no rule for, and the layer that makes it."""
        owners = (self._owners.get(id(part)) for part in tensors_in((args, kwargs)))
        owner = next((f" (in its part {name!r})" for name in owners if name), "")
        advice = next((text for key, text in _ADVICE.items() if key in short_name(func)), _ELSE)
        return ValueError(f"model: LRP has no rule for {full_name(func)}{owner}{why}; {advice}")


def _drops(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call of dropout draws."""
    return bool(kwargs.get("training", args[2] if len(args) > 2 else True))


def _replacing(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], old: Sequence[Tensor]
) -> Callable[..., Tensor]:
    """A call as a function of some of the tensors in it."""

    def compute(*new: Tensor) -> Tensor:
        table = {id(a): b for a, b in zip(old, new, strict=True)}

        def exchange(tree: Any) -> Any:
            if isinstance(tree, (tuple, list)):
                return type(tree)(map(exchange, tree)) if type(tree) in (tuple, list) else tree
            return table.get(id(tree), tree)

        result: Tensor = func(*exchange(args), **{key: exchange(value) for key, value in kwargs.items()})
        return result

    return compute


# Names of calls, without underscores.
_QUERIES = set("get size dim ndimension numel nelement stride is_contiguous is_floating_point len hash repr".split())
_LAYERS = set("linear conv1d conv2d conv3d".split())
_UNCHANGED = {*NAMED, *SMOOTH, *"elu celu selu hardswish mish dropout dropout1d dropout2d dropout3d".split()}
_RESHAPING = set("view reshape flatten unflatten squeeze unsqueeze clone contiguous to float double".split())
_ROUTING = _RESHAPING | set("permute transpose cat concat concatenate getitem".split())
_ROUTING |= {f"{kind}max_pool{d}d" for kind in ("", "adaptive_") for d in (1, 2, 3)}
_SUMS = set("add sub iadd isub radd subtract".split())  # of two tensors that are followed
_AFFINE = _SUMS | set("rsub mul imul rmul div idiv truediv itruediv true_divide divide multiply".split())
_PROPORTIONAL = (_AFFINE - {"rsub"}) | {f"{kind}avg_pool{d}d" for kind in ("", "adaptive_") for d in (1, 2, 3)}
_PROPORTIONAL |= {"mean", "sum"}
_WRITES = re.compile("__i.*__|[a-z].*[^_]_")
_WRITTEN = {f"{i}{name}": getattr(torch, name) for name in ("add", "sub", "mul", "div") for i in ("", "i")}
_ADVICE = {
    "batch_norm": "fold it into the layer before it (torch.nn.utils.fusion.fuse_conv_bn_eval)",
    "dropout": "call model.eval() first",
    "flip": "LRP shares out logits: of a LogOdds explain its .model, or the log-odds by a method without rules",
    "add": "a constant would take a part of the relevance: put it into a layer's bias",
}
_ELSE = (
    "it knows linear layers and convolutions, activations of torch.nn.functional, pools, concatenations, sums and a "
    "normalisation of the images; the other attributions need no rules"
)
