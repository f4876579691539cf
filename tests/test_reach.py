"""Networks with a kink that softplus does not reach are refused by name; those that are smooth otherwise are not."""

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from activations import Ramp, Swish, in_a_thread
from conftest import randomise
from fragility._reach import _try_points, check_smooth
from fragility.attack import iterative
from fragility.attribution import simple_gradient
from fragility.curvature import input_hessian, input_hvp, top_direction
from fragility.defense import discretize
from fragility.network import squeezenet
from fragility.objective import top_k
from fragility.surrogate import SoftplusNetwork, softplus


class Wrapped(nn.Module):
    """Two layers around any function of the pre-activations."""

    def __init__(self, function, before=None) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Linear(288, 4)
        self.function, self.before = function, before or (lambda x: x)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(self.before(x))).flatten(1))


def network(function, before=None) -> nn.Module:
    model = randomise(Wrapped(function, before))
    model.last.weight.data *= 0.1
    return model


def scripted(function):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(function)


def relu_in_script(z: Tensor) -> Tensor:
    return torch.relu(z)


def rounded_straight_through(x: Tensor) -> Tensor:
    return x + ((8 * x).round() / 8 - x).detach()


# What is hidden from softplus, and the name that the error has to give.
HIDDEN = {
    "custom function": (network(Ramp.apply), "Ramp"),
    "thread": (network(in_a_thread), "Relu"),
    "script": (network(scripted(relu_in_script)), "Relu|Differentiable"),
    "data": (network(lambda z: z * (z.data > 0)), "not reach all of its kinks"),
    "largest of two": (network(lambda z: torch.stack([z, 0 * z]).amax(0)), "Amax"),
    "sorted": (network(lambda z: torch.stack([z, -z]).sort(0).values[1]), "Sort"),
    "maxout": (network(lambda z: F.max_pool3d(z, (2, 1, 1)).repeat(1, 2, 1, 1)), "not reach all of its kinks"),
    "another bound": (network(lambda z: z.clamp(-0.1, 0.1)), "Clamp"),
    "another condition": (network(lambda z: torch.where(z > 0.2, z, 0.2)), "Where"),
    "learned bound": (network(lambda z: torch.maximum(z, 0.3 * torch.ones(1, dtype=z.dtype))), "Maximum"),
    "hard shrinkage": (network(lambda z: F.hardshrink(z, 0.1)), "Hardshrink"),
    "before any layer": (network(F.relu, lambda x: (x - 0.5).abs()), "Abs"),
    "guard taken for an activation": (network(lambda z: torch.where(z > 0, z, z.clamp(max=0).exp() - 1)), "Where"),
    "rounded": (network(F.relu, rounded_straight_through), "not reach all of its kinks|but along a random direction"),
}

REACHED = {
    "relu": network(F.relu),
    "smooth function of one's own": network(Swish.apply),
    "exponential": network(F.elu),
    "max-pool": network(lambda z: F.max_pool2d(F.relu(z), 3, 1, 1)),
    "max-pool with indices": network(lambda z: F.max_pool2d(F.relu(z), 3, 1, 1, return_indices=True)[0]),
    "max-pool with indices, by position": network(lambda z: F.max_pool2d(F.relu(z), 3, 1, 1, 1, False, True)[0]),
    "adaptive max-pool": network(lambda z: F.relu(F.adaptive_max_pool2d(z, 6))),
    "guards": network(lambda z: F.relu(z) / F.relu(z).sum(1, keepdim=True).clamp(min=1e-6), lambda x: x.clamp(0, 1)),
    "softplus network": SoftplusNetwork(network(F.relu), 3.0),
    "depth": network(F.relu, lambda x: discretize(x, levels=4)),
    "smooth": network(torch.tanh),
}


@pytest.mark.parametrize("kind", HIDDEN)
def test_hidden_kinks(kind, images, labels):
    model, name = HIDDEN[kind]
    with pytest.raises(ValueError, match=name), softplus(3.0):
        check_smooth(model, images, labels)
    options = {"epsilon": 0.05, "step_size": 0.02, "iterations": 1, "surrogate_beta": 3.0}
    with pytest.raises(ValueError, match=name):
        iterative(model, images, labels, attribution=simple_gradient, objective=top_k(6), **options)
    with pytest.raises(ValueError, match=name), softplus(3.0):
        top_direction(model, images, labels)


@pytest.mark.parametrize("kind", [kind for kind, (_, name) in HIDDEN.items() if "kinks" not in name])
def test_what_the_graph_shows_is_refused_by_every_explanation(kind, images, labels):
    model, name = HIDDEN[kind]
    for call in (simple_gradient, lambda *a: input_hvp(*a, images), input_hessian):
        with pytest.raises(ValueError, match=name), softplus(3.0):
            call(model, images, labels)


@pytest.mark.parametrize("kind", REACHED)
@pytest.mark.parametrize("beta", [1.0, 3.0, 30.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_smooth_networks_are_accepted(kind, beta, dtype, images, labels):
    with softplus(beta):
        for seed in range(5):
            check_smooth(REACHED[kind].to(dtype), images.to(dtype), labels, seed=seed)


def test_rounding_is_not_taken_for_a_kink(images, labels):
    """In float32 these pre-activations are multiples of 1/16, which the gradient's differences show."""
    model = network(lambda z: F.relu((z + 1e6) - 1e6)).float()
    with softplus(3.0):
        with pytest.raises(ValueError, match="try float64"):
            _try_points(model, images.float(), labels, 0, 3.0, None)
        check_smooth(model, images.float(), labels)


@pytest.mark.parametrize("beta", [1 / 8, 64.0, 512.0])
def test_a_deep_network_of_large_pre_activations(beta):
    """Steps as small as softplus is sharp would drown in float32's rounding, and meet no unit that changes sides."""

    class Gate(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return z * (z.data > 0)

    model, images = squeezenet(), torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    labels = model(images).argmax(1)
    with softplus(beta):
        for seed in range(3):
            check_smooth(model, images, labels, seed=seed)
        for fire in (3, 7):
            model.features[fire].expand3x3_activation = Gate()
            with pytest.raises(ValueError, match="not reach all of its kinks"):
                check_smooth(model, images, labels)
            model.features[fire].expand3x3_activation = nn.ReLU()
