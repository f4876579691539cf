"""Influence through all parameters of small networks, by depth and weight decay, against retraining [Basu2021].

Networks of 16 inputs and six tanh units a layer tell threes from eights; the Hessian is exact and damped a little. For
the training images of the largest influence the network is trained again without the image, from the trained
parameters on, as in [Koh2017]. Training is not exact itself: it is repeated from slightly shifted parameters *with
nothing left out*, and by how much the test losses differ is the noise floor. Digits serve at every profile.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy

from fragility import train
from fragility.influence.whole_network import direct, network_influence
from fragility.study.features import part
from fragility.study.influence_attack import PROFILES as SETTINGS
from fragility.study.store import Columns, Piece, Plan, Recomputable, Row

VERSION = 1  # to be raised with any change of what a row means


@dataclass(frozen=True)
class Profile:
    """What is computed.

    Attributes:
        depths: numbers of hidden layers.
        decays: strengths of the penalty.
        draws: how many draws of images and initial parameters.
        training_images: of each draw.
        test_images: of each draw.
        left_out: how many training images are left out, one at a time, those of the largest influence.
        repeats: trainings from shifted parameters with nothing left out.
        steps: L-BFGS steps of the first training.
        more_steps: of each further one.
        damping: added to the Hessian's diagonal.
        shift: standard deviation of the shift.
        seed: of all draws.
    """

    depths: tuple[int, ...]
    decays: tuple[float, ...]
    draws: int
    training_images: int = 60
    test_images: int = 10
    left_out: int = 8
    repeats: int = 2
    steps: int = 400
    more_steps: int = 150
    damping: float = 1e-5
    shift: float = 0.02
    seed: int = 0


_FULL = Profile((0, 1, 2), (1e-2, 1e-3, 1e-4), 10)
PROFILES = {"fast": Profile((0, 1), (1e-2,), 2), "laptop": _FULL, "paper": _FULL}
SMALL_GRADIENT = 1e-6  # at which a training counts as converged

COLUMNS: Columns = {
    "image": (str, "which draw of images and initial parameters"),
    "depth": (int, "hidden layers"),
    "decay": (float, "strength of the penalty"),
    "seed": (int, "of the draws"),
    "pairs": (int, "test images times training images left out"),
    "r": (float, "Pearson correlation of influence and the change of the test loss by retraining"),
    "ceiling": (float, "what r would be for a perfect estimate, given the noise floor"),
    "mean_change": (float, "mean absolute change of a test loss without a training image"),
    "noise_floor": (float, "the same with nothing left out, from shifted parameters"),
    "gradient": (float, "largest entry of the loss's gradient after training, over all trainings of the row"),
    "converged": (bool, f"whether that is at most {SMALL_GRADIENT:g}"),
}

# Where a training does not converge, rounding decides where it ends.
RECOMPUTABLE = Recomputable(
    means={"r": 0.1, "ceiling": 0.1, "mean_change": 0.1, "noise_floor": 0.1, "gradient": 1e-3},
)


def plan(profile: Profile, device: str = "cpu") -> Plan:
    """List the pieces.

    Args:
        profile: what to compute.
        device: ignored: the processor serves, in float64.

    Returns:
        The plan.
    """
    digits = part(SETTINGS["fast"], "train")
    images = avg_pool2d(digits.images, 8).flatten(1).double()
    images = images - images.mean(0)
    pixels = train.fingerprint(digits.images, digits.labels)
    shared = {key: value for key, value in asdict(profile).items() if key not in ("depths", "decays", "draws")}
    pieces = [
        {
            "version": VERSION,
            **shared,
            "training": pixels,
            "first": draw,
            "images": [f"{draw}"],
            "depth": depth,
            "decay": decay,
        }
        for draw in range(profile.draws)
        for depth in profile.depths
        for decay in profile.decays
    ]
    return Plan(
        parameters=asdict(profile),
        inputs={"data": digits.source, "training_sha256": pixels},
        columns=COLUMNS,
        pieces=pieces,
        compute=lambda piece: [_row(piece, name, profile, images, digits.labels) for name in piece["images"]],
        cost=lambda piece: 1.0 + piece["depth"],
    )


def mlp(depth: int, generator: torch.Generator) -> nn.Sequential:
    """Make an untrained network of 16 inputs, six tanh units a hidden layer, and two classes.

    Args:
        depth: hidden layers.
        generator: of the parameters, normal with variance 1 / fan-in, the biases zero.

    Returns:
        The network, float64, in evaluation mode.
    """
    widths = [16] + [6] * depth + [2]
    parts = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b).double(), nn.Tanh())]
    for layer in parts[::2]:
        weight, bias = layer.parameters()
        nn.init.normal_(weight, std=weight.shape[1] ** -0.5, generator=generator)
        nn.init.zeros_(bias)
    return nn.Sequential(*parts[:-1]).eval()


def fit(model: nn.Module, loss: Callable[[], Tensor], steps: int) -> float:
    """Train by full-batch L-BFGS.

    Args:
        model: trained in place.
        loss: of the model as it stands.
        steps: the most.

    Returns:
        The largest entry of the gradient where it ended.
    """
    parameters = list(model.parameters())
    solver = torch.optim.LBFGS(
        parameters, max_iter=steps, tolerance_grad=1e-8, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    solver.step(closure)  # type: ignore[no-untyped-call]
    gradients = torch.autograd.grad(loss(), parameters)
    return max(float(gradient.abs().max()) for gradient in gradients)


def _row(piece: Piece, name: str, profile: Profile, images: Tensor, labels: Tensor) -> Row:
    generator = _generator(profile.seed, name)
    drawn = torch.randperm(len(images), generator=generator)
    n = profile.training_images
    training, tests = drawn[:n], drawn[n : n + profile.test_images]
    model, decay = mlp(piece["depth"], generator), piece["decay"]

    def loss(weights: Tensor) -> Tensor:
        entropy = cross_entropy(model(images[training]), labels[training], reduction="none")
        penalty = torch.cat([parameter.flatten() for parameter in model.parameters()]).square().sum()
        value: Tensor = (weights * entropy).mean() + decay / 2 * penalty
        return value

    def test_losses() -> Tensor:
        with torch.no_grad():
            return cross_entropy(model(images[tests]), labels[tests], reduction="none")

    everything = torch.ones(n, dtype=torch.float64)
    gradients = [fit(model, lambda: loss(everything), profile.steps)]
    start = {key: value.clone() for key, value in model.state_dict().items()}
    base = test_losses()
    data = (images[training], labels[training], images[tests], labels[tests])
    predicted, _ = network_influence(model, *data, l2=decay, damping=profile.damping, solve=direct)

    def change(weights: Tensor, shift: float = 0.0) -> Tensor:
        noise = {k: shift * torch.randn(v.shape, generator=generator, dtype=v.dtype) for k, v in start.items()}
        model.load_state_dict({key: value + noise[key] for key, value in start.items()})
        gradients.append(fit(model, lambda: loss(weights), profile.more_steps))
        return test_losses() - base

    largest = predicted.abs().sum(0).topk(profile.left_out).indices
    true = torch.stack([change(everything.index_fill(0, index, 0.0)) for index in largest], 1)
    noise = torch.stack([change(everything, profile.shift) for _ in range(profile.repeats)], 1)
    pair = torch.stack([predicted[:, largest].flatten(), true.flatten()])
    return {
        "image": name,
        "depth": piece["depth"],
        "decay": decay,
        "seed": profile.seed,
        "pairs": true.numel(),
        "r": float(torch.corrcoef(pair)[0, 1]),
        "ceiling": float((1 - noise.square().mean() / true.var()).clamp(min=0).sqrt()),
        "mean_change": float(true.abs().mean()),
        "noise_floor": float(noise.abs().mean()),
        "gradient": max(gradients),
        "converged": max(gradients) <= SMALL_GRADIENT,
    }


def _generator(*names: object) -> torch.Generator:
    return torch.Generator().manual_seed(int(train.fingerprint(*names)[:15], 16))
