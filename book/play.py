"""Compute the pieces that a reader can touch: their pictures, their numbers, and the HTML that shows them.

    python book/play.py [digit] [board] [wall] [film] [original] [stored] [aim] [budget] [path] [beta]

None named: all; so does `make play`. Half an hour on two cores, most of it for `aim`. The pieces need no kernel and
load nothing from outside; without JavaScript they are pictures. `_static/pieces.js` and the scripts in
`_static/pieces` move them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial

import play_board
import play_digit
import play_film
import play_original
import play_still
import play_stored
import torch
from torch import Tensor
from torch.nn import functional as F

from fragility import network, page
from fragility.attack import iterative, random_sign
from fragility.attribution import importance, integrated_gradients, simple_gradient
from fragility.data import datasets
from fragility.objective import box, mass_center, targeted
from fragility.similarity import center_of_mass, center_shift, spearman, top_k_intersection
from fragility.surrogate import softplus

FOLDER = play_still.FOLDER
MEAN = torch.tensor([123, 117, 104]).view(3, 1, 1) / 255  # of ImageNet, in the order of RGB
K, STEPS = 1000, 60
NINTHS = [f"{row} {column}".strip() for row in ("top", "middle", "bottom") for column in ("left", "", "right")]
NINTHS[1], NINTHS[3:6], NINTHS[7] = "top", ["left", "middle", "right"], "bottom"


@dataclass(frozen=True)
class Control:
    """Something a reader moves: its name and the positions it has.

    `kind` is "range" (a slider), "choice" (a row of radio buttons) or "place" (a grid of them, three by three, over the
    last picture; what exceeds nine stands below it).
    """

    name: str
    positions: Sequence[str]
    kind: str = "range"
    start: int = 0


@dataclass(frozen=True)
class Panel:
    """One of the pictures that stand side by side.

    Attributes:
        title: what it is.
        sheets: pictures of one size; those of a sheet share a file.
        frames: for every combination of the controls' positions the sheet and the place in it.
    """

    title: str
    sheets: Sequence[Sequence[Tensor]]
    frames: Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Piece:
    """Panels that follow controls. Of combinations, the last control changes fastest.

    Attributes:
        controls: what a reader moves.
        panels: the pictures.
        readouts: a sentence per combination.
        still: the combination that is shown without JavaScript.
        marks: points on the last panel, per combination: (x, y) in per cent of its sides.
    """

    controls: Sequence[Control]
    panels: Sequence[Panel]
    readouts: Sequence[str]
    still: int
    marks: Sequence[Sequence[tuple[float, float]]] = field(default=())


def photograph(title: str) -> tuple[Tensor, Tensor]:
    """Return a free photograph (1, 3, 227, 227) and its label (1,)."""
    photographs = datasets.photographs()
    label = photographs.class_names.index(title)
    row = int((photographs.labels == label).nonzero()[0])
    return photographs.images[row : row + 1], torch.tensor([label])


def point(maps: Tensor) -> tuple[float, float]:
    """Return the centre of mass of a map (1, H, W) as per cent of the width and of the height."""
    row, column = center_of_mass(maps)[0].tolist()
    return round(100 * (column + 0.5) / maps.shape[2], 1), round(100 * (row + 0.5) / maps.shape[1], 1)


def agreement(before: Tensor, after: Tensor) -> str:
    """Put the three metrics into words."""
    rho, top = spearman(before, after).item(), top_k_intersection(before, after, K).item()
    shift = center_shift(before, after).item()
    return f"Spearman {rho:.2f}, top-{K} intersection {top:.2f}, centre of mass {shift:.0f} px away"


def aim() -> Piece:
    """Gather the importance in a ninth of the picture of the reader's choice, or add random noise of the same size."""
    image, label = photograph("Egyptian cat")
    model, side = network.squeezenet(), image.shape[-1]
    before = importance(simple_gradient(model, image, label))
    edges = [round(side * third / 3) for third in range(4)]
    ninths = [(row, column) for row in range(3) for column in range(3)]
    regions = torch.stack([box((side, side), edges[r], edges[c], edges[r + 1], edges[c + 1]) for r, c in ninths])
    sizes = (0, 1, 2, 4, 8)
    copies, labels = image.expand(len(regions), -1, -1, -1).contiguous(), label.expand(len(regions))
    best, most = copies, ((before * regions).sum((1, 2)) / before.sum())
    changed = [torch.cat([copies, image])]
    for size in sizes[1:]:
        found = iterative(
            model, copies, labels, attribution=simple_gradient, objective=targeted(regions), epsilon=size / 255,
            step_size=min(1.0, size / 4) / 255, iterations=STEPS, surrogate_beta=1.0, progress=True,
        )  # fmt: skip
        maps = importance(simple_gradient(model, found.images, labels))
        share = (maps * regions).sum((1, 2)) / maps.sum((1, 2))
        better = found.labels_kept & (share > most)  # what a smaller change achieved, a larger one may keep
        best = torch.where(better[:, None, None, None], found.images, best)
        most = torch.where(better, share, most)
        noise = random_sign(image, size / 255, generator=torch.Generator().manual_seed(0))
        changed.append(torch.cat([best, noise]))
    by_place = torch.stack(changed, dim=1)  # (10, 5, 3, H, W)
    maps = torch.stack([importance(simple_gradient(model, images, label.expand(len(sizes)))) for images in by_place])
    readouts, marks = [], []
    for place in range(len(by_place)):
        for size, picture, changed_map in zip(sizes, by_place[place], maps[place], strict=True):
            readouts.append(_aimed(model, picture, label, changed_map, regions, place, size, before))
            marks.append((point(before), point(changed_map[None])))
    places = range(len(by_place))
    frames = [(place, number) for place in places for number in range(len(sizes))]
    return Piece(
        [
            Control("Where the importance should go", [*NINTHS, "random noise instead"], "place"),
            Control("Largest change of a pixel, of 255 steps", [str(size) for size in sizes]),
        ],
        [
            Panel("the photograph", [list(images) for images in by_place], frames),
            Panel("its importance map", [list(row) for row in maps], frames),
        ],
        readouts,
        len(sizes) - 1,
        marks,
    )


