"""Figures and tables: one style, and one layout for every row of images with their importance maps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from fragility.interval import mean_interval

COLORMAP = "magma"  # perceptually uniform; dark is unimportant
NAMES = {
    "simple_gradient": "simple gradient",
    "integrated_gradients": "integrated gradients",
    "deeplift": "DeepLIFT",
}


@dataclass(frozen=True)
class Table:
    """A table that notebooks show as Markdown.

    Attributes:
        header: the columns' titles.
        rows: as many texts per row as there are columns.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __post_init__(self) -> None:
        if wrong := [row for row in self.rows if len(row) != len(self.header)]:
            raise ValueError(f"rows: expected {len(self.header)} cells each, got {wrong[0]}")

    def _repr_markdown_(self) -> str:
        rule = ["---"] + ["--:"] * (len(self.header) - 1)
        return "\n".join("| " + " | ".join(row) + " |" for row in (self.header, rule, *self.rows))

    def __repr__(self) -> str:
        return self._repr_markdown_()


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


def curve(axes: Axes, x: Sequence[float], samples: Tensor, *, label: str, **style: Any) -> None:
    """Draw means over images with their 95 % bootstrap intervals as a band.

    Args:
        axes: where.
        x: one position per row of `samples`.
        samples: (len(x), n), one value per image.
        label: the curve's name.
        style: passed on to matplotlib's `plot`.
    """
    mean, low, high = mean_interval(samples)
    (line,) = axes.plot(x, mean, marker="o", markersize=4, label=label, **style)
    axes.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
