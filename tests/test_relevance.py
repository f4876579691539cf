"""LRP: the rules contribution by contribution, gradient times input, zennit, finite differences, refusals."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from zennit.composites import NameMapComposite
from zennit.rules import AlphaBeta, Epsilon, Gamma, ZBox, ZPlus

from conftest import randomise, scores, second_derivative_error, total
from fragility import network
from fragility.attribution import COMPOSITES, RULES, importance, lrp, simple_gradient
from fragility.network import Normalize
from fragility.surrogate import SoftplusNetwork, softplus

EPSILON, GAMMA, ALPHA = 0.01, 0.25, 2.0
ALL = (*RULES, *COMPOSITES)
MIXED = {"pixels": "z_plus", "convolution": "alpha_beta", "dense": "gamma"}


class Fire(nn.Module):
    """What SqueezeNet is made of, and a sum of two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.squeeze = nn.Conv2d(3, 6, 3, stride=2), nn.Conv2d(6, 4, 1)
        self.left, self.right = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.last, self.drop = nn.Conv2d(8, 4, 1), nn.Dropout()

    def forward(self, images: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.first(images)), 2, stride=1)
        x = functional.relu(self.squeeze(x))
        right = self.right(x)
        right += x  # as in a ResNet
        x = torch.cat([functional.relu(self.left(x)), right.relu_()], 1)
        x = functional.relu(self.last(self.drop(x)), inplace=True)
        return torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1)


@pytest.fixture
def fire() -> nn.Module:
    model = randomise(Fire())
    model.last.weight.data.abs_()  # no logit is zero
    return model


