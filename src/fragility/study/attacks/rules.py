"""The rules of the claims A1 to A8 and K1, K2, about attacks on maps of photographs [Ghorbani2019] [Kamath2024].

The claims are judged by Algorithm 1 as it is printed, with the iterate of the largest D. The published means are those
of the released code: they are compared with the iterate that it would return, where a table has both, and its noise is
a walk.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from fragility.study.verdict import (
    KEPT,
    MARGIN,
    PIXELS,
    Equality,
    Finding,
    Measure,
    Setting,
    at_least,
    at_most,
    difference,
    equivalent,
    paired,
    positive,
)
from fragility.titles import METRICS, TITLES

N = 64  # images
SENSITIVITY_N = 16  # images, for a look at the other pooling
AGREEMENT_MARGIN = 0.10  # of a published intersection or correlation
SHIFT_MARGIN = (2.0, 0.20)  # pixels, or this share of the published shift, whichever is more
ENOUGH = 0.01  # by how much twice the steps may move a mean
TABLES = ("attack_sweep", "paper_sweep", "cifar_sweep")
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

Tables = Mapping[str, pd.DataFrame]
Condition = tuple[str, str, float]  # method, attack, epsilon
Core = Callable[[pd.DataFrame, str], list[Measure]]  # the rows of a setup, and its name


def noise_alone(tables: Tables) -> Finding:
    """A1: random signs leave at most .7 of the intersection and .85 of the rank correlation at 2/255, both variants."""

    def core(rows: pd.DataFrame, setup: str) -> list[Measure]:
        variants = {"random": "one draw", "random_walk": "best step of a walk"}
        if setup == CEIL:
            del variants["random_walk"]
        return [
            at_most(f"{TITLES[metric]} at 2/255, {title}", _column(rows, metric, METHODS[0], attack, SMALL), limit)
            for attack, title in variants.items()
            for metric, limit in zip(AGREEMENTS, (0.7, 0.85), strict=True)
        ]

    def sentence(rows: pd.DataFrame) -> str:
        kept = _column(rows[rows.labels_kept], AGREEMENTS[0], METHODS[0], "random", SMALL)
        return (
            f"Noise too weak to see (2/255) replaces {_hundred(1 - kept.mean())} of every 100 of the most important "
            "pixels, although the prediction stays."
        )

    used = product(METHODS[:1], NOISES, (SMALL,))
    return _finding(tables, core, used, sentence, KEY, product(METHODS, NOISES[1:], EPSILONS, AGREEMENTS))


def attacks_alike(tables: Tables) -> Finding:
    """A2: top-k and mass-centre differ by at most a quarter of what they gain over noise, which is more than .1."""

    def core(rows: pd.DataFrame, setup: str) -> list[Measure]:
        measures = []
        for epsilon in (SMALL, LARGE):
            for method, metric in product(_tested(rows, setup, epsilon), AGREEMENTS):
                attacks = (*ATTACKS, _noise(rows, method, epsilon))
                one, other, noise = _paired(rows, metric, [(method, attack, epsilon) for attack in attacks])
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

    def sentence(rows: pd.DataFrame) -> str:
        left = [_column(rows, AGREEMENTS[0], METHODS[0], name, LARGE) for name in ATTACKS]
        noise = _column(rows, AGREEMENTS[0], METHODS[0], _noise(rows, METHODS[0], LARGE), LARGE)
        one, other, walk = (_hundred(part.mean()) for part in (*left, noise))
        return (
            f"At 8/255 the two attacks leave {one} and {other} of every 100 of the most important pixels in place; "
            f"noise of the same size leaves {walk}."
        )

    used = product(METHODS, (*ATTACKS, *NOISES), (SMALL, LARGE))
    means = product(METHODS, (*ATTACKS, NOISES[1]), EPSILONS, AGREEMENTS)
    return _finding(tables, core, used, sentence, ["method", "epsilon"], means, per_method=True)


def small_suffices(tables: Tables) -> Finding:
    """A3: at 2/255 each attack leaves .1 less of the intersection and of the rank correlation than noise does."""

    def core(rows: pd.DataFrame, setup: str) -> list[Measure]:
        measures = []
        for method in _tested(rows, setup, SMALL):
            for attack, metric in product(ATTACKS, AGREEMENTS):
                conditions = [(method, name, SMALL) for name in (_noise(rows, method, SMALL), attack)]
                noise, attacked = _paired(rows, metric, conditions)
                name = (
                    f"{TITLES[metric]}, {TITLES[method]}, {TITLES[attack]}, 2/255: how much less is left than by noise"
                )
                measures.append(at_least(name, noise - attacked, 0.1))
        return measures

    def sentence(rows: pd.DataFrame) -> str:
        names = (ATTACKS[0], _noise(rows, METHODS[0], SMALL))
        attack, noise = (_hundred(_column(rows, AGREEMENTS[0], METHODS[0], name, SMALL).mean()) for name in names)
        return (
            f"At 2/255 the top-k attack leaves {attack} of every 100 of the most important pixels in place; noise of "
            f"the same size leaves {noise}."
        )

    used = product(METHODS, (*ATTACKS, *NOISES), (SMALL,))
    means = product(METHODS, ATTACKS, (SMALL,), AGREEMENTS)
    return _finding(tables, core, used, sentence, ["method"], means, per_method=True)


def two_is_enough(tables: Tables) -> Finding:
    """A3b: at 2/255 the attacks do at least .8 of what they do at 8/255."""

    def core(rows: pd.DataFrame, setup: str) -> list[Measure]:
        measures = []
        for method, attack, metric in product(_tested(rows, setup), ATTACKS, AGREEMENTS):
            small, large = 1 - _paired(rows, metric, [(method, attack, e) for e in (SMALL, LARGE)])
            name = (
                f"{TITLES[metric]}, {TITLES[method]}, {TITLES[attack]}: lost at 2/255, less four fifths of the loss "
                "at 8/255"
            )
            measures.append(at_least(name, small - 0.8 * large, -MARGIN, margin=0))
        return measures

    def sentence(rows: pd.DataFrame) -> str:
        small, large = (1 - _column(rows, AGREEMENTS[0], METHODS[0], ATTACKS[0], e).mean() for e in (SMALL, LARGE))
        return (
            f"A change of 2/255 already replaces {small / large:.0%} as many of the most important pixels as one of "
            "8/255 does."
        )

    used = product(METHODS, ATTACKS, (SMALL, LARGE))
    means = product(METHODS, ATTACKS, (SMALL, LARGE), AGREEMENTS)
    return _finding(tables, core, used, sentence, ["method", "attack"], means, per_method=True)


def integrated_is_sturdiest(tables: Tables) -> Finding:
    """A4: each under its strongest attack, integrated gradients keeps more than either other; a shared floor fails."""

    def core(rows: pd.DataFrame, setup: str) -> list[Measure]:
        measures = []
        for epsilon, metric in product((SMALL, LARGE), METRICS):
            lead = PIXELS if metric == SHIFT else MARGIN
            *others, integrated = _strongest(rows, metric, epsilon)
            better = max(others, key=lambda left: (len(left) > 0, _mean(left)))
            part = f"{epsilon:g}/255"
            name = f"{TITLES[metric]} at {part}: lead of integrated gradients"
            measure = at_least(name, integrated - better, lead, margin=0, part=part)
            # An attack of more steps than the others had says nothing about who resists longer.
            steps = rows[(rows.epsilon == epsilon) & rows.attack.isin(ATTACKS)].groupby("method").iterations.max()
            fair = len(steps) == len(METHODS) and steps[METHODS[-1]] <= steps.min()
            measures.append(measure if fair else measure._replace(chance=1.0))
        return measures

    def sentence(rows: pd.DataFrame) -> str:
        *others, integrated = (_hundred(_mean(left)) for left in _strongest(rows, AGREEMENTS[0], LARGE))
        return (
            f"Attacked at 8/255, integrated gradients keeps {integrated} of every 100 of its most important pixels, "
            f"simple gradient and DeepLIFT keep {others[0]} and {others[1]}."
        )

    used = product(METHODS, ATTACKS, (SMALL, LARGE))
    means = product(METHODS, ATTACKS, (SMALL, LARGE), METRICS)
    return _finding(tables, core, used, sentence, ["epsilon"], means)


def only_attacks_move_the_centre(tables: Tables) -> Finding:
    """A5: the mass-centre attack moves the centre 3 times as far as noise, and noise by 3 % of the diagonal at most."""

    def core(rows: pd.DataFrame, setup: str) -> list[Measure]:
        measures = []
        for epsilon in (SMALL, LARGE):
            for method in _tested(rows, setup, epsilon):
                names = (ATTACKS[1], _noise(rows, method, epsilon))
                attack, noise = _paired(rows, SHIFT, [(method, name, epsilon) for name in names])
                part, limit = f"{epsilon:g}/255", 0.03 * _diagonal(setup)
                where, shown = f"{TITLES[method]}, {part}", f"<= {limit:.1f}"
                more = f"{where}: shift by the attack, less three times that by noise (px)"
                measures += [
                    at_least(more, attack - 3 * noise, 0, margin=PIXELS, part=part),
                    at_most(f"{where}: shift by noise (px)", noise, limit, margin=PIXELS, shown=shown, part=part),
                ]
        return measures

    def sentence(rows: pd.DataFrame) -> str:
        names = (ATTACKS[1], _noise(rows, METHODS[0], LARGE))
        attack, noise = (_column(rows, SHIFT, METHODS[0], name, LARGE).mean() for name in names)
        return (
            f"At 8/255 the attack moves the centre of a map by {attack:.0f} of its {SIDES[IMAGENET]} pixels, noise of "
            f"the same size by {noise:.0f}."
        )

    used = product(METHODS, (*ATTACKS, *NOISES), (SMALL, LARGE))
    means = product(METHODS, (ATTACKS[1], NOISES[1]), (SMALL, LARGE), (SHIFT,))
    return _finding(tables, core, used, sentence, ["method", "epsilon"], means, per_method=True)


def cifar_is_sturdier(tables: Tables) -> Finding:
    """A6: CIFAR-10 keeps more of the intersection beyond chance, and its shift over the diagonal is smaller."""
    used = list(product(METHODS[:1], ATTACKS, (SMALL, LARGE)))
    rows = _rows(tables, (MATCHED, IMAGENET), used, ["attack", "epsilon"])
    if set(rows.get("setup", ())) != {MATCHED, IMAGENET}:
        return Finding()
    small, large = ((rows[rows.setup == setup], setup) for setup in (MATCHED, IMAGENET))
    measures, notes, sentence = [], [], ""
    for epsilon in (SMALL, LARGE):
        part = f"{epsilon:g}/255"
        for attack in ATTACKS:
            cell = (METHODS[0], attack, epsilon)
            pair = [_beyond_chance(some, setup, *cell) for some, setup in (small, large)]
            condition = f"{TITLES[attack]} attack, {part}: top-k intersection beyond chance"
            kept = [_beyond_chance(some[some.labels_kept], setup, *cell) for some, setup in (small, large)]
            both, alone = (
                ", ".join(f"{name} {_mean(x):.3g}" for name, x in zip(("CIFAR-10", "ImageNet"), some, strict=True))
                for some in (pair, kept)
            )
            floor = max(map(_mean, pair)) <= MARGIN
            both += f"; with kept labels only {alone}" if alone != both else ""
            notes.append(f"{condition}: {both}" + ("; both at their floor: decides nothing" if floor else ""))
            if not floor:
                measures.append(difference(f"{condition}, CIFAR-10 less ImageNet", *pair, part=part))
            if cell == used[2] and all(map(len, pair)):
                left = [_hundred(max(0.0, _mean(x))) for x in pair]
                sentence = (
                    f"Beyond what chance leaves, the mass-centre attack at 2/255 leaves {left[0]} of every 100 of the "
                    f"most important pixels of a CIFAR-10 image in place, and {left[1]} of a photograph's."
                )
        cell = (METHODS[0], ATTACKS[1], epsilon)
        shifts = [_column(some, SHIFT, *cell) / _diagonal(setup) for some, setup in (large, small)]
        measures.append(difference(f"{part}: shift over the diagonal, ImageNet less CIFAR-10", *shifts, part=part))
    doubts = _few_kept(large[0], used) + _few_kept(small[0], used)
    return Finding(measures, doubts=doubts, notes=notes, sentence=sentence, setting=_setting(_many(rows)))


def importance_can_be_moved(tables: Tables) -> Finding:
    """A7: on at least half of the images the region's importance doubles with the label kept."""
    used = [(METHODS[0], "targeted", LARGE)]
    rows = _rows(tables, (IMAGENET,), used, KEY)
    if rows.empty:
        return Finding()
    rows = rows.dropna(subset=["target_before", "target_after"])
    done = (rows.target_after >= 2 * rows.target_before) & rows.labels_kept
    measures = [at_least("share of images whose region's importance doubled, 8/255", done.to_numpy(bool), 0.5)]
    means = rows[["target_before", "target_after"]].mean()
    notes = [f"importance in the region {means.iloc[0]:.3f} before, {means.iloc[1]:.3f} after"] if len(rows) else []
    sentence = (
        f"On {done.sum()} of {len(done)} photographs the attack at least doubled the importance of a region chosen "
        "beforehand, and the prediction stayed."
    )
    return Finding(measures, notes=notes, sentence=sentence, setting=_setting(_many(rows)))


