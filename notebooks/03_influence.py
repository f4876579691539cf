# %% [markdown]
# # Influence functions
#
# An [importance map](../book/glossary.md#importance-map) says which *pixels* made the network decide. [Influence](../book/glossary.md#influence) says which *training images* did: how much would the
# loss at this test picture change, had the network never seen that one? Nobody retrains a thousand networks to
# find out. A formula with one linear solve answers for all of them at once. This chapter derives it, computes it exactly, checks it against
# retraining, uses it to find wrong labels, and then attacks it.
#
# **After this chapter you can**
#
# - derive influence by upweighting, and write it in ten lines for the last layer of a network;
# - check it against [leave-one-out retraining](../book/glossary.md#leave-one-out), with the slope and not only the correlation;
# - attack it through the test image or through a training image, and tell an attack's effect from rounding noise.
#
# | in class | to run at `fast` | at `laptop` | at `paper` |
# |---|---|---|---|
# | 60 minutes | under a minute ([seconds](../book/status.md)) | not timed yet | not timed yet; needs Inception's weights |

# %% tags=["remove-cell"]
# On Colab this installs the package and keeps Colab's own PyTorch;
# elsewhere it does nothing.
import sys

if "google.colab" in sys.modules:
    import subprocess

    source = "fragility[data] @ git+https://github.com/OWNER/fragility"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", source],
        check=True,
    )

# %% tags=["parameters"]
profile: str = "fast"  # two digits; laptop, paper: roses and sunflowers
seed: int = 0  # flipped labels, random signs, small networks

# %% tags=["remove-cell"]
import textwrap
from functools import partial
from itertools import pairwise

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn.functional import cross_entropy, pad

from fragility import chapter, plot
from fragility.attack import random_sign
from fragility.influence import LastLayerInfluence
from fragility.influence.attack import (
    lower_influence,
    sign_attack,
    training_attack,
)
from fragility.interval import mean_interval
from fragility.similarity import spearman, top_k_intersection
from fragility.influence.whole_network import (
    conjugate_gradient,
    direct,
    lissa,
    network_influence,
)
from fragility.study.influence import influence_attack as study
from fragility.study.influence.setup import SOURCES, load, prepare

torch.set_flush_denormal(True)
from fragility.study.store import provenance, stored

device = chapter.start(profile=profile, seed=seed)

# %% [markdown]
# ## A frozen network and a last layer
#
# As in the paper, the features $\phi(x)$ of a network are frozen and only a last layer is trained on them, to tell two classes
# apart. At `fast` these are threes and eights and the features of the small digits network; at `laptop` roses and sunflowers, the paper's
# own data, with SqueezeNet's features.
#
# The last layer is fitted to its minimum by Newton's method, in double precision, with a penalty on its parameters $\theta$ (a bias is
# among the features):
#
# $$L(\theta) = \frac1n \sum_{i=1}^n \ell(\theta\phi_i, y_i) + \frac{\lambda}{2}\|\theta\|^2.$$

# %%
settings = study.PROFILES[profile]
ready, _ = prepare(settings.source, device)
training, test = load(settings.source, "train"), ready.images
features, labels = ready.training, ready.labels
l2 = 1e-2
layer = LastLayerInfluence(features, labels, l2=l2, num_classes=2)


def accuracy(layer):
    right = (
        layer.logits(ready.validation).argmax(1)
        == ready.validation_labels
    )
    return right.double().mean().item()


test_features = ready.test
# what is explained is the prediction
test_labels = layer.logits(test_features).argmax(1)
print(
    f"{len(features)} training images, {features.shape[1]} features, {len(test)} test images"
)
print(
    f"validation accuracy {accuracy(layer):.3f} on {len(ready.validation_labels)} images"
)

# %% [markdown]
# ## What influence is
#
# Give training image $i$ the weight $\frac1n + \varepsilon$. The minimum moves, and because the gradient of the loss stays zero there, the
# implicit function theorem says how fast ([Cook and Weisberg 1982](../book/bibliography.md); [Koh and Liang 2017](../book/bibliography.md)):
#
# $$\mathcal I_{\text{up,params}}(i) = \frac{d\hat\theta}{d\varepsilon} = -H^{-1} g_i, \qquad g_i = \nabla_\theta \ell_i .$$
#
# The chain rule carries it to the loss at a test image $t$:
#
# $$\mathcal I_{\text{up,loss}}(i, t) = -g_t^\top H^{-1} g_i .$$
#
# To leave the image out is $\varepsilon = -\frac1n$. Throughout this book, *influence* is the resulting change of the test loss,
#
# $$\mathrm{infl}(i, t) = \tfrac1n\, g_t^\top H^{-1} g_i ,$$
#
# positive for an image that *helps*: without it the test loss would rise. The paper's eq. 1 is $\mathcal I_{\text{up,loss}}$, with the opposite
# sign. In $g_i$ stands the loss of image $i$ alone, without the penalty; putting the penalty in adds one constant per test image, which keeps
# all ranks and flips signs.
#
# For a softmax layer $g = (p - e_y)\,\phi^\top$, and everything is in closed form. Ten lines by automatic differentiation, without any closed form:

# %%
few = slice(0, 2)
inputs, tests = (
    pad(part.double(), (0, 1), value=1.0)
    for part in (features, test_features[few])
)


