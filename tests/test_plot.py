"""Figures: what is drawn is what was given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from fragility.plot import before_after, curve, error_bars, grid, use_style


@pytest.fixture(autouse=True)
def _style():
    plt.switch_backend("agg")
    use_style()
    yield
    plt.close("all")


def test_grid_shows_images_and_maps():
    images, maps = torch.rand(2, 3, 8, 8), torch.rand(2, 8, 8)
    figure = grid({"image": images, "map": maps}, rows=["a", "b"], notes={"map": ["x", "y"]})
    panels = figure.axes
    assert [axes.get_title() for axes in panels] == ["image", "map", "", ""]
    assert [axes.get_ylabel() for axes in panels] == ["a", "", "b", ""]
    assert [axes.get_xlabel() for axes in panels] == ["", "x", "", "y"]
    np.testing.assert_array_equal(panels[2].images[0].get_array(), images[1].movedim(0, -1))
    np.testing.assert_array_equal(panels[3].images[0].get_array(), maps[1])


def test_grid_of_unequal_columns():
    with pytest.raises(ValueError, match="columns: expected 2 rows each"):
        grid({"image": torch.rand(2, 1, 4, 4), "map": torch.rand(3, 4, 4)})


def test_curve_draws_means():
    _, axes = plt.subplots()
    samples = torch.rand(3, 20, dtype=torch.float64)
    curve(axes, [1, 2, 4], samples, label="attack")
    np.testing.assert_allclose(axes.lines[0].get_ydata(), samples.mean(1))
    assert axes.get_legend_handles_labels()[1] == ["attack"]


def test_error_bars_reach_from_end_to_end():
    _, axes = plt.subplots()
    cells = {4.0: {"a": 0.5, "a_low": 0.3, "a_high": 0.6}, 1.0: {"a": 0.2, "a_low": 0.1, "a_high": 0.5}}
    error_bars(axes, cells, "a", label="attack")
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[1, 0.2], [4, 0.5]])
    bars = axes.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose(bars, [[[1, 0.1], [1, 0.5]], [[4, 0.3], [4, 0.6]]])


def test_a_change_is_drawn_around_grey_and_all_five_columns_have_their_place():
    images = torch.full((2, 1, 4, 4), 0.5)
    changed = images.clone()
    changed[:, :, 0, 0], changed[:, :, 0, 1] = 0.6, 0.45
    before, after = torch.rand(2, 4, 4), torch.rand(2, 4, 4)
    figure = before_after(images, before, changed, after, epsilon=0.1, rows=["a", "b"], notes={"map of changed": "xy"})
    titles = ["image", "map", "changed", "change, magnified", "map of changed"]
    assert [axes.get_title() for axes in figure.axes] == titles + [""] * 5
    change = figure.axes[3].images[0].get_array()
    np.testing.assert_allclose([change[0, 0], change[0, 1], change[1, 1]], [1.0, 0.25, 0.5], atol=1e-6)
    np.testing.assert_array_equal(figure.axes[9].images[0].get_array(), after[1])
    assert figure.axes[9].get_xlabel() == "y"
