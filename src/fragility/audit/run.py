"""An audit from beginning to end: checks, pieces within a limit of time, and what came of them."""

import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from fragility._call import logits_of
from fragility._checks import check_count, check_epsilon, check_images, check_labels, check_positive, trusting
from fragility.attribution import simple_gradient
from fragility.audit import models, report
from fragility.audit.images import Images
from fragility.audit.measure import STEPS, STUDY, Clock, Setting, cost, history, pieces, wanted
from fragility.audit.methods import METHODS, Method, beta_for, cannot, chosen, remedies
from fragility.audit.summary import summarise
from fragility.data.png import levels
from fragility.fingerprint import fingerprint
from fragility.iterate import Attribution, Judge
from fragility.network import probabilities
from fragility.study.machine import check_device, describe, repeatable
from fragility.study.piece import Computed, Piece, Plan, Row
from fragility.study.run import alone, complete
from fragility.study.store import Store, provenance, read_pieces
from fragility.surrogate import POWERS_OF_TWO

EPSILONS = (2 / 255, 4 / 255, 8 / 255)
WORK = 4e9  # floating-point operations of a batch, forwards
STALE = 1e-3  # by how much a stored probability may differ from today's


class Audit(NamedTuple):
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
    epsilons: Sequence[float] = EPSILONS,
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
        minutes: when to stop, checks included; None for when the doubled budget moves no mean by .01 any more.
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
    clock = Clock(60 * minutes if minutes else math.inf)
    given = images if isinstance(images, Images) else _named(images, labels)
    if minutes is not None:
        check_positive("minutes", minutes)
    check_count("doublings", doublings, 4, least=0)
    check_device(device)
    folder = Path(tempfile.mkdtemp(prefix="audit-")) if folder is None else folder
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder / "audit-pieces"), repeatable():
        plan, checks, rate = _prepared(model.to(device), given, chosen(methods), _ordered(epsilons), folder, clock)
        setting = plan.ready
        with trusting(setting.model):  # which has been checked
            store = Store("audit", "pieces", plan, folder, describe(device))
            _check_stale(setting)
            run = _Run(plan, clock, rate, doublings, progress and minutes is not None)
            complete(store, plan, progress=progress and minutes is None, compute=run.compute)
            reasons = {setting.methods[name].title: reason for name, reason in run.reasons.items() if reason}
            checks += [f"Not attacked: {title}. {reason}" for title, reason in reasons.items()]
            if len(reasons) == len(setting.methods):
                raise ValueError(f"methods: expected one that can be attacked on this model, got none; {checks[-1]}")
            rows = pd.DataFrame([row for part in _done(folder).values() for row in part], columns=list(STUDY.columns))
            rows.to_csv(folder / "rows.csv", index=False)
            shown = rows
            if len(rows) and (rows.correct == "no").all():
                shown = rows.assign(correct="")
                checks.append("The labels were not used: the model gives none of the images measured its label.")
            sessions = provenance("audit", "pieces", folder)["sessions"] if len(rows) else []
            record = {"parameters": plan.parameters, "inputs": plan.inputs, "sessions": sessions}
            summary = summarise(setting, shown, checks, run.late, minutes, record)
            summary |= {"title": title or type(model).__name__, "class_names": list(class_names or given.classes)}
            report.write(setting, shown, summary, clock)
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
    model: nn.Module, given: Images, own: Sequence[Method], epsilons: Sequence[float], folder: Path, clock: Clock
) -> tuple[Plan, list[str], float]:
    """Check the model, time a gradient, choose the surrogate, and plan the pieces."""
    pixels = given.pixels.to(next((part.device for part in model.parameters()), torch.device("cpu")))
    models.check(model, pixels)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        logits_of(model, pixels[:1])
    batch = 2 ** int(math.log2(max(1, min(64, WORK // max(1, counter.get_total_flops())))))
    checks = [
        "The model is a function of one image at a time, in evaluation mode, for pixels from 0 to 1.",
        f"Activations with kinks among its parts: {models.kinks(model)}.",
    ]
    inputs = {"model": fingerprint(type(model).__name__, dict(model.state_dict()))[:12], "images": given.source}
    with trusting(model):
        start = time.monotonic()
        first = pixels[:2]
        judge = Judge(model, first, first.new_zeros(len(first), dtype=torch.int64), simple_gradient)
        rate, classes = (time.monotonic() - start) / len(first), judge.logits.shape[1]
        known = provenance("audit", "pieces", folder) if _done(folder) else {}
        if known and known["inputs"]["model"] == inputs["model"] and "surrogate" in known["parameters"]:
            beta, sentence = known["parameters"]["beta"], known["parameters"]["surrogate"]
        else:  # within a tenth of the time
            stride = min(10, max(1, math.ceil(10 * len(POWERS_OF_TWO) * rate / clock.limit)))
            beta, sentence = beta_for(model, first, judge.prediction, stride)
    if given.labels is not None and given.classes and len(given.classes) != classes:
        checks.append(
            f"The labels were not used: there are {len(given.classes)} folders and the model has {classes} classes."
        )
        given = given._replace(labels=None)
    clock.start -= sum(sum(session["seconds"].values()) for session in known.get("sessions", ()))
    methods = [*own, *(remedies(beta, epsilons[0]) if own[0].name == "simple_gradient" else [])]
    by_name = {method.name: method for method in methods}
    setting = Setting(model, inputs["model"], given._replace(pixels=pixels), by_name, beta, epsilons, batch, folder)
    study = replace(STUDY, cost=lambda piece: cost(piece, setting))
    parameters = {"methods": list(by_name), "epsilons": list(epsilons), "beta": beta, "surrogate": sentence}
    return Plan(study, parameters, inputs, pieces(setting), setting), [*checks, sentence], rate


def _done(folder: Path) -> dict[str, list[Row]]:
    """The rows that are stored, as they read: the same on the way and after a kill."""
    return read_pieces("audit", "pieces", folder) if (folder / "audit-pieces.json").exists() else {}


def _check_stale(setting: Setting) -> None:
    """Refuse rows of a model whose weights are the same and whose code is not: those of a piece tell."""
    rows = next(iter(_done(setting.folder).values()), [])
    if not rows:
        return
    with torch.no_grad():
        pixels = setting.images.pixels[[setting.images.names.index(str(row["image"])) for row in rows]]
        now = probabilities(setting.model, logits_of(setting.model, pixels)).amax(1).tolist()
    for row, confidence in zip(rows, now, strict=True):
        if abs(float(row["confidence_before"] or 0) - confidence) > STALE:
            raise ValueError(
                f"folder: {setting.folder} holds an audit of a model that answered otherwise for {row['image']}; name "
                "another folder"
            )


class _Run:
    """What is wanted and fits into the time, computed in order."""

    def __init__(self, plan: Plan, clock: Clock, rate: float, doublings: int, progress: bool) -> None:
        self.plan, self.clock, self.rate, self.progress = plan, clock, rate, progress
        self.late: list[Piece] = []  # what was not reached
        self.reasons: dict[str, str] = {}  # why a method cannot be attacked; "" where it can
        batch = min(plan.ready.batch, len(plan.ready.images.names))
        fitting = [steps for steps in STEPS[:4] if steps * 4.5 * batch * rate <= clock.limit / 10]
        self.base = max(fitting, default=STEPS[0])
        self.most = self.base * 2**doublings

    def compute(self, todo: Sequence[Piece]) -> Iterator[Computed]:
        """Compute pieces; `late` then has those for which there was no time."""
        setting, limit = self.plan.ready, self.clock.limit
        form = "audit: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
        known = history(setting, _done(setting.folder), self.plan.pieces)
        work, seconds, pace, now = 0.0, 0.0, self.rate, round(self.clock.now())
        total = round(limit) if self.progress else now
        with tqdm(total=total, initial=min(total, now), bar_format=form, disable=not self.progress) as bar:
            for piece in todo:
                method, load = setting.methods[piece["method"]], self.plan.study.cost(piece)
                if self.reasons.get(method.name) or not wanted(piece, known, self.base, self.most):
                    continue
                # The first piece may end a little late: an empty report helps nobody.
                if self.clock.now() + load * pace > limit * (0.95 if known else 1.2):
                    self.late.append(piece)
                    continue
                if method.name not in self.reasons:
                    first = setting.images.pixels[:1], setting.predicted([0])
                    self.reasons[method.name] = cannot(method, setting.model, *first, setting.beta)
                    if self.reasons[method.name]:
                        continue
                bar.n = min(total, round(self.clock.now()))
                bar.set_postfix_str(f"{piece['method']}, {piece['measure']}, {piece['budget']}")
                computed = self.plan.timed(piece)
                work, seconds = work + load, seconds + computed.seconds
                pace = max(seconds / work, computed.seconds / load)  # others may use the machine
                yield computed
                known = history(setting, _done(setting.folder), self.plan.pieces)