def loss(theta):
    return (
        cross_entropy(inputs @ theta.view(2, -1).T, labels)
        + l2 / 2 * theta.square().sum()
    )


def losses(theta, x, y):
    return cross_entropy(x @ theta.view(2, -1).T, y, reduction="none")


theta = layer.theta.flatten()
H = torch.autograd.functional.hessian(loss, theta)
g_train = torch.autograd.functional.jacobian(
    lambda t: losses(t, inputs, labels), theta
)
g_test = torch.autograd.functional.jacobian(
    lambda t: losses(t, tests, test_labels[few]), theta
)
by_hand = g_test @ torch.linalg.solve(H, g_train.T) / len(labels)

# (test images, training images)
influence = layer.influence(test_features, test_labels)
error = (by_hand - influence[few]).abs().max() / by_hand.abs().max()
print(f"agrees with the package to 1e-10: {bool(error < 1e-10)}")

# %% [markdown]
# ## The training images behind a prediction

# %% mystnb={"figure": {"caption": "Test images with their three most helpful and three most harmful training images. Below each, its influence in thousandths of a nat.", "name": "influential"}, "image": {"alt": "Three rows, each a test picture followed by six training pictures, three that help and three that harm."}} tags=["hide-input"]
shown = (influence.abs().amax(1)).topk(3).indices
order = influence[shown].argsort(1, descending=True).cpu()
columns, notes = {"test": test.images[shown.cpu()]}, {}
for title, places in (("helps", (0, 1, 2)), ("harms", (-1, -2, -3))):
    for number, place in enumerate(places, 1):
        name = f"{title} {number}"
        columns[name] = training.images[order[:, place]]
        notes[name] = [
            f"{1000 * influence[t, i].item():+.2f}"
            for t, i in zip(shown, order[:, place], strict=True)
        ]
plot.grid(
    columns,
    rows=[test.class_names[k] for k in test_labels[shown].tolist()],
    notes=notes,
)
plt.show()

# %% [markdown]
# Two factors make a training image influential: a large residual $p_i - e_{y_i}$ and features that $H^{-1}$ finds similar. Hard images near the boundary have
# the first for every test image, and so come up again and again. *Relative* influence ([Barshan et al. 2020](../book/bibliography.md)) divides by how much an image moves its own loss
# (last exercise).
#
# ## Is it true?
#
# The formula predicts the outcome of an experiment that can be done here: leave the image out, train the last layer again to its minimum, and look at the test
# loss. A first-order formula uses the [Hessian](../book/glossary.md#hessian) with the image still in it. One Newton step of the problem *without* the image divides
# by one minus its [leverage](../book/glossary.md#leverage) $h_i$; for two classes
#
# $$\mathrm{infl}^{\text{corrected}}(i, t) = \frac{\mathrm{infl}(i, t)}{1 - h_i}, \qquad h_i = \tfrac1n\, w_i\, \phi_i^\top H^{-1} \phi_i .$$
#
# The correction costs nothing.
#
# **Predict.** Plain influence leaves the image in the Hessian that is to tell what its absence does. Will it promise too large a change or too small a
# one? Will the correlation between promise and truth notice?

# %% mystnb={"figure": {"caption": "Predicted against true change of the test loss when one training image is left out and the layer is trained again. Left: influence. Right: divided by one minus the leverage. Dashed: equality.", "name": "leave-one-out"}, "image": {"alt": "Two scatter plots along a diagonal; on the left the points leave the dashed line where changes are large, on the right they follow it more closely."}} tags=["hide-input"]
asked = slice(0, 8)
left_out = torch.arange(len(labels))[
    :: 2 if profile == "fast" else 20
].to(device)
truth = layer.leave_one_out(
    test_features[asked], test_labels[asked], left_out
).cpu()
agreement = {}
figure, panels = plt.subplots(1, 2, figsize=(8.2, 3.6), sharey=True)
for axes, corrected in zip(panels, (False, True), strict=True):
    predicted = layer.influence(
        test_features[asked], test_labels[asked], corrected=corrected
    )[:, left_out].cpu()
    x, y = predicted.flatten(), truth.flatten()
    slope = ((x - x.mean()) * y).sum() / (x - x.mean()).square().sum()
    agreement[corrected] = (
        torch.corrcoef(torch.stack([x, y]))[0, 1].item(),
        slope.item(),
    )
    axes.plot(x, y, ".", markersize=4, alpha=0.5)
    axes.axline((0, 0), slope=1, color="k", linestyle="--", linewidth=1)
    axes.set(
        title="leverage corrected" if corrected else "influence",
        xlabel="predicted change of the loss",
    )
panels[0].set_ylabel("change after retraining")
plt.show()

# %% tags=["nbval-check-output", "hide-input"]
rows = [
    [
        "leverage corrected" if corrected else "influence",
        f"{r:.3f}",
        f"{slope:.2f}",
    ]
    for corrected, (r, slope) in agreement.items()
]
chapter.Table(
    [
        f"{truth.numel()} pairs",
        "Pearson r",
        "slope of truth on prediction",
    ],
    rows,
)

# %% [markdown] tags=["answer", "solution"]
# <details><summary><b>Answer</b></summary>
#
# Too small: an image in the training set holds the fit in place, and the Hessian still counts that grip. So the slope of truth on prediction lies above one
# in the first row, and nearer to one in the second. A correlation is the same for a prediction and for half of it, which is why this table has two columns.
#
# </details>

