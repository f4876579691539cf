"""The rules of T1 to T3, of Deep Taylor and LRP, and of S1 to S3, sanity checks of maps [Adebayo2018]."""

from itertools import product
from typing import Any

import pandas as pd
import torch
from torch import nn

from fragility.attribution import lrp, simple_gradient
from fragility.study.attacks import evidence
from fragility.study.attacks.evidence import AGREEMENTS, IMAGENET, KEY, LARGE, METHODS, SMALL, hundred
from fragility.study.verdict import Finding, Measure, Tables, at_least, at_most, exact, present
from fragility.titles import TITLES

LIMIT = 1e-10


def relevance_identities(_tables: Tables) -> Finding:
    """T1: Deep Taylor's relevances are positive and sum to the score; LRP-0 is gradient times input; both exact."""
    draws = torch.Generator().manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2, 1), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(72, 6)).double()
    for part in model.parameters():
        size = (2 / part[0].numel()) ** 0.5 if part.ndim > 1 else 0.3
        part.data = size * torch.randn(part.shape, generator=draws, dtype=torch.float64)
    model.requires_grad_(False).eval()
    x, y = torch.rand(16, 3, 8, 8, generator=draws, dtype=torch.float64), torch.arange(16) % 6
    score = model(x)[range(16), y]
    taylor, zero = (lrp(model, x, y, rules=rules) for rules in ("deep_taylor", "zero"))
    small = nn.Linear(2, 1).double().eval()
    small.weight.data, small.bias.data = torch.tensor([[2.0, -4.0]]).double(), torch.tensor([8.0]).double()
    by_hand = torch.tensor([[2.0, 6.0]]).double()  # contributions 1 and 3 share a score of 8
    pixels = lrp(small, torch.tensor([[0.5, 0.25]]).double(), torch.tensor([0]), rules="deep_taylor")
    errors = {
        "Deep Taylor sums to the score": taylor.sum((1, 2, 3)) - score,
        "Deep Taylor has the score's sign": (-taylor * score.sign().view(-1, 1, 1, 1)).clamp(min=0),
        "LRP-0 is gradient times input": zero - x * simple_gradient(model, x, y),
        "z-box of two pixels is what it is by hand": pixels - by_hand,
    }
    return Finding([exact(name, error.abs().max().item(), LIMIT) for name, error in errors.items()], exact=True)


def deep_taylor_resists_noise(tables: Tables) -> Finding:
    """T2: noise of 2/255 and 8/255 leaves Deep Taylor .1 more than the simple gradient; the published means agree."""
    one, other = "deep_taylor", METHODS[0]
    used = [(method, noise, epsilon) for method, noise, epsilon in product(
        (one, other), evidence.NOISES, (SMALL, LARGE))]  # fmt: skip
    rows = present(evidence.select(tables, (IMAGENET,), used, KEY))
    measures, means, facts = [], [], {}
    for epsilon in (SMALL, LARGE):
        # The same kind of noise for both: the walk, if Deep Taylor has it.
        kind = evidence.noise(rows, one, epsilon)
        means += [(one, kind, epsilon, metric) for metric in AGREEMENTS]
        for metric in AGREEMENTS:
            ours, theirs = evidence.pairs(rows, metric, [(one, kind, epsilon), (other, kind, epsilon)])
            name = f"{TITLES[metric]} at {epsilon:g}/255: how much more is left of Deep Taylor than of the gradient"
            measures.append(at_least(name, ours - theirs, 0.1))
            if (metric, epsilon) == (AGREEMENTS[0], SMALL) and len(ours):
                facts = {"ours": hundred(ours.mean()), "theirs": hundred(theirs.mean())}
    doubts = evidence.few_kept(
        rows, [key for key in used if key in set(zip(*(rows[name] for name in KEY), strict=True))]
    )
    if not any(kind == "random_walk" for _, kind, _, _ in means):
        doubts.append("by one draw, where the published noise is the best step of a walk")
    equality = evidence.equality(rows, tables["published"], means)
    notes = evidence.means(rows)
    return Finding(measures, equality, doubts, notes, facts=facts or None, setting=evidence.setting(rows))


def _rows(tables: Tables, method: str, layers: str) -> Any:
    found = present(tables["sanity"].query("setup == @IMAGENET"))
    return found[(found.method == method) & (found.layers == layers)].spearman


def upper_layers_ignored(tables: Tables) -> Finding:
    """T3: with the upper half of the layers at random, Deep Taylor's maps keep a rank correlation of .9."""
    kept = _rows(tables, "deep_taylor", "the upper half")
    others = {name: _rows(tables, name, "the upper half") for name in ("simple_gradient", "lrp")}
    notes = [f"{TITLES[name]}: {values.mean():.2f}" for name, values in others.items() if len(values)]
    facts = {"kept": float(kept.mean()), "gradient": float(others["simple_gradient"].mean())} if len(kept) else None
    return Finding([at_least("rank correlation, upper half at random", kept, 0.9)], notes=notes, facts=facts,
                   setting=_setting(tables))  # fmt: skip


def gradients_forget(tables: Tables) -> Finding:
    """S1: with all layers at random, the absolute gradient's map correlates with the trained one's by .1 at most."""
    left = _rows(tables, METHODS[0], "all")
    return Finding([at_most("rank correlation, all layers at random", left, 0.1)], setting=_setting(tables),
                   facts={"left": float(left.mean())} if len(left) else None)  # fmt: skip


def input_factor_persists(tables: Tables) -> Finding:
    """S2: with all layers at random integrated gradients keep .9, and without their input factor .3 at most."""
    whole, factor = (_rows(tables, name, "all") for name in ("integrated_gradients", "averaged_gradient"))
    measures: list[Measure] = [
        at_least("rank correlation of integrated gradients", whole, 0.9),
        at_most("rank correlation of the averaged gradient alone", factor, 0.3),
    ]
    facts = {"whole": float(whole.mean()), "factor": float(factor.mean())} if len(whole) else None
    return Finding(measures, facts=facts, setting=_setting(tables))


def labels_matter(tables: Tables) -> Finding:
    """S3: two networks on the same labels have maps .1 more alike than one of them and one on random labels."""
    found: pd.DataFrame = present(tables["random_labels"])
    gain = (found.same - found.other).to_numpy(float)
    facts = {"same": float(found.same.mean()), "other": float(found.other.mean())}
    notes = [
        f"accuracy on the training images {found.true_accuracy.mean():.3f}, with random labels "
        f"{found.random_accuracy.mean():.3f}"
    ]
    setting = {"network": "four-layer CNN", "data": "digits", "training images": int(found.training_images.max())}
    return Finding([at_least("rank correlation, same labels less random ones", gain, 0.1)], notes=notes, facts=facts,
                   setting=setting)  # fmt: skip


def _setting(tables: Tables) -> dict[str, Any]:
    count = tables["sanity"].query("setup == @IMAGENET").image.nunique()
    return {"network": "SqueezeNet", "data": "ImageNet", "images": [count]}
