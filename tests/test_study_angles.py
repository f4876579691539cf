"""The angle studies: rows against direct calls and hand-written formulas, and the null against all permutations."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fragility.data import datasets
from fragility.influence.last_layer import LastLayerInfluence
from fragility.study import STUDIES, angles, dimension, influence_angles, influence_attack, run
from fragility.study.angles import ANGLES, Profile, Setup, permutation_null, stored_null
from fragility.study.dimension import DIMENSION
from fragility.study.store import Row, provenance, read
from fragility.surrogate import softplus

pytestmark = pytest.mark.usefixtures("double_digits")


@pytest.fixture
def few(double_digits: None) -> tuple[angles.Plan, list[Row]]:
    plan = angles.plan(Profile(0, {"digits": Setup(candidates=60, images=20, block=2, steps=40)}))
    return plan, [row for piece in plan.pieces[:3] for row in plan.compute(piece)]


def test_angles_are_those_of_the_dense_hessian(few: tuple[angles.Plan, list[Row]]) -> None:
    plan, rows = few
    assert [row["label"] for row in rows] == [0, 0, 1, 1, 2, 2]
    assert list(rows[0].keys() ^ angles.COLUMNS.keys()) == []
    drawn = datasets.digits("test", limit=60, seed=0)
    model = angles.NETWORKS["digits"]()[1]
    gradients: list[Tensor] = []
    directions: list[Tensor] = []
    for row in rows[:2]:
        image, label = drawn.images[drawn.files.index(str(row["image"]))], int(row["label"])  # type: ignore[call-overload]

        def score(x: Tensor, label: int = label) -> Tensor:
            return model(x.view(1, 1, 32, 32))[0, label]

        with softplus(1.0):
            x = image.flatten().requires_grad_()
            gradients.append(torch.autograd.grad(score(x), x)[0].double())
            matrix = torch.autograd.functional.hessian(score, image.flatten()).double()
            logits = model(image.unsqueeze(0))[0].double()
        values, vectors = torch.linalg.eigh(matrix)
        best = values.abs().argsort(descending=True)
        directions.append(vectors[:, best[0]])
        cosine = float(gradients[-1] @ directions[-1] / gradients[-1].norm())
        assert row["angle"] == pytest.approx(math.degrees(math.acos(abs(cosine))), abs=0.05)
        assert row["cos2"] == pytest.approx(cosine**2, abs=1e-3)
        assert row["value"] == pytest.approx(float(values[best[0]]), rel=1e-3)
        assert row["gap"] == pytest.approx(1 - float(values[best[1]].abs() / values[best[0]].abs()), abs=1e-3)
        assert row["residual"] < 1e-3  # type: ignore[operator]
        assert row["margin"] == pytest.approx(float(logits[label] - logits[torch.arange(10) != label].max()), rel=1e-3)
        assert row["margin"] > 0  # type: ignore[operator]
    for first, second in ((0, 1), (1, 0)):
        other = float((gradients[first] @ directions[second] / gradients[first].norm()) ** 2)
        assert rows[first]["mismatched"] == pytest.approx(other, abs=1e-3)
        assert float(str(rows[first]["cos2_block"]).split()[second]) == pytest.approx(other, abs=1e-3)
    assert rows[0]["block"] == rows[1]["block"] != rows[2]["block"]
    assert 0.9 < plan.inputs["digits"]["test_accuracy"]["softplus"] <= 1


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
    fair = permutation_null([torch.full((4, 4), 0.2)])
    assert fair.below == 1
    with pytest.raises(ValueError, match=r"blocks: expected square matrices, got \[\(2, 3\)\]"):
        permutation_null([torch.zeros(2, 3)])


def test_angles_run_and_are_read_back(tmp_path: Path) -> None:
    outcome = run("angles", "fast", folder=tmp_path)
    rows = read("angles", "fast", tmp_path)
    assert (outcome.rows, outcome.missing, len(rows)) == (80, 0, 80)
    null = stored_null(rows)
    assert null.statistic == pytest.approx(sum(row["cos2"] for row in rows) / 80, rel=1e-4)  # type: ignore[misc]
    assert null.mean == pytest.approx(
        sum(row["mismatched"] * 7 / 8 + row["cos2"] / 8 for row in rows) / 80,  # type: ignore[operator,misc]
        rel=5e-3,
    )
    story = provenance("angles", "fast", tmp_path)
    assert story["inputs"]["digits"]["test_accuracy"]["images"] == 150
    assert {row["dimension"] for row in rows} == {1024}


def test_too_few_correct_images_are_an_error() -> None:
    with pytest.raises(ValueError, match="expected 6 correctly classified images of class 0 among 20, got"):
        angles.plan(Profile(0, {"digits": Setup(candidates=20, images=60, block=2, steps=2)}))
    with pytest.raises(ValueError, match="images: expected a multiple of 10 classes x a block of 3"):
        angles.plan(Profile(0, {"digits": Setup(candidates=60, images=20, block=3, steps=2)}))


def test_profiles_at_scale_can_be_planned_as_far_as_their_numbers_go() -> None:
    for profile in ANGLES.values():
        for name, setup in profile.setups.items():
            assert name in datasets.LOADERS
            assert name in angles.NETWORKS
            assert setup.images % (10 * setup.block) == 0
            assert setup.candidates > setup.images
    assert {"angles", "dimension", "influence_angles"} <= STUDIES.keys()


@pytest.fixture(scope="module")
def closed() -> list[Row]:
    plan = dimension.plan(DIMENSION["fast"])
    rows = [row for piece in plan.pieces for row in plan.compute(piece)]
    assert all(row.keys() == dimension.COLUMNS.keys() for row in rows)
    return rows


def test_a_linear_model_has_a_constant_saliency(closed: list[Row]) -> None:
    rows = [row for row in closed if row["activation"] == "identity"]
    assert len(rows) == 18
    assert all(row["relative_change"] == row["map_change"] == row["predicted"] == 0 for row in rows)


def test_a_neurons_gradient_moves_by_the_formula_and_its_map_does_not(closed: list[Row]) -> None:
    rows = [row for row in closed if row["network"] == "neuron" and row["activation"] == "softplus"]
    for row in rows:
        model, x = dimension.draw_neuron(int(str(row["dimension"])), "softplus", 0, str(row["image"]))
        w = model.weights
        z, slope = float(x.flatten() @ w) + 1, lambda z: 1 / (1 + math.exp(-z))
        moved = slope(z + float(row["epsilon"]) * float(w.abs().sum()))  # type: ignore[arg-type]
        assert row["relative_change"] == pytest.approx(abs(moved - slope(z)) / slope(z), rel=1e-9)
        by_hand = float(row["epsilon"]) * float(w.abs().sum()) * (1 - slope(z))  # type: ignore[arg-type]
        assert row["predicted"] == pytest.approx(by_hand, rel=1e-9)
        assert row["map_change"] < 1e-14  # type: ignore[operator]
        assert row["sign_agreement"] == 1
        assert row["misfit"] < 1e-9  # type: ignore[operator]
        expected = 0.01 if row["arm"] == "fixed_relative" else 1e-3 * math.sqrt(int(str(row["dimension"])))
        assert row["relative_size"] == pytest.approx(expected)


def test_two_layers_have_the_angle_of_the_formula(closed: list[Row]) -> None:
    rows = [row for row in closed if row["network"] == "two_layer"]
    assert len(rows) == 20
    for row in rows:
        model, x = dimension.draw_two_layers(16, int(str(row["width"])), str(row["activation"]), 0, str(row["image"]))
        z = (x.flatten() - 0.5) * math.sqrt(12) @ model.weights
        slope = z.exp() if row["activation"] == "exp" else z.sigmoid()
        bend = z.exp() if row["activation"] == "exp" else z.sigmoid() * (1 - z.sigmoid())
        k = (model.v * bend).abs().argmax()
        cosine = (model.v * slope)[k].abs() / (model.v * slope).norm()
        assert row["angle"] == pytest.approx(math.degrees(math.acos(float(cosine))), abs=1e-6)
        assert row["misfit"] < 1e-6  # type: ignore[operator]


def test_influence_angles_are_those_of_differences(tmp_path: Path) -> None:
    run("influence_angles", "fast", folder=tmp_path)
    rows = read("influence_angles", "fast", tmp_path)
    assert len(rows) == 24
    assert rows[0].keys() == influence_angles.COLUMNS.keys()
    ready = influence_attack.prepare(influence_attack.PROFILES["fast"])
    ready.backbone.double()
    layer = LastLayerInfluence(ready.features, ready.labels, l2=1e-2, num_classes=2)
    for row in (rows[0], rows[-1]):
        image = ready.test.images[ready.test.files.index(str(row["image"]))].double()
        label, best = torch.tensor([row["label"]]), int(str(row["training_image"]))

        def loss(x: Tensor, label: Tensor = label) -> Tensor:
            return torch.nn.functional.cross_entropy(layer.logits(ready.backbone(x[None])), label)

        def influence(x: Tensor, label: Tensor = label, best: int = best) -> Tensor:
            return layer.influence(ready.backbone(x[None]), label)[0, best]

        assert row["influence"] == pytest.approx(float(influence(image)))
        assert int(layer.influence(ready.backbone(image[None]), label).argmax()) == best
        # Autograd through the whole of it, where the study takes the closed form of the last layer.
        a, b = (torch.func.grad(f)(image).flatten() for f in (loss, influence))
        degrees = math.degrees(math.acos(min(1.0, float((a @ b).abs() / a.norm() / b.norm()))))
        # The first image is so certain that p - 1 is 1e-11: of the study's residual five digits are left.
        assert row["angle"] == pytest.approx(degrees, abs=1e-3)
    by_label = [[row for row in rows if row["label"] == label] for label in (0, 1)]
    assert [len({row["block"] for row in part}) for part in by_label] == [1, 1]
    assert stored_null(rows).statistic == pytest.approx(sum(row["cos2"] for row in rows) / 24, rel=1e-3)  # type: ignore[misc]
