"""Every defense trained and attacked: accuracy, stability of the maps, cost; a row per defense and seed [Chen2019].

All networks of a seed begin with the same weights, trained naturally; each is then trained with its own loss. The maps
are integrated gradients of the label's logit with a black baseline, as in [Chen2019]. Only images that the network
classifies correctly are attacked; if no iterate keeps the label, the image counts as unchanged (1, 1, 1, 0 pixels). Two
attacks are run, one on the importance of the leading pixels as published, one on their order; of all iterates that keep
the label, the one with the lowest Kendall's tau counts.
"""

from collections.abc import Iterator
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
from fragility.study.defenses.setup import Defense, DefenseProfile, trained, training_cost
from fragility.study.defenses.worst_case import worst_case
from fragility.study.piece import Columns, Piece, Row, Study, Tolerance, positions
from fragility.surrogate import suggest_beta

LEADING = ("top_k_intersection", "kendall")
COLUMNS: Columns = {
    "defense": (str, "how the network was trained or built, see parameters"),
    "seed": (int, "of the initial weights, the order of the batches and the random starts"),
    "budget": (int, "1; with 2 the attack has twice the steps and twice the runs, on fewer images; and so on"),
    "images": (int, "how many images were attacked, all classified correctly by this network"),
    "iterations": (int, "P of one run of the attack"),
    "runs": (int, "runs: half of them push at the top k and half at tau, the worst image of all is taken"),
    "epsilon": (float, "radius of the L-inf ball, pixels from 0 to 1"),
    "surrogate_beta": (
        float,
        "sharpness of the softplus that the attack's gradient goes through; none if it is smooth",
    ),
    "natural_accuracy": (float, "share of test images classified correctly"),
    "adversarial_accuracy": (float, "the same after sign steps on the loss, on the candidates of the attack"),
    "labels_kept": (float, "share of attacked images with an iterate that keeps the label"),
    "top_k_intersection": (float, "share of the k most important pixels in common, before and after, mean over images"),
    "kendall": (float, "Kendall's tau of the maps, mean over images"),
    "spearman": (float, "rank correlation of the maps, mean over images"),
    "center_shift": (float, "distance of the centres of mass in pixels, mean over images"),
    **{f"{name}_kept": (float, "the mean over the images that kept their label alone") for name in LEADING},
    "kendall_by_top_k": (
        float,
        "mean tau after the attack on the top k alone, as it judges itself; unchanged counts 1",
    ),
    "kendall_by_kendall": (float, "the same after the attack on tau alone"),
    **{f"noise_{name}": (float, "after one draw of random signs, label kept or not") for name in LEADING},
    **{f"first_{name}": (float, "after the attack's first step, label kept or not") for name in LEADING},
    "cost": (float, "of one training step, in forward passes of its batch"),
    "training_loss": (float, "mean over the last epoch"),
}
# With the same networks the rows are the same; in networks trained anew on another machine rounding errors grow.
_TRAINED = {name: 0.1 for name, (kind, _) in COLUMNS.items() if kind is float and name not in ("epsilon", "cost")}
_LOOSE = {"images": 20, "center_shift": 2.0, "training_loss": 0.3, "surrogate_beta": float("inf")}


