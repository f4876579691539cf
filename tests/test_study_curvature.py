"""The studies of chapters 4 and 5: rows against dense Hessians and formulas, the null against all permutations."""

import itertools
import math
from functools import partial
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fragility.data import datasets
from fragility.influence.last_layer import LastLayerInfluence
from fragility.study.curvature import angles, dimension, influence_angles
from fragility.study.curvature.closed_form import draw_neuron, draw_two_layers
from fragility.study.curvature.null import permutation_null, stored_null
from fragility.study.influence.setup import prepare
from fragility.study.piece import Plan, Row
from fragility.surrogate import softplus

pytestmark = pytest.mark.usefixtures("double_digits")


def plan(candidates: int, images: int, block: int, steps: int = 2) -> Plan:
    setup = {"candidates": candidates, "images": images, "block": block, "steps": steps}
    return angles.STUDY.plan(angles.STUDY.profiles["fast"] | {"setups": {"digits": setup}})


def degrees(a: Tensor, b: Tensor) -> float:
    return math.degrees(math.acos(min(1.0, float((a @ b).abs() / a.norm() / b.norm()))))


def test_angles_are_those_of_the_dense_hessian() -> None:
    made = plan(60, 20, 2, 40)
    rows = [row for piece in made.pieces[:2] for row in made.compute(piece)]
    assert [row["label"] for row in rows] == [0, 0, 1, 1]
    drawn, model = datasets.digits("test", limit=60, seed=0), angles.NETWORKS["digits"]()[1]

    def score(x: Tensor) -> Tensor:
        return model(x.view(1, 1, 32, 32))[0, 0]

    gradients, directions = [], []
    for row in rows[:2]:
        image = drawn.images[drawn.files.index(row["image"])].flatten()
        with softplus(1.0):
            gradients.append(torch.func.grad(score)(image))
            values, vectors = torch.linalg.eigh(torch.autograd.functional.hessian(score, image))
            logits = model(image.view(1, 1, 32, 32))[0]
        best = values.abs().argsort(descending=True)
        directions.append(vectors[:, best[0]])
        angle = degrees(gradients[-1], directions[-1])
        # Forty steps of Lanczos' method leave a residual below 1e-3, by which all of these may be off.
        assert row["angle"] == pytest.approx(angle, abs=0.05)
        assert row["cos2"] == pytest.approx(math.cos(math.radians(angle)) ** 2, abs=1e-3)
        assert row["value"] == pytest.approx(float(values[best[0]]), rel=1e-3)
        assert row["gap"] == pytest.approx(1 - float(values[best[1]].abs() / values[best[0]].abs()), abs=1e-3)
        assert row["residual"] < 1e-3
        assert row["margin"] == pytest.approx(float(logits[0] - logits[1:].max()))
        assert row["gradient_norm"] == pytest.approx(float(gradients[-1].norm()))
        assert row["margin"] > 0
    for first, second in ((0, 1), (1, 0)):
        other = float((gradients[first] @ directions[second] / gradients[first].norm()) ** 2)
        assert rows[first]["mismatched"] == pytest.approx(other, abs=1e-3)
        assert float(rows[first]["cos2_block"].split()[second]) == pytest.approx(other, abs=1e-3)
    assert rows[0]["block"] == rows[1]["block"] != rows[2]["block"]
    assert 0.9 < made.inputs["digits"]["test_accuracy"]["softplus"] <= 1


def test_the_null_is_that_of_all_permutations() -> None:
    generator = torch.Generator().manual_seed(0)
    blocks = [torch.rand(3, 3, generator=generator, dtype=torch.float64) for _ in range(2)]
    totals = [
        sum(float(block[range(3), order].sum()) for block, order in zip(blocks, orders, strict=True)) / 6
        for orders in itertools.product(itertools.permutations(range(3)), repeat=2)
    ]
    statistic = sum(float(block.trace()) for block in blocks) / 6
    null = permutation_null(blocks, draws=200_000)
    assert null.statistic == pytest.approx(statistic)
    assert null.mean == pytest.approx(sum(totals) / 36, rel=2e-3)
    assert null.below == pytest.approx(sum(total <= statistic + 1e-12 for total in totals) / 36, abs=5e-3)
    exact = torch.tensor(totals, dtype=torch.float64).sort().values
    assert exact[0] - 1e-12 <= null.low <= exact[1] + 1e-12
    assert exact[-2] - 1e-12 <= null.high <= exact[-1] + 1e-12


def test_the_null_calls_what_is_planted() -> None:
    # Diagonals below the rest: more orthogonal than the class explains. Above: more aligned.
    generator = torch.Generator().manual_seed(1)
    blocks = [0.5 + 0.1 * torch.rand(10, 10, generator=generator) for _ in range(5)]
    lower, higher = (permutation_null([block + shift * torch.eye(10) for block in blocks]) for shift in (-0.3, 0.3))
    assert lower.statistic < lower.low < lower.mean < lower.high < higher.statistic
    assert lower.below < 0.001
    assert higher.below > 0.999
    assert permutation_null([torch.full((4, 4), 0.2)]).below == 1
    with pytest.raises(ValueError, match=r"blocks: expected square matrices, got \[\(2, 3\)\]"):
        permutation_null([torch.zeros(2, 3)])


