"""The angle between the score's gradient and the saliency's most fragile direction [Ghorbani2019, Fig. 11a].

Both are taken on a network retrained with softplus, as in the paper's appendix B, for correctly classified images. In
high dimension nearly everything is nearly orthogonal to nearly everything, so that each row also holds what a null
needs: images come in blocks of one class, and a row tells how its gradient lies to the fragile direction of every image
of its block. The null permutes the directions within the blocks: it keeps what the class has in common and breaks the
pairing.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fragility import network, train
from fragility._checks import check_count
from fragility.attribution import simple_gradient
from fragility.curvature import angle, top_directions
from fragility.data import datasets
from fragility.study import cifar
from fragility.study.store import Columns, Piece, Plan, Recomputable, Row
from fragility.surrogate import softplus

VERSION = 1  # to be raised with any change of what a row means


@dataclass(frozen=True)
class Setup:
    """A retrained network and the images it is asked about.

    Attributes:
        candidates: how many test images are drawn; accuracies are over these, angles over the first correct ones.
        images: how many, the same number from every class.
        block: how many images of one class make a piece; divides the number per class.
        steps: of Lanczos' method.
        beta: of the softplus that the network was retrained with.
    """

    candidates: int
    images: int
    block: int
    steps: int
    beta: float = 1.0


@dataclass(frozen=True)
class Profile:
    """What is computed.

    Attributes:
        seed: of the drawn images.
        setups: by the name of their data, a key of `NETWORKS`.
    """

    seed: int
    setups: dict[str, Setup]


ANGLES = {
    "fast": Profile(0, {"digits": Setup(candidates=150, images=80, block=8, steps=20)}),
    "laptop": Profile(
        0,
        {
            "digits": Setup(candidates=360, images=200, block=20, steps=40),
            "cifar10": Setup(candidates=3000, images=1000, block=20, steps=25),
        },
    ),
    "paper": Profile(0, {"cifar10": Setup(candidates=9000, images=1000, block=20, steps=60)}),
}

COLUMNS: Columns = {
    "image": (str, "row or file of the test split"),
    "label": (int, "the class, true and predicted; its logit is differentiated"),
    "class_name": (str, "its name"),
    "setup": (str, "data and network, see parameters"),
    "beta": (float, "of the softplus that the network was retrained with, and is used with"),
    "dimension": (int, "d, numbers in an image"),
    "seed": (int, "of the drawn images"),
    "block": (str, "the images among which the null permutes: class and first image"),
    "angle": (float, "degrees between the score's gradient and the top direction of the Hessian, undirected"),
    "cos2": (float, "squared cosine of that angle"),
    "mismatched": (float, "mean squared cosine of this gradient with the block's other directions: the null's mean"),
    "cos2_block": (str, "squared cosines of this gradient with the directions of the block's images, in order"),
    "value": (float, "eigenvalue of largest modulus, per unit of pixel range squared, with its sign"),
    "gap": (float, "how far the second eigenvalue's modulus is below, relative"),
    "residual": (float, "|H v - value v| / |value|"),
    "steps": (int, "of Lanczos' method"),
    "gradient_norm": (float, "Euclidean norm of the score's gradient, per unit of pixel range"),
    "margin": (float, "logit of the label minus the next largest"),
    "confidence": (float, "softmax probability of the label"),
}
# Rounding moves a direction by about its size over the gap.
RECOMPUTABLE = Recomputable(
    within={"angle": 0.5, "cos2": 0.01, "mismatched": 0.005, "cos2_block": 0.02, "gap": 1e-3, "residual": 1e-3}
)


class Null(NamedTuple):
    """The statistic T = mean cos^2 of gradient and fragile direction, and what it is for permuted directions."""

    statistic: float
    mean: float  # of T under the null
    low: float  # 2.5 % quantile
    high: float  # 97.5 % quantile
    below: float  # share of permutations with a T as small as the statistic: the p-value of "more orthogonal"


def permutation_null(blocks: Sequence[Tensor], *, draws: int = 10_000, seed: int = 0) -> Null:
    """Permute the fragile directions among the images of a block, many times.

    Args:
        blocks: (n, n) each, the squared cosine of gradient i and direction j.
        draws: how many permutations.
        seed: of these.

    Returns:
        The statistic and its null; the p-value counts the identity as one permutation.

    Raises:
        ValueError: if there is no block, or one is not square.
    """
    check_count("draws", draws)
    if not blocks or any(block.ndim != 2 or block.shape[0] != block.shape[1] for block in blocks):
        raise ValueError(f"blocks: expected square matrices, got {[tuple(block.shape) for block in blocks]}")
    generator = torch.Generator().manual_seed(seed)
    totals, statistic, count = torch.zeros(draws, dtype=torch.float64), 0.0, 0
    for block in blocks:
        size, values = len(block), block.double().cpu()
        orders = torch.rand(draws, size, generator=generator).argsort(1)
        totals += values[torch.arange(size), orders].sum(1)
        statistic += values.trace().item()
        count += size
    totals, statistic = totals / count, statistic / count
    low, high = totals.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    # Up to rounding: with blocks of one image every permutation is the identity.
    below = (int((totals <= statistic * (1 + 1e-12)).sum()) + 1) / (draws + 1)
    return Null(statistic, totals.mean().item(), low, high, below)


def stored_null(rows: Sequence[Row], *, draws: int = 10_000, seed: int = 0) -> Null:
    """Compute the permutation null of stored rows.

    Args:
        rows: from `fragility.study.store.read`, of one setup, whole pieces.
        draws: as for `permutation_null`.
        seed: as for `permutation_null`.

    Returns:
        The statistic and its null.
    """
    blocks: dict[str, list[list[float]]] = {}
    for row in rows:
        blocks.setdefault(str(row["block"]), []).append([float(number) for number in str(row["cos2_block"]).split()])
    return permutation_null([torch.tensor(block) for block in blocks.values()], draws=draws, seed=seed)


def squared_cosines(gradients: Tensor, directions: Tensor) -> Tensor:
    """Compare every gradient with every direction.

    Args:
        gradients: (n, C, H, W).
        directions: (n, C, H, W).

    Returns:
        cos^2 of the angle of gradient i and direction j, (n, n), float64.
    """
    a, b = (part.flatten(1).double() for part in (gradients, directions))
    cosines: Tensor = (a / a.norm(dim=1, keepdim=True)) @ (b / b.norm(dim=1, keepdim=True)).T
    return cosines.square()


def plan(profile: Profile, device: str = "cpu") -> Plan:
    """Load or train the networks, draw images, and list the pieces.

    Args:
        profile: what to compute.
        device: where.

    Returns:
        The plan: pieces go through the classes in turn.

    Raises:
        ValueError: if too few images of a class are classified correctly.
    """
    ready = {name: _prepare(name, setup, profile.seed, device) for name, setup in profile.setups.items()}
    return Plan(
        parameters=asdict(profile),
        inputs={name: part.story for name, part in ready.items()},
        columns=COLUMNS,
        pieces=[piece for part in ready.values() for piece in part.pieces],
        compute=lambda piece: _compute(piece, ready[piece["setup"]]),
        cost=lambda piece: float(len(piece["images"])),
    )


class _Ready(NamedTuple):
    model: nn.Module
    data: datasets.ImageDataset
    pieces: list[Piece]
    story: dict[str, Any]
    device: str


def _digits() -> tuple[nn.Module, nn.Module]:
    training = datasets.digits("train")
    relu, smooth = network.digits_cnn(), network.digits_cnn()
    for model in (relu, smooth):
        train.fit_cached(model, training.images, training.labels, epochs=12, progress=False)
    with softplus(1.0):
        train.fit_cached(smooth, training.images, training.labels, epochs=6, progress=False)
    return relu, smooth


def _cifar10() -> tuple[nn.Module, nn.Module]:
    training = datasets.cifar10("train")
    return cifar.trained(training), cifar.trained(training, smooth=True)


# The network trained with ReLU, and the one retrained from there with softplus (beta = 1).
NETWORKS: dict[str, Callable[[], tuple[nn.Module, nn.Module]]] = {"digits": _digits, "cifar10": _cifar10}


def _prepare(name: str, setup: Setup, seed: int, device: str) -> _Ready:
    relu, smooth = NETWORKS[name]()
    weights = {"relu": train.fingerprint(relu), "softplus": train.fingerprint(smooth)}
    relu, smooth = relu.to(device), smooth.to(device)
    drawn = datasets.load(name, split="test", limit=setup.candidates, seed=seed)
    predicted = _logits(relu, drawn.images, device).argmax(1)
    with softplus(setup.beta):
        right = _logits(smooth, drawn.images, device).argmax(1) == drawn.labels
    classes = len(drawn.class_names)
    per_class = setup.images // classes
    if setup.images % classes or per_class % setup.block:
        raise ValueError(f"images: expected a multiple of {classes} classes x a block of {setup.block}")
    pieces = []
    for number in range(per_class // setup.block):
        for label in range(classes):
            rows = (right & (drawn.labels == label)).nonzero().flatten()[:per_class]
            if len(rows) < per_class:
                raise ValueError(
                    f"candidates: expected {per_class} correctly classified images of class {drawn.class_names[label]} "
                    f"among {setup.candidates}, got {len(rows)}"
                )
            chosen = rows[number * setup.block : (number + 1) * setup.block]
            pieces.append(
                {
                    "version": VERSION,
                    "setup": name,
                    "weights": weights["softplus"],
                    "pixels": train.fingerprint(drawn.images[chosen]),
                    "first": number * setup.block * classes,
                    "images": [drawn.files[row] for row in chosen],
                    "label": label,
                    "seed": seed,
                    "steps": setup.steps,
                    "beta": setup.beta,
                }
            )
    accuracy = {
        "relu": round((predicted == drawn.labels).double().mean().item(), 4),
        "softplus": round(right.double().mean().item(), 4),
        "images": len(drawn),
    }
    story = {"data": drawn.source, "weights": weights, "test_accuracy": accuracy}
    return _Ready(smooth, drawn, pieces, story, device)


def _logits(model: nn.Module, images: Tensor, device: str) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(batch.to(device)).cpu() for batch in torch.split(images, 100)])


def _compute(piece: Piece, ready: _Ready) -> list[Row]:
    rows = [ready.data.files.index(name) for name in piece["images"]]
    images = ready.data.images[rows].to(ready.device)
    labels = torch.full((len(rows),), piece["label"], device=ready.device)
    with softplus(piece["beta"]):
        gradients = simple_gradient(ready.model, images, labels)
        found = top_directions(ready.model, images, labels, steps=piece["steps"])
        logits = _logits(ready.model, images, ready.device).double()
    directions = found.directions[:, 0]
    degrees = angle(gradients.double(), directions.double())
    cos2 = squared_cosines(gradients, directions).cpu()
    others = (cos2.sum(1) - cos2.diag()) / (len(rows) - 1)
    own = logits[:, piece["label"]]
    rest = logits.clone()
    rest[:, piece["label"]] = float("-inf")
    return [
        {
            **{name: piece[name] for name in ("setup", "label", "seed", "steps", "beta")},
            "block": f"{ready.data.class_names[piece['label']]} from {piece['images'][0]}",
            "image": piece["images"][index],
            "class_name": ready.data.class_names[piece["label"]],
            "dimension": images[0].numel(),
            "angle": float(degrees[index]),
            "cos2": float(cos2[index, index]),
            "mismatched": float(others[index]),
            "cos2_block": " ".join(f"{value:.4g}" for value in cos2[index].tolist()),
            "value": float(found.values[index, 0]),
            "gap": float(found.gap[index]),
            "residual": float(found.residual[index, 0]),
            "gradient_norm": float(gradients[index].norm()),
            "margin": float(own[index] - rest[index].max()),
            "confidence": float(logits.softmax(1)[index, piece["label"]]),
        }
        for index in range(len(rows))
    ]
