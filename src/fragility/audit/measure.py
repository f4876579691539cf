"""The pieces of an audit, in the order in which they are worth most, and how the rows of one are computed."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fragility._call import logits_of
from fragility._checks import per_row
from fragility.attack import iterative, random_sign
from fragility.audit.images import Images, read_png, write_png
from fragility.audit.methods import Method, budget, faithfulness, identity
from fragility.fingerprint import fingerprint
from fragility.iterate import explain, safe_importance
from fragility.objective import Objective, mass_center, top_k
from fragility.similarity import center_shift, neighborhood_recall, spearman, top_k_intersection
from fragility.step import ball, uniform
from fragility.study.piece import Columns, Piece, Row, generator, row_per_image

STEPS = 40  # of the annealed preset, at first
DOUBLINGS = 4
SETTLED = 0.01  # by how much the mean may move when the budget is doubled

COLUMNS: Columns = {
    "image": (str, "its name"),
    "correct": (str, "yes or no: is the prediction the label that came with the image? Empty where none came"),
    "method": (str, "what the map shows"),
    "measure": (str, "top_k or mass_center (an attack), noise (one draw of signs), draws (the best of many), sampling"),
    "epsilon": (float, "largest change of a pixel, of 255 levels"),
    "budget": (int, "steps of the attack, or draws"),
    "label_kept": (bool, "whether the changed image, read from its file, gets the original's prediction"),
    "prediction": (int, "class of the changed image"),
    "confidence_before": (float, "probability of the prediction, of the original"),
    "confidence_after": (float, "the same of the changed image"),
    "distance": (float, "largest change of a pixel that was made, of 255 levels"),
    "top_k_intersection": (float, "share of the k most important pixels that still are among them"),
    "recall": (float, "the same if a pixel may move to one of its eight neighbours (LENS recall, w = 1)"),
    "spearman": (float, "rank correlation of the two maps"),
    "center_shift": (float, "distance of their centres of mass, in pixels"),
    "relative_change": (float, "|a(x') - a(x)| / |a(x)| of the signed attributions; the largest one for sampling"),
    "lipschitz": (float, "|a(x') - a(x)| / |x' - x|; the largest one for sampling"),
    "fidelity": (float, "rank correlation of the method's map of the original with the model's own gradient map"),
    "file": (str, "the changed image"),
    "note": (str, "why an attack did not start"),
}


@dataclass(frozen=True, eq=False)
class Setting:
    """What is audited, on its device.

    Attributes:
        model: images to logits (B, K).
        images: what is explained; the pixels lie on the model's device.
        labels: int64 (N,), the predictions, which are explained.
        methods: by name, those that are attacked first in front.
        beta: of the surrogate; None for none.
        epsilons: in units of the pixel range, the largest first.
        folder: of the report.
    """

    model: nn.Module
    images: Images
    labels: Tensor
    methods: Mapping[str, Method]
    beta: float | None
    epsilons: Sequence[float]
    folder: Path
    name: str = field(default="")

    def __post_init__(self) -> None:
        kind = type(self.model).__name__
        object.__setattr__(self, "name", fingerprint(kind, dict(self.model.state_dict()))[:12])


def pieces(setting: Setting, batch: int | None = None) -> list[Piece]:
    """List all that may be measured, what is worth most first.

    First the first method at the largest epsilon on the first images: attack, noise, and the attack with twice the
    steps; then what helps; then the other images, epsilons and methods; then longer attacks.

    Args:
        setting: what is audited.
        batch: images in a piece; None for as many as fit a processor's memory.

    Returns:
        Pieces; those of a longer attack are wanted only where the shorter ones have not settled.
    """
    pixels = setting.images.pixels
    batch = batch or max(1, min(64, 2**18 // pixels[0, 0].numel()))
    own = [method for method in setting.methods.values() if not method.helps]
    cells = [(method, epsilon) for method in own for epsilon in setting.epsilons]
    cells[1:1] = [(method, setting.epsilons[0]) for method in setting.methods.values() if method.helps]
    ranked = []
    for first in range(0, len(pixels), batch):
        names = list(setting.images.names[first : first + batch])
        for place, (method, epsilon) in enumerate(cells):
            common = {"first": first, "images": names, "pixels": fingerprint(pixels[first : first + batch])[:12]}
            common |= {"model": setting.name, "method": method.name, "how": identity(method), "beta": setting.beta}
            common |= {"epsilon": round(255 * epsilon, 6), "diagonal": round(math.hypot(*pixels.shape[2:]), 6)}
            main = place == 0 or method.helps
            rank = (0 if main and first == 0 else 1 if main else 2, first if main else place)
            for level in range(1 if method.helps else DOUBLINGS + 1):
                late = (3, level) if level > 1 else rank
                for order, measure in enumerate(("top_k", "mass_center", "noise", "draws")):
                    if (measure == "noise" and level) or (method.helps and measure == "mass_center"):
                        continue
                    steps = 1 if measure == "noise" else STEPS * 2**level
                    entry = {"measure": measure, "budget": steps, "cost": _cost(measure, steps, method, len(names))}
                    ranked.append(((*late, place, first, level, order), common | entry))
    return [piece for _, piece in sorted(ranked, key=lambda pair: pair[0])]


def _cost(measure: str, steps: int, method: Method, images: int) -> float:
    """Work in gradients: a step of an attack is a Hessian-vector product and a look, a draw two looks."""
    return images * steps * method.cost * {"noise": 1, "draws": 2}.get(measure, 4.5)


def wanted(piece: Piece, done: Mapping[str, Sequence[Row]], plan: Sequence[Piece], names: Sequence[str]) -> bool:
    """Whether a longer attack is worth its time: the last doubling moved the mean by `SETTLED` or more.

    Args:
        piece: of the plan.
        done: rows by the name of their piece.
        plan: all pieces.
        names: theirs.

    Returns:
        True for all pieces of the first two budgets; draws follow the top-k attack of as many steps.
    """
    if piece["budget"] <= 2 * STEPS:
        return True
    measure = "top_k" if piece["measure"] == "draws" else piece["measure"]
    same = {**piece, "measure": measure}
    earlier = {}
    for other, name in zip(plan, names, strict=True):
        keys = ("method", "measure", "epsilon", "first", "images")
        if name in done and all(other[key] == same[key] for key in keys):
            earlier[other["budget"]] = _mean(done[name], measure)
    if piece["measure"] == "draws":
        return piece["budget"] in earlier
    half = piece["budget"] // 2
    if half not in earlier or half // 2 not in earlier:
        return False
    scale = 1.0 if measure == "top_k" else piece["diagonal"]
    return abs(earlier[half] - earlier[half // 2]) >= SETTLED * scale


def _mean(rows: Sequence[Row], measure: str) -> float:
    column = "top_k_intersection" if measure == "top_k" else "center_shift"
    return sum(float(row[column] or 0) for row in rows) / len(rows)


def rows(piece: Piece, setting: Setting) -> list[Row]:
    """Measure a piece; what is stored of a changed image is read off its 8-bit file.

    Args:
        piece: of `pieces`.
        setting: what is audited.

    Returns:
        A row for each image.
    """
    places = [setting.images.names.index(name) for name in piece["images"]]
    look = _Look(setting, places, setting.methods[piece["method"]])
    if piece["measure"] == "noise":
        x = torch.cat([_noise(image, piece, 0) for image in torch.split(look.images, 1)])
        return look.rows(piece, x)
    if piece["measure"] == "draws":
        return _draws(piece, look)
    x, note = _attacked(piece, setting, look)
    files = []
    for place, image in zip(places, x, strict=True):
        stem = re.sub(r"[^A-Za-z0-9]+", "-", setting.images.names[place]).strip("-")[:40]
        what = f"{piece['method']}-{piece['measure']}-{piece['epsilon']:g}-{piece['budget']}"
        files.append(f"images/{place:04d}-{stem}/{re.sub(r'[^A-Za-z0-9.-]+', '-', what)}.png")
        write_png(setting.folder / files[-1], image)
    written = [read_png(setting.folder / file, image) for file, image in zip(files, look.images, strict=True)]
    fidelity = faithfulness(look.method, setting.model, look.images, look.labels)
    return look.rows(piece, torch.stack(written), file=files, note=note, fidelity=fidelity)


class _Look:
    """The maps of some images, and how those of others compare with them."""

    def __init__(self, setting: Setting, places: Sequence[int], method: Method) -> None:
        self.setting, self.method, self.names = setting, method, [setting.images.names[place] for place in places]
        self.images, self.labels = setting.images.pixels[places], setting.labels[places]
        self.before, self.reference, confidence, _, _ = self._see(self.images)
        self.confidence = confidence
        given = setting.images.labels
        right = [] if given is None else (given == setting.labels.cpu()).tolist()
        self.correct = [("yes" if right[place] else "no") if right else "" for place in places]

    def _see(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Attributions, maps, the probability of the original prediction, the prediction, and whether it is kept."""
        attributions = explain(self.method.judge, self.setting.model, x, self.labels).detach()
        maps, alive = safe_importance(attributions)
        with torch.no_grad():
            logits = logits_of(self.setting.model, x)
        best = logits.argmax(1)
        confidence = logits.softmax(1).gather(1, self.labels.unsqueeze(1)).squeeze(1)
        return attributions, maps, confidence, best, (best == self.labels) & alive

    def columns(self, x: Tensor) -> dict[str, Tensor]:
        """Compare changed images with the originals."""
        attributions, maps, confidence, best, kept = self._see(x)
        moved = (attributions - self.before).flatten(1).norm(dim=1)
        k = most_important(maps)
        return {
            "label_kept": kept,
            "prediction": best,
            "confidence_before": self.confidence,
            "confidence_after": confidence,
            "distance": 255 * (x - self.images).abs().flatten(1).amax(1),
            "top_k_intersection": top_k_intersection(maps, self.reference, k),
            "recall": neighborhood_recall(self.reference, maps, k, radius=1),
            "spearman": spearman(maps, self.reference),
            "center_shift": center_shift(maps, self.reference),
            "relative_change": moved / self.before.flatten(1).norm(dim=1),
            "lipschitz": moved / (x - self.images).flatten(1).norm(dim=1).clamp_min(1e-12),
        }

    def rows(self, piece: Piece, x: Tensor | Mapping[str, Tensor], **more: Any) -> list[Row]:
        """Rows of changed images, or of their columns."""
        columns = self.columns(x) if isinstance(x, Tensor) else x
        empty: dict[str, Any] = {"fidelity": float("nan"), "file": "", "note": ""}
        own = {name: piece[name] for name in ("method", "measure", "epsilon", "budget")}
        return row_per_image(piece, correct=self.correct, **{**own, **empty, **columns, **more})


