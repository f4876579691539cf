"""Sweeps of attacks: which conditions there are, which attacks, and how each is run."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fragility import objective
from fragility.attack import iterative, random_sign, random_walk
from fragility.attribution import simple_gradient
from fragility.iterate import BestIterate, Iterate, Judge, Perturbation
from fragility.objective import Objective
from fragility.similarity import top_k_intersection
from fragility.study.attacks.setup import Setup, Subject, prepare_all
from fragility.study.piece import Piece, batches, generator


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Some attacks on some methods at some sizes.

    Attributes:
        setup: a key of the profile's set-ups.
        attacks: keys of `ATTACKS`.
        methods: keys of `fragility.attribution.ATTRIBUTIONS`.
        sizes: epsilon -> alpha, the step size, or None for a single draw; both of 255.
        images: up to which one of the set-up's images.
        start: how many of the images are left to other sweeps.
        batch: how many images make a piece; divides `images` - `start`.
        iterations: P, the number of steps.
        schedule: of the step, see `fragility.attack.iterative`.
        attack_steps: M of integrated gradients while attacking and choosing the best iterate.
        evaluation_steps: M of integrated gradients in the metrics.
        by_metric: choose the best iterate by the top-k intersection, as the released code does, not by D.
        rounded: judge what is left of the perturbation in a file of eight bits per channel.
    """

    setup: str
    attacks: tuple[str, ...]
    methods: tuple[str, ...]
    sizes: Mapping[float, float | None]
    images: int
    start: int = 0
    batch: int
    iterations: int = 1
    schedule: str = "constant"
    attack_steps: int = 100
    evaluation_steps: int = 100
    by_metric: bool = False
    rounded: bool = False

    def __post_init__(self) -> None:
        count = self.images - self.start
        if self.start < 0 or count < 1 or self.batch < 1 or count % self.batch:
            raise ValueError(f"images: expected a multiple of the batch of {self.batch}, got {count}")


@dataclass(frozen=True, kw_only=True)
class SweepProfile:
    """The sweeps of a study.

    Attributes:
        seed: of the drawn images and of the random perturbations.
        setups: by name.
        sweeps: what is computed.
    """

    seed: int = 0
    setups: dict[str, Setup]
    sweeps: tuple[Sweep, ...]

    def __post_init__(self) -> None:
        conditions = Counter(
            condition
            for sweep in self.sweeps
            for condition in product(
                [sweep.setup],
                sweep.attacks,
                sweep.methods,
                sweep.sizes,
                [sweep.iterations],
                range(sweep.start, sweep.images),
            )
        )
        if twice := [condition for condition, count in conditions.items() if count > 1]:
            raise ValueError(f"sweeps: expected every condition once per image, got {twice[0]} twice")


class Attack(NamedTuple):
    """A way to change an image.

    Attributes:
        perturb: (piece, subject, images, labels, objective=D, callback=) -> the best iterates.
        objective: k -> D, which it raises; noise raises nothing and is judged by it.
        passes: what it costs in attributions, for every step and for its maps.
        reports: those of the columns that not every attack has.
    """

    perturb: Callable[..., Perturbation]
    objective: Callable[[int], Objective]
    passes: tuple[int, int]
    reports: frozenset[str]


def _draw(
    piece: Piece,
    subject: Subject,
    images: Tensor,
    labels: Tensor,
    *,
    objective: Objective,
    callback: Callable[[Iterate], None],
) -> Perturbation:
    # One generator per image: its noise is the same for all methods and epsilons, and in a batch of any size.
    draws = [
        random_sign(image.unsqueeze(0), piece["epsilon"] / 255, generator=generator(piece["seed"], name))
        for image, name in zip(images, piece["images"], strict=True)
    ]
    judge = Judge(subject.model, images, labels, simple_gradient)
    callback(seen := judge(torch.cat(draws)))
    return _only_iterate(judge, seen)


def _walk(piece: Piece, subject: Subject, images: Tensor, labels: Tensor, **search: Any) -> Perturbation:
    draws = generator(piece["seed"], *piece["images"])
    return random_walk(subject.model, images, labels, generator=draws, **_budget(piece, subject), **search)