def surrogates_fool_the_network(tables: Tables) -> Finding:
    """A8: D gains on the network at least half of what it gains on the surrogate, and more than by a random walk."""
    used, found = list(product(METHODS[:1], (ATTACKS[0], NOISES[1]), (LARGE,))), []

    def core(rows: pd.DataFrame, setup: str) -> list[Measure]:
        attacked = rows[rows.attack == ATTACKS[0]]
        ours, walked = _paired(rows, "gain", used)
        return [
            at_least(
                f"{TITLES[setup]}: what D gains on the network, less half of what it gains on the smooth copy",
                attacked.gain - attacked.surrogate_gain / 2, 0,
            ),
            positive(f"{TITLES[setup]}: what D gains on the network, less what a random walk gains", ours - walked),
        ]  # fmt: skip

    for setup in (IMAGENET, CIFAR):
        rows = _rows(tables, (setup,), used, KEY)
        if set(rows.get("attack", ())) == {ATTACKS[0], NOISES[1]}:
            ours, copied, walked = (
                rows[rows.attack == attack][column].mean()
                for attack, column in ((ATTACKS[0], "gain"), (ATTACKS[0], "surrogate_gain"), (NOISES[1], "gain"))
            )
            sentence = (
                f"Of what an attack gains on a smooth copy of the network, it gains {ours / copied:.0%} on the network "
                f"itself; random steps gain {walked / copied:.0%}."
            )
            doubts = _doubts(tables, rows, core, used, KEY)
            found.append(Finding(core(rows, setup), None, doubts, sentence=sentence, setting=_setting(_many(rows))))
    return max(found, key=lambda finding: min(measure.n for measure in finding.measures), default=Finding())


