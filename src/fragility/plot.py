"""How a chapter looks: its opening, one style, one layout for images with their maps, and the table that closes it."""

import ast
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import seaborn
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from fragility.interval import mean_interval
from fragility.study.claims import LEDGER, Judged, shown
from fragility.study.evidence import Results, verdict
from fragility.study.store import Row, results_folder

PROFILES = ("fast", "laptop", "paper")
COLORMAP = "magma"  # perceptually uniform; dark is unimportant
NAMES = {
    "simple_gradient": "simple gradient",
    "integrated_gradients": "integrated gradients",
    "deeplift": "DeepLIFT",
}


def _numbers(column: Sequence[str]) -> bool:
    told = [cell for cell in column if cell]
    return all(any(map(str.isdigit, cell)) and 2 * sum(map(str.isalpha, cell)) < len(cell) for cell in told)


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
        rule = ["---"] + ["--:" if _numbers(column) else "---" for column in list(zip(*self.rows, strict=True))[1:]]
        return "\n".join("| " + " | ".join(row) + " |" for row in (self.header, rule, *self.rows))

    def __repr__(self) -> str:
        return self._repr_markdown_()


def start(*, profile: object, seed: object, cells: Sequence[str] | None = None) -> str:
    """Open a chapter: refuse wrong parameters, set the book's style, and say on which device it computes.

    Args:
        profile: one of `PROFILES`.
        seed: a whole number, not negative.
        cells: the source of the cells executed so far; None for those of the notebook that calls. Papermill puts the
            parameters it was given into a cell of their own, and only warns if a notebook does not know a name; here
            it is refused.

    Returns:
        `"cuda"` or `"cpu"`.

    Raises:
        ValueError: if a parameter has no such value, or was given and does not exist.
        TypeError: if the seed is no whole number.
    """
    known = {"profile", "seed"}
    cells = vars(sys.modules["__main__"]).get("In", []) if cells is None else cells
    if unknown := sorted(
        {name for cell in cells if cell.startswith("# Parameters\n") for name in _assigned(cell)} - known
    ):
        raise ValueError(f"{', '.join(unknown)}: expected parameters among {', '.join(sorted(known))}")
    if profile not in PROFILES:
        raise ValueError(f"profile: expected {', '.join(PROFILES[:-1])} or {PROFILES[-1]}, got {profile!r}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed: expected a whole number, got {seed!r}")
    if seed < 0:
        raise ValueError(f"seed: expected 0 or more, got {seed}")
    use_style()
    if "ipykernel" in sys.modules:  # vector graphics for the site, pixels for what cannot show those
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("svg", "png", metadata={"Date": None})  # type: ignore[no-untyped-call]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"profile {profile}, seed {seed}, device {torch.cuda.get_device_name() if device == 'cuda' else device}")
    return device


def _assigned(cell: str) -> set[str]:
    lines = [node for node in ast.parse(cell).body if isinstance(node, ast.Assign)]
    return {target.id for line in lines for target in line.targets if isinstance(target, ast.Name)}


def interval(cell: Mapping[str, Any], name: str, digits: int = 2) -> str:
    """Write a mean with its interval.

    Args:
        cell: from a study's summary, with the keys `name`, `name_low` and `name_high`.
        name: of the mean.
        digits: behind the point.

    Returns:
        For example `.42 [.39, .45]`.
    """
    mean, low, high = (_short(cell[name + end], digits) for end in ("", "_low", "_high"))
    return f"{mean} [{low}, {high}]"


def _short(number: float, digits: int) -> str:
    """Without the 0 before the point, as the paper writes shares."""
    return re.sub(r"^(-?)0(?=\.)", r"\1", f"{number:.{digits}f}")


@dataclass(frozen=True)
class _Named(Results):
    """Stored results of which a page may read only the tables that its source names: its fingerprint follows those."""

    tables: Collection[str] = ()

    def rows(self, study: str) -> tuple[list[Row], str]:
        rows, where = super().rows(study)
        name = where.partition(".")[0].strip("`")
        if name and name not in self.tables:
            raise ValueError(f"tables: expected {name!r} among them, got {sorted(self.tables)}")
        return rows, where


def ledger(*ids: str, tables: Collection[str] = (), folder: Path | None = None) -> Table:
    """Close a chapter: what was claimed and published, what the stored results say, and the verdict of the rules.

    Args:
        *ids: of claims, for instance `"A1"`.
        tables: the stored tables that the rules may read, for instance `"attack_sweep-laptop"`.
        folder: where the results lie; None for `fragility.study.store.results_folder`.

    Returns:
        One row per claim, which links to its section of the ledger, with one condition: the first that refutes
        it, else the first that fails, else the first.

    Raises:
        ValueError: if there is no such claim, or a rule reads a table that is not named.
    """
    by_id = {claim.id: claim for claim in LEDGER}
    if unknown := [name for name in ids if name not in by_id]:
        raise ValueError(f"ids: expected some of {list(by_id)}, got {unknown}")
    results, rows = _Named(folder or results_folder(), tables), []
    for claim in (by_id[name] for name in ids):
        finding = claim.rule(results)
        one = Judged(claim, finding, verdict(finding, claim.needed))
        section = f"../book/claims.md#{claim.id}-{one.verdict}".replace(" ", "-").lower()
        text = f"[{claim.id}]({section}): {claim.text}"
        rows.append([text, claim.published, _measured(one), f"*{one.verdict}*"])
    return Table(["claimed", "published", "measured", "verdict"], rows)


def _measured(one: Judged) -> str:
    """One line; the book's ledger has every condition."""
    claim, finding, outcome = one
    if not finding.measures:
        return "nothing stored yet"
    if outcome == "not yet tested":
        return f"n = {finding.n} of the {claim.needed} that the rule asks for"
    failing = [measure for measure in finding.measures if not measure.holds]
    refuted = [measure for measure in failing if measure.refuted]
    count, first = len(finding.measures), (refuted or failing or finding.measures)[0]
    told = [f"{count - len(failing)} of {count} {'identities' if finding.exact else 'conditions'} hold"]
    if failing or not finding.exact:
        side = "asked" if first.holds else "misses"
        told.append(f"for one, {first.name}: {shown(first, finding.exact)} ({side} {first.threshold})")
    if finding.equality is not None:
        told.append(f"{finding.equality.inside} of {finding.equality.total} published means matched")
    told += finding.doubts
    return "; ".join(told).replace("|", "\\|") + ("" if finding.exact else f" (n = {finding.n})")


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