def _noise(image: Tensor, piece: Piece, draw: int) -> Tensor:
    """Signs at random, which the image, epsilon and the number of the draw determine."""
    source = generator("audit", fingerprint(image), piece["epsilon"], draw)
    return random_sign(image, piece["epsilon"] / 255, generator=source)


def _attacked(piece: Piece, setting: Setting, look: _Look) -> tuple[Tensor, str]:
    """The best iterates of an attack, at levels of 8 bits inside the ball; and why it did not start."""
    epsilon = piece["epsilon"] / 255
    goals: dict[str, Objective] = {"top_k": top_k(most_important(look.reference)), "mass_center": mass_center()}
    options = budget(epsilon, setting.beta, piece["budget"])
    try:
        found = iterative(
            setting.model, look.images, look.labels, attribution=look.method.attack, evaluation=look.method.judge,
            objective=goals[piece["measure"]], epsilon=epsilon, **options,
        )  # fmt: skip
    except ValueError as error:
        return look.images, str(error)
    level, reach = (255 * look.images).round(), int(piece["epsilon"] + 1e-6)
    return (255 * found.images).round().clamp(level - reach, level + reach) / 255, ""


def most_important(maps: Tensor) -> int:
    """How many pixels count as most important: a fiftieth of them, about the paper's 1000 of 227^2."""
    return max(1, maps[0].numel() // 50)


def _draws(piece: Piece, look: _Look) -> list[Row]:
    """The draw of signs that changes the top k most, and what sampling tools report of draws from the whole ball."""
    best: dict[str, Tensor] = {}
    largest: dict[str, Tensor] = {}
    lower, upper = ball(look.images, piece["epsilon"] / 255)
    for draw in range(1, piece["budget"] + 1):
        found = look.columns(torch.cat([_noise(image, piece, draw) for image in torch.split(look.images, 1)]))
        best = _better(best, found, found["top_k_intersection"] < best["top_k_intersection"] if best else None)
        sources = [generator("uniform", fingerprint(image), piece["epsilon"], draw) for image in look.images]
        shares = [uniform(image, source) for image, source in zip(torch.split(look.images, 1), sources, strict=True)]
        seen = look.columns(torch.lerp(lower, upper, torch.cat(shares)).clamp(lower, upper))
        for name in ("relative_change", "lipschitz"):  # of which the maxima need not come from the same draw
            seen[name] = torch.maximum(seen[name].where(seen["label_kept"], 0), largest.get(name, seen[name] * 0))
        seen["label_kept"] = seen["label_kept"] | largest.get("label_kept", seen["label_kept"])
        largest = seen
    return look.rows(piece, best) + look.rows({**piece, "measure": "sampling"}, largest)


def _better(best: dict[str, Tensor], found: dict[str, Tensor], lower: Tensor | None) -> dict[str, Tensor]:
    """Of every image the draw that keeps the label and shares fewest pixels."""
    if lower is None:
        return found
    take = found["label_kept"] & (lower | ~best["label_kept"])
    return {name: torch.where(per_row(take, column), column, best[name]) for name, column in found.items()}
