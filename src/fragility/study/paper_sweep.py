"""The attacks with the paper's own budget: P = 300 steps of 0.5 [Ghorbani2019, Fig. 2 and 3].

Every row judges one trajectory twice: by the iterate that Algorithm 1 returns, the largest D among those that keep the
prediction, and by the one that the released code returns, the *first* with the least top-k intersection. It also says
how the choice by D grew with the steps, and what is left of a map if its pixels may move a little [Kamath2024].
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fragility import objective, train
from fragility.attack import iterative, random_sign, random_walk
from fragility.attribution import importance
from fragility.iterate import BestIterate, Iterate, Judge, Perturbation
from fragility.similarity import center_shift, neighborhood_recall, spearman, top_k_intersection, top_k_mask
from fragility.study.profile import ALL, ATTACK_SWEEP, DEEPLIFT, GRADIENT, INTEGRATED, METHODS, Setup
from fragility.study.setup import Ready, prepare
from fragility.study.store import Columns, Piece, Plan, Recomputable, Row
from fragility.surrogate import softplus

VERSION = 1  # to be raised with any change of what a row means
RADII = (1, 2, 3)
CHECKPOINTS = (1, 2, 3, 6, 10, 16, 20, 30, 40, 60, 80, 100, 150, 200, 300, 450, 600)
CHOICES = {"": "the largest D", "release_": "the first with the least top-k intersection"}
NONE = float("nan")

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
RECOMPUTABLE = Recomputable(
    # Courses are for curves; what they end in is held to its mean.
    within={f"course_{name}": float("inf") for name in ("objective", "intersection", "spearman", "shift")},
    means={
        "labels_kept": 0.05,
        "surrogate_gain": 0.02,
        **{prefix + name: margin for prefix in CHOICES for name, margin in _MEANS.items()},
    },
)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One attack on some methods at some sizes.

    Attributes:
        attack: `"random"`, `"random_walk"`, `"top_k"` or `"mass_center"`.
        methods: keys of `fragility.attribution.ATTRIBUTIONS`.
        epsilons: of 255.
        images: how many of the setup's, or which: (first, last + 1).
        iterations: P.
        step_size: alpha, of 255.
        schedule: see `fragility.attack.iterative`.
        attack_steps: M of integrated gradients while attacking and choosing the iterate.
        evaluation_steps: M in the metrics.
        setup: a key of the profile's setups.
        batch: how many images make a piece.
    """

    attack: str
    methods: tuple[str, ...]
    epsilons: tuple[float, ...]
    images: tuple[int, int]
    iterations: int = 300
    step_size: float = 0.5
    schedule: str = "constant"
    attack_steps: int = 100
    evaluation_steps: int = 100
    setup: str = "squeezenet"
    batch: int = 8


@dataclass(frozen=True, kw_only=True)
class PaperSweep:
    """What is computed, the most telling first.

    Attributes:
        setups: by name.
        runs: in their order.
        seed: of the drawn images and of the random perturbations.
    """

    setups: dict[str, Setup]
    runs: tuple[Run, ...]
    seed: int = 0


def _noise(methods: tuple[str, ...], epsilons: tuple[float, ...], images: tuple[int, int], **more: Any) -> list[Run]:
    kinds = {"random": {"iterations": 1}, "random_walk": {}}
    return [
        Run(attack=a, methods=methods, epsilons=epsilons, images=images, **options | more)
        for a, options in kinds.items()
    ]


def _both(methods: tuple[str, ...], epsilons: tuple[float, ...], images: tuple[int, int], **more: Any) -> list[Run]:
    return [Run(attack=a, methods=methods, epsilons=epsilons, images=images, **more) for a in ("top_k", "mass_center")]


_DIGITS: dict[str, Any] = {"setup": "digits", "iterations": 6, "step_size": 10.0, "batch": 4}

PAPER_SWEEP = {
    "fast": PaperSweep(
        setups=ATTACK_SWEEP["fast"].setups,
        runs=(
            *_noise(GRADIENT, (51.0,), (0, 8), **_DIGITS),
            *_both(GRADIENT, (51.0,), (0, 8), **_DIGITS),
            *_both(DEEPLIFT + INTEGRATED, (51.0,), (0, 4), attack_steps=5, evaluation_steps=10, **_DIGITS),
        ),
    ),
    # Two cores, in the background: about a minute for every eight images of noise, six for eight of an attack.
    "laptop": PaperSweep(
        setups={"squeezenet": ATTACK_SWEEP["laptop"].setups["squeezenet"]},
        runs=(
            *_both(GRADIENT, (8.0,), (0, 16)),
            *_noise(GRADIENT, (8.0, 2.0), (0, 64)),
            *_both(GRADIENT, (8.0,), (16, 64)),
            *_both(GRADIENT, (2.0,), (0, 64)),
            *_both(GRADIENT, (8.0,), (0, 8), iterations=600),
            *_both(GRADIENT, (4.0, 1.0), (0, 64)),
            *_noise(GRADIENT, (4.0, 1.0), (0, 64)),
        ),
    ),
    "paper": PaperSweep(
        setups={"squeezenet": ATTACK_SWEEP["paper"].setups["squeezenet"]},
        runs=(
            *_noise(METHODS, ALL, (0, 512), batch=32),
            *_both(METHODS, ALL, (0, 512), batch=32),
        ),
    ),
}


