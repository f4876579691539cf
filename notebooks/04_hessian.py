# %% [markdown]
# # Why interpretations are fragile: the Hessian
#
# The attacks of the [second chapter](02_attacks.ipynb) work. Why do they? An [importance map](../book/glossary.md#importance-map) is a gradient, and what moves a
# gradient is the second derivative of the score. This chapter takes the paper's explanation (its appendices F and G)
# apart: from a linear model, where nothing can happen, through a single neuron, where the paper's argument lives, to
# trained networks. Along the way one of its steps turns out to prove something else than it seems to.
#
# **After this chapter you can**
#
# - say what the [Hessian](../book/glossary.md#hessian) with respect to the input does to a map, and compute its action without ever writing it out;
# - tell apart the part of a gradient's change that a normalised map shows and the part that it hides;
# - judge where a linearised argument holds on a real network, and how much depends on dimension.
#
# | in class | to run at `fast` | at `laptop` | at `paper` |
# |---|---|---|---|
# | 60 minutes | under a minute ([seconds](../book/status.md)) | some minutes on two cores | four times the pictures of `laptop` |

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
profile: str = "fast"  # a few digits; laptop, paper: more of them
seed: int = 0  # of the images drawn, the noise, the initial weights

# %% tags=["remove-cell"]
import math
from copy import deepcopy

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional as F

from fragility import chapter, network, plot, train
from fragility.data import datasets
from fragility.attack import iterative, random_sign
from fragility.attribution import (
    ATTRIBUTIONS,
    importance,
    simple_gradient,
)
from fragility.curvature import (
    angle,
    input_hessian,
    input_hvp,
    top_directions,
)
from fragility.interval import mean_interval
from fragility.objective import top_k
from fragility.similarity import spearman
from fragility.study.store import stored
from fragility.study.curvature.closed_form import draw_neuron
from fragility.surrogate import softplus

# denormal numbers make a softplus several times slower on a CPU
torch.set_flush_denormal(True)
# small enough for the CPU, which this chapter keeps to
chapter.start(profile=profile, seed=seed)
# images whose whole Hessian is written out
count = {"fast": 3, "laptop": 12, "paper": 48}[profile]
generator = torch.Generator().manual_seed(seed)

# %% [markdown]
# ## The question in one line
#
# Move the picture by $\delta$. To first order the gradient of the score moves by
#
# $$\nabla_x S(x+\delta) - \nabla_x S(x) \approx H\,\delta, \qquad H = \nabla_x^2 S(x).$$
#
# If $H$ is zero nothing moves. If it is not, the unit $\delta$ that moves the gradient most is the eigenvector of $H$ whose
# eigenvalue is largest in modulus ($H$ is symmetric, so this is also its first singular vector). The paper calls it the [most fragile](../book/glossary.md#fragile-direction)
# direction.
#
# ## A linear model cannot be attacked
#
# For $S = w^\top x$ the gradient is $w$ everywhere. That is claim H1, and it is exact.
#
# **Predict.** So the [simple gradient](../book/glossary.md#simple-gradient)'s map of a linear model cannot be moved. Can the map of [integrated gradients](../book/glossary.md#integrated-gradients), or that of [DeepLIFT](../book/glossary.md#deeplift)?

# %% tags=["nbval-check-output"]
linear = nn.Sequential(nn.Flatten(), nn.Linear(256, 3)).double().eval()
linear[1].weight.data = torch.randn(
    3, 256, generator=generator, dtype=torch.float64
)
x = torch.rand(8, 1, 16, 16, generator=generator, dtype=torch.float64)
moved = random_sign(x, 0.1, generator=generator)
labels = torch.zeros(8, dtype=torch.int64)
h1 = {}
for name, method in ATTRIBUTIONS.items():
    maps = [
        importance(method(linear, points, labels))
        for points in (x, moved)
    ]
    h1[name] = float((maps[1] - maps[0]).abs().max())
chapter.Table(
    ["map of a linear model", "largest change of an entry"],
    [
        [plot.NAMES[name], f"{change:.1e}"]
        for name, change in h1.items()
    ],
)

# %% [markdown] tags=["answer", "solution"]
# <details><summary><b>Answer</b></summary>
#
# It can, and without any curvature: for a linear score both are $w \odot (x - x^0)$, and that moves with $x$. "A linear model cannot be attacked" is a statement about
# gradients.
#
# </details>

# %% [markdown]
# So some non-linearity is needed. How little?
#
# ## One neuron is enough, says the paper
#
# Take $S = g(w^\top x)$. Then $\nabla_x S = g'\, w$ and $H = g''\, w w^\top$, with $g'$ and $g''$ at $w^\top x$. The relative change
# of the $i$-th feature is (the paper's eq. 3)
#
# $$
# \frac{(H\delta)_i}{(\nabla_x S)_i} = \frac{w_i\; w^\top\!\delta\; g''}{w_i\; g'} = \frac{g''}{g'}\; w^\top\!\delta .
# $$
#
# With $\delta = \epsilon\,\mathrm{sign}(w)$ this is $\epsilon \|w\|_1\, g''/g'$. If $\|w\|_2$ is fixed, as weight decay would have it,
# $\|w\|_1$ grows like $\sqrt d$: pictures have many pixels, so tiny changes of each add up. We check the formula on one neuron
# with a thousand inputs:

