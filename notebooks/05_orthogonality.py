# %% [markdown]
# # Are score and explanation fragile in different directions?
#
# An attack on [an explanation](../book/glossary.md#importance-map) has to change the map and [leave the prediction](../book/glossary.md#label-kept) alone. Two directions matter for that, and here they are for
# four photographs: the gradient of the score, along which the *score* rises fastest, and the most [fragile direction](../book/glossary.md#fragile-direction) of the previous chapter, along which that *gradient*
# turns fastest. If the two were one and the same, no attack could do the one without the other.

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
profile: str = "fast"  # digits per class: fast 20, laptop 40, paper 80
seed: int = 0  # of the training and of all that is drawn

# %% tags=["remove-cell"]
import matplotlib.pyplot as plt
import torch

from fragility import chapter, network, plot
from fragility.attribution import importance, simple_gradient
from fragility.curvature import angle, top_directions
from fragility.data import datasets
from fragility.surrogate import SoftplusNetwork

# denormal numbers make a softplus several times slower on a CPU
torch.set_flush_denormal(True)
device = chapter.start(profile=profile, seed=seed)
generator = torch.Generator().manual_seed(seed)

# %% mystnb={"figure": {"caption": "Four photographs; the gradient of the predicted class's score, by the size of its entries; the most fragile direction; and the angle between the two.", "name": "two-directions"}, "image": {"alt": "Four photographs in columns. The gradients are speckled all over; the fragile directions are single spots."}} tags=["hide-input"]
squeezenet = network.squeezenet().to(device)
shown = datasets.photographs()
photos = shown.images.to(device)
classes = squeezenet(photos).argmax(1)
copy = SoftplusNetwork(squeezenet, 1.0)  # for every ReLU a softplus
uphill = simple_gradient(copy, photos, classes)
found = top_directions(copy, photos, classes, steps=12)
spots = found.directions[:, 0]
names = [shown.class_names[label] for label in classes.tolist()]
maps = zip(photos, importance(uphill), importance(spots), strict=True)
degrees = zip(names, angle(uphill, spots).tolist(), strict=True)
notes = {name: ["", "", f"{theta:.1f}°"] for name, theta in degrees}
titles = ["photograph", "gradient", "most fragile"]
plot.grid(dict(zip(names, maps, strict=True)), rows=titles, notes=notes)
plt.show()

# %% [markdown]
# The angles lie between 70.8 and 89.2 degrees. The paper finds large ones on CIFAR-10, calls the directions "generally orthogonal", which it gives as the reason why
# explanations can change while the prediction does not (its appendices F and H, Fig. 11). But in high dimension *any* two directions are nearly orthogonal. This chapter measures the angles,
# compares them with what chance alone would give, and then asks the question by intervention rather than by angle.
#
# **After this chapter you can**
#
# - measure the angle between the gradient of the score and the top direction of its [Hessian](../book/glossary.md#hessian), and say how trustworthy that direction is;
# - build the [null distribution](../book/glossary.md#permutation-null) that a claim of orthogonality needs, and read a result that contradicts it;
# - turn a correlational argument into a causal one by taking a direction away from an attack, with controls.
#
# ## The angle
#
# Let $g = \nabla_x S_l(x)$ be the gradient of the label's [logit](../book/glossary.md#logit) and $v_1$ the eigenvector of the input Hessian with the eigenvalue of largest
# modulus. Neither sign nor length matters, so the angle between the two *lines* is
#
# $$\theta = \arccos\frac{|g^\top v_1|}{\|g\|\,\|v_1\|} \in [0°, 90°].$$
#
# Four photographs are too few for a distribution, and SqueezeNet's Hessian is that of a [softplus copy](../book/glossary.md#softplus-surrogate). The paper trains its network with ReLU, replaces it by softplus
# ($\beta = 1$) and trains again from there. The same here, on 4,000 digits of MNIST, with strides in place of max-pools ([chapter 4](04_hessian.ipynb) says why):


# %% tags=["nbval-check-output"]
from copy import deepcopy

from torch import nn

from fragility import train

training, test = datasets.mnist_5k("train"), datasets.mnist_5k("test")
batches = train.Batches(training.images, training.labels)
torch.manual_seed(seed)
layers = [nn.Conv2d(1, 16, 5, 2, 2), nn.ReLU()]
layers += [nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten()]
layers += [nn.Linear(32 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 10)]
relu = nn.Sequential(*layers)
train.fit(relu, batches, train.cross_entropy, epochs=4, progress=False)
model = SoftplusNetwork(deepcopy(relu), 1.0)
train.fit(model, batches, train.cross_entropy, epochs=2, progress=False)
smooth = train.accuracy(model, test.images, test.labels)
accuracy = train.accuracy(relu, test.images, test.labels)
print(f"test accuracy {accuracy:.1%}, with softplus {smooth:.1%}")

