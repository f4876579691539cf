"""The rules of the claims about defenses."""

from collections.abc import Iterable, Sequence

from fragility.study.defenses import defense_table
from fragility.study.evidence import Finding, Results, at_least, at_most, paired, positive
from fragility.study.piece import Row

TABLES = {"MNIST": "defense_table", "Fashion-MNIST": "fashion_table"}
ATTACKED, SEEDS = 500, 5  # images of a seed, and seeds
COST = 0.02  # of accuracy, what counts as small, and within which two accuracies match
ENOUGH = 0.01  # by how much doubling an attack's budget may move a mean


def _budget(rows: Sequence[Row]) -> list[str]:
    """Whether the attack behind a table of defenses was shown to be strong enough: doubling it must change little."""
    change = defense_table.moved(rows)
    if not rows or change < ENOUGH:
        return []
    if change != change:
        return ["that the attack's budget is enough has not been shown: twice as much has not been tried"]
    return [f"the attack's budget is not shown to be enough: its last doubling moved a mean by {change:.3f}"]


def _tables(results: Results) -> Sequence[tuple[str, Sequence[Row], str]]:
    """The tables of defenses that are stored, if possible those with enough seeds: name of the data, rows, file."""
    found = [(data, *results.rows(study)) for data, study in TABLES.items()]
    stored = [(data, rows, where) for data, rows, where in found if rows]
    enough = [one for one in stored if min(map(len, _defenses(one[1]).values()), default=0) >= SEEDS]
    return enough or stored


def robust_attributions(results: Results) -> Finding:
    """D2: IG-NORM and IG-SUM-NORM beat natural and adversarial training at a cost of at most 2 points, per data set.

    Args:
        results: stored.

    Returns:
        What they say.
    """
    measures, doubts = [], []
    tables = _tables(results)
    for data, rows, _ in tables:
        table = _defenses(rows)
        for name in ("ig_norm", "ig_sum_norm"):
            for other in ("natural", "adversarial"):
                for metric, shown in (("top_k_intersection", "top-k intersection"), ("kendall", "Kendall's tau")):
                    ours, theirs = paired([table.get(name, {}), table.get(other, {})], metric)
                    measures.append(positive(f"{data}, {shown}: {name} less {other}", ours - theirs))
            ours, theirs = paired([table.get(name, {}), table.get("natural", {})], "natural_accuracy")
            measures.append(at_most(f"{data}, accuracy lost by {name}", theirs - ours, COST))
        doubts += [f"{data}: {doubt}" for doubt in _budget(rows)]
    return Finding(measures, doubts=doubts, where=", ".join(where for _, _, where in tables))


def discretised_or_smooth(results: Results) -> Finding:
    """D6: discretised inputs or a softplus raise the intersection by .05 under the adaptive attack, accuracy matched.

    Args:
        results: stored.

    Returns:
        What they say.
    """
    measures, doubts = [], []
    tables = _tables(results)
    for data, rows, _ in tables:
        table = _defenses(rows)
        for name in ("discretized", "softplus"):
            pair = [table.get(name, {}), table.get("natural", {})]
            ours, theirs = paired(pair, "top_k_intersection")
            measures.append(at_least(f"{data}, top-k intersection: {name} less natural", ours - theirs, 0.05))
            ours, theirs = paired(pair, "natural_accuracy")
            measures.append(
                at_most(f"{data}, accuracies of {name} and natural, difference", (ours - theirs).abs(), COST)
            )
        doubts += [f"{data}: {doubt}" for doubt in _budget(rows)]
    return Finding(measures, doubts=doubts, where=", ".join(where for _, _, where in tables))


def _defenses(rows: Iterable[Row]) -> dict[str, dict[object, Row]]:
    """Rows of one budget and enough images, by defense and seed."""
    table: dict[str, dict[object, Row]] = {}
    for row in rows:
        if row["budget"] == 1 and int(row["images"] or 0) >= ATTACKED:
            table.setdefault(str(row["defense"]), {})[row["seed"]] = row
    return table
