"""The book's page "How fast, and why", made of the stored rows; no number on it is typed by hand."""

import csv
import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from benchmarks.harness import Point, Row
from fragility import plot

ROW_COLUMNS = [*(field.name for field in fields(Row)), "verdict"]
POINT_COLUMNS = [field.name for field in fields(Point)]
TITLES = {
    "floor": (
        "The floor",
        "One *forward-equivalent* is the time of the network's forward pass on the same batch in the same run. An "
        "attack step is a Hessian-vector product, so that the floor is the forward pass, the input gradient, and "
        "their counterparts in the second derivative. Where a step's time goes stand the profiler's shares at the end.",
    ),
    "peers": (
        "The peers",
        "The same inputs in the same process, ours and theirs in turn. *x* is how many times faster ours is.",
    ),
    "steps": (
        "Fewer steps",
        "The gain of an attack is how far it raises $D$ above its value for the original image, the mean over images, "
        "here as a share of what 300 steps of the paper's size reach ($\\alpha=\\epsilon/16$). An image without an "
        "iterate that keeps its label gained nothing.",
    ),
    "process": ("Whole processes", "Fresh interpreters, from start to end."),
    "growth": (
        "Growth",
        "The exponent $b$ of $y = a\\,x^b$ through the three largest sizes: 1 is linear, 0 is constant.",
    ),
}


def texts(item: Row | Point) -> list[str]:
    """Return the fields of a row or point as a table holds them; an empty number is one that was not measured."""
    values = [getattr(item, field.name) for field in fields(item)]
    return [("" if math.isnan(v) else f"{v:.5g}") if isinstance(v, float) else str(v) for v in values]


def read(folder: Path) -> tuple[list[Row], list[Point], dict[str, Any]]:
    """Read the stored rows, curves and story; empty ones where nothing is stored."""
    if not (folder / "bench.json").exists():
        return [], [], {}
    with (folder / "bench.csv").open(encoding="utf-8", newline="") as file:
        rows = [
            Row(line["group"], line["name"], float(line["value"] or "nan"), line["unit"], line["target"], line["note"])
            for line in csv.DictReader(file)
        ]
    with (folder / "bench_curves.csv").open(encoding="utf-8", newline="") as file:
        points = [
            Point(**{**line, "x": float(line["x"]), "y": float(line["y"])})  # type: ignore[arg-type]
            for line in csv.DictReader(file)
        ]
    return rows, points, json.loads((folder / "bench.json").read_text(encoding="utf-8"))


def number(value: float) -> str:
    """Return a number with three significant digits."""
    if math.isnan(value) or math.isinf(value):
        return "-" if math.isnan(value) else "never"
    return (
        f"{value:.1e}"
        if 0 < abs(value) < 1e-3
        else f"{value:#.3g}".rstrip(".")
        if abs(value) < 1000
        else f"{value:.0f}"
    )


