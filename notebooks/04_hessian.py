# %% [markdown]
# # Why interpretations are fragile: the Hessian
#
# The attacks of the [second chapter](02_attacks.ipynb) work. Why do they? An [importance map](../book/glossary.md#importance-map) is made of a gradient, and what turns a
# gradient is the second derivative of the score, the [Hessian](../book/glossary.md#hessian). Each of these photographs has a direction in which the gradient of its score turns
# faster than in any other. It is a spot: most of the pattern that it adds lies on at most 491 of the photograph's 51,529 pixels.

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

# %% tags=["parameters", "remove-cell"]
profile: str = "fast"  # networks trained: fast 1, laptop 2, paper 4
seed: int = 0  # of noise, of drawn weights and of trainings

# %% tags=["remove-cell"]
import matplotlib.pyplot as plt
import torch

from fragility import chapter, network, plot
from fragility.curvature import top_directions
from fragility.data import datasets
from fragility.surrogate import softplus

# denormal numbers make a softplus several times slower on a CPU
torch.set_flush_denormal(True)
device = chapter.start(profile=profile, seed=seed)

# %% mystnb={"figure": {"caption": "Four photographs, and below each the most fragile direction: the change of the photograph that turns the gradient of the predicted class's score most, by the size of its entries.", "name": "spots"}, "image": {"alt": "Four photographs; below each a dark square with one bright spot: beside the cat's ear, in the cup of espresso, in the sky beside a stupa, on the breast of a uniform."}} tags=["hide-input"]
model = network.squeezenet().to(device)
shown = datasets.photographs()
images = shown.images.to(device)
labels = model(images).argmax(1)
names = [shown.class_names[label] for label in labels.tolist()]

with softplus(1.0):
    found = top_directions(model, images, labels, count=2, steps=12)
spots = found.directions[:, 0].abs().sum(1)
pairs = zip(images, spots, strict=True)
pictures = dict(zip(names, pairs, strict=True))
plot.grid(pictures, rows=["photograph", "most fragile"])
plt.show()

# %% [markdown]
# This chapter takes the paper's explanation (its appendices F and G) apart: from a linear model, where nothing can happen, through a single
# neuron, where the paper's argument lives, to the paper's own network. Two of its steps turn out to prove something other than they seem to.
#
# **After this chapter you can**
#
# - say what the Hessian with respect to the input does to a map, and compute its action without ever writing it out;
# - tell apart the part of a gradient's change that a normalised map shows and the part that it hides;
# - judge how far a linearised argument reaches in a real network, and how much depends on dimension.
#
# ## The question in one line
#
# Move the picture by $\delta$. To first order the gradient of the score moves by
#
# $$
# \begin{aligned}
# \nabla_x S(x+\delta) - \nabla_x S(x) &\approx H\,\delta,\\
# H &= \nabla_x^2 S(x).
# \end{aligned}
# $$
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
#
# - neither
# - that of integrated gradients
# - that of DeepLIFT
# - both

# %% mystnb={"code_prompt_show": "Look: how far each map moves", "code_prompt_hide": "Fold"} tags=["hide-output", "nbval-check-output"]
from torch import nn

from fragility.attack import random_sign
from fragility.attribution import (
    deeplift,
    importance,
    integrated_gradients,
    simple_gradient,
)

generator = torch.Generator().manual_seed(seed)
linear = nn.Sequential(nn.Flatten(), nn.Linear(256, 3)).double().eval()
linear[1].weight.data.normal_(generator=generator)
x = torch.rand(8, 1, 16, 16, generator=generator, dtype=torch.float64)
moved = random_sign(x, 0.1, generator=generator)
zeros = torch.zeros(8, dtype=torch.int64)
for method in (simple_gradient, integrated_gradients, deeplift):
    old, new = (
        importance(method(linear, y, zeros)) for y in (x, moved)
    )
    change = (new - old).abs().sum((1, 2)).mean()
    print(f"{method.__name__}: {change:.0%} of the map has moved")

# %% [markdown] tags=["answer", "solution"]
# <details data-option="4"><summary><b>Answer</b></summary>
#
# Both can, by 19 % here, and without any curvature: for a linear score both are $w \odot (x - x^0)$, which moves with $x$. "A linear model cannot be attacked" is a
# statement about gradients.
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
# $\|w\|_1$ grows like $\sqrt d$: pictures have many pixels, so tiny changes of each add up. The check needs no network, only the gradient of
# softplus neurons, $S = \sum_j v_j\, g(w_j^\top x + 1)$; here there is one, with a thousand inputs.


