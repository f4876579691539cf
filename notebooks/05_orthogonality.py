# %% [markdown]
# # Are score and explanation fragile in different directions?
#
# An attack on [an explanation](../book/glossary.md#importance-map) has to change the map and [leave the prediction](../book/glossary.md#label-kept) alone. If the steepest direction of the score
# and the most [fragile direction](../book/glossary.md#fragile-direction) of the map were one and the same, that would be impossible. The paper finds them "generally
# orthogonal" and takes this as the reason why its attacks succeed (appendices F and H, Fig. 11). But in high dimension *any*
# two directions are nearly orthogonal. This chapter measures the angles, compares them with what chance alone would
# give, and then asks the question by intervention rather than by angle.
#
# **After this chapter you can**
#
# - measure the angle between the gradient of the score and the top direction of its [Hessian](../book/glossary.md#hessian), and say how trustworthy that direction is;
# - build the [null distribution](../book/glossary.md#permutation-null) that a claim of orthogonality needs, and read a result that contradicts it;
# - turn a correlational argument into a causal one by taking a direction away from an attack.
#
# | in class | to run at `fast` | at `laptop` | at `paper` |
# |---|---|---|---|
# | 60 minutes | under a minute ([seconds](../book/status.md)) | some minutes on two cores | as `laptop` |

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
profile: str = "fast"  # some digits; laptop, paper: more of them
seed: int = 0  # of the images drawn and the random directions

# %% tags=["remove-cell"]
import math

import matplotlib.pyplot as plt
import torch
from torch.nn import functional as F

from fragility import chapter
from fragility.data import datasets
from fragility.attribution import importance, simple_gradient
from fragility.curvature import angle, top_directions
from fragility.influence import LastLayerInfluence
from fragility.interval import mean_interval
from fragility.network import feature_extractor
from fragility.objective import top_k
from fragility.similarity import spearman, top_k_intersection
from fragility.study.store import provenance, stored
from fragility.study.curvature.angles import NETWORKS
from fragility.study.curvature.closed_form import draw_two_layers
from fragility.study.curvature.null import (
    permutation_null,
    squared_cosines,
    stored_null,
)
from fragility.surrogate import softplus

# denormal numbers make a softplus several times slower on a CPU
torch.set_flush_denormal(True)
# small enough for the CPU, which this chapter keeps to
chapter.start(profile=profile, seed=seed)
per_class, attacked = (10, 24) if profile == "fast" else (25, 100)
generator = torch.Generator().manual_seed(seed)

# %% [markdown]
# ## The angle
#
# Let $g = \nabla_x S_l(x)$ be the gradient of the label's [logit](../book/glossary.md#logit) and $v_1$ the eigenvector of the input Hessian with the eigenvalue of largest
# modulus. Neither sign nor length matters, so that the angle between the two *lines* is
#
# $$\theta = \arccos\frac{|g^\top v_1|}{\|g\|\,\|v_1\|} \in [0°, 90°].$$
#
# A ReLU network has no Hessian. The paper trains with ReLU, replaces it by [softplus](../book/glossary.md#softplus-surrogate) and retrains until the accuracy is back; so do we, on digits
# here and on CIFAR-10 in the stored study. Images are classified correctly, with the same number from every class.

# %% tags=["nbval-check-output"]
relu, model = NETWORKS["digits"]()
test = datasets.sample(datasets.digits("test"), 360, seed=seed)
with softplus(1.0):
    predicted = model(test.images).argmax(1)
    accuracy = float((predicted == test.labels).float().mean())
print(
    f"accuracy {accuracy:.3f} with softplus, {(relu(test.images).argmax(1) == test.labels).float().mean():.3f} with ReLU"
)
rows = torch.cat(
    [
        ((predicted == label) & (test.labels == label))
        .nonzero()
        .flatten()[:per_class]
        for label in range(10)
    ]
)
images, labels = test.images[rows], test.labels[rows]
with softplus(1.0):
    gradients = simple_gradient(model, images, labels)
    fragile = top_directions(model, images, labels, steps=24)
directions = fragile.directions[:, 0]
matched = angle(gradients, directions)
print(
    f"{len(images)} images, largest residual of a direction {fragile.residual.max():.0e}"
)

