"""The studies of chapter 9: what is random is counted, closed forms are solved by others, maps differentiated twice."""

from itertools import combinations, permutations

import numpy as np
import pandas as pd
import pytest
import scipy.linalg
import torch
from torch import nn

from fragility.data import datasets
from fragility.study.memorisation import memorised_maps, minimum_norm, randomisation
from fragility.study.memorisation.matching import differences, pairs
from fragility.study.memorisation.memorised_maps import boundary, memorise, relu_radius
from fragility.study.memorisation.setup import ARMS, corrupted, gaussian, perceptron, permuted, shuffled, steps
from fragility.study.memorisation.theorem import lookup

TEN = torch.arange(10).repeat_interleave(100)


def test_permuted_labels_keep_every_class_its_size_and_move_a_share_of_the_images() -> None:
    before: set[int] = set()
    for share in (0.0, 0.25, 0.5, 1.0):
        found = permuted(TEN, share, 3)
        assert torch.equal(found.bincount(), TEN.bincount())
        moved = set((found != TEN).nonzero().flatten().tolist())
        # Of the chosen images the next in the round has another class nine times in ten.
        assert abs(len(moved) - 900 * share) < 4 * (1000 * share * 0.09) ** 0.5 + 1e-9
        assert len(before - moved) <= 1 + 0.2 * len(before)
        before = moved
    assert not torch.equal(permuted(TEN, 1.0, 3), permuted(TEN, 1.0, 4))


def test_corrupted_labels_are_uniform_where_they_are_drawn() -> None:
    labels = torch.zeros(20_000, dtype=torch.int64)
    for share in (0.0, 0.3, 1.0):
        counts = corrupted(labels, share, 0).bincount(minlength=10).double() / len(labels)
        expected = torch.full((10,), share / 10, dtype=torch.float64) + torch.eye(10)[0].double() * (1 - share)
        assert (counts - expected).abs().max() < 0.01


def test_arms_are_what_they_say() -> None:
    training, test = datasets.mnist_5k("train", limit=50), datasets.mnist_5k("test", limit=20)
    made = {name: arm(training, test, 0) for name, arm in ARMS.items()}
    assert torch.equal(made["true"][0], training.images)
    for name in ("one shuffle", "a shuffle each"):
        images, labels, other = made[name]
        assert torch.equal(images.flatten(1).sort(1).values, training.images.flatten(1).sort(1).values)
        assert torch.equal(other.flatten(1).sort(1).values, test.images.flatten(1).sort(1).values)
        assert torch.equal(labels, training.labels)
    # Under one order, pixels of two images that are equal before are equal after; under an order each they are not.
    twice = training.images[:1].expand(2, -1, -1, -1)
    one, each = (shuffled(twice, 0, each=each) for each in (False, True))
    assert torch.equal(one[0], one[1])
    assert not torch.equal(each[0], each[1])
    assert torch.equal(shuffled(training.images, 7, each=False)[:1], shuffled(training.images[:1], 7, each=False))
    noise = gaussian(training.images, 0, training.images)
    assert noise.mean().item() == pytest.approx(training.images.mean().item(), abs=0.01)
    assert noise.std().item() == pytest.approx(training.images.std().item(), rel=0.02)


def test_steps_train_in_the_order_of_the_seed_and_shift_by_whole_pixels() -> None:
    images, labels = torch.rand(6, 1, 28, 28), torch.arange(6)
    seen: list[torch.Tensor] = []

    class Recorder(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.detach().view(-1, 1, 28, 28))
            return super().forward(x.flatten(1))

    model = Recorder(784, 10)
    run = steps(model, images, labels, torch.optim.SGD(model.parameters(), lr=0.1), batch=4, seed=0, shift=2)
    counts = [next(run) for _ in range(4)]
    assert counts == [1, 2, 3, 4]
    assert [len(x) for x in seen] == [4, 2, 4, 2]
    for x in seen:
        known = {
            (down, right): torch.roll(images, (down, right), (2, 3)) for down in range(-2, 3) for right in range(-2, 3)
        }
        inner = slice(2, -2)
        fits = [
            all(any(torch.equal(one[:, inner, inner], other[:, inner, inner]) for other in moved) for one in x)
            for moved in known.values()
        ]
        assert sum(fits) == 1