# %% [markdown]
# The same number of correctly classified digits from every class, class by class, each with its gradient and its five most fragile directions:

# %% tags=["nbval-check-output"]
per_class = {"fast": 20, "laptop": 40, "paper": 80}[profile]
right = model(test.images).argmax(1) == test.labels
rows = [
    (right & (test.labels == label)).nonzero()[:per_class, 0]
    for label in range(10)
]
images, labels = (
    test.images[torch.cat(rows)],
    test.labels[torch.cat(rows)],
)
gradients = simple_gradient(model, images, labels)
fragile = top_directions(model, images, labels, count=5, steps=40)
v1 = fragile.directions[:, 0]
residual, gap = fragile.residual[:, 0].max(), fragile.gap.median()
print(f"{len(images)} digits, median angle", end=" ")
print(f"{angle(gradients, v1).median():.1f} degrees")
print(f"largest residual of a first direction: {residual:.0e}")
print(f"median gap to the second eigenvalue: {gap:.0%}")

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
# **Predict.** Which angle do two random directions make in 784 dimensions? And is the angle of a matched pair larger than that of a mismatched one, smaller, or
# the same?
#
# - near 45 degrees; matched pairs make the smaller angle
# - near 90 degrees; matched pairs make the larger one
# - near 90 degrees; matched pairs make the smaller one
# - near 90 degrees; the two are the same

# %% mystnb={"code_prompt_show": "Look: three histograms", "code_prompt_hide": "Fold", "figure": {"caption": "Angles between the score's gradient and the most fragile direction for digits: of the same image, of another image of the same class, and of a random direction.", "name": "angles"}, "image": {"alt": "Three overlaid histograms of angles from 0 to 90 degrees; the random one is a spike near 90, the matched and mismatched ones are wide, the matched one further left."}} tags=["hide-output", "nbval-check-output"]
from torch.nn import functional as F


def squared_cosines(a, b):
    """Of all pairs of gradients (n, ...) and directions (n, ...)."""
    a, b = (F.normalize(p.flatten(1).double()) for p in (a, b))
    return (a @ b.T).square()


cosines = squared_cosines(gradients, v1)
classmates = labels == labels[:, None]
others = classmates & ~torch.eye(len(labels), dtype=torch.bool)
noise = torch.randn(images.shape, generator=generator)
kinds = {
    "matched": cosines.diag(),
    "mismatched": cosines[others],
    "random": squared_cosines(gradients, noise).diag(),
}
figure, axes = plt.subplots(figsize=(4.8, 3.4))
for title, cos2 in kinds.items():
    angles = cos2.sqrt().acos().rad2deg()
    axes.hist(
        angles.tolist(),
        bins=range(0, 91, 3),
        density=True,
        histtype="step",
        linewidth=1.8,
        label=title,
    )
    print(f"{title}: median {angles.median():.1f} degrees")
axes.set(xlabel="angle (degrees)", ylabel="density", yscale="log")
axes.legend(loc="upper left")
plt.show()

# %% [markdown] tags=["answer", "solution"]
# <details data-option="3"><summary><b>Answer</b></summary>
#
# Two random directions make 88.7 degrees in the median: for a fixed unit vector $g$ and a uniformly random direction $v$ in $d$ dimensions, $\mathbb E\cos^2 = 1/d$ exactly, because the squares of $d$
# coordinates share a sum of 1. Matched pairs make a *smaller* angle than mismatched ones, 74.2 against 76.0 degrees, and both a far smaller one than chance: images of a class share directions, and an image's own
# gradient and fragile direction share a little more.
#
# </details>

# %% [markdown]
# Turn the number of dimensions yourself:
#
# <figure class="piece" data-piece="dial">
#
# ![A histogram of angles from 0 to 90 degrees, flat, for two dimensions.](../book/_static/play/dial.webp)
#
# <figcaption>Blue: 500 pairs of random directions, drawn anew whenever the dial turns. Line: their law. Orange: stored angles between gradients and most fragile directions, for digits of 32 by 32 pixels and for CIFAR-10.</figcaption>
# </figure>
#
# Now the test. The statistic is $T = \frac1n\sum_i \cos^2\theta_i$; the null permutes the fragile directions among the images of each class,
# 10,000 times. A pairing *more orthogonal* than chance would show as a $T$ **below** the null. A $T$ above it says that the image's own
# fragile direction is *more* aligned with the score than a stranger's.