def noise_is_mild(tables: Tables) -> Finding:
    """K1: under noise of 2/255 the recall within one pixel, beyond chance, is at least .6."""
    rows = _neighbors(tables, [(METHODS[0], NOISES[0], SMALL)])
    if rows.empty:
        return Finding()
    measures = [at_least("recall within one pixel at 2/255, beyond chance", rows.beyond, 0.6)]
    exact = rows.top_k_intersection.mean()
    sentence = (
        f"At 2/255 noise leaves {_hundred(exact)} of every 100 of the most important pixels in place; beyond chance "
        f"{_hundred(rows.beyond.mean())} are found again within one pixel."
    )
    return Finding(measures, doubts=_few_kept(rows, [(METHODS[0], NOISES[0], SMALL)]), sentence=sentence,
                   setting=_setting(rows))  # fmt: skip


def attacks_stay_strong(tables: Tables) -> Finding:
    """K2: the top-k attack takes at least .2 more of the recall within one pixel, beyond chance, than noise does."""
    names = (NOISES[0], ATTACKS[0])
    rows = _neighbors(tables, list(product(METHODS[:1], names, (SMALL, LARGE))))
    if rows.empty:
        return Finding()
    measures = []
    for epsilon in (SMALL, LARGE):
        noise, attacked = _paired(rows, "beyond", [(METHODS[0], name, epsilon) for name in names])
        part = f"{epsilon:g}/255"
        measures.append(at_least(f"{part}: by how much less is found again than after noise", noise - attacked, 0.2,
                                 part=part))  # fmt: skip
    means = [_mean(_column(rows, "beyond", METHODS[0], name, LARGE)) for name in names]
    left = [_hundred(max(0.0, mean)) for mean in means]
    sentence = (
        f"Beyond what chance finds, {left[0]} of every 100 of the most important pixels are found again within one "
        f"pixel after noise of 8/255, and {left[1]} after the attack."
    )
    return Finding(measures, sentence=sentence, setting=_setting(rows))


