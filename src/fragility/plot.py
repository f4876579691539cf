"""How figures look: one style, a grid for images with their maps, and curves and points with their intervals."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.transforms import Bbox
from torch import Tensor

from fragility.interval import mean_interval
from fragility.titles import METRICS, TITLES, in_order

COLORMAP = "magma"  # perceptually uniform; dark is unimportant


def use_style() -> None:
    """Set the book's style: a colour-blind-safe palette, white paper, type that survives a phone's width."""
    seaborn.set_theme(
        context="notebook",
        style="ticks",
        palette="colorblind",
        rc={
            "figure.dpi": 110,
            "savefig.dpi": 110,
            "figure.facecolor": "white",
            "figure.constrained_layout.use": True,
            "figure.hooks": ["fragility.plot:_round_places"],
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 11,
            "image.interpolation": "nearest",
            "svg.hashsalt": "fragility",  # the same figure, the same bytes
            "legend.frameon": False,
        },
    )


def picture(axes: Axes, image: Tensor) -> None:
    """Draw an image.

    Args:
        axes: where.
        image: (C, H, W) in [0, 1], grey or colour.
    """
    pixels = image.detach().cpu().float().movedim(0, -1)
    axes.imshow(pixels.squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)
    _bare(axes)


def importance_map(axes: Axes, importance: Tensor) -> None:
    """Draw an importance map: dark is unimportant; the brightest hundredth of the pixels share one colour.

    Args:
        axes: where.
        importance: (H, W), non-negative.
    """
    values = importance.detach().cpu().float()
    axes.imshow(values.numpy(), cmap=COLORMAP, vmin=0, vmax=float(values.quantile(0.99)))
    _bare(axes)


def outline(axes: Axes, region: Tensor) -> None:
    """Draw the border of a region on a map.

    Args:
        axes: of the map.
        region: (H, W), 1 inside and 0 outside.
    """
    inside = region.detach().cpu().float().clone()
    inside[[0, -1]] = inside[:, [0, -1]] = 0  # a border that would lie on the map's own is drawn within the map
    axes.contour(inside.numpy(), [0.5], colors="white", linewidths=1.2)


def grid(columns: Mapping[str, Tensor], *, rows: Sequence[str] = (), notes: Mapping[str, Sequence[str]] = {}) -> Figure:
    """Images and maps in a grid: a row per image, a column per title.

    Args:
        columns: title to images (N, C, H, W) in [0, 1] or importance maps (N, H, W).
        rows: a label for every row; none when empty.
        notes: title to N short texts, set below that column's panels.

    Returns:
        The figure.

    Raises:
        ValueError: if the columns differ in their number of rows.
    """
    count = len(next(iter(columns.values())))
    if any(len(column) != count for column in columns.values()):
        raise ValueError(f"columns: expected {count} rows each, got { {t: len(c) for t, c in columns.items()} }")
    side = min(1.9, 8.4 / len(columns))
    height = side + (0.25 if notes else 0.05)
    figure, panels = plt.subplots(
        count, len(columns), figsize=(side * len(columns), height * count + 0.3), squeeze=False
    )
    for column, (title, tensors) in enumerate(columns.items()):
        for row, tensor in enumerate(tensors):
            axes = panels[row, column]
            (picture if tensor.ndim == 3 else importance_map)(axes, tensor)
            if row == 0:
                axes.set_title(title, fontsize=10)
            if title in notes:
                axes.set_xlabel(notes[title][row], fontsize=9, labelpad=3)
            if column == 0 and rows:
                axes.set_ylabel(rows[row], fontsize=9.5)
    return figure


def before_after(
    images: Tensor,
    maps: Tensor,
    changed: Tensor,
    maps_changed: Tensor,
    *,
    epsilon: float,
    rows: Sequence[str] = (),
    notes: Mapping[str, Sequence[str]] = {},
) -> Figure:
    """Draw what every attack is shown by: image, its map, the changed image, the change, the map of the changed image.

    Args:
        images: (N, C, H, W) in [0, 1].
        maps: (N, H, W), their importance maps.
        changed: (N, C, H, W), the images after the attack.
        maps_changed: (N, H, W), the maps of those.
        epsilon: the largest change of a pixel allowed; the change is drawn around grey, black and white being this far.
        rows: a label for every row; none when empty.
        notes: a column's title to N short texts, as in `grid`.

    Returns:
        The figure.
    """
    change = ((changed - images) / (2 * epsilon) + 0.5).clamp(0, 1)
    columns = {
        "image": images,
        "map": maps,
        "changed": changed,
        "change, magnified": change,
        "map of changed": maps_changed,
    }
    return grid(columns, rows=rows, notes=notes)


def curve(
    axes: Axes, x: Sequence[float], samples: Tensor, *, label: str, style: Mapping[str, Any] | None = None
) -> None:
    """Draw means over images with their 95 % intervals as a band.

    Args:
        axes: where.
        x: one position per row of `samples`.
        samples: (len(x), n), one value per image.
        label: the curve's name.
        style: arguments of matplotlib's `plot`.
    """
    mean, low, high = mean_interval(samples)
    (line,) = axes.plot(x, mean, **{"marker": "o", "markersize": 4, "label": label, **(style or {})})
    axes.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)


def curves(
    rows: pd.DataFrame,
    x: str,
    *,
    values: Sequence[str] = METRICS,
    hue: str | None = None,
    row: str | None = None,
    published: pd.DataFrame | None = None,
    base: float | None = None,
) -> seaborn.FacetGrid:
    """Draw means with their 95 % intervals against a number, a panel for each metric.

    Args:
        rows: one for each image and condition, with the columns that the other arguments name.
        x: the column on the horizontal axis.
        values: the metrics' columns.
        hue: a column with a curve for each of its values.
        row: a column with a row of panels for each of its values.
        published: means to draw dashed beside ours, with the columns `metric` and `value` in place of `values`.
        base: of a logarithmic horizontal axis; None for a plain one.

    Returns:
        Seaborn's grid of panels.
    """
    data = _long(rows, values, [x, hue, row]).assign(source="here")
    if published is not None:
        data = pd.concat([data, _titled(published).assign(source="published")]).query("metric in @data.metric")
    grid = _grid(
        seaborn.relplot,
        data,
        kind="line",
        x=x,
        y="value",
        hue=hue,
        style="source" if published is not None else None,
        dashes={"here": "", "published": (3, 2)} if published is not None else None,
        col="metric",
        row=row,
        hue_order=_order(rows, hue),
        row_order=_order(rows, row),
        marker="o",
        markersize=4,
        errorbar=_ends,
        err_style="bars",
        err_kws={"capsize": 2},
        facet_kws={"sharey": "col", "legend_out": False},
        height=2.5,
        aspect=1.15,
    )
    for axes in grid.axes.flat if base is not None else ():
        axes.set_xscale("log", base=base)
    return grid.set_axis_labels(TITLES.get(x, x), "")


def points(rows: pd.DataFrame, y: str, *, values: Sequence[str] = METRICS, hue: str | None = None) -> seaborn.FacetGrid:
    """Draw means with their 95 % intervals, a line for each condition, a panel for each metric, and zero.

    Args:
        rows: one for each image and condition, with the columns that the other arguments name.
        y: the column with a line for each of its values.
        values: the metrics' columns.
        hue: a column with a point on every line for each of its values.

    Returns:
        Seaborn's grid of panels.
    """
    lines = _order(rows, y)
    grid = _grid(
        seaborn.catplot,
        _long(rows, values, [y, hue]),
        kind="point",
        x="value",
        y=y,
        hue=hue,
        col="metric",
        order=lines,
        hue_order=_order(rows, hue),
        dodge=0.3,
        linestyle="none",
        markersize=4,
        errorbar=_ends,
        err_kws={"linewidth": 1.5},
        sharex=False,
        legend_out=False,
        height=0.4 * len(lines or ()) + 1,
        aspect=2.9 / (0.4 * len(lines or ()) + 1),
    )
    grid.refline(x=0, color="k", linestyle="-", linewidth=1)
    return grid.set_axis_labels("", "")


def _long(rows: pd.DataFrame, values: Sequence[str], keys: Sequence[str | None]) -> pd.DataFrame:
    """One line for each number."""
    kept = [key for key in keys if key is not None]
    return _titled(rows.reset_index()[[*kept, *values]].melt(kept, var_name="metric"))


def _titled(rows: pd.DataFrame) -> pd.DataFrame:
    texts = rows.select_dtypes(exclude="number").columns
    return rows.assign(**{name: rows[name].replace(TITLES) for name in texts})


def _order(rows: pd.DataFrame, column: str | None) -> list[str] | None:
    return None if column is None else [TITLES.get(name, name) for name in in_order(rows.reset_index()[column])]


def _ends(samples: pd.Series) -> tuple[float, float]:
    """The interval of a mean, as seaborn asks for it; none of a single number."""
    if len(samples) < 2:
        return float("nan"), float("nan")
    _, low, high = mean_interval(samples)
    return float(low), float(high)


def _grid(draw: Callable[..., seaborn.FacetGrid], data: pd.DataFrame, **options: Any) -> seaborn.FacetGrid:
    """Panels named after metrics, which seaborn lays out its own way, and the legend above them."""
    with plt.rc_context({"figure.constrained_layout.use": False}):
        grid = draw(data, **options)
    sides = ("left", "right", "bottom", "top", "wspace", "hspace")
    grid.figure.subplots_adjust(**{side: round(getattr(grid.figure.subplotpars, side), 6) for side in sides})
    if grid.row_names:  # room for titles of two lines
        grid.figure.subplots_adjust(hspace=0.5)
    grid.set_titles("{row_name}\n{col_name}" if grid.row_names else "{col_name}")
    if (legend := grid.legend) is not None:
        every = zip(legend.legend_handles, (text.get_text() for text in legend.texts), strict=True)
        entries = [(handle, text) for handle, text in every if text not in data]  # less the columns' own names
        legend.remove()
        grid.figure.legend(*zip(*entries, strict=True), loc="lower center", bbox_to_anchor=(0.5, 1), ncol=5)
    return grid


class _RoundedLayout(ConstrainedLayoutEngine):
    """Constrained layout whose panels lie on multiples of a millionth of the figure.

    The solver's last bits differ from run to run, and an SVG names its clip paths after all bits of their corners.
    """

    def execute(self, fig: Figure) -> None:
        """Lay out, then round."""
        super().execute(fig)
        for axes in fig.axes:
            stays = axes.get_in_layout()
            axes.set_position(Bbox(axes.get_position(original=True).get_points().round(6)))
            axes.set_in_layout(stays)  # what an explicit position ends


def _round_places(figure: Figure) -> None:
    """Give a new figure the rounded layout, where it was to have constrained layout: a hook of Matplotlib's."""
    if isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
        figure.set_layout_engine(_RoundedLayout())


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
