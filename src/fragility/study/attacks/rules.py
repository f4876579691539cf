"""The rules of the claims A1 to A8 and K1, K2, about attacks on maps of photographs [Ghorbani2019] [Kamath2024].

The claims are judged by Algorithm 1 as it is printed, with the iterate of the largest D. The published means are those
of the released code: they are compared with the iterate that it would return, where a table has both, and its noise is
a walk.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any

import pandas as pd

from fragility.study.attacks import evidence
from fragility.study.attacks.evidence import (
    AGREEMENTS,
    ATTACKS,
    CEIL,
    CIFAR,
    EPSILONS,
    IMAGENET,
    KEY,
    LARGE,
    MATCHED,
    METHODS,
    NOISES,
    SENSITIVITY_N,
    SHIFT,
    SIDES,
    SMALL,
    Condition,
    N,
    column,
    hundred,
)
from fragility.study.verdict import (
    MARGIN,
    PIXELS,
    Finding,
    Measure,
    Tables,
    at_least,
    at_most,
    difference,
    positive,
    present,
)
from fragility.titles import METRICS, TITLES

Facts = dict[str, Any]
Core = Callable[[pd.DataFrame, str], list[Measure]]  # the rows of a setup, and its name


def noise_alone(tables: Tables) -> Finding:
    """A1: random signs leave at most .7 of the intersection and .85 of the rank correlation at 2/255, both variants."""

    def core(rows: pd.DataFrame, setup: str) -> list[Measure]:
        variants = {"random": "one draw", "random_walk": "best step of a walk"}
        if setup == CEIL:
            del variants["random_walk"]
        return [
            at_most(f"{TITLES[metric]} at 2/255, {title}", column(rows, metric, METHODS[0], attack, SMALL), limit)
            for attack, title in variants.items()
            for metric, limit in zip(AGREEMENTS, (0.7, 0.85), strict=True)
        ]

    def facts(rows: pd.DataFrame) -> Facts:
        kept = column(rows[rows.labels_kept], AGREEMENTS[0], METHODS[0], "random", SMALL)
        return {"replaced": hundred(1 - kept.mean())}

    used = product(METHODS[:1], NOISES, (SMALL,))
    return _finding(tables, core, used, facts, KEY, product(METHODS, NOISES[1:], EPSILONS, AGREEMENTS))


def attacks_alike(tables: Tables) -> Finding:
    """A2: top-k and mass-centre differ by at most a quarter of what they gain over noise, which is more than .1."""

    def core(rows: pd.DataFrame, setup: str) -> list[Measure]:
        measures = []
        for epsilon in (SMALL, LARGE):
            for method, metric in product(evidence.tested(rows, setup, epsilon), AGREEMENTS):
                attacks = (*ATTACKS, evidence.noise(rows, method, epsilon))
                one, other, noise = evidence.pairs(rows, metric, [(method, attack, epsilon) for attack in attacks])
                gain = noise - (one + other) / 2
                sign = -1.0 if len(one) and one.mean() < other.mean() else 1.0
                excess, part = sign * (one - other) - gain / 4, f"{epsilon:g}/255"
                where = f"{TITLES[metric]}, {TITLES[method]}, {part}"
                measures += [
                    at_most(
                        f"{where}: by how much the attacks differ, beyond a quarter of their gain over noise", excess,
                        MARGIN, margin=0, part=part,
                    ),
                    at_least(f"{where}: gain over noise", gain, 0.1, part=part),
                ]  # fmt: skip
        return measures

    def facts(rows: pd.DataFrame) -> Facts:
        return _left(rows, LARGE, *ATTACKS)

    used = product(METHODS, (*ATTACKS, *NOISES), (SMALL, LARGE))
    means = product(METHODS, (*ATTACKS, NOISES[1]), EPSILONS, AGREEMENTS)
    return _finding(tables, core, used, facts, ["method", "epsilon"], means, per_method=True)


def small_suffices(tables: Tables) -> Finding:
    """A3: at 2/255 each attack leaves .1 less of the intersection and of the rank correlation than noise does."""

    def core(rows: pd.DataFrame, setup: str) -> list[Measure]:
        measures = []
        for method in evidence.tested(rows, setup, SMALL):
            for attack, metric in product(ATTACKS, AGREEMENTS):
                conditions = [(method, name, SMALL) for name in (evidence.noise(rows, method, SMALL), attack)]
                noise, attacked = evidence.pairs(rows, metric, conditions)
                name = (
                    f"{TITLES[metric]}, {TITLES[method]}, {TITLES[attack]}, 2/255: how much less is left than by noise"
                )
                measures.append(at_least(name, noise - attacked, 0.1))
        return measures

    def facts(rows: pd.DataFrame) -> Facts:
        return _left(rows, SMALL, ATTACKS[0])

    used = product(METHODS, (*ATTACKS, *NOISES), (SMALL,))
    means = product(METHODS, ATTACKS, (SMALL,), AGREEMENTS)
    return _finding(tables, core, used, facts, ["method"], means, per_method=True)


def two_is_enough(tables: Tables) -> Finding:
    """A3b: at 2/255 the attacks do at least .8 of what they do at 8/255."""

    def core(rows: pd.DataFrame, setup: str) -> list[Measure]:
        measures = []
        for method, attack, metric in product(evidence.tested(rows, setup), ATTACKS, AGREEMENTS):
            small, large = 1 - evidence.pairs(rows, metric, [(method, attack, e) for e in (SMALL, LARGE)])
            name = (
                f"{TITLES[metric]}, {TITLES[method]}, {TITLES[attack]}: lost at 2/255, less four fifths of the loss "
                "at 8/255"
            )
            measures.append(at_least(name, small - 0.8 * large, -MARGIN, margin=0))
        return measures

    def facts(rows: pd.DataFrame) -> Facts:
        small, large = (1 - column(rows, AGREEMENTS[0], METHODS[0], ATTACKS[0], e).mean() for e in (SMALL, LARGE))
        return {"share": small / large}

    used = product(METHODS, ATTACKS, (SMALL, LARGE))
    means = product(METHODS, ATTACKS, (SMALL, LARGE), AGREEMENTS)
    return _finding(tables, core, used, facts, ["method", "attack"], means, per_method=True)


def integrated_is_sturdiest(tables: Tables) -> Finding:
    """A4: each under its strongest attack, integrated gradients keeps more than either other; a shared floor fails."""

    def core(rows: pd.DataFrame, setup: str) -> list[Measure]:
        measures = []
        for epsilon, metric in product((SMALL, LARGE), METRICS):
            lead = PIXELS if metric == SHIFT else MARGIN
            *others, integrated = _strongest(rows, metric, epsilon)
            better = max(others, key=lambda left: (len(left) > 0, evidence.mean(left)))
            part = f"{epsilon:g}/255"
            name = f"{TITLES[metric]} at {part}: lead of integrated gradients"
            measure = at_least(name, integrated - better, lead, margin=0, part=part)
            # An attack of more steps than the others had says nothing about who resists longer.
            steps = rows[(rows.epsilon == epsilon) & rows.attack.isin(ATTACKS)].groupby("method").iterations.max()
            fair = len(steps) == len(METHODS) and steps[METHODS[-1]] <= steps.min()
            measures.append(measure if fair else measure._replace(chance=1.0))
        return measures

    def facts(rows: pd.DataFrame) -> Facts:
        left = _strongest(rows, AGREEMENTS[0], LARGE)
        return {method: hundred(evidence.mean(kept)) for method, kept in zip(METHODS, left, strict=True)}

    used = product(METHODS, ATTACKS, (SMALL, LARGE))
    means = product(METHODS, ATTACKS, (SMALL, LARGE), METRICS)
    return _finding(tables, core, used, facts, ["epsilon"], means)


def only_attacks_move_the_centre(tables: Tables) -> Finding:
    """A5: the mass-centre attack moves the centre 3 times as far as noise, and noise by 3 % of the diagonal at most."""

    def core(rows: pd.DataFrame, setup: str) -> list[Measure]:
        measures = []
        for epsilon in (SMALL, LARGE):
            for method in evidence.tested(rows, setup, epsilon):
                names = (ATTACKS[1], evidence.noise(rows, method, epsilon))
                attack, noise = evidence.pairs(rows, SHIFT, [(method, name, epsilon) for name in names])
                part, limit = f"{epsilon:g}/255", 0.03 * evidence.diagonal(setup)
                where, shown = f"{TITLES[method]}, {part}", f"<= {limit:.1f}"
                more = f"{where}: shift by the attack, less three times that by noise (px)"
                measures += [
                    at_least(more, attack - 3 * noise, 0, margin=PIXELS, part=part),
                    at_most(f"{where}: shift by noise (px)", noise, limit, margin=PIXELS, shown=shown, part=part),
                ]
        return measures

    def facts(rows: pd.DataFrame) -> Facts:
        names = {"attack": ATTACKS[1], "noise": evidence.noise(rows, METHODS[0], LARGE)}
        moved = {key: column(rows, SHIFT, METHODS[0], name, LARGE).mean() for key, name in names.items()}
        return moved | {"side": SIDES[IMAGENET]}

    used = product(METHODS, (*ATTACKS, *NOISES), (SMALL, LARGE))
    means = product(METHODS, (ATTACKS[1], NOISES[1]), (SMALL, LARGE), (SHIFT,))
    return _finding(tables, core, used, facts, ["method", "epsilon"], means, per_method=True)


def cifar_is_sturdier(tables: Tables) -> Finding:
    """A6: CIFAR-10 keeps more of the intersection beyond chance, and its shift over the diagonal is smaller."""
    used = list(product(METHODS[:1], ATTACKS, (SMALL, LARGE)))
    rows = evidence.select(tables, (MATCHED, IMAGENET), used, ["attack", "epsilon"])
    if set(rows.get("setup", ())) != {MATCHED, IMAGENET}:
        return Finding()
    small, large = ((rows[rows.setup == setup], setup) for setup in (MATCHED, IMAGENET))
    measures, notes, facts = [], [], None
    for epsilon in (SMALL, LARGE):
        part = f"{epsilon:g}/255"
        for attack in ATTACKS:
            cell = (METHODS[0], attack, epsilon)
            pair = [evidence.beyond_chance(some, setup, *cell) for some, setup in (small, large)]
            condition = f"{TITLES[attack]} attack, {part}: top-k intersection beyond chance"
            kept = [evidence.beyond_chance(some[some.labels_kept], setup, *cell) for some, setup in (small, large)]
            both, alone = (
                ", ".join(
                    f"{name} {evidence.mean(x):.3g}" for name, x in zip(("CIFAR-10", "ImageNet"), some, strict=True)
                )
                for some in (pair, kept)
            )
            floor = max(map(evidence.mean, pair)) <= MARGIN
            both += f"; with kept labels only {alone}" if alone != both else ""
            notes.append(f"{condition}: {both}" + ("; both at their floor: decides nothing" if floor else ""))
            if not floor:
                measures.append(difference(f"{condition}, CIFAR-10 less ImageNet", *pair, part=part))
            if cell == used[2] and all(map(len, pair)):
                left = [hundred(max(0.0, evidence.mean(x))) for x in pair]
                facts = {"small": left[0], "large": left[1]}
        cell = (METHODS[0], ATTACKS[1], epsilon)
        shifts = [column(some, SHIFT, *cell) / evidence.diagonal(setup) for some, setup in (large, small)]
        measures.append(difference(f"{part}: shift over the diagonal, ImageNet less CIFAR-10", *shifts, part=part))
    doubts = evidence.few_kept(large[0], used) + evidence.few_kept(small[0], used)
    return Finding(measures, doubts=doubts, notes=notes, facts=facts, setting=evidence.setting(evidence.many(rows)))


def importance_can_be_moved(tables: Tables) -> Finding:
    """A7: on at least half of the images the region's importance doubles with the label kept."""
    used = [(METHODS[0], "targeted", LARGE)]
    rows = present(evidence.select(tables, (IMAGENET,), used, KEY))
    rows = rows.dropna(subset=["target_before", "target_after"])
    done = (rows.target_after >= 2 * rows.target_before) & rows.labels_kept
    measures = [at_least("share of images whose region's importance doubled, 8/255", done.to_numpy(bool), 0.5)]
    means = rows[["target_before", "target_after"]].mean()
    notes = [f"importance in the region {means.iloc[0]:.3f} before, {means.iloc[1]:.3f} after"] if len(rows) else []
    facts = {"done": done.sum(), "tried": len(done)}
    return Finding(measures, notes=notes, facts=facts, setting=evidence.setting(evidence.many(rows)))