def plan(profile: PaperSweep, device: str = "cpu") -> Plan:
    """Load the network and the images, and list the pieces.

    Args:
        profile: what to compute.
        device: where.

    Returns:
        The plan.
    """
    ready = {
        name: prepare(setup, max(run.images[1] for run in profile.runs if run.setup == name), profile.seed, device)
        for name, setup in profile.setups.items()
    }
    return Plan(
        parameters=asdict(profile),
        inputs={name: part.inputs for name, part in ready.items()},
        columns=COLUMNS,
        pieces=[piece for run in profile.runs for piece in _pieces(run, ready[run.setup], profile.seed)],
        compute=lambda piece: _compute(piece, ready[piece["setup"]]),
        cost=_cost,
    )


def _pieces(run: Run, ready: Ready, seed: int) -> list[Piece]:
    """All that determines the rows of a piece stands in it, checksums of weights and pixels included."""
    pieces = []
    for epsilon in run.epsilons:
        for method in run.methods:
            for first in range(*run.images, run.batch):
                rows = slice(first, min(first + run.batch, run.images[1]))
                rest = asdict(run) | asdict(ready.setup)
                for name in ("methods", "epsilons", "batch", "candidates"):
                    del rest[name]
                own = {
                    "version": VERSION,
                    "weights": ready.weights,
                    "pixels": train.fingerprint(ready.data.images[rows]),
                    "first": first,
                    "images": list(ready.data.files[rows]),
                    "seed": seed,
                    "method": method,
                    "epsilon": epsilon,
                }
                pieces.append(rest | own | ready.measured)
    return pieces


def _compute(piece: Piece, ready: Ready) -> list[Row]:
    """Attack once, choose twice, and measure."""
    rows = [ready.data.files.index(name) for name in piece["images"]]
    images, labels = ready.data.images[rows].to(ready.device), ready.data.labels[rows].to(ready.device)
    attack, evaluation = (ready.attribution(piece["method"], piece[m]) for m in ("attack_steps", "evaluation_steps"))
    score = objective.mass_center() if piece["attack"] == "mass_center" else objective.top_k(piece["k"])
    course = _Course(score, piece["k"])
    chosen = _perturb(piece, ready, images, labels, attack, score, course)
    before = importance(evaluation(ready.model, images, labels))
    gradient, integrated = piece["attack"] in ("top_k", "mass_center"), piece["method"] == "integrated_gradients"
    columns: dict[str, Sequence[Any]] = {
        "image": piece["images"],
        "label": labels.tolist(),
        "class_name": [ready.data.class_names[label] for label in labels.tolist()],
        "confidence_before": chosen[""].confidence_before.tolist(),
        "zeros_before": _zeros(before),
        "labels_kept": chosen[""].labels_kept.tolist(),
        "surrogate_gain": [NONE] * len(rows),
    }
    for prefix, found in chosen.items():
        after = importance(evaluation(ready.model, found.images, labels))
        columns |= {prefix + name: values for name, values in _measure(piece, before, after).items()}
        gain = (score(after, before) - score(before, before)).tolist()
        columns |= {
            f"{prefix}iteration": found.iteration.tolist(),
            f"{prefix}objective": [NONE] * len(rows) if piece["attack"] == "random" else score(after, before).tolist(),
            f"{prefix}gain": [NONE] * len(rows) if piece["attack"] == "random" else gain,
            f"{prefix}confidence_after": found.confidence_after.tolist(),
        }
    if gradient:
        with softplus(ready.surrogate_beta):
            smooth, bent = (importance(evaluation(ready.model, x, labels)) for x in (images, chosen[""].images))
        columns["surrogate_gain"] = (score(bent, smooth) - score(smooth, smooth)).tolist()
    common: Row = {
        **{
            name: piece[name]
            for name in ("setup", "method", "attack", "epsilon", "seed", "k", "step_size", "iterations")
        },
        "schedule": piece["schedule"] if gradient else "",
        "attack_steps": piece["attack_steps"] if integrated and piece["attack"] != "random" else None,
        "evaluation_steps": piece["evaluation_steps"] if integrated else None,
        "surrogate_beta": ready.surrogate_beta if gradient else None,
    }
    return [
        {**common, **{name: values[i] for name, values in columns.items()}, **course.row(i)} for i in range(len(rows))
    ]


