"""The book's page "How long an attack takes", made of stored rows; no number on it is typed by hand."""

import json
import math
import textwrap
from dataclasses import fields
from pathlib import Path
from statistics import mode
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from benchmarks.harness import Row
from fragility import plot
from fragility.interval import mean_interval
from fragility.titles import TITLES

FIGURE, BARS = "_static/figures/speed-steps.svg", "_static/figures/speed-{}.svg"
LONG = 12  # rows of a table above which it is folded below a figure
INTRO = """# How long an attack takes

An attack of $P$ steps takes $P$ times an *attack step* of your method and a *selection pass*, the look at what the step
led to. Both are given in forward passes of your network on the same batch; with integrated gradients both are
multiplied by the number $M$ of points on the path."""
STEPS = """## Which schedule

`fragility.attack.annealed` lets the step fall linearly from $\\epsilon/8$ while the sharpness of the surrogate rises,
and keeps momentum; the paper's Algorithm 1 takes 300 steps of 0.5. Below, the gain is how far an attack raises $D$
above its value for the original image, and 1 is what Algorithm 1 gains on the same image with as many steps as the line
says. The schedule was chosen on other photographs.

```{{figure}} {figure}
:alt: Line plots of the share of the gain of 300 steps against the number of steps, one line per schedule.

Mean share of Algorithm 1's gain after so many steps, with 95 % intervals over images: simple gradient, SqueezeNet.
```

{lines}"""
FLOOR = """## Which method

Times are ratios to the network's own forward pass, taken in turns in the same process, the least of each. An attack
step is a Hessian-vector product: four passes through the convolutions at least, and what softplus adds to them.
`torch.compile` is not used: on a processor it needs a C++ compiler."""
PEERS = """## Beside other packages

The same inputs in the same process, ours and theirs in turn. *x* is how many times faster ours is."""
DRAWN = """```{{figure}} {figure}
:alt: Bars, one for each measurement, and a mark where there is a target; the numbers are in the table below.

Measured: {unit}, on a logarithmic scale that begins at 1. A mark is a target; where it is missed the bar is pale.
```

```{{dropdown}} All {count} numbers
{table}
```"""
UNITS = {"forwards": "forward passes", "x": "times as fast"}  # as a figure calls them
MISSED = "Where the time goes where a target is missed:\n\n- {}: {}"
REASON = "a step holds the same for every M, as the next row shows; the rest are gaps in the C library's heap"
REASONS = {"integrated gradients, M = 100 over M = 10: peak memory": REASON}
# What a step and the look at its result are made of, and how often.
ATTACKS = {
    "the simple gradient": ("attack step, simple gradient", "selection pass, simple gradient", 1),
    "DeepLIFT": ("attack step, DeepLIFT", "selection pass, DeepLIFT", 1),
    "integrated gradients (M = 25)": (
        "attack step, integrated gradients, per point", "integrated gradients, per point", 25
    ),
}  # fmt: skip
CONDITION = ["image", "method", "attack", "epsilon"]
COLUMNS = [each.name for each in fields(Row)]
# Schedule and step: the lower end of the share's interval that is asked for, at 100 steps of the mass-centre alone.
AIMS = {("annealed, 40", 40): 0.95, ("annealed, 100", 100): 1.0, ("Algorithm 1", 40): None}


