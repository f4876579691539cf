"""The iterates of an attack: the gradient of D that leads to the next, how one is judged, and the best of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fragility._call import logits_of
from fragility._checks import check_logits, entries, per_row
from fragility._convolution import twice_differentiable
from fragility._pool import QuickPools
from fragility.attribution import importance
from fragility.network import probabilities
from fragility.objective import Objective

Attribution = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Perturbation:
    """The best iterate of each image, or the original image where no iterate was kept.

    Attributes:
        images: (B, C, H, W), or (B, d), inside the ball and in [0, 1].
        labels_kept: (B,) bool, whether an iterate with the original prediction was found.
        objective: (B,) what the iterates are selected by, on the unsubstituted network's maps; NaN where none was kept.
        iteration: (B,) int64, which iterate it is, counted from 1 through all runs; 0 where none was kept.
        confidence_before: (B,) the softmax probability of the original prediction for the original image.
        confidence_after: (B,) the same for `images`.
        distance: (B,) the largest change of a pixel.
        attackable: (B,) bool, whether there was something to follow: attributions that are finite and not all zero, and
            gradients of D that are finite at every step and not zero at the first. Where False, the image stayed where
            it was, or where it had come to.
    """

    images: Tensor
    labels_kept: Tensor
    objective: Tensor
    iteration: Tensor
    confidence_before: Tensor
    confidence_after: Tensor
    distance: Tensor
    attackable: Tensor


class Iterate(NamedTuple):
    """What an attack has come to after a step, as the unsubstituted network sees it.

    Attributes:
        number: of the step, counted from 1 through all runs.
        images: (B, C, H, W).
        maps: (B, H, W), their importance maps.
        confidence: (B,) the softmax probability of the original prediction.
        kept: (B,) bool, whether the prediction is the original one, with the confidence asked for, and the image moved.
    """

    number: int
    images: Tensor
    maps: Tensor
    confidence: Tensor
    kept: Tensor


class Judge:
    """Looks at images with the unsubstituted network: is the prediction kept, and what is the importance map?"""

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        attribution: Attribution,
        min_confidence: float | None = None,
    ) -> None:
        if min_confidence is not None and not 0 < min_confidence < 1:
            raise ValueError(f"min_confidence: expected a probability between 0 and 1, got {min_confidence}")
        self._model, self._labels, self._attribution = model, labels, attribution
        self._min_confidence, self._count = min_confidence, 0
        attributions, logits = self.look(images)
        if logits.isnan().any(1).all():
            raise ValueError("model: expected logits that are numbers, got NaN for every image")
        if logits.shape[1] < 2:
            raise ValueError(
                "model: expected two logits or more, got one: its argmax is always kept; make two of it, "
                "torch.cat([-z, z], 1) / 2, whose softmax is the sigmoid of z"
            )
        self.reference, self.sound = safe_importance(attributions)
        if not self.sound.any():
            importance(attributions)  # says what is wrong
        self.images, self.logits, self.prediction = images, logits, logits.argmax(1)
        self.confidence = self.confidence_of(logits)

    def __call__(self, images: Tensor) -> Iterate:
        """Judge the next iterate.

        Args:
            images: (B, C, H, W).

        Returns:
            What was seen. The original itself does not count as kept.
        """
        self._count += 1
        attributions, logits = self.look(images)
        maps, alive = safe_importance(attributions)
        confidence, moved = self.confidence_of(logits), (images != self.images).flatten(1).any(1)
        kept = self.sound & alive & moved & (logits.argmax(1) == self.prediction)
        if self._min_confidence is not None:
            kept &= confidence >= self._min_confidence
        return Iterate(self._count, images, maps, confidence, kept)

    def look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Look at images.

        Args:
            images: (B, C, H, W).

        Returns:
            Signed attributions, NaN where the logits are, and the logits: those that the attribution computed on its
            way, where it did.
        """
        with QuickPools(), _last_call(self._model) as seen:
            attributions = explain(self._attribution, self._model, images, self._labels).detach()
        given, logits = seen[0] if seen else (None, None)
        if not (isinstance(given, Tensor) and torch.equal(given, images)):
            with torch.no_grad():
                logits = logits_of(self._model, images)
        logits = check_logits(logits, len(images)).detach()
        unknown = per_row(logits.isnan().any(1), attributions)
        return attributions.masked_fill(unknown, float("nan")), logits

    def confidence_of(self, logits: Tensor) -> Tensor:
        """Return the probability (B,) of the original prediction that the model's outputs (B, K) stand for."""
        return probabilities(self._model, logits).gather(1, self.prediction.unsqueeze(1)).squeeze(1)


class BestIterate:
    """Of every image's iterates that keep the prediction the first one with the largest value; chosen by masks."""

    def __init__(self, images: Tensor, confidence: Tensor) -> None:
        self._originals, self._confidence_before = images, confidence
        self.images, self.confidence = images, confidence
        self.value = torch.full_like(confidence, float("-inf"))
        self.iteration = torch.zeros_like(confidence, dtype=torch.int64)

    def offer(self, number: int, images: Tensor, value: Tensor, confidence: Tensor, kept: Tensor) -> Tensor:
        """Take what surpasses the best so far.

        Args:
            number: of the iterate.
            images: (B, C, H, W).
            value: (B,), by which is chosen.
            confidence: (B,), of the original prediction.
            kept: (B,) bool, which images may be taken.

        Returns:
            (B,) bool, which ones were taken.
        """
        better = kept & (value > self.value)
        self.images = torch.where(per_row(better, images), images, self.images)
        self.value = torch.where(better, value, self.value)
        self.confidence = torch.where(better, confidence, self.confidence)
        self.iteration = torch.where(better, number, self.iteration)
        return better

    def perturbation(self, attackable: Tensor | None = None) -> Perturbation:
        """Sum up the search.

        Args:
            attackable: (B,) bool, see `Perturbation`; None for all.

        Returns:
            The best iterates.
        """
        kept = self.iteration > 0
        return Perturbation(
            images=self.images,
            labels_kept=kept,
            objective=self.value.where(kept, float("nan")),
            iteration=self.iteration,
            confidence_before=self._confidence_before,
            confidence_after=self.confidence,
            distance=(self.images - self._originals).abs().flatten(1).amax(1),
            attackable=torch.ones_like(kept) if attackable is None else attackable,
        )


