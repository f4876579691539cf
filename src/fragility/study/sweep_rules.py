"""The rules of the claims A1 to A8, about attacks on importance maps of photographs [Ghorbani2019]."""

from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor

from fragility.study.evidence import KEPT, Cells, Finding, Measure, Results, at_least, at_most, equality, positive
from fragility.study.piece import Row

N = 64  # images
SENSITIVITY_N = 16  # images, for a look at the other pooling
METHODS = ("simple_gradient", "deeplift", "integrated_gradients")
ATTACKS = ("top_k", "mass_center")
EPSILONS = (1.0, 2.0, 4.0, 8.0)
SMALL, LARGE = 2.0, 8.0  # the sizes at which the attacks are compared
AGREEMENTS = ("top_k_intersection", "spearman")  # large where nothing changes
SHIFT = "center_shift"
IMAGENET, CEIL, CIFAR, MATCHED = "squeezenet", "squeezenet-ceil", "cifar", "cifar-k20"
SIDES = {IMAGENET: 227, CEIL: 227, CIFAR: 32, MATCHED: 32}
SHOWN = {"top_k_intersection": "top-k intersection", "spearman": "rank correlation", SHIFT: "centre shift"}
TITLES = {
    "simple_gradient": "simple gradient",
    "deeplift": "DeepLIFT",
    "integrated_gradients": "integrated gradients",
    "top_k": "top-k",
    "mass_center": "mass-centre",
    "targeted": "targeted",
    "random": "one draw of random signs",
    "random_walk": "random walk",
}

Core = Callable[[Cells, str], list[Measure]]
Means = Sequence[tuple[str, str, float, str]]


def noise_alone(results: Results) -> Finding:
    """A1: random signs leave at most .7 of the intersection and .85 of the rank correlation at 2/255, both variants.

    Args:
        results: stored.

    Returns:
        What they say.
    """

    def core(cells: Cells, setup: str) -> list[Measure]:
        limits = dict(zip(AGREEMENTS, (0.7, 0.85), strict=True))
        variants = {"random": "one draw", "random_walk": "best of P steps"}
        if setup == CEIL:
            del variants["random_walk"]
        return [
            at_most(
                f"{SHOWN[metric]} at 2/255, {title}",
                cells.one(setup, METHODS[0], attack, SMALL, metric),
                limit,
            )
            for attack, title in variants.items()
            for metric, limit in limits.items()
        ]

    return _finding(results, core, list(product(METHODS, ("random",), EPSILONS, AGREEMENTS)))


def attacks_alike(results: Results) -> Finding:
    """A2: top-k and mass-centre differ by at most a quarter of what they gain over noise, which is more than .1.

    Args:
        results: stored.

    Returns:
        What they say.
    """

    def core(cells: Cells, setup: str) -> list[Measure]:
        measures = []
        for method, epsilon, metric in product(_tested(cells, setup), (SMALL, LARGE), AGREEMENTS):
            one, other, noise = cells.paired(
                *(((setup, method, attack, epsilon), metric) for attack in (*ATTACKS, "random"))
            )
            gap, gain = one - other, noise - (one + other) / 2
            sign = 1.0 if len(gap) == 0 or gap.mean() >= 0 else -1.0
            where = f"{SHOWN[metric]}, {TITLES[method]}, {epsilon:g}/255"
            measures += [
                at_least(f"{where}: a quarter of the gain less the gap", gain / 4 - sign * gap, 0),
                at_least(f"{where}: gain over noise", gain, 0.1),
            ]
        return measures

    attacks = (*ATTACKS, "random")
    return _finding(results, core, list(product(METHODS, attacks, EPSILONS, AGREEMENTS)), per_method=True)


def two_is_enough(results: Results) -> Finding:
    """A3: at 2/255 the attacks do at least .8 of what they do at 8/255.

    Args:
        results: stored.

    Returns:
        What they say.
    """

    def core(cells: Cells, setup: str) -> list[Measure]:
        measures = []
        for method, attack, metric in product(_tested(cells, setup), ATTACKS, AGREEMENTS):
            small, large = 1 - cells.paired(*(((setup, method, attack, e), metric) for e in (SMALL, LARGE)))
            name = f"{SHOWN[metric]} lost, {TITLES[method]}, {TITLES[attack]}: at 2/255 less .8 of that at 8/255"
            measures.append(at_least(name, small - 0.8 * large, 0))
        return measures

    return _finding(results, core, list(product(METHODS, ATTACKS, (SMALL, LARGE), AGREEMENTS)), per_method=True)


