"""Closed-form networks: dimension [Ghorbani2019, app. F] and the angle in two layers [Ghorbani2019, app. H].

The networks are drawn, not trained, and all is computed in float64 by the library's own functions; the formulas of
the paper stand beside as `predicted` and `misfit`.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fragility import train
from fragility.attribution import importance, simple_gradient
from fragility.curvature import angle, top_direction
from fragility.study.store import Columns, Piece, Plan, Row

VERSION = 1  # to be raised with any change of what a row means

# g, g' and g''.
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], ...]] = {
    "identity": (lambda z: z, torch.ones_like, torch.zeros_like),
    "softplus": (
        nn.functional.softplus,
        torch.sigmoid,
        lambda z: torch.sigmoid(z) * torch.sigmoid(-z),
    ),
    "sigmoid": (
        torch.sigmoid,
        lambda z: torch.sigmoid(z) * torch.sigmoid(-z),
        lambda z: torch.sigmoid(z) * torch.sigmoid(-z) * (torch.sigmoid(-z) - torch.sigmoid(z)),
    ),
    "exp": (torch.exp, torch.exp, torch.exp),
}


@dataclass(frozen=True)
class Profile:
    """What is computed.

    Attributes:
        seed: of all draws.
        neurons: activations of a single neuron g(w . x + 1); "identity" is the linear model.
        dimensions: d of the neuron's inputs.
        neuron_draws: how many w and x for each.
        epsilon: of the arm with fixed epsilon: delta = epsilon sign(w).
        relative: |delta| / |x| of the arm with fixed relative size.
        layers: activations of the two-layer network.
        widths: its h.
        layer_dimension: its d, larger than every h.
        layer_draws: how many networks for each.
    """

    seed: int
    neurons: tuple[str, ...]
    dimensions: tuple[int, ...]
    neuron_draws: int
    epsilon: float
    relative: float
    layers: tuple[str, ...]
    widths: tuple[int, ...]
    layer_dimension: int
    layer_draws: int


_FULL = Profile(
    seed=0,
    neurons=("identity", "softplus", "sigmoid"),
    dimensions=(10, 100, 1000, 10_000, 100_000),
    neuron_draws=20,
    epsilon=1e-3,
    relative=1e-2,
    layers=("softplus", "sigmoid", "exp"),
    widths=(2, 8, 64),
    layer_dimension=128,
    layer_draws=400,
)
DIMENSION = {
    "fast": Profile(0, ("identity", "softplus"), (10, 100, 1000), 3, 1e-3, 1e-2, ("softplus", "exp"), (2, 8), 16, 5),
    "laptop": _FULL,
    "paper": _FULL,
}

COLUMNS: Columns = {
    "image": (str, "which draw of weights and input"),
    "network": (str, "neuron: g(w . x + 1), |w| = |x| = 1; two_layer: sum_j v_j g(w_j . x) with orthonormal w_j"),
    "activation": (str, "g"),
    "arm": (str, "fixed_epsilon: delta = epsilon sign(w); fixed_relative: the same direction, |delta| / |x| fixed"),
    "dimension": (int, "d"),
    "width": (int, "h"),
    "seed": (int, "of the draws"),
    "epsilon": (float, "largest entry of delta"),
    "relative_size": (float, "|delta| / |x|"),
    "relative_change": (float, "neuron: |grad S(x + delta) - grad S(x)| / |grad S(x)|"),
    "predicted": (float, "neuron: the formula |w . delta g''| / g' of eq. 3, to first order"),
    "map_change": (float, "neuron: sum of the absolute changes of the normalised map"),
    "sign_agreement": (float, "neuron: share of entries where sign(w) is the sign of the Hessian's top direction"),
    "angle": (float, "degrees between the score's gradient and the Hessian's top direction"),
    "misfit": (float, "degrees between the top direction and the formula: w, or w_k of appendix H"),
}


class Neuron(nn.Module):
    """g(w . x + 1) as a model of one class."""

    def __init__(self, weights: Tensor, activation: str) -> None:
        super().__init__()
        self.weights, self.g = weights, ACTIVATIONS[activation][0]
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return the score.

        Args:
            images: (B, 1, 1, d).

        Returns:
            (B, 1).
        """
        return self.g(images.flatten(1) @ self.weights + 1).unsqueeze(1)


class TwoLayers(nn.Module):
    """sum_j v_j g(w_j . (x - mean) / deviation) as a model of one class; pixels uniform in [0, 1] are standardised."""

    def __init__(self, weights: Tensor, v: Tensor, activation: str) -> None:
        super().__init__()
        self.weights, self.v, self.g = weights, v, ACTIVATIONS[activation][0]
        self.eval()

    def inputs(self, images: Tensor) -> Tensor:
        """Return the hidden layer's inputs.

        Args:
            images: (B, 1, 1, d) in [0, 1].

        Returns:
            w_j . x of standardised pixels, (B, h).
        """
        return (images.flatten(1) - 0.5) * math.sqrt(12) @ self.weights

    def forward(self, images: Tensor) -> Tensor:
        """Return the score.

        Args:
            images: (B, 1, 1, d) in [0, 1].

        Returns:
            (B, 1).
        """
        return (self.g(self.inputs(images)) @ self.v).unsqueeze(1)


