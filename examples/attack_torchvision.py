"""Attack a network this package has never seen, with every method and objective: torchvision's ResNet-18.

Its weights are random, so that nothing is downloaded; pass `weights="DEFAULT"` for trained ones. The photographs
come with scikit-image.
"""

from functools import partial

import torch
from torchvision.models import resnet18

from fragility import network
from fragility.attack import iterative
from fragility.attribution import deeplift, importance, integrated_gradients, simple_gradient
from fragility.data import datasets
from fragility.objective import mass_center, opposite_quadrant, targeted, top_k
from fragility.similarity import center_shift, spearman, top_k_intersection
from fragility.surrogate import suggest_beta

torch.manual_seed(0)
model = network.Normalize(resnet18(weights=None), network.IMAGENET_MEAN, network.IMAGENET_STD).eval()
images = datasets.photographs(size=32).images[:2]
labels = model(images).argmax(1)
beta = suggest_beta(model, images, labels)
methods = {"gradient": simple_gradient, "IG": partial(integrated_gradients, steps=2), "DeepLIFT": deeplift}
objectives = {"top-k": top_k(50), "mass centre": mass_center(), "targeted": targeted(opposite_quadrant)}

print(f"surrogate beta {beta:g}\nmethod      objective     kept  top-50  Spearman  shift (px)")
for method, attribution in methods.items():
    before = importance(attribution(model, images, labels))
    for name, objective in objectives.items():
        found = iterative(
            model, images, labels, attribution=attribution, objective=objective, surrogate_beta=beta,
            epsilon=8 / 255, step_size=2 / 255, iterations=3,
        )  # fmt: skip
        after = importance(attribution(model, found.images, labels))
        share, rho = top_k_intersection(before, after, 50).mean(), spearman(before, after).mean()
        shift, kept = center_shift(before, after).mean(), int(found.labels_kept.sum())
        print(f"{method:10}  {name:12}  {kept}/2   {share:6.2f}  {rho:8.2f}  {shift:6.1f}")
