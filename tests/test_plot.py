"""Figures: what is drawn is what was given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from fragility.plot import Table, curve, grid, use_style


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


def test_table_is_markdown():
    table = Table(["metric", "value"], [["rho", "0.50"]])
    assert table._repr_markdown_() == "| metric | value |\n| --- | --: |\n| rho | 0.50 |"
    with pytest.raises(ValueError, match="rows: expected 2 cells each"):
        Table(["metric", "value"], [["rho"]])
