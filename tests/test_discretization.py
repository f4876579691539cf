"""Discretised inputs: values by hand, gradients of the stand-ins, and an attack that is or is not blinded."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from conftest import EveryRelu, randomise
from fragility.attack import iterative
from fragility.attribution import importance, simple_gradient
from fragility.defense import Discretized, discretize
from fragility.objective import top_k
from fragility.surrogate import suggest_beta


def pixels(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


def test_thermometer_by_hand() -> None:
    found = discretize(pixels(0, 0.25, 0.3, 0.6, 1).expand(1, 2, 1, 5), levels=4, encoding="thermometer")
    assert found.shape == (1, 6, 1, 5)
    expected = torch.tensor([[0, 0, 1, 1, 1], [0, 0, 0, 1, 1], [0, 0, 0, 0, 1]], dtype=torch.float64)
    assert torch.equal(found[0, :, 0], expected.repeat(2, 1))


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20), st.integers(2, 256))
def test_values_are_exact_levels_nearby_and_stay_when_repeated(values: list[float], levels: int) -> None:
    x = torch.tensor(values, requires_grad=True).view(1, 1, 1, -1)
    found = discretize(x, levels=levels)
    steps = found.double() * (levels - 1)
    assert (steps - steps.round()).abs().max() <= levels * 2**-24  # found is the nearest number of single precision
    assert (found - x).abs().max() <= 0.5 / (levels - 1) + 4 * 2**-24
    assert torch.equal(discretize(found, levels=levels), found)
    warm = discretize(x, levels=levels, encoding="thermometer")
    assert set(warm.unique().tolist()) <= {0.0, 1.0}
    assert (warm[:, 1:] <= warm[:, :-1]).all()
    assert ((warm.sum(1, keepdim=True) / levels - x).abs() <= 1 / levels + 1e-6).all()


def test_the_backward_pass_is_the_identity_or_the_ramp() -> None:
    x = pixels(0.1, 0.3, 0.6, 0.9).requires_grad_()
    weights = pixels(2, -3, 5, 7)
    (slope,) = torch.autograd.grad((discretize(x, levels=4) * weights).sum(), x)
    assert torch.equal(slope, weights)
    channel = torch.tensor([10.0, 20.0, 30.0], dtype=torch.float64).view(1, 3, 1, 1)
    (slope,) = torch.autograd.grad((discretize(x, levels=4, encoding="thermometer") * channel).sum(), x)
    # Channel l rises from l/4 to (l+1)/4 with slope 4; below 1/4 there is none.
    assert torch.equal(slope, pixels(0, 40, 80, 120))


@pytest.mark.parametrize("encoding", ["depth", "thermometer"])
def test_an_adaptive_attack_moves_what_a_blind_one_cannot(encoding: str, images: Tensor) -> None:
    channels = 3 if encoding == "depth" else 9
    inside = randomise(EveryRelu(channels))
    model = Discretized(inside, levels=4, encoding=encoding)
    labels = model(images).argmax(1)

    def explained(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return simple_gradient(model, x.detach() + 0 * x, y) if network is model else simple_gradient(model, x, y)

    settings = {
        "objective": top_k(6), "epsilon": 0.1, "step_size": 0.05, "iterations": 6, "surrogate_beta": 2.0,
    }  # fmt: skip
    with pytest.raises(ValueError, match="zero up to rounding"):
        iterative(model, images, labels, attribution=explained, **settings)
    found = iterative(model, images, labels, attribution=simple_gradient, **settings)
    before = importance(simple_gradient(model, images, labels))
    assert found.labels_kept.any()
    kept = found.labels_kept
    assert (found.objective > top_k(6)(before, before))[kept].all()


def test_a_network_takes_points_beside_the_pixel_range_and_names_its_levels(images: Tensor) -> None:
    model = Discretized(randomise(EveryRelu()), levels=8)
    torch.testing.assert_close(model(images + 2), model(torch.ones_like(images)))
    assert "levels=8, encoding=depth" in repr(model)


def test_bad_input(images: Tensor) -> None:
    with pytest.raises(ValueError, match="levels: expected an integer >= 2, got 1"):
        discretize(images, levels=1)
    with pytest.raises(TypeError, match="levels: expected an integer, got float"):
        discretize(images, levels=2.5)
    with pytest.raises(ValueError, match="encoding: expected one of depth, thermometer, got 'one-hot'"):
        discretize(images, levels=2, encoding="one-hot")
    with pytest.raises(ValueError, match=r"images: expected pixels in \[0, 1\]"):
        discretize(images + 1, levels=2)


def test_pixels_at_the_ends_of_their_range_are_no_kink_to_a_surrogate() -> None:
    """Digits are mostly exactly 0, where the clamp to [0, 1] bends and softplus does not reach."""
    generator = torch.Generator().manual_seed(0)
    images = (torch.rand((8, 1, 8, 8), generator=generator) > 0.5).float()
    layers = nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3)
    model = randomise(nn.Sequential(*layers)).float().eval()
    found = suggest_beta(Discretized(model, levels=4), images, model(images).argmax(1))
    assert found == suggest_beta(model, images, model(images).argmax(1))
