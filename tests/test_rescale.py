"""DeepLIFT on models that write in place, branch, hide or mix: right values, or an error that says why not.

Kinds of layers are those of test_random_networks.py.
"""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from conftest import randomise, scores, second_derivative_error, total
from fragility._checks import trusting
from fragility._state import remembered
from fragility.attribution import deeplift, simple_gradient
from fragility.surrogate import softplus


class Around(nn.Module):
    """A model from a function of (itself, images), which has a small network and parameters to work with."""

    def __init__(self, function) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6 * 64, 4)
        self.net = nn.Sequential(self.conv, nn.Softplus(), nn.Flatten(), self.head)
        self.norm, self.back = nn.BatchNorm2d(3), nn.ConvTranspose2d(6, 3, 3, padding=1)
        self.canvas = nn.Parameter(torch.empty(1, 3, 8, 8))
        self.function = function
        randomise(self)

    def rest(self, h: Tensor) -> Tensor:
        return self.net[1:](h)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def written_into_a_parameter(m, x):
    canvas = m.canvas.repeat(len(x), 1, 1, 1)
    canvas[:, :, 2:6, 2:6] = x[:, :, 2:6, 2:6]
    return m.net(canvas)


def input_changed_after_its_activation(m, x):
    h = m.conv(x)
    a = h.relu()
    h.add_(1)
    return m.rest(a + torch.tanh(h))


def output_changed_after_its_activation(m, x):
    a = F.relu(m.conv(x))
    a += m.conv(x)
    return m.rest(a)


def sampled_on_a_grid(m, x):
    return m.net(F.grid_sample(x, m.canvas[:, :2].movedim(1, 3).expand(len(x), -1, -1, -1), align_corners=False))


def hooked(m, x):
    if not m.net[1]._backward_hooks:
        m.net[1].register_full_backward_hook(lambda *_: None)
    return m.net(x)


RIGHT = {
    "written into a parameter": written_into_a_parameter,
    "an activation's input changes afterwards": input_changed_after_its_activation,
    "an activation's output changes afterwards": output_changed_after_its_activation,
    "the input is normalised in place": lambda m, x: m.net(x.sub_(0.5).div_(0.25)),
    "a backward hook that changes nothing": hooked,
    "an activation of a parameter": lambda m, x: m.net(x * F.softplus(m.canvas) + torch.relu_(m.canvas * 1)),
    "a dropout of a view, in place": lambda m, x: m.head(
        F.dropout(m.net[:2](x).flatten(1)[:], training=False, inplace=True)
    ),
    "max-pool in one dimension": lambda m, x: m.head(F.max_pool1d(m.conv(x).flatten(1), 3, 1, 1)),
    "batch norm, transposed convolution": lambda m, x: m.net(m.back(m.conv(m.norm(x)).sigmoid())),
    "grid sampling": sampled_on_a_grid,
    "constants from the shape": lambda m, x: m.net(2 * x / torch.ones_like(x).sum((1, 2, 3), keepdim=True)),
}


def product_in_a_view(m, x):
    h = m.conv(x)
    h[:, :3] *= h[:, 3:]
    return m.rest(h)


def statistic_without_a_gradient(m, x):
    with torch.no_grad():
        mean = x.mean((1, 2, 3), keepdim=True)
    return m.net(x - mean)


