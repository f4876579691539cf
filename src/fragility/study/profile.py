"""Profiles of the studies: what is computed, as plain data. More images or conditions extend stored results."""

from dataclasses import dataclass, field
from typing import Any

from fragility.network import CAFFE_MEAN


@dataclass(frozen=True)
class Setup:
    """A network, the images it is asked about, and the constants that go with them.

    Attributes:
        data: a key of `fragility.data.datasets.LOADERS`.
        data_options: arguments of that loader.
        candidates: how many images are drawn; of those that the network gets right the first ones are used.
        network: a key of `fragility.study.setup.NETWORKS`, or of `RECIPES` there.
        network_options: arguments of that function.
        training_epochs: of the network, on the training split of the data; None where its weights are published.
        jpeg_quality: of the JPEG files that the images are written to and read from once more; None for as they are.
        k: how many pixels count as the most important.
        surrogate_beta: of the attacks' softplus, in units of 1 / pre-activation; None for what
            `fragility.surrogate.suggest_beta` says of 16 training images.
        baseline: the reference of integrated gradients and DeepLIFT, one value per channel; None for the mean of the
            training images, pixel by pixel.
    """

    data: str
    candidates: int
    network: str
    k: int
    surrogate_beta: float | None
    baseline: tuple[float, ...] | None
    data_options: dict[str, Any] = field(default_factory=dict)
    network_options: dict[str, Any] = field(default_factory=dict)
    training_epochs: int | None = None
    jpeg_quality: int | None = None


@dataclass(frozen=True)
class Sweep:
    """One attack on some methods at some sizes.

    Attributes:
        setup: a key of the profile's setups.
        attack: `"random"` (one draw), `"random_walk"`, `"top_k"`, `"mass_center"` or `"targeted"`.
        methods: keys of `fragility.attribution.ATTRIBUTIONS`.
        epsilons: of 255.
        images: up to which one of the setup's images.
        batch: how many images make a piece; divides `images` - `start`.
        iterations: P, the number of steps.
        step_size: alpha, of 255.
        adaptive: see `fragility.attack.iterative`.
        attack_steps: M of integrated gradients while attacking and choosing the best iterate.
        evaluation_steps: M of integrated gradients in the metrics.
        start: how many of the images are left to other sweeps.
        by_metric: choose the best iterate by the top-k intersection, as the released code does, not by D.
        rounded: judge what is left of the perturbation in a file of eight bits per channel.
    """

    setup: str
    attack: str
    methods: tuple[str, ...]
    epsilons: tuple[float, ...]
    images: int
    batch: int
    iterations: int = 1
    step_size: float | None = None
    adaptive: bool = False
    attack_steps: int = 100
    evaluation_steps: int = 100
    start: int = 0
    by_metric: bool = False
    rounded: bool = False

    def __post_init__(self) -> None:
        count = self.images - self.start
        if self.start < 0 or count < 1 or self.batch < 1 or count % self.batch:
            raise ValueError(f"images: expected a multiple of the batch of {self.batch}, got {count}")


@dataclass(frozen=True)
class Profile:
    """The sweeps of a study in the order in which they are computed: the most telling ones first.

    Attributes:
        seed: of the drawn images and of the random perturbations.
        setups: by name.
        sweeps: what is computed.
    """

    seed: int
    setups: dict[str, Setup]
    sweeps: tuple[Sweep, ...]


GRADIENT, DEEPLIFT, INTEGRATED = ("simple_gradient",), ("deeplift",), ("integrated_gradients",)
METHODS = GRADIENT + DEEPLIFT + INTEGRATED
ALL = (8.0, 2.0, 4.0, 1.0)  # the paper's epsilons


def _squeezenet(pooling: str, candidates: int, *, beta: float = 1.0, crop: bool = False) -> Setup:
    # The normalisation is folded into the first layer: pre-activations, and with them beta, are those of Caffe's units.
    return Setup(
        data="imagenet",
        data_options={"crop": True} if crop else {},
        candidates=candidates,
        network="squeezenet",
        network_options={"weights": "caffe", "pooling": pooling},
        k=1000,
        surrogate_beta=beta,
        baseline=CAFFE_MEAN,
    )