# %% [markdown]
# ## What chance gives
#
# Near 90 degrees is only remarkable if something else was to be expected. So three distributions:
#
# 1. **matched**: gradient and fragile direction of the same image;
# 2. **mismatched**: the gradient of one image, the fragile direction of *another of the same class*. It keeps everything that images of a class have in
#    common (where the digit is, how smooth gradients are) and breaks only the pairing;
# 3. **random** directions, the trivial baseline.
#
# **Predict.** Which angle do two random directions make in 1024 dimensions? And is the angle of a matched pair larger than that of a mismatched one, smaller, or
# the same?

# %% mystnb={"figure": {"caption": "Angles between the score's gradient and the saliency's most fragile direction for digits: of the same image, of another image of the same class, and of a random direction.", "name": "angles"}, "image": {"alt": "Three overlaid histograms of angles from 0 to 90 degrees; the random one is a spike near 90, the matched and mismatched ones are wide."}} tags=["hide-input"]
blocks = [
    squared_cosines(
        gradients[labels == label], directions[labels == label]
    )
    for label in range(10)
]
off = torch.cat(
    [
        block[~torch.eye(len(block), dtype=torch.bool)]
        for block in blocks
    ]
)
mismatched = off.sqrt().acos() * 180 / math.pi
chance = angle(
    gradients, torch.randn(images.shape, generator=generator)
)
figure, axes = plt.subplots(figsize=(6.2, 3.5))
bins = torch.arange(0, 91, 3).tolist()
for name, values in {
    "matched": matched,
    "mismatched": mismatched,
    "random": chance,
}.items():
    axes.hist(
        values.tolist(),
        bins=bins,
        density=True,
        histtype="step",
        linewidth=1.8,
        label=name,
    )
axes.set(xlabel="angle (degrees)", ylabel="density", yscale="log")
axes.legend(loc="upper left")
plt.show()

# %% [markdown] tags=["answer", "solution"]
# <details><summary><b>Answer</b></summary>
#
# For a fixed unit vector $g$ and a uniformly random direction $v$ in $d$ dimensions, $\mathbb E\cos^2 = 1/d$ exactly: the squares of $d$
# coordinates share a sum of 1. With $d = 1024$ that is a typical angle of more than 88 degrees, the spike, and with CIFAR-10's 3072 of
# 89. If the paper's account were right, matched pairs would lie to the right of mismatched ones. A median of 85 degrees may *look* like orthogonality and still be far
# more aligned than chance. The next table has the medians.
#
# </details>

# %% [markdown]
# Now the test. The statistic is $T = \frac1n\sum_i \cos^2\theta_i$; the null permutes the fragile directions among the images of each class,
# 10,000 times. *Orthogonality beyond chance* would show as a $T$ **below** the null. A $T$ above it says that the image's own
# fragile direction is *more* aligned with the score than a stranger's.

# %% tags=["nbval-check-output"]


def median_interval(values, draws=2000):
    """The median with its 95 % bootstrap interval."""
    picks = torch.randint(
        len(values),
        (draws, len(values)),
        generator=torch.Generator().manual_seed(0),
    )
    low, high = (
        values[picks]
        .median(1)
        .values.quantile(
            torch.tensor([0.025, 0.975], dtype=values.dtype)
        )
    )
    return values.median().item(), low.item(), high.item()


live = permutation_null(blocks, seed=seed)
middle = median_interval(matched)
chapter.Table(
    ["digits, live", ""],
    [
        ["images", f"{len(images)}"],
        [
            "median angle, matched",
            f"{middle[0]:.1f} [{middle[1]:.1f}, {middle[2]:.1f}]",
        ],
        ["median angle, mismatched", f"{mismatched.median():.1f}"],
        ["median angle, random direction", f"{chance.median():.1f}"],
        ["T, mean squared cosine", f"{live.statistic:.3f}"],
        ["95 % of the null", f"[{live.low:.3f}, {live.high:.3f}]"],
        ["share of permutations at or below T", f"{live.below:.4f}"],
        ["1 / d", f"{1 / images[0].numel():.4f}"],
    ],
)

# %% [markdown]
# ## On CIFAR-10, stored
#
# `fragility run angles --profile laptop` does the same for the paper's CIFAR-10 network, retrained with softplus, on a seeded sample of the
# test set with the same number of correctly classified images from every class, and for 200 digits. The CIFAR-10 pixels of this book come from
# JPEG-recompressed files, not from the official ones, wherever the provenance says so. In each row: eigenvalue with sign, gap to the second one,
# residual of the eigenvector, margin.