# %% tags=["nbval-check-output"]
neuron, x = draw_neuron(1000, "softplus", seed, "draw 0")
one = torch.zeros(1, dtype=torch.int64)
w = neuron.weights
z = w @ x.flatten() + 1
epsilon = 1e-3
delta = epsilon * w.sign().view_as(x)
before, after = (
    simple_gradient(neuron, x, one),
    simple_gradient(neuron, x + delta, one),
)
formula = (
    epsilon
    * w.abs().sum()
    * (torch.sigmoid(z) * torch.sigmoid(-z))
    / torch.sigmoid(z)
)
print(
    f"relative change of the gradient: {((after - before).norm() / before.norm()):.5f}, by the formula {formula:.5f}"
)

# %% [markdown]
# And over dimension. The stored study (`fragility run dimension`) draws 20 neurons for each $d$ from 10 to $10^5$, with $\|w\|_2 = \|x\|_2 =
# 1$, and the map of each before and after. It has two arms. The first is the paper's: the same $\epsilon$ for every $d$. In the second the perturbation has the same size
# *relative to the picture*, $\|\delta\|_2 / \|x\|_2 = 0.01$: with $\|x\|_2$ fixed, a fixed $\epsilon$ means that $\|\delta\|_2 = \epsilon\sqrt d$ grows too.
#
# **Predict.** How does the relative change of the gradient grow with $d$ in either arm? And by how much does the *normalised* map change, from ten inputs to a hundred
# thousand?

# %% mystnb={"figure": {"caption": "One softplus neuron, stored, 20 draws for each d. Left: relative change of the raw gradient against dimension for the two arms; lines are the formula. Right: the total change of the normalised importance map, which stays at rounding error in both arms.", "name": "dimension"}, "image": {"alt": "Two panels on logarithmic axes. Left: points of the fixed-epsilon arm rise along a line of slope one half, those of the fixed-relative arm lie on a flat line. Right: all points near ten to the minus sixteen."}} tags=["hide-input"]
rows = stored("dimension-laptop").to_dict("records")
neurons = [
    row
    for row in rows
    if row["network"] == "neuron" and row["activation"] == "softplus"
]
dimensions = sorted({row["dimension"] for row in neurons})
arms = {
    "fixed_epsilon": "fixed epsilon",
    "fixed_relative": "fixed relative size",
}


def column(name, arm, activation="softplus"):
    """A column of the stored neurons, one row per dimension: (5, 20)."""
    return torch.tensor(
        [
            [
                row[name]
                for row in rows
                if (
                    row["network"],
                    row["activation"],
                    row["arm"],
                    row["dimension"],
                )
                == ("neuron", activation, arm, d)
            ]
            for d in dimensions
        ],
        dtype=torch.float64,
    )


figure, panels = plt.subplots(1, 2, figsize=(8.4, 3.4))
for marker, (arm, title) in zip("os", arms.items(), strict=True):
    (line,) = panels[0].loglog(
        dimensions, column("predicted", arm).mean(1), linewidth=1.2
    )
    panels[0].loglog(
        dimensions,
        column("relative_change", arm).mean(1),
        marker,
        markersize=5,
        color=line.get_color(),
        label=title,
    )
    panels[1].loglog(
        dimensions,
        column("map_change", arm).mean(1),
        marker,
        markersize=5,
        color=line.get_color(),
    )
panels[0].set(
    xlabel="dimension d", ylabel="relative change of the gradient"
)
panels[1].set(
    xlabel="dimension d",
    ylabel="change of the normalised map",
    ylim=(1e-18, 1),
)
panels[0].legend(fontsize=9)
plt.show()

# %% tags=["nbval-check-output", "hide-input"]


def slopes(values):
    """Least-squares slope of log values against log d, one per draw."""
    u = torch.tensor(dimensions, dtype=torch.float64).log()
    u = u - u.mean()
    return (u @ values.log()) / u.square().sum()


h2 = {
    arm: mean_interval(slopes(column("relative_change", arm)))
    for arm in arms
}
map_change = max(
    float(column("map_change", arm, g).max())
    for arm in arms
    for g in ("softplus", "sigmoid")
)
chapter.Table(
    ["arm", "slope of log change on log d", "95 % interval, n = 20"],
    [
        [
            arms[arm],
            f"{part.mean:.3f}",
            f"[{part.low:.3f}, {part.high:.3f}]",
        ]
        for arm, part in h2.items()
    ]
    + [
        [
            "normalised map, both arms",
            f"changes by at most {map_change:.0e}",
            "",
        ]
    ],
)

