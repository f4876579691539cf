"""Every defense trained and attacked: accuracy, stability of the maps, cost; a row per defense and seed [Chen2019].

All networks of a seed begin with the same weights, trained naturally; each is then trained with its own loss. The maps
are integrated gradients of the label's logit with a black baseline, as in [Chen2019]. Attacked are images that the
network itself classifies correctly; one that no iterate leaves with its label counts as unchanged (1, 1, 1, 0 pixels).
Two attacks are run, one on the importance of the leading pixels as published, one on their order; of all iterates that
keep the label the one with the lowest Kendall's tau is taken.
"""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fragility import train
from fragility.attack import random_sign
from fragility.attribution import importance, integrated_gradients
from fragility.data import datasets
from fragility.defense.loss_attribution import each_loss
from fragility.defense.training import ascend
from fragility.similarity import center_shift, kendall, spearman, top_k_intersection
from fragility.study.defense_attack import attack
from fragility.study.defense_profile import Profile
from fragility.study.defense_training import trained, training_cost
from fragility.study.store import Columns, Piece, Plan, Recomputable, Row
from fragility.study.summary import summarise
from fragility.surrogate import suggest_beta

VERSION = 1  # to be raised with any change of what a row means; older rows then never mix with new ones

METRICS = (
    "natural_accuracy", "adversarial_accuracy", "top_k_intersection", "kendall", "spearman", "center_shift",
    "labels_kept", "cost",
)  # fmt: skip
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
        "sharpness of the softplus that the attack's gradient goes through; none where it is smooth",
    ),
    "natural_accuracy": (float, "share of test images classified correctly"),
    "adversarial_accuracy": (float, "the same after sign steps on the loss, on the candidates of the attack"),
    "labels_kept": (float, "share of attacked images with an iterate that keeps the label"),
    "top_k_intersection": (float, "share of the k most important pixels in common, before and after, mean over images"),
    "kendall": (float, "Kendall's tau of the maps, likewise"),
    "spearman": (float, "rank correlation of the maps, likewise"),
    "center_shift": (float, "distance of the centres of mass in pixels, likewise"),
    "top_k_intersection_kept": (float, "the mean over the images that kept their label alone"),
    "kendall_kept": (float, "likewise"),
    "kendall_by_top_k": (
        float,
        "mean tau after the attack on the top k alone, as it judges itself; unchanged counts 1",
    ),
    "kendall_by_kendall": (float, "the same after the attack on tau alone"),
    "noise_top_k_intersection": (float, "after one draw of random signs, label kept or not"),
    "noise_kendall": (float, "likewise"),
    "first_top_k_intersection": (float, "after the attack's first step, label kept or not"),
    "first_kendall": (float, "likewise"),
    "cost": (float, "of one training step, in forward passes of its batch"),
    "training_loss": (float, "mean over the last epoch"),
}
# With the networks at hand rows come out the same; trained anew on another machine, rounding errors grow all the way.
_TRAINED = {name: 0.1 for name, (kind, _) in COLUMNS.items() if kind is float and name not in ("epsilon", "cost")}
RECOMPUTABLE = Recomputable(
    within=_TRAINED | {"images": 20, "center_shift": 2.0, "training_loss": 0.3, "surrogate_beta": float("inf")}
)


def plan(profile: Profile, device: str = "cpu") -> Plan:
    """Load the images and list the pieces: a seed after the other, and at last the attacks with other budgets.

    Args:
        profile: what to compute.
        device: where.

    Returns:
        The plan.
    """
    training = datasets.load(profile.data, split="train", limit=profile.training_images)
    test = datasets.load(profile.data, split="test", limit=profile.test_images)
    inputs = {
        part: {"data": data.source, "images_sha256": train.fingerprint(data.images)}
        for part, data in (("training", training), ("test", test))
    }
    plain = asdict(profile)
    common = {
        key: value
        for key, value in plain.items()
        if key not in ("seeds", "defenses", "images", "doubled_images", "budgets")
    }
    everything = [(seed, 1, profile.images) for seed in profile.seeds]
    everything += [(profile.seeds[0], budget, profile.doubled_images) for budget in profile.budgets]
    pieces: list[Piece] = [
        {
            "version": VERSION,
            "first": 0,
            "seed": seed,
            "defense": name,
            "budget": budget,
            "count": count,
            "images": list(test.files[: 2 * count]),
            "inputs": inputs,
            "defined": plain["defenses"][name],
            **common,
        }
        for seed, budget, count in everything
        for name in profile.defenses
    ]
    return Plan(
        parameters=plain,
        inputs=inputs,
        columns=COLUMNS,
        pieces=pieces,
        compute=lambda piece: _compute(piece, profile, training, test, device),
        cost=lambda piece: _cost(piece, profile),
    )


