# %% [markdown]
# # Interpretation methods
#
# A network looks at a picture and says *three*. Which pixels made it say so? This chapter builds the three answers that
# the paper later attacks, each as a formula and as the few lines of code that are the formula; checks what they
# promise; and asks how alike two answers are, because "the interpretation changed" means nothing without a measure.
#
# **After this chapter you can**
#
# - compute an [importance map](../book/glossary.md#importance-map) by the [simple gradient](../book/glossary.md#simple-gradient), by [integrated gradients](../book/glossary.md#integrated-gradients) and by [DeepLIFT](../book/glossary.md#deeplift), and say what each sums to;
# - choose a [baseline](../book/glossary.md#baseline) and a number of steps knowing what they change;
# - read [Spearman's correlation](../book/glossary.md#rank-correlation), Kendall's tau, [top-$k$ intersection](../book/glossary.md#top-k-intersection) and [centre shift](../book/glossary.md#centre-of-mass), and know what each one misses.
#
# | in class | to run at `fast` | at `laptop` | at `paper` |
# |---|---|---|---|
# | 50 minutes | under a minute ([seconds](../book/status.md)) | some minutes on two cores | twice the steps of `laptop` |

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
profile: str = "fast"  # digits; laptop, paper: photographs
seed: int = 0  # of the images drawn and the initial weights

# %% tags=["remove-cell"]
import matplotlib.pyplot as plt
import torch
from torch import nn

from fragility import chapter, network, plot, train
from fragility.data import datasets
from fragility.attribution import (
    ATTRIBUTIONS,
    deeplift,
    importance,
    integrated_gradients,
    simple_gradient,
)
from fragility.similarity import (
    center_shift,
    kendall,
    spearman,
    top_k_intersection,
)

device = chapter.start(profile=profile, seed=seed)

# %% [markdown]
# ## A network and a few pictures
#
# At `fast` the pictures are the handwritten digits that come with scikit-learn, and the network is a small one with
# two convolutions and two max-pools, trained here. At `laptop` and `paper` they are photographs that are free to
# redistribute, and the network is the paper's own SqueezeNet.

# %%
if profile == "fast":
    training, test = datasets.digits("train"), datasets.digits("test")
    model = network.digits_cnn(seed=seed)
    train.fit_cached(
        model,
        training.images,
        training.labels,
        epochs=12,
        progress=False,
    )
    accuracy = train.accuracy(model, test.images, test.labels)
    print(f"test accuracy {accuracy:.3f} on {len(test)} digits")
    shown = datasets.sample(test, 4, seed=seed)
    mean_image, k, steps = training.images.mean(0), 100, 100
else:
    model, shown = network.squeezenet(), datasets.photographs()
    mean_image = shown.images.mean((0, 2, 3)).view(3, 1, 1)
    k, steps = 1000, 50 if profile == "laptop" else 100

model, mean_image = model.to(device), mean_image.to(device)
images = shown.images.to(device)
labels = model(images).argmax(1)  # what is explained is the prediction
names = [
    shown.class_names[label].split(",")[0] for label in labels.tolist()
]
print("predicted:", ", ".join(names))
print(shown.source)

# %% [markdown]
# ## Simple gradient
#
# The score of class $l$ is the [logit](../book/glossary.md#logit) $S_l(x)$, before the softmax. Its gradient says how much the score would
# change per unit of change of each pixel, near the picture as it is ([Baehrens et al. 2010](../book/bibliography.md); [Simonyan et al. 2014](../book/bibliography.md)). The
# paper takes absolute values, adds up the colour channels, and divides by the sum, so that a map is a distribution of
# importance over the pixels:
#
# $$R(x)_j = \frac{|\nabla_x S_l(x)_j|}{\sum_i |\nabla_x S_l(x)_i|}.$$


# %%
def gradient_by_hand(model, images, labels):
    x = images.clone().requires_grad_()
    # pictures do not mix: one sum gives all gradients
    score = model(x)[range(len(x)), labels].sum()
    return torch.autograd.grad(score, x)[0]


def importance_by_hand(attributions):
    maps = attributions.abs().sum(1)
    return maps / maps.sum((1, 2), keepdim=True)


by_hand = importance_by_hand(gradient_by_hand(model, images, labels))
library = importance(simple_gradient(model, images, labels))
print(
    f"largest difference from the package: {(by_hand - library).abs().max():.0e}"
)

