"""Profiles of the studies: what is computed, as plain data. More images or conditions extend stored results."""

from dataclasses import dataclass, field
from typing import Any

from fragility.network import CAFFE_MEAN


@dataclass(frozen=True)
class Setup:
    """A network, the images it is asked about, and the constants that go with them.

    Attributes:
        data: a key of `fragility.dataset.LOADERS`.
        data_options: arguments of that loader.
        candidates: how many images are drawn; of those that the network gets right the first ones are used.
        network: a key of `fragility.study.setup.NETWORKS`.
        network_options: arguments of that function.
        training_epochs: of the network, on the training split of the data; None where its weights are published.
        k: how many pixels count as the most important.
        surrogate_beta: of the attacks' softplus, in units of 1 / pre-activation.
        baseline: the reference of integrated gradients and DeepLIFT, one value per channel.
    """

    data: str
    candidates: int
    network: str
    k: int
    surrogate_beta: float
    baseline: tuple[float, ...]
    data_options: dict[str, Any] = field(default_factory=dict)
    network_options: dict[str, Any] = field(default_factory=dict)
    training_epochs: int | None = None


@dataclass(frozen=True)
class Sweep:
    """One attack on some methods at some sizes.

    Attributes:
        setup: a key of the profile's setups.
        attack: `"random"` (one draw), `"random_walk"`, `"top_k"` or `"mass_center"`.
        methods: keys of `fragility.attribution.ATTRIBUTIONS`.
        epsilons: of 255.
        images: how many.
        batch: how many images make a piece; divides `images`.
        iterations: P, the number of steps.
        step_size: alpha, of 255.
        adaptive: see `fragility.attack.iterative`.
        attack_steps: M of integrated gradients while attacking and choosing the best iterate.
        evaluation_steps: M of integrated gradients in the metrics.
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

    def __post_init__(self) -> None:
        if self.images < 1 or self.batch < 1 or self.images % self.batch:
            raise ValueError(f"images: expected a multiple of the batch of {self.batch}, got {self.images}")


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


METHODS = ("simple_gradient", "deeplift", "integrated_gradients")


def _squeezenet(pooling: str, candidates: int) -> Setup:
    # The normalisation is folded into the first layer: pre-activations, and with them beta, are those of Caffe's units.
    return Setup(
        data="imagenet",
        candidates=candidates,
        network="squeezenet",
        network_options={"weights": "caffe", "pooling": pooling},
        k=1000,
        surrogate_beta=1.0,
        baseline=CAFFE_MEAN,
    )


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

ATTACK_SWEEP = {
    # Digits: seconds, no network. The pictures are 32 x 32, so that changes have to be large to matter.
    "fast": Profile(
        seed=0,
        setups={"digits": _DIGITS},
        sweeps=(
            Sweep("digits", "random", METHODS, (25.5, 51.0), 16, 8, evaluation_steps=10),
            Sweep("digits", "random_walk", METHODS[:1], (25.5, 51.0), 8, 4, 10, 10.0),
            Sweep("digits", "top_k", METHODS[:2], (51.0,), 8, 4, 10, 10.0),
            Sweep("digits", "mass_center", METHODS[:2], (51.0,), 8, 4, 10, 10.0),
            Sweep("digits", "top_k", METHODS[2:], (51.0,), 4, 2, 10, 10.0, attack_steps=5, evaluation_steps=10),
        ),
    ),
    # Photographs on a laptop's two cores: an hour or so. In place of the paper's P = 300 it has P = 40 for the simple
    # gradient and 20 for the others, and larger steps than its alpha = 0.5 where epsilon would be out of reach.
    "laptop": Profile(
        seed=0,
        setups={"squeezenet": _squeezenet("floor", 128), "squeezenet-ceil": _squeezenet("ceil", 128)},
        sweeps=(
            Sweep("squeezenet", "random", METHODS[:2], (8.0, 2.0, 4.0, 1.0), 64, 4),
            Sweep("squeezenet-ceil", "random", METHODS[:1], (8.0, 2.0, 4.0, 1.0), 64, 4),
            Sweep("squeezenet", "top_k", METHODS[:1], (8.0,), 16, 4, 40, 1.0),
            Sweep("squeezenet", "mass_center", METHODS[:1], (8.0,), 16, 4, 40, 1.0),
            Sweep("squeezenet", "top_k", METHODS[:1], (2.0, 4.0, 1.0), 16, 4, 40, 0.5),
            Sweep("squeezenet", "mass_center", METHODS[:1], (2.0, 4.0, 1.0), 16, 4, 40, 0.5),
            Sweep("squeezenet", "random_walk", METHODS[:1], (8.0,), 16, 4, 40, 1.0),
            Sweep("squeezenet", "random_walk", METHODS[:1], (2.0, 4.0, 1.0), 16, 4, 40, 0.5),
            Sweep("squeezenet", "top_k", METHODS[1:2], (8.0, 2.0), 8, 4, 20, 1.0),
            Sweep("squeezenet", "mass_center", METHODS[1:2], (8.0, 2.0), 8, 4, 20, 1.0),
            Sweep("squeezenet", "random", METHODS[2:], (8.0, 2.0, 4.0, 1.0), 32, 4, evaluation_steps=20),
            Sweep("squeezenet", "top_k", METHODS[2:], (8.0, 2.0), 4, 2, 20, 1.0, attack_steps=10),
            Sweep("squeezenet", "mass_center", METHODS[2:], (8.0, 2.0), 4, 2, 20, 1.0, attack_steps=10),
        ),
    ),
    # The paper's own scale, for a GPU.
    "paper": Profile(
        seed=0,
        setups={"squeezenet": _squeezenet("floor", 1000), "squeezenet-ceil": _squeezenet("ceil", 1000)},
        sweeps=(
            Sweep("squeezenet", "random", METHODS, (8.0, 2.0, 4.0, 1.0), 512, 32),
            Sweep("squeezenet", "top_k", METHODS, (8.0, 2.0, 4.0, 1.0), 512, 32, 300, 0.5),
            Sweep("squeezenet", "mass_center", METHODS, (8.0, 2.0, 4.0, 1.0), 512, 32, 300, 0.5),
            Sweep("squeezenet", "random_walk", METHODS, (8.0, 2.0, 4.0, 1.0), 512, 32, 300, 0.5),
            Sweep("squeezenet-ceil", "random", METHODS, (8.0, 2.0, 4.0, 1.0), 512, 32),
            Sweep("squeezenet-ceil", "top_k", METHODS[:1], (8.0, 2.0, 4.0, 1.0), 512, 32, 300, 0.5),
            Sweep("squeezenet-ceil", "mass_center", METHODS[:1], (8.0, 2.0, 4.0, 1.0), 512, 32, 300, 0.5),
        ),
    ),
}