def integrated_is_sturdiest(results: Results) -> Finding:
    """A4: under each method's strongest attack integrated gradients keeps more than the better of the others.

    Args:
        results: stored.

    Returns:
        What they say.
    """

    def core(cells: Cells, setup: str) -> list[Measure]:
        measures = []
        for epsilon, metric in product((SMALL, LARGE), (*AGREEMENTS, SHIFT)):
            sign = -1 if metric == SHIFT else 1
            keys = product(METHODS, ATTACKS)
            values = sign * cells.paired(*(((setup, *key, epsilon), metric) for key in keys))
            values = values.view(len(METHODS), len(ATTACKS), -1)
            chosen = [part[part.mean(1).argmin()] if part.numel() else part[0] for part in values]
            simple, deep, integrated = chosen
            better = simple if simple.numel() and simple.mean() > deep.mean() else deep
            measures.append(
                positive(f"{SHOWN[metric]} at {epsilon:g}/255: lead of integrated gradients", integrated - better)
            )
        return measures

    return _finding(results, core, list(product(METHODS, ATTACKS, (SMALL, LARGE), (*AGREEMENTS, SHIFT))))


def only_attacks_move_the_centre(results: Results) -> Finding:
    """A5: the mass-centre attack moves the centre at least 3 times as far as noise, noise at most 3 % of the diagonal.

    Args:
        results: stored.

    Returns:
        What they say.
    """

    def core(cells: Cells, setup: str) -> list[Measure]:
        measures = []
        for method, epsilon in product(_tested(cells, setup), (SMALL, LARGE)):
            attack, noise = cells.paired(
                *(((setup, method, name, epsilon), SHIFT) for name in ("mass_center", "random"))
            )
            where = f"{TITLES[method]}, {epsilon:g}/255"
            limit = 0.03 * _diagonal(setup)
            measures += [
                at_least(f"{where}: shift by the attack less 3 times that by noise, px", attack - 3 * noise, 0),
                at_most(f"{where}: shift by noise, px", noise, limit, f"<= {limit:.1f}"),
            ]
        return measures

    means = list(product(METHODS, ("mass_center", "random"), (SMALL, LARGE), (SHIFT,)))
    return _finding(results, core, means, per_method=True)


def cifar_is_sturdier(results: Results) -> Finding:
    """A6: CIFAR-10's chance-corrected intersection is larger and its shift, by the diagonal, smaller than ImageNet's.

    Args:
        results: stored.

    Returns:
        What they say.
    """
    rows, where = results.rows("attack_sweep")
    more, where_too = results.rows("cifar_sweep")
    if not rows or not more:
        return Finding()
    large, small = Cells(rows), Cells(more)
    measures, notes = [], []
    for epsilon in (SMALL, LARGE):
        for attack in ATTACKS:
            pair = [
                _corrected(cells.one(setup, METHODS[0], attack, epsilon, "top_k_intersection"), _share(part, setup))
                for cells, part, setup in ((small, more, MATCHED), (large, rows, IMAGENET))
            ]
            condition = f"top-k intersection beyond chance, {TITLES[attack]}, {epsilon:g}/255"
            measures.append(_difference(f"{condition}: CIFAR-10 less ImageNet", *pair))
            if all(len(part) for part in pair):
                notes.append(f"{condition}: CIFAR-10 {pair[0].mean():.3g}, ImageNet {pair[1].mean():.3g}")
        shifts = [
            cells.one(setup, METHODS[0], "mass_center", epsilon, SHIFT) / _diagonal(setup)
            for cells, setup in ((large, IMAGENET), (small, MATCHED))
        ]
        measures.append(_difference(f"shift by the diagonal, {epsilon:g}/255: ImageNet less CIFAR-10", *shifts))
    doubts = [f"few labels kept ({c.kept():.0%})" for c in (large, small) if c.kept() < KEPT]
    return Finding(measures, doubts=doubts, notes=notes, where=f"{where}; {where_too}")


def importance_can_be_moved(results: Results) -> Finding:
    """A7: on at least half of the images the region's importance doubles with the label kept.

    Args:
        results: stored.

    Returns:
        What they say.
    """
    rows, where = results.rows("attack_sweep")
    columns = ("target_before", "target_after", "labels_kept")
    key = (IMAGENET, METHODS[0], "targeted", LARGE)
    before, after, kept = Cells(rows).paired(*((key, name) for name in columns))
    done = (after >= 2 * before) & (kept > 0)
    measures = [at_least("share of images with the region's importance doubled, 8/255", done.double(), 0.5)]
    notes = [f"importance in the region {before.mean():.3f} before, {after.mean():.3f} after"] if len(before) else []
    return Finding(measures if rows else (), notes=notes, where=where)