# %% tags=["nbval-check-output"]
def gaussian(*shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def draw(d, units=1):
    """Unit weights, a column per neuron, and a picture of norm 1."""
    w, x = gaussian(d, units), 0.5 + gaussian(d).sigmoid()
    return w / w.norm(dim=0), x / x.norm()


def gradient(w, v, x):
    return w @ (v * torch.sigmoid(w.T @ x + 1))  # g' is the sigmoid


def turn(w, v, x, delta):
    """Relative change of the gradient, and change of the map."""
    old, new = gradient(w, v, x), gradient(w, v, x + delta)
    maps = [g.abs() / g.abs().sum() for g in (old, new)]
    return (new - old).norm() / old.norm(), (
        maps[1] - maps[0]
    ).abs().sum()


w, x = draw(1000)
v, epsilon = torch.ones(1).double(), 1e-3
delta = epsilon * w[:, 0].sign()
of_gradient, of_map = turn(w, v, x, delta)
ratio = 1 - torch.sigmoid(w.T @ x + 1).item()  # g'' / g'
formula = epsilon * w.abs().sum() * ratio
print(
    f"the gradient changes by {of_gradient:.2%}, eq. 3: {formula:.2%}"
)
print("the map changes by less than 1e-14:", bool(of_map < 1e-14))

# %% [markdown]
# The gradient does what the formula says. Before the last line is explained, look at it over dimension. The stored study (`fragility run dimension`) draws
# 20 neurons for each $d$ from 10 to $10^5$, with $\|w\|_2 = \|x\|_2 = 1$, in two arms. The first is the paper's: the same $\epsilon$ for every $d$. In the
# second the perturbation has the same size *relative to the picture*, $\|\delta\|_2 / \|x\|_2 = 0.01$: with $\|x\|_2$ fixed, a fixed $\epsilon$
# means that $\|\delta\|_2 = \epsilon\sqrt d$ grows too.
#
# **Predict.** How does the relative change of the gradient grow with $d$ in each arm? And by how much does the *normalised* map change, from ten inputs to a hundred
# thousand?
#
# - the map changes altogether
# - the map changes about as much as the gradient
# - the map does not change

# %% mystnb={"code_prompt_show": "Look: gradient and map over dimension", "code_prompt_hide": "Fold", "figure": {"caption": "One softplus neuron, stored, means of 20 draws for each d: relative change of the raw gradient with the same epsilon for all d and with the same relative size; lines are eq. 3. Triangles: the largest change of a normalised map among all draws, rounding error.", "name": "dimension"}, "image": {"alt": "On logarithmic axes, dots rise along a line of slope one half from 0.001 to 0.1, squares stay on a flat line near 0.003, and triangles lie thirteen orders of magnitude below both."}} tags=["hide-output", "nbval-check-output"]
import numpy as np

from fragility.interval import mean_interval
from fragility.study.store import stored

neurons = stored("dimension-laptop").query("network == 'neuron'")
soft = neurons.query("activation == 'softplus'")
arms = {"fixed_epsilon": "same epsilon", "fixed_relative": "same size"}
figure, axes = plt.subplots(figsize=(4.8, 3.8))
for (arm, title), marker in zip(arms.items(), "os", strict=True):
    part = soft[soft.arm == arm].groupby("dimension")
    part = part.mean(numeric_only=True)
    axes.loglog(part.index, part.predicted, color="0.6")
    axes.loglog(part.index, part.relative_change, marker, label=title)
worst = soft.groupby("dimension").map_change.max()
axes.loglog(worst.index, worst, "^", label="map, largest change")
axes.set(
    xlabel="dimension d", ylabel="relative change", ylim=(1e-17, 9)
)
axes.legend(loc="center right")
plt.show()


def slope(draw):
    """Of log change against log d, by least squares."""
    logs = np.log(draw[["dimension", "relative_change"]])
    return np.polyfit(logs.dimension, logs.relative_change, 1)[0]


for arm, title in arms.items():
    draws = soft[soft.arm == arm].groupby("image")
    fit = mean_interval(torch.tensor([slope(d) for _, d in draws]))
    print(
        f"{title}: slope {chapter.interval(*fit, 3)}, n = {len(draws)}"
    )
print(f"maps change by at most {neurons.map_change.max():.0e}")

# %% [markdown] tags=["answer", "solution"]
# <details data-option="3"><summary><b>Answer</b></summary>
#
# With the same $\epsilon$ the slope is .491, the square root of eq. 3; with the same relative size it is -.003, flat. The map does not change at all, at any
# dimension, beyond rounding: $w_i$ cancels in eq. 3, so the relative change is *the same for every feature*.
#
# </details>

# %% [markdown]
# Two things follow.
#
# **It is the size of the perturbation, as much as the dimension.** The square root of $d$ is there with fixed $\epsilon$ and not
# with a fixed relative size. The first-order argument is the same one that explains adversarial examples of linear models:
# an $L_\infty$ ball of fixed radius is a larger and larger ball in $L_2$.
#
# **And the map does not move.** All importances grow by one common factor, and the map divides by their sum. In the metrics of the paper's own
# experiments, each of normalised maps, the gradient's map of a single neuron is perfectly robust at any dimension, exactly like the linear model's. The paper does not say so.
#
# The neuron has another property that the paper states (H3): $\mathrm{sign}(w)$ is the sign of the Hessian's top direction, as $H = g'' w
# w^\top$ has only one. It is at the same time the steepest direction of the *score*: one neuron cannot be attacked
# in its explanation without its prediction. That is the subject of the [next chapter](05_orthogonality.ipynb).

# %% tags=["nbval-check-output"]
agreement = neurons.sign_agreement.dropna()
print(
    f"equal signs: {agreement.min():.0%} at least, n = {len(agreement)}"
)

# %% [markdown]
# ## Two neurons
#
# The paper's conclusion stands nonetheless, but needs at least *two* units that pull in different directions: then
# $H\delta$ can leave the line of $\nabla_x S$, and features gain or lose relative to each other. Split
#
# $$H\delta = \underbrace{a\,\nabla_x S}_{\text{hidden by normalising}} + \underbrace{r}_{\text{visible}},\qquad r \perp \nabla_x S.$$
#
# With an image of two pixels: drag the point with one neuron, and the arrow (the gradient) stretches but never turns. Then add a second neuron.
#
# <figure class="piece" data-piece="wall" data-neurons="1" data-beta="8">
#
# ![A square of coloured tiles with straight edges, a point with an arrow in one of them, and beside it two bars, the importance of two pixels.](../book/_static/play/wall.webp)
#
# <figcaption>Softplus neurons, computed in the page. The two bars are the normalised map of the two pixels, which one neuron keeps as it is, wherever the point goes.</figcaption>
# </figure>

# %% tags=["nbval-check-output"]
table = []
for units in (1, 2, 8, 64):
    changes = []
    for _ in range(20):
        (w, x), v = draw(1000, units), gaussian(units)
        delta = 0.01 * gradient(w, v, x).sign()
        changes.append(torch.stack(turn(w, v, x, delta)))
    of_gradient, of_map = torch.stack(changes).mean(0)
    table.append([str(units), f"{of_gradient:.1%}", f"{of_map:.1%}"])
chapter.Table(["units", "gradient changes by", "map changes by"], table)

# %% [markdown]
# Each line is the mean of 20 drawn networks. One unit turns the gradient by 6.9 % and the map not at all; with two the gradient turns by 5.6 % and the map by 1.5 %; with 64 the map
# moves as far as the gradient, by 1.4 % (they are measured differently). Fragile maps need units that disagree, which is the ordinary state of a network with hidden layers.
#
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
from torch.nn import functional as F

w, x = (part.squeeze() for part in draw(3072))
delta = 1e-3 * w.sign()


def J(x):
    weights = w.clone().requires_grad_()
    loss = (2.0 - F.softplus(weights @ x)).abs()
    return torch.autograd.grad(loss, weights)[0]


true, s = J(x + delta) - J(x), torch.sigmoid(w @ x)
printed = -x * s * (1 - s) * (w @ delta)
corrected = printed - s * delta
for title, part in {
    "as printed": printed,
    "with g' I": corrected,
}.items():
    off = (part - true).norm() / true.norm()
    print(f"eq. 5 {title}: off by {off:.0%}")

# %% [markdown]
# With the term there is no common factor, so even one neuron *can* reorder influence: the lost term helps the paper's
# case rather than hurting it.
#
# ## The paper's network
#
# Now SqueezeNet, with a [softplus in place](../book/glossary.md#softplus-surrogate) of every ReLU (the paper's $\beta = 1$), since a ReLU network has no second derivative. The Hessian of a
# photograph of 227 by 227 pixels has 24 billion entries. Nobody needs them: $Hv$ costs two to three
# gradients ([Pearlmutter 1994](../book/bibliography.md)), as the derivative of $\nabla_x S \cdot v$.


# %% tags=["nbval-check-output"]
from fragility.curvature import input_hvp


def product_by_hand(v):
    x = images.clone().requires_grad_()
    score = model(x)[range(len(x)), labels].sum()
    (slope,) = torch.autograd.grad(score, x, create_graph=True)
    return torch.autograd.grad((slope * v).sum(), x)[0]


coins = torch.rand(images.shape, generator=generator) < 0.5
signs = torch.where(coins, 1.0, -1.0).to(device)
with softplus(1.0):
    by_hand = product_by_hand(signs)
    turned = input_hvp(model, images, labels, signs)
    clean = simple_gradient(model, images, labels)
off = (by_hand - turned).norm() / turned.norm()
print("as the package says, to four digits:", bool(off < 1e-4))

# %% [markdown]
# The largest eigenvalues come from a dozen such products by Lanczos' method: the space spanned by $v, Hv, H^2v, \dots$ holds both ends of the spectrum, the
# positive and the negative one, and $H$ restricted to it is a small matrix. That is how the spots above were found (`top_directions`).


# %% tags=["nbval-check-output"]
def length(part):
    return part.flatten(1).norm(dim=1)


v1 = found.directions[:, 0]
first, second = found.values.T
energy = v1.square().sum(1).flatten(1).sort(descending=True).values
pixels = (energy.cumsum(1) < 0.9).sum(1) + 1
relative = first.abs() / length(clean)
table = [
    [
        name,
        f"{first[i]:.0f}",
        f"{second[i]:.0f}",
        f"{found.residual[i, 0]:.0e}",
        f"{relative[i]:.0f}",
        f"{pixels[i]}",
    ]
    for i, name in enumerate(names)
]
chapter.Table(
    ["", "first", "second", "residual", "first / gradient", "pixels"],
    table,
)

# %% [markdown]
# The first two eigenvalues, with their signs; how well the first is determined ($\|Hv - \lambda v\| / |\lambda|$); its size relative to the length of the gradient; and how
# many of the 51,529 pixels hold nine tenths of the direction's energy. The fourth column is the one to look at: maps do not feel the length of the
# gradient, and networks with large [logits](../book/glossary.md#logit) have large Hessians without being more fragile.
#
# How much of the turn is hidden by normalising, as all of it was for one neuron?

# %% tags=["nbval-check-output"]
from fragility.curvature import angle

along = first.view(-1, 1, 1, 1) * v1  # H v1
for title, part in {"random signs": turned, "v1": along}.items():
    hidden = angle(clean, part).deg2rad().cos().square()
    print(f"{title}: {hidden.mean():.1%} hidden on average,", end=" ")
    print(f"{hidden.max():.1%} at most")

# %% [markdown]
# Next to nothing, 10.8 % at most. What is a theorem for one neuron, that the gradient's map holds still, is far from true of the network.
#
# ## How far does the Hessian reach?
#
# $H\delta$ is a statement about infinitely small steps. Compare it with what happens at finite ones: on the softplus copy; on the
# ReLU network itself; and on a copy whose max-pools *hold their winners*, each passing on the input that won at the original photograph,
# whoever is larger now.


# %%
class Pool(nn.Module):
    """A max-pool that holds the winners of its first call."""

    winners = None

    def forward(self, x):
        y, winners = F.max_pool2d(x, 3, 2, return_indices=True)
        self.winners = winners if self.winners is None else self.winners
        held = (
            x.flatten(2).gather(2, self.winners.flatten(2)).view_as(y)
        )
        self.beaten = (y > held).float().mean()
        return held


from copy import deepcopy

held = deepcopy(model)
pools = [Pool().eval() for _ in range(3)]
modules = model.features.named_children()
places = [n for n, part in modules if isinstance(part, nn.MaxPool2d)]
for place, pool in zip(places, pools, strict=True):
    held.features.add_module(place, pool)
with softplus(1.0):
    held(images)

# %% [markdown]
# **Predict.** Take random signs times $1/255$, and a step a hundred times smaller. By the formula the gradient then turns a hundred times less. On the
# softplus copy of SqueezeNet, which is smooth but for its three max-pools: what do you expect?
#
# - a hundredth as far
# - a tenth as far
# - just as far

# %% mystnb={"code_prompt_show": "Look: steps from 0.01 to 4 of 255", "code_prompt_hide": "Fold", "figure": {"caption": "How far the gradient turns, relative to its length, when random signs of growing size are added: by the formula, on the softplus copy with the pools' winners held, on the softplus copy, and on the ReLU network. Means over four photographs.", "name": "reach"}, "image": {"alt": "On logarithmic axes, the line of the formula rises with slope one; the copy with held winners lies on it at the left and bends away below it before 1. The softplus copy and the ReLU network lie ten times higher at the left, rise with slope one half and level off near 1."}} tags=["hide-output", "nbval-check-output"]
sizes = [0.01, 0.1, 1, 4]  # of 255
relu = simple_gradient(model, images, labels)
nets = {"winners held": held, "softplus copy": model}
curves = {title: [] for title in ("formula", *nets, "ReLU network")}
for size in sizes:
    x = (images + size / 255 * signs).clamp(0, 1)
    with softplus(1.0):
        part = input_hvp(model, images, labels, x - images)
        curves["formula"].append(length(part) / length(clean))
        for title, net in nets.items():
            part = simple_gradient(net, x, labels) - clean
            curves[title].append(length(part) / length(clean))
        held(x)  # which pools count their beaten winners
    beaten = torch.stack([pool.beaten for pool in pools]).mean()
    print(f"{size}/255: {beaten:.1%} of winners are beaten")
    part = simple_gradient(model, x, labels) - relu
    curves["ReLU network"].append(length(part) / length(relu))
figure, axes = plt.subplots(figsize=(4.8, 3.6))
for title, values in curves.items():
    mean = torch.stack(values).mean(1).tolist()
    axes.loglog(sizes, mean, "o-", label=title)
    print(f"{title}:", ", ".join(f"{value:.3f}" for value in mean))
axes.set(
    xlabel="size of the step (of 255)", ylabel="turn of the gradient"
)
axes.legend()
plt.show()

# %% [markdown] tags=["answer", "solution"]
# <details data-option="2"><summary><b>Answer</b></summary>
#
# The small step turns the gradient a tenth as far, not a hundredth: .076 against .769. The formula is right about the copy whose winners are held (.006 both). What it does not see are the windows that
# get a new winner, where the gradient jumps. Their number is proportional to the step, .2 % of all windows at 0.01/255 and 14.0 % at 1/255; and jumps in random directions add up like the square root of their
# number, so a hundredth of the jumps turns the gradient a tenth as far.
#
# </details>

# %% [markdown]
# So there are two kinds of fragility. One is curvature, and the Hessian describes it as far as it reaches: to about a tenth of a grey level here. At 1/255 the formula promises a turn of .590
# where, with the winners held, .360 happens. The other is the jumps of the max-pools, which make up most of the turn under noise up to 1/255, and which no
# argument by Hessians covers, because at the photograph they have not begun. (The network of the paper's CIFAR-10 experiments has strides instead of pools.) The ReLU network turns
# like its softplus copy, .816 and .769: what chapter 2 relies on when it attacks the one through the other.
#
# ## Fragile for the gradient, fragile for the map
#
# The top eigenvector wins if a step is measured by its Euclidean length and the turn by the length of $H\delta$. A map is judged by ranks, and an attack is bounded by the largest entry. Does
# the spot move the map? Four steps, two of one Euclidean length, two of one largest entry, on the ReLU network:

# %% tags=["nbval-check-output"]
from fragility.similarity import spearman, top_k_intersection

original = importance(relu)


def judged(step):
    """What the ReLU network's gradient and map do, by this step."""
    x = (images + step).clamp(0, 1)
    new = simple_gradient(model, x, labels)
    maps = original, importance(new)
    return {
        "length": length(x - images).mean(),
        "turn": (length(new - relu) / length(relu)).mean(),
        "rank corr.": spearman(*maps).mean(),
        "top 1000": top_k_intersection(*maps, 1000).mean(),
    }


steps = {
    "v1": 0.5 * v1,
    "random signs, as long": 0.5 * signs / length(signs)[0],
    "sign(v1), 2/255": 2 / 255 * v1.sign(),
    "random signs, 2/255": 2 / 255 * signs,
}
table = []
for title, step in steps.items():
    values = judged(step)
    table.append([title, *(f"{v:.2f}" for v in values.values())])
promised = 0.5 * relative
print("along v1 the eigenvalues promise a turn of", end=" ")
print(f"{promised.min():.0f} to {promised.max():.0f} lengths")
chapter.Table(["step", *values], table)

# %% [markdown]
# A half unit of length along $v_1$ turns the gradient as far as random signs of the same length do, .53 and .52 of its own length, and not the 10 to 29 lengths that the
# eigenvalues promise; and as all of that happens in the spot, the ranks of the other pixels hold: a rank correlation of .94 against .85. Only its *sign*, spread over the whole photograph, beats random
# signs: a correlation of about a half against .63. The most fragile direction of the gradient is not the most fragile direction of the map.
#
# ## An attack follows the bend
#
# The attack of chapter 2 asks the map from the start: it climbs the [top-$k$ objective](../book/glossary.md#top-k-attack) $D$, whose gradient is a Hessian-vector product too, $\nabla_x D =
# H\,\partial D / \partial(\nabla_x S)$. To first order the best step inside the ball of 8/255 is the sign of that gradient. Take it at once; or take ten steps of 2/255, each along the gradient at the point where
# the last one ended.

# %% tags=["nbval-check-output"]
from fragility.attack import iterative
from fragility.objective import top_k

D, epsilon = top_k(1000), 8 / 255
x = images.clone().requires_grad_()
with softplus(1.0):
    maps = importance(simple_gradient(model, x, labels))
    (uphill,) = torch.autograd.grad(D(maps, original).sum(), x)
attack = iterative(
    model,
    images,
    labels,
    attribution=simple_gradient,
    objective=D,
    epsilon=epsilon,
    step_size=epsilon / 4,
    iterations=10,
    surrogate_beta=1.0,
)
steps = {
    "random signs": epsilon * signs,
    "one step": epsilon * uphill.sign(),
    "ten steps": attack.images - images,
}
table = []
for title, step in steps.items():
    with softplus(1.0):
        part = input_hvp(model, images, labels, step)
    formula = (length(part) / length(clean)).mean()
    inside = torch.einsum("bkchw,bchw->bk", found.directions, step)
    share = (found.values * inside / length(part)[:, None]).square()
    values = list(judged(step).values())[1:]
    cells = [f"{v:.2f}" for v in (formula, *values)]
    table.append([title, *cells, f"{share.sum(1).mean():.1%}"])
kept = int(attack.labels_kept.sum())
print(f"after the attack the label is kept on {kept} of {len(images)}")
header = ["step", "formula", "turn", "rank corr.", "top 1000"]
chapter.Table([*header, "in v1, v2"], table)

# %% mystnb={"figure": {"caption": "Ten steps of the top-k attack at 8/255: the photograph, its map, the changed photograph with the same prediction, the change, magnified, and the map of the changed photograph.", "name": "bent"}, "image": {"alt": "A cat and a cup of espresso, which look the same before and after; their speckled maps do not."}} tags=["hide-input"]
after = importance(simple_gradient(model, attack.images, labels))
parts = [p[:2] for p in (images, original, attack.images, after)]
plot.before_after(*parts, epsilon=epsilon, rows=names[:2])
plt.show()

# %% [markdown]
# To first order the one step is by far the best: it promises to turn the gradient by 73.87 times its length, and random signs by 4.72. On the network it does no more than
# noise: 1.36 against 1.33, a rank correlation of .45 against .48. The ten steps end where the formula promises less, and there the map is another: the last line has the lowest correlation, less than a tenth of the
# leading pixels is left, and every label kept. Nor do the first two eigenvectors make the attack: less than a third of what it does to first order lies along them, as 17.1 % of what noise does.
#
# So, with the pools' winners held, the Hessian at the photograph is good for the first tenth of a grey level; on the network itself jumps come in from a hundredth on. What breaks the map is to ask again after every step, as Algorithm 1 does.
#
# ## Dimension inside one network
#
# The paper's argument compares networks of different input size. Here is a cleaner experiment on one: let the perturbation
# be constant on blocks, $n \times n$ of them in each colour, and let $\delta = \pm 1/255$ on each. Every $n$ has the same $L_\infty$ *and* the same $L_2$ norm; only the number
# of free signs differs. With $B$ for the map from blocks to pixels, the direction $u$ that maximises $\|H B u\|$ is the first right singular vector of $HB$: power iteration on $B^\top\! H H B$.


# %%
def spread(u, n):
    """B u: n x n blocks as a picture."""
    block = torch.arange(227, device=device) * n // 227
    return u[:, :, block][:, :, :, block]


def collect(v, n):
    """B' v: the sums over each block."""
    block = torch.arange(227, device=device) * n // 227
    members = F.one_hot(block, n).float()
    return members.T @ v @ members


def worst_blocks(n, iterations=4):
    coins = torch.rand(2, 3, n, n, generator=generator) - 0.5
    u = coins.to(device)
    for _ in range(iterations):
        u = u / length(u).view(-1, 1, 1, 1)
        u = input_hvp(model, images[:2], labels[:2], spread(u, n))
        u = collect(input_hvp(model, images[:2], labels[:2], u), n)
    return u.sign(), coins.sign().to(device)


# %% mystnb={"figure": {"caption": "Block-constant perturbations of 1/255 on two photographs, all of one length: how far the gradient turns, by the formula and on the ReLU network (left), and the rank correlation of the network's maps (right), against the number of free signs.", "name": "blocks"}, "image": {"alt": "Left, on logarithmic axes: by the formula the turn along the worst blocks rises from 0.4 to 9, ever more steeply; on the network it rises slowly, from 0.4 to 1 along the worst and to 0.8 along random blocks. Right: the rank correlations fall from 0.9 to 0.55 and to 0.72."}} tags=["nbval-check-output"]
counts = (4, 14, 57, 227)
free = [3 * n**2 for n in counts]
seen, kept = {"worst": [], "random": []}, []
few = images[:2], labels[:2]
for n in counts:
    with softplus(1.0):
        choices = worst_blocks(n)
    for kind, choice in zip(seen, choices, strict=True):
        step = spread(choice, n) / 255
        x = (few[0] + step).clamp(0, 1)
        kept.append((length(x - few[0]) / length(step)).min())
        with softplus(1.0):
            part = input_hvp(model, *few, step)
        new = simple_gradient(model, x, few[1])
        by_formula = (length(part) / length(clean[:2])).mean()
        on_network = (length(new - relu[:2]) / length(relu[:2])).mean()
        rho = spearman(importance(new), original[:2]).mean()
        values = (by_formula, on_network, rho)
        seen[kind].append([value.item() for value in values])
worst, random = (np.array(values) for values in seen.values())

figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.4))
left.loglog(free, worst[:, 0], "o-", label="worst, formula")
left.loglog(free, worst[:, 1], "s-", label="worst, network")
left.loglog(free, random[:, 1], "s:", label="random, network")
right.semilogx(free, worst[:, 2], "s-", color="C1", label="worst")
right.semilogx(free, random[:, 2], "s:", color="C2", label="random")
left.set(xlabel="free signs", ylabel="turn of the gradient")
right.set(xlabel="free signs", ylabel="rank correlation of the maps")
left.legend()
right.legend()
plt.show()
for title, column in {"by the formula": 0, "on the network": 1}.items():
    print(f"{title}:", ", ".join(f"{y:.2f}" for y in worst[:, column]))
    slopes = np.diff(np.log(worst[:, column])) / np.diff(np.log(free))
    print("    slopes:", ", ".join(f"{slope:.2f}" for slope in slopes))