def _neighbors(tables: Tables, used: Sequence[Condition]) -> pd.DataFrame:
    """The rows of the table with the recall within one pixel, and what it is beyond that of another image's map."""
    own = {name: tables[name] for name in tables if name == "paper_sweep"}
    rows = _rows(own, (IMAGENET,), used, KEY)
    if rows.empty:
        return rows
    chance = rows.chance_recall_1
    return rows.assign(beyond=(rows.recall_1 - chance) / (1 - chance))


def differences(rows: pd.DataFrame, plain: pd.DataFrame) -> pd.DataFrame:
    """The metrics less those of the plain rows of the same image, method, attack and epsilon, where there are any."""
    pairs = rows.merge(plain, on=["image", *KEY], suffixes=("", "_plain"), validate="many_to_one")
    return pairs.assign(**{name: pairs[name] - pairs[f"{name}_plain"] for name in METRICS})


def _rows(tables: Tables, setups: Sequence[str], used: Iterable[Condition], together: Sequence[str]) -> pd.DataFrame:
    """The rows of some conditions, those alike in the columns `together` with one budget."""
    # Of the budgets that all of them have, the one with the most images (no more than N count), then the most steps.
    parts = [tables[name].assign(own=name == "paper_sweep") for name in TABLES if name in tables]
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