# %% [markdown]
# The package's version accepts any `nn.Module`, checks its input, and can be differentiated once more, which is what an
# attack needs. Everything below uses it.
#
# ## Integrated gradients
#
# A unit that is saturated has no gradient, however much it mattered on the way there. Integrated gradients
# ([Sundararajan et al. 2017](../book/bibliography.md)) collect the gradient along the straight path from a reference $x^0$, the *baseline*, to the picture,
# here with the paper's right Riemann sum of $M$ terms:
#
# $$
# \begin{aligned}
# \mathrm{IG}(x) &= (x - x^0) \odot \frac{1}{M} \sum_{k=1}^{M} \nabla_x S_l(x^k),\\
# x^k &= x^0 + \tfrac{k}{M}(x - x^0).
# \end{aligned}
# $$
#
# By the fundamental theorem of calculus the [attributions](../book/glossary.md#attribution) sum to $S_l(x) - S_l(x^0)$ in the limit: *[completeness](../book/glossary.md#completeness)*.


# %%
def integrated_gradients_by_hand(model, images, labels, steps):
    path = [
        k / steps * images for k in range(1, steps + 1)
    ]  # from black: x0 = 0
    gradients = [gradient_by_hand(model, x, labels) for x in path]
    return images * torch.stack(gradients).mean(0)


by_hand = integrated_gradients_by_hand(model, images, labels, 8)
library = integrated_gradients(model, images, labels, steps=8)
print(
    f"largest difference from the package: {(library - by_hand).abs().max():.0e}"
)


def score(x, labels=labels, model=model):
    return model(x).gather(1, labels[:, None]).flatten()


counts = (
    [5, 10, 20, 40, 80, 160] if profile == "fast" else [5, 10, 20, 40]
)
gap = score(images) - score(torch.zeros_like(images))
attributions = [
    integrated_gradients(model, images, labels, steps=m) for m in counts
]
errors = (torch.stack(attributions).sum((2, 3, 4)) - gap).abs().cpu()

# %% [markdown]
# **Predict.** With $M$ steps the sum misses $S_l(x) - S_l(x^0)$ by some error. Take twice as many steps: is the error half of it,
# a quarter, or gone? Write your guess down, then look.

# %% mystnb={"figure": {"caption": "Completeness error of integrated gradients against the number of steps M, one line per picture, both axes logarithmic. The dashed line has slope -1.", "name": "completeness"}, "image": {"alt": "Falling lines on logarithmic axes that follow a dashed line of slope minus one."}} tags=["hide-input"]
figure, axes = plt.subplots(figsize=(5.6, 3.4))
for row, name in enumerate(names):
    axes.loglog(
        counts, errors[:, row], marker="o", markersize=4, label=name
    )
middle = (
    errors.log().mean().exp() * torch.tensor(counts).log().mean().exp()
)
axes.loglog(
    counts,
    [middle / m for m in counts],
    "k--",
    linewidth=1,
    label="1 / M",
)
axes.set(
    xlabel="number of steps M", ylabel="|sum of IG - (S(x) - S(x0))|"
)
axes.legend(fontsize=9)
plt.show()

# %% [markdown] tags=["answer", "solution"]
# <details><summary><b>Answer</b></summary>
#
# Compare the slope of the lines with that of the dashed one, along which twice the steps leave half the error. A right
# Riemann sum takes every interval's value at its end, and so errs by half a step's worth of the function's total change: order
# $1/M$. A quarter would be the midpoint rule on a smooth network (an exercise below); lines that wiggle show the kinks of the ReLUs.
#
# </details>

# %% [markdown]
# ## DeepLIFT
#
# DeepLIFT ([Shrikumar et al. 2017](../book/bibliography.md)) also compares with a reference, but passes the *difference from the reference* back
# through the network layer by layer. With the Rescale rule, an activation $f$ that went from $f(z^0)$ to $f(z)$ passes
# on its secant instead of its slope:
#
# $$m = \frac{f(z) - f(z^0)}{z - z^0}.$$
#
# One ReLU shows the point. At $z = -0.1$ its slope is 0 and the gradient says that the input does not matter; the
# reference at $z^0 = 2$ says that it took the output from 2 to 0.

# %%
z, z0 = torch.tensor(-0.1), torch.tensor(2.0)
print(
    f"slope {float(z > 0):.0f}, secant {((z.relu() - z0.relu()) / (z - z0)):.3f}"
)

