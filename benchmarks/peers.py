"""The peers, on the same inputs in the same run: Captum, SciPy loops, dattri, and one image at a time."""

import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from benchmarks.floor import attack_step, photographs
from benchmarks.harness import ROOT, Point, Row, interleaved, missing
from fragility import network
from fragility.attribution import deeplift, importance, integrated_gradients, simple_gradient
from fragility.similarity import kendall, spearman

PARITY = ">= 0.95"  # never slower, up to the noise that interleaving leaves
Call = Callable[[], Tensor]


def measure(quick: bool) -> tuple[list[Row], list[Point]]:
    """Compare with whatever is installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Captum's: that it sets hooks, and that it asks for gradients
        captum = _captum(quick)
    return [*captum, *_scipy(quick), *_dattri(quick), _one_at_a_time(quick)], []


def compared(peer: str, name: str, mine: Call, theirs: Call, repeats: int, targets: tuple[str, str]) -> list[Row]:
    """Return how many times faster than a peer, and by how much the numbers differ, relative to the largest."""
    times = interleaved({"mine": mine, "theirs": theirs}, repeats)
    a, b = mine().double(), theirs().detach().double()
    error = ((a - b).abs().max() / b.abs().max()).item()
    return [
        Row("peers", f"{name}: speed over {peer}", times["theirs"] / times["mine"], "x", targets[0]),
        Row("peers", f"{name}: largest difference to {peer}", error, "relative", targets[1]),
    ]


def _captum(quick: bool) -> list[Row]:
    if find_spec("captum") is None:
        return [missing("peers", "Captum", "x", "captum is not installed, skipped", PARITY)]
    from captum.attr import DeepLift, IntegratedGradients, Saliency

    batch, steps, repeats = (2, 8, 2) if quick else (8, 8, 4)
    model, x = network.squeezenet(), photographs(batch)
    labels = model(x).argmax(1)
    chunk = max(1, 8 // batch)
    theirs = IntegratedGradients(model)
    rows = compared(
        "Captum",
        "simple gradient",
        lambda: simple_gradient(model, x, labels),
        lambda: Saliency(model).attribute(x.clone(), labels, abs=False),
        repeats,
        (PARITY, "<= 1e-4"),
    )
    rows += compared(
        "Captum",
        "integrated gradients",
        lambda: integrated_gradients(model, x, labels, steps=steps, chunk=chunk),
        lambda: theirs.attribute(
            x, target=labels, n_steps=steps, method="riemann_right", internal_batch_size=batch * chunk
        ),
        max(1, repeats // 2),
        (PARITY, "<= 1e-4"),
    )
    # Captum's Rescale rule is right where no max-pool windows overlap and every ReLU is a module of its own.
    # The layers inside the wrapper, whose check of shapes does not bear Captum's pairs of inputs.
    plain, small = network.cifar_cnn().get_submodule("model"), photographs(batch, 32)
    classes = plain(small).argmax(1)
    rows += compared(
        "Captum",
        "DeepLIFT",
        lambda: deeplift(plain, small, classes),
        lambda: DeepLift(plain).attribute(small.clone(), target=classes),
        repeats,
        (PARITY, "<= 1e-4"),
    )
    return rows


def _scipy(quick: bool) -> list[Row]:
    if find_spec("scipy") is None:
        return [missing("peers", "SciPy", "x", "scipy is not installed, skipped", ">= 1.5")]
    from scipy import stats

    count, repeats = (8, 2) if quick else (64, 3)
    generator = torch.Generator().manual_seed(0)
    a = importance(torch.randn(count, 3, 227, 227, generator=generator))
    b = importance(torch.randn(count, 3, 227, 227, generator=generator)) + a

    def loop(function: Callable[..., tuple[float, float]]) -> Call:
        pairs = [(one.flatten().numpy(), other.flatten().numpy()) for one, other in zip(a, b, strict=True)]
        return lambda: torch.tensor([float(function(*pair)[0]) for pair in pairs], dtype=torch.float64)

    rows = []
    for name, mine, theirs in (("Spearman", spearman, stats.spearmanr), ("Kendall", kendall, stats.kendalltau)):
        call = f"{name}, {count} maps of 227 x 227"
        rows += compared("SciPy", call, lambda mine=mine: mine(a, b), loop(theirs), repeats, (">= 1.5", "<= 1e-9"))
    # Kendall's is SciPy's own, map by map in threads, so that it needs another judge.
    c, d = (maps[:, :40, :40].flatten(1) for maps in (a, b))
    x, y = ((maps[:, :, None] - maps[:, None]).sign().double() for maps in (c, d))
    pairs = (x * y).sum((1, 2)) / (x.abs().sum((1, 2)) * y.abs().sum((1, 2))).sqrt()
    error = (kendall(c, d) - pairs).abs().max().item()
    rows[-1] = Row("peers", "Kendall: largest difference to counting all pairs, 40 x 40", error, "absolute", "<= 1e-9")
    return rows


def _dattri(quick: bool) -> list[Row]:
    name, tests = "influence, 200 x 1,000 at p = 2,049: speed over dattri", 2 if quick else 5
    if find_spec("dattri") is None:
        return [missing("peers", name, "x", "dattri is not installed, skipped", ">= 100")]
    command = [sys.executable, "-W", "ignore", "benchmarks/influence.py", "--tests", str(tests)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    return influence_rows(name, done.stdout, tests)


def influence_rows(name: str, printed: str, tests: int) -> list[Row]:
    """Read what `benchmarks/influence.py` printed and scale it to 200 test images; our fit of the layer counts."""
    number = r"([\d.]+)"
    mine = re.search(rf"fit {number} s, influences {number} s", printed)
    theirs = re.search(rf"gradients: {number} s", printed)
    error = re.search(r"largest influence: (\S+)", printed)
    if not (mine and theirs and error):
        return [missing("peers", name, "x", "the comparison did not finish", ">= 100")]
    seconds = float(mine[1]) + 200 / tests * float(mine[2])
    ratio = 200 / tests * float(theirs[1]) / seconds
    note = f"{tests} test images, scaled to 200; ours includes the fit; wall time"
    return [
        Row("peers", name, ratio, "x", ">= 100", note),
        Row("peers", "influence: largest difference to dattri", float(error[1]), "relative", "<= 1e-4"),
    ]


def _one_at_a_time(quick: bool) -> Row:
    batch = 4 if quick else 8
    model, x = network.squeezenet(), photographs(batch)
    labels = model(x).argmax(1)
    reference = importance(simple_gradient(model, x, labels))

    def step(rows: slice, network: nn.Module = model) -> Tensor:
        return attack_step(network, x[rows], labels[rows], simple_gradient, reference[rows])

    singly = [slice(i, i + 1) for i in range(batch)]
    times = interleaved(
        {"batch": lambda: step(slice(None)), "singly": lambda: [step(row) for row in singly]},
        1 if quick else 2,
        warm=not quick,
    )
    name, note = "attack step: gain over one image at a time", f"SqueezeNet, batch {batch}"
    return Row("peers", name, times["singly"] / times["batch"], "x", "", note)