def compose(rows: list[Row], points: list[Point], story: dict[str, Any]) -> str:
    """Return the page as MyST Markdown."""
    count = {verdict: sum(row.verdict == verdict for row in rows) for verdict in ("met", "missed", "not measured here")}
    parts = [
        "# How fast, and why",
        "This page is written by `make bench` from one machine's measurements, stored in `results/bench.csv`. Times "
        "are compared with one another, never with a clock on the wall alone: what is compared runs in turns in one "
        "process, and the least time of each counts. With one thread the clock is the processor's, which other "
        "processes disturb little; with more threads it is the wall's.",
        f"Targets met: {count['met']}. Missed: {count['missed']}. Not measured here: {count['not measured here']}.",
    ]
    sessions = {group: part for part in story["sessions"] for group in part["seconds"]}
    for group, (title, lead) in TITLES.items():
        if group not in sessions:
            continue
        parts += [f"## {title}", lead, *_pictures(group, points)]
        lines = [
            f"| {row.name} | {number(row.value)} {row.unit} | {row.target or '-'} | {row.verdict} | {row.note or '-'} |"
            for row in rows
            if row.group == group
        ]
        parts.append("\n".join(["| what | measured | target | verdict | how |", "|---|---|---|---|---|", *lines]))
        parts.append(_machine(sessions[group]))
    missed = [row for row in rows if row.verdict == "missed"]
    if missed:
        lines = [f"- {row.name}: {number(row.value)} {row.unit}, target {row.target}.{_reason(row)}" for row in missed]
        parts += ["## Targets missed", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


# What was found behind a missed target, by the beginning of the row's name; shown only while it is missed.
REASONS = {
    "attack step, simple": "beside the four passes of convolutions, softplus, its slope and their derivatives go over "
    "all activations (the shares stand in the table); what it is divided by is the cheapest pass there is: ReLU, in "
    "place, no graph.",
    "integrated gradients, per point": "a point of the path is one simple gradient, which takes as many forwards.",
    "attack step, integrated": "as for the simple gradient: the same second derivative, at every point of the path.",
    "attack step, DeepLIFT": "the batch is three times as large (images, reference, dummy input), so that twelve is "
    "the floor of its convolutions alone; secants and their derivatives come on top.",
    "attack step, IG: peak memory": "what the step holds does not grow, as the row with freed blocks handed "
    "back shows; what grows is what glibc keeps of them.",
    "integrated gradients: speed": "both make the same passes; from run to run the ratio falls on either side of one.",
    "DeepLIFT: speed": "three stacked parts against Captum's two; the third is what makes it differentiable.",
    "Spearman": "both sort, and ours averages ties by whole-tensor passes, which also run on a GPU.",
    "Kendall": "ours is SciPy's with a thread per core; what does not run side by side is sorting's bookkeeping.",
    "influence": "ours is charged with fitting the layer, the other library is given the fit.",
    "photographs": "the schedule was chosen on digits and not fitted to photographs.",
}


def _reason(row: Row) -> str:
    return next((f" Found: {text}" for start, text in REASONS.items() if row.name.startswith(start)), "")


def _machine(session: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in session["packages"].items())
    commit = (session["commit"] or "unknown").partition("+")
    quick = " In short form (`--quick`): small batches, one repeat." if session["quick"] else ""
    return (
        f"*{session['started'][:10]}, {session['device']}, {session['threads']} thread(s), Python {session['python']}, "
        f"{packages}, commit {commit[0][:10]}{commit[1]}{commit[2]}, load at the end {session['load']}; "
        f"{sum(session['seconds'].values()):.0f} s.{quick}*"
    )


def _pictures(group: str, points: list[Point]) -> list[str]:
    """The directive that shows a group's curves, if it has any."""
    if not any(point.figure.startswith(FIGURES[group]) for point in points) if group in FIGURES else True:
        return []
    alt, caption = WORDS[group]
    return [f"```{{figure}} _static/figures/speed-{group}.png\n:alt: {alt}\n\n{caption}\n```"]


FIGURES = {"steps": ("steps", "seconds"), "growth": ("growth",)}
WORDS = {
    "steps": (
        "Line plots of the share of the 300-step gain against steps and against seconds, one line per attack.",
        "How the gain rises with steps (above) and with seconds of the machine below the table.",
    ),
    "growth": (
        "Log-log plots of time, and of memory where it was measured, against the size of the problem.",
        "Time against size, both axes logarithmic; the grey line is linear.",
    ),
}


def draw(group: str, points: list[Point]) -> Figure:
    """Draw a group's curves."""
    plot.use_style()
    mine = [point for point in points if point.figure.startswith(FIGURES[group])]
    # Growth has one panel per quantity, the rest one per figure.
    keys = list(dict.fromkeys((p.figure, p.series, p.x_name) if group == "growth" else (p.figure,) for p in mine))
    rows = math.ceil(len(keys) / 2)
    figure, axes = plt.subplots(rows, 2, figsize=(8, 2.6 * rows), squeeze=False)
    for ax, key in zip(axes.flat, keys, strict=False):
        panel = [p for p in mine if ((p.figure, p.series, p.x_name) if group == "growth" else (p.figure,)) == key]
        for series in dict.fromkeys(point.series for point in panel):
            x, y = zip(*((point.x, point.y) for point in panel if point.series == series), strict=True)
            ax.plot(x, y, marker="o", markersize=3, label=series)
            if group == "growth":
                ax.plot(x, [y[-1] * value / x[-1] for value in x], color="0.7", linestyle="--")
        ax.set_xscale("log")
        ax.set(xlabel=panel[0].x_name, ylabel=panel[0].y_name)
        ax.set_title(key[1] if group == "growth" else key[0].partition(": ")[2])
        if group == "growth":
            ax.set_yscale("log")
            x = sorted({point.x for point in panel})
            ax.set_xticks(x, [f"{value:.0f}" for value in x], rotation=30 if x[-1] > 999 else 0)
            ax.minorticks_off()
    if group == "steps":
        axes.flat[0].legend(fontsize=8)
    for ax in axes.flat[len(keys) :]:
        ax.remove()
    return figure


def write(folder: Path, target: Path) -> None:
    """Write the page and its pictures from what is stored."""
    rows, points, story = read(folder)
    target.write_text(compose(rows, points, story), encoding="utf-8")
    pictures = target.parent / "_static" / "figures"
    for group in FIGURES:
        if _pictures(group, points):
            pictures.mkdir(parents=True, exist_ok=True)
            figure = draw(group, points)
            figure.savefig(pictures / f"speed-{group}.png", dpi=110, metadata={"Software": None})
            plt.close(figure)
