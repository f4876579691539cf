"""An audit from beginning to end: checks, pieces within a limit of time, and what came of them."""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn
from tqdm import tqdm

from fragility._call import logits_of
from fragility._checks import check_epsilon, check_images, check_labels, check_positive
from fragility.attribution import ATTRIBUTIONS
from fragility.audit import measure, models, report
from fragility.audit.images import Images, levels, write_png
from fragility.audit.methods import beta_for, cannot, chosen, remedies
from fragility.audit.summary import summarise
from fragility.iterate import Attribution
from fragility.study.machine import check_device, describe, repeatable
from fragility.study.piece import Piece, Plan, Row, Study
from fragility.study.store import Store, piece_name, provenance, read_pieces


@dataclass(frozen=True, eq=False)
class Audit:
    """What an audit found.

    Attributes:
        folder: with report.html, report.json, rows.csv and the changed images.
        rows: one for each image and measure; the columns are those of `fragility.audit.measure.COLUMNS`.
        summary: the content of report.json.
    """

    folder: Path
    rows: pd.DataFrame
    summary: dict[str, Any]


def audit(
    model: nn.Module,
    images: Tensor | Images,
    labels: Tensor | None = None,
    *,
    methods: Sequence[str] | Mapping[str, Attribution] = tuple(ATTRIBUTIONS),
    epsilons: Sequence[float] = (2 / 255, 4 / 255, 8 / 255),
    minutes: float | None = None,
    progress: bool = True,
    folder: Path | None = None,
    device: str = "cpu",
    class_names: Sequence[str] = (),
    title: str = "",
) -> Audit:
    """Search for the smallest agreement that an explanation keeps under small changes of the image, and report it.

    The prediction is explained, whatever the labels are; images that the model gets wrong are reported apart. Whatever
    is stored of a changed image is read off its 8-bit PNG file. An audit that was killed resumes by the same call with
    the same folder.

    Args:
        model: images in [0, 1] to logits (B, K), in evaluation mode.
        images: (N, C, H, W) in [0, 1], rounded to levels of 8 bits; C is 1 or 3.
        labels: int64 (N,), if they are known.
        methods: keys of `fragility.attribution.ATTRIBUTIONS`, or any differentiable functions (model, images, labels)
            -> (B, C, H, W) by name; the first is measured first.
        epsilons: largest changes of a pixel, in units of the pixel range, 1 / 255 at least.
        minutes: when to stop; None for when the doubled budget moves no mean by .01 any more.
        progress: show a progress bar.
        folder: where the report goes; None for a new temporary one.
        device: of PyTorch.
        class_names: K names.
        title: what the report calls the model.

    Returns:
        The rows, and what report.json says.

    Raises:
        BlockingIOError: if another process works in the folder.
        TypeError: if an argument has the wrong type, or the model does not return a tensor.
        ValueError: if a value is out of range, the model is not a function of one image in evaluation mode, no method
            can be attacked, or the folder holds an audit of something else.
    """
    start = time.monotonic()
    given = images if isinstance(images, Images) else _named(images, labels)
    if minutes is not None:
        check_positive("minutes", minutes)
    check_device(device)
    folder = Path(tempfile.mkdtemp(prefix="audit-")) if folder is None else folder
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder), repeatable():
        setting, checks = _prepared(model.to(device), given, methods, _ordered(epsilons), folder, device)
        for place, image in enumerate(given.pixels):
            write_png(folder / f"images/{place:04d}-original.png", image)
        plan = _plan(setting, given.source)
        store = Store("audit", "pieces", plan, folder, describe(device))
        missing = _compute(store, plan, start, minutes, progress)
        rows = pd.DataFrame([row for rows in _done(folder).values() for row in rows])
        if rows.empty:
            raise ValueError(f"minutes: expected time for one piece at least, got {minutes}")
        rows.to_csv(folder / "rows.csv", index=False)
        summary = summarise(setting, rows, checks, missing, minutes, provenance("audit", "pieces", folder))
        summary |= {"title": title or type(model).__name__, "class_names": list(class_names or given.classes)}
        report.write(setting, rows, summary)
    return Audit(folder, rows, summary)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Refuse to work in a folder that another process works in; the lock dies with its process."""
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise BlockingIOError(f"{folder}: another audit is running in it; wait until it ends") from error


def _named(images: Tensor, labels: Tensor | None) -> Images:
    """Name tensors by their position, at levels of 8 bits."""
    check_images(images)
    if images.shape[1] not in (1, 3):
        raise ValueError(f"images: expected 1 or 3 channels, got {images.shape[1]}")
    if labels is not None:
        check_labels(labels, len(images))
    return Images(levels(images).float() / 255, tuple(f"image {place}" for place in range(len(images))), labels)


def _ordered(epsilons: Sequence[float]) -> list[float]:
    """The largest first."""
    if not epsilons:
        raise ValueError("epsilons: expected one at least, got none")
    for epsilon in epsilons:
        check_epsilon(epsilon, "epsilons")
        if 255 * epsilon < 1 - 1e-6:
            raise ValueError(f"epsilons: expected 1 / 255 or more, since images are files of 8 bits, got {epsilon}")
    return sorted(set(epsilons), reverse=True)


def _prepared(
    model: nn.Module,
    given: Images,
    methods: Sequence[str] | Mapping[str, Attribution],
    epsilons: Sequence[float],
    folder: Path,
    device: str,
) -> tuple[measure.Setting, list[str]]:
    """Check everything, choose the surrogate, and leave out what the model does not allow."""
    own = chosen(methods)
    pixels = given.pixels.to(device)
    classes = models.check(model, pixels).shape[1]
    with torch.no_grad():
        labels = torch.cat([logits_of(model, batch).argmax(1) for batch in torch.split(pixels, 16)])
    checks = [
        "The model is a function of one image at a time, in evaluation mode, for pixels from 0 to 1.",
        f"Activations with kinks among its parts: {models.kinks(model)}.",
    ]
    if given.labels is not None and given.classes and len(given.classes) != classes:
        checks.append(
            f"The labels were not used: there are {len(given.classes)} folders and the model has {classes} classes."
        )
        given = given._replace(labels=None, classes=())
    beta, sentence = beta_for(model, pixels[:2], labels[:2])
    checks.append(sentence)
    able = {}
    for method in own:
        if reason := cannot(method, model, pixels[:1], labels[:1], beta):
            checks.append(f"Not attacked: {method.title}. {reason}")
        else:
            able[method.name] = method
    if not able:
        raise ValueError(f"methods: expected one that can be attacked on this model, got none; {checks[-1]}")
    if own[0].name == "simple_gradient" and own[0].name in able:
        able |= {method.name: method for method in remedies(beta, epsilons[0])}
    given = given._replace(pixels=pixels)
    return measure.Setting(model, given, labels, able, beta, epsilons, folder), checks


def _plan(setting: measure.Setting, source: str) -> Plan:
    """The pieces as a plan of the studies' machinery; `minutes` is none of its parameters, for they may be added."""
    study = Study(
        measure.COLUMNS, {}, lambda *_: (None, {}), lambda *_: (), measure.rows, cost=lambda piece: float(piece["cost"])
    )
    pieces = measure.pieces(setting)
    parameters = {"methods": list(setting.methods), "epsilons": list(setting.epsilons), "beta": setting.beta}
    inputs = {"model": setting.name, "images": source, "count": len(setting.images.names)}
    return Plan(study, parameters, inputs, pieces, setting)


