"""The rules of the claims A1 to A8, about attacks on importance maps of photographs [Ghorbani2019]."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import pandas as pd

from fragility.interval import mean_interval
from fragility.study.verdict import KEPT, Equality, Finding, Measure, at_least, at_most, difference, paired, positive
from fragility.titles import METRICS, TITLES

N = 64  # images
SENSITIVITY_N = 16  # images, for a look at the other pooling
MARGINS = {"top_k_intersection": 0.10, "spearman": 0.10}
SHIFT_MARGIN = (2.0, 0.20)  # pixels, or this share of the published shift, whichever is more
METHODS = ("simple_gradient", "deeplift", "integrated_gradients")
ATTACKS = ("top_k", "mass_center")
EPSILONS = (1.0, 2.0, 4.0, 8.0)
SMALL, LARGE = 2.0, 8.0  # the sizes at which the attacks are compared
*AGREEMENTS, SHIFT = METRICS  # the first two are large where nothing changes
IMAGENET, CEIL, CIFAR, MATCHED = "squeezenet", "squeezenet-ceil", "cifar", "cifar-k20"
SIDES = {IMAGENET: 227, CEIL: 227, CIFAR: 32, MATCHED: 32}
Tables = Mapping[str, pd.DataFrame]
Condition = tuple[str, str, float]  # method, attack, epsilon
Core = Callable[[pd.DataFrame, str], list[Measure]]  # the rows of a setup, and its name


def noise_alone(tables: Tables) -> Finding:
    """A1: random signs leave at most .7 of the intersection and .85 of the rank correlation at 2/255, both variants."""

    def core(rows: pd.DataFrame, setup: str) -> list[Measure]:
        variants = {"random": "one draw", "random_walk": "best of P steps"}
        if setup == CEIL:
            del variants["random_walk"]
        return [
            at_most(f"{TITLES[metric]} at 2/255, {title}", _column(rows, metric, METHODS[0], attack, SMALL), limit)
            for attack, title in variants.items()
            for metric, limit in zip(AGREEMENTS, (0.7, 0.85), strict=True)
        ]

    used = [(METHODS[0], attack, SMALL) for attack in ("random", "random_walk")]
    return _finding(tables, core, used, product(METHODS, ("random",), EPSILONS, AGREEMENTS))


def attacks_alike(tables: Tables) -> Finding:
    """A2: top-k and mass-centre differ by at most a quarter of what they gain over noise, which is more than .1."""
    attacks = (*ATTACKS, "random")

    def core(rows: pd.DataFrame, setup: str) -> list[Measure]:
        measures = []
        for method, epsilon, metric in product(_tested(rows, setup), (SMALL, LARGE), AGREEMENTS):
            one, other, noise = _paired(rows, metric, [(method, attack, epsilon) for attack in attacks])
            gap, gain = one - other, noise - (one + other) / 2
            sign = 1.0 if len(gap) == 0 or gap.mean() >= 0 else -1.0
            where = f"{TITLES[metric]}, {TITLES[method]}, {epsilon:g}/255"
            measures += [
                at_least(f"{where}: a quarter of the gain less the gap", gain / 4 - sign * gap, 0),
                at_least(f"{where}: gain over noise", gain, 0.1),
            ]
        return measures

    used = product(_tested_in(tables), attacks, (SMALL, LARGE))
    return _finding(tables, core, used, product(METHODS, attacks, EPSILONS, AGREEMENTS), per_method=True)


def two_is_enough(tables: Tables) -> Finding:
    """A3: at 2/255 the attacks do at least .8 of what they do at 8/255."""

    def core(rows: pd.DataFrame, setup: str) -> list[Measure]:
        measures = []
        for method, attack, metric in product(_tested(rows, setup), ATTACKS, AGREEMENTS):
            small, large = 1 - _paired(rows, metric, [(method, attack, e) for e in (SMALL, LARGE)])
            name = f"{TITLES[metric]} lost, {TITLES[method]}, {TITLES[attack]}: at 2/255 less .8 of that at 8/255"
            measures.append(at_least(name, small - 0.8 * large, 0))
        return measures

    used = product(_tested_in(tables), ATTACKS, (SMALL, LARGE))
    return _finding(tables, core, used, product(METHODS, ATTACKS, (SMALL, LARGE), AGREEMENTS), per_method=True)


def integrated_is_sturdiest(tables: Tables) -> Finding:
    """A4: under each method's strongest attack integrated gradients keeps more than the better of the others."""

    def core(rows: pd.DataFrame, setup: str) -> list[Measure]:
        measures = []
        for epsilon, metric in product((SMALL, LARGE), METRICS):
            sign = -1 if metric == SHIFT else 1
            values = sign * _paired(rows, metric, [(*key, epsilon) for key in product(METHODS, ATTACKS)])
            values = values.reshape(len(METHODS), len(ATTACKS), -1)
            chosen = [part[part.mean(1).argmin()] if part.size else part[0] for part in values]
            simple, deep, integrated = chosen
            better = simple if simple.size and simple.mean() > deep.mean() else deep
            name = f"{TITLES[metric]} at {epsilon:g}/255: lead of integrated gradients"
            measures.append(positive(name, integrated - better))
        return measures

    used = list(product(METHODS, ATTACKS, (SMALL, LARGE)))
    return _finding(tables, core, used, product(METHODS, ATTACKS, (SMALL, LARGE), METRICS))


