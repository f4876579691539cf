"""The rules of the claims I1 to I10, about influence functions."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_breast_cancer
from torch.nn.functional import pad

from fragility.influence.last_layer import LastLayerInfluence
from fragility.study.influence.bregman import bregman_response
from fragility.study.verdict import KEPT, Equality, Finding, at_least, at_most, equivalent, exact, paired, positive

L2 = 1e-2  # damping at which influence is judged
LARGE = 8.0  # epsilon, of 255
ROUNDED = 0.5  # change of a training image, of 255, that an 8-bit file does not see
CORRELATION = (0.86, 0.10)  # published, of influence and retraining, and how near ours has to come
FLIPPED = (0.57, 0.15)  # the same of the share of test images flipped
IMAGE = 0.5  # of five, a difference that matters
AREA = 0.01  # by how much one area under a curve has to beat another

Tables = Mapping[str, pd.DataFrame]


def influence_attack(tables: Tables) -> Finding:
    """I1: noise keeps a rank correlation of .95, the attack loses .2 and 2 of the top 5 more."""
    judged = tables["influence_attack"].query("l2 == @L2")
    names, measures, notes, doubts, left = ("random", "eq2", "confidence"), [], [], [], []
    for epsilon, rows in judged.groupby("epsilon"):
        ranks, overlap = (paired(rows, value, "condition", names) for value in ("spearman", "top5_overlap"))
        part, lost = f"{epsilon:g}/255", 5 * (overlap[0] - overlap[1])
        measures += [
            at_least(f"{part}: rank correlation after noise", ranks[0], 0.95, part=part),
            at_least(f"{part}: rank correlation after noise, less that after the attack", ranks[0] - ranks[1], 0.2,
                     part=part),
            at_least(f"{part}: images of the top 5 lost by the attack, less those lost by noise", lost, 2,
                     margin=IMAGE, part=part),
        ]  # fmt: skip
        if ranks.size:
            means = [f"{mean:.3f}" for mean in ranks.mean(1)]
            left.append(f"{means[0]} and {means[1]} at {part}")
            notes.append(f"{part}: raising the confidence only leaves a rank correlation of {means[2]}")
        shares = rows.groupby("condition").labels_kept.mean().reindex(names)
        kept = rows[rows.labels_kept].groupby("condition").spearman.mean()
        lossy = ", ".join(f"{name} {shares[name]:.1%}, {kept[name]:.3f}" for name in names if shares[name] < 1)
        notes += [f"{part}: labels kept, and the rank correlation of those images alone: {lossy}"] if lossy else []
        doubts += [f"{part}: few labels kept ({shares.eq2:.0%})"] if shares.eq2 < KEPT else []
    facts = {"left": ", ".join(left)} if left else None
    return Finding(measures, doubts=doubts, notes=notes, facts=facts, setting=_setting(judged))


def influence_reversed(tables: Tables) -> Finding:
    """I2: some images keep their label and end at a rank correlation of .1, some of -.5 or less, in both precisions."""
    rows = tables["influence_attack"].query("l2 == @L2 and epsilon == @LARGE and condition == 'eq2' and labels_kept")
    unlike, reversed_ = (rows.spearman <= 0.1).to_numpy(), (rows.spearman <= -0.5).to_numpy()
    measures = [
        positive("share of images with rank correlation <= .1", unlike),
        positive("share of images with rank correlation <= -.5", reversed_),
        at_most("difference between single and double precision", (rows.spearman - rows.spearman_float32).abs(), 0.05),
    ]
    notes = [f"lowest rank correlation {rows.spearman.min():.2f}"] if len(rows) else []
    facts = {"attacked": len(rows), "unlike": unlike.sum(), "reversed": reversed_.sum()}
    return Finding(measures, notes=notes, facts=facts, setting=_setting(rows))


def leave_one_out(tables: Tables) -> Finding:
    """I3: influence and leave-one-out retraining correlate as was published, .86 +- .10, test image by test image."""
    rows, (published, margin) = tables["leave_one_out"], CORRELATION
    corrected = rows.r_corrected.mean()
    return Finding(
        [at_least("correlation, first order, mean of the test images", rows.r, published - margin, margin=0)],
        Equality(int(len(rows) > 1 and equivalent(rows.r, published, margin)), 1),
        notes=[f"with the leverage correction, which is ours, {corrected:.3f}"],
        facts={"r": rows.r.mean(), "published": published},
        setting=_setting(rows),
    )


def size_of_the_change(tables: Tables) -> Finding:
    """I3b: the change of the loss is what influence says, a slope from .9 to 1.1, test image by test image."""
    rows = tables["leave_one_out"]
    name = "slope of retraining on influence, first order"
    measures = [at_least(name, rows.slope, 0.9), at_most(name, rows.slope, 1.1)]
    corrected = at_most("", rows.slope_corrected, 1.1)
    note = f"divided by one less the leverage {corrected.value:.2f} [{corrected.low:.2f}, {corrected.high:.2f}]"
    return Finding(measures, notes=[note], facts={"slope": rows.slope.mean()}, setting=_setting(rows))


def wrong_labels(tables: Tables) -> Finding:
    """I4: the area under the curve of flips found is larger by .01 by self-influence than by loss and by chance."""
    rows = tables["mislabel"].query("l2 == @L2")
    names = ("self_influence", "loss", "random", "leverage")
    areas = paired(rows, "auc", "order", names)
    gain = areas[0] - np.maximum(areas[1], areas[2])
    measures = [at_least("area under the curve: self-influence less the better of loss and chance", gain, AREA)]
    means = {name: area.mean() for name, area in zip(names, areas, strict=True) if len(area)}
    note = ", ".join(f"{name} {mean:.3f}" for name, mean in means.items())
    setting = _setting(rows)
    setting["draws"] = setting.pop("images")  # of the labels that are made wrong
    return Finding(measures, notes=[f"areas: {note}"], facts=means or None, setting=setting)


def flipped_predictions(tables: Tables) -> Finding:
    """I5: one training image changed within 8-bit rounding flips test images after training, 57 % of them +- 15."""
    rows = tables["poisoning"].query("l2 == @L2")
    within = rows[rows.epsilon == ROUNDED]
    flips, notes = within.flipped.to_numpy(dtype=bool), []
    for epsilon, part in rows.groupby("epsilon"):
        lost = part.confidence_before - part.confidence_after
        notes.append(
            f"within {epsilon:g}/255: {part.flipped.sum()} of {len(part)} flipped; the confidence falls by "
            f"{lost.mean():.2g} on average and by {lost.max():.2g} at most"
        )
    if flips.any():
        surer = (within.confidence_before > within.confidence_before[flips].median()).sum()
        image = within.training_image.value_counts()
        notes.append(
            f"{surer} of {len(within)} test images are surer than half of those that flip; {image.max()} times one "
            "and the same training image is changed"
        )
    measures = [positive("share of test images flipped, 0.5/255", flips)]
    equality = Equality(int(len(flips) > 1 and equivalent(flips, *FLIPPED)), 1)
    facts = {"flipped": flips.sum(), "tried": len(flips), "published": FLIPPED[0]}
    setting = _setting(within) | {"steps": [within.most_iterations.max()]}
    return Finding(measures, equality, notes=notes, facts=facts, setting=setting)


def deeper_networks(tables: Tables) -> Finding:
    """I6: what influence lacks of the correlation that retraining noise allows grows with depth and with less decay."""
    rows = tables["depth"]
    whole = rows[rows.groupby("image")["r"].transform("size") == len(rows[["depth", "decay"]].drop_duplicates())]
    if whole.empty:
        return Finding()
    lacking = (whole.ceiling - whole.r).groupby([whole.image, whole.depth, whole.decay], sort=False).mean()
    depths, decays = sorted(set(whole.depth)), sorted(set(whole.decay))

    def trend(factor: str, less: float, more: float) -> Any:
        table = lacking.groupby(["image", factor], sort=False).mean().unstack()
        return (table[more] - table[less]).to_numpy()

    trends = {
        f"from {depths[0]} to {depths[-1]} hidden layers": trend("depth", depths[0], depths[-1]),
        f"from decay {decays[-1]:g} to {decays[0]:g}": trend("decay", decays[-1], decays[0]),
    }
    measures = [positive(f"correlation lost beyond noise, {name}", values) for name, values in trends.items()]
    converged = rows.converged.mean()
    doubts = [f"few trainings converged ({converged:.0%})"] if converged < KEPT else []
    means = whole.groupby(["depth", "decay"])[["r", "ceiling"]].mean()
    notes = [
        f"{d} hidden: "
        + "; ".join(
            f"decay {c:g}: r {means.r[d, c]:.2f} of at most {means.ceiling[d, c]:.2f}" for c in reversed(decays)
        )
        for d in depths
    ]
    lost, fading = (measure.value for measure in measures)
    facts = {"shallow": depths[0], "deep": depths[-1], "lost": lost, "fading": fading}
    setting = {"network": f"16 inputs, {depths[0]} to {depths[-1]} hidden layers of 6", "draws": whole.image.nunique()}
    return Finding(measures, doubts=doubts, notes=notes, facts=facts, setting=setting)


def sets_of_images(tables: Tables) -> Finding:
    """I7: for random sets of 10, retraining has a slope of .9 to 1.1 on rescaled influence, and not on influence."""
    rows = tables["leave_sets_out"].query("size == 10 and sets >= 50")
    drawn, alike = (rows[rows.chosen == chosen] for chosen in ("random", "alike"))
    if len(drawn) < 2:
        return Finding()
    name, plain = "slope of retraining on rescaled influence", "slope of retraining on influence, outside .9 to 1.1"
    measures = [at_least(name, drawn.slope_rescaled, 0.9), at_most(name, drawn.slope_rescaled, 1.1)]
    measures.append(at_least(plain, drawn.slope, 1.1) if drawn.slope.mean() > 1 else at_most(plain, drawn.slope, 0.9))
    facts = {"slope": drawn.slope.mean(), "rescaled": drawn.slope_rescaled.mean()}
    notes = [f"correlations {drawn.r.mean():.3f}, rescaled {drawn.r_rescaled.mean():.3f}"]
    if len(alike):
        slopes = f"{alike.slope.mean():.2f}, rescaled {alike.slope_rescaled.mean():.2f}"
        notes.append(f"sets of images that are alike: slopes {slopes}")
    return Finding(measures, notes=notes, facts=facts, setting=_setting(rows))


def proximal_bregman(tables: Tables) -> Finding:
    """I8: with the training's own penalty the proximal Bregman response is leave-one-out retraining, to 1e-4."""
    table = load_breast_cancer(return_X_y=True)
    features, labels = (torch.from_numpy(part) for part in table)
    features, l2 = (features - features.mean(0)) / features.std(0), 1e-2
    layer = LastLayerInfluence(features, labels, l2=l2, num_classes=2)
    without = int(layer.self_influence().argmax())
    moved = layer.retrained(without) - layer.theta

    def off(penalty: float) -> float:
        response = bregman_response(pad(features, (0, 1), value=1.0), labels, layer.theta, without, penalty)
        return float((response - layer.theta - moved).norm() / moved.norm())

    measures = [exact("distance from retraining, relative to how far that moves", off(l2), 1e-4)]
    notes = [f"at ten times the training's penalty {off(10 * l2):.2g}"]
    return Finding(measures, notes=notes, exact=True)


