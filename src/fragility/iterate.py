"""The iterates of an attack: the gradient of D that leads to the next, and the best of every image so far."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fragility._checks import check_logits
from fragility._convolution import fixed_weights
from fragility.attribution import importance
from fragility.objective import Objective

Attribution = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Perturbation:
    """The best iterate of each image, or the original image where no iterate was kept.

    Attributes:
        images: (B, C, H, W), inside the ball and in [0, 1].
        labels_kept: (B,) bool, whether an iterate with the original prediction was found.
        objective: (B,) what the iterates are selected by, on the unsubstituted network's maps; NaN where none was kept.
        iteration: (B,) int64, which iterate it is, counted from 1 through all runs; 0 where none was kept.
        confidence_before: (B,) the softmax probability of the original prediction for the original image.
        confidence_after: (B,) the same for `images`.
        distance: (B,) the largest change of a pixel.
    """

    images: Tensor
    labels_kept: Tensor
    objective: Tensor
    iteration: Tensor
    confidence_before: Tensor
    confidence_after: Tensor
    distance: Tensor


class Best:
    """The best iterate of every image so far, judged on the unsubstituted network; replaced by masks, on the device."""

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        attribution: Attribution,
        selection: Objective,
        min_confidence: float | None,
    ) -> None:
        if min_confidence is not None and not 0 < min_confidence < 1:
            raise ValueError(f"min_confidence: expected a probability between 0 and 1, got {min_confidence}")
        self.model, self.originals, self.labels = model, images, labels
        self.attribution, self.selection, self.min_confidence = attribution, selection, min_confidence
        self.reference = importance(attribution(model, images, labels)).detach()
        logits = self._logits(images)
        self.prediction = logits.argmax(1)
        self.confidence_before = self._confidence(logits)
        self.images, self.confidence, self.count = images, self.confidence_before, 0
        self.objective = torch.full_like(self.confidence, float("-inf"))
        self.iteration = torch.zeros_like(labels)
        self.start_run()

    def start_run(self) -> None:
        """Forget the best of the run before; the best of all runs is kept."""
        self.run_images, self.run_objective = self.originals, torch.full_like(self.confidence, float("-inf"))

    def offer(self, x: Tensor) -> None:
        """Take the images of the next iterate `x` that keep their label and surpass the best so far."""
        self.count += 1
        logits = self._logits(x)
        confidence = self._confidence(logits)
        maps, alive = safe_importance(self.attribution(self.model, x, self.labels).detach())
        value = evaluate(self.selection, maps, self.reference).detach()
        # An iterate that did not move is the original, and no candidate.
        kept = alive & (logits.argmax(1) == self.prediction) & (x != self.originals).flatten(1).any(1)
        if self.min_confidence is not None:
            kept &= confidence >= self.min_confidence
        ahead = kept & (value > self.run_objective)
        self.run_images = torch.where(ahead.view(-1, 1, 1, 1), x, self.run_images)
        self.run_objective = torch.where(ahead, value, self.run_objective)
        better = kept & (value > self.objective)
        self.images = torch.where(better.view(-1, 1, 1, 1), x, self.images)
        self.objective = torch.where(better, value, self.objective)
        self.confidence = torch.where(better, confidence, self.confidence)
        self.iteration = torch.where(better, self.count, self.iteration)

    def perturbation(self) -> Perturbation:
        """Sum up the search.

        Returns:
            The best iterates.
        """
        kept = self.iteration > 0
        return Perturbation(
            images=self.images,
            labels_kept=kept,
            objective=self.objective.where(kept, float("nan")),
            iteration=self.iteration,
            confidence_before=self.confidence_before,
            confidence_after=self.confidence,
            distance=(self.images - self.originals).abs().amax((1, 2, 3)),
        )

    def _logits(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return check_logits(self.model(x), len(x))

    def _confidence(self, logits: Tensor) -> Tensor:
        return logits.softmax(1).gather(1, self.prediction.unsqueeze(1)).squeeze(1)


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
    with torch.enable_grad(), fixed_weights():
        points = x.detach().requires_grad_()
        attributions = attribution(model, points, labels)
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
        signs = leaf.detach().sign() / leaf.detach().abs().sum((1, 2, 3), keepdim=True)
        (scale,) = torch.autograd.grad(attributions, points, signs * by_map.abs().unsqueeze(1))
        return result, scale


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
    if values.shape != maps.shape[:1]:
        raise ValueError(f"objective: expected one value per image, ({len(maps)},), got shape {tuple(values.shape)}")
    return values


def safe_importance(attributions: Tensor) -> tuple[Tensor, Tensor]:
    """Make importance maps of iterates, of which some may have attributions that are all zero.

    Args:
        attributions: (B, C, H, W).

    Returns:
        Maps (B, H, W), uniform where the attributions are all zero, and where they are not: (B,) bool.
    """
    alive = (attributions.detach() != 0).flatten(1).any(1)
    return importance(attributions.where(alive.view(-1, 1, 1, 1), 1.0)), alive