def _climb(piece: Piece, subject: Subject, images: Tensor, labels: Tensor, **search: Any) -> Perturbation:
    found = iterative(
        subject.model,
        images,
        labels,
        selection=_intersection_lost(piece["k"]) if piece.get("by_metric") else None,
        surrogate_beta=subject.surrogate_beta,
        schedule="adaptive" if piece.get("adaptive") else piece.get("schedule", "constant"),
        **_budget(piece, subject),
        **search,
    )
    if not piece.get("rounded"):
        return found
    judge = Judge(subject.model, images, labels, simple_gradient)
    file = _only_iterate(judge, judge(found.images.mul(255).round().div(255)))
    kept = found.labels_kept & file.labels_kept
    return replace(found, images=file.images, labels_kept=kept, confidence_after=file.confidence_after)


def _budget(piece: Piece, subject: Subject) -> dict[str, Any]:
    return {
        "attribution": subject.attribution(piece["method"], piece["attack_steps"]),
        "epsilon": piece["epsilon"] / 255,
        "step_size": piece["step_size"] / 255,
        "iterations": piece["iterations"],
    }


def _only_iterate(judge: Judge, seen: Iterate) -> Perturbation:
    best = BestIterate(judge.images, judge.confidence)
    best.offer(1, seen.images, torch.zeros_like(seen.confidence), seen.confidence, seen.kept)
    return best.perturbation()


def _intersection_lost(k: int) -> Objective:
    return lambda maps, reference: -top_k_intersection(maps, reference, k)


_SEARCH = frozenset(("objective", "gain", "attack_steps"))
_CLIMB = _SEARCH | {"surrogate_beta", "surrogate_gain", "schedule"}
_TARGET = _CLIMB | {"target_before", "target_after"}
ATTACKS = {
    "random": Attack(_draw, objective.top_k, (0, 3), frozenset()),
    "random_walk": Attack(_walk, objective.top_k, (2, 3), _SEARCH),
    "top_k": Attack(_climb, objective.top_k, (6, 5), _CLIMB),
    "mass_center": Attack(_climb, lambda k: objective.mass_center(), (6, 5), _CLIMB),
    "targeted": Attack(_climb, lambda k: objective.targeted(objective.opposite_quadrant), (6, 5), _TARGET),
}


def prepare_sweeps(profile: SweepProfile, device: str) -> tuple[dict[str, Subject], dict[str, Any]]:
    """Load the networks, and as many images as some sweep needs."""
    counts = {name: max(sweep.images for sweep in profile.sweeps if sweep.setup == name) for name in profile.setups}
    return prepare_all(profile.setups, counts, profile.seed, device)


def conditions(profile: SweepProfile, subjects: Mapping[str, Subject]) -> Iterator[tuple[Sweep, Piece]]:
    """Cut every sweep into pieces of one condition and some images."""
    for sweep in profile.sweeps:
        subject = subjects[sweep.setup]
        shared = {
            "seed": profile.seed,
            **{name: getattr(sweep, name) for name in ("setup", "iterations", "attack_steps", "evaluation_steps")},
            **subject.facts,
        }
        listed = list(batches(subject.data, sweep.batch, start=sweep.start, stop=sweep.images))
        for attack, (epsilon, step), method in product(sweep.attacks, sweep.sizes.items(), sweep.methods):
            condition = {"attack": attack, "method": method, "epsilon": epsilon, "step_size": step}
            yield from ((sweep, {**images, **shared, **condition}) for images in listed)


def cost(piece: Piece) -> float:
    """Count gradient passes through the network, roughly."""
    passes = {"simple_gradient": 1, "deeplift": 8}
    attacking, evaluating = (
        passes.get(piece["method"]) or int(piece[f"{key}_steps"]) for key in ("attack", "evaluation")
    )
    step, maps = ATTACKS[piece["attack"]].passes
    return float(len(piece["images"]) * (step * piece["iterations"] * attacking + maps * evaluating))
