"""Defenses trained on more and more images, to see whether they tend towards what was published [Chen2019]."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from fragility.study.defenses import defense_table
from fragility.study.defenses.defense_table import Material
from fragility.study.piece import Piece, Row, declared


def prepare(profile: dict[str, Any], device: str) -> tuple[dict[int, Material], dict[str, Any]]:
    """Load the images of every size of the training set."""
    shared = {name: value for name, value in profile.items() if name != "sizes"}
    ready = {size: defense_table.prepare(shared | {"training_images": size}, device)[0] for size in profile["sizes"]}
    inputs = {f"training {size}": material.inputs["training"] for size, material in ready.items()}
    return ready, inputs | {"test": ready[max(ready)].inputs["test"]}


def pieces(profile: dict[str, Any], ready: dict[int, Material]) -> Iterator[Piece]:
    """List the defenses by seed and size, and after the first seed the other budgets at the largest size."""
    first, *others = profile["seeds"]
    largest = ready[max(ready)]
    yield from _trained(first, ready)
    budgets = defense_table.pieces(largest.profile | {"seeds": [first]}, largest)
    yield from islice(budgets, len(profile["defenses"]), None)
    for seed in others:
        yield from _trained(seed, ready)


def _trained(seed: int, ready: dict[int, Material]) -> Iterator[Piece]:
    for material in ready.values():
        yield from defense_table.pieces(material.profile | {"seeds": [seed], "budgets": []}, material)


def rows(piece: Piece, ready: dict[int, Material]) -> list[Row]:
    """Train a defense on so many images and attack it."""
    return defense_table.rows(piece, ready[piece["training_images"]])


STUDY = declared(__file__, prepare, pieces, rows, profile=defense_table.defended, cost=defense_table.cost)