def _finding(
    tables: Tables, core: Core, used: Iterable[Condition], sentence: Callable[[pd.DataFrame], str],
    together: Sequence[str], means: Iterable[tuple[str, str, float, str]], *, per_method: bool = False,
) -> Finding:  # fmt: skip
    """Judge photographs by `core`, and compare the means that were published."""
    used, means = list(used), list(means)
    rows = _rows(tables, (IMAGENET,), used, together)
    if rows.empty:
        return Finding()
    measures, doubts = core(rows, IMAGENET), _doubts(tables, rows, core, used, together)
    tested = [TITLES[name] for name in METHODS if any(TITLES[name] in measure.name for measure in measures)]
    if per_method and len(tested) < len(METHODS):
        doubts.append(f"only with {' and '.join(tested)}")
    agreeing = _rows(tables, (IMAGENET,), [(method, attack, epsilon) for method, attack, epsilon, _ in means], KEY)
    return Finding(
        measures,
        _equality(agreeing, tables["published"], means),
        doubts,
        _means(_many(rows)),
        sentence(rows) if min(measure.n for measure in measures) else "",
        setting=_setting(rows if min(measure.n for measure in measures) < N else _many(rows)),
        enough=_enough(tables, rows),
    )


def _column(rows: pd.DataFrame, metric: str, method: str, attack: str, epsilon: float) -> Any:
    return _paired(rows, metric, [(method, attack, epsilon)])[0]


def _paired(rows: pd.DataFrame, metric: str, conditions: Sequence[Condition]) -> Any:
    return paired(rows, metric, KEY, conditions)


def _strongest(rows: pd.DataFrame, metric: str, epsilon: float) -> list[Any]:
    """What every method keeps under the attack that leaves it least; shifts are negative."""
    sign = -1 if metric == SHIFT else 1
    values = sign * _paired(rows, metric, [(*key, epsilon) for key in product(METHODS, ATTACKS)])
    parts = values.reshape(len(METHODS), len(ATTACKS), -1)
    return [part[part.mean(1).argmin()] if part.size else part[0] for part in parts]


