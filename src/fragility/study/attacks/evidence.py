"""From the stored attacks to the rows, means and settings that the rules of A1 to A8 and K1, K2 read."""

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from fragility.study.verdict import KEPT, Equality, Setting, Tables, equivalent, paired
from fragility.titles import METRICS, TITLES

N = 64  # images
SENSITIVITY_N = 16  # images, for a look at the other pooling
AGREEMENT_MARGIN = 0.10  # of a published intersection or correlation
SHIFT_MARGIN = (2.0, 0.20)  # pixels, or this share of the published shift, whichever is more
ENOUGH = 0.01  # by how much twice the steps may move a mean
TABLES = ("attack_sweep", "paper_sweep", "cifar_sweep", "relevance_sweep")
METHODS = ("simple_gradient", "deeplift", "integrated_gradients")
ATTACKS, NOISES = ("top_k", "mass_center"), ("random", "random_walk")
EPSILONS = (1.0, 2.0, 4.0, 8.0)
SMALL, LARGE = 2.0, 8.0  # the sizes at which the attacks are compared
*AGREEMENTS, SHIFT = METRICS  # the first two are large where nothing changes
IMAGENET, CEIL, CIFAR, MATCHED = "squeezenet", "squeezenet-ceil", "cifar", "cifar-k20"
SETUPS = {IMAGENET: ("SqueezeNet", "ImageNet")} | dict.fromkeys((CIFAR, MATCHED), ("that of appendix B", "CIFAR-10"))
SIDES = {IMAGENET: 227, CEIL: 227, CIFAR: 32, MATCHED: 32}
KEY = ["method", "attack", "epsilon"]
BUDGET = ["iterations", "own"]  # steps, and whether the rows are of the table with the paper's budget

Condition = tuple[str, str, float]  # method, attack, epsilon


def differences(rows: pd.DataFrame, plain: pd.DataFrame) -> pd.DataFrame:
    """The metrics less those of the plain rows of the same image, method, attack and epsilon, where there are any."""
    pairs = rows.merge(plain, on=["image", *KEY], suffixes=("", "_plain"), validate="many_to_one")
    return pairs.assign(**{name: pairs[name] - pairs[f"{name}_plain"] for name in METRICS})


def select(tables: Tables, setups: Sequence[str], used: Iterable[Condition], together: Sequence[str]) -> pd.DataFrame:
    """The rows of some conditions, those alike in the columns `together` with one budget."""
    # Of the budgets that all of them have, the one with the most images (no more than N count), then the most steps.
    parts = [tables[name].assign(own=name in ("paper_sweep", "relevance_sweep")) for name in TABLES if name in tables]
    if not parts:
        return pd.DataFrame()
    rows = pd.concat(parts, ignore_index=True)
    rows["cell"] = list(zip(rows.setup, rows.method, rows.attack, rows.epsilon, strict=True))
    rows = rows[rows.cell.isin({(setup, *cell) for setup in setups for cell in used})]
    sizes: dict[Any, dict[Any, int]] = {}
    for (cell, *budget), some in rows.groupby(["cell", *BUDGET]):
        sizes.setdefault(cell, {})[tuple(budget)] = len(some) if cell[2] in NOISES else min(len(some), N)
    groups: dict[Any, list[Any]] = {}
    for cell in sizes:
        name = tuple(dict(zip(KEY, cell[1:], strict=True))[column] for column in together)
        groups.setdefault(cell if cell[2] in NOISES else name, []).append(cell)
    chosen = {}
    for group in groups.values():
        common = set.intersection(*(set(sizes[cell]) for cell in group))
        for cell in group:
            compared = group if common else [cell]
            least = {budget: min(sizes[each][budget] for each in compared) for budget in common or sizes[cell]}
            chosen[cell] = max(least, key=lambda budget: (least[budget], *budget))
    budgets = zip(rows.cell, rows.iterations, rows.own, strict=True)
    rows = rows[np.array([chosen[cell] == (steps, own) for cell, steps, own in budgets], dtype=bool)].copy()
    for metric in METRICS:  # the released code's choice, which the smaller budget's table does not have
        rows[f"release_{metric}"] = rows.get(f"release_{metric}", rows[metric]).fillna(rows[metric])
    return rows


def column(rows: pd.DataFrame, metric: str, method: str, attack: str, epsilon: float) -> Any:
    """One metric under one condition, (n,)."""
    return pairs(rows, metric, [(method, attack, epsilon)])[0]


def pairs(rows: pd.DataFrame, metric: str, conditions: Sequence[Condition]) -> Any:
    """One metric of the images that have it under all conditions, (conditions, n)."""
    return paired(rows, metric, KEY, conditions)


def noise(rows: pd.DataFrame, method: str, epsilon: float) -> str:
    """The walk, which the published noise is, where there are enough images of it."""
    walked = rows.query("method == @method and attack == 'random_walk' and epsilon == @epsilon")
    return "random_walk" if len(walked) >= N else "random"


