"""The pieces of an audit, in the order in which they are worth most, and how the rows of one are computed."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fragility._call import logits_of
from fragility.attack import iterative, random_sign
from fragility.audit.images import Images
from fragility.audit.methods import Method, budget, faithfulness
from fragility.data.png import read_pixels, write_png
from fragility.fingerprint import fingerprint
from fragility.iterate import BestIterate, Judge, safe_importance
from fragility.objective import mass_center, top_k
from fragility.sensitivity import climb, draws, extremes
from fragility.similarity import center_shift, neighborhood_recall, spearman, top_k_intersection
from fragility.study.piece import Piece, Row, declared, generator, row_per_image
from fragility.study.store import piece_name

STEPS = (5, 10, 20, 40, 80, 160, 320, 640)  # of the annealed preset
ATTACKS = ("top_k", "mass_center")
MEASURES = ("top_k", "noise", "mass_center", "draws", "sampling", "climb")
FIRST = 4  # images that are measured before the others
SETTLED = 0.01  # by how much the mean may move when the budget is doubled


@dataclass
class Clock:
    """The time of an audit, in seconds, with that of earlier runs."""

    limit: float  # infinite for none
    start: float = field(default_factory=time.monotonic)

    def now(self) -> float:
        """Return how much has gone by."""
        return time.monotonic() - self.start


class Setting(NamedTuple):
    """What is audited, on its device.

    Attributes:
        model: images to logits (B, K).
        name: its checksum.
        images: what is explained; the pixels lie on the model's device.
        methods: by name, those that are attacked first in front.
        beta: of the surrogate; None for none.
        epsilons: in units of the pixel range, the largest first.
        batch: how many images are measured together.
        folder: of the report.
    """

    model: nn.Module
    name: str
    images: Images
    methods: Mapping[str, Method]
    beta: float | None
    epsilons: Sequence[float]
    batch: int
    folder: Path

    def predicted(self, places: Sequence[int]) -> Tensor:
        """Return the predictions for some of the images, int64, which are what is explained."""
        with torch.no_grad():
            return logits_of(self.model, self.images.pixels[places]).argmax(1)


def pieces(setting: Setting) -> list[Piece]:
    """List all that may be measured, what is worth most first.

    First the first method at the largest epsilon on the first images; then what helps; then the other images, epsilons
    and methods; then longer attacks. Beside attacks stand as many random draws as they have steps together.

    Args:
        setting: what is audited.

    Returns:
        The pieces; `wanted` says which of them are worth their time.
    """
    pixels, ranked = setting.images.pixels, []
    own = [method for method in setting.methods.values() if not method.helps]
    helps = [method for method in setting.methods.values() if method.helps]
    cells = [(method, epsilon) for method in own for epsilon in setting.epsilons]
    cells[1:1] = [(method, setting.epsilons[0]) for method in helps]
    for first in range(0, len(pixels), setting.batch):
        rows = slice(first, first + setting.batch)
        common = {"version": 1, "first": first, "images": list(setting.images.names[rows]), "model": setting.name}
        common |= {"pixels": fingerprint(pixels[rows])[:12], "beta": setting.beta}
        for place, (method, epsilon) in enumerate(cells):
            main, early = place == 0 or method.helps, first < FIRST
            spared = method.helps * ("mass_center", "sampling", "climb") + (not method.surrogate) * ("climb",)
            own_entries = {"method": method.name, "settings": method.settings, "epsilon": round(255 * epsilon, 6)}
            for (level, steps), (order, measure) in product(enumerate(STEPS), enumerate(MEASURES)):
                if (measure == "noise" and level) or measure in spared:
                    continue
                stage = (level - 3 if level > 4 else 0) or (0 if main and early else 0.5 if main else 1)
                count = {"noise": 1, "draws": 2 * steps, "sampling": 2 * steps}.get(measure, steps)
                key = (stage, first if stage == 0.5 else place, level, first, order)
                ranked.append((key, common | own_entries | {"measure": measure, "budget": count}))
    return [piece for _, piece in sorted(ranked, key=lambda pair: pair[0])]


def cost(piece: Piece, setting: Setting) -> float:
    """Work in gradients: a step of an attack is a Hessian-vector product and a look."""
    per_step = 4.5 if piece["measure"] in (*ATTACKS, "climb") else 1.3
    return float(len(piece["images"]) * (piece["budget"] * per_step + 3) * setting.methods[piece["method"]].cost)


History = dict[tuple[Any, ...], dict[int, float]]  # a piece's key -> the means by the budget


def history(setting: Setting, done: Mapping[str, Sequence[Row]], plan: Sequence[Piece]) -> History:
    """Collect the means of what the attacks have left so far, in shares of the top k or of the image's diagonal."""
    diagonal = sum(side * side for side in setting.images.pixels.shape[2:]) ** 0.5
    found: History = {}
    for piece in plan:
        if rows := done.get(piece_name(piece), ()):
            center = piece["measure"] == "mass_center"
            column, scale = ("center_shift", diagonal) if center else ("top_k_intersection", 1.0)
            values = [float(row[column] or 0) / scale for row in rows]
            found.setdefault(_key(piece, piece["measure"]), {})[piece["budget"]] = sum(values) / len(values)
    return found