def summary(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Average the rows of every defense over the seeds, with 95 % bootstrap intervals.

    Args:
        rows: from `fragility.study.store.read`.

    Returns:
        Per defense: n, the number of seeds, and the means of `METRICS` and of the two metrics under noise, with `_low`
        and `_high`.
    """
    return summarise(main(rows), ("defense",), (*METRICS, "noise_top_k_intersection", "noise_kendall"))


def ladder(rows: Sequence[Row]) -> list[Row]:
    """Pick the attacks that show whether the budget is enough: the same few images with one budget and with more.

    Args:
        rows: from `fragility.study.store.read`.

    Returns:
        Those rows, defense by defense with rising budget.
    """
    table = main(rows)
    chosen = [row for row in rows if not any(row is other for other in table)]
    return sorted(chosen, key=lambda row: (str(row["defense"]), int(row["budget"] or 0)))


def main(rows: Sequence[Row]) -> list[Row]:
    """Pick the rows of the table: of every defense and seed the one with most images.

    Args:
        rows: from `fragility.study.store.read`.

    Returns:
        Those rows.
    """
    most: dict[tuple[object, object], Row] = {}
    for row in rows:
        best = most.setdefault((row["defense"], row["seed"]), row)
        if row["budget"] == 1 and int(row["images"] or 0) > int(best["images"] or 0):
            most[row["defense"], row["seed"]] = row
    return list(most.values())


def moved(rows: Sequence[Row]) -> float:
    """Tell how far the last doubling of the budget moved a mean top-k intersection or Kendall's tau.

    Args:
        rows: from `fragility.study.store.read`.

    Returns:
        The largest change among the defenses; NaN where nothing was doubled.
    """
    climbs: dict[object, list[Row]] = {}
    for row in ladder(rows):
        climbs.setdefault(row["defense"], []).append(row)
    changes = [
        abs(float(last[metric] or 0) - float(before[metric] or 0))
        for *_, before, last in (climb for climb in climbs.values() if len(climb) > 1)
        for metric in ("top_k_intersection", "kendall")
    ]
    return max(changes, default=float("nan"))


def _compute(
    piece: Piece, profile: Profile, training: datasets.ImageDataset, test: datasets.ImageDataset, device: str
) -> list[Row]:
    seed, defense = piece["seed"], profile.defenses[piece["defense"]]
    model, loss = trained(profile, piece["defense"], seed, training, device)
    rows = [test.files.index(name) for name in piece["images"]]
    candidates, truth = test.images[rows].to(device), test.labels[rows].to(device)
    with torch.no_grad():
        right = (model(candidates).argmax(1) == truth).nonzero().flatten()[: piece["count"]]
    if len(right) == 0:
        raise ValueError(f"images: expected some that {piece['defense']} gets right, got none of {len(candidates)}")
    images, labels = candidates[right], truth[right]
    beta = None
    if defense.beta is None:
        sample = training.images[:32].to(device)
        with torch.no_grad():
            predicted = model(sample).argmax(1)
        beta = suggest_beta(model, sample, predicted, betas=[2.0**power for power in range(-1, 11)])
    evaluation = partial(integrated_gradients, steps=profile.evaluation_steps)
    before = importance(evaluation(model, images, labels))

    def metrics(changed: Tensor) -> dict[str, Tensor]:
        after = importance(evaluation(model, changed, labels))
        return {
            "top_k_intersection": top_k_intersection(before, after, profile.k),
            "kendall": kendall(before, after),
            "spearman": spearman(before, after),
            "center_shift": center_shift(before, after),
        }

    found = attack(
        model,
        images,
        labels,
        epsilon=profile.epsilon,
        iterations=profile.iterations * piece["budget"],
        restarts=_restarts(piece, profile),
        steps=profile.attack_steps,
        k=profile.k_attacked,
        surrogate_beta=beta,
        seed=seed,
    )
    generator = torch.Generator().manual_seed(seed)
    after, kept = metrics(found.images), found.labels_kept
    noise = metrics(random_sign(images, profile.epsilon, generator=generator))
    start = metrics(found.first)
    worst = ascend(
        lambda x: each_loss(model, x, truth), candidates, profile.epsilon, profile.epsilon / 8, 20, generator
    )
    return [
        {
            "defense": piece["defense"],
            "seed": seed,
            "budget": piece["budget"],
            "images": len(images),
            "iterations": profile.iterations * piece["budget"],
            "runs": 2 * (1 + _restarts(piece, profile)),
            "epsilon": profile.epsilon,
            "surrogate_beta": beta,
            "natural_accuracy": train.accuracy(model, test.images, test.labels),
            "adversarial_accuracy": train.accuracy(model, worst, truth),
            "labels_kept": kept.double().mean().item(),
            **{name: value.mean().item() for name, value in after.items()},
            "top_k_intersection_kept": after["top_k_intersection"][kept].mean().item(),
            "kendall_kept": after["kendall"][kept].mean().item(),
            "kendall_by_top_k": found.taus[0],
            "kendall_by_kendall": found.taus[1],
            "noise_top_k_intersection": noise["top_k_intersection"].mean().item(),
            "noise_kendall": noise["kendall"].mean().item(),
            "first_top_k_intersection": start["top_k_intersection"].mean().item(),
            "first_kendall": start["kendall"].mean().item(),
            "cost": training_cost(defense, model, candidates, truth),
            "training_loss": loss,
        }
    ]


def _restarts(piece: Piece, profile: Profile) -> int:
    runs: int = (1 + profile.restarts) * piece["budget"] - 1
    return runs


def _cost(piece: Piece, profile: Profile) -> float:
    """Gradient passes through the network, roughly."""
    options = piece["defined"]["options"]
    inner = options.get("iterations", 0) * options.get("inner_steps", 0.5) * 2 + options.get("steps", 1) * 2
    training = 0.0 if piece["count"] == profile.doubled_images else profile.epochs * profile.training_images * inner
    runs = 2 * (1 + _restarts(piece, profile)) * profile.iterations * piece["budget"]
    return float(training + piece["count"] * runs * (4 * profile.attack_steps + 6))
