"""Sweeps of attacks: the conditions, the attacks, and how each is run."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fragility import objective
from fragility.attack import iterative, random_walk
from fragility.attribution import WITHOUT_SURROGATE, importance, simple_gradient
from fragility.iterate import Attribution, BestIterate, Iterate, Judge, Perturbation
from fragility.objective import Objective
from fragility.similarity import center_shift, spearman, top_k_intersection
from fragility.study.attacks.setup import Setup, Subject, changed, prepare_all
from fragility.study.machine import exact_zeros
from fragility.study.piece import Piece, Row, batches, generator, noise, row_per_image
from fragility.surrogate import softplus
from fragility.titles import METRICS

METHODS = ("simple_gradient", "deeplift", "integrated_gradients")


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Attacks on methods at several sizes.

    Attributes:
        setup: a key of the profile's set-ups.
        attacks: keys of `ATTACKS`.
        methods: keys of `fragility.attribution.ATTRIBUTIONS`.
        sizes: epsilon -> alpha, the step size, or None for a single draw; both of 255.
        images: the position in the set-up's images at which to stop.
        start: the position at which to begin; other sweeps take the images before it.
        batch: the number of images in a piece; divides `images` - `start`.
        iterations: P, the number of steps.
        schedule: of the step, see `fragility.attack.iterative`.
        betas: the first and the last sharpness of the surrogate, in units of the set-up's; None for that throughout.
        attack_steps: M of integrated gradients while attacking and choosing the best iterate.
        evaluation_steps: M of integrated gradients in the metrics.
        by_metric: choose the best iterate by the top-k intersection, as the released code does, not by D.
        rounded: judge the perturbed image as a file of eight bits per channel holds it.
        score: what is explained, the class's `"logit"` or its softmax `"probability"`.
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
    betas: tuple[float, float] | None = None
    attack_steps: int = 100
    evaluation_steps: int = 100
    by_metric: bool = False
    rounded: bool = False
    score: str = "logit"

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
        seen = set()
        for sweep in self.sweeps:
            images = range(sweep.start, sweep.images)
            fixed = [sweep.setup], [sweep.iterations], [sweep.schedule], [sweep.betas]
            for condition in product(sweep.attacks, sweep.methods, sweep.sizes.items(), images, *fixed):
                if condition in seen:
                    raise ValueError(f"sweeps: expected every condition once per image, got {condition} twice")
                seen.add(condition)


def declared_sweeps(
    *,
    sweeps: Iterable[Mapping[str, Any]],
    each: Mapping[str, Any] = MappingProxyType({}),
    setups: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    base: Mapping[str, Any] = MappingProxyType({}),
) -> SweepProfile:
    """Make the profile of a declaration; `attack_sweep.toml` says how it is written."""
    cases = tuple(_sweep(**{**each, **case}) for case in sweeps)
    names = dict.fromkeys(case.setup for case in cases)
    return SweepProfile(
        setups={name: changed(name, **{**base, **setups.get(name, {})}) for name in names}, sweeps=cases
    )


def _sweep(*, attacks: str, methods: str, sizes: str, betas: Iterable[float] | None = None, **options: Any) -> Sweep:
    pairs = (size.partition(":") for size in sizes.split())
    return Sweep(
        attacks=tuple(attacks.split()),
        methods=METHODS if methods == "all" else tuple(methods.split()),
        sizes={float(epsilon): float(alpha) if alpha else None for epsilon, _, alpha in pairs},
        betas=None if betas is None else tuple(betas),  # type: ignore[arg-type]
        **options,
    )


class Attack(NamedTuple):
    """A way to change an image.

    Attributes:
        perturb: (piece, subject, images, labels, objective=D, callback=) -> the best iterates.
        objective: k -> D, which the attack raises; noise is only judged by it.
        passes: its cost in attributions, per step and for its maps.
        blank: the columns that do not apply to it.
    """

    perturb: Callable[..., Perturbation]
    objective: Callable[[int], Objective]
    passes: tuple[int, int]
    blank: tuple[str, ...]


def _draw(piece: Piece, subject: Subject, images: Tensor, labels: Tensor, **search: Any) -> Perturbation:
    judge = Judge(subject.model, images, labels, simple_gradient)
    search["callback"](seen := judge(noise(images, piece)))
    return _only_iterate(judge, seen)


def _walk(piece: Piece, subject: Subject, images: Tensor, labels: Tensor, **search: Any) -> Perturbation:
    draws = generator(piece["seed"], *piece["images"])
    return random_walk(subject.model, images, labels, generator=draws, **_budget(piece, subject), **search)


def _climb(piece: Piece, subject: Subject, images: Tensor, labels: Tensor, **search: Any) -> Perturbation:
    if piece.get("by_metric"):
        search["selection"] = lambda maps, reference: -top_k_intersection(maps, reference, piece["k"])
    schedule = "adaptive" if piece.get("adaptive") else piece.get("schedule", "constant")
    beta: Any = (piece["first_beta"], piece["last_beta"]) if "first_beta" in piece else subject.surrogate_beta
    if piece["method"] in WITHOUT_SURROGATE:
        beta = None
    options = {"surrogate_beta": beta, "schedule": schedule, **_budget(piece, subject), **search}
    found = iterative(subject.model, images, labels, **options)
    if not piece.get("rounded"):
        return found
    judge = Judge(subject.model, images, labels, simple_gradient)
    file = _only_iterate(judge, judge(found.images.mul(255).round().div(255)))
    kept = found.labels_kept & file.labels_kept
    return replace(found, images=file.images, labels_kept=kept, confidence_after=file.confidence_after)


def _budget(piece: Piece, subject: Subject) -> dict[str, Any]:
    attribution = explained(piece, subject, "attack")
    sizes = {name: piece[name] / 255 for name in ("epsilon", "step_size")}
    return {"attribution": attribution, "iterations": piece["iterations"], **sizes}


def explained(piece: Piece, subject: Subject, purpose: str) -> Attribution:
    """The attribution of a piece, for its `attack` or its `evaluation`."""
    return subject.attribution(piece["method"], piece[f"{purpose}_steps"], piece.get("score", "logit"))


def _only_iterate(judge: Judge, seen: Iterate) -> Perturbation:
    best = BestIterate(judge.images, judge.confidence)
    best.offer(1, seen.images, torch.zeros_like(seen.confidence), seen.confidence, seen.kept)
    return best.perturbation()


_SURROGATE, _TARGET = ("surrogate_beta", "surrogate_gain", "schedule"), ("target_before", "target_after")
ATTACKS = {
    "random": Attack(_draw, objective.top_k, (0, 3), ("objective", "gain", "attack_steps", *_SURROGATE, *_TARGET)),
    "random_walk": Attack(_walk, objective.top_k, (2, 3), _SURROGATE + _TARGET),
    "top_k": Attack(_climb, objective.top_k, (6, 5), _TARGET),
    "mass_center": Attack(_climb, lambda k: objective.mass_center(), (6, 5), _TARGET),
    "targeted": Attack(_climb, lambda k: objective.targeted(objective.opposite_quadrant), (6, 5), ()),
}


def metrics(before: Tensor, after: Tensor, k: int) -> dict[str, Tensor]:
    """Compare maps by `METRICS`."""
    values = (top_k_intersection(before, after, k), spearman(before, after), center_shift(before, after))
    return dict(zip(METRICS, values, strict=True))


class Trial:
    """The attack of a piece on its images."""

    def __init__(self, piece: Piece, subjects: Mapping[str, Subject]) -> None:
        self.piece, self.subject, self.attack = piece, subjects[piece["setup"]], ATTACKS[piece["attack"]]
        self.images, self.labels = self.subject.batch(piece)
        self.aim = self.attack.objective(piece["k"])

    def run(self, callback: Callable[[Iterate], None]) -> Perturbation:
        """Perturb the images, and show every iterate to the callback."""
        batch = (self.piece, self.subject, self.images, self.labels)
        return self.attack.perturb(*batch, objective=self.aim, callback=callback)

    def maps(self, images: Tensor) -> Tensor:
        """Compute importance maps as the metrics see them."""
        evaluation = explained(self.piece, self.subject, "evaluation")
        with exact_zeros():  # they are counted, and broken as ties
            return importance(evaluation(self.subject.model, images, self.labels))

    def rows(self, found: Perturbation, **columns: Any) -> list[Row]:
        """Add the columns of all sweeps, and leave blank those that do not apply to this attack."""
        columns |= {name: getattr(found, name) for name in ("labels_kept", "confidence_before", "confidence_after")}
        names = self.subject.data.class_names
        columns |= {"label": self.labels, "class_name": [names[label] for label in self.labels.tolist()]}
        columns["surrogate_beta"] = beta = self.subject.surrogate_beta
        if self.piece["method"] in WITHOUT_SURROGATE:
            columns |= {"surrogate_beta": None, "surrogate_gain": None}
        elif "surrogate_gain" not in self.attack.blank:
            with softplus(beta):
                before, after = self.maps(self.images), self.maps(found.images)
            columns["surrogate_gain"] = self.aim(after, before) - self.aim(before, before)
        if self.piece["method"] != "integrated_gradients":
            columns |= {"attack_steps": None, "evaluation_steps": None}
        blank = dict.fromkeys(name for name in columns if name.removeprefix("release_") in self.attack.blank)
        return row_per_image(self.piece, **(columns | dict.fromkeys(self.attack.blank) | blank))


def prepare_sweeps(profile: SweepProfile, device: str) -> tuple[dict[str, Subject], dict[str, Any]]:
    """Load the networks, and as many images as some sweep needs."""
    counts = {name: max(sweep.images for sweep in profile.sweeps if sweep.setup == name) for name in profile.setups}
    return prepare_all(profile.setups, counts, profile.seed, device)


def conditions(profile: SweepProfile, subjects: Mapping[str, Subject]) -> Iterator[tuple[Sweep, Piece]]:
    """Cut every sweep into pieces of one condition and one batch of images."""
    for sweep in profile.sweeps:
        subject = subjects[sweep.setup]
        copied = ("setup", "iterations", "attack_steps", "evaluation_steps")
        shared = {"seed": profile.seed, **{name: getattr(sweep, name) for name in copied}, **subject.facts}
        if sweep.betas is not None:
            first, last = (share * subject.surrogate_beta for share in sweep.betas)
            shared |= {"first_beta": first, "last_beta": last}
        listed = list(batches(subject.data, sweep.batch, start=sweep.start, stop=sweep.images))
        for (epsilon, step), attack, method in product(sweep.sizes.items(), sweep.attacks, sweep.methods):
            condition = {"attack": attack, "method": method, "epsilon": epsilon, "step_size": step}
            yield from ((sweep, {**images, **shared, **condition}) for images in listed)


def cost(piece: Piece) -> float:
    """Count gradient passes through the network, roughly."""
    passes = {"simple_gradient": 1, "deeplift": 4, "lrp": 3, "deep_taylor": 3}
    attacking, evaluating = (
        passes.get(piece["method"]) or int(piece[f"{key}_steps"]) for key in ("attack", "evaluation")
    )
    step, maps = ATTACKS[piece["attack"]].passes
    return float(len(piece["images"]) * (step * piece["iterations"] * attacking + maps * evaluating))