def _key(piece: Piece, measure: str) -> tuple[Any, ...]:
    return piece["method"], piece["epsilon"], piece["first"], measure


def wanted(piece: Piece, known: History, base: int, most: int) -> bool:
    """Whether a piece is worth its time: a longer attack is while the last doubling moved the mean by `SETTLED`."""
    if piece["measure"] == "noise":
        return True
    if piece["measure"] not in ATTACKS:  # as many tries as the attacks had steps
        return piece["budget"] // (1 if piece["measure"] == "climb" else 2) in known.get(_key(piece, "top_k"), {})
    steps, earlier = piece["budget"], known.get(_key(piece, piece["measure"]), {})
    if steps <= 2 * base or steps > most:
        return bool(base <= steps <= most)
    if not {steps // 2, steps // 4} <= earlier.keys():
        return False
    return abs(earlier[steps // 2] - earlier[steps // 4]) >= SETTLED


def rows(piece: Piece, setting: Setting) -> list[Row]:
    """Measure a piece, a row for each image; what is stored of an attack's image is read off its 8-bit file."""
    places = [setting.images.names.index(name) for name in piece["images"]]
    method, images, labels = setting.methods[piece["method"]], setting.images.pixels[places], setting.predicted(places)
    epsilon, judge = piece["epsilon"] / 255, Judge(setting.model, images, labels, method.judge)
    given = setting.images.labels
    right = [] if given is None else (given[places] == labels.cpu()).tolist()
    blank: dict[str, Any] = {name: float("nan") for name in STUDY.columns if name not in (*piece, "image")}
    blank |= {"file": "", "note": "", "confidence_before": judge.confidence}
    blank["correct"] = ["yes" if one else "no" for one in right] or ""
    if piece["measure"] in ("sampling", "climb"):
        sources = _sources(images, piece["measure"], piece["epsilon"], piece["budget"])
        options = {"attribution": method.attack, "beta": setting.beta or 1.0, "iterations": piece["budget"]}
        points = {
            "sampling": islice(draws(images, epsilon, sources), piece["budget"]),
            "climb": climb(setting.model, images, labels, epsilon=epsilon, generators=sources, **options),
        }
        *_, most = extremes(judge, points[piece["measure"]], _k(judge.reference))
        found = {"top_k_intersection": most.top_k, "relative_change": most.change, "lipschitz": most.lipschitz}
        return row_per_image(piece, **blank | found | {"label_kept": most.kept > 0, "prediction": labels})
    more: dict[str, Any] = {}
    if piece["measure"] in ("noise", "draws"):
        x = _best_noise(piece, judge)
    else:
        x, more["note"] = _attacked(piece, setting, method, judge)
        more["file"] = [_file(piece, setting, place) for place in places]
        for place, file, original, image in zip(places, more["file"], images, x, strict=True):
            write_png(setting.folder / f"images/{place:04d}-original.png", original)
            write_png(setting.folder / file, image)
        x = torch.stack([read_pixels(setting.folder / file, images.shape[1]) for file in more["file"]]).to(images)
        more["fidelity"] = faithfulness(method, setting.model, images, labels)
    return row_per_image(piece, **blank | _compared(judge, x) | more)


def _sources(images: Tensor, purpose: str, *keys: object) -> list[torch.Generator]:
    """Where the draws for each image come from: those of another budget are other draws."""
    return [generator(purpose, fingerprint(image), *keys) for image in images]


def _file(piece: Piece, setting: Setting, place: int) -> str:
    stem = re.sub(r"[^A-Za-z0-9]+", "-", setting.images.names[place]).strip("-")[:40]
    method = re.sub(r"[^A-Za-z0-9.-]+", "-", piece["method"])
    return f"images/{place:04d}-{stem}/{method}-{piece['measure']}-{piece['epsilon']:g}-{piece['budget']}.png"


def _compared(judge: Judge, x: Tensor) -> dict[str, Any]:
    """Compare changed images with the originals."""
    (before, _), (attributions, logits) = judge.look(judge.images), judge.look(x)
    maps, alive = safe_importance(attributions)
    moved, size, step = ((a - b).flatten(1).norm(dim=1) for a, b in
                         ((attributions, before), (before, 0 * before), (x, judge.images)))  # fmt: skip
    reference, best, k = judge.reference, logits.argmax(1), _k(maps)
    return {
        "label_kept": (best == judge.prediction) & alive & judge.sound,
        "prediction": best,
        "confidence_after": judge.confidence_of(logits),
        "distance": 255 * (x - judge.images).abs().flatten(1).amax(1),
        "top_k_intersection": top_k_intersection(maps, reference, k),
        "recall": neighborhood_recall(reference, maps, k, radius=1),
        "spearman": spearman(maps, reference),
        "center_shift": center_shift(maps, reference),
        "relative_change": moved / size,
        "lipschitz": (moved / step).where(step > 0, 0),
    }


def _best_noise(piece: Piece, judge: Judge) -> Tensor:
    """Of draws of signs that keep the label the one that shares fewest important pixels, for every image."""
    best, k = BestIterate(judge.images, judge.confidence), _k(judge.reference)
    sources = _sources(judge.images, "noise", piece["epsilon"], piece["measure"], piece["budget"])
    for number in range(1, piece["budget"] + 1):
        pairs = zip(torch.split(judge.images, 1), sources, strict=True)
        x = torch.cat([random_sign(image, piece["epsilon"] / 255, generator=source) for image, source in pairs])
        if piece["measure"] == "noise":
            return x
        seen = judge(x)
        best.offer(number, x, -top_k_intersection(seen.maps, judge.reference, k), seen.confidence, seen.kept)
    return best.images


def _attacked(piece: Piece, setting: Setting, method: Method, judge: Judge) -> tuple[Tensor, str]:
    """The best iterates of an attack, at levels of 8 bits; and why it did not start."""
    epsilon, labels = piece["epsilon"] / 255, judge.prediction
    goal = top_k(_k(judge.reference)) if piece["measure"] == "top_k" else mass_center()
    try:
        found = iterative(
            setting.model, judge.images, labels, attribution=method.attack, evaluation=method.judge, objective=goal,
            epsilon=epsilon, levels=255, **budget(method, epsilon, setting.beta, piece["budget"]),
        )  # fmt: skip
    except ValueError as error:
        return judge.images, str(error)
    return found.images, ""


def _k(maps: Tensor) -> int:
    """How many pixels count as most important: a fiftieth of them, about the paper's 1000 of 227^2."""
    return max(1, maps[0].numel() // 50)


STUDY = declared(__file__, lambda *_: (None, {}), lambda *_: (), rows)