# %% mystnb={"figure": {"caption": "The null: T for 10,000 permutations of the fragile directions within the classes. The arrow is T itself; the dotted line is 1/d, what random directions have.", "name": "null"}, "image": {"alt": "A narrow histogram, a dotted line far to its left and an arrow far to its right."}} tags=["nbval-check-output"]
n = torch.arange(len(images))
keys = torch.rand(10_000, len(n), generator=generator)
# the images lie class by class: sorting by class and coin permutes
orders = (labels + keys).argsort(1)
null, T = cosines[n, orders].mean(1), cosines.diag().mean()
below = ((null <= T).sum() + 1) / (len(null) + 1)

figure, axes = plt.subplots(figsize=(4.8, 3))
axes.hist(null.tolist(), bins=40, linewidth=0)
axes.axvline(1 / images[0].numel(), color="k", linestyle=":")
axes.annotate(
    "T",
    (T, 0),
    (0, 40),
    textcoords="offset points",
    ha="center",
    arrowprops={"arrowstyle": "->", "color": "k"},
)
axes.set(xlabel="mean squared cosine", ylabel="permutations")
plt.show()
low, high = null.quantile(torch.tensor([0.025, 0.975]).double())
print(f"T = {T:.3f}; null {null.mean():.3f} [{low:.3f}, {high:.3f}]")
print(f"share of permutations at or below T: {below:.4f}")
print(f"1 / d = {1 / images[0].numel():.4f}")

# %% [markdown]
# $T$ is .140, above all 10,000 permutations, whose middle 95 % lie between .118 and .131; so the pairing is special, in the direction opposite to "more orthogonal than chance". The difference is small beside
# the one between the whole histogram and the dotted line at .0013. On the photographs, whose four pairs cannot carry a test:

# %% tags=["nbval-check-output"]
cos2 = squared_cosines(uphill, spots)
strangers = cos2[~torch.eye(4, dtype=torch.bool, device=device)]
for title, part in {"own": cos2.diag(), "another's": strangers}.items():
    part = part.sqrt().acos().rad2deg()
    print(f"{title} fragile direction: {part.min():.1f} to", end=" ")
    print(f"{part.max():.1f} degrees, mean {part.mean():.1f}")

# %% [markdown]
# The tendency is the same: with the gradients of the other photographs the spots make nearly right angles, 89.7 degrees in the mean, with their own 82.8.
#
# ## On CIFAR-10, stored
#
# `fragility run angles --profile laptop` does the same for the paper's CIFAR-10 network on a seeded sample of the
# test set with the same number of correctly classified images from every class, and for 200 digits of 8 by 8 pixels, scaled up. (The CIFAR-10 pixels come from
# JPEG-recompressed files.) The network is retrained with softplus as the paper's was, but not as well:

# %% tags=["nbval-check-output"]
from fragility.study.store import provenance, stored

facts = provenance("angles", "laptop")["inputs"]["cifar10"]
accuracies = facts["test_accuracy"]
print("CIFAR-10, paper: .73 with ReLU, .73 with softplus")
print(*(f"{n} {accuracies[n]:.3f}" for n in ("relu", "softplus")))

# %% [markdown]
# An eigenvalue has a sign. Where it is positive, the score bends upwards along $v_1$; where negative, down. The table also splits by it.

# %% mystnb={"figure": {"caption": "Stored angles on CIFAR-10: matched pairs, by the sign of the top eigenvalue. Dashed: the typical angle of a random direction, arccos of d to the power -1/2.", "name": "stored-angles"}, "image": {"alt": "Two overlaid histograms of angles between 0 and 90 degrees; the one for positive eigenvalues reaches further to the left; a dashed vertical line close to 90."}} tags=["nbval-check-output"]
from scipy.stats import binom

from fragility.study.curvature.null import permutation_null


def median(values):
    """With its exact 95 % interval, from ranks."""
    values = values.sort().values
    low, high = binom.interval(0.95, len(values), 0.5)
    ends = values[int(low) - 1], values[int(high)]
    return chapter.interval(values.median(), *ends, 1)


