"""A certificate below, attacks above: how much of a gradient's top k is left in an L2 ball, from both sides."""

from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import nn

from fragility import train
from fragility.attack import iterative
from fragility.attribution import simple_gradient
from fragility.data.datasets import ImageDataset, digits
from fragility.objective import top_k
from fragility.study.explainers import certify
from fragility.study.piece import Piece, Row, declared, positions, row_per_image


class Ready(NamedTuple):
    """Networks by the sharpness of their softplus, and images that they have not seen."""

    models: dict[float, nn.Sequential]
    data: ImageDataset


def prepare(profile: dict[str, Any], device: str) -> tuple[Ready, dict[str, Any]]:
    """Train the networks and draw images from the test."""
    known, data = digits("train", size=8), digits("test", size=8, limit=profile["images"])
    models = {
        beta: certify.dense(known, [profile["units"]], nn.Softplus(beta, 40.0), 0, profile["steps"])
        for beta in profile["betas"]
    }
    return Ready(models, data), {"data": data.source, "images_sha256": train.fingerprint(data.images)}


def pieces(profile: dict[str, Any], ready: Ready) -> Iterator[Piece]:
    """A piece is a network and a radius."""
    shared = {name: value for name, value in profile.items() if name not in ("epsilons", "betas")}
    subjects = {"images": list(ready.data.files), "pixels": train.fingerprint(ready.data.images)}
    for beta, epsilon in product(profile["betas"], profile["epsilons"]):
        yield {**shared, **subjects, "beta": beta, "epsilon": epsilon}


def rows(piece: Piece, ready: Ready) -> list[Row]:
    """Certify and attack."""
    model, k, epsilon = ready.models[piece["beta"]], piece["k"], piece["epsilon"]
    images = ready.data.images[positions(ready.data, piece)].double()
    labels, x = model(images).argmax(1), images.flatten(1)
    maps = partial(certify.slopes, model, labels=labels)
    g, bound = maps(x), certify.hessian_bound(model, x, labels, epsilon)
    everywhere = certify.hessian_bound(model, x, labels, None)
    budgets = [certify.least(maps, x, certify.climb(maps, x, epsilon, k, steps, piece["starts"], steps), k)
               for steps in (piece["iterations"], 2 * piece["iterations"])]  # fmt: skip
    source = torch.Generator().manual_seed(0)
    drawn = certify.least(maps, x, (certify.in_ball(x, epsilon, source) for _ in range(piece["draws"])), k)
    edge = epsilon / images[0].numel() ** 0.5  # of the largest cube in the ball
    found = iterative(
        model, images, labels, attribution=simple_gradient, objective=top_k(k), epsilon=edge, step_size=edge / 8,
        iterations=piece["iterations"], schedule="linear", restarts=2, generator=source,
    )  # fmt: skip
    cube = certify.least(maps, x, iter([found.images.flatten(1)]), k)
    return row_per_image(
        piece,
        certified=certify.certified_overlap(g.abs(), k, bound * epsilon),
        certified_everywhere=certify.certified_overlap(g.abs(), k, everywhere * epsilon),
        broken=certify.certified_overlap(g.abs(), k, bound * epsilon / 10),
        certified_cosine=certify.certified_cosine(g, bound * epsilon),
        attacked=budgets[0][0], attacked_doubled=budgets[1][0], attacked_cube=cube[0], drawn=drawn[0],
        attacked_cosine=torch.minimum(budgets[0][1], budgets[1][1]),
    )  # fmt: skip


STUDY = declared(__file__, prepare, pieces, rows)
