"""Optimal rule lists for COMPAS: of everyone, and of people drawn with replacement, again and again."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fragility import train
from fragility.study.interpretable.compas import literals, people
from fragility.study.interpretable.rule_list import optimal_rule_list
from fragility.study.piece import Columns, Piece, Row, Study

COLUMNS: Columns = {
    "image": (str, "everyone, or which draw of as many people with replacement"),
    "penalty": (float, "what a rule costs, in units of the error rate"),
    "together": (int, "how many values a rule may ask for"),
    "list": (str, "the optimal list"),
    "rules": (int, "how many it has, without the default"),
    "objective": (float, "its share of errors, on the people it was made from, plus penalty times rules"),
    "gap": (float, "how much better another list may be: 0 is the certificate"),
    "prefixes": (int, "beginnings of lists that the search looked at"),
    "accuracy": (float, "among all 7,214 people"),
    "differs": (float, "share of all people about whom the next draw's list says something else"),
}


@dataclass(frozen=True, kw_only=True)
class ListProfile:
    """What is computed.

    Attributes:
        everyone: pairs of penalty and how many values a rule may ask for.
        penalties: of the draws, whose rules ask for one value.
        draws: how many, two and two of which are compared.
        seed: of the first one.
    """

    everyone: tuple[tuple[float, int], ...]
    penalties: tuple[float, ...]
    draws: int
    seed: int


_FULL = ListProfile(everyone=((0.01, 2), (0.015, 2), (0.02, 2)), penalties=(0.005, 0.01), draws=400, seed=1000)
PROFILES = {
    "fast": ListProfile(everyone=((0.015, 1),), penalties=(0.01,), draws=4, seed=1000),
    "laptop": _FULL,
    "paper": _FULL,
}
Ready = tuple[Any, str]  # the people, and the checksum of their table


def prepare(profile: ListProfile, device: str) -> tuple[Ready, dict[str, Any]]:
    """Read the stored counts."""
    table = people()
    sha256 = train.fingerprint(table.to_csv())
    return (table, sha256), {"people": sha256}


def pieces(profile: ListProfile, ready: Ready) -> Iterator[Piece]:
    """List everyone's lists, then the draws by twenties."""
    shared = {"people": ready[1]}
    for penalty, together in profile.everyone:
        yield {**shared, "images": ["everyone"], "penalty": penalty, "together": together}
    for penalty in profile.penalties:
        for first in range(0, profile.draws, 20):
            names = [f"draw {number}" for number in range(first, min(first + 20, profile.draws))]
            where = {"first": first, "images": names, "seed": profile.seed + first}
            yield {**shared, **where, "penalty": penalty, "together": 1}


def rows(piece: Piece, ready: Ready) -> list[Row]:
    """Search, and let the lists predict for everyone."""
    table, truth = ready[0], ready[0].again.to_numpy()
    rules = literals(table, together=piece["together"])
    found, predicted = [], []
    for number in range(len(piece["images"])):
        chosen = np.arange(len(table))
        if "seed" in piece:  # uniform draws only, whose stream NumPy keeps between releases
            chosen = (np.random.default_rng(piece["seed"] + number).random(len(table)) * len(table)).astype(int)
        drawn = {name: applies[chosen] for name, applies in rules.items()}
        found.append(optimal_rule_list(drawn, truth[chosen], piece["penalty"]))
        predicted.append(found[-1].predict(rules))
    pairs = zip(predicted[::2], predicted[1::2], strict=False)
    differs = [value for a, b in pairs for value in (float((a != b).mean()), None)]
    return [
        {
            "image": name,
            "list": str(one).replace("\n", "; "),
            "rules": len(one.rules),
            "objective": one.objective,
            "gap": one.gap,
            "prefixes": one.course[-1].prefixes,
            "accuracy": float((said == truth).mean()),
            "differs": other,
        }
        for name, one, said, other in zip(piece["images"], found, predicted, differs or [None], strict=True)
    ]


STUDY = Study(COLUMNS, PROFILES, prepare, pieces, rows, cost=lambda piece: 1000.0 if piece["together"] == 2 else 20.0)
