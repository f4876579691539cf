"""The names that readers see for the methods, attacks and metrics of code and tables, in the order of display."""

from collections.abc import Iterable
from typing import Any

METRICS = ("top_k_intersection", "spearman", "center_shift")
TITLES = {
    "simple_gradient": "simple gradient",
    "deeplift": "DeepLIFT",
    "integrated_gradients": "integrated gradients",
    "lrp": "LRP",
    "deep_taylor": "Deep Taylor",
    "random": "one draw of random signs",
    "random_walk": "random walk",
    "top_k": "top-k",
    "mass_center": "mass-centre",
    "targeted": "targeted",
    "top_k_intersection": "top-k intersection",
    "spearman": "rank correlation",
    "center_shift": "centre shift (px)",
    "epsilon": "epsilon (of 255)",
    "training_images": "training images",
    "natural_accuracy": "accuracy",
    "adversarial_accuracy": "adversarial",
    "kendall": "Kendall's tau",
    "eq2": "eq. 2",
    "confidence": "raise the confidence only",
    "frozen_residual": "eq. 2, residual frozen",
    "top5_overlap": "overlap of the top 5",
    "r_corrected": "r, leverage corrected",
    "slope_corrected": "slope, leverage corrected",
    "multiple": "beta over the attacks' own",
    "squeezenet": "SqueezeNet",
    "cifar": "CIFAR-10's network",
    "steps doubled": "twice the steps",
    "steps adapted": "adaptive steps",
    "beta 0.5": "half the beta",
    "beta 2": "twice the beta",
    "chosen by the metric": "best iterate by the metric",
    "squeezenet-ceil": "pooling rounded up",
    "central square": "central square",
    "8-bit file": "8-bit file (2/255)",
    "cifar-jpeg80": "CIFAR-10: JPEG 80",
    "cifar-jpeg40": "CIFAR-10: JPEG 40",
}


def in_order(names: Iterable[Any]) -> list[Any]:
    """Return the different names: those with a title in the order of `TITLES`, numbers by size, others as they come."""
    known = {name: place for place, name in enumerate(TITLES)}

    def place(name: Any) -> float:
        return known[name] if name in known else len(known) + (name if isinstance(name, (int, float)) else 0)

    return sorted(dict.fromkeys(names), key=place)
