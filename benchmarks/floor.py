"""The floor: every kernel in forward-equivalents, its time over the network's own forward pass on the same batch."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.harness import ROOT, Row, clock, interleaved
from fragility import network
from fragility._checks import trusting
from fragility.attack import annealed, iterative
from fragility.attribution import deeplift, importance, integrated_gradients, simple_gradient
from fragility.curvature import input_hvp
from fragility.data import datasets
from fragility.iterate import Attribution, Judge, gradient
from fragility.objective import top_k
from fragility.step import frozen
from fragility.surrogate import softplus

K = 1000  # the most important pixels of 227 x 227, as in the paper
TARGETS = {
    "attack step, simple gradient": "<= 4.6",
    "selection pass, simple gradient": "<= 2.1",
    "DeepLIFT": "<= 5.0",
    "attack step, DeepLIFT": "<= 10",
    "attack step, integrated gradients, per point": "<= 5.5",
}


def photographs(batch: int, size: int = 227) -> Tensor:
    """Return free photographs, repeated to fill the batch."""
    images = datasets.photographs(size=size).images
    return images.repeat(-(-batch // len(images)), 1, 1, 1)[:batch]


def attack_step(model: nn.Module, x: Tensor, labels: Tensor, attribution: Attribution, reference: Tensor) -> Tensor:
    """Return all that is needed for the next direction: grad_x D through the softplus surrogate."""
    with softplus(1.0):
        return gradient(model, x, labels, attribution, top_k(K), reference)[0]


def measure(quick: bool) -> list[Row]:
    """Measure SqueezeNet at 227 pixels, as in an attack: the model is checked once, the reference computed once."""
    batch, steps, repeats = (2, 2, 2) if quick else (8, 4, 5)
    model, x = network.squeezenet(), photographs(batch)
    labels = model(x).argmax(1)
    reference = importance(simple_gradient(model, x, labels))
    judges = {each: Judge(model, x, labels, each) for each in (simple_gradient, deeplift)}
    moved = (x + 1 / 255).clamp(max=1)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    path = partial(integrated_gradients, steps=steps)
    twin = network.squeezenet().bfloat16()

    def in_bf16(_: nn.Module, images: Tensor, y: Tensor) -> Tensor:
        return simple_gradient(twin, images.bfloat16(), y).float()

    def smooth(function: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
        with softplus(1.0):
            return function(*arguments)

    calls = {
        "forward": lambda: model(x),  # which is frozen below
        "forward of the softplus surrogate": lambda: smooth(model, x),
        "Hessian-vector product (jvp of the gradient)": lambda: smooth(partial(input_hvp, model), x, labels, direction),
        "simple gradient": lambda: simple_gradient(model, x, labels),
        "selection pass, simple gradient": lambda: judges[simple_gradient](moved),
        "attack step, simple gradient": lambda: attack_step(model, x, labels, simple_gradient, reference),
        "attack step, simple gradient in bf16": lambda: attack_step(model, x, labels, in_bf16, reference),
        "DeepLIFT": lambda: deeplift(model, x, labels),
        "selection pass, DeepLIFT": lambda: judges[deeplift](moved),
        "attack step, DeepLIFT": lambda: attack_step(model, x, labels, deeplift, reference),
        "integrated gradients, per point": lambda: path(model, x, labels),
        "attack step, integrated gradients, per point": lambda: attack_step(model, x, labels, path, reference),
    }
    with frozen(model), trusting(model):
        times = interleaved(calls, repeats, base="forward")
    rows = []
    for name, seconds in times.items():
        points, detail = (steps, f"M = {steps}") if "per point" in name else (1, "")
        rows.append(Row("floor", name, seconds / times["forward"] / points, "forwards", TARGETS.get(name, ""), detail))
    rows += bf16(model, x[:4], labels[:4], in_bf16, iterations=2 if quick else 20)
    rows.append(Row("floor", "forward, per image", times["forward"] / batch, "s", "", f"227 px, batch {batch}"))
    for how, options in {"": {}, ", freed blocks handed back": {"MALLOC_MMAP_THRESHOLD_": "65536"}}.items():
        few, many = (peak(points, options) for points in ((2, 8) if quick else (10, 100)))
        note = f"above the set-up, batch 1: {few:.0f} and {many:.0f} MB{how}"
        name = f"integrated gradients, M = 100 over M = 10: peak memory{how}"
        rows.append(Row("floor", name, many / few, "x", "<= 1.1", note))
    return rows


def bf16(model: nn.Module, x: Tensor, labels: Tensor, in_bf16: Attribution, iterations: int) -> list[Row]:
    """Attack with steps in bf16, which is judged in float32 all the same: does it end as strong, and how soon?"""
    goal, gains, seconds = top_k(K), {}, {}
    before = importance(simple_gradient(model, x, labels))
    for each in (in_bf16, simple_gradient):
        start = clock()
        found = iterative(
            model, x, labels, attribution=each, evaluation=simple_gradient, objective=goal, epsilon=8 / 255,
            **annealed(8 / 255, 1.0, iterations),
        )  # fmt: skip
        seconds[each], gains[each] = clock() - start, found.objective - goal(before, before)
    ratio = (gains[in_bf16] / gains[simple_gradient]).mean().item()
    faster = seconds[simple_gradient] / seconds[in_bf16]
    note = f"top-k, 8/255, {iterations} annealed steps, {len(x)} photographs"
    name = "attack with steps in bf16, over one in float32"
    return [Row("floor", f"{name}: gain", ratio, "x", "", note), Row("floor", f"{name}: speed", faster, "x", "", note)]


def peak(points: int, options: dict[str, str]) -> float:
    """Return the megabytes that an attack step on integrated gradients takes at its peak; NaN where nobody tells."""
    if sys.platform != "linux":
        return math.nan
    command = [sys.executable, "-m", "benchmarks.floor", str(points)]  # a process whose largest size is its own
    done = subprocess.run(command, cwd=ROOT, env=os.environ | options, check=True, capture_output=True, text=True)  # noqa: S603
    return float(done.stdout)


def largest() -> float:
    """Return the largest size of this process so far, in megabytes, which Linux counts from the program's start."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


if __name__ == "__main__":
    model, x = network.squeezenet(), photographs(1)
    labels = model(x).argmax(1)
    reference = importance(simple_gradient(model, x, labels))
    attack_step(model, x, labels, simple_gradient, reference)
    before, path = largest(), partial(integrated_gradients, steps=int(sys.argv[1]))
    with frozen(model), trusting(model):
        attack_step(model, x, labels, path, reference)
    print(largest() - before)