# %% [markdown]
# For fixed $x$ and $x^0$ a network whose activations are replaced by such secants is *linear*, and its gradient is the
# product of all the multipliers. So the package sends the reference through the unchanged model and records what every
# activation did, sends the images through it with a secant for the derivative of every activation, and takes the gradient
# of the scores. That is all of it:

# %%
from fragility._rescale import multiply, record

reference = torch.zeros_like(images)
along = record(model, reference)
secants = multiply(model, images, labels, along, create_graph=False)
by_hand = secants.values * (images - reference)

attributions = deeplift(model, images, labels)
print(
    f"largest difference from the package: {(attributions - by_hand).abs().max():.0e}"
)
error = (
    attributions.sum((1, 2, 3)) - gap
).abs().max() / gap.abs().max()
print(
    f"sum of the attributions against S(x) - S(x0): relative error {error:.0e} (float32)"
)

# %% [markdown]
# ## Three answers to one question
#
# **Predict.** The same network, the same pictures, three methods. Which two of the three will agree best, and why?

# %% mystnb={"figure": {"caption": "Importance maps of the predicted class by the three methods. Dark is unimportant; baseline black.", "name": "three-methods"}, "image": {"alt": "Rows of pictures with three heat maps each: speckled for the simple gradient, confined to the bright parts of the picture for integrated gradients and DeepLIFT."}} tags=["hide-input"]
maps = {
    name: importance(
        method(
            model,
            images,
            labels,
            **(
                {"steps": steps}
                if name == "integrated_gradients"
                else {}
            ),
        )
    )
    for name, method in ATTRIBUTIONS.items()
}
plot.grid(
    {"image": shown.images}
    | {plot.NAMES[name]: part for name, part in maps.items()},
    rows=names,
)
plt.show()

# %% tags=["hide-input", "nbval-check-output"]
pairs = [
    ("simple_gradient", "integrated_gradients"),
    ("simple_gradient", "deeplift"),
    ("integrated_gradients", "deeplift"),
]
chapter.Table(
    ["two methods", "Spearman correlation"],
    [
        [
            f"{plot.NAMES[first]}, {plot.NAMES[second]}",
            f"{spearman(maps[first], maps[second]).mean():.2f}",
        ]
        for first, second in pairs
    ],
)

# %% [markdown] tags=["answer", "solution"]
# <details><summary><b>Answer</b></summary>
#
# The table's largest number is the answer. Integrated gradients and DeepLIFT both multiply by $x - x^0$: where the picture equals
# its baseline, importance is zero by construction, whatever the network does. What looks like a network that attends to the strokes
# is partly the picture shining through.
#
# </details>

# %% [markdown]
# The methods disagree, on the same network and the same picture, before anybody attacks anything.
#
# ## What the methods promise, checked
#
# Integrated gradients were derived from axioms. Here they are as numbers, in double precision, on the network above. The
# claim is M1 in the book's ledger.

# %%
exact = (
    network.digits_cnn(seed=seed)
    if profile == "fast"
    else network.squeezenet()
)
exact.load_state_dict(
    {key: value.cpu() for key, value in model.state_dict().items()}
)
exact = exact.double()
x, y = shown.images[:2].double(), labels[:2].cpu()
x0 = torch.full_like(x, 0.3)
few = {"steps": 20, "baseline": x0}


class Combination(nn.Module):
    """2 S(x) - S(1 - x) / 2, a linear combination of two networks."""

    def forward(self, x):
        return 2 * exact(x) - exact(1 - x) / 2


class Mirrored(nn.Module):
    def forward(self, x):
        return exact(1 - x)


class Rewritten(nn.Module):
    """The same function by other arithmetic."""

    def forward(self, x):
        return (exact(x) * 3 + exact(x)) / 4


def relative(a, b):
    return float((a - b).abs().max() / b.abs().max())


checks = {}
gap = score(x, y, exact) - score(x0, y, exact)
checks["completeness, DeepLIFT"] = relative(
    deeplift(exact, x, y, baseline=x0).sum((1, 2, 3)), gap
)