def _cifar(k: int, candidates: int, *, jpeg_quality: int | None = None) -> Setup:
    return Setup(
        data="cifar10",
        data_options={"split": "test"},
        candidates=candidates,
        network="cifar_cnn",
        k=k,
        surrogate_beta=None,
        baseline=None,
        jpeg_quality=jpeg_quality,
    )


def _both(setup: str, methods: tuple[str, ...], epsilons: tuple[float, ...], *rest: Any, **more: Any) -> list[Sweep]:
    return [Sweep(setup, attack, methods, epsilons, *rest, **more) for attack in ("top_k", "mass_center")]


def _recompressed(setup: str) -> list[Sweep]:
    return [
        Sweep(setup, "random", GRADIENT, (8.0, 2.0), 32, 8),
        *_both(setup, GRADIENT, (8.0,), 32, 8, 40, 1.0),
    ]


_DIGITS = Setup(
    data="digits",
    data_options={"split": "test"},
    candidates=24,
    network="digits_cnn",
    training_epochs=12,
    k=100,
    surrogate_beta=4.0,  # what fragility.surrogate.suggest_beta says for the training images
    baseline=(0.305,),  # their mean
)

_NETS = {"squeezenet": _squeezenet("floor", 527), "squeezenet-ceil": _squeezenet("ceil", 128)}

