"""Do explanations of one tabular network agree? The top three of thirty features by five methods [Krishna2022].

Wisconsin's breast-cancer table, as scikit-learn has it: thirty measurements of cells, two diagnoses.
"""

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any, NamedTuple

import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn

from fragility import train
from fragility.attribution import deeplift, integrated_gradients, simple_gradient
from fragility.similarity import top_k_intersection
from fragility.study.piece import Piece, Row, declared

HELD_OUT = 200


class Diagnosis(NamedTuple):
    """A network and the rows that it has not seen."""

    model: nn.Module
    rows: Tensor  # (200, 30), every column scaled to [0, 1]
    labels: Tensor  # (200,), the network's own diagnosis
    truth: Tensor  # (200,), 1: benign
    middle: Tensor  # (30,), the mean of the rows that it was trained on
    names: list[str]


def diagnosis(seed: int, steps: int = 300) -> Diagnosis:
    """Train a network of two hidden layers on all but 200 rows; the rows do not depend on the seed."""
    table = load_breast_cancer()
    x, y = torch.from_numpy(table.data), torch.from_numpy(table.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    rest, held = order[HELD_OUT:], order[:HELD_OUT]
    low, high = x[rest].amin(0), x[rest].amax(0)
    x = ((x - low) / (high - low)).clamp(0, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2)]
    model = nn.Sequential(*layers).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=1e-4)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rest]), y[rest]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.eval().requires_grad_(False)
    names = [str(name) for name in table.feature_names]
    return Diagnosis(model, x[held], model(x[held]).argmax(1), y[held], x[rest].mean(0), names)


def lime(model: nn.Module, rows: Tensor, labels: Tensor, *, width: float = 0.1, samples: int = 1000) -> Tensor:
    """Weights of a line fitted to the score among Gaussian neighbours, near ones counting more [Ribeiro2016].

    Args:
        model: rows (B, d) to logits.
        rows: (B, d).
        labels: (B,).
        width: of the neighbourhood, in each column.
        samples: neighbours of a row, the same displacements for every row.

    Returns:
        (B, d).
    """
    moves = width * torch.randn(samples, rows.shape[1], generator=torch.Generator().manual_seed(0), dtype=rows.dtype)
    near = (-moves.square().mean(1) / (2 * width**2)).exp().sqrt().unsqueeze(1)
    line = torch.cat([moves, torch.ones_like(near)], 1)
    fits = []
    for row, label in zip(rows, labels, strict=True):
        fits.append(torch.linalg.lstsq(near * line, near * model(row + moves)[:, label, None]).solution[:-1, 0])
    return torch.stack(fits)


def shapley(model: nn.Module, rows: Tensor, labels: Tensor, baseline: Tensor, *, orders: int = 100) -> Tensor:
    """Shapley values of the score: what a feature adds in random orders, those that are absent at a baseline.

    Args:
        model: rows (B, d) to logits.
        rows: (B, d).
        labels: (B,).
        baseline: (d,).
        orders: how many, the same for every row.

    Returns:
        (B, d), which sum to S(x) - S(baseline).
    """
    generator, total = torch.Generator().manual_seed(0), torch.zeros_like(rows)
    for _ in range(orders):
        x = baseline.expand_as(rows).clone()
        before = model(x).gather(1, labels[:, None]).squeeze(1)
        for feature in torch.randperm(rows.shape[1], generator=generator).tolist():
            x[:, feature] = rows[:, feature]
            after = model(x).gather(1, labels[:, None]).squeeze(1)
            total[:, feature] += after - before
            before = after
    return total / orders


METHODS: dict[str, Callable[[Diagnosis], Tensor]] = {
    "simple gradient": lambda d: simple_gradient(d.model, d.rows, d.labels),
    "integrated gradients": lambda d: integrated_gradients(d.model, d.rows, d.labels, baseline=d.middle, steps=50),
    "DeepLIFT": lambda d: deeplift(d.model, d.rows, d.labels, baseline=d.middle),
    "LIME": lambda d: lime(d.model, d.rows, d.labels),
    "Shapley values": lambda d: shapley(d.model, d.rows, d.labels, d.middle),
}


def prepare(profile: dict[str, Any], device: str) -> tuple[str, dict[str, Any]]:
    """Load the table."""
    sha256 = train.fingerprint(torch.from_numpy(load_breast_cancer().data))
    return sha256, {"breast cancer": sha256}


def pieces(profile: dict[str, Any], sha256: str) -> Iterator[Piece]:
    """One piece: two networks and all held-out rows."""
    names = [f"row {number}" for number in range(HELD_OUT)]
    yield {"images": names, "sha256": sha256, **profile}


def rows(piece: Piece, sha256: str) -> list[Row]:
    """Explain the first network by every method, and the second, about the first's diagnoses, too."""
    one, two = (diagnosis(seed, piece["steps"]) for seed in piece["seeds"])
    found = {name: method(one) for name, method in METHODS.items()}
    other = {name: method(two._replace(labels=one.labels)) for name, method in METHODS.items()}
    pairs = [(a, b, "one", found[a], found[b]) for a, b in combinations(METHODS, 2)]
    pairs += [(name, name, "two seeds", found[name], other[name]) for name in METHODS]
    made: list[Row] = []
    for a, b, networks, x, y in pairs:
        agreement = top_k_intersection(x.abs(), y.abs(), 3)
        # A feature with a sign is one of sixty.
        of_x, of_y = (torch.cat([part.clamp(min=0), -part.clamp(max=0)], 1) for part in (x, y))
        signed = top_k_intersection(of_x, of_y, 3)
        for name, share, same in zip(piece["images"], agreement.tolist(), signed.tolist(), strict=True):
            made.append({"image": name, "a": a, "b": b, "networks": networks, "agreement": share, "signed": same})
    return made


STUDY = declared(__file__, prepare, pieces, rows)