for kind, values in {"worst": worst, "random": random}.items():
    print(f"{kind}: rank correlation {values[-1, 2]:.2f} at last")
print(f"length left after clipping to [0, 1]: {min(kept):.2%}")

# %% [markdown]
# By the formula the turn along the worst blocks grows with the number of free signs to the power .22, .38 and at last .51, the square root, as for one
# neuron. That is what more pixels do to the *first order*. On the network, at a single grey level, the powers are .13, .11 and .14: from .42 to 1.14 over
# more than three thousand times as many signs, while the formula ends at 9.10. Finer patterns do turn more of the map, to a rank correlation of .56 at last, but random
# ones follow at .72, and the growth that carried the argument is lost because the gradient's turn saturates.
#
# ## Does training decide?
#
# If fragility is curvature relative to the gradient, a training may raise or lower it. Handwriting is small enough to try: a network without max-pools is trained on 4,000 digits
# for four epochs, then for four more, once as before and once on [adversarially perturbed](../book/glossary.md#adversarial-training) digits. The measure is $|\lambda_1| /
# \|\nabla_x S\|$ of the softplus copies ($\beta = 4$) on the same 200 test digits, which all three networks read correctly.


# %%
from fragility import train

digits = datasets.mnist_5k("train")
test = datasets.mnist_5k("test", limit=1000)  # all, classes mixed


