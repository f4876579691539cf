"""A scoring card: few features, whole points, and what they cost in accuracy beside logistic regression.

After FasterRisk [Liu2022]: a beam search for the features, then points instead of weights by rounding with many
multipliers and single steps. Among equals the first is taken; nothing proves that no card is better.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from fragility.study.interpretable.compas import People, literals, prepare_people, tenfold
from fragility.study.piece import Piece, Row, declared

Floats = npt.NDArray[np.float64]


class Card(NamedTuple):
    """Points for features: the risk is 1 / (1 + exp(-(scale * points + shift)))."""

    points: dict[int, int]  # column -> points
    scale: float
    shift: float
    loss: float  # mean logistic loss where it was made

    def score(self, x: Any) -> npt.NDArray[np.int64]:
        """Add up the points (n,) of rows (n, d) of zeros and ones."""
        return np.asarray(x)[:, list(self.points)].astype(np.int64) @ np.array(list(self.points.values()), np.int64)


def fit(x: Floats, yes: Floats, size: Floats) -> tuple[float, Floats]:
    """Logistic regression with an intercept, by Newton's method, on kinds of people.

    Args:
        x: (kinds, d).
        yes: (kinds,) how many had the outcome.
        size: (kinds,) of how many.

    Returns:
        The mean logistic loss, and the weights with the intercept last. A ridge of a millionth keeps them finite.
    """
    z, w = np.column_stack([x, np.ones(len(x))]), np.zeros(x.shape[1] + 1)
    loss = np.inf
    for _ in range(50):
        margin = z @ w
        before, loss = loss, float(size @ np.logaddexp(0, margin) - yes @ margin) / size.sum()
        if before - loss < 1e-10:
            break
        risk = 1 / (1 + np.exp(-margin))
        hessian = (z * (size * risk * (1 - risk))[:, None]).T @ z / size.sum() + 1e-6 * np.eye(len(w))
        w += np.linalg.solve(hessian, z.T @ (yes - size * risk) / size.sum() - 1e-6 * w)
    return loss, w


def score_card(x: Any, y: Any, features: int = 5, *, most: int = 5, beam: int = 5) -> Card:
    """Make a card of at most so many features, with points from -`most` to `most`.

    Args:
        x: (n, d) of zeros and ones.
        y: (n,) outcomes.
        features: on the card.
        most: points of a feature.
        beam: how many sets of features are kept at every size.

    Returns:
        The card with the smallest logistic loss that was found.
    """
    kinds, kind = np.unique(np.asarray(x, float), axis=0, return_inverse=True)
    size = np.bincount(kind.reshape(-1)).astype(float)
    yes = np.bincount(kind.reshape(-1), np.asarray(y, float)).astype(float)
    kept: list[tuple[int, ...]] = [()]
    for _ in range(features):
        wider = {tuple(sorted({*some, j})) for some in kept for j in range(kinds.shape[1]) if j not in some}
        kept = sorted(wider, key=lambda some: fit(kinds[:, list(some)], yes, size)[0])[:beam]
    cards = [_rounded(some, kinds, yes, size, most) for some in kept]
    return min(cards, key=lambda card: card.loss)


def _rounded(some: tuple[int, ...], kinds: Floats, yes: Floats, size: Floats, most: int) -> Card:
    """Round the weights of some features after stretching them, the best of many ways, and improve by single points."""
    x = kinds[:, list(some)]
    weights = fit(x, yes, size)[1][:-1]

    def loss(points: Floats) -> float:
        return fit((x @ points)[:, None], yes, size)[0]

    stretched = (np.round(weights * top / np.abs(weights).max()) for top in np.linspace(1, most, 8 * (most - 1) + 1))
    points = min(stretched, key=loss)
    while True:
        steps = [points + sign * step for step in np.eye(len(points)) for sign in (-1, 1)]
        best = min((step for step in steps if np.abs(step).max() <= most), key=loss)
        if loss(best) >= loss(points):
            break
        points = best
    value, (scale, shift) = fit((x @ points)[:, None], yes, size)
    return Card({j: int(p) for j, p in zip(some, points, strict=True) if p}, float(scale), float(shift), value)


def pieces(profile: dict[str, Any], ready: People) -> Iterator[Piece]:
    """A piece is a repetition."""
    for seed in range(profile["repetitions"]):
        yield {**ready.inputs, "images": [f"repetition {seed}"], "seed": seed, "features": profile["features"]}


def rows(piece: Piece, ready: People) -> list[Row]:
    """Train on nine folds and test on the tenth, ten times."""
    rules, y, made = literals(ready.table), ready.table.again.to_numpy(), []
    x = np.stack([*rules.values()], 1).astype(float)
    for about, rest, fold in tenfold(piece["seed"], x, y):
        card = score_card(x[rest], y[rest], piece["features"])
        named = ", ".join(f"{list(rules)[j]}: {points:+d}" for j, points in card.points.items())
        row = about | {"card": named, "auc": float(roc_auc_score(y[fold], card.score(x[fold])))}
        boosting = HistGradientBoostingClassifier(max_iter=50, random_state=piece["seed"])
        for name, model in (("logistic", LogisticRegression(max_iter=2000)), ("boosting", boosting)):
            risk = model.fit(x[rest], y[rest]).predict_proba(x[fold])[:, 1]
            row[f"{name}_auc"] = float(roc_auc_score(y[fold], risk))
        made.append(row)
    return made


STUDY = declared(__file__, prepare_people, pieces, rows)
