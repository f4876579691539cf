"""The attacks with the paper's own budget: P = 300 steps of 0.5 [Ghorbani2019, Fig. 2 and 3].

Every row judges one trajectory twice: by the iterate that Algorithm 1 returns, the largest D among those that keep the
prediction, and by the one that the released code returns, the *first* with the least top-k intersection. It also says
how the choice by D grew with the steps, and what is left of a map if its pixels may move a little [Kamath2024].
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fragility.attribution import importance
from fragility.iterate import BestIterate, Iterate, Judge
from fragility.objective import Objective
from fragility.similarity import center_shift, neighborhood_recall, spearman, top_k_intersection, top_k_mask
from fragility.study.attacks import attack_sweep
from fragility.study.attacks.attack_sweep import BOTH, DEEPLIFT, EPSILONS, GRADIENT, INTEGRATED, METHODS, NOISE, WALK
from fragility.study.attacks.setup import Subject
from fragility.study.attacks.sweep import ATTACKS, Sweep, SweepProfile, conditions, cost, prepare_sweeps
from fragility.study.piece import Columns, Piece, Row, Study, Tolerance, generator, row_per_image
from fragility.surrogate import softplus

RADII = (1, 2, 3)
CHECKPOINTS = (1, 2, 3, 6, 10, 16, 20, 30, 40, 60, 80, 100, 150, 200, 300, 450, 600)
COURSE = ("objective", "intersection", "spearman", "shift")
CHOICES = {"": "the largest D", "release_": "the first with the least top-k intersection"}

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
    **{
        f"chance_recall_{w}": (
            float,
            f"recall_{w} with the original map of another image, the one before in its piece, as reference",
        )
        for w in RADII
    },
    "zeros": (float, "share of zeros in its map"),
}
COLUMNS: Columns = {
    "image": (str, "file name"),
    "label": (int, "the class, predicted and true; it is the one explained"),
    "class_name": (str, "its name"),
    "setup": (str, "network and data, see parameters"),
    "method": (str, "the attribution"),
    "attack": (str, "random: one draw; random_walk: P random steps, judged by D of top_k; else Algorithm 1"),
    "epsilon": (float, "radius of the L-inf ball, of 255"),
    "step_size": (float, "alpha, of 255"),
    "schedule": (str, "of the step, see fragility.attack.iterative"),
    "iterations": (int, "P"),
    "attack_steps": (int, "M of integrated gradients while attacking and choosing the iterate"),
    "evaluation_steps": (int, "M of integrated gradients in the metrics"),
    "surrogate_beta": (float, "sharpness of the softplus that the attack's gradient goes through"),
    "k": (int, "how many pixels count as the most important"),
    "seed": (int, "of the drawn images and the random perturbations"),
    "confidence_before": (float, "softmax probability of the label for the original image"),
    "zeros_before": (float, "share of zeros in the original's map"),
    "labels_kept": (bool, "whether some iterate kept the prediction"),
    "surrogate_gain": (
        float,
        "gain of the choice by D on the softplus surrogate, whose own original map is the reference",
    ),
    **{
        f"{prefix}{name}": (kind, f"{text} ({choice})")
        for prefix, choice in CHOICES.items()
        for name, (kind, text) in _CHOSEN.items()
    },
    "course_steps": (str, "after how many steps the following were taken"),
    "course_objective": (
        str,
        "D of the best iterate by then, on the network itself; nan before the first that was kept",
    ),
    "course_intersection": (str, "its top-k intersection"),
    "course_spearman": (str, "its rank correlation"),
    "course_shift": (str, "its centre's shift, in pixels"),
}
_MEANS = {
    "iteration": 15.0,
    "objective": 0.02,
    "gain": 0.02,
    "confidence_after": 0.02,
    "top_k_intersection": 0.02,
    "random_ties_intersection": 0.02,
    "spearman": 0.02,
    "center_shift": 0.5,
    **{f"{kind}_{w}": 0.02 for kind in ("recall", "precision", "chance_recall") for w in RADII},
    "zeros": 0.01,
}
TOLERANCE = Tolerance(
    # Courses are for curves; what they end in is held to its mean.
    within={f"course_{name}": float("inf") for name in COURSE},
    means={
        "labels_kept": 0.05,
        "surrogate_gain": 0.02,
        **{prefix + name: margin for prefix in CHOICES for name, margin in _MEANS.items()},
    },
)


def pieces(profile: SweepProfile, subjects: Mapping[str, Subject]) -> Iterator[Piece]:
    """Name every condition."""
    return (piece | {"schedule": sweep.schedule} for sweep, piece in conditions(profile, subjects))


def rows(piece: Piece, subjects: Mapping[str, Subject]) -> list[Row]:
    """Attack once, choose twice, and measure."""
    subject, attack, k = subjects[piece["setup"]], ATTACKS[piece["attack"]], piece["k"]
    images, labels = subject.batch(piece)
    aim = attack.objective(k)
    judge = Judge(subject.model, images, labels, subject.attribution(piece["method"], piece["attack_steps"]))
    release, course = BestIterate(images, judge.confidence), _Course(aim, judge.reference, k)

    def watch(seen: Iterate) -> None:
        lost = -top_k_intersection(seen.maps, judge.reference, k)
        release.offer(seen.number, seen.images, lost, seen.confidence, seen.kept)
        if piece["attack"] != "random":
            course.watch(seen, last=piece["iterations"])

    def maps(*points: Tensor) -> Iterator[Tensor]:
        evaluation = subject.attribution(piece["method"], piece["evaluation_steps"])
        return (importance(evaluation(subject.model, x, labels)) for x in points)

    found = attack.perturb(piece, subject, images, labels, objective=aim, callback=watch)
    (before,) = maps(images)
    reported: dict[str, Any] = {
        "attack_steps": piece["attack_steps"] if piece["method"] == "integrated_gradients" else None,
        "surrogate_beta": subject.surrogate_beta,
        "schedule": piece["schedule"],
        "surrogate_gain": None,
    }
    chosen: dict[str, Any] = {}
    for prefix, choice in zip(CHOICES, (found, release.perturbation()), strict=True):
        (after,) = maps(choice.images)
        chosen |= {prefix + name: values for name, values in _measure(piece, before, after).items()}
        chosen |= {f"{prefix}iteration": choice.iteration, f"{prefix}confidence_after": choice.confidence_after}
        value = aim(after, before)
        reported |= {f"{prefix}objective": value, f"{prefix}gain": value - aim(before, before)}
    if "surrogate_gain" in attack.reports:
        with softplus(subject.surrogate_beta):
            smooth, smooth_after = maps(images, found.images)
        reported["surrogate_gain"] = aim(smooth_after, smooth) - aim(smooth, smooth)
    return row_per_image(
        piece,
        label=labels,
        class_name=subject.class_names(labels),
        confidence_before=found.confidence_before,
        zeros_before=_zeros(before),
        labels_kept=found.labels_kept,
        evaluation_steps=piece["evaluation_steps"] if piece["method"] == "integrated_gradients" else None,
        **chosen,
        **{
            name: column if name.removeprefix("release_") in attack.reports else None
            for name, column in reported.items()
        },
        **course.columns(len(images)),
    )


class _Course:
    """What the best iterate by D was like after so many steps."""

    def __init__(self, aim: Objective, reference: Tensor, k: int) -> None:
        self._aim, self._reference, self._k = aim, reference, k
        self._value, self._maps = torch.full((len(reference),), float("nan")).to(reference), reference
        self._steps: list[int] = []
        self._table: dict[str, list[Tensor]] = {name: [] for name in COURSE}

    def watch(self, seen: Iterate, *, last: int) -> None:
        """Follow the best, and write down what it is like at the checkpoints."""
        value = self._aim(seen.maps, self._reference)
        better = seen.kept & ~(value <= self._value)
        self._value = torch.where(better, value, self._value)
        self._maps = seen.maps.where(better.view(-1, 1, 1), self._maps)
        if seen.number in CHECKPOINTS or seen.number == last:
            self._steps.append(seen.number)
            pair = (self._reference, self._maps)
            values = (self._value, top_k_intersection(*pair, self._k), spearman(*pair), center_shift(*pair))
            for listed, column in zip(self._table.values(), values, strict=True):
                listed.append(column)

    def columns(self, count: int) -> dict[str, Any]:
        """Write the course of every image as texts."""
        texts = {
            f"course_{name}": [" ".join(f"{float(at[image]):.5g}" for at in values) for image in range(count)]
            for name, values in self._table.items()
        }
        return {"course_steps": " ".join(map(str, self._steps)), **texts}


def _measure(piece: Piece, before: Tensor, after: Tensor) -> dict[str, Tensor]:
    """All metrics of maps against those of the original images, by their column."""
    k, other = piece["k"], before.roll(1, 0)
    draws = generator(piece["seed"], "ties", *piece["images"])
    ties = (_random_top_k(before, k, draws) & _random_top_k(after, k, draws)).flatten(1).sum(1).double() / k
    return {
        "top_k_intersection": top_k_intersection(before, after, k),
        "random_ties_intersection": ties,
        "spearman": spearman(before, after),
        "center_shift": center_shift(before, after),
        **{f"recall_{w}": neighborhood_recall(before, after, k, radius=w) for w in RADII},
        **{f"precision_{w}": neighborhood_recall(after, before, k, radius=w) for w in RADII},
        **{f"chance_recall_{w}": neighborhood_recall(other, after, k, radius=w) for w in RADII},
        "zeros": _zeros(after),
    }


def _random_top_k(maps: Tensor, k: int, draws: torch.Generator) -> Tensor:
    """The mask of the k largest entries, ties broken at random."""
    order = torch.randperm(maps[0].numel(), generator=draws).to(maps.device)
    return top_k_mask(maps.flatten(1)[:, order], k)[:, order.argsort()].view_as(maps)


def _zeros(maps: Tensor) -> Tensor:
    return (maps == 0).flatten(1).double().mean(1)


_digits, _net = (partial(Sweep, setup=name) for name in ("digits", "squeezenet"))
_SIX: dict[str, Any] = {"iterations": 6, "batch": 4, "sizes": {51.0: 10.0}}
_STEPS, _LARGE = dict.fromkeys(EPSILONS, 0.5), {8.0: 0.5}
PROFILES = {
    "fast": SweepProfile(
        setups=attack_sweep.PROFILES["fast"].setups,
        sweeps=(
            _digits(attacks=NOISE + WALK + BOTH, methods=GRADIENT, images=8, **_SIX),
            _digits(attacks=BOTH, methods=DEEPLIFT + INTEGRATED, images=4, attack_steps=5, evaluation_steps=10, **_SIX),
        ),
    ),
    # Two cores, in the background: about a minute for every eight images of noise, six for eight of an attack.
    "laptop": SweepProfile(
        setups={"squeezenet": attack_sweep.SQUEEZENET},
        sweeps=(
            _net(attacks=NOISE, methods=GRADIENT, sizes=_STEPS, images=64, batch=8),
            _net(attacks=WALK + BOTH, methods=GRADIENT, sizes=_STEPS, images=64, batch=8, iterations=300),
            _net(attacks=BOTH, methods=GRADIENT, sizes=_LARGE, images=8, batch=8, iterations=600),
        ),
    ),
    "paper": SweepProfile(
        setups={"squeezenet": attack_sweep.PROFILES["paper"].setups["squeezenet"]},
        sweeps=(
            _net(attacks=NOISE, methods=METHODS, sizes=_STEPS, images=512, batch=32),
            _net(attacks=WALK + BOTH, methods=METHODS, sizes=_STEPS, images=512, batch=32, iterations=300),
        ),
    ),
}
STUDY = Study(
    columns=COLUMNS, prepare=prepare_sweeps, pieces=pieces, rows=rows, cost=cost, tolerance=TOLERANCE, profiles=PROFILES
)