def _perturb(
    piece: Piece,
    ready: Ready,
    images: Tensor,
    labels: Tensor,
    attribution: Callable[[nn.Module, Tensor, Tensor], Tensor],
    score: objective.Objective,
    course: "_Course",
) -> dict[str, Perturbation]:
    """Run an attack, or draw noise, and choose both iterates."""
    epsilon, k = piece["epsilon"] / 255, piece["k"]
    judge = Judge(ready.model, images, labels, attribution)
    release = BestIterate(images, judge.confidence)

    def watch(seen: Iterate) -> None:
        kept = -top_k_intersection(seen.maps, judge.reference, k)
        release.offer(seen.number, seen.images, kept, seen.confidence, seen.kept)
        course.watch(seen, judge.reference, last=piece["iterations"])

    if piece["attack"] == "random":
        # One generator per image: its noise is the same for all methods and epsilons, and in a batch of any size.
        draws = [
            random_sign(image.unsqueeze(0), epsilon, generator=_generator(piece["seed"], name))
            for image, name in zip(images, piece["images"], strict=True)
        ]
        drawn = judge(torch.cat(draws))
        release.offer(1, drawn.images, torch.zeros_like(drawn.confidence), drawn.confidence, drawn.kept)
        return {"": release.perturbation(), "release_": release.perturbation()}
    options: dict[str, Any] = {
        "attribution": attribution,
        "objective": score,
        "epsilon": epsilon,
        "step_size": piece["step_size"] / 255,
        "iterations": piece["iterations"],
        "callback": watch,
    }
    if piece["attack"] == "random_walk":
        generator = _generator(piece["seed"], *piece["images"])
        found = random_walk(ready.model, images, labels, generator=generator, **options)
    else:
        run = partial(iterative, schedule=piece["schedule"], surrogate_beta=ready.surrogate_beta)
        found = run(ready.model, images, labels, **options)
    return {"": found, "release_": release.perturbation()}


class _Course:
    """What the best iterate by D was like after so many steps."""

    def __init__(self, score: objective.Objective, k: int) -> None:
        self.score, self.k = score, k
        self.steps: list[int] = []
        self.table: dict[str, list[list[float]]] = {
            name: [] for name in ("objective", "intersection", "spearman", "shift")
        }
        self.value = self.maps = torch.empty(0)

    def watch(self, seen: Iterate, reference: Tensor, *, last: int) -> None:
        """Follow the best, and write down what it is like at the checkpoints."""
        if seen.number == 1:
            self.value, self.maps = torch.full_like(seen.confidence, NONE), reference
        value = self.score(seen.maps, reference)
        better = seen.kept & ~(value <= self.value)
        self.value, self.maps = (
            torch.where(better, value, self.value),
            seen.maps.where(better.view(-1, 1, 1), self.maps),
        )
        if seen.number in CHECKPOINTS or seen.number == last:
            self.steps.append(seen.number)
            self.table["objective"].append(self.value.tolist())
            self.table["intersection"].append(top_k_intersection(reference, self.maps, self.k).tolist())
            self.table["spearman"].append(spearman(reference, self.maps).tolist())
            self.table["shift"].append(center_shift(reference, self.maps).tolist())

    def row(self, index: int) -> Row:
        """The columns of one image."""
        texts = {f"course_{name}": " ".join(f"{at[index]:.5g}" for at in values) for name, values in self.table.items()}
        return {"course_steps": " ".join(map(str, self.steps)), **texts}


def _measure(piece: Piece, before: Tensor, after: Tensor) -> dict[str, list[float]]:
    """All metrics of maps against those of the original images, by their column."""
    k, other = piece["k"], before.roll(1, 0)
    generator = _generator(piece["seed"], "ties", *piece["images"])
    ties = (_random_top_k(before, k, generator) & _random_top_k(after, k, generator)).flatten(1).sum(1).double() / k
    return {
        "top_k_intersection": top_k_intersection(before, after, k).tolist(),
        "random_ties_intersection": ties.tolist(),
        "spearman": spearman(before, after).tolist(),
        "center_shift": center_shift(before, after).tolist(),
        **{f"recall_{w}": neighborhood_recall(before, after, k, radius=w).tolist() for w in RADII},
        **{f"precision_{w}": neighborhood_recall(after, before, k, radius=w).tolist() for w in RADII},
        **{f"chance_recall_{w}": neighborhood_recall(other, after, k, radius=w).tolist() for w in RADII},
        "zeros": _zeros(after),
    }


def _random_top_k(maps: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """The mask of the k largest entries, ties broken at random."""
    order = torch.randperm(maps[0].numel(), generator=generator).to(maps.device)
    return top_k_mask(maps.flatten(1)[:, order], k)[:, order.argsort()].view_as(maps)


def _zeros(maps: Tensor) -> list[float]:
    shares: list[float] = (maps == 0).flatten(1).double().mean(1).tolist()
    return shares


def _generator(*names: object) -> torch.Generator:
    # On the processor, so a GPU sees the same noise.
    return torch.Generator().manual_seed(int(train.fingerprint(*names)[:15], 16))


def _cost(piece: Piece) -> float:
    """Gradient passes through the network, roughly."""
    one = {"simple_gradient": 1, "deeplift": 3, "integrated_gradients": piece["attack_steps"]}[piece["method"]]
    steps = {"random": 0, "random_walk": 1}.get(piece["attack"], 3) * piece["iterations"]
    return float(len(piece["images"]) * (steps + 5) * one)
