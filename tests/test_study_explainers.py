"""The studies of chapter 10: bounds against dense Hessians, the counting lemma and Shapley values by enumeration."""

from itertools import permutations
from math import factorial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

from fragility.attribution import simple_gradient
from fragility.data.datasets import ImageDataset, digits
from fragility.study.catalogue import STUDIES
from fragility.study.explainers import certify, relu_regions, same_function, scaffold, smoothed, unused_pixels

KNOWN = digits("train", size=8, limit=100)


def network(activation: nn.Module, widths: list[int] | None = None) -> nn.Sequential:
    return certify.dense(KNOWN, widths or [12], activation, 0, 60)


@pytest.fixture(scope="module")
def smooth() -> nn.Sequential:
    return network(nn.Softplus(3.0, 40.0))


def points(n: int) -> tuple[Tensor, Tensor]:
    data = digits("test", size=8, limit=n)
    return data.images.double().flatten(1), data.labels


def test_the_bound_holds_in_the_ball_and_is_the_norm_where_all_weights_have_one_sign(smooth: Any) -> None:
    x, labels = points(6)
    images = x.view(-1, 1, 8, 8)
    torch.testing.assert_close(certify.slopes(smooth, x, labels), simple_gradient(smooth, images, labels).flatten(1))
    source = torch.Generator().manual_seed(0)

    def norms(at: Tensor) -> Tensor:
        dense = [
            torch.autograd.functional.hessian(lambda z, y=y: smooth(z[None])[0, y], one)
            for one, y in zip(at, labels, strict=True)
        ]
        return torch.stack([torch.linalg.matrix_norm(one, 2) for one in dense])

    everywhere = certify.hessian_bound(smooth, x, labels, None)
    for epsilon in (0.0, 0.3, 1.0):
        bound = certify.hessian_bound(smooth, x, labels, epsilon)
        assert (norms(certify.in_ball(x, epsilon, source)) <= bound + 1e-12).all()
        assert (bound <= everywhere + 1e-12).all()
    of_one_sign = network(nn.Softplus(3.0, 40.0))
    of_one_sign[3].weight.abs_()
    dense = [torch.autograd.functional.hessian(lambda z: of_one_sign(z[None])[0, 0], one) for one in x]
    zeros = torch.zeros_like(labels)
    torch.testing.assert_close(
        certify.hessian_bound(of_one_sign, x, zeros, 0.0),
        torch.stack([torch.linalg.matrix_norm(one, 2) for one in dense]),
    )


def test_certified_overlap_counts_and_no_change_of_that_length_undoes_it() -> None:
    source = torch.Generator().manual_seed(0)
    g = torch.randn(40, 12, generator=source, dtype=torch.float64)
    radius = 0.3 * torch.rand(40, generator=source, dtype=torch.float64)
    for k in (1, 3, 5):
        found, least = certify.certified_overlap(g.abs(), k, radius), torch.ones(40, dtype=torch.float64)
        for row, r, share in zip(g.abs(), radius, found, strict=True):
            ranked = sorted(row.tolist(), reverse=True)
            # In the lemma's words: ranks from 1.
            holds = [i for i in range(1, k + 1) if ranked[i - 1] - ranked[2 * k - i] > 2**0.5 * float(r)]
            assert share.item() == pytest.approx(max(holds, default=0) / k)
        for _ in range(300):
            after = certify.in_ball(g, 1.0, source)
            after = g + (after - g) * radius[:, None]
            shared = [
                len(set(a.abs().topk(k).indices.tolist()) & set(b.abs().topk(k).indices.tolist())) / k
                for a, b in zip(g, after, strict=True)
            ]
            least = torch.minimum(least, torch.tensor(shared, dtype=torch.float64))
        assert (least >= found).all()
        assert (least < 1).any()


def test_the_attack_stays_in_the_ball_and_refutes_what_is_no_certificate(smooth: Any) -> None:
    x, labels = points(20)

    def maps(at: Tensor) -> Tensor:
        return certify.slopes(smooth, at, labels)

    iterates = [y.detach() for y in certify.climb(maps, x, 0.5, 8, 10, 2, 0)]
    assert len(iterates) == 40
    assert max(float((y - x).norm(dim=1).max()) for y in iterates) <= 0.5 * (1 + 1e-12)
    overlap, cosine = certify.least(maps, x, iter(iterates), 8)
    g = maps(x)
    radius = 0.5 * certify.hessian_bound(smooth, x, labels, 0.5)
    assert (overlap >= certify.certified_overlap(g.abs(), 8, radius)).all()
    assert (cosine >= certify.certified_cosine(g, radius)).all()
    assert (overlap < certify.certified_overlap(g.abs(), 8, radius / 50)).any()
    assert (cosine < certify.certified_cosine(g, radius / 50)).any()


