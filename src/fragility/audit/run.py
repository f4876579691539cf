"""An audit from beginning to end: checks, pieces within a limit of time, and what came of them."""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from fragility._call import logits_of
from fragility._checks import check_count, check_epsilon, check_images, check_labels, check_positive
from fragility.audit import measure, models, report
from fragility.audit.images import Images, levels, write_png
from fragility.audit.methods import METHODS, beta_for, cannot, chosen, remedies
from fragility.audit.summary import summarise
from fragility.fingerprint import fingerprint
from fragility.iterate import Attribution
from fragility.network import probabilities
from fragility.study.machine import check_device, describe, repeatable
from fragility.study.piece import Computed, Piece, Plan, Row
from fragility.study.run import alone, complete
from fragility.study.store import Store, provenance, read_pieces

WORK = 4e9  # floating-point operations of a batch, forwards
STALE = 1e-3  # by how much a stored probability may differ from today's


@dataclass(frozen=True, eq=False)
class Audit:
    """What an audit found.

    Attributes:
        folder: with report.html, report.json, rows.csv and the changed images.
        rows: one for each image and measure; report.json says what the columns mean.
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
    methods: Sequence[str] | Mapping[str, Attribution] = METHODS,
    epsilons: Sequence[float] = (2 / 255, 4 / 255, 8 / 255),
    minutes: float | None = None,
    doublings: int = 4,
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
        doublings: how often the steps of an attack may be doubled, from 40, or fewer where `minutes` is short.
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
    check_count("doublings", doublings, 4, least=0)
    check_device(device)
    folder = Path(tempfile.mkdtemp(prefix="audit-")) if folder is None else folder
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder / "audit-pieces"), repeatable():
        setting, checks, rate = _prepared(model.to(device), given, methods, _ordered(epsilons), folder)
        for place, image in enumerate(given.pixels):
            write_png(folder / f"images/{place:04d}-original.png", image)
        plan = _plan(setting, given.source)
        store = Store("audit", "pieces", plan, folder, describe(device))
        _check_stale(setting)
        compute, late = _within(plan, minutes, start, rate, doublings, progress)
        complete(store, plan, progress=progress and minutes is None, compute=compute)
        done = _done(folder)
        rows = pd.DataFrame([row for part in done.values() for row in part])
        rows.to_csv(folder / "rows.csv", index=False)
        summary = summarise(setting, rows, checks, late, minutes, provenance("audit", "pieces", folder))
        summary |= {"title": title or type(model).__name__, "class_names": list(class_names or given.classes)}
        report.write(setting, rows, summary)
    return Audit(folder, rows, summary)


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
    model: nn.Module, given: Images, methods: Sequence[str] | Mapping[str, Attribution], epsilons: Sequence[float],
    folder: Path,
) -> tuple[measure.Setting, list[str], float]:  # fmt: skip
    """Check everything, choose the surrogate, leave out what the model does not allow, and time a gradient."""
    own, device = chosen(methods), next((part.device for part in model.parameters()), torch.device("cpu"))
    pixels = given.pixels.to(device)
    classes = models.check(model, pixels).shape[1]
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            logits_of(model, pixels[:1])
        batch = int(max(1, min(64, WORK // max(1, counter.get_total_flops()))))
        labels = torch.cat([logits_of(model, part).argmax(1) for part in torch.split(pixels, batch)])
    checks = [
        "The model is a function of one image at a time, in evaluation mode, for pixels from 0 to 1.",
        f"Activations with kinks among its parts: {models.kinks(model)}.",
    ]
    if given.labels is not None and given.classes and len(given.classes) != classes:
        checks.append(
            f"The labels were not used: there are {len(given.classes)} folders and the model has {classes} classes."
        )
        given = given._replace(labels=None, classes=())
    if given.labels is not None and not (given.labels == labels.cpu()).any():
        checks.append("The labels were not used: the model gives none of the images its label.")
        given = given._replace(labels=None)
    beta, sentence = beta_for(model, pixels[:2], labels[:2])
    checks.append(sentence)
    able, rate = {}, 0.0
    for method in own:
        start = time.monotonic()
        if reason := cannot(method, model, pixels[:1], labels[:1], beta):
            checks.append(f"Not attacked: {method.title}. {reason}")
        else:
            able[method.name] = method
            rate = rate or (time.monotonic() - start) / (8 * method.cost)
    if not able:
        raise ValueError(f"methods: expected one that can be attacked on this model, got none; {checks[-1]}")
    if own[0].name == "simple_gradient" and own[0].name in able:
        able |= {method.name: method for method in remedies(beta, epsilons[0])}
    name = fingerprint(type(model).__name__, dict(model.state_dict()))[:12]
    given = given._replace(pixels=pixels)
    return measure.Setting(model, name, given, labels, able, beta, epsilons, batch, folder), checks, rate


def _plan(setting: measure.Setting, source: str) -> Plan:
    """The pieces as a plan of the studies' machinery; `minutes` is none of its parameters, for they may be added."""
    study = replace(measure.STUDY, cost=lambda piece: measure.cost(piece, setting))
    parameters = {"methods": list(setting.methods), "epsilons": list(setting.epsilons), "beta": setting.beta}
    inputs = {"model": setting.name, "images": source, "count": len(setting.images.names)}
    return Plan(study, parameters, inputs, measure.pieces(setting), setting)