# %% [markdown]
# Koh and Liang report a correlation of .86 for a convolutional network. The last layer alone is a convex problem, and the agreement here is a statement about
# that problem only. How far the leverages are from zero decides how wrong the first-order size is: with fewer images than features
# they can approach one, and the slope of plain influence leaves one by far (first exercise). What the correction leaves over is the curvature of the
# loss beyond second order: one Newton step is not a whole retraining when a single image matters much.
#
# ## Finding wrong labels
#
# Flip a tenth of the training labels. Somebody has time to check the images one by one; in which order? Koh and Liang's answer: by
# [*self-influence*](../book/glossary.md#self-influence), how much an image lowers its own loss. Compare with the plain training loss, the leverage, and chance.

# %% tags=["hide-input"]
seeds = range(10)
shares = torch.linspace(0, 1, 41)
found = {
    name: []
    for name in (
        "self-influence",
        "training loss",
        "leverage",
        "chance",
    )
}
auc = {name: [] for name in found}
for trial in seeds:
    generator = torch.Generator().manual_seed(1000 * seed + trial)
    flipped = torch.randperm(len(labels), generator=generator)[
        : len(labels) // 10
    ]
    wrong = labels.clone()
    wrong[flipped] = 1 - wrong[flipped]
    fitted = LastLayerInfluence(features, wrong, l2=l2, num_classes=2)
    scores = {
        "self-influence": fitted.self_influence(),
        "training loss": cross_entropy(
            fitted.logits(features), wrong, reduction="none"
        ),
        "leverage": fitted.leverage(),
        "chance": torch.rand(len(labels), generator=generator),
    }
    is_flipped = torch.zeros(len(labels)).index_fill_(0, flipped, 1.0)
    for name, score in scores.items():
        hits = pad(
            is_flipped[score.cpu().argsort(descending=True)].cumsum(0),
            (1, 0),
        ) / len(flipped)
        found[name].append(hits[(shares * len(labels)).round().long()])
        auc[name].append(hits.mean().item())

# %% mystnb={"figure": {"caption": "Share of the flipped labels found against the share of training images checked, in the order given by four scores. Bands are 95 % intervals over ten draws of flips.", "name": "mislabels"}, "image": {"alt": "Two curves rise steeply and together, for self-influence and training loss; the leverage lies below them, chance on the diagonal."}} tags=["hide-input"]
figure, axes = plt.subplots(figsize=(5.6, 3.6))
for name, curves in found.items():
    plot.curve(
        axes,
        shares.tolist(),
        torch.stack(curves, 1),
        label=name,
        style={
            "markevery": [],
            "linestyle": "--" if name == "training loss" else "-",
        },
    )
axes.set(
    xlabel="share of images checked", ylabel="share of flips found"
)
axes.legend(fontsize=9)
plt.show()

# %% tags=["nbval-check-output", "hide-input"]
area = {
    name: torch.tensor(values, dtype=torch.float64)
    for name, values in auc.items()
}
gain = mean_interval(
    area["self-influence"]
    - torch.maximum(area["training loss"], area["chance"])
)
rows = [
    [name, *(f"{value:.3f}" for value in mean_interval(values))]
    for name, values in area.items()
]
display_gain = [f"{value:+.3f}" for value in gain]
rows.append(
    [
        "self-influence minus the better of loss and chance",
        *display_gain,
    ]
)
chapter.Table(["area under the curve", "mean", "from", "to"], rows)

# %% [markdown]
# The last line is the statistic of claim I4: its interval has to lie above zero for influence to be *better* than simply looking at the
# loss. Whatever the sign, the distance between the two upper curves is small against their distance to chance: an image with a large
# residual is found by both.
#
# ## The attack
#
# Now perturb the test image, $\|\delta\|_\infty \le \epsilon$, one step along a sign (the paper's eq. 2). $S$ are the three most influential
# training images, and $u_i = H^{-1} g_i$ does not depend on the test image:
#
# $$\delta = -\epsilon\, \mathrm{sign}\Bigl(\nabla_{x}\, \sum_{i \in S} g_t(x)^\top u_i \Bigr).$$
#
# Two details decide whether this does what it should. The *sign*: eq. 1 carries a minus, and $+\mathrm{sign}(\nabla \mathcal I)$ as printed
# would raise helpfulness; here the sum of helpful influences is to go down. And the *label* $y_t$ in $g_t$ is fixed to the prediction
# before the attack, or a flip would reverse all signs. The gradient is a formula in feature space followed by one backward pass
# through the network.

# %%
epsilons = [
    e / 255
    for e in (
        (13.0, 26.0, 51.0)
        if profile == "fast"
        else (1.0, 2.0, 4.0, 8.0)
    )
]
attacked_images = slice(0, 24)
images = test.images[attacked_images].to(device)
phi, y = test_features[attacked_images], test_labels[attacked_images]
before = layer.influence(phi, y)
top = before.topk(3).indices

x = images.clone().requires_grad_()
summed = layer.influence(ready.backbone(x), y).gather(1, top).sum()
by_hand = (
    images - epsilons[-1] * torch.autograd.grad(summed, x)[0].sign()
).clamp(0, 1)