def surrogates_fool_the_network(tables: Tables) -> Finding:
    """A8: D gains on the network at least half of what it gains on the surrogate, and more than by a random walk."""
    used, found = list(product(METHODS[:1], (ATTACKS[0], NOISES[1]), (LARGE,))), []

    def core(rows: pd.DataFrame, setup: str) -> list[Measure]:
        attacked = rows[rows.attack == ATTACKS[0]]
        ours, walked = evidence.pairs(rows, "gain", used)
        return [
            at_least(
                f"{TITLES[setup]}: what D gains on the network, less half of what it gains on the smooth copy",
                attacked.gain - attacked.surrogate_gain / 2, 0,
            ),
            positive(f"{TITLES[setup]}: what D gains on the network, less what a random walk gains", ours - walked),
        ]  # fmt: skip

    for setup in (IMAGENET, CIFAR):
        rows = evidence.select(tables, (setup,), used, KEY)
        if set(rows.get("attack", ())) == {ATTACKS[0], NOISES[1]}:
            ours, copied, walked = (
                rows[rows.attack == attack][gain].mean()
                for attack, gain in ((ATTACKS[0], "gain"), (ATTACKS[0], "surrogate_gain"), (NOISES[1], "gain"))
            )
            facts = {"ours": ours / copied, "walked": walked / copied}
            doubts, setting = _doubts(tables, rows, core, used, KEY), evidence.setting(evidence.many(rows))
            found.append(Finding(core(rows, setup), None, doubts, facts=facts, setting=setting))
    return max(found, key=lambda finding: min(measure.n for measure in finding.measures), default=Finding())