def test_the_lookup_fits_and_its_gradient_has_one_direction() -> None:
    draw = torch.Generator().manual_seed(0)
    points, values = torch.rand(40, 7, generator=draw, dtype=torch.float64), torch.randn(40, generator=draw).double()
    network = lookup(points, values, seed=1)
    assert len(network.a) + len(network.b) + len(network.w) == 2 * 40 + 7
    a, b = network.a.numpy(), network.b.numpy()
    matrix = np.maximum(points.numpy() @ a - b[:, None], 0).T
    ordered = matrix[np.argsort(points.numpy() @ a)]
    assert np.array_equal(ordered, np.tril(ordered))
    assert np.linalg.cond(ordered) == pytest.approx(network.condition, rel=1e-6)
    np.testing.assert_allclose(network.w, np.linalg.solve(matrix, values.numpy()), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(network(points), values, atol=1e-8)
    step = 1e-7 * torch.eye(7, dtype=torch.float64)
    for point in points[:10] + 0.01:
        slopes = (network(point + step) - network(point - step)) / 2e-7
        assert abs(float(slopes @ network.a / slopes.norm() / network.a.norm())) == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="points: expected different ones"):
        lookup(torch.cat([points, points[:1]]), torch.zeros(41).double())


@pytest.mark.parametrize("seed", range(20))
def test_pairs_are_as_many_and_as_close_as_can_be(seed: int) -> None:
    draw = np.random.default_rng(seed)
    a, b, caliper = draw.random(4), draw.random(5), (0.05, 0.2, 2.0)[seed % 3]
    ours, theirs = pairs(a, b, caliper)
    best = (0, 0.0)
    for count in range(5):
        for rows in combinations(range(4), count):
            for columns in permutations(range(5), count):
                apart = np.abs(a[list(rows)] - b[list(columns)])
                if (apart <= caliper).all():
                    best = max(best, (count, -apart.sum()))
    assert (len(ours), -np.abs(a[ours] - b[theirs]).sum()) == (best[0], pytest.approx(best[1]))
    assert len(set(ours)) == len(ours)
    assert len(set(theirs)) == len(theirs)


def test_differences_are_those_of_matched_rows() -> None:
    one = pd.DataFrame({"distance": [1.0, 10.0, 100.0], "value": [0.1, 0.2, 0.3]})
    other = pd.DataFrame({"distance": [100.5, 1.01, 1e9], "value": [1.0, 2.0, 3.0]})
    found = differences(one, other, ["value"])
    assert sorted(found.value) == pytest.approx([0.1 - 2.0, 0.3 - 1.0])


def network(widths: tuple[int, ...]) -> nn.Module:
    return perceptron(widths, lambda: nn.Softplus(10.0), 0, norm=False).double().eval().requires_grad_(False)


def test_the_boundary_and_the_radius() -> None:
    model, draw = network((12, 9)), torch.Generator().manual_seed(0)
    images = torch.rand(4, 1, 28, 28, generator=draw, dtype=torch.float64)
    labels = model(images).argmax(1)
    distance, length = boundary(model, images, labels)
    for i, image in enumerate(images):

        def margin(x: torch.Tensor, label: torch.Tensor = labels[i]) -> torch.Tensor:
            logits = model(x[None])[0]
            return logits[label] - torch.cat([logits[:label], logits[label + 1 :]]).max()

        slope = torch.autograd.functional.jacobian(margin, image)
        assert distance[i].item() == pytest.approx((margin(image) / slope.abs().sum()).item())
        own = torch.autograd.functional.jacobian(lambda x, i=i: model(x[None])[0, labels[i]], image)
        assert length[i].item() == pytest.approx(own.norm().item())
    radius = relu_radius(model.float(), images.float())
    relu = nn.Sequential(*(nn.ReLU() if isinstance(part, nn.Softplus) else part for part in model))
    hidden = [relu[:2], relu[:4]]
    for image, least in zip(images.float(), radius, strict=True):
        found = []
        for part in hidden:
            jacobian = torch.autograd.functional.jacobian(lambda x, part=part: part(x[None])[0], image).flatten(1)
            found.append((part(image[None])[0].abs() / jacobian.abs().sum(1)).min())
        torch.testing.assert_close(least, min(found), rtol=1e-4, atol=1e-7)


def test_networks_of_a_seed_fit_their_labels_to_one_margin() -> None:
    profile = memorised_maps.STUDY.profiles["fast"] | {"training_images": 60, "images": 8}
    drawn = datasets.sample(datasets.mnist_5k("train"), 60, seed=0)
    labellings = [permuted(drawn.labels, share, 0) for share in (0.0, 1.0)]
    made = memorise(drawn.images, labellings, 0, profile)
    margins = []
    for one, labels in zip(made, labellings, strict=True):
        logits = one.model(drawn.images)
        assert torch.equal(logits.argmax(1), labels)
        two = logits.topk(2, dim=1).values
        margins.append((two[:, 0] - two[:, 1]).mean().item())
        assert one.margin == pytest.approx(margins[-1], rel=1e-5)
    assert max(margins) < 1.2 * min(margins)
    with pytest.raises(ValueError, match="limit: expected enough epochs"):
        memorise(drawn.images, labellings, 0, profile | {"limit": 1})