# %% [markdown] tags=["answer", "solution"]
# <details><summary><b>Answer</b></summary>
#
# The slopes are in the table: about one half with a fixed $\epsilon$, and about zero where the perturbation keeps its size relative to the picture. And the map does not
# change at all, at any dimension; the right panel shows rounding. Eq. 3 has the reason in it: the relative change is *the same for every feature*.
#
# </details>

# %% [markdown]
# Two things follow.
#
# **It is the size of the perturbation, as much as the dimension.** The square root of $d$ is there with fixed $\epsilon$ and not
# with a fixed relative size. The first-order argument is the same one that explains adversarial examples of linear models:
# an $L_\infty$ ball of fixed radius is a larger and larger ball in $L_2$.
#
# **And the map does not move.** Look again at eq. 3: the relative change is *the same for every feature*, since $w_i$ cancels.
# All importances grow by the same factor, and the map divides by their sum. In the metric of the paper's own
# experiments (intersection, [rank correlation](../book/glossary.md#rank-correlation), centre of mass, each of normalised maps) a single neuron is
# perfectly robust at any dimension, exactly like the linear model:

# %% tags=["nbval-check-output"]
maps = [importance(part) for part in (before, after)]
print(
    f"gradient changes by {((after - before).norm() / before.norm()):.2%}"
)
print(
    f"map changes by less than 1e-15: {bool((maps[1] - maps[0]).abs().max() < 1e-15)}"
)
print(f"Spearman of the maps: {spearman(*maps).item():.3f}")

# %% [markdown]
# The paper does not say so. Its conclusion stands nonetheless, but needs at least *two* units that pull in different directions: then
# $H\delta$ can leave the line of $\nabla_x S$, and features gain or lose relative to each other. Split
#
# $$H\delta = \underbrace{a\,\nabla_x S}_{\text{hidden by normalising}} + \underbrace{r}_{\text{visible}},\qquad r \perp \nabla_x S.$$
#
# We come back to this split on trained networks.
#
# ## The sign of the first singular vector
#
# For the neuron, $\mathrm{sign}(w)$ is the paper's perturbation, and also the sign of the Hessian's top direction (claim H3), as $H = g'' w
# w^\top$ has only one. It is at the same time the steepest direction of the *score*: one neuron cannot be attacked
# in its explanation without its prediction. That is the subject of the [next chapter](05_orthogonality.ipynb).

# %% tags=["nbval-check-output"]
h3 = min(
    float(column("sign_agreement", "fixed_epsilon", g).min())
    for g in ("softplus", "sigmoid")
)
drawn_neurons = sum(
    column("sign_agreement", "fixed_epsilon", g).numel()
    for g in ("softplus", "sigmoid")
)
print(
    f"smallest share of equal signs over {drawn_neurons} neurons, up to a common sign: {h3:.3f}"
)

# %% [markdown]
# ## The same for influence, with a missing term
#
# Appendix G repeats the argument for [influence functions](../book/glossary.md#influence). The part of the influence that depends on the test image is $J = \nabla_w L$; for $L
# = |y - g(w^\top x)|$ it is $J = \pm g'\, x$. The paper's eq. 5 has $J$ change by $x\, g''\, w^\top\delta$. But $J$ contains $x$ itself:
# by the product rule
#
# $$\frac{\partial J}{\partial x} = \pm\left(g''\, x w^\top + g'\, I\right),$$
#
# and the second term, lost in print, is the larger one. The check needs a set-up: $d = 3072$, $\|x\|_2 = \|w\|_2 = 1$, $\epsilon = 10^{-3}$,
# $g$ the softplus.

# %% tags=["nbval-check-output"]
weights = torch.randn(3072, generator=generator, dtype=torch.float64)
weights = weights / weights.norm()
image = torch.rand(3072, generator=generator, dtype=torch.float64)
image = image / image.norm()
delta = 1e-3 * weights.sign()


def gradient_of_loss(x):
    w = weights.clone().requires_grad_()
    return torch.autograd.grad((2.0 - F.softplus(w @ x)).abs(), w)[0]


true = gradient_of_loss(image + delta) - gradient_of_loss(image)
slope, bend = (
    torch.sigmoid(weights @ image),
    torch.sigmoid(weights @ image) * torch.sigmoid(-(weights @ image)),
)
printed = -image * bend * (weights @ delta)
corrected = printed - slope * delta
chapter.Table(
    ["first-order change of J", "relative error"],
    [
        [name, f"{((part - true).norm() / true.norm()):.0%}"]
        for name, part in {
            "eq. 5 as printed": printed,
            "with the term g' delta": corrected,
        }.items()
    ],
)

# %% [markdown]
# With the term there is no common factor, so influence *can* be reordered already by one neuron: the lost term helps the paper's
# case rather than hurting it.
#
# ## A trained network: does the linearisation hold?
#
# Now a small convolutional network for digits, [softplus in place](../book/glossary.md#softplus-surrogate) of ReLU, with strides instead of max-pools (as in the paper's CIFAR-10
# network; the reason comes below). The Hessian of a 32 by 32 picture has a million entries. Nobody needs them: $H\delta$ costs about two
# gradients ([Pearlmutter 1994](../book/bibliography.md)), as the derivative of $\nabla_x S \cdot v$, or as the directional derivative of $\nabla_x S$.


