"""The book's page "How long an attack takes", made of the stored rows; no number on it is typed by hand."""

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

from benchmarks.harness import Row
from benchmarks.steps import AIM
from fragility import plot

FIGURE = "_static/figures/speed-steps.svg"
INTRO = """# How long an attack takes

An attack of $P$ steps takes $P$ times what one step and the look at its result take, in forward passes of your network
on the same batch: the row *attack step* of your method and the row *selection pass*. With integrated gradients both are
multiplied by the number of points on the path. How many steps are needed is a matter of the schedule.

This page is written by `make bench` from one machine's measurements, stored in `results/bench.csv`. Times are compared
with one another, never with a clock on the wall alone: what is compared runs in turns in one process, and the least
time of each counts. With one thread the clock is the processor's, which other processes disturb little; with more
threads it is the wall's."""
SECTIONS = {
    "floor": (
        "Which method",
        "One *forward-equivalent* is the time of the network's forward pass on the same batch in the same run. An "
        "attack step is a Hessian-vector product: the floor is the forward pass, the input gradient, and their "
        "counterparts in the second derivative.",
    ),
    "steps": (
        "Which schedule",
        "The gain of an attack is how far it raises $D$ above its value for the original image, the mean over images, "
        "here as a share of what 300 steps of the paper's size reach ($\\alpha=\\epsilon/16$). An image without an "
        "iterate that keeps its label gained nothing.",
    ),
    "peers": (
        "Beside other packages",
        "The same inputs in the same process, ours and theirs in turn. *x* is how many times faster ours is.",
    ),
}
PICTURE = f"""```{{figure}} {FIGURE}
:alt: Line plots of the share of the 300-step gain against steps and against seconds, one line per schedule.

How the gain rises with steps and with seconds of the machine named below.
```"""


def read(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, list[dict[str, Any]]]:
    """Read the stored rows, curves and sessions; empty ones where nothing is stored."""
    if not (folder / "bench.json").exists():
        return pd.DataFrame(columns=["group", "name", "value", "target", "verdict"]), pd.DataFrame({"figure": []}), []
    rows = pd.read_csv(folder / "bench.csv", keep_default_na=False, na_values={"value": [""]})
    sessions = json.loads((folder / "bench.json").read_text(encoding="utf-8"))["sessions"]
    return rows, pd.read_csv(folder / "bench_curves.csv"), sessions


def number(value: float) -> str:
    """Return a number with three significant digits."""
    if not math.isfinite(value):
        return "-" if math.isnan(value) else "never"
    if 0 < abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:#.3g}".rstrip(".") if abs(value) < 1000 else f"{value:.0f}"


def compose(rows: pd.DataFrame, sessions: list[dict[str, Any]]) -> str:
    """Return the page as MyST Markdown."""
    parts = [INTRO]
    for group, (title, lead) in SECTIONS.items():
        found = [Row(*line) for line in rows.loc[rows.group == group, [field.name for field in fields(Row)]].to_numpy()]
        if not found:
            continue
        parts += [f"## {title}", lead]
        if group == "steps":
            aimed = [row for row in found if row.target]
            lines = [f"- {row.name}: {number(row.value)} (asked for: {row.target}; {row.verdict})." for row in aimed]
            parts += [
                PICTURE,
                f"The schedule `{AIM}`, which is meant to do as much as the 300 steps:",
                "\n".join(lines),
            ]
        else:
            lines = ["| what | measured | target | verdict | how |", "|---|---|---|---|---|"]
            for row in found:
                value = f"{number(row.value)} {row.unit}"
                lines.append(f"| {row.name} | {value} | {row.target or '-'} | {row.verdict} | {row.note or '-'} |")
            parts.append("\n".join(lines))
        parts += [_machine(session) for session in sessions if group in session["seconds"]]
    return "\n\n".join(parts) + "\n"


def _machine(session: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in session["packages"].items())
    commit = (session["commit"] or "unknown").partition("+")
    quick = " In short form (`--quick`): small batches, one repeat." if session["quick"] else ""
    return (
        f"*{session['started'][:10]}, {session['device']}, {session['threads']} thread(s), Python {session['python']}, "
        f"{packages}, commit {commit[0][:10]}{commit[1]}{commit[2]}, load at the end {session['load']}; "
        f"{sum(session['seconds'].values()):.0f} s.{quick}*"
    )


def draw(points: pd.DataFrame) -> sns.FacetGrid:
    """Draw the gain against steps and against seconds."""
    plot.use_style()
    plt.rcParams["figure.constrained_layout.use"] = False  # seaborn lays out by itself
    kept = points[points.x_name.isin(["step", "seconds"]) & points.figure.str.contains(": ")]
    parts = kept.assign(setting=kept.figure.str.split(": ").str[1])
    grid = sns.relplot(
        parts, kind="line", x="x", y="y", hue="series", row="x_name", col="setting", height=2.4, aspect=1.2,
        facet_kws={"sharex": False, "margin_titles": True},
    )  # fmt: skip
    return grid.set(xscale="log", xlabel="", ylabel="gain / gain of 300").set_titles(
        "{col_name}", row_template="{row_name}"
    )


def write(folder: Path, target: Path) -> None:
    """Write the page and its picture from what is stored."""
    rows, points, sessions = read(folder)
    target.write_text(compose(rows, sessions), encoding="utf-8")
    if (rows.group == "steps").any():
        (target.parent / FIGURE).parent.mkdir(parents=True, exist_ok=True)
        draw(points).savefig(target.parent / FIGURE, metadata={"Date": None})
        plt.close("all")