@pytest.fixture
def stack(stacked: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return stacked(nn.ReLU())


def matrix(layer: Callable[[Tensor], Tensor], shape: torch.Size) -> tuple[Tensor, Tensor]:
    """A linear layer as a matrix, input entries by output entries, and its biases."""
    with torch.no_grad():
        zero = layer(torch.zeros(1, *shape, dtype=torch.float64)).flatten()
        basis = torch.eye(shape.numel(), dtype=torch.float64).view(-1, *shape)
        return layer(basis).flatten(1) - zero, zero


def by_hand(layers: nn.Sequential, image: Tensor, label: int, kinds: dict[str, str], biases: bool) -> Tensor:
    """All contributions of a stack's layers, and the relevances; checks that nothing but biases takes any."""
    values, seen = [image], 0
    for layer in layers:
        values.append(layer(values[-1]))
    relevance = torch.zeros_like(values[-1])
    relevance[0, label] = score = values[-1][0, label]
    taken = torch.zeros((), dtype=torch.float64)
    for number in range(len(layers) - 1, -1, -1):
        layer, x = layers[number], values[number]
        flat, out = x.flatten(), relevance.flatten()
        if isinstance(layer, nn.MaxPool2d):
            chosen = torch.autograd.functional.jacobian(layer, x).view(out.numel(), -1)
            relevance = (chosen.T @ out).view_as(x)
        elif isinstance(layer, (nn.Conv2d, nn.Linear)):
            first = not any(isinstance(other, (nn.Conv2d, nn.Linear)) for other in layers[:number])
            rule = kinds["pixels" if first else "dense" if isinstance(layer, nn.Linear) else "convolution"]
            w, b = matrix(layer, x.shape[1:])
            if not biases and rule != "zero":
                b = torch.zeros_like(b)
            shares, lost = torch.zeros_like(w), torch.zeros_like(b)
            for factor, c, bias in contributions(rule, flat, w, b):
                z = c.sum(0) + bias
                shares += factor * torch.where(z == 0, 0.0, c / z)
                lost += factor * torch.where(z == 0, 0.0, bias / z)
            taken = taken + lost @ out
            relevance, seen = (shares @ out).view_as(x), seen + 1
        else:
            relevance = relevance.view_as(x)
    assert seen == 3
    if "alpha_beta" not in kinds.values():  # a neuron without negative contributions passes on alpha times its own
        torch.testing.assert_close(relevance.sum() + taken, score, rtol=1e-10, atol=1e-10)
    return relevance


def contributions(rule: str, x: Tensor, w: Tensor, b: Tensor) -> list[tuple[float, Tensor, Tensor]]:
    """A rule's contributions (inputs by outputs), and what takes a share beside them."""
    c = x[:, None] * w
    if rule == "epsilon":
        return [(1, c, b + EPSILON * (c.sum(0) + b).sign())]
    if rule == "gamma":
        return [(1, x[:, None] * (w + GAMMA * w.clamp(min=0)), b + GAMMA * b.clamp(min=0))]
    if rule == "z_plus":
        return [(1, c.clamp(min=0), b.clamp(min=0))]
    if rule == "alpha_beta":
        return [(ALPHA, c.clamp(min=0), b.clamp(min=0)), (1 - ALPHA, c.clamp(max=0), b.clamp(max=0))]
    if rule == "z_box":  # pixels from 0 to 1
        return [(1, c - w.clamp(max=0), torch.zeros_like(b))]
    return [(1, c, b)]


class TestValues:
    @pytest.mark.parametrize("rules", [*ALL, MIXED], ids=[*ALL, "mixed"])
    def test_every_contribution_by_hand(self, rules, stack, images, labels):
        named = rules if isinstance(rules, dict) else None
        kinds = named or dict(zip(MIXED, COMPOSITES.get(rules, (rules,) * 3), strict=True))
        found = lrp(stack, images, labels, rules=rules, epsilon=EPSILON, gamma=GAMMA, alpha=ALPHA)
        for image, label, ours in zip(images, labels.tolist(), found, strict=True):
            expected = by_hand(stack, image[None], label, kinds, rules != "deep_taylor")[0]
            torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-10)

    @pytest.mark.parametrize("which", ["stack", "fire"])
    def test_lrp_0_is_gradient_times_input(self, which, images, labels, request):
        model = request.getfixturevalue(which)
        expected = images * simple_gradient(model, images, labels)
        torch.testing.assert_close(lrp(model, images, labels, rules="zero"), expected, rtol=1e-10, atol=1e-12)

    def test_z_box_of_two_pixels(self):
        """x = (.5, .25), w = (2, -4): contributions x w - 0 max(w, 0) - 1 min(w, 0) = (1, 3)."""
        layer = nn.Linear(2, 2).double().eval()
        layer.weight.data = torch.tensor([[2.0, -4.0], [0.0, 0.0]], dtype=torch.float64)
        layer.bias.data = torch.tensor([8.0, 0.0], dtype=torch.float64)  # the score is 8
        x = torch.tensor([[0.5, 0.25]], dtype=torch.float64)
        assert lrp(layer, x, torch.tensor([0])).tolist() == [[2.0, 6.0]]

    def test_deep_taylor_conserves_the_score(self, fire, images, labels):
        relevance = lrp(fire, images, labels, rules="deep_taylor")
        torch.testing.assert_close(total(relevance), scores(fire, images, labels), rtol=1e-10, atol=1e-10)

    def test_squeezenet_in_single_precision(self):
        images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        model, labels = network.squeezenet(), torch.tensor([3, 500])
        relevance = lrp(model, images, labels, rules="deep_taylor")
        # 12,288 terms through 26 layers, none of them negative: relative errors stay those of a few roundings.
        torch.testing.assert_close(total(relevance), scores(model, images, labels), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            ("composite", [ZBox(0.0, 1.0, 0.0, ["bias"]), Gamma(GAMMA, 0.0), Epsilon(EPSILON)]),
            ("deep_taylor", [ZBox(0.0, 1.0, 0.0, ["bias"]), ZPlus(0.0, ["bias"]), ZPlus(0.0, ["bias"])]),
            ("alpha_beta", [AlphaBeta(ALPHA, ALPHA - 1, 0.0) for _ in range(3)]),
            ("epsilon", [Epsilon(EPSILON) for _ in range(3)]),
        ],
    )
    def test_agrees_with_zennit(self, ours, theirs, stack, images, labels):
        composite = NameMapComposite([([name], rule) for name, rule in zip(("0", "2", "6"), theirs, strict=True)])
        x = images.clone().requires_grad_()
        with composite.context(stack) as explained:
            logits = explained(x)
            seed = torch.zeros_like(logits).scatter(1, labels[:, None], logits.detach().gather(1, labels[:, None]))
            (expected,) = torch.autograd.grad(logits, x, seed)
        found = lrp(stack, images, labels, rules=ours, epsilon=EPSILON, gamma=GAMMA, alpha=ALPHA)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)

    def test_normalised_pixels_keep_their_bounds(self, stack, images, labels):
        mean, std = (0.3, 0.4, 0.5), (0.2, 0.25, 0.3)
        model = Normalize(stack, mean, std).double().eval()
        low, high = ((end - torch.tensor(mean)) / torch.tensor(std) for end in (0.0, 1.0))
        composite = NameMapComposite(
            [([name], rule) for name, rule in {
                "0": ZBox(low.view(1, 3, 1, 1), high.view(1, 3, 1, 1), 0.0, ["bias"]),
                "2": ZPlus(0.0, ["bias"]), "6": ZPlus(0.0, ["bias"]),
            }.items()]
        )  # fmt: skip
        x = ((images - model.mean) / model.std).requires_grad_()
        with composite.context(stack) as explained:
            logits = explained(x)
            seed = torch.zeros_like(logits).scatter(1, labels[:, None], logits.detach().gather(1, labels[:, None]))
            (expected,) = torch.autograd.grad(logits, x, seed)
        # zennit's bounds are of single precision
        torch.testing.assert_close(lrp(model, images, labels, rules="deep_taylor"), expected, rtol=1e-5, atol=1e-6)

    def test_inside_softplus_it_explains_the_softplus_network(self, stacked, images, labels):
        model = stacked(nn.ReLU())
        with softplus(3.0):
            found = lrp(model, images, labels, rules="deep_taylor")
        with softplus(9.0):  # of an attack; the network's own counts
            assert torch.equal(lrp(SoftplusNetwork(model, 3.0), images, labels, rules="deep_taylor"), found)
        expected = lrp(stacked(nn.Softplus(beta=3.0)), images, labels, rules="deep_taylor")
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)  # PyTorch's softplus is cut off at 20

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_computed_in_single(self, dtype, fire, images, labels):
        x = images.to(dtype)
        expected = lrp(fire.float().to(dtype).float(), x.float(), labels)
        torch.testing.assert_close(lrp(fire.to(dtype), x, labels), expected.to(dtype), rtol=0.01, atol=1e-6)


