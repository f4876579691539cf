# %% [markdown]
# # Audit your own model
#
# The doctor and the lender of the paper's introduction do not have SqueezeNet. They have a model of their own, images of their own, and one question: can these maps be relied on? Here is a network
# that reads handwritten digits, and what one call says of its explanations.

# %% tags=["remove-cell"]
# On Colab this installs the package and keeps Colab's own PyTorch.
import sys

if "google.colab" in sys.modules:
    import subprocess

    source = "fragility[data] @ git+https://github.com/OWNER/fragility"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", source],
        check=True,
    )

# %% tags=["parameters", "remove-cell"]
profile: str = "fast"  # digits audited: fast 4, laptop 16, paper 64
seed: int = 0  # of the draws in the sections on samples

# %% tags=["remove-cell"]
import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from PIL import Image

from fragility import chapter, network, page
from fragility.attribution import importance, simple_gradient
from fragility.data import datasets
from fragility.study.store import stored
from fragility.titles import TITLES

torch.set_flush_denormal(True)  # or a softplus becomes slow
device = chapter.start(profile=profile, seed=seed)

# %% tags=["nbval-check-output"]
from fragility.audit import audit

count = {"fast": 4, "laptop": 16, "paper": 64}[profile]
digits = datasets.mnist_5k("test", limit=count)
model = network.mnist_cnn(weights="natural")
options = {"methods": ["simple_gradient"], "epsilons": [0.2]}
options |= {"doublings": 0, "progress": False, "device": device}
found = audit(model, digits.images, digits.labels, **options)
for sentence in found.summary["sentences"]:
    print(textwrap.fill(sentence, 72))

# %% [markdown]
# Those are the first three sentences of a report of one file, which opens in any browser. Below them stand pictures. Hold the button: the network gives the same answer for both.

# %% tags=["hide-input"]
wanted = "method == 'simple_gradient' and measure == 'top_k'"
attacked = found.rows.query(f"{wanted} and label_kept")
worst = attacked.loc[attacked.top_k_intersection.idxmin()]
place = worst.image.removeprefix("image ").zfill(4)
files = [f"images/{place}-original.png", worst.file]
sides = []
for file in files:
    levels = np.array(Image.open(found.folder / file)) / 255
    x = torch.from_numpy(levels).float()[None, None].to(device)
    gradient = simple_gradient(model, x, model(x).argmax(1))
    sides.append((x[0], importance(gradient)[0]))
alt = "A digit and its map.", "The digit, speckled, and another map."
titles = "original", "changed, same answer"
page.blink(*sides, titles=titles, alt=alt)

# %% [markdown]
# The tools that people use for this question sample noise and call what they see robustness. None that we know of searches for the worst case. This chapter runs the search on two networks, reads the report aloud, says what it does
# not say, and asks by how much samples understate the worst case.
#
# **After this chapter you can**
#
# - audit a model of your own with one command, and read the report down to its last table;
# - attack an explanation that nobody has thought of before, and replace [max-sensitivity](../book/glossary.md#max-sensitivity) by a search in five lines;
# - say what a report of this kind cannot show.
#
# ## One command
#
# ```bash
# fragility audit --out report
# ```
#
# audits the paper's SqueezeNet on four photographs, in about five minutes, without a network connection. For a model of yours write a
# function that returns it, in evaluation mode, and name it:
#
# ```bash
# fragility audit --model my_models.py:load --images photos/ \
#   --size 224 --minutes 10 --out report
# fragility audit --model torchvision:resnet18 --weights state.pth \
#   --images photos/ --size 224 --out report
# ```
#
# `my_models.py` is your own code, and it is run. `load` returns a model of images (B, C, H, W) in [0, 1], or the model and the
# transform that goes before it; of `--weights` only tensors are read. `photos/` is flat, or has a folder for each class in the
# order of the model's classes. Labels are optional: the prediction is explained, and images that the model gets wrong are
# reported apart.
#
# Stop it whenever you like, even with `kill -9`: the same command goes on, and with more `--minutes` it goes further. When the time is up
# there is a report, and it lists what was not reached. In `report/` lie `report.html`, which needs nothing else and can be sent by mail,
# `report.json`, `rows.csv`, and every changed image as an 8-bit PNG file.
#
# ## Trust the files, not the tool
#
# An audit that had to be believed would be of little use. The changed images are files, so ten lines with PyTorch and Pillow can look at them again, without this package: is the answer
# the same, how far did a pixel move, and how many of the most [important](../book/glossary.md#importance-map) pixels, a fiftieth of all, are still among them?