def line(title, part, chosen):
    """A row of the table: those images of each block."""
    blocks, angles = [], []
    for _, block in part.groupby("block", sort=False):
        keep = torch.tensor(chosen(block).to_numpy())
        pairs = block.cos2_block.str.split(expand=True).to_numpy(float)
        blocks.append(torch.tensor(pairs)[keep][:, keep])
        angles.append(torch.tensor(block.angle.to_numpy())[keep])
    null, angles = permutation_null(blocks), torch.cat(angles)
    ends = chapter.interval(null.mean, null.low, null.high, 4)
    T = f"{null.statistic:.4f}"
    return angles, [title, str(len(angles)), median(angles), T, ends]


angles = stored("angles-laptop")
cifar = angles.query("setup == 'cifar10'")
digits = angles.query("setup == 'digits'")
found = {
    "CIFAR-10": line("CIFAR-10", cifar, lambda b: b.value != 0),
    "positive": line("positive", cifar, lambda b: b.value > 0),
    "negative": line("negative", cifar, lambda b: b.value < 0),
    "digits": line("digits", digits, lambda b: b.value != 0),
}
figure, axes = plt.subplots(figsize=(4.8, 3))
for title in ("positive", "negative"):
    axes.hist(
        found[title][0].tolist(),
        bins=range(0, 91, 3),
        histtype="step",
        linewidth=1.8,
        label=f"{title} eigenvalue",
    )
chance = torch.tensor(3072**-0.5).acos().rad2deg()
axes.axvline(chance.item(), color="k", linestyle="--", linewidth=1)
axes.set(xlabel="angle (degrees)", ylabel="images")
axes.legend(loc="upper left")
plt.show()

# %% tags=["nbval-check-output"]
chapter.Table(
    ["", "n", "median angle", "T", "null [95 %]"],
    [row for _, row in found.values()],
)

# %% [markdown]
# The paper's description holds on CIFAR-10: the median is 85.0 degrees. So do the two comparisons: $T$ is .0358 where permuted pairs have .0094, and they have far more than random directions ($1/3072$). The
# sign matters as well: 82.5 degrees where the largest eigenvalue is positive, 86.5 where it is negative; either is more aligned than its own null. Our network lost accuracy when it was retrained, so the angles of a better one may differ.
#
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
# mixture of all: $\cos\theta = |v_k g'(z_k)|\,\|w_k\| \,/\, (\sum_j v_j^2 g'(z_j)^2 \|w_j\|^2)^{1/2}$. By the formula and by the library, for one draw of eight
# units with $\|w_j\| = 1$ in 128 dimensions:

# %% tags=["nbval-check-output"]
from fragility.study.curvature.closed_form import draw_two_layers

two_layers, x = draw_two_layers(128, 8, "softplus", seed, "draw 0")
zero = torch.zeros(1, dtype=torch.int64)
z, v = two_layers.inputs(x)[0], two_layers.v
slope, bend = torch.sigmoid(z), torch.sigmoid(z) * torch.sigmoid(-z)
k = (v * bend).abs().argmax()
cosine = (v * slope)[k].abs() / (v * slope).norm()
top = top_directions(two_layers, x, zero, steps=12).directions[:, 0]
library = angle(simple_gradient(two_layers, x, zero), top).item()
print(f"by the formula {cosine.acos().rad2deg():.4f} degrees,")
print(f"by Lanczos     {library:.4f}")

# %% [markdown]
# And over widths and activations, 400 stored draws for each:

# %% mystnb={"figure": {"caption": "Angle between gradient and fragile direction in random two-layer networks with orthonormal weights: 400 stored draws for each activation and width h. Boxes: quartiles; whiskers: 5 % and 95 %.", "name": "two-layers"}, "image": {"alt": "Three groups of boxes, one per width: the angles grow with the width h, and spread over tens of degrees."}}
import seaborn

layers = stored("dimension-laptop").query("network == 'two_layer'")
figure, axes = plt.subplots(figsize=(4.8, 3.4))
seaborn.boxplot(
    layers.astype({"width": int}),
    x="width",
    y="angle",
    hue="activation",
    whis=(5, 95),
    showfliers=False,
    ax=axes,
)
axes.set(xlabel="width h", ylabel="angle (degrees)", ylim=(0, 90))
axes.legend(loc="lower right")
plt.show()