ATTACK_SWEEP = {
    # Digits: seconds, no network. The pictures are 32 x 32, so that changes have to be large to matter.
    "fast": Profile(
        seed=0,
        setups={"digits": _DIGITS},
        sweeps=(
            Sweep("digits", "random", METHODS, (25.5, 51.0), 16, 8, evaluation_steps=10),
            Sweep("digits", "random_walk", GRADIENT, (25.5, 51.0), 8, 4, 10, 10.0),
            *_both("digits", GRADIENT + DEEPLIFT, (51.0,), 8, 4, 10, 10.0),
            Sweep("digits", "targeted", GRADIENT, (51.0,), 8, 4, 10, 10.0),
            Sweep("digits", "top_k", INTEGRATED, (51.0,), 4, 2, 10, 10.0, attack_steps=5, evaluation_steps=10),
        ),
    ),
    # Photographs on a laptop's two cores: a night. In place of the paper's P = 300 it has P = 40 for the simple
    # gradient and 20 for the others, and larger steps than its alpha = 0.5 where epsilon would be out of reach. First a
    # little of everything, then more images: wherever it is stopped the table makes sense.
    "laptop": Profile(
        seed=0,
        setups=_NETS,
        sweeps=(
            Sweep("squeezenet", "random", GRADIENT + DEEPLIFT, ALL, 64, 4),
            Sweep("squeezenet-ceil", "random", GRADIENT, ALL, 64, 4),
            *_both("squeezenet", GRADIENT, (8.0,), 16, 4, 40, 1.0),
            *_both("squeezenet", GRADIENT, (2.0, 4.0, 1.0), 16, 4, 40, 0.5),
            Sweep("squeezenet", "targeted", GRADIENT, (8.0,), 16, 4, 40, 1.0),
            Sweep("squeezenet", "random_walk", GRADIENT, (2.0,), 64, 4, 40, 0.5),
            *_both("squeezenet", DEEPLIFT, (8.0,), 8, 4, 20, 1.0),
            *_both("squeezenet", DEEPLIFT, (2.0,), 8, 4, 20, 0.5),
            *_both("squeezenet", INTEGRATED, (8.0,), 4, 2, 20, 1.0, attack_steps=10),
            Sweep("squeezenet", "random", INTEGRATED, (8.0, 2.0), 32, 4, evaluation_steps=20),
            *_both("squeezenet", GRADIENT, (8.0,), 32, 4, 40, 1.0, start=16),
            *_both("squeezenet", GRADIENT, (2.0,), 32, 4, 40, 0.5, start=16),
            *_both("squeezenet", GRADIENT, (8.0,), 64, 4, 40, 1.0, start=32),
            *_both("squeezenet", GRADIENT, (2.0,), 64, 4, 40, 0.5, start=32),
            Sweep("squeezenet", "targeted", GRADIENT, (8.0,), 64, 4, 40, 1.0, start=16),
            *_both("squeezenet", GRADIENT, (4.0, 1.0), 32, 4, 40, 0.5, start=16),
            *_both("squeezenet", DEEPLIFT, (4.0, 1.0), 8, 4, 20, 0.5),
            *_both("squeezenet", INTEGRATED, (2.0,), 4, 2, 20, 0.5, attack_steps=10),
            *_both("squeezenet-ceil", GRADIENT, (8.0,), 16, 4, 40, 1.0),
            *_both("squeezenet-ceil", GRADIENT, (2.0,), 16, 4, 40, 0.5),
            *_both("squeezenet", DEEPLIFT, (8.0,), 16, 4, 20, 1.0, start=8),
            *_both("squeezenet", DEEPLIFT, (2.0, 4.0, 1.0), 16, 4, 20, 0.5, start=8),
            *_both("squeezenet", INTEGRATED, (4.0, 1.0), 4, 2, 20, 0.5, attack_steps=10),
            Sweep("squeezenet", "random", GRADIENT, ALL, 496, 8, start=64),
            Sweep("squeezenet", "random", INTEGRATED, (8.0, 2.0), 64, 4, evaluation_steps=20, start=32),
            Sweep("squeezenet", "random_walk", GRADIENT, (8.0,), 64, 4, 40, 1.0),
            *_both("squeezenet", GRADIENT, (4.0, 1.0), 64, 4, 40, 0.5, start=32),
            Sweep("squeezenet", "random", INTEGRATED, (4.0, 1.0), 64, 4, evaluation_steps=20),
            Sweep("squeezenet", "targeted", DEEPLIFT, (8.0,), 16, 4, 20, 1.0),
            Sweep("squeezenet", "targeted", GRADIENT, (2.0, 4.0, 1.0), 32, 4, 40, 0.5),
            Sweep("squeezenet", "random_walk", GRADIENT, (4.0, 1.0), 64, 4, 40, 0.5),
            Sweep("squeezenet", "targeted", DEEPLIFT, (2.0, 4.0, 1.0), 16, 4, 20, 0.5),
        ),
    ),
    # The paper's own scale, for a GPU.
    "paper": Profile(
        seed=0,
        setups={"squeezenet": _squeezenet("floor", 1000), "squeezenet-ceil": _squeezenet("ceil", 1000)},
        sweeps=(
            Sweep("squeezenet", "random", METHODS, ALL, 512, 32),
            *_both("squeezenet", METHODS, ALL, 512, 32, 300, 0.5),
            Sweep("squeezenet", "targeted", METHODS, ALL, 512, 32, 300, 0.5),
            Sweep("squeezenet", "random_walk", METHODS, ALL, 512, 32, 300, 0.5),
            Sweep("squeezenet-ceil", "random", METHODS, ALL, 512, 32),
            *_both("squeezenet-ceil", GRADIENT, ALL, 512, 32, 300, 0.5),
        ),
    ),
}

