"""A model that decides by race, and shows another one to LIME: the scaffold of [Slack2020], on COMPAS's file."""

from collections.abc import Callable, Iterator
from itertools import combinations
from math import factorial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import RandomForestClassifier

from fragility.data.sources import compas_file, ensure, find
from fragility.study.piece import Piece, Row, declared

Floats = npt.NDArray[np.float64]
Score = Callable[[Floats], Floats]  # rows (n, d) to scores (n,)
NAMES = ("age", "priors", "juvenile felonies", "juvenile misdemeanors", "juvenile others", "sex", "charge", "race")
NOISE = 0.3  # standard deviation of LIME's neighbours, in every column


def biased(x: Floats) -> Floats:
    """Decide by race, the last column."""
    return (x[:, -1] > 0.5).astype(float)


def innocent(x: Floats) -> Floats:
    """Decide by the degree of the charge, the last column but one."""
    return (x[:, -2] > 0.5).astype(float)


class Scaffold(NamedTuple):
    """A model that decides by one rule for rows that look real and by another for the others."""

    detector: RandomForestClassifier
    real: Score
    else_: Score

    def __call__(self, x: Floats) -> Floats:
        """Score rows."""
        return np.where(self.detector.predict(x) == 1, self.real(x), self.else_(x))


def detector(x: Floats, seed: int, copies: int = 30) -> RandomForestClassifier:
    """Learn to tell rows from rows with noise, as LIME makes them."""
    noisy = np.repeat(x, copies, axis=0)
    noisy = noisy + NOISE * np.random.default_rng(seed).standard_normal(noisy.shape)
    forest = RandomForestClassifier(100, min_samples_leaf=2, class_weight="balanced", random_state=seed)
    forest.fit(np.concatenate([x, noisy]), np.repeat([1, 0], [len(x), len(noisy)]))
    return forest


def lime(score: Score, row: Floats, seed: int, samples: int = 1000) -> Floats:
    """Fit a line to the score among neighbours, near ones counting more [Ribeiro2016]; return its slopes (d,)."""
    moves = NOISE * np.random.default_rng(seed).standard_normal((samples, len(row)))
    near = np.exp(-np.square(moves).mean(1) / (4 * NOISE**2))[:, None]
    line = np.column_stack([moves, np.ones(samples)])
    slopes: Floats = np.linalg.lstsq(near * line, near[:, 0] * score(row + moves), rcond=None)[0][:-1]
    return slopes


def shapley(score: Score, row: Floats, background: Floats) -> Floats:
    """Compute Shapley values (d,) exactly: a feature that is absent takes the values of background rows (m, d)."""
    d = len(row)
    sets = [frozenset(some) for size in range(d + 1) for some in combinations(range(d), size)]
    present = np.array([[j in some for j in range(d)] for some in sets])
    points = np.where(present[:, None], row, background).reshape(-1, d)
    kinds, kind = np.unique(points, axis=0, return_inverse=True)  # most hybrids are the same
    worth = dict(zip(sets, score(kinds)[kind.reshape(-1)].reshape(len(sets), -1).mean(1), strict=True))
    weight = [factorial(size) * factorial(d - size - 1) / factorial(d) for size in range(d)]
    return np.array([sum(weight[len(s)] * (worth[s | {j}] - worth[s]) for s in sets if j not in s) for j in range(d)])


def table() -> Floats:
    """Read the public file: eight columns, counts in units of their standard deviation, the others 0 or 1."""
    import pandas as pd

    ensure("compas")
    find("compas").check()
    file = pd.read_csv(compas_file())
    counts = file[["age", "priors_count", "juv_fel_count", "juv_misd_count", "juv_other_count"]].to_numpy(dtype=float)
    flags = (file.sex == "Male", file.c_charge_degree == "F", file.race == "African-American")
    return np.column_stack([counts / counts.std(0), *flags]).astype(float)


def prepare(profile: dict[str, Any], device: str) -> tuple[Floats, dict[str, Any]]:
    """Read the file."""
    return table(), {"compas": dict(find("compas").checksums)}


def pieces(profile: dict[str, Any], x: Floats) -> Iterator[Piece]:
    """A piece is a seed."""
    for seed in range(profile["first_seed"], profile["first_seed"] + profile["seeds"]):
        names = [f"seed {seed}, row {number}" for number in range(profile["explained"])]
        yield {**profile, "images": names, "seed": seed, "sha256": list(find("compas").checksums.values())}


def rows(piece: Piece, x: Floats) -> list[Row]:
    """Train a detector on some rows, and explain others."""
    seed, order = piece["seed"], np.random.default_rng(piece["seed"]).random(len(x)).argsort()
    known, held, background = x[order[: piece["known"]]], x[order[-1500:]], x[order[-1510:-1500]]
    scaffold = Scaffold(detector(known, seed), biased, innocent)
    fidelity, made = float((scaffold(held) == biased(held)).mean()), list[Row]()
    for number, name in enumerate(piece["images"]):
        row: Row = {"image": name, "fidelity": fidelity}
        models: dict[str, Any] = {"biased": biased, "scaffold": scaffold}
        for model, score in models.items():
            for method, found in (
                ("lime", lime(score, held[number], 1000 * seed + number)),
                ("shapley", shapley(score, held[number], background)),
            ):
                row[f"{method}_{model}"] = NAMES[int(np.abs(found).argmax())]
        made.append(row)
    return made


STUDY = declared(__file__, prepare, pieces, rows)