# %% tags=["nbval-check-output"]
widths = sorted(layers.width.unique())
middle = layers.groupby(["activation", "width"]).angle.median()
table = [
    [name, *(f"{middle[name, h]:.0f}" for h in widths)]
    for name in layers.activation.unique()
]
equal = [
    f"{torch.tensor(h**-0.5).acos().rad2deg():.0f}" for h in widths
]
table.append(["h equal parts", *equal])
chapter.Table(
    ["median, degrees", *(f"h = {h:.0f}" for h in widths)], table
)

# %% [markdown]
# Three remarks.
#
# **"Not parallel" is weaker than "orthogonal".** That is all that the appendix derives; with two units the median angle is between 15 and 25 degrees. What opens the angle is *mixing*: a
# gradient made of $h$ equal parts makes an angle of $\arccos h^{-1/2}$ with each, whatever the activation (last line). The drawn networks stay below, as the unit that bends most tends to have more than its share of the gradient.
#
# **So the appendix expects more alignment than with a random direction.** A random direction in $d$ dimensions makes an angle of about $\arccos d^{-1/2}$ with the gradient, and there are fewer
# units than pixels, $h < d$: a fragile direction that is one of the parts of the gradient is *more* aligned with it than a random one. Whether an image's own $w_k$ is more aligned with its gradient than
# the $w_k$ of another image of the class, which is what $T$ asks, the appendix does not say.
#
# **"Unless $g' = g''$" is not the condition.** The paper writes that the directions are not parallel unless $g' = g''$. For $\exp$, $g' = g''$ holds, and the angle is wide open, so the condition is not sufficient. It is not
# necessary either: for a single unit, $h = 1$, the two are parallel whatever $g$ is, softplus included.
#
# ## Cause: take the direction away
#
# An angle is a correlation. The causal question is: does an attack on the map *need* to move along the score's gradient? So run it twice,
# once freely, once with that direction taken out: after every sign step the perturbation is projected onto the hyperplane $g^\top\delta =
# 0$ and clipped back into the ball, alternately.


# %%
def attack_without(removed, net, x0, labels, epsilon, k, steps):
    """The top-k attack without a span, orthonormal (B, n, d)."""
    reference = importance(simple_gradient(net, x0, labels))
    lower, upper = (
        (x0 - epsilon).clamp(min=0),
        (x0 + epsilon).clamp(max=1),
    )
    x, best = x0.clone(), x0.clone()
    best_d = torch.full((len(x0),), -torch.inf).to(x0)
    for _ in range(steps):
        x.requires_grad_()
        maps = importance(simple_gradient(net, x, labels))
        d = top_k(k)(maps, reference)
        (uphill,) = torch.autograd.grad(d.sum(), x)
        x = (
            (x + epsilon / 4 * uphill.sign())
            .clamp(lower, upper)
            .detach()
        )
        for _ in range(8):  # alternately: the hyperplanes, the box
            delta = (x - x0).flatten(1).unsqueeze(2)
            delta = delta - removed.mT @ (removed @ delta)
            x = (x0 + delta.view_as(x0)).clamp(lower, upper)
        maps = importance(simple_gradient(net, x, labels))
        d = top_k(k)(maps, reference)
        better = (d > best_d) & (net(x).argmax(1) == labels)
        best = torch.where(better.view(-1, 1, 1, 1), x, best)
        best_d = torch.where(better, d, best_d)
    return best


# %% [markdown]
# First the photographs, two of them, at $8/255$ with ten steps, attacked in the softplus copy; the maps below are those of the ReLU network.

# %% tags=["nbval-check-output"]
from fragility.objective import top_k
from fragility.similarity import spearman, top_k_intersection

unit = F.normalize(uphill[:2].flatten(1)).unsqueeze(1)
options = copy, photos[:2], classes[:2], 8 / 255, 1000, 10
free = attack_without(0 * unit, *options)
without = attack_without(unit, *options)
before = importance(
    simple_gradient(squeezenet, photos[:2], classes[:2])
)
for title, x in {"free": free, "without the gradient": without}.items():
    after = importance(simple_gradient(squeezenet, x, classes[:2]))
    same = squeezenet(x).argmax(1) == classes[:2]
    left = top_k_intersection(before, after, 1000).mean()
    print(f"{title}: {left:.1%} of the top 1000 are left,", end=" ")
    print(f"label kept on {int(same.sum())} of 2")

# %% mystnb={"figure": {"caption": "Attacked without the score's gradient, at 8/255: photograph, map, changed photograph, the change, magnified, and the map of the changed photograph. ReLU network, same predictions.", "name": "without-gradient"}, "image": {"alt": "A cat and a cup of espresso, which look the same before and after; the speckled maps differ."}} tags=["hide-input"]
parts = photos[:2], before, without, after
plot.before_after(*parts, epsilon=8 / 255, rows=names[:2])
plt.show()