objective = lower_influence(layer, y, layer.parameter_change(top))
attacked = sign_attack(
    ready.backbone,
    layer,
    images,
    objective=objective,
    epsilon=epsilons[-1],
)
kept = attacked.labels_kept
same = (
    ((by_hand - attacked.images).abs().amax((1, 2, 3)) < 1e-6)[kept]
    .double()
    .mean()
    .item()
)
print(
    f"label kept on {int(kept.sum())} of {len(images)} images;\nsame picture as by hand on {same:.0%} of those"
)

# %% mystnb={"figure": {"caption": "Two test images before and after the attack, each with the training images that help most. Every prediction is the same before and after; below the test images its probability, below the others their influence in thousandths.", "name": "influence-before-after"}, "image": {"alt": "Four rows: a test picture with its three most helpful training pictures, and the changed picture below it with partly different ones."}} tags=["hide-input"]
with torch.no_grad():
    after_features = ready.backbone(attacked.images)
after = layer.influence(after_features, y)
changed = (
    1
    - top_k_intersection(before, after, 3)
    + 0.01 * (1 - spearman(before, after))
).where(kept, -1.0)
columns = {
    name: [] for name in ("test", "helps 1", "helps 2", "helps 3")
}
notes = {name: [] for name in columns}
for row in changed.topk(2).indices.tolist():
    pictures = (
        (images, attacked.confidence_before, before),
        (attacked.images, attacked.confidence_after, after),
    )
    for picture, confidence, values in pictures:
        columns["test"].append(picture[row].cpu())
        notes["test"].append(f"p = {confidence[row].item():.4f}")
        for number, i in enumerate(
            values[row].topk(3).indices.tolist(), 1
        ):
            columns[f"helps {number}"].append(training.images[i])
            notes[f"helps {number}"].append(
                f"{1000 * values[row, i].item():.2g}"
            )
columns = {name: torch.stack(part) for name, part in columns.items()}
plot.grid(columns, rows=["before", "after"] * 2, notes=notes)
plt.show()


# %% tags=["hide-input"]
def outcome(condition, epsilon, layer=layer):
    """Perturb the test images; rank correlation, top-5 overlap, ratio of the top 3, labels kept: (4, B)."""
    draws = [
        torch.Generator().manual_seed(1000 * seed + row)
        for row in range(len(images))
    ]
    noise = [
        random_sign(image[None], epsilon, generator=draw)
        for image, draw in zip(images, draws, strict=True)
    ]
    found = study.perturb(
        condition,
        ready.backbone,
        layer,
        images,
        phi,
        epsilon,
        torch.cat(noise),
    )
    y = layer.logits(phi).argmax(1)
    old = layer.influence(phi, y)
    with torch.no_grad():
        new = layer.influence(ready.backbone(found.images), y)
    best = old.topk(3).indices
    ratio = new.gather(1, best).sum(1) / old.gather(1, best).sum(1)
    return torch.stack(
        [
            spearman(old, new),
            top_k_intersection(old, new, 5),
            ratio,
            found.labels_kept.double(),
        ]
    ).cpu()


curves = {
    (name, e): outcome(name, e)
    for name in ("random", "eq2")
    for e in epsilons
}

# %% mystnb={"figure": {"caption": "Rank correlation of all influences and overlap of the five most helpful training images, before and after, against epsilon. Bands are 95 % intervals over test images; images that lose their label count as unchanged.", "name": "influence-curves"}, "image": {"alt": "Two panels against epsilon: both measures fall faster under the attack than under random signs."}} tags=["hide-input"]
figure, panels = plt.subplots(1, 2, figsize=(8.2, 3.3))
for row, (axes, title) in enumerate(
    zip(
        panels,
        ("Spearman correlation", "overlap of the top 5"),
        strict=True,
    )
):
    for name, label in (
        ("random", "random sign"),
        ("eq2", "attack, eq. 2"),
    ):
        plot.curve(
            axes,
            [255 * e for e in epsilons],
            torch.stack([curves[name, e][row] for e in epsilons]),
            label=label,
        )
    axes.set(title=title, xlabel="epsilon (of 255)", ylim=(None, 1.02))
panels[0].legend(fontsize=9)
plt.show()

# %% [markdown]
# ## Eq. 2, taken apart
#
# In the binary case influence is a product. With $p$ the probability of class 1 and $u$ the difference of $U$'s two rows,
#
# $$\mathrm{infl}(x) = (p(x) - y)\; \phi(x)^\top u .$$
#
# There are two ways to make it small: change what the features resemble, the second factor, or simply make the network *more sure*, the
# first.
#
# **Predict.** Raise the network's confidence and do nothing else. What becomes of the influence of every training image? Can the first factor, by
# itself, change their ranking? And which of the two does eq. 2 do?
#
# Compare it with raising the confidence and nothing else, with the residual $p - y$ held fixed while the gradient is taken, and
# with noise, for several penalties $\lambda$.

# %% tags=["nbval-check-output", "hide-input"]
titles = {
    "random": "random signs",
    "eq2": "eq. 2",
    "confidence": "raise the confidence only",
    "frozen_residual": "eq. 2, residual frozen",
}
rows = []
for strength in (1e-3, 1e-2, 1e-1):
    other = LastLayerInfluence(
        features, labels, l2=strength, num_classes=2
    )
    for condition, title in titles.items():
        rho, overlap, ratio, stayed = outcome(
            condition, epsilons[-1], other
        )
        cells = [
            f"{rho.mean():.2f}",
            f"{overlap.mean():.2f}",
            f"{ratio.median():.2g}",
            f"{stayed.mean():.0%}",
        ]
        rows.append([f"l2 {strength:g}, {title}", *cells])