# What is refused, with a word that the error has to contain.
REFUSED = {
    "rounding division": (lambda m, x: m.net(torch.div(x, 0.25, rounding_mode="floor")), "div"),
    "floor division": (lambda m, x: m.net(x // 0.25), "floor_divide"),
    "rounding": (lambda m, x: m.net((x * 4).round()), "round"),
    "einsum of two": (lambda m, x: m.net(torch.einsum("bchw,bchw->bchw", x, x)), "mul, a product"),
    "reentrant checkpoint": (lambda m, x: m.rest(checkpoint(m.net[:2], x, use_reentrant=True)), "Checkpoint"),
    "vmap": (lambda m, x: m.head(torch.vmap(lambda z: F.relu(m.conv(z[None])).flatten())(x)), "vmap"),
    "elu of a view, in place": (lambda m, x: m.rest(F.elu(m.conv(x)[:, :], inplace=True)), "elu on a view"),
    "product in a view": (product_in_a_view, "mul_ on a view"),
    "branch on pixels": (lambda m, x: m.net(x) if x[0, 0, 0, 0] > 0.6 else m.head(m.conv(x).flatten(1)), "branch"),
    "fewer activations": (lambda m, x: m.net(x) if x[0, 0, 0, 0] < 0.6 else m.head(m.conv(x).flatten(1)), "got 0 of 1"),
    "dependence hidden by detach": (lambda m, x: m.net(x + x.detach()), "detached"),
    "dependence hidden by NumPy": (lambda m, x: m.net(x + torch.from_numpy(x.detach().numpy())), "NumPy"),
    "statistic without a gradient": (statistic_without_a_gradient, "no_grad"),
    "mask from pixels": (lambda m, x: m.net(x * (x > 0.3)), "sum to"),
    "choice by pixels": (lambda m, x: m.net(torch.where(x > 0.3, x, 0)), "where, which chooses by pixels"),
    "precision lost inside": (lambda m, x: m.net(x.half().double()), "half precision in the model"),
}


@pytest.mark.parametrize("kind", RIGHT)
@pytest.mark.parametrize("beta", [None, 2.0])
def test_right_values(kind, beta, images, labels, baseline):
    """Sums, batch independence and second derivatives, for all that writes in place or branches harmlessly."""
    model = Around(RIGHT[kind])
    with softplus(beta) if beta else nullcontext():
        attributions = deeplift(model, images, labels, baseline=baseline)
        gap = scores(model, images.clone(), labels) - scores(model, baseline.clone(), labels)
        alone = [deeplift(model, images[k : k + 1], labels[k : k + 1], baseline=baseline[k : k + 1]) for k in (0, 1)]
    torch.testing.assert_close(total(attributions), gap, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.cat(alone), attributions, rtol=1e-10, atol=1e-13)
    assert second_derivative_error(deeplift, model, images, labels, beta, baseline=baseline) < 1e-6


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("graph", [False, True])
def test_refusals_say_why(kind, graph, images, labels, baseline):
    function, word = REFUSED[kind]
    model = Around(function)
    with pytest.raises(ValueError, match=f"model: .*({word})"), trusting(model):
        deeplift(model, images[:1].requires_grad_(graph), labels[:1], baseline=baseline[:1])


def test_what_has_no_gradient_is_a_constant(images, labels):
    """A statistic taken under no_grad scales a black reference to itself, so the sum holds."""

    def scaled(m, x):
        with torch.no_grad():
            mean = x.mean((1, 2, 3), keepdim=True)
        return m.net(x / (mean + 0.1))

    model = Around(scaled)
    gap = scores(model, images, labels) - scores(model, torch.zeros_like(images), labels)
    torch.testing.assert_close(total(deeplift(model, images, labels)), gap, rtol=1e-12, atol=1e-12)


def test_the_image_that_misses_is_named(images, labels):
    images[1, :, 0, 0] = 0.99  # only there the mask hides something
    model = Around(lambda m, x: m.net(x - 0.5 * (x.detach() > 0.95) * x.detach()))
    with pytest.raises(ValueError, match=r"attributions of image 1 to sum to S\(x\) - S\(x0\) = .* off by"):
        deeplift(model, images, labels)


def perturbed(model: nn.Module, direction: dict[str, Tensor], h: float) -> nn.Module:
    state = {name: value + h * direction[name] for name, value in model.state_dict().items() if name in direction}
    model.load_state_dict(state, strict=False)
    return model


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6(), nn.Tanh(), nn.GELU()])
@pytest.mark.parametrize("beta", [None, 2.0])
def test_training_loss_gives_the_weights_gradients(activation, beta, stacked, images, labels, baseline):
    """Through the multipliers, the activations of the images and those of the reference."""
    model, generator = stacked(activation), torch.Generator().manual_seed(1)
    direction = {
        name: torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        for name, parameter in model.named_parameters()
    }
    near = baseline + (images - baseline) * torch.linspace(0, 1, 8, dtype=torch.float64)  # secants turn into slopes

    def loss(model: nn.Module) -> Tensor:
        with softplus(beta) if beta else nullcontext():
            return deeplift(model, near.clone().requires_grad_(), labels, baseline=baseline).square().sum()

    gradients = torch.autograd.grad(loss(model), list(model.parameters()), materialize_grads=True)
    slope = sum((g * d).sum() for g, d in zip(gradients, direction.values(), strict=True))
    h = 1e-6
    up, down = loss(perturbed(model, direction, h)), loss(perturbed(model, direction, -2 * h))
    torch.testing.assert_close(slope, (up - down) / (2 * h), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype, every_relu, images, labels):
    model, x = every_relu.to(dtype), images.to(dtype).requires_grad_()
    attributions = deeplift(model, x, labels)
    (gradient,) = torch.autograd.grad(attributions.double().square().sum(), x)
    assert attributions.dtype == gradient.dtype == dtype
    exact_x = x.detach().double().requires_grad_()
    exact = deeplift(model.double(), exact_x, labels)
    (expected,) = torch.autograd.grad(exact.square().sum(), exact_x)
    # One rounding at the end, but in the second derivative also of the attributions themselves.
    for found, right in ((attributions, exact), (gradient, expected)):
        assert (found.double() - right).norm() < 2 * torch.finfo(dtype).eps * right.norm()