# %% [markdown]
# Without the gradient the attack on these two is as good as with it: about as few of the leading pixels are left. Now digits, a hundred of them, and with controls. What a direction costs has to be compared with what *any* direction costs: another image's gradient; random directions; and the most
# fragile directions of the map itself, own and of another image.
#
# **Predict.** Of the leading pixels that the attack drives out, how many come back without the score's gradient: all, half, next to none? And which costs the attacker more, one direction of
# the score or the five most fragile ones of the map?
#
# - nearly all
# - about half
# - less than a quarter

# %% mystnb={"code_prompt_show": "Look: eight attacks", "code_prompt_hide": "Fold"} tags=["hide-output", "nbval-check-output"]
from fragility.interval import mean_interval

per = per_class // 2
some = n.view(10, -1)[:, :per].flatten()  # ten of every class
partner = some.view(10, -1).roll(1, 1).flatten()  # of the same class
unit = F.normalize(gradients.flatten(1)).unsqueeze(1)
five = fragile.directions.flatten(2)
drawn = torch.randn(len(some), 784, 5, generator=generator)
spans = {
    "nothing": 0 * unit[some],
    "own gradient": unit[some],
    "another's gradient": unit[partner],
    "own fragile direction": five[some, :1],
    "another's": five[partner, :1],
    "own five": five[some],
    "another's five": five[partner],
    "five random": torch.linalg.qr(drawn)[0].mT,
}
digits = images[some], labels[some]
k, epsilon = 100, 0.1
table, attacked = [], {}
before = importance(simple_gradient(model, *digits))
logit = model(digits[0])[range(len(some)), digits[1]]
for title, removed in spans.items():
    x = attack_without(removed, model, *digits, epsilon, k, 15)
    after = importance(simple_gradient(model, x, digits[1]))
    left = top_k_intersection(before, after, k)
    delta = F.normalize((x - digits[0]).flatten(1))
    along = (delta * unit[some, 0]).sum(1).abs()
    score = model(x)[range(len(some)), digits[1]]
    attacked[title] = x, left
    back = mean_interval(left - attacked["nothing"][1])
    values = (spearman(before, after), along, (score - logit).abs())
    means = [f"{part.mean():.2f}" for part in values]
    regained = chapter.interval(*back, 3)
    table.append([title, f"{left.mean():.3f}", regained, *means])
print(f"n = {len(some)}, epsilon {epsilon}, top {k} of 784")
share = (five[some] @ unit[some].mT).square().sum((1, 2)).mean()
print(f"squared cosine of gradient and own five: {share:.2f}")
header = ["taken out", "top 100", "regained", "rank corr."]
chapter.Table([*header, "cos(step, g)", "logit moves"], table)

# %% [markdown] tags=["answer", "solution"]
# <details data-option="3"><summary><b>Answer</b></summary>
#
# Few: .832 stay in place under the attack, and .028 [.021, .036] more without the image's own gradient: a sixth of those driven out; and as many, .027, without a stranger's. The five most fragile directions cost the attacker
# .103, a single one .055, five random ones .011: it is the map's directions that an attack on the map needs.
#
# </details>

# %% [markdown]
# The attack moves the map while the perturbation keeps at right angles to the score's gradient, and the logit, freed of its first order, moves by .23 instead of 1.60. This is the evidence that
# the paper's conclusion needs, and it does not go through an angle: what an attack gives up in one direction it finds elsewhere, and the image's own gradient costs no more to give up than a stranger's.
#
# The controls say two more things. Another image's five directions cost nearly as much as its own (.085 against .103): what makes maps fragile is largely common to a class. And the two kinds of direction are not
# apart: .46 of the gradient's squared length lies in the span of its image's own five. "Generally orthogonal" is said of the first direction; it does not hold of the first five together.
#
# ## Does a larger angle help the attacker?
#
# If orthogonality is what makes attacks possible, pictures with a larger angle should be easier to attack. [Rank correlation](../book/glossary.md#rank-correlation) over the attacked
# digits between the leading pixels lost to the free attack and the angle, and two other candidates: margin, and curvature relative to the gradient.

# %% tags=["nbval-check-output"]
from scipy.stats import bootstrap, spearmanr