chapter.Table(
    [
        "",
        "Spearman",
        "top-5 overlap",
        "top-3 ratio (median)",
        "label kept",
    ],
    rows,
)

# %% [markdown] tags=["answer", "solution"]
# <details><summary><b>Answer</b></summary>
#
# As $p \to y$ the first factor goes to zero and takes *every* influence with it: see how small the ratios of the third line of each block are. It is the same
# factor for all training images, so that it cannot change a rank; what moves the ranks in that line is that the features move along with the confidence.
#
# </details>

# %% [markdown]
# Compare the second line of each block with the third. As far as they agree, eq. 2 is a way of raising the confidence: the ratio of the top-3
# influence goes to zero because *every* influence does. With the residual frozen the gradient has to go through the features, the ratio may turn negative,
# and the label is at risk more often. A falling *sum* of influences is thus no evidence that the explanation changed; the ranks are.
#
# ## Was the explanation wrong?
#
# After the attack other training images are named. Are they the wrong ones? That can be asked of the truth: leave images out, train again, and look at
# the loss of the *changed* picture.

# %% tags=["nbval-check-output", "hide-input"]
chosen = torch.where(kept)[0][:6]
sample = torch.arange(len(labels))[
    :: 4 if profile == "fast" else 25
].to(device)
true_before = layer.leave_one_out(phi[chosen], y[chosen], sample)
true_after = layer.leave_one_out(
    after_features[chosen], y[chosen], sample
)
pairs = {
    "influence and retraining, original image": (
        before[chosen][:, sample],
        true_before,
    ),
    "influence and retraining, changed image": (
        after[chosen][:, sample],
        true_after,
    ),
    "influence before and after the attack": (
        before[chosen][:, sample],
        after[chosen][:, sample],
    ),
    "retraining before and after the attack": (true_before, true_after),
}
rows = [
    [title, f"{spearman(a, b).mean():.2f}"]
    for title, (a, b) in pairs.items()
]
chapter.Table(
    [f"{len(chosen)} images, {len(sample)} retrainings", "Spearman"],
    rows,
)

# %% [markdown]
# If the first two lines are high and the last two agree with one another, the explanation followed the truth: which training images the loss at this picture
# depends on *did* change. The fragile thing is then the dependence itself, not the formula that reports it.
#
# ## Fragile, or only ill-conditioned?
#
# With fewer images than parameters and no penalty the Hessian is singular. The released code inverts one: it takes 1,000 images and 2,049 parameters, a damping of zero, and
# the squared error of a sigmoid. An explanation that changes then need not say anything about networks. A control that costs
# nothing: perturb the *features* by a relative $10^{-7}$, far less than any image attack, and see whether the ranking survives.