bend = (
    nn.Sequential(
        nn.Flatten(), nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1)
    )
    .double()
    .eval()
)
bend.load_state_dict(
    {
        "1.weight": torch.tensor([[-2.0, 0.0]]),
        "1.bias": torch.ones(1),
        "3.weight": -torch.ones(1, 1),
        "3.bias": torch.ones(1),
    }
)
point, zero = (
    torch.tensor([1.0, 0.5]).double().view(1, 1, 1, 2),
    torch.tensor([0]),
)
shares = {
    name: method(bend, point, zero).flatten()
    for name, method in ATTRIBUTIONS.items()
}
checks["sensitivity (b), unused pixel"] = max(
    abs(float(share[1])) for share in shares.values()
)
checks["implementation invariance"] = relative(
    integrated_gradients(Rewritten().eval(), x, y, **few),
    integrated_gradients(exact, x, y, **few),
)
checks["linearity"] = relative(
    integrated_gradients(Combination().eval(), x, y, **few),
    2 * integrated_gradients(exact, x, y, **few)
    - integrated_gradients(Mirrored().eval(), x, y, **few) / 2,
)
pair = torch.tensor([0.7, 0.7]).double().view(1, 1, 1, 2)
twins = (
    nn.Sequential(
        nn.Flatten(), nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)
    )
    .double()
    .eval()
)
twins[1].weight.data[:, 1] = twins[1].weight.data[:, 0]
first, second = integrated_gradients(twins, pair, zero).flatten()
checks["symmetry"] = float((first - second).abs() / first.abs())

# %% [markdown]
# Sensitivity (a) is the odd one out. The example is $S(x) = 1 - \mathrm{ReLU}(1 - 2x)$ at $x = 1$: the score rose from 0 to
# 1 on the way from the black baseline, but is flat by now. The simple gradient gives nothing, IG gives the whole
# change up to its Riemann error.

# %% tags=["nbval-check-output"]
chapter.Table(
    ["sensitivity (a)", "attribution of the pixel that did it"],
    [
        [plot.NAMES[name], f"{share[0]:.2f}"]
        for name, share in shares.items()
    ],
)

# %% tags=["nbval-check-output"]
chapter.Table(
    ["identity", "holds to 1e-10"],
    [
        [name, "yes" if value <= 1e-10 else f"NO, off by {value:.0e}"]
        for name, value in checks.items()
    ],
)

# %% [markdown]
# ## The baseline is a question
#
# IG and DeepLIFT explain a *difference*, and the baseline says from what. Black asks why this picture rather than
# darkness; the mean picture asks why this one rather than an average one. The paper uses mean pictures. Change the
# baseline and, with nothing else touched, the map changes:

# %% mystnb={"figure": {"caption": "Integrated gradients of one picture for four baselines. Below each map, its Spearman correlation with the one for the black baseline.", "name": "baselines"}, "image": {"alt": "One picture and four heat maps that differ: with a black baseline the dark background has no importance, with a white baseline it has."}} tags=["hide-input"]
baselines = {
    "black": 0.0,
    "white": 1.0,
    "mean image": mean_image,
    "noise": torch.rand(
        images.shape[1:], generator=torch.Generator().manual_seed(seed)
    ).to(device),
}
one, its_label = images[:1], labels[:1]
by_baseline = {
    title: importance(
        integrated_gradients(
            model, one, its_label, baseline=baseline, steps=steps
        )
    )
    for title, baseline in baselines.items()
}
agreement = {
    title: [f"rho = {spearman(by_baseline['black'], part).item():.2f}"]
    for title, part in by_baseline.items()
}
plot.grid(
    {"image": shown.images[:1]} | by_baseline,
    rows=names[:1],
    notes=agreement,
)
plt.show()

# %% [markdown]
# And the number of steps? The maps settle long before the sum does: the top of the ranking is decided by large gradients that few
# steps already find. The next figure compares each map with the one for the largest $M$.

# %% mystnb={"figure": {"caption": "How similar the IG map for M steps is to the map for the largest M: Spearman correlation and top-k intersection, mean over the pictures shown.", "name": "steps"}, "image": {"alt": "Two rising curves that approach one as the number of steps grows."}} tags=["hide-input"]
by_steps = {
    m: importance(integrated_gradients(model, images, labels, steps=m))
    for m in counts
}
finest = by_steps[counts[-1]]
figure, axes = plt.subplots(figsize=(5.6, 3.2))
axes.semilogx(
    counts,
    [spearman(part, finest).mean().cpu() for part in by_steps.values()],
    "o-",
    label="Spearman",
)
top = [
    top_k_intersection(part, finest, k).mean().cpu()
    for part in by_steps.values()
]
axes.semilogx(counts, top, "s-", label=f"top-{k} intersection")
axes.set(
    xlabel="number of steps M", ylabel="similarity", ylim=(None, 1.02)
)
axes.legend()
plt.show()

