"""The attacks with the paper's own budget: P = 300 steps of 0.5 [Ghorbani2019, Fig. 2 and 3].

Every row judges one trajectory twice: by the iterate that Algorithm 1 returns, the one with the largest D among those
that keep the prediction, and by the one that the released code returns, the *first* with the least top-k intersection.
It also shows how the choice by D improved over the steps, and how much of the map remains if its pixels may move a
little [Kamath2024].
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from fragility.iterate import BestIterate, Iterate, Judge
from fragility.objective import Objective
from fragility.similarity import neighborhood_recall, top_k_intersection, top_k_mask
from fragility.study.attacks import attack_sweep
from fragility.study.attacks.attack_sweep import BOTH, DEEPLIFT, GRADIENT, INTEGRATED, METHODS, NOISE, PAPER_STEPS, WALK
from fragility.study.attacks.setup import Subject
from fragility.study.attacks.sweep import Sweep, SweepProfile, Trial, conditions, cost, metrics, prepare_sweeps
from fragility.study.piece import Columns, Piece, Row, Study, Tolerance, generator
from fragility.titles import METRICS

RADII = (1, 2, 3)
CHECKPOINTS = (1, 2, 3, 6, 10, 16, 20, 30, 40, 60, 80, 100, 150, 200, 300, 450, 600)
COURSE = ("objective", "intersection", "spearman", "shift")
CHOICES = {"": "the largest D", "release_": "the first with the least top-k intersection"}

_FIRST = ("label", "class_name", "setup", "method", "attack", "epsilon", "step_size")
_THEN = ("iterations", "attack_steps", "evaluation_steps", "surrogate_beta", "k", "seed", "confidence_before")
_CHOSEN: Columns = {
    "iteration": (int, "which iterate it is; 0 if none kept the prediction: the row is that of the unchanged image"),
    "objective": (float, "D of it, on the network itself; none for random"),
    "gain": (float, "D of it less D of the original, on the network itself; none for random"),
    "confidence_after": (float, "softmax probability of the label"),
    "top_k_intersection": (float, "share of the k most important pixels in common; ties broken by position"),
    "random_ties_intersection": (float, "the same, ties broken at random in both maps"),
    "spearman": (float, "rank correlation of the maps"),
    "center_shift": (float, "distance of the centres of mass, in pixels"),
    **{f"recall_{w}": (float, f"share of its k pixels within {w} of the original's k") for w in RADII},
    **{f"precision_{w}": (float, f"share of the original's k pixels within {w} of its k") for w in RADII},
    **{f"chance_recall_{w}": (float, f"recall_{w} of the map of the image before in its piece") for w in RADII},
    "zeros": (float, "share of zeros in its map"),
}
COLUMNS: Columns = {
    "image": (str, "file name"),
    **{name: attack_sweep.COLUMNS[name] for name in _FIRST},
    "schedule": (str, "of the step, see fragility.attack.iterative"),
    **{name: attack_sweep.COLUMNS[name] for name in _THEN},
    "zeros_before": (float, "share of zeros in the original's map"),
    "labels_kept": (bool, "whether some iterate kept the prediction"),
    "surrogate_gain": (float, "gain of the choice by D on the softplus surrogate, against its own original map"),
    **{
        prefix + name: (kind, f"{text} ({choice})")
        for prefix, choice in CHOICES.items()
        for name, (kind, text) in _CHOSEN.items()
    },
    "course_steps": (str, "after how many steps the following were taken"),
    "course_objective": (str, "D of the best iterate by then, on the network itself; nan before the first one kept"),
    "course_intersection": (str, "its top-k intersection"),
    "course_spearman": (str, "its rank correlation"),
    "course_shift": (str, "its centre's shift, in pixels"),
}
_MARGINS = dict.fromkeys(_CHOSEN, 0.02) | {"iteration": 15.0, "center_shift": 0.5, "zeros": 0.01}
TOLERANCE = Tolerance(
    # Courses are for curves; what they end in is held to its mean.
    within={f"course_{name}": float("inf") for name in COURSE},
    means={prefix + name: margin for prefix in CHOICES for name, margin in _MARGINS.items()}
    | {"labels_kept": 0.05, "surrogate_gain": 0.02},
)


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
    both = {"the largest D": "", "the release's": "release_"}
    kept = ["image", "method", "attack", "epsilon"]
    tables = [
        stored[kept + [prefix + name for name in _CHOSEN]]
        .rename(columns={prefix + name: name for name in _CHOSEN})
        .assign(choice=choice)
        for choice, prefix in both.items()
    ]
    return pd.concat(tables, ignore_index=True)


def rows(piece: Piece, subjects: Mapping[str, Subject]) -> list[Row]:
    """Attack once, choose twice, and measure."""
    trial = Trial(piece, subjects)
    attribution = trial.subject.attribution(piece["method"], piece["attack_steps"])
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


_digits = partial(Sweep, setup="digits", iterations=6, batch=4, sizes={51.0: 10.0})
_net = partial(Sweep, setup="squeezenet", methods=GRADIENT, images=64, batch=8, iterations=300)
_noise = partial(_net, attacks=NOISE, iterations=1)
# One attack for all three methods, which is what comparing them takes.
_same = partial(_net, attacks=BOTH, sizes={8.0: 1.0}, iterations=40, attack_steps=10)
_paper = partial(Sweep, setup="squeezenet", methods=METHODS, sizes=PAPER_STEPS, images=512, batch=32)
_EIGHT, _TWO, _REST = {8.0: 0.5}, {2.0: 0.5}, {4.0: 0.5, 1.0: 0.5}
PROFILES = {
    "fast": SweepProfile(
        setups=attack_sweep.PROFILES["fast"].setups,
        sweeps=(
            _digits(attacks=NOISE + WALK + BOTH, methods=GRADIENT, images=8),
            _digits(attacks=BOTH, methods=DEEPLIFT + INTEGRATED, images=4, attack_steps=5, evaluation_steps=10),
        ),
    ),
    # Two cores, in the background. For eight images: a minute for noise, six for an attack on the simple gradient.
    "laptop": SweepProfile(
        setups={"squeezenet": attack_sweep.SQUEEZENET},
        sweeps=(
            _net(attacks=BOTH, sizes=_EIGHT, images=16),
            _noise(sizes=_EIGHT | _TWO),
            _same(methods=METHODS, images=16),
            _net(attacks=BOTH, sizes=_TWO, images=16),
            _net(attacks=BOTH, sizes=_EIGHT, images=8, methods=DEEPLIFT, attack_steps=10),
            _net(attacks=BOTH, sizes=_EIGHT, start=16),
            _same(methods=METHODS, start=16),
            _net(attacks=BOTH, sizes=_TWO, start=16),
            _net(attacks=WALK, sizes=_EIGHT | _TWO),
            _net(attacks=BOTH, sizes=_EIGHT, images=8, iterations=600),
            _net(attacks=BOTH, sizes=_EIGHT, images=16, iterations=100, methods=DEEPLIFT + INTEGRATED, attack_steps=10),
            _net(attacks=BOTH + WALK, sizes=_REST),
            _noise(sizes=_REST),
        ),
    ),
    "paper": SweepProfile(
        setups={"squeezenet": attack_sweep.PROFILES["paper"].setups["squeezenet"]},
        sweeps=(_paper(attacks=NOISE), _paper(attacks=WALK + BOTH, iterations=300)),
    ),
}
STUDY = Study(COLUMNS, PROFILES, prepare_sweeps, pieces, rows, cost=cost, tolerance=TOLERANCE)
