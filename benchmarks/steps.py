"""Fewer steps: how soon a schedule reaches what the paper's 300 steps reach."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.floor import photographs
from benchmarks.harness import Point, Row, clock
from fragility import network, train
from fragility.attack import iterative
from fragility.attribution import importance, simple_gradient
from fragility.data import datasets
from fragility.iterate import Iterate
from fragility.objective import Objective, mass_center, top_k
from fragility.similarity import center_shift, top_k_intersection

# Name: step size over epsilon, steps, schedule. The paper's alpha = 0.5 at epsilon = 8 is a sixteenth.
RUNS = {
    "paper": (1 / 16, 300, "constant"),
    "twice the step": (1 / 8, 60, "constant"),
    "adaptive, 20": (1.0, 20, "adaptive"),
    "adaptive, 40": (1.0, 40, "adaptive"),
    "decaying, 20": (1.0, 20, "linear"),
    "decaying, 40": (1.0, 40, "linear"),
}
AIM = "decaying, 20"
ENOUGH = 0.95  # of the gain of the 300 steps


class Setting(NamedTuple):
    """Whom to attack, and how far."""

    model: nn.Module
    images: Tensor
    objective: Objective
    epsilon: float
    beta: float
    k: int  # of the pixels in the notes


class Curve(NamedTuple):
    """The mean gain D - D(original) of the best iterate so far after 1, 2, ... steps, with the seconds until then."""

    gains: list[float]
    seconds: list[float]
    images: Tensor


def climb(setting: Setting, share: float, iterations: int, schedule: str) -> Curve:
    """Attack the simple gradient of the predictions and keep the curve; an image without a kept iterate gained 0."""
    model, x, objective, epsilon, beta, _ = setting
    labels = model(x).argmax(1)
    reference = importance(simple_gradient(model, x, labels))
    start = best = objective(reference, reference)
    gains: list[float] = []
    seconds: list[float] = []
    begin = clock()

    def keep(iterate: Iterate) -> None:
        nonlocal best
        value = objective(iterate.maps, reference)
        best = torch.where(iterate.kept & (value > best), value, best)
        gains.append((best - start).mean().item())
        seconds.append(clock() - begin)

    steps: dict[str, Any] = {"step_size": share * epsilon, "iterations": iterations, "schedule": schedule}
    budget = {"epsilon": epsilon, "surrogate_beta": beta} | steps
    found = iterative(
        model, x, labels, attribution=simple_gradient, objective=objective, **budget, callback=keep
    )  # fmt: skip
    return Curve(gains, seconds, found.images)


def first_reaching(gains: Sequence[float], wanted: float) -> float:
    """Return the first step, counted from 1, whose gain is `wanted` or more; infinity if there is none."""
    return next((float(step) for step, gain in enumerate(gains, 1) if gain >= wanted), math.inf)


def measure(quick: bool) -> tuple[list[Row], list[Point]]:
    """Measure digits with both objectives and, unless in a hurry, two photographs with the top-k attack."""
    split, model = datasets.digits("train"), network.digits_cnn()
    train.fit_cached(model, split.images, split.labels, epochs=12, progress=False)
    digits = datasets.digits("test", limit=4 if quick else 16).images
    settings = {
        "digits, top-k": Setting(model, digits, top_k(100), 51 / 255, 4.0, 100),
        "digits, mass centre": Setting(model, digits, mass_center(), 51 / 255, 4.0, 100),
    }
    if not quick:
        settings["photographs, top-k"] = Setting(
            network.squeezenet(), photographs(2), top_k(1000), 8 / 255, 1.0, 1000
        )  # fmt: skip
    rows: list[Row] = []
    points: list[Point] = []
    for name, setting in settings.items():
        curves = {run: climb(setting, *options) for run, options in RUNS.items()}
        rows, points = rows + _rows(name, setting, curves), points + _points(name, curves)
    return rows, points


def _rows(name: str, setting: Setting, curves: dict[str, Curve]) -> list[Row]:
    """How much each run gains, and how soon that is as much as the paper's, nearly."""
    model, x, full = setting.model, setting.images, curves["paper"].gains[-1]
    labels = model(x).argmax(1)
    before, rows = importance(simple_gradient(model, x, labels)), []
    for run, curve in curves.items():
        after = importance(simple_gradient(model, curve.images, labels))
        shared, shift = top_k_intersection(before, after, setting.k).mean(), center_shift(before, after).mean()
        note = f"{len(x)} images; then top-{setting.k} intersection {shared:.3f}, centre shift {shift:.1f} px"
        gain, step = curve.gains[-1] / full, first_reaching(curve.gains, ENOUGH * full)
        aims = (f">= {ENOUGH}", "<= 20") if run == AIM else ("", "")
        rows.append(Row("steps", f"{name}, {run}: gain", gain, "of 300", aims[0], note))
        reach = f"{name}, {run}: steps to {ENOUGH:.0%} of the gain of 300"
        rows.append(Row("steps", reach, step, "steps", aims[1]))
    return rows


def _points(name: str, curves: dict[str, Curve]) -> list[Point]:
    """The curves at some steps, against steps and against seconds."""
    full, points = curves["paper"].gains[-1], []
    for run, curve in curves.items():
        for p, (gain, seconds) in enumerate(zip(curve.gains, curve.seconds, strict=True), 1):
            if p in (1, 2, 3, 5, 7) or p % 10 == 0:
                points.append(Point(f"steps: {name}", run, "step", "gain / gain of 300", p, gain / full))
                points.append(Point(f"seconds: {name}", run, "seconds", "gain / gain of 300", seconds, gain / full))
    return points
