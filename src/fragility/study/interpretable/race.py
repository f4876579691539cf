"""The race term in a linear explanation of COMPAS's decile, and what becomes of it with flexible terms.

ProPublica explained the score by a regression on race, age, earlier offences and more [LarsonMattuKirchner2016]; ours
is a simpler one. Where an explanation gets the dependence on age wrong, race can stand in for the rest [Rudin2019].
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from fragility.data.sources import find
from fragility.study.interpretable.compas import read_file, redraw
from fragility.study.piece import Piece, Row, declared

OLDEST, MOST = 65, 20  # the last bins: this old or older, that many or more


def prepare(profile: dict[str, Any], device: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read the file; this regression looks at two groups."""
    file = read_file()
    chosen = file[file.race.isin(["African-American", "Caucasian"])]
    return chosen.reset_index(drop=True), {"compas": dict(find("compas").checksums)}


def pieces(profile: dict[str, Any], file: pd.DataFrame) -> Iterator[Piece]:
    """Everyone, then the draws by fifties."""
    shared = {"sha256": list(find("compas").checksums.values())}
    yield {**shared, "images": ["everyone"]}
    for first in range(0, profile["draws"], 50):
        names = [f"draw {number}" for number in range(first, min(first + 50, profile["draws"]))]
        yield {**shared, "first": first, "images": names, "seed": profile["seed"] + first}


def rows(piece: Piece, file: pd.DataFrame) -> list[Row]:
    """Fit the three regressions."""
    made: list[Row] = []
    for number, name in enumerate(piece["images"]):
        table = file.iloc[redraw(piece["seed"] + number, len(file))] if "seed" in piece else file
        made.append({"image": name, "people": len(table), **coefficients(table)})
    return made


def coefficients(table: pd.DataFrame) -> dict[str, float]:
    """Regress the decile on race, with nothing else, with linear terms and with bins."""
    race = (table.race == "African-American").to_numpy(dtype=float)
    bins = [
        np.equal.outer(column.clip(upper=last).to_numpy(), np.arange(first, last + 1))
        for column, first, last in ((table.age, 19, OLDEST), (table.priors_count, 1, MOST))
    ]
    beside = {"alone": [], "linear": [table.age, table.priors_count], "binned": bins}
    decile, ones = table.decile_score.to_numpy(dtype=float), np.ones(len(table))
    return {
        name: float(np.linalg.lstsq(np.column_stack([race, ones, *terms]).astype(float), decile, rcond=None)[0][0])
        for name, terms in beside.items()
    }


STUDY = declared(__file__, prepare, pieces, rows)
