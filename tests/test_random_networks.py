"""Every kind of layer, alone and in random networks: what is accepted is right, what is refused says why."""

import random
import re
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from activations import Ramp, in_a_thread
from conftest import randomise, scores, total
from fragility._reach import check_smooth
from fragility.attribution import deeplift, simple_gradient
from fragility.surrogate import softplus

BETA = 3.0
Function = Callable[[Tensor], Tensor]


class Kind(NamedTuple):
    """What a layer does with its pre-activation (B, 4, H, W), as a user writes it.

    Attributes:
        spelled: the function.
        formula: the same as a function of z and of a hinge, max(0, z); None where there is no kink.
        deeplift: what DeepLIFT's error says, if it refuses it.
        softplus: what the surrogate's error says, if it refuses it.
    """

    spelled: Function
    formula: Callable[[Tensor, Function], Tensor] | None = None
    deeplift: str = ""
    softplus: str = ""


def smooth(z: Tensor) -> Tensor:
    return torch.logaddexp(BETA * z, torch.zeros_like(z)) / BETA


def bounded(z: Tensor, hinge: Function, low: float, high: float) -> Tensor:
    return low + hinge(z - low) - hinge(z - high)


def sloped(z: Tensor, hinge: Function, slope: float) -> Tensor:
    return slope * z + (1 - slope) * hinge(z)


def rectified(z: Tensor, hinge: Function) -> Tensor:
    return hinge(z)


def assigned(z: Tensor) -> Tensor:
    z[:, :2] = F.relu(z[:, :2])
    return z


def canvas(z: Tensor) -> Tensor:
    h = torch.zeros_like(z)
    h[:, :, 1:] += z[:, :, 1:]
    return h


def into_view(z: Tensor) -> Tensor:
    h = z.clone()
    h[:, :2].exp_()
    return h


def attention(z: Tensor) -> Tensor:
    tokens = z.flatten(2).mT
    return F.scaled_dot_product_attention(tokens, tokens, tokens).mT.view_as(z)


class Cubed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return z**3

    @staticmethod
    def backward(ctx, grad):
        return 3 * ctx.saved_tensors[0] ** 2 * grad