def equality(rows: pd.DataFrame, published: pd.DataFrame, means: Iterable[tuple[str, str, float, str]]) -> Equality:
    """Count the published means that ours agree with, of those for which there are enough images."""
    theirs = published.set_index([*KEY, "metric"])["value"]
    inside = total = 0
    for method, attack, epsilon, metric in means:
        samples = column(rows, f"release_{metric}", method, attack, epsilon) if len(rows) else ()
        mean = theirs.get((method, "random" if attack == "random_walk" else attack, epsilon, metric))
        if len(samples) < N or mean is None:
            continue
        margin = max(SHIFT_MARGIN[0], SHIFT_MARGIN[1] * mean) if metric == SHIFT else AGREEMENT_MARGIN
        total += 1
        inside += equivalent(samples, mean, margin)
    return Equality(inside, total)


def enough(tables: Tables, rows: pd.DataFrame) -> bool:
    """Whether twice the steps were shown to change the intersections and correlations of both attacks hardly at all."""
    if not {"sensitivity", "attack_sweep"} <= tables.keys():
        return False
    plain = tables["attack_sweep"].query("setup == @IMAGENET")
    doubled = differences(tables["sensitivity"].query("setup == 'steps doubled'"), plain)
    doubled = doubled[doubled.iterations == 2 * doubled.iterations_plain]
    moved = doubled.groupby("attack")[AGREEMENTS].mean().abs()
    steps = rows[rows.attack.isin(ATTACKS)].iterations.min()
    return bool(
        set(ATTACKS) <= set(moved.index)
        and (moved.loc[list(ATTACKS)] < ENOUGH).all(axis=None)
        and steps >= doubled.iterations_plain.max()
    )


def many(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the conditions with enough images, if there is an attack among them; else all."""
    many = rows[rows.groupby("cell")["image"].transform("size") >= N]
    return rows if many.attack.isin(NOISES).all() else many


def setting(rows: pd.DataFrame) -> Setting:
    """With what rows were computed."""
    tried = rows[~rows.attack.isin(NOISES)]
    tried = rows[rows.attack != "random"] if tried.empty else tried
    columns = {
        "P": tried.iterations,
        "alpha (of 255)": tried.step_size,
        "M": tried.attack_steps,
        "epsilon": rows.epsilon,
    }
    spans = {name: sorted(set(values.dropna())) for name, values in columns.items()}
    count = rows.groupby("cell").size()
    networks, data = zip(*(SETUPS[name] for name in rows.setup.unique()), strict=True)
    named: dict[str, Any] = {"network": ", ".join(networks), "data": ", ".join(data)}
    named["images"] = sorted({int(count.min()), int(count.max())})
    return named | {name: values for name, values in spans.items() if values}


def means(rows: pd.DataFrame) -> list[str]:
    """What the measures were computed from: the plain means, and what was kept or chosen."""

    def shown(part: pd.DataFrame, prefix: str = "") -> str:
        return ", ".join(f"{TITLES[name]} {part[prefix + name].mean():.3g}" for name in METRICS)

    notes = []
    for (method, attack, epsilon), part in rows.groupby(KEY):
        text = f"{TITLES[method]}, {TITLES[attack]}, {epsilon:g}/255 (n = {len(part)}, P = {part.iterations.max()}): "
        text += shown(part)
        if not part.labels_kept.all():
            text += f"; with kept labels only (n = {part.labels_kept.sum()}) {shown(part[part.labels_kept])}"
        if any((part[f"release_{name}"] != part[name]).any() for name in METRICS):
            text += f"; by the released code's choice {shown(part, 'release_')}"
        notes.append(text)
    return notes


def few_kept(rows: pd.DataFrame, used: Iterable[Condition]) -> list[str]:
    """Whether too few labels were kept under one of the conditions."""
    least = rows.groupby(KEY)["labels_kept"].mean().reindex(pd.MultiIndex.from_tuples(used)).min()
    return [f"few labels kept ({least:.0%})"] if least < KEPT else []


def tested(rows: pd.DataFrame, setup: str, *epsilons: float) -> list[str]:
    """The methods with enough attacked images at some sizes; the first one if there are none."""
    count = rows.groupby(KEY).size()
    least = SENSITIVITY_N if setup == CEIL else N
    cells = {method: [(method, *key) for key in product(ATTACKS, epsilons or (SMALL, LARGE))] for method in METHODS}
    fewest = {method: count.reindex(cells).min(skipna=False) for method, cells in cells.items()}
    return [method for method, n in fewest.items() if n >= least] or [METHODS[0]]


def diagonal(setup: str) -> float:
    """Of the images, in pixels."""
    return float(SIDES[setup] * 2**0.5)


def beyond_chance(rows: pd.DataFrame, setup: str, method: str, attack: str, epsilon: float) -> Any:
    """The intersection beyond what two unrelated maps have, K / N."""
    chance = rows["k"].min() / SIDES[setup] ** 2
    return (column(rows, "top_k_intersection", method, attack, epsilon) - chance) / (1 - chance)


def mean(samples: Any) -> float:
    """NaN of nothing."""
    return float(np.mean(samples)) if len(samples) else float("nan")


def hundred(share: float) -> str:
    """A share as a count out of a hundred."""
    return f"{100 * share:.1f}" if 0 < share < 0.0095 else f"{100 * share:.0f}"
