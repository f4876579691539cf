"""How faithful the surrogate is: its limits, its scale, and what cannot be asked."""

import pytest
import torch
from torch import nn

from fragility.attribution import deeplift, importance, simple_gradient
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


def test_a_network_without_relu_needs_none(stacked, images, labels):
    with pytest.raises(ValueError, match="softplus changes nothing"):
        suggest_beta(stacked(nn.Tanh()), images, labels)


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