ACTIVATIONS = {
    "relu": Kind(F.relu, rectified),
    "relu in place": Kind(torch.relu_, rectified),
    "relu of half the channels": Kind(assigned, lambda z, hinge: torch.cat([hinge(z[:, :2]), z[:, 2:]], 1)),
    "clamp": Kind(lambda z: z.clamp(min=0), rectified),
    "clamp in place": Kind(lambda z: z.clamp_(-1, 1), partial(bounded, low=-1, high=1)),
    "maximum": Kind(lambda z: torch.maximum(z, torch.zeros_like(z)), rectified),
    "maximum of two slopes": Kind(lambda z: torch.max(0.1 * z, z), partial(sloped, slope=0.1)),
    "minimum": Kind(lambda z: torch.minimum(z, torch.tensor(0.0)), lambda z, hinge: z - hinge(z)),
    "where": Kind(lambda z: torch.where(z > 0, z, 0), rectified),
    "masked": Kind(lambda z: z.masked_fill(z < 0, 0.0), rectified),
    "threshold": Kind(lambda z: F.threshold(z, 0.0, 0.0), rectified),
    "product": Kind(lambda z: z * (z > 0), rectified),
    "relu6": Kind(F.relu6, partial(bounded, low=0, high=6)),
    "hard tanh": Kind(lambda z: F.hardtanh(z, inplace=True), partial(bounded, low=-1, high=1)),
    "leaky relu": Kind(F.leaky_relu, partial(sloped, slope=0.01)),
    "prelu": Kind(lambda z: F.prelu(z, z.new_full((1,), 0.25)), partial(sloped, slope=0.25)),
    "rrelu": Kind(partial(F.rrelu, lower=0.1, upper=0.3), partial(sloped, slope=0.2)),
    "hard sigmoid": Kind(F.hardsigmoid, lambda z, hinge: bounded(z + 3, hinge, 0, 6) / 6),
    "maximum of two layers": Kind(lambda z: torch.maximum(z, 1 - 2 * z), lambda z, hinge: 1 - 2 * z + hinge(3 * z - 1)),
    "product in place": Kind(lambda z: z.mul_(z > 0), rectified),
    "multiply": Kind(lambda z: torch.multiply(z, z > 0), rectified),
    "expit": Kind(torch.special.expit, lambda z, _: z.sigmoid()),
    "absolute": Kind(torch.absolute, lambda z, hinge: hinge(z) + hinge(-z)),
    "soft shrinkage": Kind(F.softshrink, lambda z, hinge: z - bounded(z, hinge, -0.5, 0.5)),
    "abs": Kind(torch.abs, lambda z, hinge: hinge(z) + hinge(-z)),
    "tanh": Kind(torch.tanh),
    "sigmoid": Kind(torch.sigmoid),
    "gelu": Kind(F.gelu),
    "silu": Kind(F.silu),
    "softplus": Kind(F.softplus),
}
LINEAR = {
    "canvas": Kind(canvas),
    "flip, roll": Kind(lambda z: z.flip(3).roll(1, 2)),
    "scaled in place": Kind(lambda z: z.clone().mul_(0.5).add_(0.1)),
    "a view scaled in place": Kind(lambda z: z.clone().mT.mul_(0.5)),
    "pad": Kind(lambda z: F.pad(z, (1, 0, 0, 1), "replicate")),
    "average pool": Kind(lambda z: F.avg_pool2d(z, 2, 1)),
    "interpolation": Kind(lambda z: F.interpolate(z, scale_factor=2, mode="bilinear")),
    "shuffle": Kind(lambda z: F.channel_shuffle(z, 2)),
    "pixel shuffle": Kind(lambda z: F.pixel_shuffle(z.repeat(1, 4, 1, 1), 2)),
    "chunks": Kind(lambda z: torch.cat(z.chunk(2, 1)[::-1], 1)),
    "batch norm": Kind(lambda z: F.batch_norm(z, z.new_full((4,), 0.1), z.new_full((4,), 2.0))),
    "unfold, mean": Kind(lambda z: F.unfold(z, 3, padding=1).view(*z.shape[:2], 9, *z.shape[2:]).mean(2)),
    "einsum": Kind(lambda z: torch.einsum("bchw,cd->bdhw", z, 1 - torch.eye(4, dtype=z.dtype))),
    "the batch last": Kind(lambda z: z.movedim(0, 3).contiguous().movedim(3, 0)),
    "channels last": Kind(lambda z: z.to(memory_format=torch.channels_last)),
    "constant mask": Kind(lambda z: z.where(torch.ones(z.shape[2:]).tril().bool(), 0.5)),
    "max pool": Kind(lambda z: F.max_pool2d(z, 2, 1)),
    "max pool with padding": Kind(lambda z: F.max_pool2d(z, 3, 1, 1)),
    "maxout": Kind(lambda z: F.max_pool3d(z.contiguous(), (2, 1, 1)).repeat(1, 2, 1, 1), softplus="not reach"),
    "adaptive max pool": Kind(lambda z: F.adaptive_max_pool2d(z, 4)),
    "harmless test": Kind(lambda z: z / 255 if z.abs().max() > 1e6 else z),
}
PRODUCT, SUM, ALONE = "a product of two tensors", r"sum to S\(x\) - S\(x0\)", "depend on one image each"
REFUSED = {
    "gate": Kind(lambda z: z * z.mean((2, 3), keepdim=True).sigmoid(), None, PRODUCT),
    "attention": Kind(attention, None, f"{PRODUCT}|scaled_dot"),
    "softmax": Kind(lambda z: z.softmax(1), None, "no rule for softmax"),
    "layer norm": Kind(lambda z: F.layer_norm(z, z.shape[1:]), None, "no rule for native_layer_norm"),
    "group norm": Kind(lambda z: F.group_norm(z, 2), None, "no rule for native_group_norm|group_norm"),
    "instance norm": Kind(F.instance_norm, None, "no rule for"),
    "norm": Kind(lambda z: z / (1 + z.square().sum(1, keepdim=True)).sqrt(), None, "no rule for div"),
    "square": Kind(torch.square, None, "no rule for pow"),
    "hard swish": Kind(F.hardswish, lambda z, hinge: z * bounded(z + 3, hinge, 0, 6) / 6, "no rule for hardswish"),
    "reciprocal": Kind(lambda z: 1 / (3 + z.tanh()), None, "no rule for reciprocal"),
    "elu": Kind(lambda z: F.elu(z, 2.0), lambda z, hinge: 2 * F.celu(z) - hinge(z), "no rule for elu"),
    "exp of a view, in place": Kind(into_view, None, "exp_ on a view, in place"),
    "custom function": Kind(Cubed.apply, None, "Cubed, a custom autograd function"),
    "checkpoint": Kind(lambda z: checkpoint(F.relu, z, use_reentrant=False), rectified, "checkpoint"),
    "hidden statistic": Kind(lambda z: z / (1 + z.detach().std((1, 2, 3), keepdim=True)), None, SUM, "not reach"),
    "neighbours": Kind(lambda z: z + z.roll(1, 0), None, ALONE, ALONE),
    "statistics of the batch": Kind(lambda z: F.batch_norm(z, None, None, training=True), None, ALONE, ALONE),
    "custom kink": Kind(Ramp.apply, None, "Ramp, a custom autograd function", "Ramp"),
    "hidden product": Kind(lambda z: z * (z.data > 0), None, SUM, "not reach"),
    "largest along a dimension": Kind(lambda z: torch.stack([z, 0 * z]).amax(0), None, "no rule for amax", "Amax"),
    "thread": Kind(in_a_thread, None, "thread", "Relu"),
    "another bound": Kind(lambda z: z.clamp(-0.1, 0.1), None, "no rule for clamp", "Clamp"),
}
KINDS = {**ACTIVATIONS, **LINEAR, **REFUSED}


