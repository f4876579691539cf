"""Explanations of neural networks, attacked and defended: the names needed most, by the book's chapters.

Each is loaded when it is first used, `from fragility import deeplift` or `fragility.deeplift`; the modules hold more.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fragility.attack import iterative as iterative
    from fragility.attribution import deeplift as deeplift
    from fragility.attribution import importance as importance
    from fragility.attribution import integrated_gradients as integrated_gradients
    from fragility.attribution import lrp as lrp
    from fragility.attribution import simple_gradient as simple_gradient
    from fragility.curvature import input_hvp as input_hvp
    from fragility.curvature import top_direction as top_direction
    from fragility.defense import adversarial_loss as adversarial_loss
    from fragility.defense import smooth_gradient as smooth_gradient
    from fragility.influence import LastLayerInfluence as LastLayerInfluence
    from fragility.influence import network_influence as network_influence
    from fragility.network import feature_extractor as feature_extractor
    from fragility.objective import mass_center as mass_center
    from fragility.objective import targeted as targeted
    from fragility.objective import top_k as top_k
    from fragility.similarity import spearman as spearman
    from fragility.similarity import top_k_intersection as top_k_intersection
    from fragility.surrogate import softplus as softplus
    from fragility.surrogate import suggest_beta as suggest_beta

_HOME = {
    # 1: what an explanation is, and how two are compared
    "simple_gradient": "attribution",  # the gradient of a class's logit in the pixels
    "integrated_gradients": "attribution",  # its mean along the line from a reference
    "deeplift": "attribution",  # secants instead of slopes: the Rescale rule
    "lrp": "attribution",  # relevance shared out layer by layer, and Deep Taylor
    "importance": "attribution",  # from attributions to a map that sums to 1
    "spearman": "similarity",  # rank correlation of two maps
    "top_k_intersection": "similarity",  # how many of the most important pixels two maps share
    # 2: attacks that change the map and keep the prediction
    "iterative": "attack",  # Algorithm 1 of the paper
    "top_k": "objective",  # away from the pixels that are most important
    "mass_center": "objective",  # the centre of importance moves
    "targeted": "objective",  # into a region
    "softplus": "surrogate",  # smooth activations, which attacks on piecewise linear networks need
    "suggest_beta": "surrogate",  # how sharp the bend may be
    # 3: which training images made a prediction
    "LastLayerInfluence": "influence",  # exactly, for a last layer on frozen features
    "feature_extractor": "network",  # images to those features
    "network_influence": "influence",  # through all parameters of a network
    # 4 and 5: why the attacks work
    "input_hvp": "curvature",  # the Hessian in the pixels, times a direction
    "top_direction": "curvature",  # the direction in which the gradient turns most
    # 6: defenses that steady explanations
    "adversarial_loss": "defense",  # train on attacked images
    "smooth_gradient": "defense",  # the mean over noisy copies
}


def __getattr__(name: str) -> Any:
    """Load the module that a name lives in."""
    if name not in _HOME:
        raise AttributeError(f"module 'fragility' has no attribute {name!r}")
    return getattr(import_module(f"fragility.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """List the names of the map as well."""
    return sorted({*globals(), *_HOME})