def surrogates_fool_the_network(results: Results) -> Finding:
    """A8: D gains on the network at least half of what it gains on the surrogate, and more than by a random walk.

    Args:
        results: stored.

    Returns:
        What they say.
    """
    best = Finding()
    for study, setup in (("attack_sweep", IMAGENET), ("cifar_sweep", CIFAR)):
        rows, where = results.rows(study)
        if not rows:
            continue

        def core(cells: Cells, setup: str) -> list[Measure]:
            key = (setup, METHODS[0], "top_k", LARGE)
            gain, on_surrogate = cells.paired((key, "gain"), (key, "surrogate_gain"))
            ours, walk = cells.paired((key, "gain"), ((*key[:2], "random_walk", LARGE), "gain"))
            return [
                at_least(f"{setup}: gain of D less half of the surrogate's", gain - on_surrogate / 2, 0),
                positive(f"{setup}: gain of D less that of the random walk", ours - walk),
            ]

        cells = Cells(rows)
        found = Finding(core(cells, setup), doubts=_doubts(rows, cells, core, setup), where=where)
        if found.n > best.n or not best.measures:
            best = found
    return best


def _finding(results: Results, core: Core, means: Means, *, per_method: bool = False) -> Finding:
    rows, where = results.rows("attack_sweep")
    if not rows:
        return Finding()
    cells = Cells(rows)
    measures = core(cells, IMAGENET)
    doubts = _doubts(rows, cells, core, IMAGENET)
    if per_method and len(tested := _tested(cells, IMAGENET)) < len(METHODS):
        doubts.append(f"only with {' and '.join(TITLES[name] for name in tested)}")
    notes = _means(cells)
    # A fresh view: what is merely compared with published means does not count among the conditions used.
    agreement = equality(Cells(rows), results.published(), IMAGENET, means, N)
    return Finding(measures, agreement, doubts, notes, where=where)


def _means(cells: Cells) -> list[str]:
    """What the measures were computed from: the plain means of the conditions used."""
    notes = []
    for key in sorted(cells.used, key=str):
        setup, method, attack, epsilon = key
        n = cells.count(*key)
        if n and setup == IMAGENET:
            shown = ", ".join(f"{SHOWN[name]} {cells.one(*key, name).mean():.3g}" for name in (*AGREEMENTS, SHIFT))
            notes.append(f"{TITLES[method]}, {TITLES[attack]}, {epsilon:g}/255 (n = {n}): {shown} px")
    return notes


def _doubts(rows: Sequence[Row], cells: Cells, core: Core, setup: str) -> list[str]:
    """The sensitivity analyses, labels kept only and the other pooling: does a mean change sides?"""
    measures, doubts = core(cells, setup), []
    if cells.kept() < KEPT:
        doubts.append(f"few labels kept ({cells.kept():.0%})")
    for name, others, other_setup, least in (
        ("with kept labels only", Cells(rows, kept_only=True), setup, 2),
        ("with the other pooling", Cells(rows), CEIL, SENSITIVITY_N),
    ):
        again = {part.name: part for part in core(others, other_setup) if part.n >= least}
        if any(part.holds and part.name in again and not again[part.name].right for part in measures):
            doubts.append(f"otherwise {name}")
    return doubts


def _tested(cells: Cells, setup: str) -> list[str]:
    """The methods with enough attacked images; the first one if there are none."""
    least = SENSITIVITY_N if setup == CEIL else N
    found = [
        method
        for method in METHODS
        if all(cells.count(setup, method, attack, e) >= least for attack, e in product(ATTACKS, (SMALL, LARGE)))
    ]
    return found or [METHODS[0]]


def _diagonal(setup: str) -> float:
    return float(SIDES[setup] * 2**0.5)


def _share(rows: Sequence[Row], setup: str) -> float:
    """K / N, the intersection by chance."""
    k = next((int(row["k"] or 0) for row in rows if row["setup"] == setup), 0)
    return k / SIDES[setup] ** 2


def _corrected(intersection: Tensor, chance: float) -> Tensor:
    return (intersection - chance) / (1 - chance)


def _difference(name: str, a: Tensor, b: Tensor) -> Measure:
    """The difference of the means of two samples of different images, which has to be positive."""
    n = min(len(a), len(b))
    if n < 2:
        return Measure(name, float("nan"), float("nan"), float("nan"), n, "> 0", False, False, False)
    draws = [_bootstrap(part, seed) for seed, part in enumerate((a, b))]
    low, high = (draws[0] - draws[1]).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    mean = (a.mean() - b.mean()).item()
    return Measure(name, mean, low, high, n, "> 0", mean > 0, low > 0, high < 0)


def _bootstrap(samples: Tensor, seed: int, draws: int = 10_000) -> Tensor:
    picks = torch.randint(len(samples), (draws, len(samples)), generator=torch.Generator().manual_seed(seed))
    return samples[picks].mean(1)