class RandomNetwork(nn.Module):
    """Layers of these kinds, some with a shortcut; with a hinge it computes formulas in the place of activations."""

    def __init__(self, kinds: list[str], draw: random.Random) -> None:
        super().__init__()
        self.kinds = kinds
        self.layers = nn.ModuleList(
            nn.Conv2d(4 if number else 3, 4, draw.choice((1, 3)), padding=1) for number in range(len(kinds))
        )
        self.shortcut = draw.random() < 0.3
        self.head = nn.Linear(4, 3)
        self.hinge: Function | None = None
        randomise(self, draw.randrange(10**6))

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for layer, name in zip(self.layers, self.kinds, strict=True):
            z, kind = layer(h), KINDS[name]
            before = z.clone()
            h = kind.spelled(z) if self.hinge is None or kind.formula is None else kind.formula(z, self.hinge)
            if self.shortcut and h.shape == before.shape:
                h = h + before
        return self.head(h.mean((2, 3)))


def drawn(draw: random.Random) -> RandomNetwork:
    kinds = [draw.choice(list(ACTIVATIONS if draw.random() < 0.6 else LINEAR)) for _ in range(4)]
    if draw.random() < 0.4:
        kinds[draw.randrange(4)] = draw.choice(list(REFUSED))
    return RandomNetwork(kinds, draw)


