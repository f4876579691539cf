"""The floor: every kernel in forward-equivalents, its time over the network's own forward pass on the same batch."""

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.harness import Point, Row, fresh, interleaved, missing
from fragility import network
from fragility.attack import iterative
from fragility.attribution import deeplift, importance, integrated_gradients, simple_gradient
from fragility.curvature import input_hvp
from fragility.data import datasets
from fragility.iterate import Attribution, Judge, gradient
from fragility.objective import top_k
from fragility.surrogate import softplus

K = 1000  # the most important pixels of 227 x 227, as in the paper
PATH = """
import torch
from functools import partial
from fragility import network
from fragility.attribution import integrated_gradients
from fragility.objective import top_k
from fragility.iterate import gradient
from fragility.surrogate import softplus
model, x = network.squeezenet(weights=None), torch.rand(1, 3, {size}, {size})
labels, reference = torch.tensor([0]), torch.rand(1, {size}, {size})
"""
STEP = """
with softplus(1.0):
    gradient(model, x, labels, partial(integrated_gradients, steps={steps}), top_k(100), reference)
"""
KINDS = {
    "convolutions": ("conv",),
    "softplus and its derivatives": ("softplus", "sigmoid", "aten::lt", "aten::exp", "aten::where"),
    "copies and fills": ("copy_", "fill_", "zero_", "empty", "clone"),
}


def photographs(batch: int, size: int = 227) -> Tensor:
    """Return free photographs, repeated to fill the batch."""
    images = datasets.photographs(size=size).images
    return images.repeat(-(-batch // len(images)), 1, 1, 1)[:batch]


def attack_step(model: nn.Module, x: Tensor, labels: Tensor, attribution: Attribution, reference: Tensor) -> Tensor:
    """Return all that is needed for the next direction: grad_x D through the softplus surrogate."""
    with softplus(1.0):
        return gradient(model, x, labels, attribution, top_k(K), reference)[0]


def measure(quick: bool) -> tuple[list[Row], list[Point]]:
    """Measure SqueezeNet at 227 pixels."""
    batch, steps, repeats = (2, 2, 2) if quick else (8, 4, 3)
    model, x = network.squeezenet(), photographs(batch)
    labels = model(x).argmax(1)
    reference = importance(simple_gradient(model, x, labels))
    judge = Judge(model, x, labels, simple_gradient)
    moved = (x + 1 / 255).clamp(max=1)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))

    def path(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return integrated_gradients(model, images, labels, steps=steps)

    def forward() -> Tensor:
        with torch.no_grad():
            return model(x)  # type: ignore[no-any-return]

    def smooth_forward() -> Tensor:
        with softplus(1.0):
            return forward()

    def curvature() -> Tensor:
        with softplus(1.0):
            return input_hvp(model, x, labels, direction)

    def step() -> Tensor:
        return attack_step(model, x, labels, simple_gradient, reference)

    def half_step() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return step()

    bfloat = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    times = interleaved(
        {
            "forward": forward,
            "forward of the softplus surrogate": smooth_forward,
            "simple gradient": lambda: simple_gradient(model, x, labels),
            "attack step, simple gradient": step,
            **({"attack step, simple gradient, bf16": half_step} if bfloat else {}),
            "selection pass, simple gradient": lambda: top_k(K)(judge(moved).maps, judge.reference),
            "Hessian-vector product (jvp of the gradient)": curvature,
            "DeepLIFT": lambda: deeplift(model, x, labels),
            "attack step, DeepLIFT": lambda: attack_step(model, x, labels, deeplift, reference),
            "integrated gradients, per point of the path": lambda: path(model, x, labels),
            "attack step, integrated gradients, per point": lambda: attack_step(model, x, labels, path, reference),
        },
        repeats,
        base="forward",
    )
    targets = {
        "attack step, simple gradient": "<= 4.0",
        "attack step, simple gradient, bf16": "<= 2.5",
        "attack step, DeepLIFT": "<= 12",
        "integrated gradients, per point of the path": "<= 1.6",
        "attack step, integrated gradients, per point": "<= 4.5",
    }
    note = f"SqueezeNet, 227 px, batch {batch}"
    rows = []
    for name, seconds in times.items():
        points = steps if "per point" in name else 1
        value = seconds / times["forward"] / points
        detail = f"{note}, M = {steps}" if "per point" in name else note
        rows.append(Row("floor", name, value, "forwards", targets.get(name, ""), detail))
    rows.append(Row("floor", "forward, per image", times["forward"] / batch, "s", "", note))
    if bfloat:
        full, half = step().sign(), half_step().sign()
        agree = (full == half).double().mean().item()
        rows.append(Row("floor", "bf16: share of pixels that step the same way", agree, "", "", note))
        rows += [] if quick else [_bfloat_effect(model, x[:4], labels[:4])]
    else:
        name = "attack step, simple gradient, bf16"
        rows.append(missing("floor", name, "forwards", "the processor has no bf16 instructions", targets[name]))
    size = 128 if quick else 227
    # The second time glibc hands freed blocks back at once, so that the peak is what the step holds.
    for what, variables in (("", {}), (", freed blocks handed back", {"MALLOC_MMAP_THRESHOLD_": "65536"})):
        few, many = (fresh(STEP.format(steps=m), PATH.format(size=size), **variables).above for m in (10, 100))
        detail = f"above the setup's, {size} px, batch 1: {few:.0f} MB at M = 10, {many:.0f} MB at M = 100"
        name = f"attack step, IG: peak memory{what}, M = 100 over M = 10"
        rows.append(Row("floor", name, many / few, "x", "<= 1.1", detail))
    return rows + _shares(step), []


def _bfloat_effect(model: nn.Module, x: Tensor, labels: Tensor) -> Row:
    """How much of the gain in D of 8 steps is left when they are taken in bf16, both judged in fp32."""
    reference = importance(simple_gradient(model, x, labels))

    def gain() -> Tensor:
        run = {"epsilon": 8 / 255, "step_size": 2 / 255, "iterations": 8, "surrogate_beta": 1.0}
        found = iterative(model, x, labels, attribution=simple_gradient, objective=top_k(K), **run)
        with torch.autocast("cpu", enabled=False):
            after = importance(simple_gradient(model, found.images, labels))
            return (top_k(K)(after, reference) - top_k(K)(reference, reference)).mean()

    full = gain()
    with torch.autocast("cpu", torch.bfloat16):
        half = gain()
    note = f"{len(x)} photographs, top-k, 8 steps of 2/255"
    return Row("floor", "bf16: gain in D over that of fp32", (half / full).item(), "x", "", note)


def _shares(step: object) -> list[Row]:
    """Where the attack step's time goes, by PyTorch's profiler."""
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as found:
        step()  # type: ignore[operator]
    times = {event.key: event.self_cpu_time_total for event in found.key_averages()}
    total, left = sum(times.values()), dict(times)
    rows = []
    for kind, parts in KINDS.items():
        taken = [key for key in left if any(part in key for part in parts)]
        share = sum(left.pop(key) for key in taken) / total
        rows.append(Row("floor", f"attack step: share of {kind}", 100 * share, "%", "", "wall time, profiler"))
    return rows
