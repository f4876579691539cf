"""Two-year recidivism in Broward County as a table of counts: no person in it, and small enough to come with the book.

ProPublica collected the records of 7,214 people who were scored by COMPAS in 2013 and 2014 [LarsonMattuKirchner2016].
A cell is a combination of the seven features that Angelino et al. 2018 read, binned as in their code; race is none of
them.
"""

from collections.abc import Iterator
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold

from fragility import train
from fragility.data.sources import compas_file, ensure, find
from fragility.study.interpretable.rule_list import Flags
from fragility.study.piece import Piece, Row, declared
from fragility.study.store import stored

FEATURES = ("sex", "age", "juvenile felonies", "juvenile misdemeanors", "juvenile crimes", "priors", "charge")


def read_file() -> pd.DataFrame:
    """Read the public file, downloading and verifying it first; OSError if it is damaged or cannot be had."""
    ensure("compas")
    find("compas").check()
    return pd.read_csv(compas_file())


def binned(file: pd.DataFrame) -> pd.DataFrame:
    """Cut the features into the bins of CORELS' code."""
    juvenile = file[["juv_fel_count", "juv_misd_count", "juv_other_count"]]
    some = np.array(["=0", ">0"])
    return pd.DataFrame(
        {
            "sex": file.sex,
            "age": pd.cut(file.age, [0, 20, 22, 25, 45, 200], labels=["18-20", "21-22", "23-25", "26-45", ">45"]),
            "juvenile felonies": some[(juvenile.juv_fel_count > 0).astype(int)],
            "juvenile misdemeanors": some[(juvenile.juv_misd_count > 0).astype(int)],
            "juvenile crimes": some[(juvenile.sum(axis=1) > 0).astype(int)],
            "priors": pd.cut(file.priors_count, [-1, 0, 1, 3, 1000], labels=["=0", "=1", "2-3", ">3"]),
            "charge": file.c_charge_degree.map({"F": "Felony", "M": "Misdemeanor"}),
        }
    ).astype(str)


def prepare(profile: dict[str, Any], device: str) -> tuple[Any, dict[str, Any]]:
    """Read the file."""
    return read_file(), {"compas": dict(find("compas").checksums)}


def pieces(profile: dict[str, Any], file: pd.DataFrame) -> Iterator[Piece]:
    """One piece: the file, named by its checksum."""
    yield {"images": list(find("compas").checksums), "sha256": list(find("compas").checksums.values())}


def rows(piece: Piece, file: pd.DataFrame) -> list[Row]:
    """Count the people of every cell."""
    high = file.decile_score >= 5
    again = file.two_year_recid == 1
    counted = binned(file).assign(people=1, again=again, high=high, high_again=high & again)
    cells = counted.groupby(list(FEATURES), as_index=False)[["people", "again", "high", "high_again"]].sum()
    named = cells.assign(image=[f"cell {number}" for number in range(len(cells))])
    return [{name: kind(row[name]) for name, (kind, _) in STUDY.columns.items()} for row in named.to_dict("records")]


STUDY = declared(__file__, prepare, pieces, rows)


def people(cells: pd.DataFrame | None = None) -> pd.DataFrame:
    """Unfold the table of counts into a row per count, which is nobody's record.

    Args:
        cells: of the study's columns; None for the stored ones.

    Returns:
        (7214 rows) the features; `again`, and `high` (COMPAS's own prediction), true or false.
    """
    cells = stored("compas-laptop") if cells is None else cells
    kinds = []
    for high, again in ((True, True), (True, False), (False, True), (False, False)):
        of_high = cells.high if high else cells.people - cells.high
        of_both = cells.high_again if high else cells.again - cells.high_again
        count = of_both if again else of_high - of_both
        kinds.append(cells.loc[cells.index.repeat(count), list(FEATURES)].assign(again=again, high=high))
    return pd.concat(kinds, ignore_index=True)


class People(NamedTuple):
    """Everybody, and the checksum of their table."""

    table: pd.DataFrame
    inputs: dict[str, str]


def prepare_people(profile: dict[str, Any], device: str) -> tuple[People, dict[str, Any]]:
    """Read the stored counts, for a study of these people."""
    table = people()
    inputs = {"people": train.fingerprint(table.to_csv())}
    return People(table, inputs), inputs


def redraw(seed: int, count: int) -> Any:
    """Draw as many positions as there are, with replacement, by uniform numbers: NumPy keeps their stream."""
    return (np.random.default_rng(seed).random(count) * count).astype(int)


def tenfold(seed: int, x: Any, y: Any) -> Iterator[tuple[Row, Any, Any]]:
    """Divide into ten folds: for each the columns that every row has, the rows of the other nine, and its own."""
    folds = StratifiedKFold(10, shuffle=True, random_state=seed).split(x, y)
    for number, (rest, fold) in enumerate(folds):
        sizes = {"test_people": len(fold), "train_people": len(rest)}
        yield {"image": f"repetition {seed}, fold {number}", **sizes}, rest, fold


def literals(table: pd.DataFrame, *, together: int = 1, support: float = 0.005) -> dict[str, Flags]:
    """List the rules "a feature has a value", or two of them.

    Args:
        table: with columns `FEATURES`.
        together: how many of them a rule may ask for, 1 or 2.
        support: share of people; rules that apply to no more, or to all but no more, are left out.

    Returns:
        Name -> whether the rule applies to a person (n,).
    """
    single = {
        (name, value): (table[name] == value).to_numpy() for name in FEATURES for value in sorted(set(table[name]))
    }
    rules = {f"{name} {value}": applies for (name, value), applies in single.items()}
    if together == 2:
        for a, b in combinations(single, 2):
            if a[0] != b[0]:
                rules[f"{' '.join(a)} and {' '.join(b)}"] = single[a] & single[b]
    return {name: applies for name, applies in rules.items() if support < applies.mean() < 1 - support}
