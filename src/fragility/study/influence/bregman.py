"""The proximal Bregman response: what influence estimates where training has not reached a minimum [Bae2022]."""

from typing import Any

import torch
from torch import Tensor

from fragility.influence.logistic import cross_entropies, residuals


def bregman_response(inputs: Tensor, labels: Tensor, start: Tensor, without: int, penalty: float) -> Tensor:
    """Minimise the proximal Bregman objective without an example, by L-BFGS.

    Args:
        inputs: (N, D), float64.
        labels: int64 (N,).
        start: theta_s (K, D), where training ended.
        without: which example is left out.
        penalty: lambda, on the distance from where training ended.

    Returns:
        theta (K, D).
    """
    logits = inputs @ start.T
    slopes, theta = residuals(logits, labels), start.clone().requires_grad_()

    def objective() -> Tensor:
        now = inputs @ theta.T
        rise = cross_entropies(now, labels) - cross_entropies(logits, labels)
        distance = (rise - (slopes * (now - logits)).sum(1)).mean()
        value = distance - cross_entropies(now, labels)[without] / len(labels)
        return value + penalty / 2 * (theta - start).square().sum()

    options: dict[str, Any] = {"tolerance_grad": 1e-12, "tolerance_change": 1e-16, "line_search_fn": "strong_wolfe"}
    solver = torch.optim.LBFGS([theta], max_iter=1000, **options)

    def closure() -> Tensor:
        solver.zero_grad()
        value = objective()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    solver.step(closure)  # type: ignore[no-untyped-call]
    return theta.detach()
