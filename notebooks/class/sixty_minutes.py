# %% [markdown]
# # Sixty minutes: attack an explanation
#
# Run the cell below now. It shows a photograph and, beside it, which pixels the network's answer depends on.

# %%
import sys

if "google.colab" in sys.modules:
    import subprocess

    source = "fragility[data] @ git+https://github.com/OWNER/fragility"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", source],
        check=True,
    )
import matplotlib.pyplot as plt
import torch

from fragility import network, plot
from fragility.attribution import importance, simple_gradient
from fragility.data import datasets
from fragility.surrogate import softplus

plot.use_style()
torch.manual_seed(0)
torch.set_flush_denormal(True)  # denormal numbers are slow
model, photographs = network.squeezenet(), datasets.photographs()
image = photographs.images[:1]  # (1, 3, 227, 227), from 0 to 1
label = model(image).argmax(1)  # what the network says
first = importance(simple_gradient(model, image, label))
plot.grid({"the photograph": image, "its explanation": first})
plt.show()
print("The network says:", photographs.class_names[label])

# %% [markdown]
# ## Minute 5: what the map is (10 minutes)
#
# The network gives a score $S$ to its answer. The map is the size of the score's slope at every pixel, divided by its sum:
# bright pixels are those where a small change moves the score most. Run the next cell, then **explain to your neighbour** what a bright pixel
# does *not* say. *Late? Skip the cell, not the talk.*

# %%
k = 1000  # of 51,529 pixels
leading = first >= first.flatten().topk(k).values.min()
plot.grid(
    {"the map": first, "its 1000 leading pixels": leading.float()}
)
plt.show()


def kept(x):
    """How many of the first map's k leading pixels lead at x, too."""
    now = importance(simple_gradient(model, x, label))
    leads = now >= now.flatten().topk(k).values.min()
    return int((leads & leading).sum())


# %% [markdown]
# ## Minute 15: noise (5 minutes)
#
# Every pixel moves by 8 of 255 levels, up or down by the toss of a coin. **Write down a number before you run the cell:** how many of the 1000
# leading pixels are still among the 1000 leading ones?

# %%
epsilon = 8 / 255
coin = torch.randint(0, 2, image.shape) * 2 - 1
noisy = (image + epsilon * coin).clamp(0, 1)
print(kept(noisy), "of", k)

# %% [markdown]
# ## Minute 20: the attack, in four verbs (25 minutes)
#
# Noise does not aim. To aim, say what you want: $D(x)$ is to be large when little importance is left on the pixels that led.


# %%
def D(x):
    """Minus the importance that is left on the pixels that led."""
    return -(
        importance(simple_gradient(model, x, label)) * leading
    ).sum()


# %% [markdown]
# ### Minute 20: gradient (8 minutes)
#
# In which direction do the pixels have to move? Return the derivative of $D$ at $x$. The network is made of ReLUs, linear in pieces; inside `softplus`
# each is a smooth curve. **Predict:** what would the gradient be without that line? Try it when the test below is silent.


# %%
def gradient(x):
    """The derivative of D with respect to the pixels of x."""
    x = x.clone().requires_grad_()
    with softplus(1.0):
        return torch.autograd.grad(D(x), x)[0]  # solution


# %%
g = gradient(image)
assert g.shape == image.shape, (
    f"as many numbers as pixels, not {g.shape}"
)
assert g.abs().max() > 0, "zero everywhere: where is the smooth copy?"
way = 0.001 * g / g.norm()  # a small step that way, and one back
with softplus(1.0):
    slope = (D(image + way) - D(image - way)) / 0.002
assert 0.8 < slope / g.norm() < 1.25, "D grows otherwise than you say"

# %% [markdown]
# ### Minute 28: sign (3 minutes)
#
# No pixel may move by more than $\epsilon$, so every pixel should use what it may: step by `alpha`, up where the gradient is positive and down
# where it is negative.


# %%
def step(x, g, alpha):
    """x, moved by alpha in every pixel, in the direction of g's sign."""
    return x + alpha * g.sign()  # solution


# %%
moved = step(
    torch.tensor([0.5, 0.5, 0.5]), torch.tensor([2.0, -3.0, 0]), 0.1
)
assert torch.allclose(moved, torch.tensor([0.6, 0.4, 0.5])), moved

# %% [markdown]
# ### Minute 31: clip (4 minutes)
#
# After the step, no pixel may be further than `epsilon` from where it was in the `original`, nor below 0 or above 1.


# %%
def clip(x, original, epsilon):
    """The nearest picture to x that is allowed."""
    x = x.clamp(original - epsilon, original + epsilon)  # solution
    return x.clamp(0, 1)  # solution


# %%
original = torch.tensor([0.8, 0.02, 0.5])
clipped = clip(torch.tensor([0.9, -0.2, 0.51]), original, 0.05)
assert torch.allclose(clipped, torch.tensor([0.85, 0, 0.51])), clipped

# %% [markdown]
# ### Minute 35: judge (5 minutes)
#
# A picture counts only if the network, the real one, still gives the same answer. Of those that count, keep the one with the larger $D$. *Late?
# Take this function from the board.*


# %%
def judge(x, best):
    """x if it keeps the label and has the larger D, otherwise best."""
    same = model(x).argmax(1) == label  # solution
    return x if same and D(x) > D(best) else best  # solution


# %%
other = photographs.images[1:2]  # another picture: another label
assert judge(other, image) is image, "the answer has changed"
assert judge(image, noisy) is noisy or D(image) > D(noisy)
assert judge(image, image) is image

# %% [markdown]
# ### Minute 40: run it (5 minutes)
#
# **Write down a number first:** of the 1000 leading pixels, how many will ten steps leave?

# %%
x = best = image
for _ in range(10):
    x = clip(step(x, gradient(x), 2 / 255), image, epsilon).detach()
    best = judge(x, best)
print("noise:", kept(noisy), "  attack:", kept(best), "  of", k)
print(
    "The network says:", photographs.class_names[model(best).argmax()]
)
both = torch.cat([image, best])
maps = importance(simple_gradient(model, both, label.repeat(2)))
rows = "before", "after"
plot.grid({"photograph": both, "explanation": maps}, rows=rows)
plt.show()

# %% [markdown]
# ## Minute 45: was the first explanation wrong? (10 minutes)
#
# Back to the board, without the keyboard. The first map said truthfully where the network's score is steep *at this picture*. Beside it is a picture that nobody
# can tell apart, with the same answer and another truth. **Discuss:** is the map wrong, the network rough, or the question badly put? Which
# experiment would tell?
#
# ## Minute 55: before you go (5 minutes)
#
# One or two sentences, on paper: *a colleague puts a saliency map into a report. What do you ask to be written under it?*