def only_attacks_move_the_centre(tables: Tables) -> Finding:
    """A5: the mass-centre attack moves the centre 3 times as far as noise, and noise by 3 % of the diagonal at most."""
    names = ("mass_center", "random")

    def core(rows: pd.DataFrame, setup: str) -> list[Measure]:
        measures = []
        for method, epsilon in product(_tested(rows, setup), (SMALL, LARGE)):
            attack, noise = _paired(rows, SHIFT, [(method, name, epsilon) for name in names])
            where = f"{TITLES[method]}, {epsilon:g}/255"
            limit = 0.03 * _diagonal(setup)
            measures += [
                at_least(f"{where}: shift by the attack less 3 times that by noise, px", attack - 3 * noise, 0),
                at_most(f"{where}: shift by noise, px", noise, limit, f"<= {limit:.1f}"),
            ]
        return measures

    used = product(_tested_in(tables), names, (SMALL, LARGE))
    return _finding(tables, core, used, product(METHODS, names, (SMALL, LARGE), (SHIFT,)), per_method=True)


def cifar_is_sturdier(tables: Tables) -> Finding:
    """A6: CIFAR-10 keeps more of the intersection beyond chance, and its shift over the diagonal is smaller."""
    if not {"attack_sweep", "cifar_sweep"} <= tables.keys():
        return Finding()
    setups = ((tables["cifar_sweep"], MATCHED), (tables["attack_sweep"], IMAGENET))
    small, large = ((rows[rows.setup == setup], setup) for rows, setup in setups)
    measures, notes = [], []
    for epsilon in (SMALL, LARGE):
        for attack in ATTACKS:
            cell = (METHODS[0], attack, epsilon)
            pair = [_beyond_chance(rows, setup, *cell) for rows, setup in (small, large)]
            condition = f"top-k intersection beyond chance, {TITLES[attack]}, {epsilon:g}/255"
            measures.append(difference(f"{condition}: CIFAR-10 less ImageNet", *pair))
            if all(len(part) for part in pair):
                notes.append(f"{condition}: CIFAR-10 {pair[0].mean():.3g}, ImageNet {pair[1].mean():.3g}")
        cell = (METHODS[0], "mass_center", epsilon)
        shifts = [_column(rows, SHIFT, *cell) / _diagonal(setup) for rows, setup in (large, small)]
        measures.append(difference(f"shift by the diagonal, {epsilon:g}/255: ImageNet less CIFAR-10", *shifts))
    used = list(product((METHODS[0],), ATTACKS, (SMALL, LARGE)))
    return Finding(measures, doubts=_few_kept(large[0], used) + _few_kept(small[0], used), notes=notes)


def importance_can_be_moved(tables: Tables) -> Finding:
    """A7: on at least half of the images the region's importance doubles with the label kept."""
    rows = tables["attack_sweep"].query("setup == @IMAGENET and method == @METHODS[0] and attack == 'targeted'")
    rows = rows[rows.epsilon == LARGE].dropna(subset=["target_before", "target_after"])
    done = (rows.target_after >= 2 * rows.target_before) & rows.labels_kept
    measures = [at_least("share of images with the region's importance doubled, 8/255", done, 0.5)]
    means = rows[["target_before", "target_after"]].mean()
    notes = [f"importance in the region {means.iloc[0]:.3f} before, {means.iloc[1]:.3f} after"] if len(rows) else []
    return Finding(measures, notes=notes)


def surrogates_fool_the_network(tables: Tables) -> Finding:
    """A8: D gains on the network at least half of what it gains on the surrogate, and more than by a random walk."""
    found = []
    for study, setup in (("attack_sweep", IMAGENET), ("cifar_sweep", CIFAR)):
        if study not in tables:
            continue

        def core(rows: pd.DataFrame, setup: str) -> list[Measure]:
            attack, walk = ((METHODS[0], name, LARGE) for name in ("top_k", "random_walk"))
            both = rows.query("method == @METHODS[0] and attack == 'top_k' and epsilon == @LARGE")
            ours, walked = _paired(rows, "gain", [attack, walk])
            return [
                at_least(f"{setup}: gain of D less half of the surrogate's", both.gain - both.surrogate_gain / 2, 0),
                positive(f"{setup}: gain of D less that of the random walk", ours - walked),
            ]

        used = list(product((METHODS[0],), ("top_k", "random_walk"), (LARGE,)))
        rows = tables[study]
        found.append(Finding(core(rows[rows.setup == setup], setup), doubts=_doubts(rows, core, used, setup)))
    return max(found, key=lambda finding: finding.n)