def cnn(seed):
    """Strides instead of max-pools: a softplus copy has no jumps."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 16, 5, 2, 2), nn.ReLU()]
    layers += [nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten()]
    layers += [nn.Linear(32 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 10)]
    return nn.Sequential(*layers).eval()


def adversarial(net, x, y):
    """Cross entropy after one sign step of 0.1 uphill."""
    points = x.clone().requires_grad_()
    loss = F.cross_entropy(net(points), y)
    (slope,) = torch.autograd.grad(loss, points)
    worse = (x + 0.1 * slope.sign()).clamp(0, 1)
    return F.cross_entropy(net(worse), y)


def trained(net, loss):
    """A copy, trained four more epochs."""
    net = deepcopy(net)
    batches = train.Batches(digits.images, digits.labels)
    train.fit(net, batches, loss, epochs=4, progress=False)
    return net


def curvature(net, x, y):
    """The largest eigenvalue over the length of the gradient."""
    with softplus(4.0):
        top = top_directions(net, x, y, steps=16).values[:, 0].abs()
        return (top / length(simple_gradient(net, x, y))).double()


# %% tags=["nbval-check-output"]
table = []
for number in range({"fast": 1, "laptop": 2, "paper": 4}[profile]):
    short = trained(cnn(seed + number), train.cross_entropy)
    nets = {
        "4 epochs": short,
        "8 epochs": trained(short, train.cross_entropy),
        "4 + 4 adversarial": trained(short, adversarial),
    }
    answers = [net(test.images).argmax(1) for net in nets.values()]
    right = (torch.stack(answers) == test.labels).all(0)
    sample = test.images[right][:200], test.labels[right][:200]
    every = [curvature(net, *sample) for net in nets.values()]
    for (title, net), values in zip(nets.items(), every, strict=True):
        accuracy = train.accuracy(net, test.images, test.labels)
        mean = chapter.interval(*mean_interval(values))
        ratio = mean_interval((values / every[0]).log())
        ratio = chapter.interval(*(np.exp(part) for part in ratio))
        table.append([title, f"{accuracy:.1%}", mean, ratio])
chapter.Table(
    ["training", "accuracy", "curvature / gradient", "ratio"], table
)

# %% [markdown]
# Four more epochs raise the curvature by a factor of 1.49 [1.40, 1.59], four more adversarial ones by 1.30 [1.23, 1.38], and both leave fewer errors. So for these three networks
# the training decides, and the accuracy does not show it: the two that err less are the more curved ones. (An earlier edition took the first 200 digits in the order of their classes, noughts and ones, and saw no rise after the adversarial epochs.) The intervals speak for other digits, n = 200, not for other trainings: there is one network of each kind at `fast`.
#
# One number for each digit hides the rest of the spectrum. So for sixty of these digits, and the networks of the last seed, the twenty eigenvalues of largest modulus. What lies beyond them needs no eigenvalue: the sum of the squares of
# all 784 is $\|H\|_F^2 = \mathbb E\,\|Hv\|^2$ for a random $v$ of independent entries with variance 1.


# %% mystnb={"figure": {"caption": "The twenty leading eigenvalues of the input Hessian by modulus, relative to the length of the gradient: means over sixty digits with 95 % intervals, for three trainings of one network.", "name": "spectra"}, "image": {"alt": "Three falling curves on logarithmic axes. That of 4 epochs is the lowest; that of 4 + 4 adversarial begins below that of 8 epochs and ends above it."}}
def spectrum(net, x, y, count=20, probes=16):
    """Leading eigenvalues, and the sum of all squares, relative."""
    random, squares = torch.Generator().manual_seed(seed), 0
    with softplus(4.0):
        size = length(simple_gradient(net, x, y))
        top = top_directions(net, x, y, count=count, steps=48).values
        for _ in range(probes):
            v = torch.randn(x.shape, generator=random)
            hv = length(input_hvp(net, x, y, v)) / size
            squares = squares + hv.square() / probes
    return (top / size[:, None]).double(), squares.double()


sixty = sample[0][:60], sample[1][:60]
spectra = {name: spectrum(net, *sixty) for name, net in nets.items()}
figure, axes = plt.subplots(figsize=(4.8, 3.4))
for name, (values, _) in spectra.items():
    plot.curve(axes, range(1, 21), values.abs().mT, label=name)
axes.set(xscale="log", yscale="log", xlabel="number of the eigenvalue")
axes.set(ylabel="eigenvalue / gradient")
axes.legend()
plt.show()

# %% tags=["nbval-check-output"]
table = []
for name, (values, squares) in spectra.items():
    leading = values[:, 0]
    parts = {
        "the first": leading.abs(),
        "all together": squares.sqrt(),
        "effective number": squares / leading.square(),
        "share of twenty": values.square().sum(1) / squares,
        "first positive": leading > 0,
    }
    means = [mean_interval(part) for part in parts.values()]
    table.append([name, *(chapter.interval(*part) for part in means)])
chapter.Table(["60 digits", *parts], table)

# %% [markdown]
# The two longer trainings end with the same curvature all together, 1.37 and 1.38, and share it out differently. After the adversarial one the first eigenvalue is smaller, .55 against .69, and the others are larger: the effective number of directions, $\|H\|_F^2/\lambda_1^2$, is 7.00 [6.38, 7.62] against 4.93 [4.38, 5.55], and the first twenty of 784 hold .69 of the squares where
# they hold .82. Which of the two networks is the more fragile depends on whether one asks for the worst direction or for a random one; and an attack may use them all.
#
# An eigenvalue has a sign, and here the first is mostly negative: positive on .13, .10 and .05 of the digits. Along $v_1$ the score of the label lies below its tangent on both sides. The [next chapter](05_orthogonality.ipynb) splits the angles between score and fragile direction (O1) by this sign: on CIFAR-10 they lie nearer to a right angle where it is negative.
#
# ## What follows, and what does not
#
# - Fragility of gradients needs curvature, or jumps, relative to the size of the gradient.
# - The one-neuron argument explains why raw gradients grow or shrink with an $L_\infty$ perturbation in high dimension. It does *not* explain why
#   normalised maps change; for that units have to disagree.
# - "Dimension" in the argument is the ratio between the $L_2$ and the $L_\infty$ size of a perturbation. Whether one calls that a property of the model or of
#   the threat model is a matter of taste, but it should be said.
# - On the paper's network the Hessian tells in which direction gradients bend, within a tenth of a grey level and between the jumps. What a perturbation of a whole
#   grey level or more does is decided by what the Hessian does not contain: saturation of the bend, and jumps of the max-pools. The step of 8/255 that is best to
#   first order does no more than noise; an attack succeeds by looking again.
# - The direction that turns the gradient most is a spot, and turns the map less than noise of the same length.
#
# ## Claimed, published, measured
#
# H1 asks for changes of at most $10^{-12}$; H2 for a slope near one half on raw gradients, with normalised maps and the second arm reported apart; H3 for equal signs up
# to one common sign. The [ledger](../book/claims.md) has every condition.

# %%
chapter.ledger("H1", "H2", "H3")

# %% [markdown]
# ## Strengths, limitations, software
#
# **Strengths**: closed forms where possible; the paper's own network and real photographs; the formula held against what happens.
#
# **Limitations**: four photographs, two for the blocks; the Hessian of a ReLU network does not exist, so everything about curvature is about the softplus
# copy at one $\beta$; one network trained at `fast`.
#
# **Software**: this package's `fragility.curvature`; PyHessian ([Yao et al. 2020](../book/bibliography.md)) computes spectra with respect to parameters rather than pixels.
#
# **To run it.** The second code cell sets the profile: how many networks of digits are trained.
#
# | in class | to run at `fast` | at `laptop` | at `paper` |
# |---|---|---|---|
# | 60 minutes | about a minute ([seconds](../book/status.md)) | a minute | two minutes |
#
# ## Exercises
#
# Solutions follow folded. The student's version of this notebook (`make student`) leaves them out.
#
# ### Warm-up
#
# A picture is bounded: pixels lie in $[0, 1]$. Does that change how $\|\delta\|_2/\|x\|_2$ behaves with dimension for real photographs, compared
# with $\|x\|_2 = 1$?

# %% tags=["solution", "hide-cell", "nbval-check-output"]
for size in (28, 227):
    smaller = F.interpolate(images, size=(size, size), mode="area")
    norm = length(smaller).mean()
    ratio = 2 / 255 * smaller[0].numel() ** 0.5 / norm
    print(f"{size} pixels a side: |x| = {norm:.0f}, ratio {ratio:.4f}")
# With pixels of order one |x| grows like the square root of d too, and
# a fixed epsilon is a fixed relative size, .0157 and .0154: the second
# arm. What then grows with d is w . x, unless |w| shrinks.

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
w, (_, x) = torch.linalg.qr(gaussian(50, 2))[0], draw(50)
v = torch.ones(2).double()
still = w @ (1 / torch.sigmoid(-(w.T @ x + 1)))  # a = 1 / (1 - g')
change = [
    turn(w, v, x, 1e-4 * delta / delta.norm())[1]
    for delta in (w[:, 0], still)
]
ratio = change[0] / change[1]
print(f"along w_1 the map changes {ratio:.0e} times as much")

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
ends, rest = torch.tensor([1.0, -0.999]), torch.linspace(-0.9, 0.9, 98)
matrix = torch.diag(torch.cat([ends, rest]).double())
vector = torch.full((100,), 0.1).double()
products = [vector]
for _ in range(40):
    vector = matrix @ vector / (matrix @ vector).norm()
    products.append(vector)
basis = torch.linalg.qr(torch.stack(products, 1))[0]
ritz = torch.linalg.eigvalsh(basis.T @ matrix @ basis)
print(f"40 products: power iteration {vector @ matrix @ vector:.3f},")
print(f"    Lanczos {ritz[-1]:.6f}")

# %% [markdown]
# ### Open
#
# The table of trainings divides by the length of the gradient. Which other normalisation would make the numbers comparable between networks
# whose logits differ by a factor? And which between networks of different depth? We know of no answer to the second that everybody accepts.

# %% [markdown] tags=["solution"]
# <details><summary><b>Solution</b></summary>
#
# Any homogeneous one: scaling all logits by $c$ scales gradient and Hessian by $c$. The relative change of the gradient,
# $\|H\delta\|/\|\nabla S\|$, is invariant, and so is the visible part $\|r\|/\|\nabla S\|$ of the split above, which is the one that a map shows.
#
# </details>

# %% tags=["solution", "hide-cell", "nbval-check-output"]
loud = deepcopy(short)
loud[-1].weight.data *= 3  # three times the logits
loud[-1].bias.data *= 3
ratio = (curvature(loud, *sample) / curvature(short, *sample)).mean()
print(f"curvature over gradient, times {ratio:.3f}")
