"""Dimension [Ghorbani2019, app. F] and the angle in two layers [Ghorbani2019, app. H], on closed-form networks.

The networks are drawn, not trained, and everything is computed in float64 by the library's own functions; the columns
`predicted` and `misfit` compare it with the paper's formulas.
"""

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import torch

from fragility.attribution import importance, simple_gradient
from fragility.curvature import angle, top_direction
from fragility.study.curvature.closed_form import ACTIVATIONS, draw_neuron, draw_two_layers
from fragility.study.piece import Piece, Row, declared

EPSILON = 1e-3  # of the arm with fixed epsilon: delta = epsilon sign(w)
RELATIVE = 1e-2  # |delta| / |x| of the arm with fixed relative size
SEED = 0


def pieces(profile: dict[str, Any], ready: None) -> Iterator[Piece]:
    """List the networks; the piece of a neuron is computed in both arms."""
    names = [f"draw {number}" for number in range(max(profile["neuron_draws"], profile["layer_draws"]))]
    neuron: Piece = {"network": "neuron", "epsilon": EPSILON, "relative": RELATIVE, "seed": SEED}
    neuron["images"] = names[: profile["neuron_draws"]]
    for activation, dimension in product(profile["neurons"], profile["dimensions"]):
        yield {**neuron, "activation": activation, "dimension": dimension}
    layers: Piece = {"network": "two_layer", "dimension": profile["layer_dimension"], "seed": SEED}
    layers["images"] = names[: profile["layer_draws"]]
    for activation, width in product(profile["layers"], profile["widths"]):
        yield {**layers, "activation": activation, "width": width}


def rows(piece: Piece, ready: None) -> list[Row]:
    """Draw the networks of a piece and measure."""
    measure = _neuron_rows if piece["network"] == "neuron" else _two_layer_rows
    empty = dict.fromkeys(STUDY.columns.keys() - piece.keys())
    return [{**empty, "image": name, **row} for name in piece["images"] for row in measure(piece, name)]


def _neuron_rows(piece: Piece, name: str) -> Iterator[Row]:
    model, x = draw_neuron(piece["dimension"], piece["activation"], piece["seed"], name)
    label = torch.zeros(1, dtype=torch.int64)
    before = simple_gradient(model, x, label)
    w = model.weights.view_as(x)
    facts: Row = {}
    if piece["activation"] != "identity":
        _, direction = top_direction(model, x, label, steps=4)
        agreement = float((direction.sign() == w.sign()).double().mean())
        facts = {
            "sign_agreement": max(agreement, 1 - agreement),
            "angle": float(angle(before, direction)),
            "misfit": float(angle(direction, w)),
        }
    z = x.flatten() @ model.weights + 1
    _, slope, bend = (function(z) for function in ACTIVATIONS[piece["activation"]])
    fixed = piece["relative"] * float(x.norm()) / math.sqrt(piece["dimension"])
    for arm, epsilon in (("fixed_epsilon", piece["epsilon"]), ("fixed_relative", fixed)):
        delta = epsilon * w.sign()
        after = simple_gradient(model, x + delta, label)
        yield {
            "arm": arm,
            "epsilon": epsilon,
            "relative_size": float(delta.norm() / x.norm()),
            "relative_change": float((after - before).norm() / before.norm()),
            "predicted": abs(float((w * delta).sum() * bend / slope)),
            "map_change": float((importance(after) - importance(before)).abs().sum()),
            **facts,
        }


def _two_layer_rows(piece: Piece, name: str) -> Iterator[Row]:
    width = piece["width"]
    model, x = draw_two_layers(piece["dimension"], width, piece["activation"], piece["seed"], name)
    label = torch.zeros(1, dtype=torch.int64)
    _, direction = top_direction(model, x, label, steps=width + 2)
    bend = ACTIVATIONS[piece["activation"]][2](model.inputs(x))[0]
    k = int((model.v * bend).abs().argmax())  # |w_j| = 1
    yield {
        "angle": float(angle(simple_gradient(model, x, label), direction)),
        "misfit": float(angle(direction, model.weights[:, k].view_as(x))),
    }


STUDY = declared(__file__, lambda profile, device: (None, {}), pieces, rows)