# %% tags=["nbval-check-output", "hide-input"]
small = torch.arange(0, len(labels), max(1, len(labels) // 40))[:40].to(
    device
)
noise = 1 + 1e-7 * torch.randn(
    features[small].shape, generator=torch.Generator().manual_seed(seed)
).double().to(device)
# a feature that is zero everywhere has no curvature at all
alive = (features[small] != 0).any(0)
clean, noise, shown_to = (
    features[small].double()[:, alive],
    noise[:, alive],
    phi[:, alive],
)


def released(train, dtype, damping=0.0):
    """The released recipe: squared error of a sigmoid, the Hessian inverted as it is."""
    x, t = (
        pad(part.to(dtype), (0, 1), value=1.0)
        for part in (train, shown_to)
    )
    fitted = LastLayerInfluence(
        train, labels[small], l2=1e-2, num_classes=2
    ).theta.to(dtype)
    p, q = (part @ (fitted[1] - fitted[0]) for part in (x, t))
    p, q = p.sigmoid(), q.sigmoid()
    slope, bend = p * (1 - p), p * (1 - p)
    target = labels[small].to(dtype)
    curvature = bend * (slope - (target - p) * (1 - 2 * p))
    hessian = 2 * x.T @ (curvature.unsqueeze(1) * x) / len(
        x
    ) + damping * torch.eye(x.shape[1], dtype=dtype, device=x.device)
    g_train = (2 * (p - target) * slope).unsqueeze(1) * x
    g_test = (2 * (q - y.to(dtype)) * q * (1 - q)).unsqueeze(1) * t
    return g_test @ torch.linalg.inv_ex(hessian).inverse @ g_train.T


def ours(train, dtype, strength):
    layer = LastLayerInfluence(
        train, labels[small], l2=strength, num_classes=2, dtype=dtype
    )
    return layer.influence(shown_to, y)


rows = []
for title, recipe in (
    ("released recipe, damping 0", partial(released, damping=0.0)),
    ("released recipe, damping 1e-4", partial(released, damping=1e-4)),
    *(
        (f"l2 {strength:g}", partial(ours, strength=strength))
        for strength in (0.0, 1e-10, 1e-6, 1e-4, 1e-2, 1e-1)
    ),
):
    cells = []
    for dtype in (torch.float64, torch.float32):
        try:
            shaken = spearman(
                recipe(clean, dtype), recipe(clean * noise, dtype)
            ).nanmean()
            cells.append(
                f"{shaken:.3f}" if shaken.isfinite() else "no numbers"
            )
        except ValueError:
            cells.append("refused")
    rows.append([title, *cells])
chapter.Table(
    [
        f"{len(small)} images; Spearman under 1e-7 of feature noise",
        "float64",
        "float32",
    ],
    rows,
)

# %% [markdown]
# Where the package can tell that a Hessian is singular in the precision at hand it refuses:

# %%
try:
    LastLayerInfluence(
        features[small], labels[small], l2=0.0, num_classes=2
    )
except ValueError as error:
    print(textwrap.fill(f"ValueError: {error}", 76))

# %% [markdown]
# | the paper | the released code | here |
# |---|---|---|
# | cross entropy | squared error of a sigmoid | cross entropy of a softmax |
# | a Hessian that is inverted | singular, damping 0 | penalised, or refused |
# | eq. 2, a gradient in the image | three sign steps in feature space | eq. 2 with its sign put right |
# | confidence before and after | prints the size of the perturbation | probability of the label |
#
# ## The other side: attacking the training set
#
# The same function, read the other way round. With $g_t$ fixed and the *training* image $x_i$ as the variable, $-\nabla_{x} (g_t^\top H^{-1} g_i(x))$ is
# the direction in which the training image hurts the test image most, Koh and Liang's $\mathcal I_{\text{pert,loss}}$. After every
# step the last layer is trained again, so that a flip below is a flip after real training on a set in which one picture is different. How much
# one picture can do depends on how many there are: the table compares the whole training set with 40 images of it.

# %% tags=["nbval-check-output", "hide-input"]
many, scarce = torch.arange(len(labels)).to(device), small
budgets = [0.5 / 255, 8 / 255, 51 / 255]
poisonings = {}
for members in (many, scarce):
    fitted = LastLayerInfluence(
        features[members], labels[members], l2=l2, num_classes=2
    )
    confidence, predicted = (
        fitted.logits(test_features).softmax(1).max(1)
    )
    targets = confidence.argsort()[
        :6
    ].tolist()  # the least certain predictions
    for budget in budgets:
        for t in targets:
            one = slice(t, t + 1)
            strongest = int(
                fitted.influence(test_features[one], predicted[one])
                .abs()
                .argmax()
            )
            picture = training.images[
                members[strongest : strongest + 1].cpu()
            ].to(device)
            poisonings[len(members), budget, t] = picture, training_attack(
                ready.backbone, fitted, picture, strongest, test_features[one], predicted[one],
                epsilon=budget, step_size=budget / 4, iterations=5,
            )  # fmt: skip


def flips(count, budget):
    hits = [
        poison.flipped
        for (n, size, _), (_, poison) in poisonings.items()
        if (n, size) == (count, budget)
    ]
    return f"{sum(hits)} of {len(hits)}"


rows = [
    [
        f"{255 * budget:g}/255",
        *(flips(len(members), budget) for members in (many, scarce)),
    ]
    for budget in budgets
]
chapter.Table(
    [
        "change of one image",
        *(
            f"flips, {len(members)} images"
            for members in (many, scarce)
        ),
    ],
    rows,
)

# %% mystnb={"figure": {"caption": "One training image before and after the attack with the largest budget, the change magnified around grey, and the test image it was made for.", "name": "poison"}, "image": {"alt": "Two rows of four pictures: a training picture, its changed version that looks much alike, the pattern of the change, and the test picture."}} tags=["hide-input"]
picked = targets[:2]
columns = {"training": [], "changed": [], "change": [], "test": []}
titles_below = []
for t in picked:
    picture, poison = poisonings[len(scarce), budgets[-1], t]
    image = picture[0].cpu()
    columns["training"].append(image)
    columns["changed"].append(poison.image[0].cpu())
    columns["change"].append(
        (poison.image[0].cpu() - image) / (2 * budgets[-1]) + 0.5
    )
    columns["test"].append(test.images[t])
    titles_below.append("flipped" if poison.flipped else "not flipped")
plot.grid(
    {title: torch.stack(part) for title, part in columns.items()},
    notes={"test": titles_below},
)
plt.show()

# %% [markdown]
# ## Deeper than a last layer
#
# For all the parameters of a network the loss has no unique minimum, the Hessian may be indefinite, and training does not reach a minimum. [Basu et al. (2021)](../book/bibliography.md) found
# that influence then loses its accuracy with depth and without weight decay. In miniature, with exact Hessians: networks of
# 16 inputs, six units a layer, trained on 60 images to a small gradient; each retraining starts from the trained parameters, as in Koh and Liang.
# A reply to Basu et al. is that such retraining is noisy itself, so the last column retrains twice from slightly
# shifted parameters *with nothing left out*.

# %% tags=["nbval-check-output", "hide-input"]
tiny = load(SOURCES["fast"], "train")
tiny_x = nn.functional.avg_pool2d(tiny.images, 8).flatten(1).double()
tiny_train, tiny_y = tiny_x[:60] - tiny_x.mean(0), tiny.labels[:60]
tiny_test, tiny_test_y = (
    tiny_x[60:70] - tiny_x.mean(0),
    tiny.labels[60:70],
)


def mlp(depth):
    widths = [16] + [6] * depth + [2]
    parts = [
        part
        for a, b in pairwise(widths)
        for part in (nn.Linear(a, b), nn.Tanh())
    ]
    return nn.Sequential(*parts[:-1]).double().eval()


def fit(model, weights, decay, steps):
    """Full-batch L-BFGS on the weighted loss."""
    model.requires_grad_(True)
    solver = torch.optim.LBFGS(
        model.parameters(),
        max_iter=steps,
        tolerance_grad=1e-9,
        line_search_fn="strong_wolfe",
    )

    def closure():
        solver.zero_grad()
        entropy = cross_entropy(
            model(tiny_train), tiny_y, reduction="none"
        )
        value = (weights * entropy).mean() + decay / 2 * sum(
            p.square().sum() for p in model.parameters()
        )
        value.backward()
        return value

    solver.step(closure)
    return model.requires_grad_(False)


def test_losses(model):
    return cross_entropy(
        model(tiny_test), tiny_test_y, reduction="none"
    )


def retrained(model, start, weights, decay, shift=0.0):
    """Test losses after training again from the parameters `start`, shifted by noise."""
    generator = torch.Generator().manual_seed(seed)
    noisy = {
        name: p
        + shift * torch.randn(p.shape, generator=generator).double()
        for name, p in start.items()
    }
    model.load_state_dict(noisy)
    return test_losses(fit(model, weights, decay, 150))


rows = []
for decay in (1e-2, 1e-4):
    for depth in (0, 1, 2):
        torch.manual_seed(seed)
        model = fit(mlp(depth), torch.ones(60).double(), decay, 400)
        start = {
            name: p.clone() for name, p in model.state_dict().items()
        }
        base = test_losses(model)
        predicted, solution = network_influence(
            model,
            tiny_train,
            tiny_y,
            tiny_test,
            tiny_test_y,
            l2=decay,
            damping=1e-5,
            solve=direct,
        )
        largest = predicted.abs().sum(0).topk(8).indices
        changes = []
        for i in largest.tolist():
            weights = torch.ones(60).double()
            weights[i] = 0
            changes.append(
                retrained(model, start, weights, decay) - base
            )
        floor = (
            (
                retrained(
                    model,
                    start,
                    torch.ones(60).double(),
                    decay,
                    shift=0.02,
                )
                - base
            )
            .abs()
            .mean()
        )
        true, guess = (
            torch.stack(changes, 1).flatten(),
            predicted[:, largest].flatten(),
        )
        r = torch.corrcoef(torch.stack([true, guess]))[0, 1]
        size = true.abs().mean()
        rows.append(
            [
                f"{depth} hidden, decay {decay:g}",
                f"{r:.2f}",
                f"{size:.1e}",
                f"{floor:.1e}",
            ]
        )
chapter.Table(
    ["", "r, influence and retraining", "mean change", "noise floor"],
    rows,
)

# %% [markdown]
# One seed, 80 pairs a line: an illustration, not a test. Read the correlation beside the last two columns. Where the noise floor reaches the size of the
# changes, a low correlation says as much about the validation as about influence.
#
# ## What a solve costs
#
# Networks too large for a Cholesky factor use Hessian-vector products: conjugate gradients, or LiSSA, a damped Neumann series. On the last layer,
# where the exact answer is known, the cost is the number of products for each test image, each worth about two gradients of the whole training loss.
# (Seconds depend on the machine: `benchmarks/influence.py` times this package against another on the same inputs.)

# %% tags=["hide-input"]
linear = nn.Linear(features.shape[1], 2).double().to(device).eval()
linear.load_state_dict(
    {"weight": layer.theta[:, :-1], "bias": layer.theta[:, -1]}
)
data = (
    features.double(),
    labels,
    test_features[:8].double(),
    test_labels[:8],
)
exact = layer.influence(*data[2:])
top_eigenvalue = torch.linalg.eigvalsh(H)[-1].item()
rows = []
for title, solve in {
    "conjugate gradients to 1e-2": partial(
        conjugate_gradient, tolerance=1e-2
    ),
    "conjugate gradients to 1e-8": partial(
        conjugate_gradient, tolerance=1e-8
    ),
    "LiSSA, 30 products": partial(
        lissa, scale=top_eigenvalue, iterations=30
    ),
    "LiSSA, 120 products": partial(
        lissa, scale=top_eigenvalue, iterations=120
    ),
}.items():
    mine, solution = network_influence(
        linear, *data, l2=l2, damping=0.0, solve=solve
    )
    wrong = ((mine - exact).norm() / exact.norm()).item()
    rows.append(
        [
            title,
            f"{wrong:.0e}",
            str(solution.iterations),
            "yes" if solution.converged else "no",
        ]
    )
rows.append(["Cholesky, factored once", "0", "0", "yes"])
chapter.Table(
    ["8 test images", "relative error", "products", "converged"], rows
)

# %% [markdown]
# ## Roses and sunflowers, stored
#
# The paper's data at the paper's sizes: 1,000 training images, 200 test images, epsilon from 1 to 8 of 255; SqueezeNet's 512 features instead of Inception's 2,048.
# `fragility run influence_attack --profile laptop` and `fragility run leave_one_out --profile laptop` compute what follows.

# %% mystnb={"figure": {"caption": "Stored results on roses and sunflowers against epsilon, means over the test images with 95 % intervals; an image that lost its label counts as unchanged.", "name": "stored"}, "image": {"alt": "Two panels: Spearman correlation and top-5 overlap against epsilon for random signs, eq. 2, confidence only and frozen residual."}} tags=["hide-input"]
flowers = stored("influence_attack-laptop").replace(
    {"condition": titles}
)
plot.curves(
    flowers.query("l2 == 0.01"),
    "epsilon",
    values=["spearman", "top5_overlap"],
    hue="condition",
)
plt.show()

# %% tags=["hide-input"]
story = provenance("influence_attack", "laptop")
state = "complete" if story["complete"] else "not complete yet"
accuracy = flowers.validation_accuracy.iloc[0]
print(f"{len(flowers)} rows, {state}; accuracy {accuracy:.3f}")
keys = ["l2", "condition", "epsilon"]
chapter.means(
    flowers.query("epsilon in [2, 8]"),
    keys,
    ["spearman", "top5_overlap"],
    folded="The numbers",
)

# %% tags=["hide-input"]
ratios = flowers.query("l2 == 0.01 and epsilon in [2, 8]")
medians = ratios.groupby(["condition", "epsilon"]).ratio_top3.median()
chapter.Table(
    ["ratio of the top-3 influence, median", "ours"],
    [
        [f"{condition}, {e:g}/255", f"{ratio:.2g}"]
        for (condition, e), ratio in medians.items()
    ],
)

# %% tags=["hide-input"]
retrainings = stored("leave_one_out-laptop")
first = retrainings.iloc[0]
print(
    f"{len(retrainings)} test images, {first.pairs} retrainings,",
    f"leverages up to {first.max_leverage:.2f}",
)
columns = ["r", "slope", "r_corrected", "slope_corrected"]
chapter.means(
    retrainings, ["network"], columns, digits=dict.fromkeys(columns, 3)
)

# %% [markdown]
# ## What follows, and what does not
#
# - For a convex last layer influence is no approximation in need of faith: it can be computed exactly and checked against retraining, and it should be.
# - A rank correlation before and after an attack mixes two things, a network that depends on other training images at the changed picture, and a formula
#   that errs. Retraining separates them.
# - A ratio of influences says little in a two-class problem, where the confidence alone moves it.
# - Where a Hessian cannot be inverted, there is no ranking to attack.
#
# ## Claimed, published, measured
#
# The rules read what is stored for the flowers and, for I4 to I6, their own stored draws; the digits above do not enter. I1 is read at
# $8/255$. The [ledger](../book/claims.md) has every condition.

# %% tags=["hide-input"]
chapter.ledger("I1", "I2", "I3", "I4", "I5", "I6")

# %% [markdown]
# ## Strengths, limitations, software
#
# **Strengths**: one solve for all training images; a quantity with a meaning that an experiment can check.
#
# **Limitations**: one image at a time, not groups; features are frozen, so that what the images did to the features is not counted; beyond convex
# problems accuracy is an empirical question.
#
# **Software**: Captum ([Kokhlikyan et al. 2020](../book/bibliography.md)), dattri ([Deng et al. 2024](../book/bibliography.md)) and Kronfluence ([Grosse et al. 2023](../book/bibliography.md)) compute influence for whole
# networks; the attack on it is here.
#
# ## Exercises
#
# Solutions follow folded. The student's version of this notebook (`make student`) leaves them out.
#
# ### Warm-up
#
# Fit the layer to the first 40 training images only, fewer than features. What happens to the leverages, and to the slope with and without correction?

# %% tags=["solution", "hide-cell"]
tight = LastLayerInfluence(
    features[small], labels[small], l2=l2, num_classes=2
)
everything = torch.arange(len(small)).to(device)
change = tight.leave_one_out(
    test_features[:5], test_labels[:5], everything
).flatten()
print(
    f"form {tight.form}, leverages from {tight.leverage().min():.2f} to {tight.leverage().max():.2f}"
)
for corrected in (False, True):
    guess = tight.influence(
        test_features[:5], test_labels[:5], corrected=corrected
    ).flatten()
    line = ((guess - guess.mean()) * change).sum() / (
        guess - guess.mean()
    ).square().sum()
    print(
        f"slope {line:.2f} {'with' if corrected else 'without'} correction"
    )
# The nearer a leverage is to 1, the more one image bends the fit, and the further the first-order size is off.

# %% [markdown]
# ### Core
#
# Put the penalty's gradient $\lambda\theta$ into $g_i$. Show that the ranks stay, and count the signs that flip.

# %% tags=["solution", "hide-cell"]
shift = (g_test @ torch.linalg.solve(H, l2 * theta)).unsqueeze(1) / len(
    labels
)
other = influence[few] + shift
print(
    f"Spearman {spearman(influence[few], other).min():.3f}, signs flipped {((other > 0) != (influence[few] > 0)).double().mean():.0%}"
)
print(
    "the influences now sum to zero:",
    bool(other.sum(1).abs().max() < 1e-9 * other.abs().sum(1).max()),
)
# g_i + l2 theta sums to zero over the training set, because theta is the minimum.

# %% [markdown]
# ### Open
#
# Which training images does *relative* influence name? Compare the mean self-influence of the top three by both rankings. Which of the two would you rather show to somebody
# who has to check training images by hand, and how would you find out?

# %% tags=["solution", "hide-cell"]
own = layer.self_influence()
for name, values in (
    ("influence", influence),
    (
        "relative influence",
        layer.relative_influence(test_features, test_labels),
    ),
):
    best = values.topk(3).indices
    print(
        f"{name}: {len(best.unique())} different images in all top threes, median self-influence {own[best].median():.1e}"
    )
# Influence keeps naming the same few hard images; divided by their self-influence, others get their turn.
