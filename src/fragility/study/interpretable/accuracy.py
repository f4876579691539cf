"""What interpretability costs in accuracy on tables: ten times tenfold cross-validation of two families of models."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from sklearn import datasets
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from fragility import train
from fragility.study.interpretable.compas import literals, people, tenfold
from fragility.study.interpretable.rule_list import optimal_rule_list
from fragility.study.piece import Piece, Row, declared

PENALTY = 0.005  # of the rule list


class _RuleList:
    """An optimal rule list on columns of zeros and ones, with scikit-learn's two methods."""

    def fit(self, x: Any, y: Any) -> "_RuleList":
        self.found = optimal_rule_list(self._rules(x), y == 1, PENALTY)
        return self

    def predict(self, x: Any) -> Any:
        return self.found.predict(self._rules(x)).astype(int)

    def _rules(self, x: Any) -> dict[str, Any]:
        return {f"{number}": column for number, column in enumerate(x.T == 1)}


MODELS: dict[str, tuple[bool, Callable[[int], Any]]] = {
    "logistic regression": (True, lambda seed: make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))),
    "tree of depth 3": (True, lambda seed: DecisionTreeClassifier(max_depth=3, random_state=seed)),
    "rule list": (True, lambda seed: _RuleList()),  # of the table whose columns are rules
    "random forest": (False, lambda seed: RandomForestClassifier(100, random_state=seed)),
    "gradient boosting": (False, lambda seed: HistGradientBoostingClassifier(max_iter=50, random_state=seed)),
}


def _compas() -> tuple[Any, Any]:
    table = people()
    return np.stack([*literals(table).values()], 1).astype(float), table.again.to_numpy().astype(int)


TABLES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "iris": lambda: datasets.load_iris(return_X_y=True),
    "wine": lambda: datasets.load_wine(return_X_y=True),
    "breast cancer": lambda: datasets.load_breast_cancer(return_X_y=True),
    "COMPAS": _compas,
    "digits": lambda: datasets.load_digits(return_X_y=True),
}
Ready = dict[str, tuple[Any, Any]]


def prepare(profile: dict[str, Any], device: str) -> tuple[Ready, dict[str, Any]]:
    """Load the tables."""
    ready = {name: TABLES[name]() for name in profile["data"]}
    return ready, {name: _checksum(x, y) for name, (x, y) in ready.items()}


def pieces(profile: dict[str, Any], ready: Ready) -> Iterator[Piece]:
    """A piece is a table and a repetition."""
    for name, (x, y) in ready.items():
        for seed in range(profile["repetitions"]):
            yield {"images": [f"repetition {seed}"], "data": name, "seed": seed, "sha256": _checksum(x, y)}


def _checksum(x: Any, y: Any) -> str:
    return train.fingerprint(torch.from_numpy(x), torch.from_numpy(y))


def rows(piece: Piece, ready: Ready) -> list[Row]:
    """Train on nine folds and test on the tenth, ten times."""
    x, y = ready[piece["data"]]
    made: list[Row] = []
    for about, rest, fold in tenfold(piece["seed"], x, y):
        for name, (interpretable, build) in MODELS.items():
            if (name == "rule list" and piece["data"] != "COMPAS") or (name[0] == "g" and piece["data"] == "digits"):
                continue  # boosting ten classes takes as long as everything else together
            right = build(piece["seed"]).fit(x[rest], y[rest]).predict(x[fold]) == y[fold]
            made.append(about | {"model": name, "interpretable": interpretable, "accuracy": float(right.mean())})
    return made


STUDY = declared(
    __file__, prepare, pieces, rows, cost=lambda piece: {"COMPAS": 5.0, "digits": 3.0}.get(piece["data"], 1.0)
)
