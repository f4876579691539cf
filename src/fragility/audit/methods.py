"""The methods of an audit: what is explained with, what may steady it, and what a model does not allow."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fragility._checks import check_choice
from fragility.attack import annealed, iterative
from fragility.attribution import ATTRIBUTIONS, WITHOUT_SURROGATE, importance, simple_gradient
from fragility.defense.smoothing import smooth_gradient, uniform_gradient
from fragility.fingerprint import fingerprint
from fragility.iterate import Attribution
from fragility.objective import top_k
from fragility.similarity import spearman
from fragility.surrogate import POWERS_OF_TWO, softplus, suggest_beta, surrogate_fidelity
from fragility.titles import TITLES

METHODS = ("simple_gradient", "integrated_gradients", "deeplift")  # of an audit that is not asked for others
SAMPLES = 8  # noisy copies of an averaged gradient


class Method(NamedTuple):
    """A way to explain.

    Attributes:
        name: in the rows.
        title: in the report.
        attack: the attribution that an attack differentiates.
        judge: the attribution that its result is judged by: with other noise, where there is noise.
        cost: of one map, in gradients.
        helps: whether it is to steady the simple gradient.
        surrogate: whether it is attacked on a smooth copy of the model.
    """

    name: str
    title: str
    attack: Attribution
    judge: Attribution
    cost: float = 1
    helps: bool = False
    surrogate: bool = True

    @property
    def settings(self) -> str:
        """A checksum of its options and of its name, or of its source where it is a function of the user's."""
        options = self.judge.keywords if isinstance(self.judge, partial) else {}
        function: Any = self.judge.func if isinstance(self.judge, partial) else self.judge
        name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', self.name)}"
        with suppress(OSError, TypeError):  # of a function that was typed at a prompt, or an object that is called
            name = name if name.startswith("fragility.") else inspect.getsource(function)
        return fingerprint(name, repr(sorted(options.items())))[:12]


def _softened(model: nn.Module, images: Tensor, labels: Tensor, *, beta: float) -> Tensor:
    """The gradient of the softplus network."""
    with softplus(beta):
        found = simple_gradient(model, images, labels)
    with torch.no_grad():
        model(images)  # whoever judges by the logits of the last call sees the model itself
    return found


def chosen(methods: Sequence[str] | Mapping[str, Attribution]) -> list[Method]:
    """Look methods up by name, or take any differentiable functions (model, images, labels) with a name for each.

    Args:
        methods: keys of `fragility.attribution.ATTRIBUTIONS`, or functions by name.

    Returns:
        The methods, in the order given.

    Raises:
        ValueError: if there is none, or no such name.
    """
    if not methods:
        raise ValueError("methods: expected one at least, got none")
    if isinstance(methods, Mapping):
        return [Method(name, name.replace("_", " "), function, function, 2) for name, function in methods.items()]
    for name in methods:
        check_choice("methods", name, ATTRIBUTIONS)
    options = {"integrated_gradients": {"steps": 25}}
    costs = {"integrated_gradients": 25, "deeplift": 3, "lrp": 3, "deep_taylor": 3}
    found = []
    for name in methods:
        function: Callable[..., Tensor] = partial(ATTRIBUTIONS[name], **options.get(name, {}))
        smooth = name not in WITHOUT_SURROGATE
        found.append(Method(name, TITLES[name], function, function, costs.get(name, 1), surrogate=smooth))
    return found


def remedies(beta: float | None, epsilon: float) -> list[Method]:
    """What may steady a simple gradient without training: softplus at test time, and two averages.

    Args:
        beta: of the surrogate; None for a network without kinks, which has nothing to soften.
        epsilon: the largest change of a pixel.

    Returns:
        Methods; an average is attacked with one draw of its noise and judged with another.
    """
    found = []
    if beta is not None:
        soft = partial(_softened, beta=beta / 8)
        found = [Method("softplus", f"softplus at test time (beta {beta / 8:.3g})", soft, soft, 1, True)]
    radius = f"{255 * epsilon:g}/255"
    averages: dict[str, tuple[str, Callable[..., Tensor]]] = {
        "smooth_gradient": ("SmoothGrad (sigma 0.1)", partial(smooth_gradient, sigma=0.1)),
        "uniform_gradient": (f"uniform average ({radius})", partial(uniform_gradient, radius=epsilon)),
    }
    for name, (title, function) in averages.items():
        drawn = [partial(function, samples=SAMPLES, seed=seed) for seed in (0, 1)]
        found.append(Method(name, f"{title}, {SAMPLES} copies", drawn[0], drawn[1], SAMPLES, True))
    return found


def beta_for(model: nn.Module, images: Tensor, labels: Tensor, stride: int = 1) -> tuple[float | None, str]:
    """Find the surrogate on which an attack climbs, and say in a sentence what it is.

    Args:
        model: images to logits (B, K).
        images: (B, C, H, W).
        labels: int64 (B,).
        stride: how many powers of two lie between one that is tried and the next.

    Returns:
        beta, or None for a model that an attack differentiates as it is; and the sentence.
    """
    try:
        beta = suggest_beta(model, images, labels, betas=POWERS_OF_TWO[::stride])
    except ValueError as error:
        return None, f"The attack differentiates the model as it is: {error}."
    rho = surrogate_fidelity(model, images, labels, betas=[beta]).spearman.mean().item()
    return beta, (
        f"The attack climbs on a smooth copy of the model, softplus of beta = {beta:g} in place of its kinks; the "
        f"copy's gradient maps agree with the model's to a rank correlation of {rho:.2f}. All that is reported is "
        "judged on the model itself."
    )


def budget(method: Method, epsilon: float, beta: float | None, steps: int) -> dict[str, Any]:
    """The annealed preset, without a surrogate for a network that has no kinks and for LRP."""
    beta = beta if method.surrogate else None
    return {**annealed(epsilon, beta or 1.0, steps)} | ({} if beta else {"surrogate_beta": None})


def cannot(method: Method, model: nn.Module, image: Tensor, label: Tensor, beta: float | None) -> str:
    """Try one step of an attack on one image: why a method cannot be attacked on this model; "" where it can.

    Args:
        method: to be tried.
        model: images to logits (1, K).
        image: (1, C, H, W).
        label: int64 (1,).
        beta: of the surrogate.

    Returns:
        The reason, or nothing.
    """
    attribution = method.attack
    if isinstance(attribution, partial) and "steps" in attribution.keywords:
        attribution = partial(attribution, steps=2)  # what can be attacked at two points of a path can be at all
    goal: dict[str, Any] = {"attribution": attribution, "objective": top_k(1), "epsilon": 1 / 255}
    try:
        iterative(model, image, label, **goal, **budget(method, 1 / 255, beta, 1))
    except (TypeError, ValueError, RuntimeError) as error:
        return str(error)
    return ""


def faithfulness(method: Method, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Rank correlation of a steadier map with the model's own gradient map, float64 (B,); NaN where sizes differ."""
    own, steady = (importance(f(model, images, labels).detach()) for f in (simple_gradient, method.judge))
    if own.shape != steady.shape:  # a map of fewer pixels than the image
        return torch.full((len(images),), float("nan"), dtype=torch.float64)
    return spearman(steady, own)
