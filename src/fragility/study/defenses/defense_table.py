"""Every defense trained and attacked: accuracy, stability of the maps, cost; a row per defense and seed [Chen2019].

All networks of a seed begin with the same weights, trained naturally; each is then trained with its own loss. The maps
are integrated gradients of the label's logit with a black baseline, as in [Chen2019]. Only images that the network
classifies correctly are attacked; if no iterate keeps the label, the image counts as unchanged (1, 1, 1, 0 pixels). Two
attacks are run, one on the importance of the leading pixels as published, one on their order; of all iterates that keep
the label, the one with the lowest Kendall's tau counts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fragility import train
from fragility.attack import random_sign
from fragility.attribution import importance, integrated_gradients
from fragility.data import datasets
from fragility.defense.loss_attribution import each_loss
from fragility.defense.training import ascend
from fragility.similarity import center_shift, kendall, spearman, top_k_intersection
from fragility.study.defenses.setup import Defense, trained, training_cost
from fragility.study.defenses.worst_case import worst_case
from fragility.study.piece import Piece, Row, declared, positions
from fragility.surrogate import suggest_beta

LEADING = ("top_k_intersection", "kendall")


def defended(*, ball: dict[str, Any], path: dict[str, int], kept: Sequence[str] = (), **entries: Any) -> Any:
    """Make a profile: name the defenses, all or those kept; the worst images are sought in a ball, on paths."""
    path = {**ball, **path}
    listed = {
        "natural": Defense(),
        "adversarial": Defense(loss="adversarial", options=ball),
        "ig_norm": Defense(loss="ig_norm", options={**path, "weight": 1.0}),
        "ig_sum_norm": Defense(loss="ig_sum_norm", options={**path, "beta": 0.1}),
        "input_gradient": Defense(loss="input_gradient", options={"weight": 0.1}),
        "spectral": Defense(loss="operator_norm", options={"weight": 0.01, "iterations": 3}),
        "softplus": Defense(beta=4.0),
        "softplus_untrained": Defense(loss=None, beta=4.0),  # explained and used as softplus, trained as ReLU
        "discretized": Defense(levels=4),
    }
    return {**entries, "defenses": {name: asdict(listed[name]) for name in kept or listed}}


class Material(NamedTuple):
    """Images, and how the networks are trained on them."""

    profile: dict[str, Any]
    training: datasets.ImageDataset
    test: datasets.ImageDataset
    inputs: dict[str, Any]
    device: str


def prepare(profile: dict[str, Any], device: str) -> tuple[Material, dict[str, Any]]:
    """Load the images."""
    training = datasets.load(profile["data"], split="train", limit=profile["training_images"])
    test = datasets.load(profile["data"], split="test", limit=profile["test_images"])
    inputs = {
        split: {"data": data.source, "images_sha256": train.fingerprint(data.images)}
        for split, data in (("training", training), ("test", test))
    }
    return Material(profile, training, test, inputs, device), inputs


def pieces(profile: dict[str, Any], ready: Material) -> Iterator[Piece]:
    """List every defense seed by seed, then the attacks with other budgets."""
    listed = ("seeds", "defenses", "images", "doubled_images", "budgets")
    seeds, defined, images, doubled, budgets = (profile[name] for name in listed)
    settings = {name: value for name, value in profile.items() if name not in listed}
    attacks = [(seed, 1, images) for seed in seeds] + [(seeds[0], budget, doubled) for budget in budgets]
    for seed, budget, count in attacks:
        shared = {**settings, "seed": seed, "budget": budget, "count": count, "inputs": ready.inputs}
        files = list(ready.test.files[: 2 * count])
        yield from ({**shared, "images": files, "defense": name, "defined": defined[name]} for name in defined)


def rows(piece: Piece, ready: Material) -> list[Row]:
    """Train a defense and attack it."""
    profile, training, test, _, device = ready
    name, seed, epsilon, runs = piece["defense"], piece["seed"], piece["epsilon"], _runs(piece)
    defense = Defense(**piece["defined"])
    model, loss = trained(profile, name, seed, training, device)
    where = positions(test, piece)
    candidates, truth = test.images[where].to(device), test.labels[where].to(device)
    with torch.no_grad():
        right = (model(candidates).argmax(1) == truth).nonzero().flatten()[: piece["count"]]
    if len(right) == 0:
        raise ValueError(f"images: expected some that {name} gets right, got none of {len(candidates)}")
    images, labels = candidates[right], truth[right]
    beta = None
    if defense.beta is None:
        sample = training.images[:32].to(device)
        with torch.no_grad():
            predicted = model(sample).argmax(1)
        beta = suggest_beta(model, sample, predicted, betas=[2.0**power for power in range(-1, 16)])

    def maps(x: Tensor) -> Tensor:
        return importance(integrated_gradients(model, x, labels, steps=piece["evaluation_steps"]))

    before = maps(images)

    def metrics(changed: Tensor) -> dict[str, Tensor]:
        after = maps(changed)
        return {
            "top_k_intersection": top_k_intersection(before, after, piece["k"]),
            "kendall": kendall(before, after),
            "spearman": spearman(before, after),
            "center_shift": center_shift(before, after),
        }

    iterations = piece["iterations"] * piece["budget"]
    budget = {"iterations": iterations, "restarts": runs - 1, "surrogate_beta": beta, "steps": piece["attack_steps"]}
    found = worst_case(model, images, labels, epsilon=epsilon, k=piece["k_attacked"], seed=seed, **budget)
    generator = torch.Generator().manual_seed(seed)
    after, kept = metrics(found.images), found.labels_kept
    noise, first = metrics(random_sign(images, epsilon, generator=generator)), metrics(found.first)
    attacked = ascend(lambda x: each_loss(model, x, truth), candidates, epsilon, epsilon / 8, 20, generator)
    return [
        {
            "images": len(images),
            "iterations": iterations,
            "runs": 2 * runs,
            "surrogate_beta": beta,
            "natural_accuracy": train.accuracy(model, test.images, test.labels),
            "adversarial_accuracy": train.accuracy(model, attacked, truth),
            "labels_kept": kept.double().mean().item(),
            **{column: value.mean().item() for column, value in after.items()},
            "kendall_by_top_k": found.taus[0],
            "kendall_by_kendall": found.taus[1],
            **{f"{column}_kept": after[column][kept].mean().item() for column in LEADING},
            **{f"noise_{column}": noise[column].mean().item() for column in LEADING},
            **{f"first_{column}": first[column].mean().item() for column in LEADING},
            "cost": training_cost(defense, model, candidates, truth),
            "training_loss": loss,
        }
    ]


def _runs(piece: Piece) -> int:
    """Return the runs of each of the two attacks."""
    runs: int = (1 + piece["restarts"]) * piece["budget"]
    return runs


def cost(piece: Piece) -> float:
    """Count gradient passes through the network, roughly."""
    options = piece["defined"]["options"]
    inner = options.get("iterations", 0) * options.get("inner_steps", 0.5) * 2 + options.get("steps", 1) * 2
    training = piece["epochs"] * piece["training_images"] * inner if piece["budget"] == 1 else 0.0
    steps = 2 * _runs(piece) * piece["iterations"] * piece["budget"]
    return float(training + piece["count"] * steps * (4 * piece["attack_steps"] + 6))


STUDY = declared(__file__, prepare, pieces, rows, profile=defended, cost=cost)
