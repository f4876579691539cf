"""The attacks with the paper's own budget: P = 300 steps of 0.5 [Ghorbani2019, Fig. 2 and 3].

Every row judges one trajectory twice: by the iterate that Algorithm 1 returns, the one with the largest D among those
that keep the prediction, and by the one that the released code returns, the *first* with the least top-k intersection.
It also shows how the choice by D improved over the steps, and how much of the map remains if its pixels may move a
little [Kamath2024].
"""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from fragility.iterate import BestIterate, Iterate, Judge
from fragility.objective import Objective
from fragility.similarity import neighborhood_recall, top_k_intersection, top_k_mask
from fragility.study.attacks.setup import Subject
from fragility.study.attacks.sweep import (
    SweepProfile,
    Trial,
    conditions,
    cost,
    declared_sweeps,
    explained,
    metrics,
    prepare_sweeps,
)
from fragility.study.piece import Piece, Row, declared, generator
from fragility.titles import METRICS

RADII = (1, 2, 3)
CHECKPOINTS = (1, 2, 3, 6, 10, 16, 20, 30, 40, 60, 80, 100, 150, 200, 300, 450, 600)
COURSE = ("objective", "intersection", "spearman", "shift")
CHOICES = {"": "the largest D", "release_": "the release's"}


def pieces(profile: SweepProfile, subjects: Mapping[str, Subject]) -> Iterator[Piece]:
    """Name every condition."""
    return (piece | {"schedule": sweep.schedule} for sweep, piece in conditions(profile, subjects))


def courses(stored: pd.DataFrame) -> pd.DataFrame:
    """Spread stored courses: a line for each image and number of steps, the metrics in columns."""
    names = dict(zip(COURSE[1:], METRICS, strict=True))
    written = ["course_steps", *(f"course_{name}" for name in names)]
    spread = stored[stored.course_steps != ""][["image", "method", "attack", *written]]
    spread = spread.assign(**{name: spread[name].str.split() for name in written}).explode(written)
    spread = spread.rename(columns={"course_steps": "steps"} | {f"course_{old}": new for old, new in names.items()})
    return spread.astype({"steps": int} | dict.fromkeys(METRICS, float))


def by_choice(stored: pd.DataFrame) -> pd.DataFrame:
    """Spread the two choices of the iterate: a line for each, named in the column `choice`."""
    kept = ["image", "method", "attack", "epsilon"]
    chosen = [name for name in STUDY.columns if f"release_{name}" in STUDY.columns]
    tables = [
        stored[kept + [prefix + name for name in chosen]]
        .rename(columns={prefix + name: name for name in chosen})
        .assign(choice=choice)
        for prefix, choice in CHOICES.items()
    ]
    return pd.concat(tables, ignore_index=True)


def rows(piece: Piece, subjects: Mapping[str, Subject]) -> list[Row]:
    """Attack once, choose twice, and measure."""
    trial = Trial(piece, subjects)
    attribution = explained(piece, trial.subject, "attack")
    judge = Judge(trial.subject.model, trial.images, trial.labels, attribution)
    release, course = BestIterate(trial.images, judge.confidence), _Course(trial.aim, judge.reference, piece["k"])

    def watch(seen: Iterate) -> None:
        lost = -top_k_intersection(seen.maps, judge.reference, piece["k"])
        release.offer(seen.number, seen.images, lost, seen.confidence, seen.kept)
        if piece["attack"] != "random":
            course.watch(seen, last=piece["iterations"])

    found = trial.run(watch)
    before = trial.maps(trial.images)
    columns: dict[str, Any] = {"zeros_before": _zeros(before), **course.columns(len(before))}
    for prefix, choice in zip(CHOICES, (found, release.perturbation()), strict=True):
        after = trial.maps(choice.images)
        value = trial.aim(after, before)
        chosen = {
            **_measure(piece, before, after),
            "iteration": choice.iteration,
            "confidence_after": choice.confidence_after,
            "objective": value,
            "gain": value - trial.aim(before, before),
        }
        columns |= {prefix + name: column for name, column in chosen.items()}
    return trial.rows(found, **columns)


class _Course:
    """The metrics of the best iterate by D, over the steps."""

    def __init__(self, aim: Objective, reference: Tensor, k: int) -> None:
        self._aim, self._reference, self._k = aim, reference, k
        self._value, self._maps = torch.full((len(reference),), float("nan")).to(reference), reference
        self._steps: list[int] = []
        self._table: dict[str, list[Tensor]] = {name: [] for name in COURSE}

    def watch(self, seen: Iterate, *, last: int) -> None:
        """Follow the best iterate, and record its metrics at the checkpoints."""
        value = self._aim(seen.maps, self._reference)
        better = seen.kept & ~(value <= self._value)
        self._value = torch.where(better, value, self._value)
        self._maps = seen.maps.where(better.view(-1, 1, 1), self._maps)
        if seen.number in CHECKPOINTS or seen.number == last:
            self._steps.append(seen.number)
            columns = (self._value, *metrics(self._reference, self._maps, self._k).values())
            for listed, column in zip(self._table.values(), columns, strict=True):
                listed.append(column)

    def columns(self, count: int) -> dict[str, Any]:
        """Write the course of every image as texts."""
        texts = {
            f"course_{name}": [" ".join(f"{float(at[image]):.5g}" for at in values) for image in range(count)]
            for name, values in self._table.items()
        }
        return {"course_steps": " ".join(map(str, self._steps)), **texts}


def _measure(piece: Piece, before: Tensor, after: Tensor) -> dict[str, Tensor]:
    """Compute all metrics of maps against those of the original images, by column."""
    k, other = piece["k"], before.roll(1, 0)
    draws = generator(piece["seed"], "ties", *piece["images"])
    ties = (_random_top_k(before, k, draws) & _random_top_k(after, k, draws)).flatten(1).sum(1).double() / k
    return {
        **metrics(before, after, k),
        "random_ties_intersection": ties,
        **{f"recall_{w}": neighborhood_recall(before, after, k, radius=w) for w in RADII},
        **{f"precision_{w}": neighborhood_recall(after, before, k, radius=w) for w in RADII},
        **{f"chance_recall_{w}": neighborhood_recall(other, after, k, radius=w) for w in RADII},
        "zeros": _zeros(after),
    }


def _random_top_k(maps: Tensor, k: int, draws: torch.Generator) -> Tensor:
    """Mark the k largest entries, ties broken at random."""
    order = torch.randperm(maps[0].numel(), generator=draws).to(maps.device)
    return top_k_mask(maps.flatten(1)[:, order], k)[:, order.argsort()].view_as(maps)


def _zeros(maps: Tensor) -> Tensor:
    return (maps == 0).flatten(1).double().mean(1)


STUDY = declared(__file__, prepare_sweeps, pieces, rows, profile=declared_sweeps, cost=cost)