# %% tags=["nbval-check-output", "hide-input"]
measured = stored("angles-laptop")
story = provenance("angles", "laptop")
summaries = {}
for setup, part in measured.groupby("setup", sort=False):
    degrees = torch.tensor(part.angle.to_numpy())
    summaries[setup] = (
        part,
        degrees,
        median_interval(degrees),
        stored_null(part),
    )
titles = {"digits": "digits", "cifar10": "CIFAR-10"}
quantities = {
    "images": lambda part, d, m, null: f"{len(part)}",
    "dimension": lambda part, d, m, null: f"{part.dimension.max()}",
    "median angle": lambda part, d, m, null: (
        f"{m[0]:.1f} [{m[1]:.1f}, {m[2]:.1f}]"
    ),
    "share above 80 degrees": lambda part, d, m, null: (
        f"{(d >= 80).double().mean():.2f}"
    ),
    "T": lambda part, d, m, null: f"{null.statistic:.4f}",
    "null, mean": lambda part, d, m, null: f"{null.mean:.4f}",
    "null, 95 %": lambda part, d, m, null: (
        f"[{null.low:.4f}, {null.high:.4f}]"
    ),
    "share of the null at or below T": lambda part, d, m, null: (
        f"{null.below:.4f}"
    ),
    "share of positive eigenvalues": lambda part, d, m, null: (
        f"{(part.value > 0).mean():.2f}"
    ),
    "median gap": lambda part, d, m, null: f"{part.gap.median():.2f}",
    "largest residual": lambda part, d, m, null: (
        f"{part.residual.max():.0e}"
    ),
}
chapter.Table(
    ["stored", *(titles[setup] for setup in summaries)],
    [
        [name, *(fill(*summary) for summary in summaries.values())]
        for name, fill in quantities.items()
    ],
)

# %% tags=["nbval-check-output", "hide-input"]
if "cifar10" not in summaries:
    print(
        "CIFAR-10 is not stored yet: `fragility run angles --profile laptop` adds it."
    )
chapter.Table(
    [
        "network",
        "test accuracy, ReLU",
        "retrained with softplus",
        "test images",
    ],
    [
        [
            titles[name],
            f"{facts['test_accuracy']['relu']:.3f}",
            f"{facts['test_accuracy']['softplus']:.3f}",
            str(facts["test_accuracy"]["images"]),
        ]
        for name, facts in story["inputs"].items()
    ],
)

# %% [markdown]
# The paper's network has a test accuracy of 73 %, before and after. Where is its histogram? Here is ours, with the
# distribution that the null predicts (all pairs within a block).

# %% mystnb={"figure": {"caption": "Stored angles: matched pairs (filled) and mismatched pairs of the same class (outline), one panel per data set. Dashed: the typical angle of a random direction, arccos of d to the power -1/2.", "name": "stored-angles"}, "image": {"alt": "Histograms of angles between 0 and 90 degrees with filled bars for matched and outlines for mismatched pairs, and a dashed vertical line close to 90."}} tags=["hide-input"]
figure, panels = plt.subplots(
    1,
    len(summaries),
    figsize=(4.2 * len(summaries), 3.3),
    squeeze=False,
)
for axes, (setup, (part, degrees, _, _)) in zip(
    panels[0], summaries.items(), strict=True
):
    others = []
    for row in part.itertuples():
        values = [float(number) for number in row.cos2_block.split()]
        own = min(
            range(len(values)),
            key=lambda index: abs(values[index] - row.cos2),
        )
        others += values[:own] + values[own + 1 :]
    pairs = torch.tensor(others).sqrt().acos() * 180 / math.pi
    axes.hist(
        degrees.tolist(),
        bins=bins,
        density=True,
        alpha=0.5,
        label="matched",
    )
    axes.hist(
        pairs.tolist(),
        bins=bins,
        density=True,
        histtype="step",
        color="k",
        label="mismatched",
    )
    axes.axvline(
        math.degrees(math.acos(part.dimension.max() ** -0.5)),
        color="k",
        linestyle="--",
        linewidth=1,
    )
    axes.set(
        title=f"{titles[setup]}, n = {len(part)}",
        xlabel="angle (degrees)",
    )
panels[0, 0].set_ylabel("density")
panels[0, 0].legend(loc="upper left", fontsize=9)
plt.show()

