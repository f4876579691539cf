"""Growth: seconds and megabytes against images, pixels, points on the path, classes, training images and k."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks.floor import PATH, STEP
from benchmarks.harness import Point, Row, fresh, interleaved, slope
from fragility import network
from fragility.attribution import integrated_gradients, simple_gradient
from fragility.influence.last_layer import LastLayerInfluence
from fragility.iterate import Attribution, gradient
from fragility.objective import top_k
from fragility.similarity import top_k_intersection
from fragility.surrogate import softplus

LINEAR = "<= 1.15"
MEMORY = STEP.replace("partial(integrated_gradients, steps={steps})", "simple_gradient")


def measure(quick: bool) -> tuple[list[Row], list[Point]]:
    """Measure each quantity at some sizes; the rest stays fixed."""
    generator = torch.Generator().manual_seed(0)
    model = network.squeezenet(weights=None)
    side = 64 if quick else 96

    def step(batch: int, size: int, attribution: Attribution = simple_gradient) -> Callable[[], Tensor]:
        x, reference = torch.rand(batch, 3, size, size, generator=generator), torch.rand(batch, size, size)

        def call() -> Tensor:
            with softplus(1.0):
                labels = torch.zeros(batch, dtype=torch.int64)
                return gradient(model, x, labels, attribution, top_k(100), reference)[0]

        return call

    def influences(training: int, classes: int) -> Callable[[], Tensor]:
        features = torch.randn(training + 50, 128, generator=generator, dtype=torch.float64)
        labels = torch.arange(training + 50) % classes

        def call() -> Tensor:
            layer = LastLayerInfluence(features[:-50], labels[:-50], l2=0.1, num_classes=classes)
            return layer.influence(features[-50:], labels[-50:])

        return call

    a, b = torch.rand(8, 227, 227, generator=generator), torch.rand(8, 227, 227, generator=generator)
    sizes = (64, 96, 128) if quick else (64, 96, 128, 192, 256)
    cases: dict[str, tuple[Sequence[int], Callable[[int], Callable[[], Tensor]], str]] = {
        "attack step against images": ((1, 2, 4, 8), lambda n: step(n, side), LINEAR),
        "attack step against pixels": (sizes, lambda n: step(1, n), LINEAR),
        "IG attack step against M": (
            (8, 16, 32),
            lambda n: step(1, 64, partial(integrated_gradients, steps=n)),
            LINEAR,
        ),
        "influence against training images (p = 129, K = 2)": ((250, 500, 1000), lambda n: influences(n, 2), ""),
        "influence against classes (n = 500, p = 129)": ((2, 4, 8), lambda n: influences(500, n), ""),
        "top-k intersection against k": (
            (100, 1000, 10000),
            lambda n: lambda: top_k_intersection(a, b, n),
            "<= 0.3",
        ),
    }
    rows, points = [], []
    for name, (values, build, target) in cases.items():
        times = interleaved({str(value): build(value) for value in values}, 1 if quick else 3)
        # The number of pixels grows with the square of the side.
        x = [float(value**2 if name.endswith("pixels") else value) for value in values]
        y = list(times.values())
        what, _, unit = name.partition(" against ")
        rows.append(Row("growth", f"{name}: exponent of the time", slope(x, y), "", target, f"{len(x)} sizes"))
        points += [
            Point("growth: seconds", what, unit.partition(" (")[0], "seconds", *pair) for pair in zip(x, y, strict=True)
        ]
    if not quick:
        batches = (4, 8, 16)
        setup = "from fragility.attribution import simple_gradient\n"
        above = [fresh(MEMORY, setup + _many(n)).above for n in batches]
        x = [float(n) for n in batches]
        rows.append(
            Row("growth", "attack step against images: exponent of the peak memory", slope(x, above), "", LINEAR)
        )
        points += [
            Point("growth: megabytes", "attack step", "images", "MB", *pair) for pair in zip(x, above, strict=True)
        ]
    return rows, points


def _many(batch: int) -> str:
    """Return the setup of `floor.PATH` at 128 pixels with a larger batch."""
    text = PATH.format(size=128).replace("rand(1,", f"rand({batch},")
    return text.replace("tensor([0])", f"zeros({batch}, dtype=torch.int64)")