def test_the_null_of_stored_rows_has_their_means() -> None:
    made = plan(60, 20, 2, 20)
    rows = [row for piece in made.pieces for row in made.compute(piece)]
    null, cos2 = stored_null(pd.DataFrame(rows)), [row["cos2"] for row in rows]
    assert null.statistic == pytest.approx(sum(cos2) / 20, rel=1e-3)  # of four digits
    halves = [(row["mismatched"] + row["cos2"]) / 2 for row in rows]
    assert null.mean == pytest.approx(sum(halves) / 20, rel=5e-3)


@pytest.mark.parametrize(
    ("candidates", "images", "block", "message"),
    [
        (20, 60, 2, "expected 6 correctly classified images of class 0 among 20, got"),
        (60, 20, 3, "images: expected a multiple of 10 classes x a block of 3"),
    ],
)
def test_images_that_cannot_be_had_are_an_error(candidates: int, images: int, block: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(candidates, images, block)


def closed(**wanted: Any) -> list[Row]:
    made = dimension.STUDY.plan(dimension.STUDY.profiles["fast"])
    pieces = [piece for piece in made.pieces if wanted.items() <= piece.items()]
    return [row for piece in pieces for row in made.compute(piece)]


def test_a_linear_model_has_a_constant_saliency() -> None:
    rows = closed(activation="identity")
    assert len(rows) == 18
    assert all(row["relative_change"] == row["map_change"] == row["predicted"] == 0 for row in rows)


def test_a_neurons_gradient_moves_by_the_formula_and_its_map_does_not() -> None:
    for row in closed(network="neuron", activation="softplus"):
        d, epsilon = row["dimension"], row["epsilon"]
        model, x = draw_neuron(d, "softplus", 0, row["image"])
        z, length = float(x.flatten() @ model.weights) + 1, float(model.weights.abs().sum())
        before, after = (1 / (1 + math.exp(-point)) for point in (z, z + epsilon * length))
        assert row["relative_change"] == pytest.approx(abs(after - before) / before, rel=1e-9)
        assert row["predicted"] == pytest.approx(epsilon * length * (1 - before), rel=1e-9)
        assert row["map_change"] < 1e-14
        assert row["sign_agreement"] == 1
        assert row["misfit"] < 1e-9
        expected = 0.01 if row["arm"] == "fixed_relative" else 1e-3 * math.sqrt(d)
        assert row["relative_size"] == pytest.approx(expected)


def test_two_layers_have_the_angle_of_the_formula() -> None:
    rows = closed(network="two_layer")
    assert len(rows) == 20
    for row in rows:
        model, x = draw_two_layers(16, row["width"], row["activation"], 0, row["image"])
        z = (x.flatten() - 0.5) * math.sqrt(12) @ model.weights
        slope = z.exp() if row["activation"] == "exp" else z.sigmoid()
        bend = z.exp() if row["activation"] == "exp" else z.sigmoid() * (1 - z.sigmoid())
        k = (model.v * bend).abs().argmax()
        cosine = (model.v * slope)[k].abs() / (model.v * slope).norm()
        assert row["angle"] == pytest.approx(math.degrees(math.acos(float(cosine))), abs=1e-6)
        assert row["misfit"] < 1e-6


def test_influence_angles_are_those_of_automatic_differentiation() -> None:
    profile = influence_angles.STUDY.profiles["fast"]
    made = influence_angles.STUDY.plan(profile)
    rows = [row for piece in made.pieces for row in made.compute(piece)]
    assert [len({row["block"] for row in rows if row["label"] == label}) for label in (0, 1)] == [1, 1]
    ready, _ = prepare(profile)
    layer = LastLayerInfluence(ready.training, ready.labels, l2=1e-2, num_classes=2)

    def loss(x: Tensor, label: Tensor) -> Tensor:
        return cross_entropy(layer.logits(ready.backbone(x[None])), label)

    def influence(x: Tensor, label: Tensor, best: int) -> Tensor:
        return layer.influence(ready.backbone(x[None]), label)[0, best]

    for row in (rows[0], rows[-1]):
        image = ready.images.images[ready.images.files.index(row["image"])]
        label, best = torch.tensor([row["label"]]), row["training_image"]
        assert row["influence"] == pytest.approx(float(influence(image, label, best)))
        assert int(layer.influence(ready.backbone(image[None]), label).argmax()) == best
        # Autograd through the whole of it, where the study takes the closed form of the last layer.
        scores = (partial(loss, label=label), partial(influence, label=label, best=best))
        a, b = (torch.func.grad(score)(image).flatten() for score in scores)
        # The first image is so certain that p - 1 is 1e-11: of the study's residual five digits are left.
        assert row["angle"] == pytest.approx(degrees(a, b), abs=1e-3)
