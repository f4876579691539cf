"""Importance of every pixel for the score of a class, differentiable with respect to the image once more."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, overload

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fragility._call import logits_of
from fragility._checks import check_choice, check_count, check_positive, entries, rounding
from fragility._convolution import twice_differentiable
from fragility._gradient import check_call, gradient, pick, scores_of
from fragility._linear import CHOOSING
from fragility._path import mean_gradient
from fragility._pool import QuickPools
from fragility._relevance import Rules, Trail
from fragility._rescale import multiply, record
from fragility._softplus import active_beta
from fragility._state import recall

Baseline = float | Tensor | None


def simple_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The gradient of the score, grad_x S_l(x) [Simonyan2014], [Ghorbani2019, sec. 2.1].

    Args:
        model: images in [0, 1] to logits (B, K), in evaluation mode.
        images: (B, C, H, W) in [0, 1], or rows of a table (B, d).
        labels: int64 (B,), the classes explained.

    Returns:
        Signed attributions of the images' shape of the labels' logits; they carry a graph exactly when
        `images.requires_grad`.

    Raises:
        TypeError: if an argument has the wrong type, or the model cannot be substituted where that is asked for.
        ValueError: if pixels, labels, the model's mode or its output are wrong.
    """
    check_call(model, images, labels)
    with torch.enable_grad(), twice_differentiable() if images.requires_grad else QuickPools():
        # A view: a hook on the images is for the gradients that the user takes of them.
        points = images.view_as(images) if images.requires_grad else images.detach().requires_grad_()
        scores = scores_of(model, points, labels)
        return gradient(scores, points, create_graph=images.requires_grad)


@overload
def integrated_gradients(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    baseline: Baseline = None,
    steps: int = 100,
    chunk: int | None = None,
    return_convergence_delta: Literal[False] = False,
) -> Tensor: ...