# %% [markdown]
# ## What normalising does
#
# Dividing by the sum makes maps comparable and throws away two things. Sign: a pixel that speaks against the class
# counts as much as one that speaks for it. And size: multiply all logits by ten and every gradient grows tenfold while
# the map stays as it is. A perturbation that makes *every* pixel ten times as important is invisible to every metric
# below. The [Hessian](../book/glossary.md#hessian) decides which of the two a small perturbation can do.

# %% tags=["nbval-check-output"]


class Louder(nn.Module):
    def forward(self, x):
        return 10 * exact(x)


loud, soft = (
    simple_gradient(Louder().eval(), x, y),
    simple_gradient(exact, x, y),
)
print(
    f"gradients grow by a factor of {(loud.norm() / soft.norm()):.1f}"
)
print(
    f"the maps move by less than 1e-12: {bool((importance(loud) - importance(soft)).abs().max() < 1e-12)}"
)
negative = [
    float((method(exact, x, y) < 0).double().mean())
    for method in ATTRIBUTIONS.values()
]
print(
    f"share of negative attributions, whose sign the map forgets: {min(negative):.2f} to {max(negative):.2f}"
)

# %% [markdown]
# ## How alike are two maps?
#
# | metric | reads | 1 or 0 px means |
# |---|---|---|
# | Spearman's $\rho$ | the ranking of all pixels | same ranking |
# | Kendall's $\tau$ | the share of pixel pairs in the same order | same ranking |
# | top-$k$ intersection | which pixels lead | same leaders, in any order |
# | centre shift | where the mass lies, in pixels | same centre of mass |
#
# Take a map and change it in ways whose meaning we know.
#
# **Predict.** Which metric will hardly notice that the map was moved by one pixel, and which will? Which does not see at all that the
# unimportant pixels were shuffled? Which does not see a square root?

# %% tags=["nbval-check-output", "hide-input"]
original = maps["simple_gradient"].cpu().double()
original = original / original.sum((1, 2), keepdim=True)
height, width = original.shape[1:]
generator = torch.Generator().manual_seed(seed)
flat = original.flatten(1)
order = flat.argsort(1, descending=True)


def shuffled(rows):
    """Permute the values at the given places of the ranking."""
    places = order[:, rows]
    mixed = places[
        :, torch.randperm(places.shape[1], generator=generator)
    ]
    return (
        flat.clone()
        .scatter_(1, places, flat.gather(1, mixed))
        .view_as(original)
    )


changes = {
    "moved by one pixel": original.roll(1, 2),
    "the top k shuffled among themselves": shuffled(slice(0, k)),
    "all but the top k shuffled": shuffled(slice(k, None)),
    "everything shuffled": shuffled(slice(0, None)),
    "square root of every value": original.sqrt(),
    "turned by 180 degrees": original.flip((1, 2)),
}


def row(name, changed):
    rho, tau = (
        spearman(original, changed).mean(),
        kendall(original, changed).mean(),
    )
    top, shift = (
        top_k_intersection(original, changed, k).mean(),
        center_shift(original, changed).mean(),
    )
    return [
        name,
        f"{rho:.2f}",
        f"{tau:.2f}",
        f"{top:.2f}",
        f"{shift:.1f} px",
    ]


chapter.Table(
    ["change", "rho", "tau", f"top-{k}", "shift"],
    [row(name, changed) for name, changed in changes.items()],
)

# %% [markdown] tags=["answer", "solution"]
# <details><summary><b>Answer</b></summary>
#
# Read the table by columns. The centre shift hardly notices one pixel; both correlations and the intersection do, as they do not know that
# neighbouring pixels are neighbours. The top-$k$ intersection is blind to everything below its leaders. The square root is
# monotone, so that no rank metric sees it; the centre does, because it weighs by size.
#
# </details>

# %% [markdown]
# ## What follows, and what does not
#
# - A map answers a question that its maker chose: slope or difference, from which baseline, in how many steps. Two maps that
#   disagree may both be right.
# - Axioms say that a method keeps its books in order. They do not say that the map shows what a person would call the reason.
# - A map moved by one pixel looks the same to a person and different to a correlation. The centre shift is the
#   opposite: it sees where the mass is and nothing else. The paper found that it agrees best with what people call a different map.
# - Two unrelated maps share $k/N$ of their leaders, so that chance is not 0.
# - An attack that is judged by one metric can be tuned to it. This is why every table in this book reports several.
#
# ## Claimed, published, measured
#
# The rule asks every identity to hold to $10^{-10}$, in double precision on networks of its own; the [ledger](../book/claims.md) lists
# them.