def test_rows_of_maps_have_every_share_and_image() -> None:
    study = memorised_maps.STUDY
    profile = memorised_maps.STUDY.profiles["fast"] | {"training_images": 60, "images": 8}
    made = study.plan(profile)
    rows = pd.DataFrame(made.compute(made.pieces[1]))
    assert set(rows.columns) >= set(study.columns)
    assert len(rows) == 2 * 8
    assert set(rows.image) == set(made.pieces[1]["images"])
    assert not rows[rows.share == 0].moved.any()
    assert rows[rows.share == 1].moved.mean() > 0.5
    assert rows[["top_k_intersection", "free_intersection"]].apply(lambda column: column.between(0, 1)).all().all()
    # Of more iterates the best by the objective, which the intersection follows closely.
    assert rows.free_intersection.mean() <= rows.top_k_intersection.mean() + 0.05
    assert (rows[["distance", "bend", "radius"]] > 0).all().all()


def test_least_norm_is_the_solution_of_the_linear_system() -> None:
    drawn = datasets.sample(datasets.mnist_5k("train"), 80, seed=0)
    points, labels = drawn.images.flatten(1).double().numpy(), drawn.labels.numpy()
    squares = ((points[:, None] - points) ** 2).sum(2)
    kernels = minimum_norm.kernels(points)
    targets = np.eye(10)[labels[:60]]
    for width in minimum_norm.WIDTHS:
        kernel = np.exp(-squares / (2 * width**2 * np.median(squares)))
        np.testing.assert_allclose(kernels[f"Gaussian, {width:g}"], kernel, atol=1e-10)
        found = minimum_norm.least_norm(kernels[f"Gaussian, {width:g}"], labels, 60)
        weights = np.linalg.solve(kernel[:60, :60], targets)
        wrong = (kernel[60:, :60] @ weights).argmax(1) != labels[60:]
        assert (found["train_error"], found["test_error"]) == (0, wrong.mean())
        assert found["norm"] == pytest.approx(np.trace(weights.T @ kernel[:60, :60] @ weights) ** 0.5, rel=1e-6)
    # Linear: of weights (and a constant) the shortest that fit; with three pixels, the least squares.
    extended = np.column_stack([points, np.ones(80)])
    shortest = scipy.linalg.lstsq(extended[:60], targets)[0]
    found = minimum_norm.least_norm(kernels["linear"], labels, 60)
    assert found["norm"] == pytest.approx(np.linalg.norm(shortest), rel=1e-5)
    assert found["test_error"] == ((extended[60:] @ shortest).argmax(1) != labels[60:]).mean()
    few = np.column_stack([points[:, 400:403], np.ones(80)])
    found = minimum_norm.least_norm(few @ few.T, labels, 60)
    fitted = scipy.linalg.lstsq(few[:60], targets)[0]
    assert found["norm"] == pytest.approx(np.linalg.norm(fitted), rel=1e-6)
    assert found["train_error"] == ((few[:60] @ fitted).argmax(1) != labels[:60]).mean() > 0


def test_edges_answer_to_lines_of_their_direction() -> None:
    image = torch.zeros(1, 1, 28, 28)
    image[..., :, 14:] = 1
    found = minimum_norm.edges(torch.cat([image, image.mT, torch.ones(1, 1, 28, 28)]))
    assert found.shape == (3, 8, 14, 14)
    middle = found[..., 2:-2, 2:-2].amax((2, 3))
    assert middle[0].argmax() == 0
    assert middle[1].argmax() == 4
    assert middle[2].max() < 1e-5


@pytest.mark.parametrize("arm", ["true", "random labels"])
def test_a_training_is_a_row(arm: str) -> None:
    study = randomisation.STUDY
    made = study.plan(study.profiles["fast"])
    assert len(made.pieces) == len(randomisation.TRIALS) == 12
    piece = next(piece for piece in made.pieces if (piece["arm"], piece["regulariser"]) == (arm, "none"))
    (row,) = made.compute(piece)
    assert set(row) == set(study.columns)
    assert row["train_accuracy"] == 1
    assert isinstance(row["fitted"], int)
    assert row["fitted"] <= int(str(row["epochs"])) - 4
    test = float(str(row["test_accuracy"]))
    assert test > 0.7 if arm == "true" else 0.03 < test < 0.2
    assert float(str(row["best_test_accuracy"])) >= test


def test_minimum_norm_has_a_row_for_each_kernel_and_input() -> None:
    made = minimum_norm.STUDY.plan(minimum_norm.STUDY.profiles["fast"])
    rows = pd.DataFrame(made.compute(made.pieces[0]))
    assert len(rows) == 8
    assert set(rows.columns) == set(minimum_norm.STUDY.columns)
    assert (rows.train_error[rows.kernel != "linear"] == 0).all()
    assert rows.test_error.min() < 0.3