def noise_is_mild(tables: Tables) -> Finding:
    """K1: under noise of 2/255 the recall within one pixel, beyond chance, is at least .6."""
    rows = _neighbors(tables, [(METHODS[0], NOISES[0], SMALL)])
    measures = [at_least("recall within one pixel at 2/255, beyond chance", rows.beyond, 0.6)]
    facts = {"exact": hundred(rows.top_k_intersection.mean()), "near": hundred(rows.beyond.mean())}
    doubts = evidence.few_kept(rows, [(METHODS[0], NOISES[0], SMALL)])
    return Finding(measures, doubts=doubts, facts=facts, setting=evidence.setting(rows))


def attacks_stay_strong(tables: Tables) -> Finding:
    """K2: the top-k attack takes at least .2 more of the recall within one pixel, beyond chance, than noise does."""
    names = (NOISES[0], ATTACKS[0])
    rows = _neighbors(tables, list(product(METHODS[:1], names, (SMALL, LARGE))))
    measures = []
    for epsilon in (SMALL, LARGE):
        noise, attacked = evidence.pairs(rows, "beyond", [(METHODS[0], name, epsilon) for name in names])
        part = f"{epsilon:g}/255"
        measures.append(at_least(f"{part}: by how much less is found again than after noise", noise - attacked, 0.2,
                                 part=part))  # fmt: skip
    means = [evidence.mean(column(rows, "beyond", METHODS[0], name, LARGE)) for name in names]
    facts = dict(zip(("noise", "attack"), (hundred(max(0.0, mean)) for mean in means), strict=True))
    return Finding(measures, facts=facts, setting=evidence.setting(rows))