class TestSecondDerivatives:
    @pytest.mark.parametrize("rules", [*RULES[1:], *COMPOSITES])
    def test_finite_differences(self, rules, stack, images, labels):
        assert second_derivative_error(lrp, stack, images, labels, None, rules=rules) < 1e-6

    @pytest.mark.parametrize("beta", [None, 2.0])
    def test_of_a_fire_module(self, beta, fire, images, labels):
        assert second_derivative_error(lrp, fire, images, labels, beta, rules="deep_taylor") < 1e-6

    def test_lrp_0_has_that_of_gradient_times_input(self, stack, images, labels):
        """On a ReLU network the gradient is constant: the derivative of x g is g."""
        x = images.clone().requires_grad_()
        (slope,) = torch.autograd.grad(total(lrp(stack, x, labels, rules="zero")).sum(), x)
        torch.testing.assert_close(slope, simple_gradient(stack, images, labels), rtol=1e-8, atol=1e-9)

    def test_weights_have_gradients_too(self, fire, images, labels):
        x = images.clone().requires_grad_()
        importance(lrp(fire, x, labels, rules="deep_taylor")).square().sum().backward()
        assert all(part.grad is not None for part in (fire.first.weight, fire.last.weight, x))


class Changed(nn.Module):
    """A network with something in it."""

    def __init__(self, inside: Callable[[Tensor], Tensor], before: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        self.inside, self.before = inside, before

    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.inside(self.first(self.before(images)))).relu().mean((2, 3))


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