# %% [markdown]
# ## Why should they be orthogonal at all? Two layers in closed form
#
# Appendix H takes $S = \sum_j v_j\, g(w_j^\top x)$ with orthogonal $w_j$. Then (with the slips of the print corrected; see the [errata
# lab](07_errata.ipynb))
#
# $$
# \begin{aligned}
# \nabla_x S &= \textstyle\sum_j v_j\, g'(z_j)\, w_j, \qquad z_j = w_j^\top x,\\
# H &= \textstyle\sum_j v_j\, g''(z_j)\, w_j w_j^\top .
# \end{aligned}
# $$
#
# The $w_j$ are the eigenvectors. The most fragile direction is the single $\hat w_k$ with the largest $|v_k\, g''(z_k)|\,\|w_k\|^2$, while the gradient is a
# mixture of all: $\cos\theta = |v_k g'(z_k)|\,\|w_k\| \,/\, (\sum_j v_j^2 g'(z_j)^2 \|w_j\|^2)^{1/2}$. Not parallel, says the paper. True, but how far from
# parallel? By the formula and by the library, for one draw:

# %% tags=["nbval-check-output"]
two_layers, x = draw_two_layers(128, 8, "softplus", seed, "draw 0")
zero = torch.zeros(1, dtype=torch.int64)
z = two_layers.inputs(x)[0]
slope, bend = torch.sigmoid(z), torch.sigmoid(z) * torch.sigmoid(-z)
k = (two_layers.v * bend).abs().argmax()
cosine = (two_layers.v * slope)[k].abs() / (two_layers.v * slope).norm()
found = top_directions(two_layers, x, zero, steps=12)
print(
    f"by the formula {math.degrees(math.acos(cosine)):.4f} degrees,",
    end=" ",
)
print(
    f"by Lanczos {angle(simple_gradient(two_layers, x, zero), found.directions[:, 0]).item():.4f}"
)

# %% mystnb={"figure": {"caption": "Angle between gradient and fragile direction in random two-layer networks with orthonormal weights: 400 stored draws for each activation and width h. Boxes: quartiles; whiskers: 5 % and 95 %.", "name": "two-layers"}, "image": {"alt": "Three groups of boxes, one per activation: the angles grow with the width h, and spread over tens of degrees."}} tags=["hide-input"]
closed = stored("dimension-laptop").query("network == 'two_layer'")
closed = closed.astype({"width": int})
widths, activations = (
    sorted(set(closed.width)),
    list(closed.activation.unique()),
)
table = {
    key: torch.tensor(part.angle.to_numpy())
    for key, part in closed.groupby(["activation", "width"])
}
figure, axes = plt.subplots(figsize=(6.4, 3.5))
for shift, g in enumerate(activations):
    parts = axes.boxplot(
        [table[g, h].tolist() for h in widths],
        positions=[
            index + 0.26 * (shift - 1) for index in range(len(widths))
        ],
        widths=0.2,
        whis=(5, 95),
        showfliers=False,
        patch_artist=True,
    )
    for box in parts["boxes"]:
        box.set_facecolor(f"C{shift}")
    for line in parts["medians"]:
        line.set_color("k")
    axes.plot([], [], "s", color=f"C{shift}", label=g)
axes.set(
    xticks=range(len(widths)),
    xticklabels=[f"h = {h}" for h in widths],
    ylabel="angle (degrees)",
    ylim=(0, 90),
)
axes.legend(fontsize=9, loc="lower right")
plt.show()

# %% tags=["nbval-check-output", "hide-input"]
chapter.Table(
    [
        "median angle [quartiles], 400 draws",
        *(f"h = {h}" for h in widths),
    ],
    [
        [
            g,
            *(
                f"{table[g, h].median():.0f} [{table[g, h].quantile(0.25):.0f}, {table[g, h].quantile(0.75):.0f}]"
                for h in widths
            ),
        ]
        for g in activations
    ],
)