def test_autocast_does_not_cost_the_sum(every_relu, images, labels):
    model, x = every_relu.float(), images.float()
    expected = deeplift(model, x, labels)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(deeplift(model, x, labels), expected)


CHANGES = {
    "nothing": (lambda model: None, 1),
    "a weight, behind autograd's back": (lambda model: model.third.weight.data.mul_(1.5), 2),
    "a buffer": (lambda model: model.norm.running_mean.add_(0.1), 2),
    "a parameter is another one": (lambda model: setattr(model, "head", nn.Linear(8, 4).double()), 2),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("beta", [None, 2.0])
def test_an_attack_remembers_its_reference_and_never_a_stale_one(change, beta, every_relu, images, labels):
    """Counted by the model's calls: two for the first attributions, one for the next if nothing has changed."""
    calls = []
    every_relu.requires_grad_(False).register_forward_hook(lambda *_: calls.append(1))
    action, expected = CHANGES[change]
    with remembered(), trusting(every_relu):
        for surrogate in (None, beta):  # both at once
            with softplus(surrogate) if surrogate else nullcontext():
                deeplift(every_relu, images, labels)
        action(every_relu)
        calls.clear()
        with softplus(beta) if beta else nullcontext():
            found = deeplift(every_relu, images.flip(3), labels)
    assert len(calls) == expected
    with softplus(beta) if beta else nullcontext():
        torch.testing.assert_close(found, deeplift(every_relu, images.flip(3), labels), rtol=0, atol=0)
    with trusting(every_relu):
        calls.clear()
        deeplift(every_relu, images, labels)
    assert len(calls) == 2  # outside of the context nothing is remembered


def test_another_baseline_is_another_reference(every_relu, images, labels):
    expected = [deeplift(every_relu, images, labels, baseline=value) for value in (0.0, 0.5)]
    with remembered():
        for value, attributions in zip((0.0, 0.5, 0.0), [*expected, expected[0]], strict=True):
            assert torch.equal(deeplift(every_relu, images, labels, baseline=value), attributions)


def test_torchscript_and_compiled_models(every_relu, images, labels):
    with pytest.warns(DeprecationWarning, match="torch.jit.trace"):
        scripted = torch.jit.trace(every_relu, images)
    compiled = torch.compile(every_relu, backend="eager")
    for model, kind in ((scripted, "TorchScript"), (compiled, "compiled"), (nn.Sequential(scripted), "'0'")):
        model.eval()
        with pytest.raises(TypeError, match=kind):
            deeplift(model, images, labels)
        with softplus(1.0), pytest.raises(TypeError, match=kind):
            simple_gradient(model, images, labels)
    expected = simple_gradient(every_relu, images, labels)
    torch.testing.assert_close(simple_gradient(scripted, images, labels), expected)


def test_weight_norm(images, labels):
    model = nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(192, 4))).double().eval()
    expected = model[1].weight.detach()[labels].view_as(images) * images
    torch.testing.assert_close(deeplift(model, images, labels), expected, rtol=1e-12, atol=1e-14)