def defenses(*, epsilon: float, step_size: float, iterations: int, steps: int, inner_steps: int) -> dict[str, Defense]:
    """List the defenses; those that seek a worst image use this ball, and this many points on a path."""
    ball = {"epsilon": epsilon, "step_size": step_size, "iterations": iterations}
    path = {**ball, "steps": steps, "inner_steps": inner_steps}
    return {
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


PROFILES = {
    # Digits: a minute on one core. Far too little training for a verdict, but it shows that everything runs.
    "fast": DefenseProfile(
        data="digits", training_images=400, test_images=120, images=16, doubled_images=8, seeds=(0, 1),
        network="small_cnn", network_options={"size": 32, "stride": 4},
        natural_epochs=6, epochs=2, learning_rate=1e-3,
        epsilon=0.1, k_attacked=200, iterations=5, attack_steps=3, evaluation_steps=10,
        defenses=defenses(epsilon=0.1, step_size=0.05, iterations=3, steps=2, inner_steps=2),
    ),
    # MNIST on two cores: a sixth of the training images, few epochs, a small network, epsilon 0.2 in place of 0.3 (at
    # which so small a network, trained from scratch, stayed at chance), and 4 points on the path, not 50. The attack
    # pushes at the top 100 in place of 200: the top 200 hold all the importance of many digits, so nothing can change.
    "laptop": DefenseProfile(
        data="mnist", training_images=10_000, test_images=2_000, images=500, doubled_images=100, seeds=(0, 1, 2, 3, 4),
        network="small_cnn", network_options={"size": 28, "stride": 2},
        natural_epochs=4, epochs=2, learning_rate=1e-3,
        epsilon=0.2, k_attacked=100, iterations=20, attack_steps=4, evaluation_steps=20, budgets=(1, 2, 4),
        defenses=defenses(epsilon=0.2, step_size=0.06, iterations=5, steps=4, inner_steps=4),
    ),
    # The published hyper-parameters [Chen2019], for a GPU. How many epochs they trained is not known; these are ours.
    "paper": DefenseProfile(
        data="mnist", training_images=60_000, test_images=10_000, images=500, doubled_images=100, seeds=(0, 1, 2, 3, 4),
        network="madry_cnn", network_options={},
        natural_epochs=0, epochs=20, learning_rate=1e-4,
        epsilon=0.3, k_attacked=200, iterations=100, restarts=1, attack_steps=20, evaluation_steps=100,
        defenses=defenses(epsilon=0.3, step_size=0.01, iterations=40, steps=50, inner_steps=10),
    ),
}  # fmt: skip


class Material(NamedTuple):
    """Images, and how the networks are trained on them."""

    profile: DefenseProfile
    training: datasets.ImageDataset
    test: datasets.ImageDataset
    inputs: dict[str, Any]
    device: str


def prepare(profile: DefenseProfile, device: str) -> tuple[Material, dict[str, Any]]:
    """Load the images."""
    training = datasets.load(profile.data, split="train", limit=profile.training_images)
    test = datasets.load(profile.data, split="test", limit=profile.test_images)
    inputs = {
        split: {"data": data.source, "images_sha256": train.fingerprint(data.images)}
        for split, data in (("training", training), ("test", test))
    }
    return Material(profile, training, test, inputs, device), inputs


def pieces(profile: DefenseProfile, ready: Material) -> Iterator[Piece]:
    """List every defense seed by seed, then the attacks with other budgets."""
    settings = asdict(profile)
    defined = settings["defenses"]
    for name in ("seeds", "defenses", "images", "doubled_images", "budgets"):
        del settings[name]
    attacks = [(seed, 1, profile.images) for seed in profile.seeds]
    attacks += [(profile.seeds[0], budget, profile.doubled_images) for budget in profile.budgets]
    for seed, budget, count in attacks:
        shared = {**settings, "seed": seed, "budget": budget, "count": count, "inputs": ready.inputs}
        images = list(ready.test.files[: 2 * count])
        yield from ({**shared, "images": images, "defense": name, "defined": defined[name]} for name in defined)


def rows(piece: Piece, ready: Material) -> list[Row]:
    """Train a defense and attack it."""
    profile, training, test, _, device = ready
    name, seed, epsilon, runs = piece["defense"], piece["seed"], piece["epsilon"], _runs(piece)
    defense = profile.defenses[name]
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
        beta = suggest_beta(model, sample, predicted, betas=[2.0**power for power in range(-1, 11)])

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


STUDY = Study(COLUMNS, PROFILES, prepare, pieces, rows, cost=cost, tolerance=Tolerance(within=_TRAINED | _LOOSE))
