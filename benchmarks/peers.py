"""The peers, on the same inputs in the same run: Captum, SciPy loops, and one image at a time."""

import warnings
from collections.abc import Callable

import torch
from captum.attr import DeepLift, IntegratedGradients, Saliency
from scipy import stats
from torch import Tensor

from benchmarks.floor import attack_step, photographs
from benchmarks.harness import Row, interleaved
from fragility import network
from fragility.attribution import deeplift, importance, integrated_gradients, simple_gradient
from fragility.similarity import kendall, spearman

PARITY = ">= 1.0"
Call = Callable[[], Tensor]


def measure(quick: bool) -> list[Row]:
    """Compare with Captum, with SciPy and with one image at a time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Captum's: that it sets hooks, and that it asks for gradients
        captum = _captum(quick)
    return [*captum, *_scipy(quick), _one_at_a_time(quick)]


def compared(peer: str, name: str, ours: Call, theirs: Call, repeats: int, speed: str, largest: str) -> list[Row]:
    """Return how many times faster than a peer, and by how much the numbers differ, relative to the largest."""
    times = interleaved({"ours": ours, "theirs": theirs}, repeats)
    a, b = ours().double(), theirs().detach().double()
    error = ((a - b).abs().max() / b.abs().max()).item()
    return [
        Row("peers", f"{name}: speed over {peer}", times["theirs"] / times["ours"], "x", speed),
        Row("peers", f"{name}: largest difference to {peer}", error, "relative", largest),
    ]


def _captum(quick: bool) -> list[Row]:
    batch, steps, repeats = (2, 8, 2) if quick else (8, 8, 4)
    model, x = network.squeezenet(), photographs(batch)
    labels, chunk = model(x).argmax(1), max(1, 8 // batch)
    path = {"n_steps": steps, "method": "riemann_right", "internal_batch_size": batch * chunk}
    # Captum's Rescale rule is right where no max-pool windows overlap and every ReLU is a module of its own; it calls
    # the layers inside the wrapper, whose check of shapes does not bear Captum's pairs of inputs.
    plain, small = network.cifar_cnn().get_submodule("model"), photographs(batch, 32)
    classes = plain(small).argmax(1)
    pairs: dict[str, tuple[Call, Call]] = {
        "simple gradient": (
            lambda: simple_gradient(model, x, labels),
            lambda: Saliency(model).attribute(x.clone(), labels, abs=False),
        ),
        "integrated gradients": (
            lambda: integrated_gradients(model, x, labels, steps=steps, chunk=chunk),
            lambda: IntegratedGradients(model).attribute(x, target=labels, **path),
        ),
        "DeepLIFT": (
            lambda: deeplift(plain, small, classes),
            lambda: DeepLift(plain).attribute(small.clone(), target=classes),
        ),
    }
    return [row for name, pair in pairs.items() for row in compared("Captum", name, *pair, repeats, PARITY, "<= 1e-4")]


def _scipy(quick: bool) -> list[Row]:
    count, repeats = (8, 2) if quick else (64, 3)
    generator = torch.Generator().manual_seed(0)
    a = importance(torch.randn(count, 3, 227, 227, generator=generator))
    b = importance(torch.randn(count, 3, 227, 227, generator=generator)) + a

    def loop(function: Callable[..., tuple[float, float]]) -> Call:
        pairs = [(one.flatten().numpy(), other.flatten().numpy()) for one, other in zip(a, b, strict=True)]
        return lambda: torch.tensor([float(function(*pair)[0]) for pair in pairs], dtype=torch.float64)

    rows = []
    for name, ours, theirs in (("Spearman", spearman, stats.spearmanr), ("Kendall", kendall, stats.kendalltau)):
        call = f"{name}, {count} maps of 227 x 227"
        rows += compared("SciPy", call, lambda ours=ours: ours(a, b), loop(theirs), repeats, ">= 1.5", "<= 1e-9")
    return rows


def _one_at_a_time(quick: bool) -> Row:
    batch = 4 if quick else 8
    model, x = network.squeezenet(), photographs(batch)
    labels = model(x).argmax(1)
    reference = importance(simple_gradient(model, x, labels))

    def step(*rows: slice) -> list[Tensor]:
        return [attack_step(model, x[row], labels[row], simple_gradient, reference[row]) for row in rows]

    singly = [slice(i, i + 1) for i in range(batch)]
    times = interleaved({"batch": lambda: step(slice(None)), "singly": lambda: step(*singly)}, 1 if quick else 2)
    name, note = "attack step: gain over one image at a time", f"SqueezeNet, batch {batch}"
    return Row("peers", name, times["singly"] / times["batch"], "x", "", note)