def rank_correlation(a, b):
    """With its 95 % interval (BCa), over images."""
    pair, rho = (a.numpy(), b.numpy()), lambda a, b: spearmanr(a, b)[0]
    options = {"paired": True, "vectorized": False, "n_resamples": 1999}
    found = bootstrap(
        pair, rho, rng=seed, **options
    ).confidence_interval
    return chapter.interval(rho(*pair), found.low, found.high)


logits = model(digits[0])
rivals = logits.scatter(1, digits[1][:, None], -torch.inf).amax(1)
candidates = {
    "angle": cosines.diag()[some].sqrt().acos(),
    "margin": logit - rivals,
    "curvature / gradient": fragile.values[some, 0].abs()
    / gradients[some].flatten(1).norm(dim=1),
}
lost = 1 - attacked["nothing"][1]
table = [
    [title, rank_correlation(part, lost)]
    for title, part in candidates.items()
]
chapter.Table(["rank correlation with pixels lost", ""], table)

# %% [markdown]
# No: .08, an interval around zero. Nor does the margin say much, -.18 [-.37, .02]. What predicts the loss is curvature relative to the gradient, .56, as [chapter 4](04_hessian.ipynb) leads one to expect.
#
# ## Influence functions
#
# Fig. 11b of the paper compares the gradient of the *loss* with the steepest direction of the [influence](../book/glossary.md#influence) of the most influential training image.
# The influence of training image $i$ on a test image is $g_t^\top H^{-1} g_i/n$ with $g_t = r \otimes \phi$: residual times features. Here for the last layer of the digits
# network (ReLU), with the same null; and stored for the paper's data (`fragility run influence_angles`): roses against sunflowers, 1,000 training images, frozen
# features of SqueezeNet, 200 test images.

# %% tags=["nbval-check-output"]
from fragility.influence import LastLayerInfluence
from fragility.network import feature_extractor
from fragility.study.curvature.null import stored_null

backbone = feature_extractor(relu)
last = LastLayerInfluence(
    backbone(training.images), training.labels, l2=1e-3, num_classes=10
)
points = images.clone().requires_grad_()
features = backbone(points)
fixed = features.detach()
most = last.influence(fixed, labels).argmax(1, keepdim=True)
steepest = last.feature_gradient(fixed, labels, most)
loss = F.cross_entropy(last.logits(features), labels, reduction="sum")
(of_loss,) = torch.autograd.grad(loss, points, retain_graph=True)
(of_influence,) = torch.autograd.grad(
    features, points, steepest.to(features)
)
alive = [
    part.flatten(1).norm(dim=1) > 0 for part in (of_loss, of_influence)
]
alive = alive[0] & alive[1]
pairs = squared_cosines(of_loss[alive], of_influence[alive])
blocks = [
    pairs[label == labels[alive]][:, label == labels[alive]]
    for label in range(10)
]
flowers = stored("influence_angles-laptop")
rows = {
    "digits": (
        pairs.diag().sqrt().clamp(max=1).acos().rad2deg(),
        permutation_null(blocks),
    ),
    "flowers": (torch.tensor(flowers.angle), stored_null(flowers)),
}
table = []
for title, (angles, null) in rows.items():
    ends = chapter.interval(null.mean, null.low, null.high)
    own = f"{null.statistic:.2f}"
    table.append([title, str(len(angles)), median(angles), own, ends])
print(f"flowers, median confidence: {flowers.confidence.median():.6f}")
frozen = median(torch.tensor(flowers.angle_frozen))
print(f"flowers, residual held fixed: median angle {frozen}")
chapter.Table(["", "n", "median angle", "T", "null [95 %]"], table)