def test_smoothed_frequencies_and_their_certificate(smooth: Any) -> None:
    x, labels = points(1)
    shares = smoothed.marked(smooth, x[0], labels[0], 0.2, 0.2, 400, torch.Generator().manual_seed(3))
    noise = 0.2 * torch.randn(400, 64, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    images = (x + noise).view(-1, 1, 8, 8)
    copies = torch.autograd.functional.jacobian(lambda z: smooth(z)[:, labels[0]].sum(), images).flatten(1).abs()
    marks = (copies >= copies.sort(dim=1, descending=True).values[:, 12:13]).double().mean(0)
    torch.testing.assert_close(shares, marks)
    ranked, k = sorted(shares.tolist(), reverse=True), 13
    normal = scipy.stats.norm
    for slack, ratio in ((0.0, 0.0), (0.02, 0.1), (0.05, 0.5)):
        holds = [
            i
            for i in range(1, k + 1)
            if normal.cdf(normal.ppf(max(0.0, ranked[i - 1] - slack)) - 2 * ratio) - slack > ranked[2 * k - i]
        ]
        assert smoothed.certified(shares, k, slack, ratio) == pytest.approx(max(holds, default=0) / k)
    assert smoothed.error(64, 8192) == pytest.approx(np.sqrt(np.log(2 * 64 / 0.05) / 2 / 8192))
    assert smoothed.left(shares, shares.flip(0), 13, 1.0) == 1
    assert smoothed.left(torch.tensor([3.0, 2, 1, 0]), torch.tensor([3.0, 0, 2, 1]), 2) == 0.5


def test_a_kink_is_as_far_as_the_radius_says() -> None:
    model = network(nn.ReLU(), [10, 7])
    for x in points(5)[0]:
        size, towards = relu_regions.radius(model, x)
        found = []
        for part in (model[:2], model[:4]):
            jacobian = torch.autograd.functional.jacobian(lambda z, part=part: part(z[None])[0], x)
            found.append((part(x[None])[0].abs() / jacobian.norm(dim=1)).min())
        assert float(size) == pytest.approx(float(min(found)))
        assert float(towards.norm()) == pytest.approx(1)

        def signs(at: Tensor) -> list[bool]:
            return [value > 0 for part in (model[:2], model[:4]) for value in part(at[None])[0].tolist()]

        assert signs(x + 0.999 * size * towards) == signs(x)
        assert sum(a != b for a, b in zip(signs(x + 1.001 * size * towards), signs(x), strict=True)) >= 1


def test_shapley_values_are_the_mean_over_orders_and_lime_finds_a_line() -> None:
    draw = np.random.default_rng(0)
    row, background = draw.random(4), draw.random((3, 4))

    def score(x: Any) -> Any:
        return x[:, 0] * x[:, 1] + np.maximum(x[:, 2] - 0.5, 0) * x[:, 3] + x[:, 1]

    values = np.zeros(4)
    for order in permutations(range(4)):
        x = background.copy()
        for feature in order:
            before = score(x).mean()
            x[:, feature] = row[feature]
            values[feature] += score(x).mean() - before
    np.testing.assert_allclose(scaffold.shapley(score, row, background), values / factorial(4), atol=1e-12)
    np.testing.assert_allclose(scaffold.lime(lambda x: x @ [1.0, -2, 0, 3] + 5, row, 0), [1, -2, 0, 3], atol=1e-9)


def test_rows_of_the_scaffold_on_people_of_our_own() -> None:
    draw = np.random.default_rng(1)
    x = np.column_stack([draw.integers(0, 4, (2500, 5)), draw.integers(0, 2, (2500, 3))]).astype(float)
    piece = {"seed": 0, "known": 150, "images": ["seed 0, row 0", "seed 0, row 1"]}
    made = pd.DataFrame(scaffold.rows(piece, x))
    assert (made.lime_biased == "race").all()
    assert (made.shapley_biased == "race").all()
    assert (made.lime_scaffold == "charge").all()
    assert made.fidelity.min() > 0.9


def test_silent_pixels_and_weights_on_them() -> None:
    images = torch.rand(5, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    images[:, :, :, :6] = 0
    images[2, 0, 4, 1] = 0.5
    expected = [[j < 5 and not (3 <= i <= 5 and j <= 2) for j in range(9)] for i in range(9)]
    where = unused_pixels.silent(images)
    assert where.tolist() == expected
    model = nn.Sequential(nn.Flatten(), nn.Linear(81, 4)).eval()
    lying = unused_pixels.Weighted(model, where, 4, 100.0)
    assert torch.equal(lying(images), model(images))
    labels = torch.arange(5) % 4
    off = simple_gradient(lying, images, labels) - simple_gradient(model, images, labels)
    assert torch.equal(off != 0, where.expand_as(off))
    axes = unused_pixels.tangent(images, images, 4, 2)
    torch.testing.assert_close(axes @ axes.mT, torch.eye(2).expand(5, 2, 2), atol=1e-5, rtol=0)
    assert (axes.view(5, 2, 9, 9)[..., where].abs() < 1e-6).all()


def test_two_changes_that_no_prediction_shows() -> None:
    source = torch.Generator().manual_seed(0)
    images = torch.rand(4, 3, 12, 12, generator=source)
    layers = [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(600, 5)]
    model = nn.Sequential(*layers).double().eval()
    data = ImageDataset("ours", images, torch.zeros(4, dtype=torch.int64), tuple("abcde"), "drawn", tuple("wxyz"))
    piece = {"images": list("wxyz"), "strength": 30.0}
    made = pd.DataFrame(same_function.rows(piece, same_function.Ready(model, data)))
    assert made.spearman.min() > 0.99 > made.before.max()
    assert made.probability_change.max() < 1e-12
    assert made.log_odds_change.max() < 1e-10
    assert made.recoded_change.max() < 1e-12
    assert made.recoded_input.max() < 0.9
    x, picture = images.double(), torch.rand(1, 12, 12, generator=source, dtype=torch.float64)
    added, labels = same_function.Added(model, picture, 3.0), torch.tensor([0, 1, 2, 3])
    moved = simple_gradient(added, x, labels) - simple_gradient(model, x, labels)
    torch.testing.assert_close(moved, 3 * picture.expand_as(x))


@pytest.mark.parametrize("name", ["certificates", "smoothed", "relu_regions", "unused_pixels"])
def test_rows_have_every_column(name: str) -> None:
    study = STUDIES[name]
    made = study.plan(study.profiles["fast"] | {"images": 4, "steps": 40, "iterations": 3, "q": 100})
    rows = pd.DataFrame(made.compute(made.pieces[0]))
    assert set(rows.columns) >= set(study.columns)
    assert len(rows) == 4
