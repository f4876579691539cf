"""Training losses: completeness, ascents by hand, and dense oracles.

The identities D3 to D5 are those of `fragility.study.identities`, which test_claims.py holds to rounding.
"""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conftest import randomise, total
from fragility import network, train
from fragility.cost import forward_equivalents
from fragility.defense import (
    adversarial_loss,
    curvature_loss,
    ig_norm_loss,
    ig_sum_norm_loss,
    input_gradient_loss,
    robust_attribution_loss,
)
from fragility.defense.loss_attribution import each_loss, l1_norm, loss_attributions
from fragility.surrogate import softplus

BALL = {"epsilon": 0.1, "step_size": 0.04, "iterations": 4}


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.fixture
def smooth() -> nn.Module:
    layers = [nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Conv2d(6, 6, 3), nn.Tanh()]
    return randomise(nn.Sequential(*layers, nn.Flatten(), nn.Linear(6 * 16, 4))).requires_grad_(True)


@pytest.fixture
def one_layer() -> nn.Module:
    """Two classes, five pixels."""
    return randomise(nn.Sequential(nn.Flatten(), nn.Linear(5, 2)), seed=1).requires_grad_(True)


@pytest.fixture
def pixels() -> Tensor:
    return torch.rand(6, 1, 1, 5, generator=seeded(), dtype=torch.float64) * 0.4 + 0.3


def parameter_gradient(model: nn.Module, value: Tensor) -> Tensor:
    return torch.cat([part.flatten() for part in torch.autograd.grad(value, list(model.parameters()))])


class TestLossAttributions:
    def test_completeness_by_gauss_legendre(self, smooth, images, labels):
        other = 1 - images
        gap = each_loss(smooth, other, labels) - each_loss(smooth, images, labels)
        errors = [
            (total(loss_attributions(smooth, images, other, labels, steps=steps, rule="gauss")) - gap).abs().max()
            for steps in (2, 40)
        ]
        assert errors[1] < 1e-9 < 1e-6 < errors[0]

    @pytest.mark.parametrize(("rule", "sign"), [("right", 1), ("left", -1)])
    def test_one_sided_sums_err_by_half_the_change_of_the_slope_over_m(self, smooth, images, labels, rule, sign):
        """Euler and Maclaurin: right sum - integral = (f(1) - f(0)) / 2m + O(1 / m^2); the left one the other way."""
        other = (images + 0.1).clamp(0, 1)

        def slope(x: Tensor) -> Tensor:
            x = x.clone().requires_grad_()
            return total((other - images) * torch.autograd.grad(each_loss(smooth, x, labels).sum(), x)[0])

        gap = each_loss(smooth, other, labels) - each_loss(smooth, images, labels)
        found = total(loss_attributions(smooth, images, other, labels, steps=200, rule=rule))
        expected = sign * (slope(other) - slope(images)) / 400
        torch.testing.assert_close(found - gap, expected, rtol=1e-2, atol=0)

    def test_entries_as_by_hand(self, smooth, images, labels):
        other = (images + 0.1).clamp(0, 1)
        slopes = []
        for k in (1, 2, 3):
            x = (images + k / 3 * (other - images)).requires_grad_()
            slopes.append(torch.autograd.grad(F.cross_entropy(smooth(x), labels, reduction="sum"), x)[0])
        expected = (other - images) * sum(slopes) / 3
        torch.testing.assert_close(loss_attributions(smooth, images, other, labels, steps=3), expected)

    def test_they_can_be_differentiated_by_both_ends_and_the_parameters(self, smooth, images, labels):
        other = (images + 0.1).clamp(0, 1).requires_grad_()
        torch.autograd.gradcheck(lambda x: loss_attributions(smooth, images, x, labels, steps=2), other, fast_mode=True)
        bias = smooth[-1].bias

        def value(shift: float) -> Tensor:
            with torch.no_grad():
                bias[0] += shift
            return l1_norm(loss_attributions(smooth, images, other, labels, steps=2)).sum()

        (slope,) = torch.autograd.grad(value(0), bias)
        rise = value(1e-6) - value(-2e-6)
        assert slope[0].item() == pytest.approx(rise.item() / 2e-6, rel=1e-6)

    def test_bad_input(self, smooth, images, labels):
        with pytest.raises(ValueError, match="rule: expected one of right, left, gauss, got 'middle'"):
            loss_attributions(smooth, images, images, labels, rule="middle")
        with pytest.raises(ValueError, match="perturbed: expected the shape of images"):
            loss_attributions(smooth, images, images[:1], labels)
        with pytest.raises(ValueError, match="steps: expected an integer >= 1, got 0"):
            loss_attributions(smooth, images, images, labels, steps=0)
        with pytest.raises(ValueError, match=r"labels: expected classes in \[0, 4\)"):
            loss_attributions(smooth, images, images, labels + 3)