def _aimed(
    model: torch.nn.Module, picture: Tensor, label: Tensor, changed: Tensor, regions: Tensor, place: int, size: int,
    before: Tensor,
) -> str:  # fmt: skip
    """Say what became of the prediction and of the map."""
    probability = model(picture[None]).softmax(1)[0]
    kept = probability.argmax() == label
    sure = f"Egyptian cat, {probability[label].item():.0%}"
    if size == 0:
        words = f"Prediction: {sure}. Nothing is changed yet."
    else:
        words = f"Still {sure}." if kept else f"No longer {sure}, so this one does not count."
    if place < len(regions):
        share = [((maps * regions[place]).sum() / maps.sum()).item() for maps in (before[0], changed)]
        words += f" The marked ninth holds {share[1]:.0%} of the importance"
        words += f", {share[0]:.0%} before." if size else "."
    return words + (f" The centre moved {center_shift(before, changed[None]).item():.0f} px." if size else "")


def budget() -> Piece:
    """The mass-centre attack, and noise, at growing epsilon."""
    image, label = photograph("Egyptian cat")
    model = network.squeezenet()
    before = importance(simple_gradient(model, image, label))
    sizes, pictures, maps, readouts, marks = (0, 0.25, 0.5, 1, 2, 4, 8), [], [], [], []
    for kind in ("attack", "noise"):
        for size in sizes:
            if size == 0:
                changed = image
            elif kind == "noise":
                changed = random_sign(image, size / 255, generator=torch.Generator().manual_seed(0))
            else:
                found = iterative(
                    model, image, label, attribution=simple_gradient, objective=mass_center(), epsilon=size / 255,
                    step_size=min(1.0, size / 4) / 255, iterations=STEPS, surrogate_beta=1.0,
                )  # fmt: skip
                changed = found.images
            after = importance(simple_gradient(model, changed, label))
            probability = model(changed).softmax(1)[0]
            kept = "still" if probability.argmax() == label else "no longer"
            pictures.append(changed[0])
            maps.append(after[0])
            marks.append((point(before), point(after)))
            readouts.append(
                f"{agreement(before, after)}; {kept} Egyptian cat, {probability[label].item():.0%}."
                if size
                else f"The original: Egyptian cat, {probability[label].item():.0%}."
            )
    frames = [(0, number) for number in range(len(maps))]
    return Piece(
        [
            Control("What is added", ["the mass-centre attack's change", "random noise"], "choice"),
            Control("Largest change of a pixel, of 255 steps", [f"{size:g}" for size in sizes]),
        ],
        [Panel("the photograph", [pictures], frames), Panel("its importance map", [maps], frames)],
        readouts,
        len(sizes) - 1,
        marks,
    )