def written(x: Tensor) -> Tensor:
    """Overwrites what a convolution has read."""
    y = functional.conv2d(x, torch.ones(4, 4, 1, 1, dtype=x.dtype))
    return x.relu_() + y


def untouched(x: Tensor) -> Tensor:
    return x.relu() + functional.conv2d(x, torch.ones(4, 4, 1, 1, dtype=x.dtype))


REFUSED = {
    "batch norm": (Changed(lambda x: model_of(x)), r"batch_norm.*fold it into the layer before"),
    "product": (Changed(lambda x: x * x.mean((2, 3), keepdim=True)), "mul"),
    "square": (Changed(lambda x: x * x), "mul"),
    "pixels squared": (Changed(lambda x: x, lambda x: x * x), "mul of pixels"),
    "softmax": (Changed(lambda x: x.softmax(1)), "softmax"),
    "division of a number": (Changed(lambda x: 1 / (x.relu() + x.relu())), "no rule"),
    "constant": (Changed(lambda x: x + 1), "add.*put it into a layer's bias"),
    "matrix product": (Changed(lambda x: (x.flatten(2) @ torch.ones(36, 36).double()).view_as(x)), "matmul"),
    "custom function": (Changed(Doubled.apply), "custom autograd function"),
    "detached": (Changed(lambda x: x.detach().relu()), "detach"),
    "no grad": (Changed(torch.no_grad()(lambda x: x + x.relu())), "no_grad"),
    "view": (Changed(lambda x: (x[:, :1].mul_(2), x.relu())[1]), "written into through a view"),
    "pixels pooled": (Changed(lambda x: x, lambda x: functional.avg_pool2d(x, 1)), "avg_pool2d of pixels, before"),
    "pixels cropped": (Changed(lambda x: x, lambda x: x[..., 1:]), "of pixels, before the first layer"),
    "log-odds": (network.LogOdds(Changed(lambda x: x.relu())), "flip; .*of a LogOdds explain its .model"),
    "pixels repeated": (Changed(lambda x: x, lambda x: x[:, :1] - torch.zeros(3, 1, 1).double()), "of pixels"),
}


def model_of(x: Tensor) -> Tensor:
    return functional.batch_norm(x, torch.zeros(4).double(), torch.ones(4).double())


class TestRefusals:
    @pytest.mark.parametrize("name", REFUSED)
    def test_what_has_no_rule_is_named(self, name, images, labels):
        model, message = REFUSED[name]
        with pytest.raises(ValueError, match=f"model: .*{message}"):
            lrp(randomise(model), images, labels)

    def test_the_layer_is_named(self, every_relu, images, labels):
        with pytest.raises(ValueError, match=r"no rule for .*batch_norm \(in its part 'norm'\); fold it"):
            lrp(every_relu, images, labels)

    def test_a_folded_batch_norm_is_fine(self, images, labels):
        model = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 6)))
        model.append(nn.Flatten())
        fused = torch.nn.utils.fusion.fuse_conv_bn_eval(model[0], model[1])
        folded = nn.Sequential(fused, *model[2:]).eval()
        expected = images * simple_gradient(model, images, labels)
        torch.testing.assert_close(lrp(folded, images, labels, rules="zero"), expected, rtol=1e-9, atol=1e-11)

    def test_an_input_that_is_overwritten_is_kept(self, images, labels):
        found, expected = (lrp(randomise(Changed(inside)), images, labels) for inside in (written, untouched))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"rules": "z_box"}, "rules: expected one of composite, deep_taylor, zero"),
            ({"rules": {"dense": "zero"}}, "rules: expected one each of pixels, convolution and dense"),
            ({"rules": {**MIXED, "dense": "z_box"}}, r"rules\['dense'\]: expected one of zero"),
            ({"alpha": 0.5}, "alpha: expected a number >= 1, got 0.5"),
            ({"epsilon": 0.0}, "epsilon: expected a finite number > 0"),
        ],
    )
    def test_bad_options(self, options, message, fire, images, labels):
        with pytest.raises(ValueError, match=message):
            lrp(fire, images, labels, **options)