class TestRobustAttribution:
    def test_ig_sum_norm_is_the_general_loss_with_its_size(self, smooth, images, labels):
        options = {"steps": 40, "inner_steps": 40, "rule": "gauss", **BALL}
        special = ig_sum_norm_loss(smooth, images, labels, beta=0.3, generator=seeded(), **options)
        general = robust_attribution_loss(
            smooth, images, labels, size=lambda a: total(a) + 0.3 * l1_norm(a), generator=seeded(), **options
        )  # fmt: skip
        torch.testing.assert_close(special, general, rtol=1e-12, atol=0)
        torch.testing.assert_close(
            parameter_gradient(smooth, special), parameter_gradient(smooth, general), rtol=0, atol=1e-12
        )
        madry = adversarial_loss(smooth, images, labels, generator=seeded(), **BALL)
        assert special > madry + 1e-3

    def test_ig_norm_by_hand(self, smooth, images, labels):
        options = {"steps": 5, "inner_steps": 3, **BALL}
        loss = ig_norm_loss(smooth, images, labels, weight=0.7, generator=seeded(), **options)
        lower, upper = (images - 0.1).clamp(0, 1), (images + 0.1).clamp(0, 1)
        x = lower + (upper - lower) * torch.rand(images.shape, generator=seeded(), dtype=torch.float64)
        for _ in range(4):
            x = x.detach().requires_grad_()
            value = loss_attributions(smooth, images, x, labels, steps=3).abs().sum()
            x = x + 0.04 * torch.autograd.grad(value, x)[0].sign()
            x = torch.minimum(torch.maximum(x, lower), upper)
        norm = loss_attributions(smooth, images, x.detach(), labels, steps=5).abs().flatten(1).sum(1)
        expected = F.cross_entropy(smooth(images), labels) + 0.7 * norm.mean()
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)

    def test_the_ascent_of_one_layer_finds_the_soft_margin(self, one_layer, pixels):
        """Its maximum by hand: a step of twice the radius leads to a corner of the ball at once."""
        labels = torch.tensor([0, 1, 0, 1, 1, 0])
        weight, logits = one_layer[1].weight.diff(dim=0), one_layer(pixels)
        margin = logits.diff(dim=1).squeeze(1) * (2 * labels - 1)
        closed = F.softplus(-margin + 0.2 * weight.abs().sum()).mean()
        settings = {"epsilon": 0.2, "step_size": 0.4, "iterations": 3, "steps": 40, "inner_steps": 40, "rule": "gauss"}
        by_sum, by_norm = (
            robust_attribution_loss(one_layer, pixels, labels, size=size, generator=seeded(), **settings)
            for size in (total, l1_norm)
        )
        torch.testing.assert_close(by_sum, closed, rtol=1e-12, atol=0)
        assert by_norm <= closed + 1e-12


