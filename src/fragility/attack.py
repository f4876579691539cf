"""Small changes of an image that change its importance map and keep its label [Ghorbani2019, Alg. 1]."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from tqdm import tqdm

from fragility._alone import Alone, check_alone, check_same
from fragility._call import logits_of
from fragility._checks import (
    check_count,
    check_epsilon,
    check_gradients,
    check_images,
    check_model,
    check_positive,
    entries,
    is_trusted,
    per_row,
    trusting,
)
from fragility._gradient import gradient as score_gradient
from fragility._reach import check_smooth
from fragility._softplus import softplus
from fragility.iterate import Attribution, BestIterate, Iterate, Judge, evaluate, gradient
from fragility.iterate import Perturbation as Perturbation
from fragility.objective import Objective
from fragility.step import ball, frozen, sign_step, uniform

Callback = Callable[[Iterate], None]

SCHEDULES = ("constant", "linear", "momentum", "adaptive")


class Budget(TypedDict):
    """Options of `iterative` that belong together: how many steps, of what size, on which surrogate."""

    step_size: float
    iterations: int
    schedule: str
    surrogate_beta: tuple[float, float]


def annealed(epsilon: float, beta: float, iterations: int = 40) -> Budget:
    """Choose steps of which few gain much: how much beside Algorithm 1, the page on speed tells (book/speed.md).

    The step falls linearly from epsilon / 8, beta rises geometrically from an eighth of its value: on a smooth
    surrogate a gradient stays right over long steps, and as they shrink the surrogate becomes the network. Momentum
    carries the attack on where single slopes contradict one another, and a lost prediction is won back.

    Args:
        epsilon: radius of the L-inf ball, as for `iterative`.
        beta: sharpness of the surrogate at the end, from `fragility.surrogate.suggest_beta`.
        iterations: P, the number of steps.

    Returns:
        Options: `iterative(..., epsilon=epsilon, **annealed(epsilon, beta))`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range.
    """
    check_epsilon(epsilon)
    check_positive("beta", beta)
    check_count("iterations", iterations)
    return Budget(step_size=epsilon / 8, iterations=iterations, schedule="momentum", surrogate_beta=(beta / 8, beta))


def random_sign(images: Tensor, epsilon: float, *, generator: torch.Generator | None = None) -> Tensor:
    """Move every pixel by +epsilon or -epsilon, at random: the paper's random perturbation [Ghorbani2019, sec. 3].

    Args:
        images: (B, C, H, W) in [0, 1], or rows of a table (B, d).
        epsilon: the size of the change, in units of the pixel range (8 / 255).
        generator: source of randomness; None for PyTorch's own.

    Returns:
        Images clipped to [0, 1].
    """
    lower, upper = ball(images, epsilon)
    return torch.where(uniform(images, generator) < 0.5, lower, upper)


def random_walk(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    attribution: Attribution,
    objective: Objective,
    epsilon: float,
    step_size: float,
    iterations: int,
    min_confidence: float | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
    callback: Callback | None = None,
) -> Perturbation:
    """Take random sign steps clipped to the ball and return the best iterate: the released code's random attack.

    Unlike `random_sign` it has as many tries as `iterative`, and its iterates lie well inside the ball.

    Args:
        model: images in [0, 1] to logits (B, K), in evaluation mode.
        images: (B, C, H, W) in [0, 1], or rows of a table (B, d).
        labels: int64 (B,), the classes explained.
        attribution: (model, images, labels) -> signed attributions of the images' shape.
        objective: D(maps, reference) -> (B,), by which the best iterate is chosen.
        epsilon: radius of the L-inf ball.
        step_size: alpha, in the unit of `epsilon`.
        iterations: P, the number of steps.
        min_confidence: least softmax probability of the original prediction that a kept iterate must have.
        generator: source of randomness; None for PyTorch's own.
        progress: show a progress bar.
        callback: called with every `Iterate` as it was judged: for curves, films, or a choice of one's own.

    Returns:
        The best iterates.
    """
    images = _check_run(model, images, step_size, iterations)
    lower, upper = ball(images, epsilon)
    alone = check_alone(model, images, again=False)
    with frozen(model), trusting(model), tqdm(total=iterations, disable=not progress) as bar:
        judge = Judge(model, images, labels, attribution, min_confidence)
        _check_repeats(alone, judge)
        best = BestIterate(images, judge.confidence)
        x = images
        for _ in range(iterations):
            signs = torch.where(uniform(images, generator) < 0.5, -1, 1)
            x = sign_step(x, signs, step_size, lower, upper)
            _offer(judge(x), objective, judge.reference, [best], bar, callback)
    return best.perturbation(judge.sound)


def iterative(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    attribution: Attribution,
    objective: Objective,
    epsilon: float,
    step_size: float,
    iterations: int,
    surrogate_beta: float | tuple[float, float] | None = None,
    evaluation: Attribution | None = None,
    selection: Objective | None = None,
    min_confidence: float | None = None,
    schedule: str = "constant",
    restarts: int = 0,
    levels: int | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
    callback: Callback | None = None,
) -> Perturbation:
    """Attack an importance map by sign steps along the gradient of D [Ghorbani2019, Alg. 1].

    x^p = clip(x^(p-1) + alpha sign(grad_x D)); of all iterates with the original prediction the one with the largest D
    is returned. The gradient is a Hessian-vector product, J(x)^T dD/da with a the attributions and J their Jacobian.
    ReLU networks have zero second derivatives almost everywhere, so it has to be taken through a softplus
    surrogate (`surrogate_beta`, see `fragility.surrogate`); which iterate is best is always judged on the network
    itself.

    Args:
        model: images in [0, 1] to logits (B, K), in evaluation mode; its parameters and their gradients are left alone.
        images: (B, C, H, W) in [0, 1], float32 or float64; or rows of a table (B, d), whose columns are scaled to
            [0, 1]: then attributions and maps are (B, d) as well.
        labels: int64 (B,), the classes explained.
        attribution: (model, images, labels) -> signed attributions (B, C, H, W), with a graph where the images require
            a gradient; set its options by `functools.partial`.
        objective: D(maps, reference) -> (B,), see `fragility.objective`.
        epsilon: radius of the L-inf ball, in units of the pixel range (8 / 255); it and [0, 1] hold exactly.
        step_size: alpha, in the same unit; the first step where `schedule` changes it.
        iterations: P, the number of steps of a run.
        surrogate_beta: sharpness of the softplus surrogate; a pair (first, last) goes geometrically from one to the
            other over a run: a smooth surrogate shows the way, a faithful one the end of it. None takes the gradient
            on the network itself.
        evaluation: the attribution that judges iterates, with other options than the one attacked (more steps of
            integrated gradients, say); None for the same.
        selection: the function (maps, reference) -> (B,) by which the best iterate is chosen; None for D. The released
            code selects by the metric, for example `lambda maps, reference: -top_k_intersection(maps, reference, k)`.
        min_confidence: least softmax probability of the original prediction that a kept iterate must have.
        schedule: of the step. `"constant"` is Algorithm 1. `"linear"` lets it fall, alpha (1 - (p - 1) / P).
            `"momentum"`, that of `annealed`, does too, adds half of the earlier slopes' sum to each slope [Dong2018],
            and where the last iterate lost its prediction climbs that one's lead over the next class. `"adaptive"`
            keeps a quarter of the last move as momentum, and where an image has made no progress over a tenth of the
            run halves its step and goes back to its best iterate: Auto-PGD [Croce2020] with a simpler clock; alpha is
            best epsilon then.
        restarts: number of further runs, from random points of the ball; the best iterate of all runs is returned.
        levels: judge and return iterates as a file holds them, rounded to multiples of 1 / levels inside the ball (255
            for 8 bits); None for as they are. Steps are taken from what is not rounded.
        generator: source of randomness for the restarts; None for PyTorch's own.
        progress: show a progress bar.
        callback: called with every `Iterate` as it was judged: for curves, films, or a choice of one's own.

    Returns:
        The best iterates. An image whose own first gradient is zero up to rounding takes no steps.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range, or the first gradient is not finite, or zero up to rounding for the
            whole batch.
    """
    images = _check_run(model, images, step_size, iterations)
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule: expected one of {', '.join(SCHEDULES)}, got {schedule!r}")
    check_count("restarts", restarts, least=0)
    lower, upper = ball(images, epsilon)
    if levels is not None:
        check_count("levels", levels)
    alone = None if is_trusted(model) else check_alone(model, images, again=False, honest=surrogate_beta is None)
    with frozen(model), trusting(model), tqdm(total=iterations * (restarts + 1), disable=not progress) as bar:
        judge = Judge(model, images, labels, evaluation or attribution, min_confidence)
        best = BestIterate(images, judge.confidence)

        def climb(x: Tensor, p: int, *, with_scale: bool = False) -> tuple[Tensor, Tensor]:
            with _surrogate(surrogate_beta, (p - 1) / max(1, iterations - 1)):
                return gradient(model, x, labels, attribution, objective, judge.reference, with_scale=with_scale)

        if alone is not None:
            _check_repeats(alone, judge)
            with _surrogate(surrogate_beta, 0.0):
                check_smooth(model, images, labels, sizes=alone.sizes)
        first, scale = climb(images, 1, with_scale=True)
        moving = per_row(judge.sound, images) & _moving(first, scale, on_surrogate=surrogate_beta is not None)
        sound = moving
        for run in range(restarts + 1):
            x = images if run == 0 else torch.lerp(lower, upper, uniform(images, generator)).clamp(lower, upper)
            run_best = BestIterate(images, judge.confidence)
            last, step, mark = (
                x,
                per_row(torch.full_like(judge.confidence, step_size, dtype=x.dtype), x),
                run_best.value,
            )
            kept, pace = torch.ones_like(judge.sound), torch.zeros_like(x)
            for p in range(1, iterations + 1):
                slope = climb(x, p)[0] if run or p > 1 else first
                if schedule == "momentum" and not kept.all():
                    slope = slope.where(per_row(kept, x), _lead(model, x, judge.prediction))
                finite = per_row(slope.isfinite().flatten(1).all(1), x)
                sound = sound & finite
                if schedule == "momentum":
                    mean = per_row(slope.abs().flatten(1).mean(1), x).clamp(min=torch.finfo(x.dtype).tiny)
                    slope = pace = pace / 2 + (slope / mean).where(finite, 0)
                size = step * (1 - (p - 1) / iterations) if schedule in ("linear", "momentum") else step
                target = sign_step(x, slope.where(moving & finite, 0), size, lower, upper)
                if schedule == "adaptive" and p > 1:
                    target = (x + 0.75 * (target - x) + 0.25 * (x - last)).clamp(lower, upper)
                last, x = x, target
                seen = judge(x if levels is None else _rounded(x, levels, lower, upper))
                kept = seen.kept
                _offer(seen, selection or objective, judge.reference, [best, run_best], bar, callback)
                if schedule == "adaptive" and p % max(1, iterations // 10) == 0:
                    stalled = per_row(run_best.value <= mark, x)
                    step, mark = torch.where(stalled, step / 2, step), run_best.value
                    last, x = (torch.where(stalled, run_best.images, image) for image in (last, x))
    return best.perturbation(sound.flatten())


def _rounded(x: Tensor, levels: int, lower: Tensor, upper: Tensor) -> Tensor:
    """The multiples of 1 / levels next to x, among those inside the ball up to the bounds' own rounding."""
    least, greatest = (levels * lower - 1e-3).ceil(), (levels * upper + 1e-3).floor()
    if (least > greatest).any():
        raise ValueError(f"levels: expected multiples of 1 / {levels} within epsilon of all pixels, got pixels without")
    return (levels * x).round().clamp(least, greatest) / levels


