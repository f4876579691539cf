"""Compute the pages' interactive pieces: frames in one picture each, their numbers, and the HTML that shows them.

    python book/play.py [epsilon] [path] [beta]        (none named: all)

Minutes on two cores. The pieces need no kernel and load nothing from outside; without JavaScript they are pictures.
"""

from __future__ import annotations

import html
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fragility import network, plot
from fragility.attack import iterative
from fragility.attribution import importance, integrated_gradients, simple_gradient
from fragility.data import datasets
from fragility.objective import mass_center
from fragility.similarity import center_shift, spearman, top_k_intersection
from fragility.surrogate import softplus

FOLDER = Path(__file__).parent / "_static" / "play"
MEAN = torch.tensor([123, 117, 104]).view(3, 1, 1) / 255  # of ImageNet, in the order of RGB
K, STEPS = 1000, 60


@dataclass(frozen=True)
class Control:
    """Something a reader moves: its name and the positions it has."""

    name: str
    positions: Sequence[str]


@dataclass(frozen=True)
class Piece:
    """Frames, one per combination of the controls' positions (the last control changes fastest)."""

    controls: Sequence[Control]
    frames: Sequence[Sequence[Image.Image]]  # of equal size; those of one frame stand side by side
    titles: Sequence[str]  # of the pictures in a frame
    readouts: Sequence[str]  # a sentence per frame
    start: int  # the frame shown first, and without JavaScript
    alt: str


def photograph(title: str) -> tuple[Tensor, Tensor]:
    """Return a free photograph (1, 3, 227, 227) and its label (1,)."""
    photographs = datasets.photographs()
    label = photographs.class_names.index(title)
    row = int((photographs.labels == label).nonzero()[0])
    return photographs.images[row : row + 1], torch.tensor([label])


def picture(image: Tensor) -> Image.Image:
    """Turn (1, 3, H, W) into a picture."""
    return Image.fromarray((image[0] * 255).round().byte().movedim(0, -1).numpy())


def colored(maps: Tensor) -> Image.Image:
    """Turn an importance map (1, H, W) into a picture, in the book's colours."""
    values = (maps[0] / maps[0].quantile(0.99)).clamp(0, 1)
    rgb = mpl.colormaps[plot.COLORMAP](values.numpy())[..., :3]
    return Image.fromarray((torch.from_numpy(rgb) * 255).round().byte().numpy())


def agreement(before: Tensor, after: Tensor) -> str:
    """Put the three metrics into words."""
    rho, top = spearman(before, after).item(), top_k_intersection(before, after, K).item()
    shift = center_shift(before, after).item()
    return f"Spearman {rho:.2f}, top-{K} intersection {top:.2f}, centre of mass {shift:.0f} px away"


def epsilon() -> Piece:
    """The mass-centre attack at growing epsilon."""
    image, label = photograph("Egyptian cat")
    model = network.squeezenet()
    before = importance(simple_gradient(model, image, label))
    epsilons, frames, readouts = (0, 1, 2, 3, 4, 6, 8), [], []
    for size in epsilons:
        changed, note = image, "the original"
        if size:
            found = iterative(
                model, image, label, attribution=simple_gradient, objective=mass_center(), epsilon=size / 255,
                step_size=min(1.0, size / 4) / 255, iterations=STEPS, surrogate_beta=1.0,
            )  # fmt: skip
            changed = found.images
            note = "label kept" if found.labels_kept.item() else "no iterate kept the label: the original is shown"
        after = importance(simple_gradient(model, changed, label))
        confidence = model(changed).softmax(1)[0, label.item()].item()
        frames.append((picture(changed), colored(after)))
        readouts.append(f"{agreement(before, after)}; Egyptian cat with {confidence:.0%} ({note})")
    return Piece(
        [Control("epsilon, of 255", [str(size) for size in epsilons])],
        frames,
        ["image", "simple gradient"],
        readouts,
        len(frames) - 1,
        "A photograph of a cat that hardly changes, and its importance map, which moves away from the cat as "
        "epsilon grows.",
    )