def _done(folder: Path) -> dict[str, list[Row]]:
    """The rows that are stored, as they read: the same on the way and after a kill."""
    return read_pieces("audit", "pieces", folder) if (folder / "audit-pieces.json").exists() else {}


def _check_stale(setting: measure.Setting) -> None:
    """Refuse rows of a model whose weights are the same and whose code is not."""
    with torch.no_grad():
        seen = torch.cat([probabilities(setting.model, logits_of(setting.model, part)).amax(1)
                          for part in torch.split(setting.images.pixels, setting.batch)])  # fmt: skip
    now = dict(zip(setting.images.names, seen.tolist(), strict=True))
    for row in (row for rows in _done(setting.folder).values() for row in rows):
        if abs(float(row["confidence_before"] or 0) - now[str(row["image"])]) > STALE:
            raise ValueError(
                f"folder: {setting.folder} holds an audit of a model that answered otherwise for {row['image']}; name "
                "another folder"
            )


def _within(
    plan: Plan, minutes: float | None, start: float, rate: float, doublings: int, progress: bool
) -> tuple[Callable[[Sequence[Piece]], Iterator[Computed]], list[Piece]]:
    """A way to compute what is wanted and fits into the time, in order; and a list of what then was not reached."""
    setting, late = plan.ready, []
    sessions = provenance("audit", "pieces", setting.folder)["sessions"] if _done(setting.folder) else []
    spent = sum(sum(session["seconds"].values()) for session in sessions)
    limit = float("inf") if minutes is None else 60 * minutes
    batch = min(setting.batch, len(setting.labels))
    fitting = [steps for steps in measure.STEPS[:3] if steps * 4.5 * batch * rate <= limit / 10]
    base = max(fitting, default=measure.STEPS[0])
    form = "audit: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"

    def compute(todo: Sequence[Piece]) -> Iterator[Computed]:
        history, work, seconds = measure.history(setting, _done(setting.folder), plan.pieces), 0.0, 0.0
        hidden = not progress or minutes is None
        with tqdm(total=round(limit) if minutes else 1, bar_format=form, disable=hidden) as bar:
            for piece in todo:
                if not measure.wanted(piece, history, base, base * 2**doublings):
                    continue
                now, load = spent + time.monotonic() - start, plan.study.cost(piece)
                if history and now + load * (seconds / work if work else rate) > limit:
                    late.append(piece)
                    continue
                bar.n = min(round(limit), round(now)) if minutes else 0
                bar.set_postfix_str(f"{piece['method']}, {piece['measure']}, {piece['budget']}")
                computed = plan.timed(piece)
                work, seconds = work + load, seconds + computed.seconds
                yield computed
                history = measure.history(setting, _done(setting.folder), plan.pieces)

    return compute, late