# %% [markdown]
# Three remarks. "Not parallel" is weaker than "orthogonal": a width of 2 leaves a small angle. What opens the angle is *mixing*: a gradient made
# of $h$ comparable parts makes an angle of about $\arccos h^{-1/2}$ with each, whatever the activation. And the paper's "not parallel unless
# $g' = g''$" fails in its own example: $\exp$ has $g' = g''$ and a wide open angle, because the argmax picks one $k$ and the gradient
# keeps them all. The vectors here are drawn at random; a trained network is free to align them.
#
# ## Cause: take the direction away
#
# An angle is a correlation. The causal question is: does an attack on the map *need* to move along the score's gradient? So run it twice,
# once freely, once with that direction taken out: after every sign step the total perturbation is projected onto the hyperplane $g^\top\delta =
# 0$ and clipped back into the ball, alternately. If the explanation were fragile only along $g$, the
# projected attack would be powerless. Two controls: taking out the gradient of *another image* of the class, and taking out the five most fragile
# directions instead.
#
# **Predict.** Of the attack's effect on the map, how much is lost without the score's gradient: all, half, next to nothing? And which costs the attacker more, one direction of
# the score or the five most fragile ones of the map?


# %%
def attack_without(removed, epsilon, iterations):
    """The top-k attack with the span of orthonormal `removed` (B, n, d) taken out of the perturbation; best iterate."""
    x, best = sample.clone(), sample.clone()
    best_d = torch.full((len(sample),), -torch.inf)
    lower, upper = (
        (sample - epsilon).clamp(min=0),
        (sample + epsilon).clamp(max=1),
    )
    for _ in range(iterations):
        points = x.detach().requires_grad_()
        d = objective(
            importance(simple_gradient(model, points, its_labels)),
            reference,
        )
        (slope,) = torch.autograd.grad(d.sum(), points)
        x = (
            (x + epsilon / 4 * slope.sign())
            .clamp(lower, upper)
            .detach()
        )
        # alternate between the hyperplanes and the box
        for _ in range(8 if removed is not None else 0):
            delta = (x - sample).flatten(1)
            delta = delta - (
                (removed @ delta[..., None]).mT @ removed
            ).squeeze(1)
            x = (sample + delta.view_as(sample)).clamp(lower, upper)
        d = objective(
            importance(simple_gradient(model, x, its_labels)), reference
        )
        better = (d > best_d) & (model(x).argmax(1) == its_labels)
        best, best_d = (
            torch.where(better.view(-1, 1, 1, 1), x, best),
            torch.where(better, d, best_d),
        )
    return best


# %% tags=["nbval-check-output", "hide-input"]
chosen = torch.randperm(len(images), generator=generator)[:attacked]
sample, its_labels, objective, epsilon, k = (
    images[chosen],
    labels[chosen],
    top_k(100),
    0.1,
    100,
)
partner = torch.tensor(
    [
        int(
            (
                (labels == labels[row])
                & (torch.arange(len(labels)) != row)
            ).nonzero()[0]
        )
        for row in chosen
    ]
)
unit = F.normalize(gradients.flatten(1), dim=1)[:, None]
with softplus(1.0):
    reference = importance(simple_gradient(model, sample, its_labels))
    score_before = (
        model(sample).gather(1, its_labels[:, None]).flatten()
    )
    five = top_directions(
        model, sample, its_labels, count=5, steps=40
    ).directions.flatten(2)
    outcomes = {
        name: attack_without(removed, epsilon, 15)
        for name, removed in {
            "nothing": None,
            "the score's gradient": unit[chosen],
            "another image's gradient": unit[partner],
            "the 5 most fragile directions": five,
        }.items()
    }
    effects = {}
    for name, changed in outcomes.items():
        after = importance(simple_gradient(model, changed, its_labels))
        move = (changed - sample).flatten(1)
        along = (move * unit[chosen, 0]).sum(1).abs() / move.norm(
            dim=1
        ).clamp(min=1e-12)
        rise = (
            model(changed).gather(1, its_labels[:, None]).flatten()
            - score_before
        ).abs()
        effects[name] = torch.stack(
            [
                top_k_intersection(reference, after, k),
                spearman(reference, after),
                along,
                rise,
            ]
        ).double()
chapter.Table(
    [
        "taken out of the attack",
        "top-100 intersection",
        "Spearman",
        "cos(delta, gradient)",
        "change of the logit",
    ],
    [
        [
            name,
            *(
                f"{m:.2f} [{a:.2f}, {b:.2f}]"
                for m, a, b in zip(*mean_interval(part), strict=True)
            ),
        ]
        for name, part in effects.items()
    ],
)

# %% tags=["nbval-check-output", "hide-input"]
strength = {name: 1 - part[1] for name, part in effects.items()}
losses = {}
for name in list(strength)[1:]:
    lost = mean_interval(strength["nothing"] - strength[name])
    losses[name] = lost
    share = lost.mean / strength["nothing"].mean()
    print(
        f"without {name}: {share:.0%} of the loss of correlation is lost"
    )
    print(
        f"  difference {lost.mean:.3f}, 95 % interval [{lost.low:.3f}, {lost.high:.3f}], n = {attacked}"
    )

