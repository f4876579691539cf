"""Objectives: closed forms, SciPy's centre of mass, gradients by finite differences, the start of the mass centre."""

import math

import pytest
import scipy.ndimage
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fragility.objective import box, mass_center, opposite_quadrant, targeted, top_k


def random_maps(seed: int, batch: int = 3, height: int = 6, width: int = 9) -> Tensor:
    maps = torch.rand(batch, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return maps / maps.sum((1, 2), keepdim=True)


def slope(objective, maps: Tensor, reference: Tensor) -> Tensor:
    leaf = maps.clone().requires_grad_()
    return torch.autograd.grad(objective(leaf, reference).sum(), leaf)[0]


REGION = box((6, 9), 1, 2, 4, 8)
OBJECTIVES = {
    "top-k": top_k(5),
    "mass centre": mass_center(),
    "box": targeted(REGION),
    "quadrant": targeted(opposite_quadrant),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_finite_differences(name):
    objective, maps, reference = OBJECTIVES[name], random_maps(0), random_maps(1)
    direction = random_maps(2) - random_maps(3)
    h = 1e-6
    difference = objective(maps + h * direction, reference) - objective(maps - h * direction, reference)
    expected = (slope(objective, maps, reference) * direction).sum((1, 2))
    torch.testing.assert_close(difference / (2 * h), expected, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_images_do_not_mix(name):
    objective, maps, reference = OBJECTIVES[name], random_maps(0), random_maps(1)
    alone = torch.cat([objective(maps[[i]], reference[[i]]) for i in range(3)])
    torch.testing.assert_close(objective(maps, reference), alone, rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_another_shape_is_refused(name):
    with pytest.raises(ValueError, match="maps: expected the shape"):
        OBJECTIVES[name](random_maps(0), random_maps(1, width=8))


class TestTopK:
    def test_closed_form(self):
        reference = torch.tensor([[[5.0, 1.0], [3.0, 2.0]]])
        maps = torch.tensor([[[0.1, 0.2], [0.3, 0.4]]])
        torch.testing.assert_close(top_k(2)(maps, reference), torch.tensor([-0.4]))
        assert slope(top_k(2), maps, reference).tolist() == [[[-1, 0], [-1, 0]]]

    @pytest.mark.parametrize(("k", "error"), [(0, ValueError), (-3, ValueError), (2.5, TypeError), (True, TypeError)])
    def test_bad_k(self, k, error):
        with pytest.raises(error, match="k: expected"):
            top_k(k)

    def test_more_than_the_image_has(self):
        with pytest.raises(ValueError, match="k: expected an integer from 1 to 54, got 55"):
            top_k(55)(random_maps(0), random_maps(1))


class TestMassCenter:
    def test_as_scipy(self):
        maps, reference = random_maps(0), random_maps(1)
        expected = [
            math.dist(scipy.ndimage.center_of_mass(a.numpy()), scipy.ndimage.center_of_mass(b.numpy()))
            for a, b in zip(maps, reference, strict=True)
        ]
        torch.testing.assert_close(mass_center()(maps, reference), torch.tensor(expected, dtype=torch.float64))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("noise", [0.0, 1e-7])
    def test_at_its_start_it_leaves_along_the_diagonal(self, dtype, noise):
        """0 / 0 there: autograd's own answer is zero."""
        reference = torch.zeros(4, 6, 9, dtype=dtype)
        corners = [(1, 1), (1, 7), (4, 1), (4, 7)]
        for index, (row, column) in enumerate(corners):
            reference[index, row, column] = 1
        maps = reference * (1 + (noise if dtype == torch.float32 else 0))
        objective = mass_center()
        assert objective(maps, reference).tolist() == [0, 0, 0, 0]
        rows, columns = torch.meshgrid(torch.arange(6.0).double(), torch.arange(9.0).double(), indexing="ij")
        for index, (row, column) in enumerate(corners):
            down, right = (1 if row < 2.5 else -1), (1 if column < 4 else -1)
            expected = ((rows - row) * down + (columns - column) * right) / 2**0.5
            torch.testing.assert_close(slope(objective, maps, reference)[index], expected.to(dtype))

    @given(st.integers(0, 10_000))
    def test_a_small_step_from_the_start_increases_it(self, seed):
        reference = random_maps(seed)
        step = 1e-4 * slope(mass_center(), reference, reference)
        assert (mass_center()((reference + step).clamp(min=0), reference) > 1e-6).all()


class TestTargeted:
    def test_closed_form(self):
        maps = random_maps(0)
        expected = maps[:, 1:4, 2:8].sum((1, 2))
        torch.testing.assert_close(targeted(REGION)(maps, maps), expected)
        torch.testing.assert_close(targeted(REGION.expand(3, 6, 9))(maps, maps), expected)
        torch.testing.assert_close(targeted(lambda reference: REGION)(maps, maps), expected)

    def test_one_region_per_image(self):
        maps = random_maps(0, batch=2)
        regions = torch.stack([box((6, 9), 0, 0, 1, 1), box((6, 9), 5, 8, 6, 9)])
        expected = torch.stack([maps[0, 0, 0], maps[1, 5, 8]])
        torch.testing.assert_close(targeted(regions)(maps, maps), expected)

    @pytest.mark.parametrize(
        ("region", "error", "message"),
        [
            (torch.ones(6, 9), TypeError, "expected a bool tensor or a function, got torch.float32"),
            ("left", TypeError, "expected a bool tensor or a function, got str"),
            (torch.ones(1, 2, 6, 9, dtype=torch.bool), ValueError, "expected shape"),
            (torch.ones(6, 9, dtype=torch.bool), ValueError, "expected a part of the image"),
            (torch.zeros(6, 9, dtype=torch.bool), ValueError, "expected a part of the image"),
        ],
    )
    def test_bad_region(self, region, error, message):
        with pytest.raises(error, match=f"region: {message}"):
            targeted(region)

    @pytest.mark.parametrize("shape", [(9,), (5, 9), (2, 6, 9), (1, 6, 9)])
    def test_region_of_another_shape(self, shape):
        region = torch.zeros(shape, dtype=torch.bool)
        region[..., 0] = True
        with pytest.raises(ValueError, match="region: expected shape"):
            targeted(region)(random_maps(0), random_maps(1))


def test_box():
    mask = box((3, 4), 1, 2, 3, 4)
    assert mask.int().tolist() == [[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]


@pytest.mark.parametrize("corners", [(0, 0, 4, 1), (0, 0, 1, 5), (1, 1, 1, 2), (2, 0, 1, 2), (-1, 0, 2, 2)])
def test_bad_box(corners):
    with pytest.raises(ValueError, match="box: expected a box inside 3 x 4"):
        box((3, 4), *corners)


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 7), (4, 7)])
def test_opposite_quadrant(height, width):
    maps = torch.zeros(4, height, width)
    for index, (row, column) in enumerate([(0, 0), (0, -1), (-1, 0), (-1, -1)]):
        maps[index, row, column] = 1
    masks = opposite_quadrant(maps)
    for index, (row, column) in enumerate([(-1, -1), (-1, 0), (0, -1), (0, 0)]):
        assert masks[index].sum() == (height // 2) * (width // 2)
        assert masks[index, row, column]
        assert (masks[index] & (maps[index] > 0)).sum() == 0