# %% tags=["nbval-check-output"]
def product_by_hand(model, x, labels, v):
    x = x.clone().requires_grad_()
    gradient = torch.autograd.grad(
        model(x)[range(len(x)), labels].sum(), x, create_graph=True
    )[0]
    return torch.autograd.grad((gradient * v).sum(), x)[0]


def strided_cnn():
    """Three convolutions with stride 2 and two linear layers: smooth wherever its activations are."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        layers = [
            nn.Conv2d(1, 16, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
        ]
        layers += [
            nn.Conv2d(32, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(512, 64),
            nn.ReLU(),
        ]
        return network.Normalize(
            nn.Sequential(*layers, nn.Linear(64, 10)), (0.5,), (0.5,)
        ).eval()


training, test = datasets.digits("train"), datasets.digits("test")
model, pooled = strided_cnn(), network.digits_cnn(seed=seed)
for candidate in (model, pooled):
    train.fit_cached(
        candidate,
        training.images,
        training.labels,
        epochs=12,
        progress=False,
    )
print(
    f"test accuracy {train.accuracy(model, test.images, test.labels):.3f}"
)
drawn = datasets.sample(test, 4 * count + 16, seed=seed)
right = (model(drawn.images).argmax(1) == drawn.labels) & (
    pooled(drawn.images).argmax(1) == drawn.labels
)
images, labels = (
    drawn.images[right][: max(count, 8)],
    drawn.labels[right][: max(count, 8)],
)
v = torch.randn(images.shape, generator=generator)
with softplus(4.0):
    by_hand = product_by_hand(model, images, labels, v)
    library = {
        mode: input_hvp(model, images, labels, v, mode=mode)
        for mode in ("double_backward", "forward_over_reverse")
    }
for mode, part in library.items():
    print(
        f"{mode}: agrees with the code above to 1e-5: {bool((part - by_hand).norm() < 1e-5 * by_hand.norm())}"
    )

# %% [markdown]
# The prediction $H\delta$ against what really happens, in the most fragile direction of every picture and in a random one, for growing
# steps. A relative error of 1 means that the prediction is as good as predicting no change at all. The sharper the
# softplus, the sooner the linearisation breaks: its curvature is concentrated in layers of width $1/\beta$ around the kinks, and a
# step across many of them sees another network.

# %% mystnb={"figure": {"caption": "Relative error of the first-order prediction H delta against the true change of the gradient, for steps of growing L-inf size along the sign of the most fragile direction (left) and along random signs (right), for four values of beta. Bands are 95 % bootstrap intervals over the pictures.", "name": "linearisation"}, "image": {"alt": "Two panels of rising curves on logarithmic axes; the curves for larger beta lie higher, and cross one at smaller steps."}} tags=["hide-input"]
sizes = [1 / 2550, 1 / 255, 4 / 255, 16 / 255, 50 / 255]
betas = [1.0, 4.0, 16.0, 64.0]
random_direction = torch.where(
    torch.rand(images.shape, generator=generator) < 0.5, -1.0, 1.0
)


def errors_of_linearisation(candidate, direction):
    """|H delta - change of the gradient| / |change of the gradient|, (sizes, B)."""
    at_rest, errors = simple_gradient(candidate, images, labels), []
    for size in sizes:
        step = (images + size * direction).clamp(0, 1) - images
        true = (
            simple_gradient(candidate, images + step, labels) - at_rest
        )
        error = (
            (input_hvp(candidate, images, labels, step) - true)
            .flatten(1)
            .norm(dim=1)
        )
        errors.append(error / true.flatten(1).norm(dim=1))
    return torch.stack(errors)


figure, panels = plt.subplots(1, 2, figsize=(8.4, 3.6), sharey=True)
prediction_errors = {}
for beta in betas:
    with softplus(beta):
        v1 = top_directions(model, images, labels, steps=24).directions[
            :, 0
        ]
        for axes, kind, direction in zip(
            panels,
            ("fragile", "random"),
            (v1.sign(), random_direction),
            strict=True,
        ):
            prediction_errors[kind, beta] = errors_of_linearisation(
                model, direction
            )
            plot.curve(
                axes,
                [255 * size for size in sizes],
                prediction_errors[kind, beta],
                label=f"beta {beta:g}",
            )
for axes, title in zip(
    panels, ("along sign(v1)", "along random signs"), strict=True
):
    axes.axhline(1, color="k", linestyle=":", linewidth=1)
    axes.set(
        title=title,
        xlabel="epsilon (of 255)",
        xscale="log",
        yscale="log",
    )
panels[0].set_ylabel("relative error of H delta")
panels[1].legend(fontsize=9)
plt.show()

# %% tags=["nbval-check-output"]
chapter.Table(
    [
        "relative error along sign(v1)",
        *(f"{255 * size:.3g}/255" for size in sizes),
    ],
    [
        [
            f"beta {beta:g}",
            *(
                f"{value:.2f}"
                for value in prediction_errors["fragile", beta].mean(1)
            ),
        ]
        for beta in betas
    ],
)

# %% [markdown]
# Read the table from the top right: where the entries come near 1, statements about $H$ are statements about an infinitesimal
# neighbourhood, and an attack of that size has to *follow* the bend, by many small steps. That is what Algorithm 1 does.
#
# ### A kink that softplus does not smooth
#
# Why no max-pools above? Here is the book's other digits network, which has two, in the same measurement at $\beta = 4$.

# %% tags=["nbval-check-output", "hide-input"]
with softplus(4.0):
    v1 = top_directions(pooled, images, labels, steps=24).directions[
        :, 0
    ]
    with_pools = {
        "along sign(v1)": errors_of_linearisation(pooled, v1.sign()),
        "along random signs": errors_of_linearisation(
            pooled, random_direction
        ),
    }
chapter.Table(
    [
        "relative error with max-pools",
        *(f"{255 * size:.3g}/255" for size in sizes),
    ],
    [
        [name, *(f"{value:.2f}" for value in part.mean(1))]
        for name, part in with_pools.items()
    ],
)

# %% [markdown]
# A max-pool passes the gradient to the largest input of its window, and when another input takes the lead the gradient *jumps*. On the flat
# background of a digit all inputs of a window are equal, so that the smallest noise decides between them. The Hessian holds the winners fixed and sees
# nothing of this. So there is a second source of fragility besides curvature, one that no argument by Hessians covers, and that
# replacing ReLU by softplus leaves in place.
#
# ## How much of the turn is visible?
#
# Back to the split into a hidden and a visible part. For every picture: the share of $\|H v\|^2$ that is along the gradient, and
# so lost on a normalised map, for the most fragile direction and for a random one.

# %% tags=["nbval-check-output", "hide-input"]
beta = 4.0
with softplus(beta):
    gradients = simple_gradient(model, images, labels)
    fragile = top_directions(model, images, labels, count=2, steps=40)
    turns = {
        "most fragile direction": input_hvp(
            model, images, labels, fragile.directions[:, 0]
        ),
        "random direction": input_hvp(
            model,
            images,
            labels,
            torch.randn(images.shape, generator=generator),
        ),
    }
hidden = {
    name: torch.cos(
        angle(gradients.double(), turn.double()) * math.pi / 180
    ).square()
    for name, turn in turns.items()
}
rows_of_hidden = []
for name, share in hidden.items():
    mean, low, high = mean_interval(share)
    rows_of_hidden.append(
        [
            name,
            f"{mean:.2f}",
            f"[{low:.2f}, {high:.2f}]",
            str(len(share)),
        ]
    )
chapter.Table(
    [
        "share of the turn hidden by normalising",
        "mean",
        "95 % interval",
        "n",
    ],
    rows_of_hidden,
)

# %% [markdown]
# For the single neuron this share is 1. Whatever is left of 1 here is what makes the maps of this network attackable, and it takes
# hidden units that disagree.
#
# ## Spectra
#
# The whole Hessian is a luxury that small pictures allow. Three networks: the one trained above; the same one trained more
# than twice as long (its training loss keeps falling long after its accuracy has settled); and the same one trained on [adversarially perturbed](../book/glossary.md#adversarial-training)
# pictures, one step of $0.1$ per batch. If fragility is curvature, training decides about it.


# %% tags=["hide-input"]
def adversarial_loss(network, images, labels):
    """Cross entropy after one sign step of 0.1 against the prediction [Goodfellow et al. 2015]."""
    points = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(
        F.cross_entropy(network(points), labels), points
    )
    return F.cross_entropy(
        network((images + 0.1 * slope.sign()).clamp(0, 1)), labels
    )


networks = {"trained": model}
for name, loss, epochs in [
    ("over-trained", train.cross_entropy, 16),
    ("robust", adversarial_loss, 6),
]:
    networks[name] = deepcopy(model)
    train.fit(
        networks[name],
        train.Batches(training.images, training.labels),
        loss,
        epochs=epochs,
        progress=False,
    )
small = images[:count], labels[:count]
hessians, spectra, sizes_of_gradient, accuracies = {}, {}, {}, {}
for name, candidate in networks.items():
    accuracies[name] = train.accuracy(
        candidate, test.images, test.labels
    )
    with softplus(beta):
        hessians[name] = input_hessian(candidate, *small).double()
        spectra[name] = torch.linalg.eigvalsh(hessians[name])
        sizes_of_gradient[name] = (
            simple_gradient(candidate, *small)
            .flatten(1)
            .norm(dim=1)
            .double()
        )

# %% mystnb={"figure": {"caption": "Eigenvalues of the input Hessian in order of modulus, divided by the length of the gradient, mean over the pictures, for three trainings of the same network (softplus, beta 4).", "name": "spectra"}, "image": {"alt": "Three falling curves on logarithmic axes, one per training: a handful of large eigenvalues, then a long fall over several orders of magnitude."}} tags=["hide-input"]
figure, axes = plt.subplots(figsize=(5.8, 3.5))
for name, values in spectra.items():
    order = (
        values.abs().sort(1, descending=True).values
        / sizes_of_gradient[name][:, None]
    )
    axes.loglog(range(1, 401), order.mean(0)[:400], label=name)
axes.set(xlabel="rank", ylabel="|eigenvalue| / |gradient|")
axes.legend()
plt.show()

# %% tags=["nbval-check-output", "hide-input"]
table = []
for name, values in spectra.items():
    top = values.abs().amax(1)
    relative = top / sizes_of_gradient[name]
    effective = values.square().sum(1).square() / values.pow(4).sum(1)
    table.append(
        [
            name,
            f"{accuracies[name]:.3f}",
            f"{top.mean():.2f}",
            f"{relative.mean():.2f}",
            f"{(values < 0).double().mean():.2f}",
            f"{(values.amax(1) / -values.amin(1)).mean():.2f}",
            f"{effective.mean():.0f} of {values.shape[1]}",
        ]
    )
chapter.Table(
    [
        "network",
        "accuracy",
        "top modulus",
        "the same / gradient",
        "share negative",
        "largest / -smallest",
        "effective rank",
    ],
    table,
)

# %% [markdown]
# The effective rank counts how many eigenvalues carry the curvature, $(\sum\lambda^2)^2/\sum\lambda^4$. It is small: out of a thousand
# directions a handful bends the score. The ratio in the second-last column says how far the two ends of the spectrum are from being opposite;
# where it is near 1, power iteration swings between the ends and never settles. Lanczos' method, which the package uses, sees both.
#
# Mind the column *the same / gradient*. A map does not feel the length of the gradient, so that curvature has to be read
# relative to it; networks with large [logits](../book/glossary.md#logit) have large Hessians without being more fragile.
#
# ## Where does the attack's effect live?
#
# Take the perturbation $\delta$ that the [top-$k$ attack](../book/glossary.md#top-k-attack) finds, expand it in the eigenvectors of $H$ and ask what share of $\|H\delta\|^2$ the
# first $m$ of them account for; and compare with random signs of the same size.

# %% mystnb={"figure": {"caption": "Share of the squared length of H delta that lies in the first m eigenvectors of H (solid), and of delta itself (dashed), for the top-k attack and for random signs, at epsilon 8/255. Mean over pictures.", "name": "subspace"}, "image": {"alt": "Two solid curves that rise steeply towards one within a few dozen eigenvectors, above two dashed curves that stay low."}} tags=["hide-input"]
epsilon = 8 / 255
found = iterative(
    model, *small, attribution=simple_gradient, objective=top_k(100), epsilon=epsilon,
    step_size=epsilon / 4, iterations=20, surrogate_beta=beta,
)  # fmt: skip
eigenvalues, eigenvectors = torch.linalg.eigh(hessians["trained"])
order = eigenvalues.abs().argsort(1, descending=True)
eigenvalues = eigenvalues.gather(1, order)
eigenvectors = eigenvectors.gather(
    2, order[:, None].expand_as(eigenvectors)
)
figure, axes = plt.subplots(figsize=(5.8, 3.5))
shares = {}
for name, changed in {
    "top-k attack": found.images,
    "random signs": random_sign(small[0], epsilon, generator=generator),
}.items():
    parts = (
        eigenvectors.mT
        @ (changed - small[0]).flatten(1).double()[..., None]
    ).squeeze(2)
    effect = (eigenvalues * parts).square()
    shares[name] = [
        (part.cumsum(1) / part.sum(1, keepdim=True)).mean(0)
        for part in (effect, parts.square())
    ]
    (line,) = axes.semilogx(
        range(1, 1025), shares[name][0], label=f"{name}: H delta"
    )
    axes.semilogx(
        range(1, 1025),
        shares[name][1],
        "--",
        color=line.get_color(),
        label=f"{name}: delta",
    )
axes.set(xlabel="first m eigenvectors", ylabel="share")
figure.legend(loc="outside lower center", ncol=2, fontsize=9)
plt.show()

# %% tags=["nbval-check-output", "hide-input"]
chapter.Table(
    ["in the first 10 of 1024", "of H delta", "of delta itself"],
    [
        [name, f"{part[0][9]:.2f}", f"{part[1][9]:.3f}"]
        for name, part in shares.items()
    ],
)

# %% [markdown]
# ## Dimension inside one network
#
# The paper's argument compares networks of different input size. Here is a cleaner experiment on one: let the perturbation
# be constant on blocks of $b \times b$ pixels. There are $(32/b)^2$ free numbers, from 1024 down to 1, and $\delta =
# \epsilon\,\mathrm{sign}(\cdot)$ has the same $L_\infty$ *and* the same $L_2$ norm for every $b$. Only the dimension differs. The direction is the best one
# to first order within the blocks: the top eigenvector of $B^\top\! H B$.

# %% mystnb={"figure": {"caption": "Block-constant perturbations of equal size: relative change of the gradient (left) and Spearman correlation of the maps before and after (right) against the number of free blocks, with 95 % bootstrap intervals over pictures; dotted: random signs per block.", "name": "blocks"}, "image": {"alt": "Left: a curve on logarithmic axes that rises with the number of blocks, above a flatter one for random signs. Right: the correlation of the maps against the number of blocks."}} tags=["hide-input"]
with softplus(beta):
    clean = simple_gradient(model, *small)
pixels = torch.arange(1024)
side, effects = [1, 2, 4, 8, 16, 32], {"fragile": [], "random": []}
for b in side:
    block = (pixels // 32 // b) * (32 // b) + (pixels % 32) // b
    members = F.one_hot(block).double()  # B, (1024, number of blocks)
    reduced = members.T @ hessians["trained"] @ members
    values, vectors = torch.linalg.eigh(reduced)
    best = values.abs().argmax(1)
    u = vectors[range(count), :, best]
    coins = torch.where(
        torch.rand(u.shape, generator=generator) < 0.5, -1.0, 1.0
    )
    for kind, choice in (("fragile", u.sign()), ("random", coins)):
        outcome = []
        for sign in (1, -1):  # the line has two ends; take the worse
            step = (
                (epsilon * sign * choice.double() @ members.T)
                .view_as(small[0])
                .float()
            )
            changed = (small[0] + step).clamp(0, 1)
            with softplus(beta):
                turned = simple_gradient(model, changed, small[1])
            size = (turned - clean).flatten(1).norm(
                dim=1
            ) / clean.flatten(1).norm(dim=1)
            outcome.append(
                torch.stack(
                    [
                        size,
                        spearman(importance(turned), importance(clean)),
                    ]
                )
            )
        effects[kind].append(
            torch.where(
                outcome[0][0] > outcome[1][0], outcome[0], outcome[1]
            )
        )
figure, panels = plt.subplots(1, 2, figsize=(8.4, 3.4))
free = [(32 // b) ** 2 for b in side]
for kind, style in (("fragile", {}), ("random", {"linestyle": ":"})):
    measured = torch.stack(effects[kind])  # (sizes of block, 2, B)
    plot.curve(panels[0], free, measured[:, 0], label=kind, style=style)
    plot.curve(panels[1], free, measured[:, 1], label=kind, style=style)
panels[0].set(
    xlabel="free blocks",
    ylabel="relative change of the gradient",
    xscale="log",
    yscale="log",
)
panels[1].set(
    xlabel="free blocks", ylabel="Spearman of the maps", xscale="log"
)
panels[0].legend()
plt.show()

# %% tags=["nbval-check-output", "hide-input"]
u = torch.tensor(free, dtype=torch.float64).log()
u = u - u.mean()
inside = {
    kind: (
        u
        @ torch.stack(effects[kind])[:, 0].double().log()
        / u.square().sum()
    )
    .mean()
    .item()
    for kind in effects
}
print(
    f"slope of log change on log dimension: {inside['fragile']:.2f} along the worst blocks,"
)
print(
    f"{inside['random']:.2f} along random ones; the single neuron has 0.5"
)

# %% [markdown]
# A neuron gains $\sqrt d$ because *every* further pixel adds to one and the same sum. A network whose curvature lives in a handful of smooth
# directions (see the effective rank above) gains from finer blocks only until the blocks resolve those directions. How far the growth goes is read
# off the left panel, and how much of it reaches the map off the right one.

# %% [markdown]
# ## What follows, and what does not
#
# - Fragility of gradients needs curvature, and curvature relative to the gradient is a property that training changes.
# - The one-neuron argument explains why raw gradients grow or shrink with an $L_\infty$ perturbation in high dimension. It does *not* explain why
#   normalised maps change; for that units have to disagree, which is the ordinary state of a network with hidden layers.
# - "Dimension" in the argument is the ratio between the $L_2$ and the $L_\infty$ size of a perturbation. Whether one calls that a property of the model or of
#   the threat model is a matter of taste, but it should be said.
# - Max-pooling adds jumps that no Hessian sees; the first-order argument covers networks without them.
# - A Hessian describes an infinitesimal neighbourhood of one picture. The figure on linearisation says how far it reaches here.
#
# ## Claimed, published, measured
#
# H1 asks for changes of at most $10^{-12}$; H2 for a slope near one half on raw gradients, with normalised maps and the second arm reported apart; H3 for equal signs up
# to one common sign. The [ledger](../book/claims.md) has every condition.

# %% tags=["hide-input"]
chapter.ledger("H1", "H2", "H3")

# %% [markdown]
# ## Strengths, limitations, software
#
# **Strengths**: closed forms where possible, whole spectra, no surrogate of a surrogate.
#
# **Limitations**: small pictures and a small network; the Hessian of a ReLU network does not exist, so that everything on trained networks is about the softplus
# copy at one $\beta$; few pictures at `fast`.
#
# **Software**: this package's `fragility.curvature`; PyHessian ([Yao et al. 2020](../book/bibliography.md)) computes spectra with respect to parameters rather than pixels.
#
# ## Exercises
#
# Solutions follow folded. The student's version of this notebook (`make student`) leaves them out.
#
# ### Warm-up
#
# A picture is bounded: pixels lie in $[0, 1]$. Does that change how $\|\delta\|_2/\|x\|_2$ behaves with dimension for real photographs, compared
# with $\|x\|_2 = 1$?

# %% [markdown] tags=["solution"]
# <details><summary><b>Solution</b></summary>
#
# With pixels of order one $\|x\|_2$ grows like $\sqrt d$ too, and a fixed $\epsilon$ *is* a fixed relative size: the second arm. What
# then grows with dimension is $w^\top x$, unless $\|w\|_2$ shrinks as $1/\sqrt d$, in which case $\epsilon\|w\|_1$ does not grow.
#
# </details>

# %% tags=["solution", "hide-cell", "nbval-check-output"]
for d in (100, 10_000):
    picture = torch.rand(d, generator=generator)
    print(
        f"d = {d}: |delta| / |x| = {0.01 * d**0.5 / picture.norm():.4f} for epsilon 0.01"
    )

# %% [markdown]
# ### Core
#
# Show that for *two* neurons with orthogonal $w_1$, $w_2$ the normalised map does move, and find a perturbation for which it does
# not.

# %% [markdown] tags=["solution"]
# <details><summary><b>Solution</b></summary>
#
# $\nabla S = v_1 g'(z_1) w_1 + v_2 g'(z_2) w_2$. The map keeps still exactly if both coefficients change by the same factor: to first
# order $g''(z_1)/g'(z_1)\, w_1^\top\delta = g''(z_2)/g'(z_2)\, w_2^\top\delta$. So choose $\delta = a_1 w_1 + a_2 w_2$ with $a_i = g'(z_i)/g''(z_i)$.
#
# </details>

# %% tags=["solution", "hide-cell", "nbval-check-output"]
directions = torch.linalg.qr(
    torch.randn(50, 2, generator=generator, dtype=torch.float64)
)[0]
point = torch.rand(50, generator=generator, dtype=torch.float64)


def two_neurons(x):
    # the gradient of sum_j softplus(w_j . x)
    return torch.sigmoid(x @ directions) @ directions.T


z = point @ directions
change = {}
for name, delta in {
    "along w_1": directions[:, 0],
    # g' / g'' = 1 / (1 - sigmoid)
    "along the solution": directions @ (1 / torch.sigmoid(-z)),
}.items():
    first, second = (
        two_neurons(point + t * 1e-4 * delta / delta.norm()).abs()
        for t in (0, 1)
    )
    change[name] = float(
        (second / second.sum() - first / first.sum()).abs().sum()
    )
print(
    f"the map changes {change['along w_1'] / change['along the solution']:.0e} times as much along w_1"
)

# %% [markdown]
# Why does the power iteration fail on a matrix with eigenvalues $1$ and $-0.999$, and how long would it take?

# %% [markdown] tags=["solution"]
# <details><summary><b>Solution</b></summary>
#
# After $n$ steps the two components have the ratio $(-0.999)^n$ times the initial one: $n \approx 10^3 \ln 10^2$ steps for one percent.
# The Krylov space spanned by the same products contains both eigenvectors.
#
# </details>

# %% tags=["solution", "hide-cell", "nbval-check-output"]
matrix = torch.diag(
    torch.cat(
        [torch.tensor([1.0, -0.999]), torch.linspace(-0.9, 0.9, 98)]
    ).double()
)
vector = torch.ones(100, dtype=torch.float64) / 10
start, products = vector, [vector]
for _ in range(40):
    vector = matrix @ vector / (matrix @ vector).norm()
    products.append(vector)
basis = torch.linalg.qr(torch.stack(products, 1))[0]
ritz = torch.linalg.eigvalsh(basis.T @ matrix @ basis)
print(
    f"after 40 products: power iteration says {vector @ matrix @ vector:.3f}, the Krylov space {ritz[-1]:.6f}"
)

# %% [markdown]
# ### Open
#
# The table of spectra divides by the length of the gradient. Which other normalisation would make the numbers comparable between networks
# whose logits differ by a factor? And which between networks of different depth? We know of no answer to the second that everybody accepts.

# %% [markdown] tags=["solution"]
# <details><summary><b>Solution</b></summary>
#
# Any homogeneous one: scaling all logits by $c$ scales gradient and Hessian by $c$. The relative change of the gradient,
# $\|H\delta\|/\|\nabla S\|$, is invariant, and so is the visible part $\|r\|/\|\nabla S\|$ of the split above, which is the one that a map shows.
#
# </details>

# %% tags=["solution", "hide-cell", "nbval-check-output"]
with softplus(beta):
    loud = nn.Sequential(
        model, nn.Linear(10, 10, bias=False).requires_grad_(False)
    ).eval()
    loud[1].weight.copy_(3 * torch.eye(10))
    ratio = (
        top_directions(loud, *small, steps=24).values
        / top_directions(model, *small, steps=24).values
    )
print(
    f"three times the logits, {ratio.mean():.3f} times the top eigenvalue"
)
