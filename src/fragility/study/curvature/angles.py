"""The angle between the score's gradient and the saliency's most fragile direction [Ghorbani2019, Fig. 11a].

Both are taken on a network retrained with softplus, as in the paper's appendix B, for correctly classified images; the
null is that of `fragility.study.curvature.null`.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fragility import network, train
from fragility.attribution import simple_gradient
from fragility.curvature import top_directions
from fragility.data import datasets
from fragility.study import cifar_network
from fragility.study.curvature import null
from fragility.study.piece import Piece, Row, declared, positions, row_per_image
from fragility.surrogate import softplus


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
    return cifar_network.trained(training), cifar_network.trained(training, smooth=True)


# The network trained with ReLU, and the one retrained from there with softplus (beta = 1).
NETWORKS: dict[str, Callable[[], tuple[nn.Module, nn.Module]]] = {"digits": _digits, "cifar10": _cifar10}


class Retrained(NamedTuple):
    """A network retrained with softplus, test images, and which of them it gets right."""

    model: nn.Module
    weights: str
    drawn: datasets.ImageDataset
    right: Tensor
    device: str


def prepare(profile: dict[str, Any], device: str) -> tuple[dict[str, Retrained], dict[str, Any]]:
    """Load or train the networks and draw images."""
    ready, inputs = {}, {}
    for name, setup in profile["setups"].items():
        relu, smooth = NETWORKS[name]()
        weights = {"relu": train.fingerprint(relu), "softplus": train.fingerprint(smooth)}
        relu, smooth = relu.to(device), smooth.to(device)
        drawn = datasets.load(name, split="test", limit=setup["candidates"], seed=profile["seed"])
        before = _logits(relu, drawn.images, device).argmax(1) == drawn.labels
        with softplus(profile["beta"]):
            right = _logits(smooth, drawn.images, device).argmax(1) == drawn.labels
        shares = {key: round(hits.double().mean().item(), 4) for key, hits in (("relu", before), ("softplus", right))}
        inputs[name] = {"data": drawn.source, "weights": weights, "test_accuracy": shares | {"images": len(drawn)}}
        ready[name] = Retrained(smooth, weights["softplus"], drawn, right, device)
    return ready, inputs


def pieces(profile: dict[str, Any], ready: Mapping[str, Retrained]) -> Iterator[Piece]:
    """Go through the classes in turn, a block of each; ValueError if too few images are classified correctly."""
    for name, setup in profile["setups"].items():
        _, weights, drawn, right, _ = ready[name]
        classes = len(drawn.class_names)
        per_class, block = setup["images"] // classes, setup["block"]
        if setup["images"] % classes or per_class % block:
            raise ValueError(f"images: expected a multiple of {classes} classes x a block of {block}")
        shared = {"setup": name, "weights": weights, "steps": setup["steps"]}
        shared |= {"seed": profile["seed"], "beta": profile["beta"]}
        for start, label in product(range(0, per_class, block), range(classes)):
            rows = (right & (drawn.labels == label)).nonzero().flatten()[:per_class]
            if len(rows) < per_class:
                wanted = f"{per_class} correctly classified images of class {drawn.class_names[label]}"
                raise ValueError(f"candidates: expected {wanted} among {setup['candidates']}, got {len(rows)}")
            chosen = rows[start : start + block]
            images = {"images": [drawn.files[row] for row in chosen], "pixels": train.fingerprint(drawn.images[chosen])}
            yield {**images, **shared, "first": start * classes, "label": label}


def rows(piece: Piece, ready: Mapping[str, Retrained]) -> list[Row]:
    """Compare the gradients of a block with its top directions."""
    model, _, drawn, _, device = ready[piece["setup"]]
    images, label = drawn.images[positions(drawn, piece)].to(device), piece["label"]
    labels = torch.full((len(images),), label, device=device)
    with softplus(piece["beta"]):
        gradients = simple_gradient(model, images, labels)
        found = top_directions(model, images, labels, steps=piece["steps"])
        logits = _logits(model, images, device).double()
    others = logits.index_fill(1, torch.tensor(label), float("-inf"))
    return row_per_image(
        piece,
        class_name=drawn.class_names[label],
        dimension=images[0].numel(),
        block=f"{drawn.class_names[label]} from {piece['images'][0]}",
        **null.angle_columns(gradients, found.directions[:, 0]),
        value=found.values[:, 0],
        gap=found.gap,
        residual=found.residual[:, 0],
        gradient_norm=gradients.flatten(1).norm(dim=1),
        margin=logits[:, label] - others.amax(1),
        confidence=logits.softmax(1)[:, label],
    )


def _logits(model: nn.Module, images: Tensor, device: str) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(batch.to(device)).cpu() for batch in torch.split(images, 100)])


STUDY = declared(__file__, prepare, pieces, rows)