# %% [markdown] tags=["answer", "solution"]
# <details><summary><b>Answer</b></summary>
#
# The percentages are the answer. There are a thousand directions and the attack gives up one, or five: what it cannot have there it finds elsewhere, as long as the
# map is fragile in more directions than were taken away. An interval that holds zero says that the loss cannot be told from none.
#
# </details>

# %% [markdown]
# This is the evidence that the paper's conclusion actually needs, and it does not go through an angle of 90 degrees: what matters is how
# much of the attack's effect survives outside of one direction of a thousand. Read the second line against the third: what a *stranger's* gradient takes away is
# the price of losing any such direction.
#
# ## Does a larger angle help the attacker?
#
# If orthogonality is what makes attacks possible, pictures with a larger angle should be easier to attack. [Rank correlation](../book/glossary.md#rank-correlation) over the attacked
# pictures between the angle and the attack's outcome (free attack), and the same for two other candidates: margin, and curvature relative to the gradient.

# %% tags=["nbval-check-output", "hide-input"]


def rank_correlation(a, b):
    """Spearman over images with its 95 % bootstrap interval."""
    a, b = a.double(), b.double()
    picks = torch.randint(
        len(a),
        (2000, len(a)),
        generator=torch.Generator().manual_seed(0),
    )
    draws = spearman(a[picks].unsqueeze(1), b[picks].unsqueeze(1))
    low, high = draws[draws.isfinite()].quantile(
        torch.tensor([0.025, 0.975], dtype=torch.float64)
    )
    return (
        spearman(a.view(1, 1, -1), b.view(1, 1, -1)).item(),
        low.item(),
        high.item(),
    )


with softplus(1.0):
    logits = model(sample)
margin = logits.gather(
    1, its_labels[:, None]
).flatten() - logits.scatter(1, its_labels[:, None], -torch.inf).amax(1)
curvature = fragile.values[chosen, 0].abs() / gradients[chosen].flatten(
    1
).norm(dim=1)
predictors = {
    "angle": matched[chosen],
    "margin": margin,
    "curvature / gradient": curvature,
}
relations = {
    name: rank_correlation(part, strength["nothing"])
    for name, part in predictors.items()
}
chapter.Table(
    [
        f"predictor of 1 - Spearman under attack, n = {attacked}",
        "rank correlation",
        "95 % interval",
    ],
    [
        [name, f"{rho:.2f}", f"[{low:.2f}, {high:.2f}]"]
        for name, (rho, low, high) in relations.items()
    ],
)

# %% [markdown]
# ## Influence functions
#
# Fig. 11b of the paper compares the gradient of the *loss* with the steepest direction of the [influence of the most](../book/glossary.md#influence) influential training image.
# The influence of training image $i$ on a test image is $g_t^\top H^{-1} g_i/n$ with $g_t = r \otimes \phi$: residual times features. Here for the digits
# network's last layer, all test pictures that it gets right, with the same null: influence directions permuted within the class.

# %% tags=["nbval-check-output", "hide-input"]
backbone = feature_extractor(relu)
training = datasets.digits("train")
last = LastLayerInfluence(
    backbone(training.images), training.labels, l2=1e-3, num_classes=10
)
right = relu(test.images).argmax(1) == test.labels
order = torch.arange(len(test.labels))[right][:200]
order = order[test.labels[order].argsort(stable=True)]
points, its_class = (
    test.images[order].requires_grad_(),
    test.labels[order],
)
features = backbone(points)
most = last.influence(features.detach(), its_class).argmax(
    1, keepdim=True
)
into_features = last.feature_gradient(
    features.detach(), its_class, most
)
(steepest,) = torch.autograd.grad(
    features, points, into_features.to(features), retain_graph=True
)
(of_loss,) = torch.autograd.grad(
    F.cross_entropy(last.logits(features), its_class, reduction="sum"),
    points,
)
alive = (steepest.flatten(1).norm(dim=1) > 0) & (
    of_loss.flatten(1).norm(dim=1) > 0
)
influence_angles = angle(
    of_loss[alive].double(), steepest[alive].double()
)
influence_blocks = [
    squared_cosines(
        of_loss[alive & (its_class == label)],
        steepest[alive & (its_class == label)],
    )
    for label in range(10)
]
influence_null = permutation_null(influence_blocks, seed=seed)
influence_middle = median_interval(influence_angles)
chapter.Table(
    ["influence, digits, live", ""],
    [
        ["test images", f"{len(influence_angles)}"],
        [
            "median angle",
            f"{influence_middle[0]:.1f} [{influence_middle[1]:.1f}, {influence_middle[2]:.1f}]",
        ],
        ["T", f"{influence_null.statistic:.3f}"],
        [
            "null, 95 %",
            f"[{influence_null.low:.3f}, {influence_null.high:.3f}]",
        ],
        [
            "share of permutations at or below T",
            f"{influence_null.below:.4f}",
        ],
    ],
)