def _noise(rows: pd.DataFrame, method: str, epsilon: float) -> str:
    """The walk, which the published noise is, where there are enough images of it."""
    walked = rows.query("method == @method and attack == 'random_walk' and epsilon == @epsilon")
    return "random_walk" if len(walked) >= N else "random"


def _equality(rows: pd.DataFrame, published: pd.DataFrame, means: Iterable[tuple[str, str, float, str]]) -> Equality:
    """Count the published means that ours agree with, of those for which there are enough images."""
    theirs = published.set_index([*KEY, "metric"])["value"]
    inside = total = 0
    for method, attack, epsilon, metric in means:
        samples = _column(rows, f"release_{metric}", method, attack, epsilon) if len(rows) else ()
        mean = theirs.get((method, "random" if attack == "random_walk" else attack, epsilon, metric))
        if len(samples) < N or mean is None:
            continue
        margin = max(SHIFT_MARGIN[0], SHIFT_MARGIN[1] * mean) if metric == SHIFT else AGREEMENT_MARGIN
        total += 1
        inside += equivalent(samples, mean, margin)
    return Equality(inside, total)


def _enough(tables: Tables, rows: pd.DataFrame) -> bool:
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


def _many(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the conditions with enough images, if there is an attack among them; else all."""
    many = rows[rows.groupby("cell")["image"].transform("size") >= N]
    return rows if many.attack.isin(NOISES).all() else many


def _setting(rows: pd.DataFrame) -> Setting:
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


def _means(rows: pd.DataFrame) -> list[str]:
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


def _doubts(
    tables: Tables, rows: pd.DataFrame, core: Core, used: Sequence[Condition], together: Sequence[str]
) -> list[str]:
    """The sensitivity analyses, labels kept only and the other pooling: does a mean change sides?"""
    (setup,) = rows.setup.unique()
    measures, doubts = core(rows, setup), _few_kept(rows, used)
    others = {"with kept labels only": (rows[rows.labels_kept], setup, 2)}
    if setup == IMAGENET:
        others["with the other pooling"] = (_rows(tables, (CEIL,), used, together), CEIL, SENSITIVITY_N)
    for name, (some, other_setup, least) in others.items():
        again = {part.name: part for part in core(some, other_setup) if part.n >= least} if len(some) else {}
        if any(part.holds and part.name in again and not again[part.name].right for part in measures):
            doubts.append(f"otherwise {name}")
    return doubts


def _few_kept(rows: pd.DataFrame, used: Iterable[Condition]) -> list[str]:
    """Whether too few labels were kept under one of the conditions."""
    least = rows.groupby(KEY)["labels_kept"].mean().reindex(pd.MultiIndex.from_tuples(used)).min()
    return [f"few labels kept ({least:.0%})"] if least < KEPT else []


def _tested(rows: pd.DataFrame, setup: str, *epsilons: float) -> list[str]:
    """The methods with enough attacked images at some sizes; the first one if there are none."""
    count = rows.groupby(KEY).size()
    least = SENSITIVITY_N if setup == CEIL else N
    cells = {method: [(method, *key) for key in product(ATTACKS, epsilons or (SMALL, LARGE))] for method in METHODS}
    fewest = {method: count.reindex(cells).min(skipna=False) for method, cells in cells.items()}
    return [method for method, n in fewest.items() if n >= least] or [METHODS[0]]


def _diagonal(setup: str) -> float:
    return float(SIDES[setup] * 2**0.5)


def _beyond_chance(rows: pd.DataFrame, setup: str, method: str, attack: str, epsilon: float) -> Any:
    """The intersection beyond what two unrelated maps have, K / N."""
    chance = rows["k"].min() / SIDES[setup] ** 2
    return (_column(rows, "top_k_intersection", method, attack, epsilon) - chance) / (1 - chance)


def _mean(samples: Any) -> float:
    return float(np.mean(samples)) if len(samples) else float("nan")


def _hundred(share: float) -> str:
    """A share as a count out of a hundred."""
    return f"{100 * share:.1f}" if 0 < share < 0.0095 else f"{100 * share:.0f}"