def trainers(tables: Tables) -> Finding:
    """I9: some training images can be brought into the top 3 of a test image, at a point of accuracy at most."""
    rows = tables["manipulated_influence"].query("who == 'trainer'")
    moved = (rows.after <= 3) & (rows.before > 3) & (rows.accuracy_lost <= 0.01)
    measures = [positive("share of chosen images in the top 3, accuracy -1 at most", moved)]
    notes, there = ["the attack was chosen on digits and on a table, not on these images"], rows[moved]
    if len(there):
        undone, top = (rows.undone == rows.before).sum(), (rows.after <= 3).sum()
        notes += [
            f"{top} of {len(rows)} whatever accuracy is lost",
            f"median rank {there.before.median():g} before, {there.after.median():g} after",
            f"the parameters move by {there.change.mean():.2f} of their norm",
            f"trained on to its minimum, the layer gives {undone} of {len(rows)} images their old rank",
        ]
    return Finding(measures, notes=notes, facts={"moved": len(there), "tried": len(rows)}, setting=_setting(rows))


def contributors(tables: Tables) -> Finding:
    """I10: images changed by 8/255 before training double a contributor's share of the pay."""
    rows = tables["manipulated_influence"]
    attacked, noise = (rows[rows.who == who] for who in ("contributor", "noise"))
    twice = attacked.after - 2 * attacked.before
    measures = [at_least("share of the pay with changed images, less twice the honest one", twice, 0, margin=0.01)]
    notes = []
    if len(noise) and len(attacked):
        ratio = attacked.after.mean() / attacked.before.mean()
        notes.append(f"{ratio:.2f} times the share; {noise.after.mean() / noise.before.mean():.2f} with random signs")
        notes.append(f"accuracy lost on the test images: {attacked.accuracy_lost.mean():.3f}")
    facts = dict(100 * attacked[["before", "after"]].mean())
    return Finding(measures, notes=notes, facts=facts, setting=_setting(attacked))


def _setting(rows: pd.DataFrame) -> dict[str, Any]:
    """With what the rows were computed."""
    if rows.empty:
        return {}
    names = {"training images": "training_images", "epsilon": "epsilon", "l2": "l2"}
    spans = {title: sorted(set(rows[name])) for title, name in names.items() if name in rows}
    network = f"a linear layer on the features of {', '.join(sorted(set(rows.network)))}" if "network" in rows else ""
    data = {"data": "roses and sunflowers"} if network else {}
    inputs = rows.attrs.get("inputs", {})
    trained = {"training images": inputs["training_images"]} if "training_images" in inputs else {}
    return {"network": network} | data | {"images": rows.image.nunique()} | trained | spans