# %% [markdown]
# And on the paper's data, stored (`fragility run influence_angles`): roses against sunflowers, 1,000 training images, frozen features of a pretrained
# network (SqueezeNet in the `laptop` profile, the paper's Inception v3 in `paper`), 200 test images.

# %% tags=["nbval-check-output", "hide-input"]
flowers = stored("influence_angles-laptop")
flower_angles, frozen_angles = (
    torch.tensor(flowers[name].to_numpy())
    for name in ("angle", "angle_frozen")
)
flower_null, flower_middle = (
    stored_null(flowers),
    median_interval(flower_angles),
)
frozen_middle = median_interval(frozen_angles)
chapter.Table(
    [f"influence, flowers, {flowers.network[0]}", ""],
    [
        ["test images", f"{len(flowers)}"],
        [
            "median angle",
            f"{flower_middle[0]:.1f} [{flower_middle[1]:.1f}, {flower_middle[2]:.1f}]",
        ],
        ["T", f"{flower_null.statistic:.3f}"],
        [
            "null, 95 %",
            f"[{flower_null.low:.3f}, {flower_null.high:.3f}]",
        ],
        [
            "median angle, residual held fixed",
            f"{frozen_middle[0]:.1f} [{frozen_middle[1]:.1f}, {frozen_middle[2]:.1f}]",
        ],
        [
            "median confidence",
            f"{flowers.confidence.median():.4f}",
        ],
    ],
)

# %% [markdown]
# There is a reason to expect the *opposite* of orthogonality. For two classes influence is $(p-y)\,\phi^\top u$ for a fixed vector $u$, and its gradient
#
# $$
# \nabla_x I = \underbrace{(\phi^\top u)\,\nabla_x p}_{\text{parallel to the loss's gradient}} + (p-y)\,\nabla_x(\phi^\top u).
# $$
#
# As $\nabla p = p(1-p)\,\nabla z$ for the logit $z$ and $|p-y|$ is about as small as $p(1-p)$ for a confident network, the two terms carry the same small factor, and what
# counts is how far the logit moves, times a similarity that is large for the most helpful image, against how far the similarity itself moves. The line with the
# residual held fixed keeps only the second term. Nothing in this depends on the loss: any loss of one logit has $g_t = r(z)\,\phi$. We do not know what made the
# paper's histogram look otherwise; its released code inverts an undamped Hessian with fewer images than parameters, which is singular. Part of what moves influence
# *is* the confidence; the [influence chapter](03_influence.ipynb) takes that apart.

# %% [markdown]
# ## What follows, and what does not
#
# - A histogram near 90 degrees is no evidence by itself. In a thousand dimensions it is the expected result for two unrelated directions; one
#   has to say what the angle is compared with.
# - The null within classes asks whether an image's own pairing is special. It does not ask whether images of one class share directions, which the
#   random baseline shows that they do.
# - Whether an explanation can be changed at constant prediction is a causal question, and the projected attack answers it directly.
# - None of this speaks against the paper's main finding. Attacks do change maps and keep labels. It concerns the reason given for it.
#
# ## Claimed, published, measured
#
# The rule for O1 and O2: at least half of the angles (with the whole interval) are 80 degrees or more, on at least 200 images; then, if $T$ is not below the permutation
# null, at most *[direction only](../book/glossary.md#verdict)*. They read the stored rows of CIFAR-10 and of the flowers; the digits do not enter. The [ledger](../book/claims.md) has every condition.

# %% tags=["hide-input"]
chapter.ledger("O1", "O2", "O3")