# %% tags=["hide-input"]
chapter.ledger("M1")

# %% [markdown]
# ## Strengths, limitations, software
#
# | | simple gradient | integrated gradients | DeepLIFT (Rescale) |
# |---|---|---|---|
# | says | local slope of the score | share of $S(x) - S(x^0)$ along a straight path | share of $S(x) - S(x^0)$ through secants |
# | cost, in gradients | 1 | $M$ | about 3 forward passes and 1 backward |
# | strengths | no choices to make; any network | axioms; any differentiable network | complete without steps; sees through saturation |
# | limitations | saturates; noisy in ReLU networks | baseline; path leaves the data; maps inherit the picture | baseline; needs a rule for every layer; differs between two implementations of one function |
# | software | Captum `Saliency` | Captum `IntegratedGradients` | Captum `DeepLift`, the authors' `deeplift` |
#
# None of those implementations can be differentiated once more for all three methods, which is what the
# [next chapter](02_attacks.ipynb) needs. For a critique of all three, see [Adebayo et al. (2018)](../book/bibliography.md): some maps change little
# when the network's weights are replaced by random ones.

# %% [markdown]
# ## Exercises
#
# Solutions follow folded. The student's version of this notebook (`make student`) leaves them out.
#
# ### Warm-up
#
# The gradient of one network and the gradient times its input are both called saliency. Compute the map of
# $x \odot \nabla_x S$ and its Spearman correlation with the two maps it lies between. Which one is it closer to, and why?

# %% tags=["solution", "hide-cell"]
product = importance(images * simple_gradient(model, images, labels))
for name in ("simple_gradient", "integrated_gradients"):
    print(
        f"{plot.NAMES[name]}: {spearman(product, maps[name]).mean():.2f}"
    )
# Closer to integrated gradients: both carry the factor x - x0 (black: x), which orders most of the pixels by itself.

# %% [markdown]
# ### Core
#
# The right Riemann sum errs by order $1/M$. Write integrated gradients with the midpoint rule, evaluating at
# $(k - \tfrac12)/M$, and compare the completeness errors of both at $M = 10$ and $M = 40$ in double precision. What order would a smooth network
# show, and what do the kinks of a ReLU network do to it?

# %% tags=["solution", "hide-cell"]
true_gap = score(x, y, exact) - score(torch.zeros_like(x), y, exact)


def midpoint(steps):
    points = [(k - 0.5) / steps for k in range(1, steps + 1)]
    return x * torch.stack(
        [simple_gradient(exact, alpha * x, y) for alpha in points]
    ).mean(0)


for m in (10, 40):
    sums = (
        midpoint(m).sum((1, 2, 3)),
        integrated_gradients(exact, x, y, steps=m).sum((1, 2, 3)),
    )
    middle_error, right_error = (
        float((part - true_gap).abs().mean()) for part in sums
    )
    print(
        f"M = {m}: midpoint {middle_error:.1e}, right {right_error:.1e}"
    )
# A smooth network: order 1/M^2. With kinks the gradient jumps along the path, and each jump costs up to its size
# over M whatever the rule, so that the midpoint rule is better by a factor but not by an order.

# %% [markdown]
# ### Open
#
# A sanity check (Adebayo et al. 2018): give the last layer random weights and compare the maps before and
# after. A method that explains the network has to notice. Then design the check that you would ask of a method before trusting it.

# %% tags=["solution", "hide-cell"]
import copy

scrambled = copy.deepcopy(exact)
last = [
    part
    for part in scrambled.modules()
    if isinstance(part, (nn.Linear, nn.Conv2d))
][-1]
with torch.random.fork_rng([]):
    torch.manual_seed(seed + 1)
    nn.init.kaiming_normal_(last.weight)
rows = []
for name, method in ATTRIBUTIONS.items():
    options = {"steps": 20} if name == "integrated_gradients" else {}
    kept = spearman(
        importance(method(exact, x, y, **options)),
        importance(method(scrambled, x, y, **options)),
    )
    rows.append([plot.NAMES[name], f"{kept.mean():.2f}"])
# Methods with the factor x - x0 keep a high correlation although the explained function is another one: what
# they keep is the picture.
chapter.Table(["method", "Spearman, trained against scrambled"], rows)