def plan(profile: Profile, device: str = "cpu") -> Plan:
    """List the pieces.

    Args:
        profile: what to compute.
        device: ignored: the processor serves, in float64.

    Returns:
        The plan.
    """
    pieces: list[Piece] = []
    for activation in profile.neurons:
        for dimension in profile.dimensions:
            sizes = {"epsilon": profile.epsilon, "relative": profile.relative}
            what = {"network": "neuron", "activation": activation, "dimension": dimension, **sizes}
            pieces.append(what | {"images": _names(profile.neuron_draws)})
    for activation in profile.layers:
        for width in profile.widths:
            what = {"network": "two_layer", "activation": activation, "dimension": profile.layer_dimension}
            pieces.append(what | {"width": width, "images": _names(profile.layer_draws)})
    return Plan(
        parameters=asdict(profile),
        inputs={},
        columns=COLUMNS,
        pieces=[{"version": VERSION, "first": 0, "seed": profile.seed, **piece} for piece in pieces],
        compute=_compute,
        cost=lambda piece: float(len(piece["images"]) * piece.get("width", 2)),
    )


def draw_neuron(dimension: int, activation: str, seed: int, name: str) -> tuple[Neuron, Tensor]:
    """Draw |w| = 1 from the sphere and |x| = 1 with all entries positive and of one order.

    Args:
        dimension: d.
        activation: a key of `ACTIVATIONS`.
        seed: of the draw.
        name: which draw.

    Returns:
        The model, and x as an image (1, 1, 1, d), float64.
    """
    generator = _generator(seed, name, dimension)
    weights = torch.randn(dimension, generator=generator, dtype=torch.float64)
    x = 0.5 + torch.rand(dimension, generator=generator, dtype=torch.float64)
    return Neuron(weights / weights.norm(), activation), (x / x.norm()).view(1, 1, 1, -1)


def draw_two_layers(dimension: int, width: int, activation: str, seed: int, name: str) -> tuple[TwoLayers, Tensor]:
    """Draw orthonormal w_j, standard normal v_j, and pixels uniform in [0, 1].

    Args:
        dimension: d.
        width: h, at most d.
        activation: a key of `ACTIVATIONS`.
        seed: of the draw.
        name: which draw.

    Returns:
        The model, and x as an image (1, 1, 1, d), float64.
    """
    generator = _generator(seed, name, dimension, width)
    basis, _ = torch.linalg.qr(torch.randn(dimension, width, generator=generator, dtype=torch.float64))
    v = torch.randn(width, generator=generator, dtype=torch.float64)
    x = torch.rand(1, 1, 1, dimension, generator=generator, dtype=torch.float64)
    return TwoLayers(basis, v, activation), x


def _names(count: int) -> list[str]:
    return [f"draw {number}" for number in range(count)]


def _generator(*names: object) -> torch.Generator:
    return torch.Generator().manual_seed(int(train.fingerprint(*names)[:15], 16))


def _compute(piece: Piece) -> list[Row]:
    one = _neuron_rows if piece["network"] == "neuron" else _two_layer_rows
    common = {name: piece.get(name) for name in ("network", "activation", "dimension", "width", "seed")}
    empty = dict.fromkeys(COLUMNS)
    return [{**empty, **common, "image": name, **row} for name in piece["images"] for row in one(piece, name)]


def _neuron_rows(piece: Piece, name: str) -> list[dict[str, Any]]:
    model, x = draw_neuron(piece["dimension"], piece["activation"], piece["seed"], name)
    label = torch.zeros(1, dtype=torch.int64)
    before = simple_gradient(model, x, label)
    w = model.weights.view_as(x)
    curved = piece["activation"] != "identity"
    facts: dict[str, Any] = {}
    if curved:
        _, direction = top_direction(model, x, label, steps=4)
        agreement = float((direction.sign() == w.sign()).double().mean())
        facts = {
            "sign_agreement": max(agreement, 1 - agreement),
            "angle": float(angle(before, direction)),
            "misfit": float(angle(direction, w)),
        }
    z = x.flatten() @ model.weights + 1
    _, slope, bend = (function(z) for function in ACTIVATIONS[piece["activation"]])
    rows = []
    for arm in ("fixed_epsilon", "fixed_relative"):
        fixed = piece["relative"] * float(x.norm()) / math.sqrt(piece["dimension"])
        epsilon = piece["epsilon"] if arm == "fixed_epsilon" else fixed
        delta = epsilon * w.sign()
        after = simple_gradient(model, x + delta, label)
        rows.append(
            {
                "arm": arm,
                "epsilon": epsilon,
                "relative_size": float(delta.norm() / x.norm()),
                "relative_change": float((after - before).norm() / before.norm()),
                "predicted": abs(float((w * delta).sum() * bend / slope)),
                "map_change": float((importance(after) - importance(before)).abs().sum()),
                **facts,
            }
        )
    return rows


def _two_layer_rows(piece: Piece, name: str) -> list[dict[str, Any]]:
    width = piece["width"]
    model, x = draw_two_layers(piece["dimension"], width, piece["activation"], piece["seed"], name)
    label = torch.zeros(1, dtype=torch.int64)
    _, direction = top_direction(model, x, label, steps=width + 2)
    bend = ACTIVATIONS[piece["activation"]][2](model.inputs(x))[0]
    k = int((model.v * bend).abs().argmax())  # |w_j| = 1
    return [
        {
            "angle": float(angle(simple_gradient(model, x, label), direction)),
            "misfit": float(angle(direction, model.weights[:, k].view_as(x))),
        }
    ]