def second_derivatives_agree(explain: Function, x: Tensor) -> bool:
    """Autograd's derivative of random projections of the attributions against central differences."""
    weights, direction = torch.randn(2, *x.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def projected(points: Tensor) -> Tensor:
        return total(explain(points) * weights)

    leaf = x.clone().requires_grad_()
    slope = total(torch.autograd.grad(projected(leaf).sum(), leaf, materialize_grads=True)[0] * direction)
    size = projected(x).detach().abs().max() + 1e-3
    # A step may meet a kink or another pixel's turn in a max-pool; hardly those of all three sizes.
    numeric = [(projected(x + h * direction) - projected(x - h * direction)) / (2 * h) for h in (1e-5, 1e-6, 1e-7)]
    return any(torch.allclose(slope, guess.detach(), rtol=1e-4, atol=float(1e-5 * size)) for guess in numeric)


def explained(network: RandomNetwork, images: Tensor, labels: Tensor, baseline: Tensor, beta: float | None) -> str:
    """What is wrong with DeepLIFT: values against the formulas, batch independence, second derivatives."""

    def explain(x: Tensor, rows: slice = slice(None)) -> Tensor:
        with softplus(beta) if beta else nullcontext():
            return deeplift(network, x, labels[rows], baseline=baseline[rows])

    attributions = explain(images)
    alone = torch.cat([explain(images[row], row) for row in (slice(0, 1), slice(1, 2))])
    network.hinge = smooth if beta else F.relu
    gap = scores(network, images, labels) - scores(network, baseline, labels)
    network.hinge, by_formula = F.relu, attributions
    if all(not KINDS[name].deeplift for name in network.kinds):
        by_formula = explain(images)
    network.hinge = None
    if not torch.allclose(total(attributions), gap, rtol=1e-8, atol=1e-10):
        return "the sum"
    if not torch.allclose(attributions, by_formula, rtol=1e-8, atol=1e-10):
        return "a hinge in another spelling"
    if not torch.allclose(alone, attributions, rtol=1e-8, atol=1e-10):
        return "an image alone"
    return "" if second_derivatives_agree(explain, images) else "the second derivative"


def substituted(network: RandomNetwork, images: Tensor, labels: Tensor, *_) -> str:
    """What is wrong with the simple gradient inside softplus: a kink, batch independence, second derivatives."""

    def explain(x: Tensor) -> Tensor:
        return simple_gradient(network, x, labels[: len(x)])

    with softplus(BETA):
        check_smooth(network, images, labels)
        gradients, alone = explain(images), explain(images[:1])
        agree = second_derivatives_agree(explain, images)
    network.hinge = smooth
    expected = explain(images)
    network.hinge = None
    if not torch.allclose(gradients, expected, rtol=1e-8, atol=1e-11):
        return "a kink"
    if not torch.allclose(alone, gradients[:1], rtol=1e-8, atol=1e-11):
        return "an image alone"
    return "" if agree else "the second derivative"


CHECKS = {"deeplift": explained, "softplus": substituted}


def judged(method: str, network: RandomNetwork, *data: Any) -> tuple[str, str]:
    """Whether a network is accepted, or the reason of the refusal, and what is wrong with that."""
    reasons = [reason for name in network.kinds if (reason := getattr(KINDS[name], method))]
    try:
        fault = CHECKS[method](network, *data)
    except ValueError as error:
        fitting = [reason for reason in reasons if re.search(reason, str(error))]
        return ("refused: " + fitting[0], "") if fitting else ("refused without a reason", str(error))
    if reasons:  # no image comes near what is hidden: the guards look at values and differences
        return "accepted all the same", fault if method == "deeplift" else ""
    return "accepted", fault


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("method", "beta"), [("deeplift", None), ("deeplift", BETA), ("softplus", BETA)])
def test_a_kind_alone(method, beta, kind):
    network, generator = RandomNetwork([kind, "tanh"], random.Random(1)), torch.Generator().manual_seed(0)  # noqa: S311
    images, baseline = 0.1 + 0.8 * torch.rand(2, 2, 3, 6, 6, generator=generator, dtype=torch.float64)
    reason = getattr(KINDS[kind], method)
    expected = f"refused: {reason}" if reason else "accepted"
    assert judged(method, network, images, torch.tensor([0, 2]), baseline, beta) == (expected, "")


@pytest.mark.slow
@pytest.mark.parametrize("method", CHECKS)
def test_500_random_networks(method):
    draw, outcomes, wrong = random.Random(0), Counter[str](), []  # noqa: S311
    generator, labels = torch.Generator().manual_seed(0), torch.tensor([0, 2])
    for number in range(500):
        network, beta = drawn(draw), draw.choice((None, BETA))
        images, baseline = 0.1 + 0.8 * torch.rand(2, 2, 3, 6, 6, generator=generator, dtype=torch.float64)
        outcome, fault = judged(method, network, images, labels, baseline, beta)
        outcomes[outcome] += 1
        if fault:
            wrong.append((number, network.kinds, beta, fault))
    print(method, *outcomes.most_common(), sep="\n")  # with pytest -s
    assert not wrong, "\n".join(map(str, wrong))
    assert outcomes["accepted"] >= 250
    assert outcomes["accepted all the same"] <= 15
    known = {reason for kind in KINDS.values() if (reason := getattr(kind, method))}
    assert len(known & {outcome.removeprefix("refused: ") for outcome in outcomes}) >= len(known) - 2
