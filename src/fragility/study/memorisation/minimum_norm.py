"""Of all functions that fit the labels the one of least norm, in closed form: K alpha = y [Zhang2017, sec. 5]."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve
from torch import Tensor
from torch.nn import functional as F

from fragility.data import datasets
from fragility.data.datasets import ImageDataset
from fragility.study.memorisation.setup import source
from fragility.study.piece import Piece, Row, declared

WIDTHS = (0.25, 0.5, 1.0)  # medians of the distance between two images


Ready = tuple[ImageDataset, dict[str, Any]]


def prepare(profile: dict[str, Any], device: str) -> tuple[Ready, dict[str, Any]]:
    """Load all 5,000 images."""
    parts = datasets.mnist_5k("train"), datasets.mnist_5k("test")
    joined = ImageDataset(
        name="mnist_5k",
        images=torch.cat([part.images for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        class_names=parts[0].class_names,
        source=parts[0].source,
        files=tuple(f"{split} {name}" for split, part in zip("ab", parts, strict=True) for name in part.files),
    )
    inputs = source(joined)
    return (joined, inputs), inputs


def pieces(profile: dict[str, Any], ready: Ready) -> Iterator[Piece]:
    """A piece is a draw."""
    for seed in range(profile["draws"]):
        yield {**profile, "inputs": ready[1], "images": [f"draw {seed}"], "seed": seed}


def rows(piece: Piece, ready: Ready) -> list[Row]:
    """Solve with every kernel."""
    n, count = piece["training_images"], piece["test_images"]
    drawn = datasets.sample(ready[0], n + count, seed=piece["seed"])
    made: list[Row] = []
    for name, inputs in (("pixels", drawn.images), ("edges", edges(drawn.images))):
        points, labels = inputs.flatten(1).double().numpy(), drawn.labels.numpy()
        for kernel, matrix in kernels(points).items():
            made.append({"input": name, "kernel": kernel, **least_norm(matrix, labels, n)})
    return [{"image": piece["images"][0], **row} for row in made]


def edges(images: Tensor) -> Tensor:
    """Find edges in eight directions: moduli of Gabor filters' answers, at every second pixel."""
    grid = torch.arange(-3, 4, dtype=images.dtype)
    bank = []
    for turn in range(8):
        angle = torch.tensor(turn * torch.pi / 8)
        along = grid[:, None] * angle.sin() + grid * angle.cos()
        wave = torch.exp(-(grid[:, None].square() + grid.square()) / 8) * torch.sin(along * torch.pi / 3)
        bank.append(wave - wave.mean())
    return F.conv2d(images, torch.stack(bank)[:, None], stride=2, padding=3).abs()


def kernels(points: Any) -> dict[str, Any]:
    """Compute the kernel matrices of all points, training and test together."""
    products = points @ points.T
    squares = np.maximum(np.add.outer(products.diagonal(), products.diagonal()) - 2 * products, 0)
    np.fill_diagonal(squares, 0)
    middle = float(np.median(squares))
    return {"linear": products + 1} | {
        f"Gaussian, {width:g}": np.exp(-squares / (2 * width**2 * middle)) for width in WIDTHS
    }


def least_norm(kernel: Any, labels: Any, n: int) -> dict[str, Any]:
    """Fit the classes' indicators on the first n points; where the kernel cannot, by least squares of least norm.

    Args:
        kernel: (m, m), of all points.
        labels: (m,) the classes.
        n: how many points are fitted; the others are the test.

    Returns:
        Errors, norm and condition.
    """
    inner, targets = kernel[:n, :n], np.equal.outer(labels[:n], np.arange(10)).astype(float)
    values = np.linalg.eigvalsh(inner)
    if values[0] > n * np.finfo(float).eps * values[-1]:
        weights = cho_solve(cho_factor(inner), targets)
    else:
        weights = np.linalg.pinv(inner, rcond=n * np.finfo(float).eps, hermitian=True) @ targets
    wrong = (kernel[:, :n] @ weights).argmax(1) != labels
    return {
        "training_images": n,
        "train_error": float(wrong[:n].mean()),
        "test_error": float(wrong[n:].mean()),
        "norm": float(np.sqrt((weights * (inner @ weights)).sum())),
        "condition": float(values[-1] / values[0]) if values[0] > 0 else float("nan"),
    }


STUDY = declared(__file__, prepare, pieces, rows)