class TestOtherPenalties:
    def test_input_gradient_by_hand(self, smooth, images, labels):
        def loss(x: Tensor) -> Tensor:
            return F.cross_entropy(smooth(x), labels, reduction="sum")

        (g,) = torch.autograd.functional.jacobian(loss, (images,))
        for q, size in ((1, g.abs().sum() / 2), (2, g.square().sum() / 2)):
            expected = loss(images) / 2 + 0.7 * size
            torch.testing.assert_close(input_gradient_loss(smooth, images, labels, weight=0.7, q=q), expected)
        with pytest.raises(ValueError, match="q: expected 1 or 2, got 3"):
            input_gradient_loss(smooth, images, labels, weight=1, q=3)

    def test_curvature_against_the_dense_hessian(self, smooth, images, labels):
        def norms() -> Tensor:
            each = []
            for image, label in zip(images, labels, strict=True):
                hessian = torch.autograd.functional.hessian(
                    lambda x, label=label: F.cross_entropy(smooth(x), label[None]), image[None], create_graph=True
                )
                each.append(torch.linalg.eigvalsh(hessian.view(192, 192)).abs().max())
            return torch.stack(each)

        loss = curvature_loss(smooth, images, labels, weight=0.7, iterations=400)
        expected = F.cross_entropy(smooth(images), labels) + 0.7 * norms().mean()
        torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
        torch.testing.assert_close(
            parameter_gradient(smooth, loss), parameter_gradient(smooth, expected), rtol=1e-6, atol=1e-8
        )

    def test_curvature_where_the_extreme_eigenvalues_are_opposite(self):
        """A saddle: the eigenvalues are +c and -c, and plain power iteration's quotient is anything between."""

        class Saddle(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                z = x.flatten(1) - 0.5
                score = 4 * z[:, 0] * z[:, 1]
                return torch.stack([score, -score], 1)

        x = torch.full((1, 1, 1, 4), 0.5, dtype=torch.float64)
        loss = curvature_loss(Saddle().eval(), x, torch.tensor([0]), weight=1.0)
        # l = log(1 + exp(-8 z0 z1)), d2l / dz0 dz1 = -4 at 0: eigenvalues -4 and 4.
        assert loss.item() == pytest.approx(torch.tensor(2.0).log().item() + 4, rel=1e-6)

    def test_a_relu_networks_integrated_gradient_knows_the_softmaxs_curvature_alone(self, every_relu, images, labels):
        """The documented limit: in x' it is the Gauss-Newton term; through a linear score it would be zero."""
        other = (images + 0.03).clamp(0, 1).requires_grad_()
        score = partial(
            loss_attributions, every_relu, images, other, labels, steps=1,
            criterion=lambda logits, y: logits.gather(1, y[:, None]).squeeze(1),
        )  # fmt: skip
        (through,) = torch.autograd.grad(total(score()).sum(), other)
        x = other.detach().requires_grad_()
        (slope,) = torch.autograd.grad(every_relu(x).gather(1, labels[:, None]).sum(), x)
        torch.testing.assert_close(through, slope, rtol=1e-12, atol=1e-14)  # of (x' - x) alone
        with softplus(2.0):
            (through,) = torch.autograd.grad(total(score()).sum(), other)
            (slope,) = torch.autograd.grad(every_relu(x).gather(1, labels[:, None]).sum(), x)
        assert (through - slope).abs().max() > 1e-4


class TestTraining:
    @pytest.mark.parametrize(
        "loss",
        [
            partial(adversarial_loss, **BALL),
            partial(ig_norm_loss, steps=2, inner_steps=2, **BALL),
            partial(ig_sum_norm_loss, steps=2, inner_steps=2, **BALL),
            partial(input_gradient_loss, weight=0.1),
            partial(curvature_loss, weight=0.1),
        ],
    )
    def test_every_loss_trains_reproducibly_and_leaves_nothing_behind(self, loss):
        images = torch.rand(8, 1, 32, 32, generator=seeded())
        labels = torch.arange(8)
        weights = []
        for _ in range(2):
            model = network.digits_cnn()
            history = train.fit(model, train.Batches(images, labels, 4), loss, epochs=2, progress=False)
            weights.append(torch.cat([part.flatten() for part in model.parameters()]))
            assert all(part.grad is None for part in model.parameters())
        assert torch.equal(*weights)
        assert len(history.losses) == 2
        fresh = torch.cat([part.flatten() for part in network.digits_cnn().parameters()])
        assert not torch.equal(weights[0], fresh)
        assert train.fingerprint(loss)

    def test_cost_in_forward_passes(self):
        """Two dense layers: backward is twice the forward, less the gradient into the first layer's input."""
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 64))
        images, labels = torch.rand(4, 1, 8, 8), torch.arange(4)
        assert forward_equivalents(model, train.cross_entropy, images, labels) == pytest.approx(5 / 2)
        # Per inner step a forward and a backward pass to the image; then plain training at the worst one.
        loss = partial(adversarial_loss, epsilon=0.1, step_size=0.1, iterations=7)
        assert forward_equivalents(model, loss, images, labels) == pytest.approx(7 * 2 + 5 / 2)
