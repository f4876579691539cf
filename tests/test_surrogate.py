"""How faithful the surrogate is: its limits, its scale, and what cannot be asked."""

from functools import partial

import pytest
import torch
from torch import nn

from fragility.attack import iterative
from fragility.attribution import deeplift, importance, simple_gradient
from fragility.objective import top_k
from fragility.similarity import center_shift, spearman, top_k_intersection
from fragility.surrogate import softplus, suggest_beta, surrogate_fidelity


@pytest.mark.parametrize("attribution", [simple_gradient, deeplift])
def test_rows_are_the_betas_asked_for(every_relu, images, labels, attribution):
    found = surrogate_fidelity(every_relu, images, labels, betas=[4.0, 0.5, 32.0], attribution=attribution, k=7)
    assert found.betas.tolist() == [4.0, 0.5, 32.0]
    reference = importance(attribution(every_relu, images, labels))
    with softplus(0.5):
        maps = importance(attribution(every_relu, images, labels))
    assert torch.equal(found.spearman[1], spearman(maps, reference))
    assert torch.equal(found.intersection[1], top_k_intersection(maps, reference, 7))
    assert torch.equal(found.center_shift[1], center_shift(maps, reference))


def test_it_tends_to_the_network(every_relu, images, labels):
    found = surrogate_fidelity(every_relu, images, labels, betas=[1.0, 16.0, 256.0, 1e7])
    means = found.spearman.mean(1)
    assert (means[1:] > means[:-1]).all()
    torch.testing.assert_close(found.spearman[3], torch.ones_like(found.spearman[3]))
    assert (found.center_shift[3] < 1e-5).all()
    assert (found.intersection[3] == 1).all()


@pytest.mark.parametrize("fidelity", [0.8, 0.95])
def test_the_smallest_power_of_two_that_is_faithful(every_relu, images, labels, fidelity):
    beta = suggest_beta(every_relu, images, labels, fidelity=fidelity)
    below, at = surrogate_fidelity(every_relu, images, labels, betas=[beta / 2, beta]).spearman.mean(1)
    assert below < fidelity <= at
    assert torch.tensor(beta).log2() % 1 == 0


@pytest.mark.parametrize("scale", [1 / 64, 8])
def test_beta_is_measured_in_units_of_one_over_pre_activation(every_relu, images, labels, scale):
    beta = suggest_beta(every_relu, images, labels)
    for name, parameter in every_relu.named_parameters():
        if name.startswith("first") or (name.endswith("bias") and not name.startswith("head")):
            parameter.data *= scale
    every_relu.norm.running_mean *= scale
    assert suggest_beta(every_relu, images, labels) == beta / scale


@pytest.mark.parametrize(
    ("activation", "advice"), [(nn.Tanh(), "leave surrogate_beta=None"), (nn.Identity(), "cannot be moved")]
)
def test_a_network_without_kinks(stacked, images, labels, activation, advice):
    """What is said agrees with what an attack does."""
    model = stacked(activation)
    with pytest.raises(ValueError, match=f"softplus changes nothing in it: .*{advice}"):
        suggest_beta(model, images, labels)
    options = {"epsilon": 0.05, "step_size": 0.02, "iterations": 1}
    attack = partial(iterative, model, images, labels, attribution=simple_gradient, objective=top_k(6), **options)
    if "None" in advice:
        assert attack().attackable.all()
    else:
        with pytest.raises(ValueError, match="zero up to rounding"):
            attack()


@pytest.mark.parametrize("activation", [nn.PReLU(init=0.1), nn.Hardswish(), nn.Threshold(0, 0), nn.SELU()])
def test_every_kink_counts(stacked, images, labels, activation):
    model = stacked(activation)
    beta = suggest_beta(model, images, labels, fidelity=0.9)
    assert surrogate_fidelity(model, images, labels, betas=[beta]).spearman.mean() >= 0.9


def test_a_kink_out_of_reach_is_named(stacked, images, labels):
    class Hidden(nn.Module):
        def forward(self, z):
            return torch.stack([z, 0 * z]).amax(0)

    for call in (suggest_beta, partial(surrogate_fidelity, betas=[2.0])):
        with pytest.raises(ValueError, match="its graph shows Amax"):
            call(stacked(Hidden()), images, labels)


def test_nothing_is_faithful_enough(every_relu, images, labels):
    with pytest.raises(ValueError, match="fidelity: expected what one of 2 betas reaches"):
        suggest_beta(every_relu, images, labels, betas=[0.25, 0.5])


@pytest.mark.parametrize("fidelity", [0.0, 1.0, -1.0, 2.0, float("nan")])
def test_bad_fidelity(every_relu, images, labels, fidelity):
    with pytest.raises(ValueError, match="fidelity: expected a number between 0 and 1"):
        suggest_beta(every_relu, images, labels, fidelity=fidelity)


@pytest.mark.parametrize(("betas", "message"), [([], "betas: expected one"), ([0.0], "beta: expected a finite")])
def test_bad_betas(every_relu, images, labels, betas, message):
    with pytest.raises(ValueError, match=message):
        surrogate_fidelity(every_relu, images, labels, betas=betas)