# %% [markdown]
# On the flowers the two gradients are nearly *parallel*, 5.9 degrees in the median, where the paper calls them generally orthogonal; on the digits 10.8. Either is far more aligned than with the influence of a classmate, .94 against .33 and .99 against .05 in mean squared cosine. What is claimed for influence does not hold here. But here means SqueezeNet's features, and the paper's are those of Inception v3: the ledger says *not reproduced*.
#
# There is a reason to expect the *opposite* of orthogonality. For two classes influence is $(p-y)\,\phi^\top u$ for a fixed vector $u$, and its gradient
#
# $$
# \nabla_x I = \underbrace{(\phi^\top u)\,\nabla_x p}_{\text{parallel to the loss's gradient}} + (p-y)\,\nabla_x(\phi^\top u).
# $$
#
# As $\nabla p = p(1-p)\,\nabla z$ for the logit $z$ and $|p-y|$ is about as small as $p(1-p)$ for a confident network, the two terms carry the same small factor, and what
# counts is how far the logit moves, times a similarity that is large for the most helpful image, against how far the similarity itself moves. The line with the
# residual held fixed keeps only the second term. Nothing in this depends on the loss: any loss of one logit has $g_t = r(z)\,\phi$. We do not know what made the
# paper's look otherwise; its released code inverts an undamped Hessian with fewer images than parameters, which is singular. Part of what moves influence
# *is* the confidence; the [influence chapter](03_influence.ipynb) takes that apart.
#
# ## What follows, and what does not
#
# - The paper's description holds on CIFAR-10: most angles are above 80 degrees. As a *reason* it needs a comparison, since two unrelated directions in thousands of
#   dimensions make angles near 90 degrees as well.
# - Compared with the other images of the class, an image's own fragile direction is more aligned with its score, not less.
# - Whether an explanation can be changed at constant prediction is a causal question, and the projected attack answers it directly: without the score's gradient it
#   loses no more than without a stranger's. It needs the map's own fragile directions more than the score's.
# - None of this speaks against the paper's main finding. Attacks do change maps and keep labels. It concerns the reason given for it.
#
# ## Claimed, published, measured
#
# The rule for O1 and O2: at least half of the angles (with the whole interval) are 80 degrees or more, on at least 200 images; the comparison with the
# permutation null has a row of its own, O1b. They read the stored rows of CIFAR-10 and of the flowers; what is computed live does not enter. The [ledger](../book/claims.md) has every condition and [verdict](../book/glossary.md#verdict).

# %%
chapter.ledger("O1", "O1b", "O2", "O3")

# %% [markdown]
# ## Strengths, limitations, software
#
# **Strengths**: exact eigenvectors with residual and gap, a null that keeps what classes have in common, an intervention with controls.
#
# **Limitations**: one eigenvector per picture, and where the gap to the second is small that vector is nearly arbitrary within a plane; the networks are smooth ones,
# retrained; four photographs, on whose network max-pools add jumps that no Hessian sees ([chapter 4](04_hessian.ipynb)); one training of each network.
#
# **Software**: `fragility.curvature` and `fragility.study.curvature`; SciPy's `eigsh` for checks on small problems.
#
# **To run it.** The second code cell sets the profile: how many digits of each class.
#
# | in class | to run at `fast` | at `laptop` | at `paper` |
# |---|---|---|---|
# | 60 minutes | under a minute ([seconds](../book/status.md)) | two minutes | some minutes |
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
lines = torch.randn(4000, 3072, generator=generator)
axis = torch.zeros(4000, 3072)
axis[:, 0] = 1
simulated = angle(lines, axis)
scaled = 3072 * simulated.deg2rad().cos().square().mean()
print(f"median {simulated.median():.1f} degrees,")
print(f"d times the mean squared cosine: {scaled:.2f}")

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
for title, z in {
    "all alike": torch.zeros(9),
    "one bends, eight are steep": torch.tensor([0.0] + [6.0] * 8),
}.items():
    slope, bend = torch.sigmoid(z), torch.sigmoid(z) * torch.sigmoid(-z)
    cosine = slope[bend.argmax()] / slope.norm()
    print(f"{title}: {cosine.acos().rad2deg():.1f} degrees")
print(f"9 equal parts: {torch.tensor(9**-0.5).acos().rad2deg():.1f}")

# %% [markdown]
# The permutation null draws among images of the same class. What would change if it drew among all images?

# %% [markdown] tags=["solution"]
# <details><summary><b>Solution</b></summary>
#
# It would also break what images of a class share. Gradients of *different* logits point to different places, so the null's mean falls and a $T$
# that is nothing special within its class may look aligned.
#
# </details>

# %% tags=["solution", "hide-cell", "nbval-check-output"]
everything = permutation_null([cosines], seed=seed)
within = cosines[classmates].mean()  # the null's mean, exactly
print(f"mean of the null within classes {within:.3f},")
print(f"among all images {everything.mean:.3f}; T {T:.3f}")

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

delta = attacked["own gradient"][0] - digits[0]
bent = input_hvp(model, *digits, delta)
score = model(digits[0] + delta)[range(len(some)), digits[1]]
second = (delta * bent).sum((1, 2, 3)) / 2
rho = rank_correlation(second, score - logit)
print(f"second-order term and true change: rank correlation {rho}")