def _neighbors(tables: Tables, used: Sequence[Condition]) -> pd.DataFrame:
    """The rows of the table with the recall within one pixel, and what it is beyond that of another image's map."""
    own = {name: tables[name] for name in tables if name == "paper_sweep"}
    rows = present(evidence.select(own, (IMAGENET,), used, KEY))
    chance = rows.chance_recall_1
    return rows.assign(beyond=(rows.recall_1 - chance) / (1 - chance))


def _finding(
    tables: Tables, core: Core, used: Iterable[Condition], facts: Callable[[pd.DataFrame], Facts],
    together: Sequence[str], means: Iterable[tuple[str, str, float, str]], *, per_method: bool = False,
) -> Finding:  # fmt: skip
    """Judge photographs by `core`, and compare the means that were published."""
    used, means = list(used), list(means)
    rows = present(evidence.select(tables, (IMAGENET,), used, together))
    measures, doubts = core(rows, IMAGENET), _doubts(tables, rows, core, used, together)
    tested = [TITLES[name] for name in METHODS if any(TITLES[name] in measure.name for measure in measures)]
    if per_method and len(tested) < len(METHODS):
        doubts.append(f"only with {' and '.join(tested)}")
    agreeing = evidence.select(
        tables, (IMAGENET,), [(method, attack, epsilon) for method, attack, epsilon, _ in means], KEY
    )
    return Finding(
        measures,
        evidence.equality(agreeing, tables["published"], means),
        doubts,
        evidence.means(evidence.many(rows)),
        facts=facts(rows) if min(measure.n for measure in measures) else None,
        setting=evidence.setting(rows if min(measure.n for measure in measures) < N else evidence.many(rows)),
        enough=evidence.enough(tables, rows),
    )