def path() -> Piece:
    """Integrated gradients of one photograph from several baselines, with several numbers of steps."""
    image, label = photograph("espresso")
    model = network.squeezenet()
    blurred = F.interpolate(F.avg_pool2d(image, 15, 15), size=image.shape[-2:], mode="bilinear", align_corners=False)
    baselines = {
        "black": torch.zeros(3, 1, 1),
        "ImageNet's mean": MEAN,
        "white": torch.ones(3, 1, 1),
        "the photograph, blurred": blurred,
    }
    steps, frames, readouts = (1, 5, 20, 100), [], []
    for baseline in baselines.values():
        start = baseline.expand_as(image).contiguous()
        difference = (model(image) - model(start))[0, label.item()].item()
        for m in steps:
            attributions = integrated_gradients(model, image, label, baseline=start, steps=m)
            frames.append((picture(start), colored(importance(attributions))))
            total = attributions.sum().item()
            readouts.append(
                f"the attributions sum to {total:.1f}; the logit differs from the baseline's by {difference:.1f}"
            )
    return Piece(
        [Control("baseline", list(baselines)), Control("steps M", [str(m) for m in steps])],
        frames,
        ["baseline", "integrated gradients"],
        readouts,
        len(steps) + len(steps) - 1,
        "The baseline and the map of integrated gradients of a cup of espresso, which changes with the baseline.",
    )


def beta() -> Piece:
    """Maps of the softplus surrogate as it becomes sharper."""
    image, label = photograph("Egyptian cat")
    model = network.squeezenet()
    own = importance(simple_gradient(model, image, label))
    betas, frames, readouts = [2.0**power for power in range(-5, 6)], [], []
    for sharpness in betas:
        with softplus(sharpness):
            maps = importance(simple_gradient(model, image, label))
        frames.append((colored(maps), colored(own)))
        readouts.append(agreement(own, maps))
    return Piece(
        [Control("beta", [f"{sharpness:g}" for sharpness in betas])],
        frames,
        ["softplus surrogate", "ReLU network"],
        readouts,
        2,
        "The surrogate's importance map, blurred for small beta, and the ReLU network's, which it approaches.",
    )


def write(name: str, piece: Piece) -> None:
    """Write a piece's picture and the HTML that shows it."""
    width = sum(part.width for part in piece.frames[0])
    height = piece.frames[0][0].height
    columns = len(piece.controls[-1].positions)
    sheet = Image.new("RGB", (width * columns, height * (len(piece.frames) // columns)))
    for index, frame in enumerate(piece.frames):
        left = index % columns * width
        for part in frame:
            sheet.paste(part, (left, index // columns * height))
            left += part.width
    FOLDER.mkdir(parents=True, exist_ok=True)
    sheet.save(FOLDER / f"{name}.jpg", quality=88, optimize=True)
    (FOLDER / f"{name}.html").write_text(_html(name, piece, width, height, columns), encoding="utf-8")


def _html(name: str, piece: Piece, width: int, height: int, columns: int) -> str:
    """The picture is the background of a box; a control moves it. The box has a frame's proportions at any width."""
    rows = len(piece.frames) // columns
    sizes = [len(control.positions) for control in piece.controls]
    start = [piece.start] if len(sizes) == 1 else list(divmod(piece.start, sizes[1]))
    controls = "\n".join(
        f"<label>{html.escape(control.name)}: <output>{html.escape(control.positions[at])}</output>"
        f'<input type="range" min="0" max="{len(control.positions) - 1}" value="{at}" '
        f'data-positions="{html.escape(json.dumps(list(control.positions)))}"></label>'
        for control, at in zip(piece.controls, start, strict=True)
    )
    place = f"{_share(piece.start % columns, columns)} {_share(piece.start // columns, rows)}"
    titles = "".join(f"<span>{html.escape(title)}</span>" for title in piece.titles)
    style = (
        f"aspect-ratio:{width}/{height};max-width:{width}px;background-image:url(../_static/play/{name}.jpg);"
        f"background-size:{columns * 100}% {rows * 100}%;background-position:{place}"
    )
    return (
        f'<figure class="player" data-columns="{columns}" data-rows="{rows}" '
        f'data-readouts="{html.escape(json.dumps(list(piece.readouts)))}">\n'
        f'<div class="player-titles" style="max-width:{width}px">{titles}</div>\n'
        f'<div class="player-frame" role="img" aria-label="{html.escape(piece.alt)}" style="{style}"></div>\n'
        f'<div class="player-controls" hidden>\n{controls}\n</div>\n'
        f'<figcaption aria-live="polite">{html.escape(piece.readouts[piece.start])}</figcaption>\n</figure>\n'
    )


def _share(index: int, count: int) -> str:
    return f"{100 * index / max(1, count - 1):g}%"


PIECES: dict[str, Callable[[], Piece]] = {"epsilon": epsilon, "path": path, "beta": beta}


def main(names: Sequence[str]) -> None:
    """Compute and write the named pieces."""
    torch.set_flush_denormal(True)
    for name in names or PIECES:
        write(name, PIECES[name]())
        print(name, (FOLDER / f"{name}.jpg").stat().st_size // 1000, "kB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