def path() -> Piece:
    """Integrated gradients of one photograph from several baselines, with several numbers of steps."""
    image, label = photograph("espresso")
    model = network.squeezenet()
    blurred = F.interpolate(F.avg_pool2d(image, 15, 15), size=image.shape[-2:], mode="bilinear", align_corners=False)
    baselines = {
        "black": torch.zeros(3, 1, 1),
        "ImageNet's mean colour": MEAN,
        "white": torch.ones(3, 1, 1),
        "the photograph, blurred": blurred,
    }
    steps, starts, maps, readouts = (1, 5, 20, 100, 500), [], [], []
    for baseline in baselines.values():
        start = baseline.expand_as(image).contiguous()
        difference = (model(image) - model(start))[0, label.item()].item()
        starts.append(start[0])
        for m in steps:
            attributions = integrated_gradients(model, image, label, baseline=start, steps=m)
            maps.append(importance(attributions)[0])
            total = attributions.sum().item()
            readouts.append(
                f"The attributions sum to {total:.1f}. They should sum to {difference:.1f}, by which the score of the "
                f"photograph exceeds that of the baseline: they miss it by {abs(total - difference):.1f}."
            )
    count = len(steps)
    return Piece(
        [
            Control("Baseline", list(baselines), "choice"),
            Control("Steps M", [str(m) for m in steps], start=2),
        ],
        [
            Panel("the photograph", [[image[0]]], [(0, 0)] * len(maps)),
            Panel("the baseline", [starts], [(0, number // count) for number in range(len(maps))]),
            Panel("integrated gradients", [maps], [(0, number) for number in range(len(maps))]),
        ],
        readouts,
        2,
    )


def beta() -> Piece:
    """Maps of the softplus surrogate as it becomes sharper."""
    image, label = photograph("Egyptian cat")
    model = network.squeezenet()
    own = importance(simple_gradient(model, image, label))
    betas, maps, readouts = [2.0**power for power in range(-5, 6)], [], []
    for sharpness in betas:
        with softplus(sharpness):
            smooth = importance(simple_gradient(model, image, label))
        maps.append(smooth[0])
        readouts.append(f"The two maps compared: {agreement(own, smooth)}.")
    return Piece(
        [Control("Sharpness beta", [f"{sharpness:g}" for sharpness in betas], start=2)],
        [
            Panel("the network's own map", [[own[0]]], [(0, 0)] * len(maps)),
            Panel("the softplus surrogate's", [maps], [(0, number) for number in range(len(maps))]),
        ],
        readouts,
        2,
    )


def write(name: str, piece: Piece) -> None:
    """Write a piece's pictures, those that stand there without JavaScript, and what moves them."""
    panels, stills = [], []
    for place, panel in enumerate(piece.panels):
        rendered = [[page.rendered(image) for image in images] for images in panel.sheets]
        sheets = []
        for number, pictures in enumerate(rendered):
            file = f"{name}-{place}-{number}.webp"
            play_still.side_by_side(file, pictures, gap=0, quality=82)
            sheets.append([file, len(pictures)])
        sheet, column = panel.frames[piece.still]
        stills.append(rendered[sheet][column])
        panels.append({"title": panel.title, "sheets": sheets, "frames": panel.frames})
    play_still.side_by_side(f"{name}.webp", stills)
    controls = [asdict(control) for control in piece.controls]
    data = {"controls": controls, "panels": panels, "readouts": piece.readouts, "marks": piece.marks}
    (FOLDER / f"{name}-data.js").write_text(f"globalThis.{name}Data = {json.dumps(data)};\n", encoding="utf-8")


PIECES: dict[str, Callable[[], Piece]] = {"aim": aim, "budget": budget, "path": path, "beta": beta}

MADE_ELSEWHERE: dict[str, Callable[[], None]] = {
    "digit": play_digit.main,
    "board": play_board.main,
    "stored": play_stored.pictures,
    "wall": partial(play_still.photograph, "wall"),
    "film": play_film.main,
    "original": play_original.main,
}


def main(names: Sequence[str]) -> None:
    """Compute and write the named pieces."""
    torch.set_flush_denormal(True)
    for name in names or [*MADE_ELSEWHERE, *PIECES]:
        if name in MADE_ELSEWHERE:
            MADE_ELSEWHERE[name]()
            continue
        write(name, PIECES[name]())
        size = sum(file.stat().st_size for file in FOLDER.glob(f"{name}-*.webp"))
        print(name, size // 1000, "kB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