def read(folder: Path) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Read the stored rows and sessions; empty ones where nothing is stored."""
    if not (folder / "bench.json").exists():
        return pd.DataFrame(columns=["group", "name", "value", "target", "verdict"]), []
    rows = pd.read_csv(folder / "bench.csv", keep_default_na=False, na_values={"value": [""], "before": [""]})
    return rows, json.loads((folder / "bench.json").read_text(encoding="utf-8"))["sessions"]


def number(value: float) -> str:
    """Return a number with three significant digits."""
    if not math.isfinite(value):
        return "-" if math.isnan(value) else "never"
    if 0 < abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:#.3g}".rstrip(".") if abs(value) < 1000 else f"{value:.0f}"


def courses(folder: Path) -> pd.DataFrame:
    """Read how the attacks of the tables `few_steps` and `paper_sweep` grew on the images that are in both.

    Returns:
        The `share` of the gain of Algorithm 1's steps, for every image, `condition`, `schedule` and stored `step`.
    """
    tables = [folder / f"{study}-laptop.csv" for study in ("few_steps", "paper_sweep")]
    if not all(table.exists() for table in tables):
        return pd.DataFrame()
    rows = pd.concat([pd.read_csv(table) for table in tables], ignore_index=True)
    paper = rows.query("schedule == 'constant' and iterations <= 300 and step_size == 0.5")
    paper = paper.sort_values("iterations", ascending=False, kind="stable").drop_duplicates(CONDITION)
    ours = rows.query("schedule == 'momentum' and step_size == epsilon / 8 and first_beta == last_beta / 8")
    ours = ours.assign(schedule="annealed, " + ours.iterations.astype(str))
    whole = paper[[*CONDITION, "gain", "iterations"]].merge(ours[CONDITION].drop_duplicates(), on=CONDITION)
    found = pd.concat([paper.assign(schedule="Algorithm 1"), ours])
    found = found.merge(whole, on=CONDITION, suffixes=("", "_paper"))
    found = found.assign(step=found.course_steps.str.split(), best=found.course_objective.str.split())
    found = found.explode(["step", "best"], ignore_index=True).astype({"step": int, "best": float})
    gained = found.best - (found.objective - found.gain)
    found["share"] = (gained / found.gain_paper).fillna(0.0)  # nan: no label was kept by then
    return found


def summary(shares: pd.DataFrame) -> list[str]:
    """Say for every condition what 40 steps of either schedule gain, and 100 annealed ones."""
    lines = []
    for (method, attack, epsilon, full), group in shares.groupby([*CONDITION[1:], "iterations_paper"], sort=False):
        found = []
        for (schedule, step), target in AIMS.items():
            values = group[(group.schedule == schedule) & (group.step == step)].share
            if len(values) > 1:
                mean, low, high = mean_interval(values.to_numpy())
                aimed = target and (step == 40 or attack == "mass_center")
                verdict = f" (lower end >= {target}: {'met' if low >= target else 'missed'})" if aimed else ""
                share = f"{mean:.2f} [{low:.2f}, {high:.2f}]"
                found.append(f"{step} steps, {schedule.partition(',')[0]}: {share}{verdict}")
        name = f"{TITLES[method]}, {TITLES[attack]}, {epsilon:g}/255, of {full} steps, {group.image.nunique()} images"
        lines.append(f"- {name}: {'; '.join(found)}.")
    return lines


def compose(rows: pd.DataFrame, sessions: list[dict[str, Any]], shares: pd.DataFrame) -> str:
    """Return the page as MyST Markdown."""
    parts = [INTRO]
    if len(shares):
        parts.append(STEPS.format(figure=FIGURE, lines="\n".join(summary(shares))))
    for group, lead in (("floor", FLOOR), ("peers", PEERS)):
        if found := measured(rows, group):
            parts += [lead, *_table(found, BARS.format(group)), *_example({row.name: row.value for row in found})]
            parts += [_machine(session) for session in sessions if group in session["seconds"]]
    return "\n\n".join(parts) + "\n"


def measured(rows: pd.DataFrame, group: str) -> list[Row]:
    """Return the measurements of a group."""
    return [Row(*line) for line in rows[rows.group == group].reindex(columns=COLUMNS).to_numpy()]


def _drawable(found: list[Row]) -> list[Row]:
    """Of the measurements those in the unit that most of them have."""
    known = [row for row in found if math.isfinite(row.value)]
    return [row for row in known if row.unit == mode(row.unit for row in known)]


def _table(found: list[Row], figure: str) -> list[str]:
    """A table of measurements, below a figure if it is a long one, and why targets were missed."""
    compared = any(not math.isnan(row.before) for row in found)
    header = ["what", "measured", *["before"] * compared, "target", "verdict", "how"]
    lines = [header, ["---"] * len(header)]
    for row in found:
        values = [f"{number(row.value)} {row.unit}", *[number(row.before)] * compared]
        lines.append([row.name, *values, row.target or "-", row.verdict, row.note or "-"])
    missed = [row.name for row in found if row.verdict == "missed" and row.name in REASONS]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    if len(found) > LONG:
        unit = _drawable(found)[0].unit
        table = DRAWN.format(figure=figure, unit=UNITS.get(unit, unit), count=len(found), table=table)
    return [table, *(MISSED.format(name, REASONS[name]) for name in missed)]


def _example(values: dict[str, float]) -> list[str]:
    """How long forty steps take, where all that makes them was measured."""
    if not {name for parts in ATTACKS.values() for name in parts[:2]} | {"forward, per image"} <= values.keys():
        return []
    listed = [
        f"{number(40 * times * (values[step] + values[look]) * values['forward, per image'])} s on {attack}"
        for attack, (step, look, times) in ATTACKS.items()
    ]
    return [f"On this machine forty steps take for each image of a batch {', '.join(listed)}."]


def _machine(session: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in session["packages"].items())
    commit = (session["commit"] or "unknown").partition("+")
    quick = " In short form (`--quick`): small batches, few repeats." if session["quick"] else ""
    before = f", before: {session['before'][:10]}" if session.get("before") else ""
    return (
        f"*{session['started'][:10]}, {session['device']}, {session['threads']} thread(s), Python {session['python']}, "
        f"{packages}, commit {commit[0][:10]}{commit[1]}{commit[2]}{before}, load at the end {session['load']}; "
        f"{sum(session['seconds'].values()):.0f} s.{quick}*"
    )


def draw(shares: pd.DataFrame) -> sns.FacetGrid:
    """Draw the share of the gain of Algorithm 1 against steps."""
    plot.use_style()
    plt.rcParams["figure.constrained_layout.use"] = False  # seaborn lays out by itself
    shown = shares[shares.method == "simple_gradient"].replace({"attack": TITLES})
    grid = sns.relplot(
        shown, kind="line", x="step", y="share", hue="schedule",
        row="epsilon", col="attack", errorbar=lambda values: mean_interval(values.to_numpy())[1:], height=2.2,
        aspect=1.05, facet_kws={"margin_titles": True},
    )  # fmt: skip
    grid.refline(y=1)
    grid.set(xscale="log", xlabel="steps", ylabel="share of the gain")
    sns.move_legend(grid, "upper center", bbox_to_anchor=(0.5, 1), ncol=3, title="")
    grid.figure.subplots_adjust(top=0.86, right=0.93)
    return grid.set_titles(col_template="{col_name}", row_template="{row_name:g}/255")


def bars(found: list[Row]) -> Figure:
    """Draw the measurements that share a unit as bars, with a mark at each target."""
    plot.use_style()
    shown = _drawable(found)
    figure, axes = plt.subplots(figsize=(4.8, 0.9 + 0.42 * len(shown)))
    for place, row in enumerate(shown):
        alpha = 0.4 if row.verdict == "missed" else 1.0
        target = float(row.target.split()[1]) if row.target else row.value
        axes.barh(place, row.value - 1, left=1, color="C0", alpha=alpha, height=0.6)
        axes.text(max(row.value, target, 1), place, f"  {number(row.value)}", va="center")
        if row.target:
            axes.plot([target] * 2, [place - 0.42, place + 0.42], color="0.2", linewidth=2)
    axes.set_yticks(range(len(shown)), [textwrap.fill(row.name, 24) for row in shown])  # a phone is narrow
    axes.axvline(1, color="0.5", linewidth=1)
    axes.set(xlabel=UNITS.get(shown[0].unit, shown[0].unit), xscale="log", xmargin=0.15)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.invert_yaxis()
    return figure


def write(folder: Path, target: Path) -> None:
    """Write the page and its pictures from what is stored."""
    rows, sessions = read(folder)
    shares = courses(folder)
    target.write_text(compose(rows, sessions, shares), encoding="utf-8")
    groups = {group: measured(rows, group) for group in ("floor", "peers")}
    pictures = {BARS.format(group): bars(found) for group, found in groups.items() if len(found) > LONG}
    for name, figure in (pictures | ({FIGURE: draw(shares).figure} if len(shares) else {})).items():
        (target.parent / name).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target.parent / name, metadata={"Date": None})
    plt.close("all")
