"""How figures look: one style, one layout for images with their maps, curves with their intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from fragility.attribution import ATTRIBUTIONS
from fragility.interval import mean_interval
from fragility.study.sweep_rules import TITLES

COLORMAP = "magma"  # perceptually uniform; dark is unimportant
NAMES = {name: TITLES[name] for name in ATTRIBUTIONS}


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
                axes.set_xlabel(notes[title][row], fontsize=8.5, labelpad=3)
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


def curve(axes: Axes, x: Sequence[float], samples: Tensor, *, label: str, **style: Any) -> None:
    """Draw means over images with their 95 % bootstrap intervals as a band.

    Args:
        axes: where.
        x: one position per row of `samples`.
        samples: (len(x), n), one value per image.
        label: the curve's name.
        across: horizontal bars without a line between them; positions are heights then.
        style: passed on to matplotlib's `plot`.
    """
    mean, low, high = mean_interval(samples)
    (line,) = axes.plot(x, mean, marker="o", markersize=4, label=label, **style)
    axes.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)


def error_bars(
    axes: Axes, cells: Mapping[float, Mapping[str, Any]], name: str, *, label: str, across: bool = False, **style: Any
) -> None:
    """Draw stored means with their 95 % intervals as bars.

    Args:
        axes: where.
        cells: by position, from a study's summary, with the keys `name`, `name_low` and `name_high`.
        name: of the mean.
        label: the curve's name.
        across: horizontal bars without a line between them; positions are heights then.
        style: passed on to matplotlib's `errorbar`.
    """
    x = sorted(cells)
    mean, low, high = ([cells[position][name + end] for position in x] for end in ("", "_low", "_high"))
    below = [middle - bottom for middle, bottom in zip(mean, low, strict=True)]
    above = [top - middle for middle, top in zip(mean, high, strict=True)]
    if across:
        axes.errorbar(mean, x, xerr=[below, above], fmt="o", capsize=3, label=label, **style)
    else:
        axes.errorbar(x, mean, [below, above], fmt="o-", capsize=3, label=label, **style)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
