"""A scoring card: few features, whole points, and what they cost in accuracy beside logistic regression.

After FasterRisk [Liu2022]: a beam search for the features, then points instead of weights by rounding with many
multipliers and single steps. Among equals the first is taken; nothing proves that no card is better.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from fragility import train
from fragility.study.interpretable.compas import literals, people
from fragility.study.piece import Columns, Piece, Row, Study, Tolerance

Floats = npt.NDArray[np.float64]
COLUMNS: Columns = {
    "image": (str, "which repetition and fold"),
    "features": (int, "on the card, at most"),
    "card": (str, "the points, from the other nine folds"),
    "auc": (float, "the card's area under the ROC curve, on the fold"),
    "logistic_auc": (float, "that of logistic regression on all rules"),
    "boosting_auc": (float, "that of gradient boosting on all rules"),
    "test_people": (int, "rows in the fold"),
    "train_people": (int, "rows in the others"),
}


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


@dataclass(frozen=True, kw_only=True)
class CardProfile:
    """What is computed.

    Attributes:
        features: on the card, at most.
        repetitions: of the cross-validation, each with another division into ten folds.
    """

    features: int
    repetitions: int


_FULL = CardProfile(features=5, repetitions=10)
PROFILES = {"fast": CardProfile(features=2, repetitions=1), "laptop": _FULL, "paper": _FULL}
Ready = tuple[dict[str, Any], Any, str]


def prepare(profile: CardProfile, device: str) -> tuple[Ready, dict[str, Any]]:
    """Read the stored counts."""
    table = people()
    sha256 = train.fingerprint(table.to_csv())
    return (literals(table), table.again.to_numpy(), sha256), {"people": sha256}


def pieces(profile: CardProfile, ready: Ready) -> Iterator[Piece]:
    """A piece is a repetition."""
    for seed in range(profile.repetitions):
        yield {"people": ready[2], "images": [f"repetition {seed}"], "seed": seed, "features": profile.features}


def rows(piece: Piece, ready: Ready) -> list[Row]:
    """Train on nine folds and test on the tenth, ten times."""
    rules, y = ready[:2]
    x, made = np.stack([*rules.values()], 1).astype(float), []
    folds = StratifiedKFold(10, shuffle=True, random_state=piece["seed"]).split(x, y)
    for number, (rest, fold) in enumerate(folds):
        card = score_card(x[rest], y[rest], piece["features"])
        row: Row = {
            "image": f"repetition {piece['seed']}, fold {number}",
            "card": ", ".join(f"{list(rules)[j]}: {points:+d}" for j, points in card.points.items()),
            "auc": float(roc_auc_score(y[fold], card.score(x[fold]))),
            "test_people": len(fold),
            "train_people": len(rest),
        }
        boosting = HistGradientBoostingClassifier(max_iter=50, random_state=piece["seed"])
        for name, model in (("logistic", LogisticRegression(max_iter=2000)), ("boosting", boosting)):
            risk = model.fit(x[rest], y[rest]).predict_proba(x[fold])[:, 1]
            row[f"{name}_auc"] = float(roc_auc_score(y[fold], risk))
        made.append(row)
    return made


STUDY = Study(COLUMNS, PROFILES, prepare, pieces, rows, tolerance=Tolerance(within={"boosting_auc": 0.01}))
