"""Samples against the worst case: how far attributions move over draws from a ball, and under an attack on just that.

Draws and attack search the same set: images with the original prediction, whose change is constant on squares of
`block` pixels before it is clipped to [0, 1]. Wider squares leave fewer directions.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice, product
from typing import Any

from fragility.defense.smoothing import smooth_gradient
from fragility.iterate import Attribution, Judge
from fragility.sensitivity import climb, draws, extremes
from fragility.study.attacks.setup import Subject, changed_all, prepare_images
from fragility.study.piece import Piece, Row, batches, declared, generator, row_per_image

FEWER = (10, 50)  # draws that tools take by default: Captum, and the code of [Yeh2019]
PASSES = {"simple_gradient": 1, "deeplift": 3}


def pieces(profile: dict[str, Any], subjects: Mapping[str, Subject]) -> Iterator[Piece]:
    """Cut the images into batches, for every method and size of the squares."""
    shared = {name: profile[name] for name in ("epsilon", "draws", "iterations", "points", "sigma", "copies", "seed")}
    for (name, subject), method in product(subjects.items(), profile["blocks"]):
        own = {"setup": name, **subject.facts, "method": method}
        for block, images in product(profile["blocks"][method], batches(subject.data, profile["batch"])):
            yield {**images, **shared, **own, "block": block}


def rows(piece: Piece, subjects: Mapping[str, Subject]) -> list[Row]:
    """Draw from the ball, attack in it, and keep the extremes of both."""
    subject, block, epsilon = subjects[piece["setup"]], piece["block"], piece["epsilon"] / 255
    images, labels = subject.batch(piece)
    attacked, judged = _attributions(piece, subject)
    judge = Judge(subject.model, images, labels, judged)

    def sources(purpose: str) -> list[Any]:
        return [generator(piece["seed"], purpose, name, block) for name in piece["images"]]

    drawn = list(extremes(judge, islice(draws(images, epsilon, sources("draws"), block=block), piece["draws"]),
                          piece["k"]))  # fmt: skip
    *_, found = extremes(
        judge,
        climb(
            subject.model, images, labels, attribution=attacked, epsilon=epsilon, beta=subject.surrogate_beta,
            iterations=piece["iterations"], generators=sources("attack"), block=block,
        ),
        piece["k"],
    )  # fmt: skip
    fewer = {f"sampled_{count}": drawn[min(count, len(drawn)) - 1].change for count in FEWER}
    return row_per_image(
        piece, label=labels, directions=images[0, :, ::block, ::block].numel(), surrogate_beta=subject.surrogate_beta,
        **fewer, **_named("sampled", drawn[-1]._asdict()), **_named("attacked", found._asdict()),
    )  # fmt: skip


def _named(prefix: str, columns: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}_{name}": column for name, column in columns.items()}


def _attributions(piece: Piece, subject: Subject) -> tuple[Attribution, Attribution]:
    """The method as it is attacked, and as it is judged: smoothed with other noise."""
    if piece["method"] == "smooth_gradient":
        smooth = partial(smooth_gradient, sigma=piece["sigma"], samples=piece["copies"])
        return partial(smooth, seed=0), partial(smooth, seed=1)
    return (subject.attribution(piece["method"], piece["points"]),) * 2


def cost(piece: Piece) -> float:
    """Count gradient passes through the network, roughly."""
    passes = PASSES | {"integrated_gradients": piece["points"], "smooth_gradient": piece["copies"]}
    return float(len(piece["images"]) * passes[piece["method"]] * (piece["draws"] + 4 * piece["iterations"]))


STUDY = declared(__file__, prepare_images, pieces, rows, profile=changed_all, cost=cost)