def _left(rows: pd.DataFrame, epsilon: float, *attacks: str) -> Facts:
    """How many of every 100 of the most important pixels stay where they were, under attacks and under noise."""
    names = {"noise": evidence.noise(rows, METHODS[0], epsilon)} | {attack: attack for attack in attacks}
    left = {key: column(rows, AGREEMENTS[0], METHODS[0], name, epsilon).mean() for key, name in names.items()}
    return {key: hundred(mean) for key, mean in left.items()}


def _strongest(rows: pd.DataFrame, metric: str, epsilon: float) -> list[Any]:
    """What every method keeps under the attack that leaves it least; shifts are negative."""
    sign = -1 if metric == SHIFT else 1
    values = sign * evidence.pairs(rows, metric, [(*key, epsilon) for key in product(METHODS, ATTACKS)])
    parts = values.reshape(len(METHODS), len(ATTACKS), -1)
    return [part[part.mean(1).argmin()] if part.size else part[0] for part in parts]


def _doubts(
    tables: Tables, rows: pd.DataFrame, core: Core, used: Sequence[Condition], together: Sequence[str]
) -> list[str]:
    """The sensitivity analyses, labels kept only and the other pooling: does a mean change sides?"""
    (setup,) = rows.setup.unique()
    measures, doubts = core(rows, setup), evidence.few_kept(rows, used)
    others = {"with kept labels only": (rows[rows.labels_kept], setup, 2)}
    if setup == IMAGENET:
        others["with the other pooling"] = (evidence.select(tables, (CEIL,), used, together), CEIL, SENSITIVITY_N)
    for name, (some, other_setup, least) in others.items():
        again = {part.name: part for part in core(some, other_setup) if part.n >= least} if len(some) else {}
        if any(part.holds and part.name in again and not again[part.name].right for part in measures):
            doubts.append(f"otherwise {name}")
    return doubts
