"""Figures: what is drawn is what was given."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from fragility.interval import mean_interval
from fragility.plot import before_after, curve, curves, grid, outline, points, use_style


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


def test_panels_lie_where_a_rounding_error_cannot_move_them():
    figure, axes = plt.subplots(2, 3, width_ratios=(1, 1.2, 1.7))
    figure.colorbar(axes[0, 1].imshow(np.eye(3)), ax=axes[0])
    axes[1, 2].set(xlabel="x", ylabel="y", title="a title")
    for _ in range(2):
        figure.canvas.draw()
    corners = np.array([panel.get_position(original=True).extents for panel in figure.axes])
    np.testing.assert_array_equal(corners, corners.round(6))
    assert all(panel.get_in_layout() for panel in figure.axes)


def test_grid_of_unequal_columns():
    with pytest.raises(ValueError, match="columns: expected 2 rows each"):
        grid({"image": torch.rand(2, 1, 4, 4), "map": torch.rand(3, 4, 4)})


def test_curve_draws_means():
    _, axes = plt.subplots()
    samples = torch.rand(3, 20, dtype=torch.float64)
    curve(axes, [1, 2, 4], samples, label="attack")
    np.testing.assert_allclose(axes.lines[0].get_ydata(), samples.mean(1))
    assert axes.get_legend_handles_labels()[1] == ["attack"]


@pytest.fixture
def rows():
    chance = np.random.default_rng(0)
    cells = [(m, a, e) for m in ("deeplift", "simple_gradient") for a in ("top_k", "random") for e in (1.0, 8.0)]
    return pd.DataFrame(
        [
            {"method": m, "attack": a, "epsilon": e, "spearman": chance.random(), "center_shift": 9 * chance.random()}
            for m, a, e in cells
            for _ in range(5)
        ]
    )


def test_curves_are_means_with_intervals_in_titled_panels(rows):
    theirs = pd.DataFrame([{"method": "deeplift", "attack": "top_k", "metric": "spearman", "value": 0.5}])
    theirs = theirs.merge(pd.DataFrame({"epsilon": [1, 8]}), how="cross")
    drawn = curves(
        rows, "epsilon", values=["spearman", "center_shift"], hue="attack", row="method", published=theirs, base=2
    )
    assert drawn.axes.shape == (2, 2)
    titles = [[axes.get_title() for axes in line] for line in drawn.axes]
    metrics = ("rank correlation", "centre shift (px)")
    assert titles == [[f"{method}\n{metric}" for metric in metrics] for method in ("simple gradient", "DeepLIFT")]
    assert {axes.get_xlabel() for axes in drawn.axes[1]} == {"epsilon (of 255)"}
    assert drawn.axes[1, 0].get_xscale() == "log"
    here = rows.query("method == 'deeplift' and attack == 'random'").groupby("epsilon").spearman
    expected = [mean_interval(part) for _, part in here]
    line = drawn.axes[1, 0].lines[0]
    np.testing.assert_allclose(line.get_xydata(), [[1, expected[0].mean], [8, expected[1].mean]])
    np.testing.assert_allclose(
        drawn.axes[1, 0].collections[0].get_segments(),
        [[[e, part.low], [e, part.high]] for e, part in zip((1, 8), expected, strict=True)],
        atol=0.01,
    )
    dashed = [line for line in drawn.axes[1, 0].lines if line.get_linestyle() == "--"]
    assert [line.get_ydata().tolist() for line in dashed] == [[0.5, 0.5]]
    (legend,) = drawn.figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["one draw of random signs", "top-k", "here", "published"]


def test_points_stand_on_a_line_for_each_condition(rows):
    drawn = points(rows, "method", values=["spearman"], hue="attack")
    axes = drawn.axes[0, 0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["simple gradient", "DeepLIFT"]
    assert axes.get_title() == "rank correlation"
    means = rows.groupby(["attack", "method"]).spearman.mean()
    marks = [line for line in axes.lines if line.get_linestyle() == "None" and len(line.get_xdata()) == 2]
    for line, attack in zip(marks, ("random", "top_k"), strict=True):
        np.testing.assert_allclose(line.get_xdata(), means[attack][["simple_gradient", "deeplift"]])


def test_a_region_is_outlined_on_all_sides():
    for first, last, inside, outside in ((1, 3, (1.5, 1.5), (3, 3)), (0, 3, (1.5, 1.5), (2.6, 2.6))):
        figure = grid({"map": torch.rand(1, 4, 4)})
        region = torch.zeros(4, 4)
        region[first:last, first:last] = 1
        outline(figure.axes[0], region)
        (path,) = figure.axes[0].collections[0].get_paths()
        assert path.contains_point(inside)
        assert not path.contains_point(outside)
        np.testing.assert_array_equal(path.vertices[0], path.vertices[-1])  # closed, where the map ends too
        assert path.vertices.min() > 0  # and within it
        assert figure.axes[0].get_xlim() == (-0.5, 3.5)


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
