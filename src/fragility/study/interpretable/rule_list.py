"""The certifiably optimal rule list of Angelino et al. 2018, by branch and bound.

A rule list says: if the first rule applies, predict this; else if the second applies, predict that; else the default.
Each rule, and the default, predicts what most of the people it decides did. So a list is an order of rules, a *prefix*,
and nothing else, and an optimal one minimises

    R = errors / n + penalty * (number of rules).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fragility._checks import check_count, check_positive

Flags = npt.NDArray[np.bool_]


class Bounds(NamedTuple):
    """What the search knows after so many prefixes: the optimum lies between the two."""

    prefixes: int
    lower: float
    upper: float  # of the best list so far


@dataclass(frozen=True)
class RuleList:
    """A rule list and the proof of how good it is.

    Attributes:
        rules: names in order, each with what it predicts.
        default: what is predicted where no rule applies.
        objective: errors / n + penalty * (number of rules).
        lower: no rule list has a smaller objective.
        course: of the bounds, whenever one of them moved.
    """

    rules: tuple[tuple[str, bool], ...]
    default: bool
    objective: float
    lower: float
    course: tuple[Bounds, ...]

    @property
    def gap(self) -> float:
        """How much better another list may be: 0 proves that none is."""
        return self.objective - self.lower

    def predict(self, rules: Mapping[str, Any]) -> Flags:
        """Apply the list.

        Args:
            rules: name -> whether the rule applies to a person, (n,); all that the list uses.

        Returns:
            Predictions (n,).

        Raises:
            ValueError: if a rule of the list is missing.
        """
        columns, _ = _columns(rules, None)
        if missing := [name for name, _ in self.rules if name not in columns]:
            raise ValueError(f"rules: expected all that the list uses, {missing} are missing")
        predicted = np.full(len(next(iter(columns.values()))), self.default)
        for name, outcome in reversed(self.rules):
            predicted[columns[name]] = outcome
        return predicted

    def __str__(self) -> str:
        lines = [f"if {name}: {'yes' if outcome else 'no'}" for name, outcome in self.rules]
        return "\nelse ".join([*lines, "yes" if self.default else "no"])


def optimal_rule_list(
    rules: Mapping[str, Any], outcomes: Sequence[bool] | Flags, penalty: float, *, prefixes: int | None = None
) -> RuleList:
    """Find the rule list with the smallest objective, and prove that it is [Angelino2018].

    Sets of people are integers, a bit each: `a & b` is an intersection and `bit_count` a size. Objectives are counted
    in people, so a rule costs `penalty * n`; those that differ by less than rounding are the same.

    Args:
        rules: name -> whether the rule applies to a person, (n,).
        outcomes: what is to be predicted, (n,).
        penalty: lambda, what a rule costs in units of the error rate.
        prefixes: stop after so many, with a list that may not be optimal (`gap` says by how much); None for no limit.

    Returns:
        An optimal list: of several, the one found first.

    Raises:
        TypeError: if a rule or the outcomes are not boolean, or `prefixes` is not an integer.
        ValueError: if there are no rules or people, lengths differ, or `penalty` or `prefixes` is not positive.
    """
    columns, truth = _columns(rules, outcomes)
    check_positive("penalty", penalty)
    if prefixes is not None:
        check_count("prefixes", prefixes)
    names, sets, yes = list(columns), [_bits(column) for column in columns.values()], _bits(truth)
    cost, everyone, minority = penalty * len(truth), (1 << len(truth)) - 1, _bits(_minority(columns, truth))

    def errors_in(group: int) -> int:
        positive = (group & yes).bit_count()
        return min(positive, group.bit_count() - positive)

    best = float(errors_in(everyone))
    best_prefix: tuple[int, ...] = ()
    # A prefix with its lower bound, the price so far (errors and rules), and who is left.
    heap: list[tuple[float, int, tuple[int, ...], float, int]] = [(minority.bit_count(), 0, (), 0.0, everyone)]
    cheapest, count, lower, course = {everyone: 0.0}, 0, 0.0, list[Bounds]()
    while True:
        # Another rule costs at least `cost`, so no list that is not looked at yet beats the heap's first by more.
        lower = min(best, max(lower, heap[0][0] + cost)) if heap else best
        if not course or (lower, best) != course[-1][1:]:
            course.append(Bounds(count, lower, best))
        if lower >= best or (prefixes is not None and count >= prefixes):
            break
        _, _, prefix, price, left = heappop(heap)
        if price > cheapest[left]:
            continue  # a cheaper prefix that decides the same people has been found since
        for rule, applies in enumerate(sets):
            decided = left & applies
            wrong = errors_in(decided)
            # Support: without a rule that is right for fewer people than it costs, the list would be better.
            if decided.bit_count() - wrong < cost:
                continue
            count += 1
            longer, now, rest = (*prefix, rule), price + wrong + cost, left ^ decided
            # Permutations: whatever may follow, of prefixes that decide the same people only the cheapest can win.
            if now >= cheapest.get(rest, inf):
                continue
            cheapest[rest] = now
            if now + errors_in(rest) < best:
                best, best_prefix = now + errors_in(rest), longer
            # Equivalent points: of people for whom the same rules apply, the minority is misjudged by every list.
            bound = now + (rest & minority).bit_count()
            if bound + cost < best:
                heappush(heap, (bound, count, longer, now, rest))
    found = _name(best_prefix, names, sets, yes, everyone)
    scaled = tuple(Bounds(at, low / len(truth), high / len(truth)) for at, low, high in course)
    return RuleList(*found, scaled[-1].upper, scaled[-1].lower, scaled)


def _name(
    prefix: tuple[int, ...], names: list[str], sets: list[int], yes: int, left: int
) -> tuple[tuple[tuple[str, bool], ...], bool]:
    """Write a prefix with what its rules, and the default, predict: what most of those people did, else "no"."""
    outcomes = []
    for applies in (*(sets[rule] for rule in prefix), left):
        decided = left & applies
        outcomes.append(2 * (decided & yes).bit_count() > decided.bit_count())
        left ^= decided
    return tuple(zip((names[rule] for rule in prefix), outcomes[:-1], strict=True)), outcomes[-1]


def _bits(flags: Flags) -> int:
    return int.from_bytes(np.packbits(flags, bitorder="little").tobytes(), "little")


def _minority(columns: Mapping[str, Flags], truth: Flags) -> Flags:
    """Mark the people whose outcome is the rarer one among those for whom the same rules apply."""
    _, kind = np.unique(np.stack([*columns.values()], 1), axis=0, return_inverse=True)
    kind = kind.reshape(-1)
    rare: Flags = 2 * np.bincount(kind, truth) <= np.bincount(kind)  # "yes" is
    return np.equal(truth, rare[kind])


def _columns(rules: Mapping[str, Any], outcomes: Any) -> tuple[dict[str, Flags], Flags]:
    """Refuse anything but boolean columns of one length."""
    if not rules:
        raise ValueError("rules: expected at least one, got none")
    named = {f"rules[{name!r}]": column for name, column in rules.items()}
    if outcomes is not None:
        named["outcomes"] = outcomes
    arrays = {name: np.asarray(column) for name, column in named.items()}
    length = next(iter(arrays.values())).shape
    for name, array in arrays.items():
        if array.dtype != bool:
            raise TypeError(f"{name}: expected booleans, got {array.dtype}; compare with == 1, say")
        if array.ndim != 1 or array.size == 0 or array.shape != length:
            raise ValueError(f"{name}: expected shape (n,) with one n >= 1 for all, got {array.shape} beside {length}")
    values = list(arrays.values())
    return dict(zip(rules, values, strict=False)), values[-1]