def _surrogate(beta: float | tuple[float, float] | None, done: float) -> AbstractContextManager[None]:
    """The softplus surrogate of a step, `done` being the share of the run that lies behind it."""
    if beta is None:
        return nullcontext()
    pair = beta if isinstance(beta, (tuple, list)) else (beta, beta)
    if len(pair) != 2:
        raise ValueError(f"surrogate_beta: expected a number or a pair (first, last), got {len(pair)} numbers")
    first, last = pair
    check_positive("surrogate_beta", first)
    check_positive("surrogate_beta", last)
    return softplus(first * (last / first) ** done)


def _moving(slope: Tensor, scale: Tensor, *, on_surrogate: bool) -> Tensor:
    """Tell which images (B, 1, ...) have a gradient that is no rounding error; refuse a batch without any."""
    if not slope.isfinite().flatten(1).all(1).any():
        raise ValueError("objective: expected a finite gradient with respect to the images, got NaN or infinity")
    size, whole = (part.abs().amax(entries(part), keepdim=True) for part in (slope, scale))
    # Where everything cancels, as for a single neuron's normalised map, 2 units of rounding are left; the networks of
    # the paper are at a million times as much in float32.
    moving: Tensor = size > 64 * torch.finfo(size.dtype).eps * whole
    if not moving.any():
        reason = (
            "a ReLU network's gradient is piecewise constant, so that its derivative, the Hessian, is exactly zero "
            "almost everywhere: pass surrogate_beta to differentiate a softplus surrogate (fragility.surrogate "
            "suggests one)"
            if not on_surrogate
            else "also on the softplus surrogate"
        )
        raise ValueError(
            f"objective: its gradient with respect to the images is zero up to rounding for the whole batch; {reason}. "
            "The normalised gradient map of a linear model or of a single neuron cannot be moved at all; nor can what "
            "an attribution returns without a graph."
        )
    return moving