# %% tags=["nbval-check-output"]
def opened(file):
    levels = np.array(Image.open(found.folder / file)) / 255
    return torch.from_numpy(levels).float()[None, None]


def leading(x, label, k=784 // 50):
    x = x.requires_grad_()
    slope = torch.autograd.grad(model.cpu()(x)[0, label], x)[0]
    return set(slope.abs().flatten().topk(k).indices.tolist())


for row in attacked.itertuples():
    place = row.image.removeprefix("image ").zfill(4)
    before, after = (
        opened(f"images/{place}-original.png"),
        opened(row.file),
    )
    answers = [model.cpu()(x).argmax().item() for x in (before, after)]
    moved = 255 * (after - before).abs().max().item()
    both = leading(before, answers[0]) & leading(after, answers[0])
    print(f"{row.image}: {answers}, {moved:.0f} levels,", end=" ")
    share, told = len(both) / 15, row.top_k_intersection
    print(f"kept {share:.2f}, reported {told:.2f}")

# %% [markdown]
# ## Two networks
#
# The second network has the same layers, read the same digits, and came out of [adversarial training](../book/glossary.md#adversarial-training): at every step at the worst digit within $\epsilon = 0.3$ ([chapter 6](06_defenses.ipynb)). That was done for its answers; nobody asked about its
# explanations.
#
# **Predict.** The same audit, with the same number of steps. How much of the explanation of the defended network survives?
#
# - nearly all of it: where the answer cannot be moved, neither can the reason
# - more than in the other network, and not all
# - as little as in the other network: answers were defended, not maps

# %% mystnb={"code_prompt_show": "Look: two reports", "code_prompt_hide": "Fold"} tags=["hide-output", "nbval-check-output"]
model = model.to(device)
defended = network.mnist_cnn(weights="adversarial")
robust = audit(defended, digits.images, digits.labels, **options)


def line(cell):
    columns = ["noise_top_k", "draws_top_k", "worst_top_k"]
    means = [cell[f"{name}_intersection"]["mean"] for name in columns]
    means.append(cell["worst_recall"]["mean"])
    return [*(f"{mean:.2f}" for mean in means)]


reports = {"natural": found.summary, "adversarial": robust.summary}
rows = []
for title, summary in reports.items():
    cell = summary["cells"][0]
    factor = cell["understated_relative_change"]
    rows.append([title, *line(cell), f"{factor:.1f} x"])
kept = ["kept by noise", "worst of draws", "worst found", "next to it"]
chapter.Table(["network", *kept, "samples understate by"], rows)

# %% [markdown] tags=["answer", "solution"]
# <details data-option="2"><summary><b>Answer</b></summary>
#
# More, and not all: of its leading pixels .15 are left, where the natural network keeps .03; .48 against .07 if a pixel may move to a neighbour. The robust map is smeared, not scattered. And a single draw of noise of that size
# does as much to it as to the other, .50 left against .60. Its answers withstand the worst change of this size; its explanations do not withstand a random one. These are four digits and one network of each kind; [chapter 6](06_defenses.ipynb) has five trainings of each defense, with
# integrated gradients.
#
# </details>

# %% [markdown]
# ## And on photographs
#
# The paper's SqueezeNet sees two hundred times as many numbers, and its audit takes longer than a page may. The book's stored attacks have the same three columns, for 64 photographs of ImageNet: no pixel moves by more than 8 of 255 levels, and each attack has forty steps.

# %% tags=["nbval-check-output"]
from fragility.interval import mean_interval

attacks = stored("attack_sweep-laptop").query(
    "setup == 'squeezenet' and method == 'simple_gradient'"
    " and epsilon == 8"
)
left = attacks.top_k_intersection.where(attacks.labels_kept, 1.0)
left = left.groupby([attacks.image, attacks.attack]).min().unstack()
left = left.dropna()  # images that met every attack
left["worst"] = left[["top_k", "mass_center"]].min(axis=1)
columns = {"random": "noise", "random_walk": "random walk"}
columns["worst"] = "worst found"
means = [chapter.interval(*mean_interval(left[c])) for c in columns]
chapter.Table([*columns.values(), "n"], [[*means, str(len(left))]])

# %% [markdown]
# Of a thousand leading pixels ten remain, .01, on photographs that look as before, and the search was no longer than a tea break. Noise leaves .26, and the best iterate of a random walk of forty steps .23: patience alone is of little use to an attacker with so many directions to choose from.
#
# ## Read aloud
#
# **Checks first.** Is the model a function of one image, in evaluation mode? Which kinks did a smooth copy replace for the attack's sake, and how faithful is that copy? Which methods cannot be attacked on this model, and why? The
# [copy](../book/glossary.md#softplus-surrogate) only shows the way: everything that is reported is judged on the model itself.

# %% tags=["nbval-check-output"]
for sentence in found.summary["checks"]:
    print(textwrap.fill(sentence, 72))

# %% [markdown]
# **Noise and the worst found have equally many tries.** For every step of an attack there is a random draw beside it. One draw
# is what happens by chance; the worst of many is what patience alone finds; the rest is due to a direction. Of the natural network's leading pixels
# a draw leaves .60, the worst of 80 draws .17, and 80 steps, half of each attack, .03.
#
# **The worst found is a lower bound.** The search is the [top-k](../book/glossary.md#top-k-attack) and the [mass-centre attack](../book/glossary.md#mass-centre-attack), and it is doubled in length until the mean moves by less than a
# hundredth or the time is up; the report says which. A longer search may find more. An explanation that held is not certified.
#
# **With neighbours.** A map that moved by one pixel is no other explanation. In a column of its own, *next to it* above, the report counts a pixel as kept if one of its eight neighbours is
# ([Kamath et al. 2024](../book/bibliography.md)).
#
# **What helps.** Three remedies that need no training, each attacked by someone who [knows it](../book/glossary.md#adaptive-attack), with its fidelity: the rank correlation of the steadier map with the model's own gradient map.

# %% tags=["nbval-check-output"]
rows = []
for cell in found.summary["cells"]:
    fidelity = cell["fidelity"]["mean"]
    title = cell["title"].split(",")[0].split(" (")[0]
    rows.append([title, *line(cell), f"{fidelity:.2f}"])
chapter.Table(["explanation", *kept, "fidelity"], rows)

# %% [markdown]
# All three steady the map against noise, and patience gets less far, .30 at least in place of .17. None holds against somebody who knows it: .03 to .08. And each costs more than a tenth of the agreement with the gradient that it is to show.
#
# **And what does it not say?** Whether a map is *true*. A map that moves need not be wrong at either image, and one that stays need not be right: an edge detector is as steady as one can wish. Nor does it say anything about images that were not in the folder, about larger changes, or about
# an attacker with another aim; and where the model's answer is wrong, the report sets the image aside, while the wrong answer's explanation may be the one that is asked for.
#
# ## What samples would have said
#
# What other tools report is the most that a number of random draws shows: *max-sensitivity* ([Yeh et al. 2019](../book/bibliography.md)),
#
# $$\max_{x'} \frac{\|a(x') - a(x)\|}{\|a(x)\|},$$
#
# with $a$ the signed [attributions](../book/glossary.md#attribution), or the local Lipschitz estimate, which divides by $\|x' - x\|$ ([Alvarez-Melis and Jaakkola 2018](../book/bibliography.md)). Quantus ([Hedström et al. 2023](../book/bibliography.md)) draws 200 times by default, Captum ([Kokhlikyan et al. 2020](../book/bibliography.md)) 10 times, and neither looks whether the
# answer is still the same. Where you called them, these lines take the same maximum over draws that keep the label, and over the steps of an attack that climbs just this quantity:


# %%
from itertools import islice

from fragility.iterate import Judge
from fragility.sensitivity import climb, draws, extremes

many = {"fast": 8, "laptop": 32, "paper": 128}[profile]
some = datasets.mnist_5k("test", limit=many)
images, labels = some.images.to(device), some.labels.to(device)
beta = found.summary["beta"]  # of the smooth copy


def sensitivity(explain, block=1, tries=100, steps=30):
    """Max-sensitivity by draws, and with an attack on it: (B,) each."""
    judge = Judge(model, images, labels, explain)
    seeds = [
        torch.Generator().manual_seed(seed + i) for i in range(many)
    ]
    drawn = draws(images, 0.2, seeds, block=block)
    *_, sampled = extremes(judge, islice(drawn, tries), k=15)
    how = {"attribution": explain, "epsilon": 0.2, "beta": beta}
    how |= {"iterations": steps, "generators": seeds, "block": block}
    *_, climbed = extremes(
        judge, climb(model, images, labels, **how), k=15
    )
    return sampled.change, torch.maximum(sampled.change, climbed.change)


# %% [markdown]
# How much do draws miss? Random directions are poor at finding the one that matters, the more so the more there are. To see that, let the change be constant on squares of pixels: one
# square of 28 is a single number, the brightness; squares of 1 leave 784 directions.
#
# **Predict.** The factor by which the worst case exceeds the most of 100 draws, when the number of directions grows from 1 to 784:
#
# - stays near 1: a hundred draws see what there is to see
# - grows, for ever more directions are missed
# - falls, since small squares hurt less

# %% mystnb={"code_prompt_show": "Look: the factor at five sizes", "code_prompt_hide": "Fold", "figure": {"caption": "By how much the worst case found exceeds the most of the draws, against the number of directions that the change has. Dots: images; line: the median. Beside it, where their rows are stored, photographs through SqueezeNet at 8/255.", "name": "understated"}, "image": {"alt": "Dots over five numbers of directions, from 1 to 784. The median begins at one and rises all the way."}} tags=["hide-output", "nbval-check-output"]
live = []
for block in (28, 7, 4, 2, 1):
    sampled, most = sensitivity(simple_gradient, block)
    directions = images[0, :, ::block, ::block].numel()
    factor = (most / sampled).cpu()
    live += [(directions, value) for value in factor.tolist()]
    print(f"directions {directions}: factor {factor.median():.1f}")
live = pd.DataFrame(live, columns=["directions", "factor"])

try:
    rows = stored("sampling-laptop")
    rows["worst"] = rows[["attacked_change", "sampled_change"]].max(
        axis=1
    )
    rows["factor"] = rows.worst / rows.sampled_change
except FileNotFoundError:  # the study has not been run yet
    rows = pd.DataFrame(
        columns=["method", "block", "directions", "factor"]
    )
photographs = rows[rows.method == "simple_gradient"]

figure, axes = plt.subplots(figsize=(6.6, 3.2))
sets = {"digits, live": live, "photographs, stored": photographs}
for title, part in sets.items():
    if len(part):
        median = part.groupby("directions").factor.median()
        (curve,) = axes.loglog(median.index, median, label=title)
        color = curve.get_color()
        axes.loglog(
            part.directions, part.factor, ".", color=color, alpha=0.5
        )
axes.set(xlabel="directions", ylabel="worst found / most of draws")
axes.set_yticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
axes.minorticks_off()
axes.legend()
plt.show()

# %% [markdown] tags=["answer", "solution"]
# <details data-option="2"><summary><b>Answer</b></summary>
#
# It grows, from 1.0 to 1.4: with a single direction, the brightness, draws see all there is; with 784 they do not. The photographs of the stored study have 154,587 directions, two hundred times as many, and changes of 8/255 that nobody sees. Where their rows are stored, the
# figure shows what that does to the factor.
#
# </details>

# %% [markdown]
# There is a reason. If near the image the map moves by $\delta \mapsto u\,(v \cdot \delta)$, along one direction $v$, the worst corner of the box moves it by $\epsilon \|v\|_1 \|u\|$, about
# $\epsilon\sqrt{2d/\pi}\,\|v\|_2 \|u\|$ where the entries of $v$ are like normal numbers; the most of $N$ uniform draws, each of variance $\epsilon^2/3$, is near $\epsilon \sqrt{2 \ln N / 3}\,\|v\|_2\|u\|$. The quotient,
#
# $$\sqrt{\frac{3d}{\pi \ln N}},$$
#
# grows with the root of the number $d$ of directions, and hardly falls with the number $N$ of draws. Real maps bend along many directions at once, the digits' map most of all, so they stay below. But more draws are not the remedy.
#
# Does it matter, if all methods are understated alike? Then the order of the methods would be right, at least. The stored rows compare them:

# %%
rows = rows[rows.block == 1]
table = []
for name, part in rows.groupby("method", sort=False):
    medians = part.sampled_change.median(), part.worst.median()
    texts = [f"{median:.2g}" for median in medians]
    title = TITLES.get(name, name.replace("_", " "))
    table.append([title, *texts, str(len(part))])
header = ["SqueezeNet", "200 draws", "worst found", "n"]
chapter.Table(header, table) if table else "Nothing is stored yet."

# %% [markdown]
# The smoothed gradient is the steadiest either way. The other three are alike by the draws, 1.3 each; their worst cases lie between 9.6 and 13. Photograph by photograph the two orders are often not the same:

# %% mystnb={"figure": {"caption": "How many of the photographs have a method in which place, from the steadiest (1) to the least steady (4): first by the most that 200 draws show, then by the worst change found.", "name": "two-rankings"}, "image": {"alt": "Two tables of four methods by four places. In both the smoothed gradient is first on all photographs. By draws the places of the other three are mixed; by the worst found the simple gradient is mostly second and DeepLIFT mostly last."}} tags=["nbval-check-output"]
from itertools import combinations

import seaborn

ways = {"200 draws": "sampled_change", "worst found": "worst"}
order = ["smooth_gradient", *list(TITLES)[:3]]
names = ["smoothed gradient", *(TITLES[name] for name in order[1:])]
places = {
    title: rows.pivot(index="image", columns="method", values=value)
    .rank(axis=1)
    .astype(int)[order]
    for title, value in ways.items()
}
figure, panels = plt.subplots(1, 2, figsize=(7.4, 2.4), sharey=True)
for axes, (title, ranks) in zip(panels, places.items(), strict=True):
    counts = ranks.apply(lambda column: column.value_counts())
    counts = counts.reindex(range(1, 5)).fillna(0).T
    counts.index = names
    seaborn.heatmap(
        counts,
        vmax=128,
        cmap="Blues",
        cbar=False,
        ax=axes,
        annot=True,
        annot_kws={"color": "#101820"},
    )
    axes.set(title=f"by {title}", xlabel="place", ylabel="")
plt.show()
drawn, most = places.values()
apart = (drawn != most).any(axis=1).sum()
print(f"another order on {apart} of {len(most)} photographs")
for one, other in combinations(order, 2):
    swap = (drawn[one] < drawn[other]) != (most[one] < most[other])
    print(f"{one} and {other}: exchanged on {swap.sum()}")

# %% [markdown]
# On 41 of 64 photographs the draws put the four into another order than the worst case found does (claim K5): each two of the gradient, DeepLIFT and integrated gradients change places on 21 to 27 of them, and the worst case puts DeepLIFT last on 43, the draws on 25. What does not follow is that draws order nothing
# rightly: on every photograph they tell the smoothed gradient, which is far steadier, from the other three. An exercise asks the same of the digits.
#
# ## A method of your own
#
# Any differentiable function (model, images, labels) is a method. Here is Grad-CAM ([Selvaraju et al. 2017](../book/bibliography.md)), the features of a layer weighted by their mean gradients, for a network that we
# have: the second convolution.


# %% tags=["nbval-check-output"]
from fragility.attack import annealed, iterative
from fragility.objective import top_k
from fragility.similarity import top_k_intersection


def grad_cam(model, images, labels):
    kept = []
    handle = model[2].register_forward_hook(
        lambda *call: kept.append(call[2])
    )
    with torch.enable_grad():
        x = images if images.requires_grad else images.clone()
        score = (
            model(x.requires_grad_()).gather(1, labels[:, None]).sum()
        )
        handle.remove()
        a = kept[0]
        (slope,) = torch.autograd.grad(score, a, create_graph=True)
    weights = slope.mean((2, 3), keepdim=True)
    return (weights * a).sum(1, keepdim=True)


four = images[:4].clone(), labels[:4]
moved = iterative(
    model,
    *four,
    attribution=grad_cam,
    objective=top_k(10),
    epsilon=0.2,
    **annealed(0.2, beta, 20),
)
maps = [
    importance(grad_cam(model, x.clone(), four[1]).detach())
    for x in (four[0], moved.images)
]
share = top_k_intersection(*maps, 10)
print("labels kept:", moved.labels_kept.all().item())
print(f"of 10 leading places among {maps[0][0].numel()}", end=" ")
print(f"{share.mean():.2f} are left")

# %% [markdown]
# `audit(model, images, methods={"Grad-CAM": grad_cam})` makes the whole report of it. A map of few, large fields is no protection. Twenty steps leave .30 of its ten leading places.
#
# ## What follows, and what does not
#
# - One call says how much of an explanation survives noise, patience and intent. The first is what happens; the last is what somebody can do.
# - Every number of the last kind is a lower bound on the damage. *Held* means: held against this search.
# - Random samples say how an explanation behaves on the average. As an estimate of the worst case they fail, by a factor that grows with the number of pixels; more of them hardly help.
# - A defense of the answers steadies the maps too, and does not save them.
# - A steady map is not a true one. Ask [what a map promises](01_methods.ipynb) before asking whether it holds still, and [whether you need it](08_interpretable.ipynb).
#
# ## Claimed, published, measured
#
# Both rules were written before the first row was computed. The worst case of an image is the most that was found, by the attack or by the draws.

# %%
chapter.ledger("K4", "K5")

# %% [markdown]
# ## Strengths, limitations, software
#
# | | samples | search |
# |---|---|---|
# | says | what happens to a map by chance | what can be done to it |
# | cost, in gradients | one per draw | four to five per step |
# | strengths | any black box; an unbiased mean | finds what is there, label kept, from files of 8 bits |
# | limitations | understates the worst case; labels mostly unchecked | a lower bound; needs second derivatives, of a smooth copy |
# | software | Quantus `MaxSensitivity`, Captum `sensitivity_max` | `fragility audit`, `fragility.sensitivity.climb` |
#
# A proof would say what no search finds. For small changes and small networks there are proofs; for the network and the 8 levels of a pixel that the paper is about, nobody has one.
#
# **To run it.** The second code cell sets the profile: the number of digits audited.
#
# | in class | to run at `fast` | at `laptop` | at `paper` |
# |---|---|---|---|
# | 45 minutes | half a minute ([seconds](../book/status.md)) | some minutes | a quarter of an hour |
#
# ## Exercises
#
# Solutions follow folded. The student's version of this notebook (`make student`) leaves them out.
#
# ### Warm-up
#
# The audit reads the images from files of 8 bits. Is that a detail? Take the changed images of the Grad-CAM section, round them to multiples of 1/255, and look at labels and maps again.

# %% tags=["solution", "hide-cell"]
rounded = (255 * moved.images).round() / 255
after = importance(grad_cam(model, rounded.clone(), four[1]).detach())
kept_labels = model(rounded).argmax(1) == four[1]
print("labels kept:", kept_labels.all().item())
share = top_k_intersection(maps[0], after, 10)
print(f"leading places left: {share.mean():.2f}")
# At a fifth of the scale it is one: half a level is little. At 1/255 or
# 2/255 rounding undoes much of a change, and may undo all of it.

# %% [markdown]
# ### Core
#
# Is the steadiest method by samples the steadiest by the worst case? Compare the simple gradient and DeepLIFT on the digits, image by image, by `sensitivity`.

# %% tags=["solution", "hide-cell"]
from functools import partial

from fragility.attribution import deeplift

lift = partial(deeplift, baseline=0.0)
steady = [sensitivity(f, tries=50) for f in (simple_gradient, lift)]
for title, (a, b) in zip(
    ("sampled", "worst"), zip(*steady, strict=True), strict=True
):
    print(f"{title}: gradient {a.median():.2f},", end=" ")
    print(f"DeepLIFT {b.median():.2f},", end=" ")
    print(f"DeepLIFT steadier on {(b < a).float().mean():.0%}")
# Here the two orders are one, on every digit. But DeepLIFT is the more
# understated of the two: what looks twice as steady is less so.

# %% [markdown]
# ### Open
#
# How many draws match ten steps of the attack? Double the number of draws until their maximum reaches what ten steps find, or until your patience ends. Then: what would you have to know about a model to say that no search, however long, finds more than so much?

# %% tags=["solution", "hide-cell"]
_, ten = sensitivity(simple_gradient, tries=1, steps=10)
for tries in (10, 40, 160):
    sampled, _ = sensitivity(simple_gradient, tries=tries, steps=1)
    print(f"{tries} draws: {(sampled / ten).median():.2f} of ten steps")
# From 10 draws to 160 the median rises from .71 to .72. A bound on the
# second derivatives over the whole ball would answer the second part.
