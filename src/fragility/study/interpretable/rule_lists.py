"""Optimal rule lists for COMPAS: of everyone, and of people drawn with replacement, again and again."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from fragility.study.interpretable.compas import People, literals, prepare_people, redraw
from fragility.study.interpretable.rule_list import optimal_rule_list
from fragility.study.piece import Piece, Row, declared


def pieces(profile: dict[str, Any], ready: People) -> Iterator[Piece]:
    """List everyone's lists, then the draws by twenties."""
    for penalty, together in profile["everyone"]:
        yield {**ready.inputs, "images": ["everyone"], "penalty": penalty, "together": together}
    for penalty in profile["penalties"]:
        for first in range(0, profile["draws"], 20):
            names = [f"draw {number}" for number in range(first, min(first + 20, profile["draws"]))]
            where = {"first": first, "images": names, "seed": profile["seed"] + first}
            yield {**ready.inputs, **where, "penalty": penalty, "together": 1}


def rows(piece: Piece, ready: People) -> list[Row]:
    """Search, and let the lists predict for everyone."""
    table, truth = ready.table, ready.table.again.to_numpy()
    rules = literals(table, together=piece["together"])
    found, predicted = [], []
    for number in range(len(piece["images"])):
        chosen = redraw(piece["seed"] + number, len(table)) if "seed" in piece else np.arange(len(table))
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


STUDY = declared(__file__, prepare_people, pieces, rows, cost=lambda piece: 1000.0 if piece["together"] == 2 else 20.0)