# %% [markdown]
# ## Strengths, limitations, software
#
# **Strengths**: exact eigenvectors with residual and gap, a null that keeps what classes have in common, an intervention.
#
# **Limitations**: one eigenvector per picture, where the gap to the second is small that vector is nearly arbitrary within a plane; the networks are smooth ones,
# retrained; digits are easy, and their network has max-pools, whose kinks no Hessian sees ([chapter 4](04_hessian.ipynb)); the CIFAR-10 network has none.
#
# **Software**: `fragility.curvature` and `fragility.study.curvature`; SciPy's `eigsh` for checks on small problems.
#
# ## Exercises
#
# Solutions follow folded. The student's version of this notebook (`make student`) leaves them out.
#
# ### Warm-up
#
# Show that $\mathbb E\cos^2\theta = 1/d$ for a random direction, and find the median angle for $d = 3072$ by simulation.

# %% [markdown] tags=["solution"]
# <details><summary><b>Solution</b></summary>
#
# By symmetry all coordinates of a random unit vector have the same mean square, and the squares sum to 1.
#
# </details>

# %% tags=["solution", "hide-cell", "nbval-check-output"]
random_lines = torch.randn(4000, 3072, generator=generator)
first_axis = torch.zeros(4000, 3072)
first_axis[:, 0] = 1
simulated = angle(random_lines, first_axis)
print(
    f"median {simulated.median():.1f} degrees; d * mean cos^2 = {3072 * (simulated * math.pi / 180).cos().square().mean():.2f}"
)

# %% [markdown]
# ### Core
#
# In the two-layer network, for which $v_j$ and $z_j$ is the angle exactly $\arccos h^{-1/2}$, and can it be larger?

# %% [markdown] tags=["solution"]
# <details><summary><b>Solution</b></summary>
#
# If all $|v_j g'(z_j)|\,\|w_j\|$ are equal. It is larger when the unit with the largest curvature has a small slope: a softplus unit bends most at $z =
# 0$, where $g' = 1/2$, while units at $z \gg 0$ have $g' = 1$ and do not bend at all.
#
# </details>

# %% tags=["solution", "hide-cell", "nbval-check-output"]
for name, z in {
    "all alike": torch.zeros(9),
    "one bends, eight are steep": torch.tensor([0.0] + [6.0] * 8),
}.items():
    slope, bend = torch.sigmoid(z), torch.sigmoid(z) * torch.sigmoid(-z)
    print(
        f"{name}: {math.degrees(math.acos(slope[bend.argmax()] / slope.norm())):.1f} degrees"
    )
print(
    f"arccos of 9 to the -1/2: {math.degrees(math.acos(9**-0.5)):.1f} degrees"
)

# %% [markdown]
# The permutation null draws among images of the same class. What would change if it drew among all images?

# %% [markdown] tags=["solution"]
# <details><summary><b>Solution</b></summary>
#
# It would also break what images of a class share. Gradients of *different* logits point to different places, so that the null's mean falls and a $T$
# that is nothing special within its class may look aligned.
#
# </details>

# %% tags=["solution", "hide-cell", "nbval-check-output"]
everything = permutation_null(
    [squared_cosines(gradients, directions)], seed=seed
)
print(
    f"mean of the null within classes {live.mean:.3f}, among all images {everything.mean:.3f}; T {live.statistic:.3f}"
)

# %% [markdown]
# ### Open
#
# The projected attack holds $g^\top\delta = 0$ at the *original* gradient. Why may the logit change all the same? Then change
# the attack so that it follows the score's level set, and say what that costs it.

# %% [markdown] tags=["solution"]
# <details><summary><b>Solution</b></summary>
#
# By curvature: $S(x+\delta) - S(x) = g^\top\delta + \tfrac12\,\delta^\top H\delta + \dots$, and the attack looks for directions in which $H$ is
# large. The table above gives the change of the logit that is left; here is how well the second-order term accounts for it.
#
# </details>

# %% tags=["solution", "hide-cell", "nbval-check-output"]
from fragility.curvature import input_hvp

with softplus(1.0):
    delta = outcomes["the score's gradient"] - sample
    second = (delta * input_hvp(model, sample, its_labels, delta)).sum(
        (1, 2, 3)
    ) / 2
    true = (
        model(sample + delta).gather(1, its_labels[:, None]).flatten()
        - score_before
    )
print(
    f"rank correlation of the second-order term with the true change: {rank_correlation(second, true)[0]:.2f}"
)
