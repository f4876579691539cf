"""What would have to be different for a *no*: all shortest answers, and whether they outlast another training.

A counterfactual explanation of a decision is a nearby input with another decision [Wachter2018]. Binned features have
few combinations, so all of them are looked at: those of a person's sex and age whose juvenile records do not
contradict one another.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from fragility.study.interpretable.accuracy import MODELS
from fragility.study.interpretable.compas import FEATURES, People, literals, prepare_people, redraw
from fragility.study.piece import Piece, Row, declared

FIXED = ("sex", "age")
CHOSEN = ("gradient boosting", "logistic regression", "rule list")


def possible(table: pd.DataFrame) -> pd.DataFrame:
    """List all combinations of the values of a table, but for juvenile records that contradict one another."""
    values = [sorted(set(table[name])) for name in FEATURES]
    every = pd.DataFrame(product(*values), columns=list(FEATURES))
    named = (every["juvenile felonies"] == ">0") | (every["juvenile misdemeanors"] == ">0")
    return every[~named | (every["juvenile crimes"] == ">0")].reset_index(drop=True)


def shortest(cells: pd.DataFrame, says: Any, at: int) -> list[int]:
    """Find the combinations of the same sex and age with another prediction and the fewest changes.

    Args:
        cells: combinations of features.
        says: (cells,) predictions.
        at: which one is to be changed.

    Returns:
        Positions in `cells`; none if no such combination has another prediction.
    """
    differs = cells[list(FEATURES)].to_numpy() != cells.loc[at, list(FEATURES)].to_numpy()
    changes = differs.sum(1)
    fixed = differs[:, [FEATURES.index(name) for name in FIXED]].any(1)
    open_ = np.flatnonzero(~fixed & (np.asarray(says) != says[at]))
    return [] if open_.size == 0 else [int(i) for i in open_[changes[open_] == changes[open_].min()]]


def pieces(profile: dict[str, Any], ready: People) -> Iterator[Piece]:
    """A piece is a model."""
    names = [f"draw {number}" for number in range(profile["draws"])]
    shared = {**ready.inputs, "images": names, "trainings": profile["trainings"], "seed": profile["seed"]}
    return ({**shared, "model": model} for model in CHOSEN)


def rows(piece: Piece, ready: People) -> list[Row]:
    """Train, find everybody's shortest counterfactuals, and ask models of other draws of people about them."""
    table = ready.table
    cells, rules = possible(table), literals(table)
    x, y = np.stack([*rules.values()], 1).astype(float), table.again.to_numpy().astype(int)
    asked = np.stack([_applies(cells, name) for name in rules], 1).astype(float)
    says = [_train(piece["model"], x, y, asked)]
    for number in range(piece["trainings"]):
        chosen = redraw(piece["seed"] + number, len(table))
        says.append(_train(piece["model"], x[chosen], y[chosen], asked))
    position = {tuple(values): i for i, values in enumerate(cells.itertuples(index=False))}
    where = np.array([position[tuple(values)] for values in table[list(FEATURES)].itertuples(index=False)])
    flagged = where[says[0][where]]
    found = {at: shortest(cells, says[0], at) for at in set(flagged.tolist())}
    outlast = np.mean([~other for other in says[1:]], axis=0)
    made: list[Row] = []
    draws = np.random.default_rng(piece["seed"]).random(len(piece["images"]))
    for name, draw in zip(piece["images"], draws, strict=True):
        at = int(flagged[int(draw * len(flagged))])
        ways = found[at]
        changes = int((cells.loc[ways[0]] != cells.loc[at]).sum()) if ways else None
        survival = float(outlast[ways].mean()) if ways else None
        made.append({"image": name, "ways": len(ways), "changes": changes, "survival": survival})
    return made


def _applies(cells: pd.DataFrame, rule: str) -> Any:
    """Whether a rule such as "priors >3" applies to each combination."""
    name, _, value = rule.rpartition(" ")
    return (cells[name] == value).to_numpy()


def _train(name: str, x: Any, y: Any, asked: Any) -> Any:
    """Train a model and let it predict."""
    return MODELS[name][1](0).fit(x, y).predict(asked) == 1


STUDY = declared(__file__, prepare_people, pieces, rows)