def _compute(store: Store, plan: Plan, start: float, minutes: float | None, progress: bool) -> list[Piece]:
    """Compute what is wanted and fits into the time; return the pieces that were not reached."""
    names = [piece_name(piece) for piece in plan.pieces]
    done, cost = _done(store.table.parent), plan.study.cost
    earlier = provenance("audit", "pieces", store.table.parent)["sessions"] if done else []
    spent = sum(sum(session["seconds"].values()) for session in earlier)
    work = sum(cost(piece) for piece, name in zip(plan.pieces, names, strict=True) if name in done)
    seconds, late = spent, []
    form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
    wanted = [piece for piece, name in zip(plan.pieces, names, strict=True) if name not in done]
    with tqdm(total=sum(map(cost, wanted)), desc="audit", bar_format=form, disable=not progress) as bar:
        for piece in wanted:
            bar.set_postfix_str(f"{piece['method']}, {piece['measure']}, {piece['budget']}")
            if not measure.wanted(piece, done, plan.pieces, names):
                bar.update(cost(piece))
                continue
            rate = seconds / work if work else 0.0
            if minutes is not None and spent + time.monotonic() - start + rate * cost(piece) > 60 * minutes:
                late.append(piece)
                continue
            _, rows, took = plan.timed(piece)
            store.add(piece, rows, took)
            seconds, work = seconds + took, work + cost(piece)
            done = _done(store.table.parent)
            bar.update(cost(piece))
    return late


def _done(folder: Path) -> dict[str, list[Row]]:
    """The rows that are stored, as they read: the same on the way and after a kill."""
    return read_pieces("audit", "pieces", folder) if (folder / "audit-pieces.json").exists() else {}