def _lead(model: nn.Module, x: Tensor, prediction: Tensor) -> Tensor:
    """The slope of the prediction's lead over the next class, on the network itself."""
    with torch.enable_grad():
        points, own = x.detach().requires_grad_(), prediction.unsqueeze(1)
        logits = logits_of(model, points)
        lead = logits.gather(1, own) - logits.scatter(1, own, float("-inf")).amax(1, keepdim=True)
        return score_gradient(lead, points, create_graph=False)


def _offer(
    iterate: Iterate,
    selection: Objective,
    reference: Tensor,
    best: Sequence[BestIterate],
    bar: Any,
    callback: Callback | None,
) -> None:
    """Offer an iterate to those who keep the best, and report it."""
    value = evaluate(selection, iterate.maps, reference).detach()
    for keeper in best:
        keeper.offer(iterate.number, iterate.images, value, iterate.confidence, iterate.kept)
    bar.update()
    if callback is not None:
        callback(iterate)


def _check_repeats(alone: Alone, judge: Judge) -> None:
    """Look at a single image's second answer, which was computed anyway."""
    if len(judge.logits) == 1:
        check_same(alone.logits, judge.logits[0])


def _check_run(model: nn.Module, images: Tensor, step_size: float, iterations: int) -> Tensor:
    """Check what both attacks are given; return the images without a graph."""
    check_model(model)
    check_positive("step_size", step_size)
    check_count("iterations", iterations)
    check_images(images, tables=True)
    check_gradients(images)
    return images.detach()
