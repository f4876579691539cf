"""Profiles of the table of defenses, as plain data."""

from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Defense:
    """How a network is trained or built.

    Attributes:
        loss: a key of `LOSSES`, for the training after the common beginning; None for no more training.
        options: of that loss.
        beta: of a softplus in place of every ReLU, in that training and after it.
        levels: of discretised inputs, likewise.
    """

    loss: str | None
    options: dict[str, Any] = field(default_factory=dict)
    beta: float | None = None
    levels: int | None = None


@dataclass(frozen=True)
class Profile:
    """A table of defenses.

    Attributes:
        data: a key of `fragility.data.datasets.LOADERS` with a split, 28 or 32 pixels wide, grey.
        training_images: how many, drawn with seed 0.
        test_images: how many, drawn with seed 0, for the natural accuracy.
        images: how many of them are attacked: the first that the network gets right, of twice as many candidates.
        seeds: of the networks.
        network: a key of `NETWORKS`.
        network_options: of that function.
        natural_epochs: the common beginning.
        epochs: of every defense after it.
        batch_size: of the training.
        learning_rate: of Adam.
        epsilon: radius of the L-inf ball of the attacks, pixels from 0 to 1.
        k_attacked: the first of the two attacks pushes importance out of so many pixels.
        k: how many pixels count as the most important in the metric.
        iterations: P of one run.
        restarts: further runs of each of the two attacks, from random points of the ball.
        attack_steps: M of integrated gradients while attacking and choosing the best iterate.
        evaluation_steps: M of integrated gradients in the metrics.
        doubled_images: how many of the first seed's images show whether the budget is enough.
        defenses: by name.
        budgets: of the attacks on those images; a budget of 2 has twice the steps and twice the runs.
    """

    data: str
    training_images: int
    test_images: int
    images: int
    seeds: tuple[int, ...]
    network: str
    network_options: dict[str, Any]
    natural_epochs: int
    epochs: int
    batch_size: int
    learning_rate: float
    epsilon: float
    k_attacked: int
    k: int
    iterations: int
    restarts: int
    attack_steps: int
    evaluation_steps: int
    doubled_images: int
    defenses: dict[str, Defense]
    budgets: tuple[int, ...] = (1, 2)


def _defenses(epsilon: float, step_size: float, iterations: int, steps: int, inner_steps: int) -> dict[str, Defense]:
    ball = {"epsilon": epsilon, "step_size": step_size, "iterations": iterations}
    path = {"steps": steps, "inner_steps": inner_steps}
    return {
        "natural": Defense("cross_entropy"),
        "adversarial": Defense("adversarial", ball),
        "ig_norm": Defense("ig_norm", {**ball, **path, "weight": 1.0}),
        "ig_sum_norm": Defense("ig_sum_norm", {**ball, **path, "beta": 0.1}),
        "input_gradient": Defense("input_gradient", {"weight": 0.1}),
        "spectral": Defense("operator_norm", {"weight": 0.01, "iterations": 3}),
        "softplus": Defense("cross_entropy", beta=4.0),
        "softplus_untrained": Defense(None, beta=4.0),  # explained and used as softplus, trained as ReLU
        "discretized": Defense("cross_entropy", levels=4),
    }


DEFENSE_TABLE = {
    # Digits: a minute of one core. Far too little training for a verdict; it shows that everything runs.
    "fast": Profile(
        data="digits", training_images=400, test_images=120, images=16, seeds=(0, 1), network="small_cnn",
        network_options={"size": 32, "stride": 4}, natural_epochs=6, epochs=2, batch_size=50, learning_rate=1e-3,
        epsilon=0.1, k_attacked=200, k=100, iterations=5, restarts=0, attack_steps=3, evaluation_steps=10,
        doubled_images=8, defenses=_defenses(0.1, 0.05, 3, 2, 2),
    ),
    # MNIST on two cores: a sixth of the training images, few epochs, a small network, epsilon 0.2 in place of 0.3 (at
    # which so small a network, trained from scratch, stayed at chance), and 4 points on the path, not 50. The attack
    # pushes at the top 100 in place of 200, which hold all the importance of many a digit: their share cannot change.
    "laptop": Profile(
        data="mnist", training_images=10_000, test_images=2_000, images=500, seeds=(0, 1, 2, 3, 4), network="small_cnn",
        network_options={"size": 28, "stride": 2}, natural_epochs=4, epochs=2, batch_size=50, learning_rate=1e-3,
        epsilon=0.2, k_attacked=100, k=100, iterations=20, restarts=0, attack_steps=4, evaluation_steps=20,
        doubled_images=100, defenses=_defenses(0.2, 0.06, 5, 4, 4), budgets=(1, 2, 4),
    ),
    # The published hyper-parameters [Chen2019], for a GPU. How many epochs they trained is not known; these are ours.
    "paper": Profile(
        data="mnist", training_images=60_000, test_images=10_000, images=500, seeds=(0, 1, 2, 3, 4),
        network="madry_cnn", network_options={}, natural_epochs=0, epochs=20, batch_size=50, learning_rate=1e-4,
        epsilon=0.3, k_attacked=200, k=100, iterations=100, restarts=1, attack_steps=20, evaluation_steps=100,
        doubled_images=100, defenses=_defenses(0.3, 0.01, 40, 50, 10),
    ),
}  # fmt: skip

_MNIST = DEFENSE_TABLE["laptop"]
_KEPT = ("natural", "adversarial", "ig_norm", "ig_sum_norm", "softplus", "discretized")

# Fashion-MNIST at its published epsilon, 0.1; else as above, with fewer defenses.
FASHION_TABLE = {
    "laptop": replace(
        _MNIST, data="fashion_mnist", epsilon=0.1, budgets=(1, 2),
        defenses={name: defense for name, defense in _defenses(0.1, 0.03, 5, 4, 4).items() if name in _KEPT},
    ),
    "paper": replace(
        DEFENSE_TABLE["paper"], data="fashion_mnist", epsilon=0.1, defenses=_defenses(0.1, 0.01, 20, 50, 10)
    ),
}  # fmt: skip