def differences(rows: pd.DataFrame, plain: pd.DataFrame) -> pd.DataFrame:
    """The metrics less those of the plain rows of the same image, method, attack and epsilon, where there are any."""
    keys = ["image", "method", "attack", "epsilon"]
    pairs = rows.merge(plain, on=keys, suffixes=("", "_plain"), validate="many_to_one")
    return pairs.assign(**{name: pairs[name] - pairs[f"{name}_plain"] for name in METRICS})


def _finding(
    tables: Tables, core: Core, used: Iterable[Condition], means: Iterable[tuple[str, str, float, str]], *,
    per_method: bool = False,
) -> Finding:  # fmt: skip
    used = list(used)
    rows = tables["attack_sweep"]
    ours = rows[rows.setup == IMAGENET]
    doubts = _doubts(rows, core, used, IMAGENET)
    if per_method and len(tested := _tested(ours, IMAGENET)) < len(METHODS):
        doubts.append(f"only with {' and '.join(TITLES[name] for name in tested)}")
    return Finding(core(ours, IMAGENET), _equality(ours, tables["published"], means), doubts, _means(ours, used))


def _column(rows: pd.DataFrame, metric: str, method: str, attack: str, epsilon: float) -> Any:
    return _paired(rows, metric, [(method, attack, epsilon)])[0]


def _paired(rows: pd.DataFrame, metric: str, conditions: Sequence[Condition]) -> Any:
    return paired(rows, metric, ["method", "attack", "epsilon"], conditions)


def _equality(rows: pd.DataFrame, published: pd.DataFrame, means: Iterable[tuple[str, str, float, str]]) -> Equality:
    """Count the published means that ours agree with, of those for which there are enough images."""
    theirs = published.set_index(["method", "attack", "epsilon", "metric"])["value"]
    inside = total = 0
    for method, attack, epsilon, metric in means:
        samples = _column(rows, metric, method, attack, epsilon)
        mean = theirs.get((method, attack, epsilon, metric))
        if len(samples) < N or mean is None:
            continue
        _, low, high = mean_interval(samples, level=0.9)
        margin = MARGINS.get(metric, max(SHIFT_MARGIN[0], SHIFT_MARGIN[1] * mean))
        total += 1
        inside += mean - margin <= low and high <= mean + margin
    return Equality(inside, total)


def _means(rows: pd.DataFrame, used: Iterable[Condition]) -> list[str]:
    """What the measures were computed from: the plain means of the conditions used."""
    notes = []
    for (method, attack, epsilon), part in rows.groupby(["method", "attack", "epsilon"]):
        if (method, attack, epsilon) in used:
            shown = ", ".join(f"{TITLES[name]} {part[name].mean():.3g}" for name in METRICS)
            notes.append(f"{TITLES[method]}, {TITLES[attack]}, {epsilon:g}/255 (n = {len(part)}): {shown} px")
    return notes


def _doubts(rows: pd.DataFrame, core: Core, used: Iterable[Condition], setup: str) -> list[str]:
    """The sensitivity analyses, labels kept only and the other pooling: does a mean change sides?"""
    ours = rows[rows.setup == setup]
    measures, doubts = core(ours, setup), _few_kept(ours, used)
    for name, others, other_setup, least in (
        ("with kept labels only", ours[ours.labels_kept], setup, 2),
        ("with the other pooling", rows[rows.setup == CEIL], CEIL, SENSITIVITY_N),
    ):
        again = {part.name: part for part in core(others, other_setup) if part.n >= least}
        if any(part.holds and part.name in again and not again[part.name].right for part in measures):
            doubts.append(f"otherwise {name}")
    return doubts


def _few_kept(rows: pd.DataFrame, used: Iterable[Condition]) -> list[str]:
    """Whether too few labels were kept under one of the conditions."""
    shares = rows.groupby(["method", "attack", "epsilon"])["labels_kept"].mean()
    least = shares.reindex(pd.MultiIndex.from_tuples(used)).min()
    return [f"few labels kept ({least:.0%})"] if least < KEPT else []


def _tested(rows: pd.DataFrame, setup: str) -> list[str]:
    """The methods with enough attacked images; the first one if there are none."""
    count = rows.groupby(["method", "attack", "epsilon"]).size()
    least = SENSITIVITY_N if setup == CEIL else N
    whole = {method: [(method, *key) for key in product(ATTACKS, (SMALL, LARGE))] for method in METHODS}
    found = [
        m for m, cells in whole.items() if count.reindex(pd.MultiIndex.from_tuples(cells)).min(skipna=False) >= least
    ]
    return found or [METHODS[0]]


def _tested_in(tables: Tables) -> list[str]:
    rows = tables["attack_sweep"]
    return _tested(rows[rows.setup == IMAGENET], IMAGENET)


def _diagonal(setup: str) -> float:
    return float(SIDES[setup] * 2**0.5)


def _beyond_chance(rows: pd.DataFrame, setup: str, method: str, attack: str, epsilon: float) -> Any:
    """The intersection beyond what two unrelated maps have, K / N."""
    chance = rows["k"].min() / SIDES[setup] ** 2
    return (_column(rows, "top_k_intersection", method, attack, epsilon) - chance) / (1 - chance)
