"""Small changes of an image that change which training images explain its prediction [Ghorbani2019, eq. 2]."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from fragility._checks import check_count, check_gradients, check_labels, check_model, check_positive
from fragility.influence.last_layer import LastLayerInfluence
from fragility.influence.logistic import cross_entropies, residuals
from fragility.iterate import BestIterate, Perturbation
from fragility.step import ball, frozen, sign_step

FeatureObjective = Callable[[Tensor], Tensor]
"""Features (B, P) to the values (B,) that an attack raises."""


def lower_influence(
    last_layer: LastLayerInfluence, labels: Tensor, change: Tensor, *, fixed_residuals: Tensor | None = None
) -> FeatureObjective:
    """Lower the influence r^T U phi between an image and what U stands for [Ghorbani2019, eq. 2].

    With U the parameter change of some training images it attacks test images; with U the sensitivity of a test image
    it attacks training images, which is the attack of [Koh2017, sec. 5.2]. A negated U raises the influence instead.

    Args:
        last_layer: the fitted last layer.
        labels: int64 (B,), held fixed: if they followed the prediction, a flip would reverse every sign.
        change: U (B, K, P + 1), from `parameter_change` or `sensitivity`.
        fixed_residuals: r (B, K) held fixed; None lets it follow the features, as in eq. 2.

    Returns:
        features (B, P) -> minus the summed influence (B,), differentiable.
    """

    def value(features: Tensor) -> Tensor:
        check_labels(labels, len(features), last_layer.num_classes)
        r = residuals(last_layer.logits(features), labels) if fixed_residuals is None else fixed_residuals
        phi = pad(features.to(change), (0, 1), value=1.0)
        return -torch.einsum("bk,bkp,bp->b", r, change, phi)

    return value


def raise_confidence(last_layer: LastLayerInfluence, labels: Tensor) -> FeatureObjective:
    """Raise the probability of the labels: as it tends to 1, every influence tends to zero.

    Args:
        last_layer: the fitted last layer.
        labels: int64 (B,).

    Returns:
        features (B, P) -> log probability (B,), differentiable.
    """

    def value(features: Tensor) -> Tensor:
        check_labels(labels, len(features), last_layer.num_classes)
        return -cross_entropies(last_layer.logits(features), labels)

    return value


def sign_attack(
    backbone: nn.Module,
    last_layer: LastLayerInfluence,
    images: Tensor,
    *,
    objective: FeatureObjective,
    epsilon: float,
    step_size: float | None = None,
    iterations: int = 1,
) -> Perturbation:
    """Take sign steps along the gradient of an objective of the features; by default the one step of eq. 2.

    Args:
        backbone: images to features (B, P), in evaluation mode, differentiable.
        last_layer: fitted to that backbone's features.
        images: (B, C, H, W) in [0, 1].
        objective: features -> (B,), to be raised.
        epsilon: radius of the L-inf ball, in units of the pixel range (8 / 255).
        step_size: None for one step of `epsilon`.
        iterations: number of steps.

    Returns:
        Of each image, the iterate with the largest objective among those that keep the prediction. An image whose
        gradient is zero or not finite stays where it is.

    Raises:
        ValueError: if an argument is out of range, or the gradient is zero or not finite for the whole batch.
    """
    check_model(backbone)
    check_count("iterations", iterations)
    images = images.detach()
    lower, upper = ball(images, epsilon)
    step = epsilon if step_size is None else step_size
    check_positive("step_size", step)
    with frozen(backbone):
        visited = [images]
        for _ in range(iterations):
            slope = _slope(backbone, objective, visited[-1])
            visited.append(sign_step(visited[-1], slope, step, lower, upper))
        return judge(backbone, last_layer, images, visited[1:], objective)


def judge(
    backbone: nn.Module,
    last_layer: LastLayerInfluence,
    images: Tensor,
    iterates: list[Tensor],
    objective: FeatureObjective | None = None,
) -> Perturbation:
    """Choose each image's best iterate, by the conventions of `fragility.attack`.

    Args:
        backbone: images to features (B, P).
        last_layer: fitted to that backbone's features.
        images: the originals (B, C, H, W).
        iterates: changed images, each (B, C, H, W).
        objective: features -> (B,), to choose by; None for the first iterate that keeps the prediction.

    Returns:
        The best iterates, or the original, with iteration 0 and objective NaN, where none keeps the prediction.
    """
    with torch.no_grad():
        confidence_before, prediction = last_layer.logits(backbone(images.clone())).softmax(1).max(1)
        best = BestIterate(images, confidence_before)
        for number, x in enumerate(iterates, 1):
            features = backbone(x.clone())
            probabilities = last_layer.logits(features).softmax(1)
            value = torch.full_like(confidence_before, -number) if objective is None else objective(features)
            kept = (probabilities.argmax(1) == prediction) & (x != images).flatten(1).any(1)
            confidence = probabilities.gather(1, prediction.unsqueeze(1)).squeeze(1)
            best.offer(number, x, value.to(confidence), confidence, kept)
    found = best.perturbation()
    return found if objective is not None else replace(found, objective=torch.full_like(found.objective, float("nan")))


@dataclass(frozen=True, eq=False)
class Poisoning:
    """The outcome of an attack on one training image.

    Attributes:
        image: (1, C, H, W), the changed training image.
        features: (N, P), of the training images with that one changed.
        last_layer: fitted to those features.
        flipped: whether the retrained layer's prediction of the test image differs from the original one.
        iterations: steps taken.
    """

    image: Tensor
    features: Tensor
    last_layer: LastLayerInfluence
    flipped: bool
    iterations: int


def training_attack(
    backbone: nn.Module,
    last_layer: LastLayerInfluence,
    image: Tensor,
    index: int,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    epsilon: float,
    step_size: float,
    iterations: int,
) -> Poisoning:
    """Change one training image until the last layer trained on it gets a test image wrong [Koh2017, sec. 5.2].

    Every step follows the sign of -grad_x (g_t^T H^-1 g_i(x)), the perturbation influence, and trains the layer again.
    It stops at the first flip.

    Args:
        backbone: images to features (B, P), in evaluation mode, differentiable.
        last_layer: fitted to the unchanged training features.
        image: (1, C, H, W) in [0, 1], the training image.
        index: its position in the training set.
        test_features: (1, P) of the test image.
        test_labels: int64 (1,), its prediction so far.
        epsilon: radius of the L-inf ball; 0.5 / 255 is lost in an 8-bit file.
        step_size: of each step.
        iterations: the most steps.

    Returns:
        The changed image and the retrained layer.
    """
    check_model(backbone)
    check_positive("step_size", step_size)
    check_count("iterations", iterations)
    check_labels(test_labels, 1, last_layer.num_classes, name="test_labels")
    lower, upper = ball(image, epsilon)
    label = last_layer.labels[index : index + 1]
    x, features, fitted, flipped, count = image.detach(), last_layer.features, last_layer, False, 0
    with frozen(backbone):
        while count < iterations and not flipped:
            objective = lower_influence(fitted, label, fitted.sensitivity(test_features, test_labels))
            x = sign_step(x, _slope(backbone, objective, x), step_size, lower, upper)
            features = features.clone()
            with torch.no_grad():
                features[index] = backbone(x.clone())[0].to(features)
            options = {"l2": last_layer.l2, "num_classes": last_layer.num_classes, "form": last_layer.form}
            fitted = LastLayerInfluence(features, last_layer.labels, dtype=features.dtype, **options)  # type: ignore[arg-type]
            flipped = bool((fitted.logits(test_features).argmax(1) != test_labels).any())
            count += 1
    return Poisoning(x, features, fitted, flipped, count)


def _slope(backbone: nn.Module, objective: FeatureObjective, x: Tensor) -> Tensor:
    """Compute the gradient of the objective with respect to the images, zero for images where it is not finite."""
    check_gradients(x)
    with torch.enable_grad():
        points = x.detach().requires_grad_()
        values = objective(backbone(points.clone()))  # a backbone may overwrite its input
        if values.shape != x.shape[:1]:
            raise ValueError(f"objective: expected one value per image, ({len(x)},), got shape {tuple(values.shape)}")
        (slope,) = torch.autograd.grad(values.sum(), points)
    slope = slope.where(slope.isfinite().flatten(1).all(1).view(-1, 1, 1, 1), 0.0)
    if not slope.any():
        raise ValueError("objective: expected a finite gradient that is not zero for the whole batch, got another")
    return slope
