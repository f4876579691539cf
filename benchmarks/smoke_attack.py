"""A smoke check, no statistic: the attacks on the 8 first ImageNet images by name, SqueezeNet with ceil pooling.

60 steps of 1/255 inside eps = 8/255 on the simple gradient, the best iterate by D. Exit status 1 unless top-k brings
the mean top-1000 intersection below .02 and mass-centre the mean shift above 50 px, with every label kept. About ten
minutes on one core.
"""

import sys
import time

import torch

from fragility import network
from fragility.attack import iterative
from fragility.attribution import importance, simple_gradient
from fragility.data import datasets
from fragility.objective import mass_center, top_k
from fragility.similarity import center_shift, spearman, top_k_intersection

torch.set_flush_denormal(True)  # denormal numbers make the softplus of strongly negative pre-activations slow
model = network.squeezenet(pooling="ceil")
images = datasets.imagenet().images[:8]  # in the order of their names
labels = model(images).argmax(1)
before = importance(simple_gradient(model, images, labels))

means = {}
print("attack        intersection  Spearman  shift (px)  labels kept  seconds")
for name, objective in {"top-k": top_k(1000), "mass centre": mass_center()}.items():
    start = time.perf_counter()
    found = iterative(
        model, images, labels, attribution=simple_gradient, objective=objective, surrogate_beta=1.0,
        epsilon=8 / 255, step_size=1 / 255, iterations=60, progress=True,
    )  # fmt: skip
    after = importance(simple_gradient(model, found.images, labels))
    share, rho, shift = (
        metric.mean().item()
        for metric in (top_k_intersection(before, after, 1000), spearman(before, after), center_shift(before, after))
    )
    kept = int((model(found.images).argmax(1) == labels).sum())
    means[name] = share, shift, kept == found.labels_kept.sum() == len(images)
    seconds = time.perf_counter() - start
    print(f"{name:12}  {share:12.4f}  {rho:8.3f}  {shift:10.1f}  {kept:9}/8  {seconds:7.0f}", flush=True)

shares, shifts, kept_all = zip(*means.values(), strict=True)
sys.exit(not (shares[0] < 0.02 and shifts[1] > 50 and all(kept_all)))