@contextmanager
def _last_call(model: nn.Module) -> Iterator[list[tuple[object, object]]]:
    """Keep what the model was last given and what it returned, while an attribution calls it."""
    seen: list[tuple[object, object]] = []

    def keep(_: nn.Module, arguments: tuple[object, ...], output: object) -> None:
        if torch._C._functorch.peek_interpreter_stack() is None:  # a level's tensors are not to be looked at outside it
            seen[:] = [(arguments[0] if len(arguments) == 1 else None, output)]

    handle = model.register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


def gradient(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    attribution: Attribution,
    objective: Objective,
    reference: Tensor,
    *,
    with_scale: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute grad_x D = J(x)^T u, J the Jacobian of the attributions a(x) and u = dD/da: a Hessian-vector product.

    Args:
        model: images to logits.
        x: (B, C, H, W), where.
        labels: (B,), the classes explained.
        attribution: (model, images, labels) -> signed attributions (B, C, H, W).
        objective: D(maps, reference) -> (B,).
        reference: (B, H, W), the original maps.
        with_scale: compute the second result too.

    Returns:
        The gradient (B, C, H, W), and the size that it has if nothing cancels, J(x)^T sign(a) |dD/dmap| / sum|a|.

    Raises:
        ValueError: if D does not depend differentiably on the maps, or has not one value per image.
    """
    with torch.enable_grad(), twice_differentiable():
        points = x.detach().requires_grad_()
        attributions = explain(attribution, model, points, labels)
        leaf = attributions.detach().requires_grad_()
        maps, _ = safe_importance(leaf)
        values = evaluate(objective, maps, reference)
        if not values.requires_grad:
            raise ValueError("objective: expected a differentiable function of the maps, got a constant")
        by_map, by_attribution = torch.autograd.grad(values.sum(), [maps, leaf], materialize_grads=True)
        if not attributions.requires_grad:  # those of a linear model
            return torch.zeros_like(x), torch.zeros_like(x)
        (result,) = torch.autograd.grad(attributions, points, by_attribution, retain_graph=with_scale)
        if not with_scale:
            return result, torch.ones_like(result)
        signs = leaf.detach().sign() / leaf.detach().abs().sum(entries(leaf), keepdim=True)
        (scale,) = torch.autograd.grad(
            attributions, points, signs * (by_map.abs().unsqueeze(1) if leaf.ndim == 4 else by_map.abs())
        )
        return result, scale


def explain(attribution: Attribution, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Call an attribution and check what it returns.

    Args:
        attribution: (model, images, labels) -> signed attributions.
        model: images to logits.
        images: (B, C, H, W).
        labels: int64 (B,).

    Returns:
        (B, C, H, W), or of other numbers of channels and pixels.

    Raises:
        TypeError: if it is not a floating-point tensor.
        ValueError: if it has not four dimensions (for rows of a table: their shape), or another number of images.
    """
    found = attribution(model, images, labels)
    if not isinstance(found, Tensor) or not found.is_floating_point():
        kind = found.dtype if isinstance(found, Tensor) else type(found).__name__
        raise TypeError(f"attribution: expected it to return one floating-point tensor, got {kind}")
    if images.ndim == 2 and found.shape != images.shape:
        raise ValueError(f"attribution: expected {tuple(images.shape)}, one for each column, got {tuple(found.shape)}")
    if images.ndim != 2 and (found.ndim != 4 or len(found) != len(images)):
        raise ValueError(
            f"attribution: expected signed attributions ({len(images)}, C, H, W), got shape {tuple(found.shape)}; a "
            "map (B, H, W) is given a channel by unsqueeze(1)"
        )
    return found


def evaluate(objective: Objective, maps: Tensor, reference: Tensor) -> Tensor:
    """Call an objective and check what it returns.

    Args:
        objective: D(maps, reference) -> (B,).
        maps: (B, H, W).
        reference: (B, H, W).

    Returns:
        D, (B,).

    Raises:
        ValueError: if it is not one value per image.
    """
    values = objective(maps, reference)
    if not isinstance(values, Tensor):
        raise ValueError(f"objective: expected a tensor, one value per image, got {type(values).__name__}")
    if values.shape != maps.shape[:1]:
        raise ValueError(f"objective: expected one value per image, ({len(maps)},), got shape {tuple(values.shape)}")
    return values


def safe_importance(attributions: Tensor) -> tuple[Tensor, Tensor]:
    """Make importance maps of iterates, of which some may have attributions that are all zero.

    Args:
        attributions: (B, C, H, W).

    Returns:
        Maps (B, H, W), uniform where the attributions are all zero or not finite, and where they are not: (B,) bool.
    """
    flat = attributions.detach().flatten(1)
    alive = (flat != 0).any(1) & flat.isfinite().all(1)
    return importance(attributions.where(per_row(alive, attributions), 1.0)), alive