# CIFAR-10 and the paper's network for it. With k = 20 the most important pixels are the same share of the image as on
# ImageNet with k = 1000, as a comparison of the two needs it.
CIFAR_SWEEP = {
    "laptop": Profile(
        seed=0,
        setups={
            "cifar": _cifar(100, 128),
            "cifar-k20": _cifar(20, 128),
            # How much do the results owe to the compression of the pictures?
            "cifar-jpeg80": _cifar(100, 128, jpeg_quality=80),
            "cifar-jpeg40": _cifar(100, 128, jpeg_quality=40),
        },
        sweeps=(
            Sweep("cifar", "random", GRADIENT + DEEPLIFT, ALL, 64, 8),
            Sweep("cifar-k20", "random", GRADIENT, ALL, 64, 8),
            *_both("cifar-k20", GRADIENT, (8.0,), 64, 8, 40, 1.0),
            *_both("cifar-k20", GRADIENT, (2.0,), 64, 8, 40, 0.5),
            *_both("cifar", GRADIENT, (8.0,), 64, 8, 40, 1.0),
            *_both("cifar", GRADIENT, (2.0,), 64, 8, 40, 0.5),
            Sweep("cifar", "targeted", GRADIENT, (8.0,), 64, 8, 40, 1.0),
            Sweep("cifar", "random_walk", GRADIENT, (8.0,), 64, 8, 40, 1.0),
            Sweep("cifar", "random_walk", GRADIENT, (2.0,), 64, 8, 40, 0.5),
            *_recompressed("cifar-jpeg80"),
            *_recompressed("cifar-jpeg40"),
            *_both("cifar", GRADIENT, (4.0, 1.0), 64, 8, 40, 0.5),
            Sweep("cifar", "random", INTEGRATED, ALL, 64, 8, evaluation_steps=20),
            *_both("cifar", DEEPLIFT, (8.0,), 16, 8, 20, 1.0),
            *_both("cifar", INTEGRATED, (8.0,), 8, 4, 20, 1.0, attack_steps=10),
            *_both("cifar", DEEPLIFT, (2.0,), 16, 8, 20, 0.5),
        ),
    ),
    "paper": Profile(
        seed=0,
        setups={"cifar": _cifar(100, 1200), "cifar-k20": _cifar(20, 1200)},
        sweeps=(
            Sweep("cifar", "random", METHODS, ALL, 750, 50),
            *_both("cifar", METHODS, ALL, 750, 50, 300, 0.5),
            Sweep("cifar", "targeted", METHODS, ALL, 750, 50, 300, 0.5),
            Sweep("cifar", "random_walk", METHODS, ALL, 750, 50, 300, 0.5),
            Sweep("cifar-k20", "random", METHODS, ALL, 750, 50),
            *_both("cifar-k20", METHODS, ALL, 750, 50, 300, 0.5),
        ),
    ),
}


def _variants(images: int, candidates: int, batch: int, iterations: int, step_size: float) -> Profile:
    """The attacks on the simple gradient with one thing changed at a time."""
    plain = _squeezenet("floor", candidates)
    setups = {
        "steps doubled": plain,
        "steps adapted": plain,
        "chosen by the metric": plain,
        "8-bit file": plain,
        "epsilon 64": plain,
        "beta 0.5": _squeezenet("floor", candidates, beta=0.5),
        "beta 2": _squeezenet("floor", candidates, beta=2.0),
        "central square": _squeezenet("floor", candidates, crop=True),
    }
    run = (images, batch, iterations, step_size)
    return Profile(
        seed=0,
        setups=setups,
        sweeps=(
            *_both("steps doubled", GRADIENT, (8.0,), images, batch, 2 * iterations, step_size),
            *_both("steps adapted", GRADIENT, (8.0,), images, batch, iterations, 8.0, adaptive=True),
            *_both("beta 0.5", GRADIENT, (8.0,), *run),
            *_both("beta 2", GRADIENT, (8.0,), *run),
            Sweep("central square", "random", GRADIENT, (8.0, 2.0), images, batch),
            *_both("central square", GRADIENT, (8.0,), *run),
            *_both("epsilon 64", GRADIENT, (64.0,), images, batch, iterations, 8.0),
            *_both("chosen by the metric", GRADIENT, (8.0,), *run, by_metric=True),
            # Half a step of 1 / 255 is what a file cannot hold: of the perturbations at 8 / 255 it keeps all.
            *_both("8-bit file", GRADIENT, (2.0,), images, batch, iterations, 0.5, rounded=True),
        ),
    )


SENSITIVITY = {"laptop": _variants(16, 128, 4, 40, 1.0), "paper": _variants(512, 1000, 32, 300, 0.5)}