@overload
def integrated_gradients(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    baseline: Baseline = None,
    steps: int = 100,
    chunk: int | None = None,
    return_convergence_delta: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def integrated_gradients(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    baseline: Baseline = None,
    steps: int = 100,
    chunk: int | None = None,
    return_convergence_delta: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Integrated gradients by the right Riemann sum [Sundararajan2017], [Ghorbani2019, sec. 2.1].

    (x - x0) * (1 / M) sum_{k=1..M} grad_x S_l(x0 + k/M (x - x0)). For the second derivative the last points of the path
    keep their graphs and the others go through the model once more, so memory does not grow with M; it is the last
    one: a third derivative is refused. Images in half precision are summed up in float32.

    Args:
        model: images in [0, 1] to logits (B, K), in evaluation mode.
        images: (B, C, H, W) in [0, 1], or rows of a table (B, d).
        labels: int64 (B,), the classes explained.
        baseline: the reference x0, a number or a tensor broadcastable to the images, taken as a constant; None is 0.
        steps: M, the number of points on the path.
        chunk: how many points of every image go through the model at a time; None chooses eight inputs a pass.
        return_convergence_delta: return how far the sum is from S(x) - S(x0) as well, as Captum does.

    Returns:
        Signed attributions of the images' shape whose sum tends to S(x) - S(x0) as 1 / M; they carry a graph exactly
        when `images.requires_grad`. With `return_convergence_delta` also the sum minus S(x) - S(x0), (B,).

    Raises:
        TypeError: if an argument has the wrong type, or the model cannot be substituted where that is asked for.
        ValueError: if pixels, labels, baseline, the model's mode or its output are wrong; in the backward pass, if the
            model has changed since.
    """
    check_count("steps", steps)
    if chunk is not None:
        check_count("chunk", chunk)
    check_call(model, images, labels, copies=min(steps, chunk or 8))
    chunk = chunk or max(1, 8 // len(images))
    precision = torch.promote_types(images.dtype, torch.float32)
    reference = _reference(baseline, images).to(precision)
    points = images if images.requires_grad else images.detach()
    with torch.set_grad_enabled(images.requires_grad):
        mean = mean_gradient(model, points, labels, reference, steps, chunk)
        attributions = ((points - reference) * mean).to(images.dtype)
    if not return_convergence_delta:
        return attributions
    with torch.no_grad():
        ends = (pick(logits_of(model, x.to(images.dtype)), labels).to(precision) for x in (images, reference))
        difference = next(ends) - next(ends)
        return attributions, attributions.sum(entries(attributions), dtype=precision) - difference


def deeplift(model: nn.Module, images: Tensor, labels: Tensor, *, baseline: Baseline = None) -> Tensor:
    """DeepLIFT with the Rescale rule [Shrikumar2017].

    The multipliers are the gradient of a linear network, in three passes (see `fragility._rescale`). That the
    attributions sum to S(x) - S(x0) is checked on every call: a model that hides part of what it computes from the
    derivative is refused. Images and models in half precision are computed on a float32 copy.

    Args:
        model: images in [0, 1] to logits (B, K), in evaluation mode, made of linear layers, max-pools,
            piecewise linear activations (ReLU, leaky ReLU, PReLU, hard tanh and others; see `fragility._hinges`),
            sigmoid, tanh, SiLU, GELU and softplus.
        images: (B, C, H, W) in [0, 1], or rows of a table (B, d).
        labels: int64 (B,), the classes explained.
        baseline: the reference x0, a number or a tensor broadcastable to the images, taken as a constant; None is 0.
            Where x0 is even, pixels tie in the windows of a max-pool, and rounding decides which of them leads: on
            SqueezeNet that moves the attributions by less than a thousandth.

    Returns:
        Signed attributions of the labels' logits, of the images' shape; they carry a graph, for a second derivative by
        images and parameters, exactly when `images.requires_grad`.

    Raises:
        TypeError: if an argument has the wrong type, or the model is TorchScript or compiled.
        ValueError: if pixels, labels, baseline, the model's mode or its output are wrong, the model does something for
            which the Rescale rule has no rule (the error names it), or the attributions miss their sum.
    """
    check_call(model, images, labels, eager=True)
    x0, drawn = _reference(baseline, images), _random_states(images.device)
    with torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
        x, run = images if images.requires_grad else images.detach(), _in_full_precision(model)
        x, x0 = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in (x, x0))
        with torch.set_grad_enabled(images.requires_grad):
            reference = recall(partial(record, run), x0, model, active_beta())
        found = multiply(run, x, labels, reference, create_graph=images.requires_grad)
        attributions = (x - x0) * found.values
        if any(not torch.equal(*pair) for pair in zip(drawn, _random_states(images.device), strict=True)):
            raise ValueError("model: expected the same answer every time, but it draws random numbers (dropout?)")
        scores, score0 = (pick(logits, labels) for logits in (found.logits, reference.logits.detach()))
        with torch._C.DisableTorchFunction():  # softplus would take |S(x) - S(x0)| for an activation
            _check_sum(model, attributions.detach(), scores, score0, found.kinds)
        return attributions.to(images.dtype)


RULES = ("zero", "epsilon", "gamma", "alpha_beta", "z_plus")
COMPOSITES = {"composite": ("z_box", "gamma", "epsilon"), "deep_taylor": ("z_box", "z_plus", "z_plus")}


def lrp(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    rules: str | Mapping[str, str] = "composite",
    epsilon: float = 0.01,
    gamma: float = 0.25,
    alpha: float = 2.0,
) -> Tensor:
    """Layer-wise relevance propagation: the score is shared out, layer by layer, down to the pixels [Bach2015].

    A layer with contributions x_i w_ij and relevances R_j gives its input R_i = x_i sum_j rho(w_ij) R_j / z_j, where
    z_j sums up x_i rho(w_ij) [Montavon2019]. `"zero"`: rho(w) = w, and z_j has the bias. `"epsilon"`: also z_j grows by
    `epsilon` in size. `"gamma"`: rho(w) = w + `gamma` max(w, 0), meant for x >= 0. `"alpha_beta"`: `alpha` times the
    shares of the positive contributions less alpha - 1 times those of the negative ones. `"z_plus"`: the positive ones
    alone. `"z_box"`, for pixels l <= x <= h: contributions x w - l max(w, 0) - h min(w, 0) [Montavon2017]. Activations
    pass relevance on unchanged, max-pools to the largest entry, averages and sums of tensors by contributions.

    A pixel's relevance is that of what the first layer gets for it: of the normalised pixel, if the model normalises.
    The map has a second derivative on a ReLU network itself: attack it without a surrogate, as the paper's authors do.
    Inside `softplus` units with z_j near 0 have a relevance all the same, which makes `"zero"`, `"epsilon"` and
    `"gamma"` steep there.

    Args:
        model: images in [0, 1] to logits (B, K), in evaluation mode, made of linear layers, convolutions, activations
            of `torch.nn.functional`, pools, concatenations and sums; batch norms have to be folded into the layers.
        images: (B, C, H, W) in [0, 1], or rows of a table (B, d).
        labels: int64 (B,), the classes explained.
        rules: `"composite"` (z_box for pixels, gamma in convolutions, epsilon in dense layers), `"deep_taylor"` (z_box
            for pixels, else z_plus without biases: that of [Ghorbani2019]), one of `RULES` for all layers, or a rule
            for each of `"pixels"`, `"convolution"` and `"dense"`.
        epsilon: of the epsilon rule, in units of pre-activations.
        gamma: of the gamma rule.
        alpha: of alpha_beta, at least 1.

    Returns:
        Signed relevances of the labels' logits, of the images' shape; they carry a graph exactly when
        `images.requires_grad`. They sum to the score less what biases (and `epsilon`) take.

    Raises:
        TypeError: if an argument has the wrong type, or the model is TorchScript or compiled.
        ValueError: if pixels, labels, a rule, the model's mode or its output are wrong, or the model does something for
            which LRP has no rule: the error names it.
    """
    chosen = _rules(rules, epsilon, gamma, alpha)
    check_call(model, images, labels, eager=True)
    run, dtype = _in_full_precision(model), torch.promote_types(images.dtype, torch.float32)
    trail = Trail(model, chosen)
    with torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
        points = (images.view_as(images) if images.requires_grad else images.detach().requires_grad_()).to(dtype)
        with twice_differentiable() if images.requires_grad else QuickPools():
            logits = logits_of(partial(trail.follow, run), points)
            with torch.set_grad_enabled(images.requires_grad):
                own = torch.zeros_like(logits).scatter(1, labels.unsqueeze(1), pick(logits, labels).unsqueeze(1))
                return trail.back(logits, own, images).to(images.dtype)


def _rules(rules: str | Mapping[str, str], epsilon: float, gamma: float, alpha: float) -> Rules:
    """The rule of every kind of layer."""
    for name, value in {"epsilon": epsilon, "gamma": gamma, "alpha": alpha}.items():
        check_positive(name, value)
    if alpha < 1:
        raise ValueError(f"alpha: expected a number >= 1, got {alpha}")
    if isinstance(rules, str):
        check_choice("rules", rules, (*COMPOSITES, *RULES))
        kinds = COMPOSITES.get(rules, (rules,) * 3)
    else:
        if set(rules) != {"pixels", "convolution", "dense"}:
            raise ValueError(f"rules: expected one each of pixels, convolution and dense, got {sorted(rules)}")
        for kind, rule in rules.items():
            check_choice(f"rules[{kind!r}]", rule, ("z_box", *RULES) if kind == "pixels" else RULES)
        kinds = rules["pixels"], rules["convolution"], rules["dense"]
    return Rules(*kinds, epsilon, gamma, alpha, biases=rules != "deep_taylor")


def importance(attributions: Tensor) -> Tensor:
    """The importance map: absolute values, summed over channels, divided by their sum [Ghorbani2019, sec. 2.1].

    Args:
        attributions: (B, C, H, W), signed; or (B, d), of the rows of a table.

    Returns:
        Maps (B, H, W), or (B, d), non-negative, each summing to 1; differentiable. In float32 for attributions in half
        precision.

    Raises:
        TypeError: if `attributions` is not a floating-point tensor.
        ValueError: if the shape is wrong, a value is not finite, or an image's attributions are all zero.
    """
    if not isinstance(attributions, Tensor) or not attributions.is_floating_point():
        raise TypeError("attributions: expected a floating-point tensor")
    if attributions.ndim not in (2, 4) or attributions.numel() == 0:
        shape = tuple(attributions.shape)
        raise ValueError(f"attributions: expected shape (B, C, H, W), or (B, d) for rows of a table, got {shape}")
    precision = torch.promote_types(attributions.dtype, torch.float32)  # a sum of float16 overflows
    maps = attributions.to(precision).abs()
    maps = maps.sum(1) if maps.ndim == 4 else maps
    totals = maps.sum(entries(maps), keepdim=True)
    sound = (totals > 0) & totals.isfinite()
    if not sound.all():
        rows = (~sound).flatten().nonzero().flatten().tolist()
        raise ValueError(f"attributions: expected finite values, not all zero; rows {rows} are not so")
    return maps / totals


ATTRIBUTIONS: dict[str, Callable[..., Tensor]] = {
    "simple_gradient": simple_gradient,
    "integrated_gradients": integrated_gradients,
    "deeplift": deeplift,
    "lrp": lrp,
    "deep_taylor": partial(lrp, rules="deep_taylor"),
}
WITH_BASELINE = ("integrated_gradients", "deeplift")
# On a ReLU network their own derivative shows an attack the way.
WITHOUT_SURROGATE = ("lrp", "deep_taylor")


def _reference(baseline: Baseline, images: Tensor) -> Tensor:
    """The baseline as a constant tensor of the images' shape."""
    try:
        value = torch.as_tensor(
            0.0 if baseline is None else baseline, dtype=images.dtype, device=images.device
        ).detach()
    except (TypeError, ValueError) as error:
        raise TypeError(f"baseline: expected a number or a tensor, got {type(baseline).__name__} ({error})") from error
    if not value.isfinite().all():
        raise ValueError("baseline: expected finite values")
    try:
        return value.expand_as(images)
    except RuntimeError as error:
        message = f"baseline: expected a shape broadcastable to {tuple(images.shape)}, got {tuple(value.shape)}"
        raise ValueError(message) from error


def _random_states(device: torch.device) -> list[Tensor]:
    """The states of PyTorch's own generators."""
    return [torch.get_rng_state()] + ([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])


def _in_full_precision(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The model itself, or one that computes with a float32 copy of weights in half precision."""
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    halves = {name: part.float() for name, part in state.items() if part.dtype in (torch.float16, torch.bfloat16)}
    return partial(functional_call, model, halves) if halves else model


def _check_sum(model: nn.Module, attributions: Tensor, scores: Tensor, reference: Tensor, kinds: set[str]) -> None:
    """Refuse attributions that miss S(x) - S(x0) by more than rounding: the model was not seen as it is."""
    parts = attributions.flatten(1)
    difference = scores - reference
    miss = (parts.sum(1) - difference).abs()
    allowed = 64 * rounding(parts) * (parts.abs().sum(1) + scores.abs() + reference.abs())
    wrong = ~(miss <= allowed)  # also true of NaN
    if not wrong.any():
        return
    row = int(wrong.int().argmax())
    hooked = [name or "the model" for name, part in model.named_modules() if part._backward_hooks]
    causes = [f"the backward hook of {name}" for name in hooked]
    causes += [f"{kind.lower()}, which chooses by pixels" for kind in sorted(kinds & CHOOSING)]
    causes += [
        "a value computed under no_grad, detached or taken through NumPy",
        "images that depend on one another in the batch",
        "half precision in the model",
    ]
    raise ValueError(
        f"model: expected DeepLIFT's attributions of image {row} to sum to S(x) - S(x0) = {difference[row]:.6g}, got "
        f"{parts[row].sum():.6g}: off by {miss[row]:.2g}, where rounding explains {allowed[row]:.2g}. The derivative "
        f"does not show all that the model computes; possible causes: {'; '.join(causes)}"
    )
