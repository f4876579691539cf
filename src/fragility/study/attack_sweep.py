"""How far attacks and noise move importance maps: methods x attacks x epsilon x images [Ghorbani2019, Fig. 2 and 3].

The class explained is the prediction; all images are classified correctly by the network under test. An image that no
iterate leaves with its label counts as unchanged (1, 1, 0 pixels): the means are intention-to-treat.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from fragility import objective, train
from fragility.attack import Perturbation, iterative, random_sign, random_walk
from fragility.attribution import importance
from fragility.similarity import center_shift, spearman, top_k_intersection
from fragility.study.profile import Profile, Sweep
from fragility.study.setup import Ready, prepare
from fragility.study.store import Columns, Piece, Plan, Recomputable, Row
from fragility.study.summary import summarise
from fragility.surrogate import softplus

GRADIENT_ATTACKS = ("top_k", "mass_center", "targeted")  # those of Algorithm 1
NONE = float("nan")
LATER = {"by_metric": False, "rounded": False, "jpeg_quality": None}  # left out where unset: pieces keep their names
VERSION = 1  # to be raised with any change of what a row means; older rows then never mix with new ones

METRICS = ("top_k_intersection", "spearman", "center_shift")
COLUMNS: Columns = {
    "image": (str, "file name, or row of the data set"),
    "label": (int, "the class, predicted and true; it is the one explained"),
    "class_name": (str, "its name"),
    "setup": (str, "network and data, see parameters"),
    "network": (str, "the network under test"),
    "pooling": (str, "how max-pooling treats an incomplete last window"),
    "method": (str, "the attribution"),
    "attack": (
        str,
        "random: one draw; random_walk: the best of P random steps, by D of top_k; else Algorithm 1; "
        "targeted: into the quadrant away from the centre of mass",
    ),
    "epsilon": (float, "radius of the L-inf ball, of 255"),
    "step_size": (float, "alpha, of 255"),
    "iterations": (int, "P"),
    "adaptive": (bool, "whether the attack accumulated gradients and halved its steps"),
    "attack_steps": (int, "M of integrated gradients while attacking and choosing the best iterate"),
    "evaluation_steps": (int, "M of integrated gradients in the metrics"),
    "surrogate_beta": (float, "sharpness of the softplus that the attack's gradient goes through"),
    "k": (int, "how many pixels count as the most important"),
    "seed": (int, "of the drawn images and the random perturbations"),
    "labels_kept": (bool, "whether some iterate kept the prediction; if not, the row is that of the unchanged image"),
    "iteration": (int, "which iterate is the best; 0 if none was kept"),
    "objective": (float, "D of the best iterate; none for random"),
    "top_k_intersection": (float, "share of the k most important pixels in common, by the network itself"),
    "spearman": (float, "rank correlation of the maps"),
    "center_shift": (float, "distance of the centres of mass, in pixels"),
    "confidence_before": (float, "softmax probability of the label for the original image"),
    "confidence_after": (float, "the same for the best iterate"),
    "first_top_k_intersection": (float, "after the first step alone, label kept or not (random: of the draw)"),
    "first_spearman": (float, "likewise"),
    "first_center_shift": (float, "likewise"),
    "gain": (float, "D of the best iterate less D of the original, on the network itself; none for random"),
    "surrogate_gain": (float, "the same on the softplus surrogate, its own original map being the reference"),
    "target_before": (float, "targeted: the original's importance inside the region, a quadrant; else none"),
    "target_after": (float, "the same for the best iterate"),
}

RECOMPUTABLE = Recomputable(
    within={"first_top_k_intersection": 0.02, "first_spearman": 0.02, "first_center_shift": 0.5},
    means={
        "labels_kept": 0.05,
        "iteration": 2,
        "objective": 0.02,
        "top_k_intersection": 0.02,
        "spearman": 0.02,
        "center_shift": 0.5,
        "confidence_after": 0.02,
        "gain": 0.02,
        "surrogate_gain": 0.02,
        "target_after": 0.02,
    },
)


def plan(profile: Profile, device: str = "cpu") -> Plan:
    """Load networks and images, and list the pieces.

    Args:
        profile: what to compute.
        device: where.

    Returns:
        The plan.

    Raises:
        ValueError: if two sweeps share a condition and an image, or too few images are classified correctly.
    """
    ready = {
        name: prepare(setup, max(s.images for s in profile.sweeps if s.setup == name), profile.seed, device)
        for name, setup in profile.setups.items()
    }
    if twice := [condition for condition, count in Counter(conditions(profile)).items() if count > 1]:
        raise ValueError(f"sweeps: expected every condition once per image, got {twice[0]} twice")
    return Plan(
        parameters=asdict(profile),
        inputs={name: part.inputs for name, part in ready.items()},
        columns=COLUMNS,
        pieces=[piece for sweep in profile.sweeps for piece in _pieces(sweep, ready[sweep.setup], profile.seed)],
        compute=lambda piece: _compute(piece, ready[piece["setup"]]),
        cost=_cost,
    )


def conditions(profile: Profile) -> Iterator[tuple[str, str, str, float, int]]:
    """Go through what a profile measures.

    Args:
        profile: of the study.

    Yields:
        Setup, attack, method, epsilon and number of the image.
    """
    for sweep in profile.sweeps:
        images = range(sweep.start, sweep.images)
        yield from product((sweep.setup,), (sweep.attack,), sweep.methods, sweep.epsilons, images)


def summary(rows: Sequence[Row], *, kept_only: bool = False) -> list[dict[str, Any]]:
    """Average the metrics per condition, with 95 % bootstrap intervals over images.

    Args:
        rows: from `fragility.study.store.read`.
        kept_only: leave out the images without a kept label, the sensitivity analysis; else they count as unchanged.

    Returns:
        Per setup, method, attack and epsilon: n, and the means of `METRICS` and `labels_kept` with `_low` and `_high`.
    """
    chosen = [row for row in rows if row["labels_kept"] or not kept_only]
    return summarise(chosen, ("setup", "method", "attack", "epsilon"), (*METRICS, "labels_kept"))


def differences(rows: Sequence[Row], reference: Sequence[Row]) -> list[dict[str, Any]]:
    """Average what changes in the metrics, image by image, with 95 % bootstrap intervals.

    Args:
        rows: of some setups.
        reference: rows that the first ones of the same image, method, attack and epsilon are compared with.

    Returns:
        Per setup, method, attack and epsilon: n, and the mean differences, `rows` less `reference`, of `METRICS` with
        `_low` and `_high`. Rows without a partner are left out.
    """

    def key(row: Row) -> tuple[Any, ...]:
        return tuple(row[name] for name in ("image", "method", "attack", "epsilon"))

    partners = {key(row): row for row in reference}
    pairs = [(row, partners[key(row)]) for row in rows if key(row) in partners]
    changes = [row | {name: _number(row, name) - _number(other, name) for name in METRICS} for row, other in pairs]
    return summarise(changes, ("setup", "method", "attack", "epsilon"), METRICS)


def _number(row: Row, name: str) -> float:
    return float(row[name] or 0)


def _pieces(sweep: Sweep, ready: Ready, seed: int) -> list[Piece]:
    """All that determines the rows of a piece stands in it, checksums of weights and pixels included."""
    pieces = []
    for epsilon in sweep.epsilons:
        for method in sweep.methods:
            for first in range(sweep.start, sweep.images, sweep.batch):
                rows = slice(first, first + sweep.batch)
                piece = {
                    "version": VERSION,
                    "weights": ready.weights,
                    "pixels": train.fingerprint(ready.data.images[rows]),
                    "first": first,
                    "images": list(ready.data.files[rows]),
                    "seed": seed,
                    "method": method,
                    "epsilon": epsilon,
                }
                rest = asdict(sweep) | asdict(ready.setup)
                for name in ("methods", "epsilons", "start", "images", "batch", "candidates"):
                    del rest[name]
                rest = {name: value for name, value in rest.items() if name not in LATER or value != LATER[name]}
                pieces.append(piece | rest | ready.measured)
    return pieces


def _compute(piece: Piece, ready: Ready) -> list[Row]:
    model, setup = ready.model, ready.setup
    rows = [ready.data.files.index(name) for name in piece["images"]]
    images, labels = ready.data.images[rows].to(ready.device), ready.data.labels[rows].to(ready.device)
    attribution, evaluation = (
        ready.attribution(piece["method"], piece[steps]) for steps in ("attack_steps", "evaluation_steps")
    )
    first, found = _perturb(piece, ready, images, labels, attribution)
    before, after, after_first = (importance(evaluation(model, x, labels)) for x in (images, found.images, first))

    def metrics(maps: Tensor) -> list[list[float]]:
        parts = (top_k_intersection(before, maps, setup.k), spearman(before, maps), center_shift(before, maps))
        return torch.stack(parts, 1).tolist()

    integrated, gradient = piece["method"] == "integrated_gradients", piece["attack"] in GRADIENT_ATTACKS
    score = _objective(piece)
    rise = score(after, before) - score(before, before)
    if gradient:
        with softplus(ready.surrogate_beta):
            smooth, smooth_after = (importance(evaluation(model, x, labels)) for x in (images, found.images))
        smooth_rise = score(smooth_after, smooth) - score(smooth, smooth)
    common: Row = {
        **{name: piece[name] for name in ("setup", "network", "method", "attack", "epsilon", "seed", "k")},
        "pooling": setup.network_options.get("pooling"),
        "step_size": piece["step_size"],
        "iterations": piece["iterations"],
        "adaptive": piece["adaptive"],
        "attack_steps": piece["attack_steps"] if integrated and piece["attack"] != "random" else None,
        "evaluation_steps": piece["evaluation_steps"] if integrated else None,
        "surrogate_beta": ready.surrogate_beta if gradient else None,
    }
    table = zip(metrics(after), metrics(after_first), strict=True)
    return [
        {
            **common,
            "image": piece["images"][index],
            "label": int(labels[index]),
            "class_name": ready.data.class_names[int(labels[index])],
            "labels_kept": bool(found.labels_kept[index]),
            "iteration": int(found.iteration[index]),
            "objective": float(found.objective[index]),
            "confidence_before": float(found.confidence_before[index]),
            "confidence_after": float(found.confidence_after[index]),
            **dict(zip(METRICS, best, strict=True)),
            **dict(zip((f"first_{name}" for name in METRICS), step, strict=True)),
            "gain": NONE if piece["attack"] == "random" else float(rise[index]),
            "surrogate_gain": float(smooth_rise[index]) if gradient else NONE,
            "target_before": float(score(before, before)[index]) if piece["attack"] == "targeted" else NONE,
            "target_after": float(score(after, before)[index]) if piece["attack"] == "targeted" else NONE,
        }
        for index, (best, step) in enumerate(table)
    ]


def _objective(piece: Piece) -> objective.Objective:
    """What an attack maximises, and what the random walk, which maximises nothing, is judged by."""
    if piece["attack"] == "mass_center":
        return objective.mass_center()
    if piece["attack"] == "targeted":
        return objective.targeted(objective.opposite_quadrant)
    return objective.top_k(piece["k"])


def _perturb(
    piece: Piece,
    ready: Ready,
    images: Tensor,
    labels: Tensor,
    attribution: Callable[[nn.Module, Tensor, Tensor], Tensor],
) -> tuple[Tensor, Perturbation]:
    """The first iterate, whatever its label, and the best one."""
    model, epsilon = ready.model, piece["epsilon"] / 255
    if piece["attack"] == "random":
        # One generator per image: its noise is the same for all methods and epsilons, and in a batch of any size.
        draws = [
            random_sign(image.unsqueeze(0), epsilon, generator=_generator(piece["seed"], name))
            for image, name in zip(images, piece["images"], strict=True)
        ]
        return (draw := torch.cat(draws)), _judged(model, images, draw)
    visited: list[Tensor] = []

    def judge(network: nn.Module, points: Tensor, classes: Tensor) -> Tensor:
        if len(visited) < 2:  # the original, then the first iterate
            visited.append(points.detach())
        return attribution(network, points, classes)

    options: dict[str, Any] = {
        "epsilon": epsilon,
        "step_size": piece["step_size"] / 255,
        "iterations": piece["iterations"],
    }
    if piece["attack"] == "random_walk":
        found = random_walk(
            model,
            images,
            labels,
            attribution=judge,
            objective=_objective(piece),
            generator=_generator(piece["seed"], *piece["images"]),
            **options,
        )
    else:
        found = iterative(
            model,
            images,
            labels,
            attribution=attribution,
            evaluation=judge,
            objective=_objective(piece),
            selection=_intersection_lost(piece["k"]) if piece.get("by_metric") else None,
            surrogate_beta=ready.surrogate_beta,
            schedule="adaptive" if piece["adaptive"] else "constant",
            **options,
        )
    if piece.get("rounded"):
        file = _judged(model, images, found.images.mul(255).round().div(255))
        kept = found.labels_kept & file.labels_kept
        found = replace(found, images=file.images, labels_kept=kept, confidence_after=file.confidence_after)
    return visited[1], found


def _intersection_lost(k: int) -> objective.Objective:
    return lambda maps, reference: -top_k_intersection(maps, reference, k)


def _judged(model: nn.Module, images: Tensor, changed: Tensor) -> Perturbation:
    """Changed images by the attacks' convention: the original comes back where the label changes."""
    with torch.no_grad():
        before, after = model(images).softmax(1), model(changed).softmax(1)
    prediction = before.argmax(1, keepdim=True)
    kept = after.argmax(1, keepdim=True) == prediction
    best = torch.where(kept.view(-1, 1, 1, 1), changed, images)
    kept, confidence = kept.squeeze(1), torch.where(kept, after, before).gather(1, prediction).squeeze(1)
    return Perturbation(
        images=best,
        labels_kept=kept,
        objective=torch.full_like(confidence, float("nan")),
        iteration=kept.long(),
        confidence_before=before.gather(1, prediction).squeeze(1),
        confidence_after=confidence,
        distance=(best - images).abs().amax((1, 2, 3)),
    )


def _generator(*names: object) -> torch.Generator:
    # On the processor, so that a GPU sees the same noise.
    return torch.Generator().manual_seed(int(train.fingerprint(*names)[:15], 16))


def _cost(piece: Piece) -> float:
    """Gradient passes through the network, roughly: an attack's step is four and the judgement of an iterate two."""

    def one(steps: int) -> int:
        return {"simple_gradient": 1, "deeplift": 8, "integrated_gradients": steps}[piece["method"]]

    steps = {"random": 0, "random_walk": 2}.get(piece["attack"], 6) * piece["iterations"]
    maps = 5 if piece["attack"] in GRADIENT_ATTACKS else 3
    return float(len(piece["images"]) * (steps * one(piece["attack_steps"]) + maps * one(piece["evaluation_steps"])))
