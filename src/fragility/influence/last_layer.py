"""Influence of every training image on every test image, exactly, for a softmax last layer on frozen features.

The last layer minimises (1/n) sum_i CE(theta phi_i, y_i) + l2/2 |theta|^2, a bias among the features included. Its
gradient for one image is g = r (x) phi with the residual r = p - e_y, and leaving training image i out changes the loss
at test image t by g_t^T H^-1 g_i / n to first order [Koh2017], which is -1/n times eq. 1 of [Ghorbani2019].
"""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad

from fragility._checks import check_choice, check_count, check_labels
from fragility.influence import logistic

CHUNK = 256  # how many right-hand sides are solved at once


class LastLayerInfluence:
    """A last layer fitted to frozen features, and what each training image did to it.

    Everything uses one Cholesky factor of the Hessian. If there are fewer training images than features, the problem is
    first written in an orthonormal basis of the training features' span, the dual form: gradients of training images
    have no other component, so nothing is lost, and n unknowns per class remain instead of p.

    Attributes:
        features: (N, P), as fitted.
        labels: int64 (N,).
        l2: strength of the penalty.
        num_classes: K.
        form: `"primal"` or `"dual"`.
        theta: (K, P + 1), the bias last; its rows sum to zero.
        condition: the Hessian's condition number, estimated; without a penalty that in the K - 1 contrasts, since
            adding one vector to all rows of theta then changes nothing.
    """

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        *,
        l2: float,
        num_classes: int,
        form: str | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        check_count("num_classes", num_classes, least=2)
        if not 0 <= l2 < float("inf"):
            raise ValueError(f"l2: expected a finite number >= 0, got {l2}")
        check_choice("form", form, ("primal", "dual", None))
        if dtype not in (torch.float32, torch.float64):
            raise TypeError(f"dtype: expected torch.float32 or torch.float64, got {dtype}")
        logistic.check_features(features, "features")
        check_labels(labels, len(features), num_classes)
        self.features, self.labels = features.detach().to(dtype), labels
        self.l2, self.num_classes = l2, num_classes
        inputs = pad(self.features, (0, 1), value=1.0)
        n, width = inputs.shape
        if l2 == 0 and n < width:
            raise ValueError(
                f"l2: the Hessian of {n} images has rank {n} per class at most and is singular with {width} features "
                f"(bias included); expected l2 > 0, got {l2}"
            )
        self.form = form or ("dual" if n < width else "primal")
        unknowns = (num_classes - 1) * (width if self.form == "primal" else min(n, width))
        logistic.check_memory(unknowns, 2, inputs, "expected fewer classes, features (a projection) or training images")
        self._span = torch.linalg.qr(inputs.T).Q if self.form == "dual" else None  # (P + 1, D)
        self._basis = logistic.contrasts(num_classes, inputs)
        self._inputs = inputs if self._span is None else inputs @ self._span
        self._beta = logistic.newton(self._inputs, labels, l2=l2, num_classes=num_classes)
        self.theta = self._full(self._beta)
        logits = self._inputs @ self._beta.T @ self._basis.T
        self._residuals = logistic.residuals(logits, labels) @ self._basis
        self._curvature = self._basis.T @ logistic.covariances(logits) @ self._basis
        matrix = logistic.hessian(self._inputs, self._curvature, l2)
        self._lower = logistic.factor(matrix)
        largest, smallest = logistic.extreme_eigenvalues(matrix, self._lower)
        self.condition = largest / (l2 or smallest)  # along the contrasts' complement the penalty is all there is

    def logits(self, features: Tensor) -> Tensor:
        """Return the last layer's logits.

        Args:
            features: (B, P), of any floating-point type.

        Returns:
            (B, K), differentiable with respect to the features.
        """
        logistic.check_features(features, "features", self.features.shape[1])
        return features.to(self.theta) @ self.theta[:, :-1].T + self.theta[:, -1]

    def influence(self, test_features: Tensor, test_labels: Tensor, *, corrected: bool = False) -> Tensor:
        """Return how much each test loss would rise without each training image: g_t^T H^-1 g_i / n [Koh2017, eq. 2].

        Args:
            test_features: (T, P).
            test_labels: int64 (T,).
            corrected: divide by 1 - leverage, that is, take a whole Newton step of the problem without the image
                (for K classes a solve with I - A_i C_i) instead of the first-order step with the Hessian of all images.

        Returns:
            (T, N), positive where the training image helps; differentiable with respect to `test_features`.
        """
        return self._influence(test_features, test_labels, self._corrected if corrected else self._residuals)

    def relative_influence(self, test_features: Tensor, test_labels: Tensor) -> Tensor:
        """Return influence per unit of what an image does to its own loss: l-RelatIF [Barshan2020].

        Args:
            test_features: (T, P).
            test_labels: int64 (T,).

        Returns:
            (T, N): influence divided by the square root of the training image's self-influence. Both are proportional
            to 1 - p_y, which cancels, even where the training image's probability is exactly 1.
        """
        turned = logistic.directions(self.logits(self.features), self.labels) @ self._basis
        own = torch.einsum("na,nab,nb->n", turned, self._hats, turned)
        return self._influence(test_features, test_labels, turned) / own.sqrt()

    def self_influence(self) -> Tensor:
        """Return the influence of each training image on its own loss.

        Returns:
            (N,), positive.
        """
        return torch.einsum("na,nab,nb->n", self._residuals, self._hats, self._residuals)

    def leverage(self) -> Tensor:
        """Return the trace of A_i C_i, with C_i the block (I (x) phi_i)^T H^-1 (I (x) phi_i) / n.

        Returns:
            (N,) at least 0, for two classes the hat values of weighted least squares; they sum to the effective number
            of parameters.
        """
        return torch.einsum("nab,nba->n", self._curvature, self._hats)

    def feature_gradient(
        self, test_features: Tensor, test_labels: Tensor, train_indices: Tensor, *, weights: Tensor | None = None
    ) -> Tensor:
        """Return the gradient of summed influence with respect to the test features: U^T r + W^T A U phi.

        Args:
            test_features: (T, P).
            test_labels: int64 (T,).
            train_indices: int64 (T, k), whose influence on each test image is summed.
            weights: (T, k), factors in the sum (a sign, say); None for ones.

        Returns:
            (T, P), without the bias.
        """
        change = self.parameter_change(train_indices, weights=weights)
        logistic.check_features(test_features, "test_features", self.features.shape[1])
        check_labels(test_labels, len(test_features), self.num_classes, name="test_labels")
        logits = self.logits(test_features.detach())
        bent = (
            logistic.covariances(logits)
            @ change
            @ pad(test_features.detach().to(logits), (0, 1), value=1.0).unsqueeze(2)
        )
        direct = logistic.residuals(logits, test_labels).unsqueeze(1) @ change
        return direct.squeeze(1)[:, :-1] + bent.squeeze(2) @ self.theta[:, :-1]

    def parameter_change(self, train_indices: Tensor, *, weights: Tensor | None = None) -> Tensor:
        """Return how theta would move, to first order, without some training images: sum of H^-1 g_i / n.

        Args:
            train_indices: int64 (T, k), the images left out together.
            weights: (T, k), factors in the sum; None for ones.

        Returns:
            (T, K, P + 1).

        Raises:
            TypeError: if the indices are not an int64 tensor.
            ValueError: if they are out of range or of the wrong shape.
        """
        check_labels(train_indices.flatten(), train_indices.numel(), len(self.labels), name="train_indices")
        if train_indices.ndim != 2:
            raise ValueError(f"train_indices: expected shape (T, k), got {tuple(train_indices.shape)}")
        if weights is not None and weights.shape != train_indices.shape:
            raise ValueError(f"weights: expected shape {tuple(train_indices.shape)}, got {tuple(weights.shape)}")
        residual = self._residuals[train_indices]
        if weights is not None:
            residual = residual * weights.to(residual).unsqueeze(2)
        return self._full(self._solve(residual.mT @ self._inputs[train_indices])) / len(self.labels)

    def sensitivity(self, test_features: Tensor, test_labels: Tensor) -> Tensor:
        """Return how test losses respond to a training gradient that is left out: H^-1 g_t / n.

        Args:
            test_features: (T, P).
            test_labels: int64 (T,).

        Returns:
            (T, K, P + 1); its product with a gradient g_i is an influence.
        """
        inputs, residual = self._test(test_features, test_labels)
        return self._full(self._solve(residual.unsqueeze(2) * inputs.unsqueeze(1))) / len(self.labels)

    def retrained(self, index: int | Sequence[int]) -> Tensor:
        """Fit the last layer again without one or several training images; the others keep their weight 1/n.

        Args:
            index: which one, or which ones, left out together.

        Returns:
            theta (K, P + 1).
        """
        left_out = [index] if isinstance(index, int) else list(index)
        weights = torch.ones_like(self._inputs[:, 0])
        weights[left_out] = 0
        step = self._solve((self._corrected[left_out].mT @ self._inputs[left_out]).unsqueeze(0)).squeeze(0)
        start = self._beta + step / len(weights)
        fitted = logistic.newton(
            self._inputs, self.labels, l2=self.l2, num_classes=self.num_classes, weights=weights, start=start
        )
        return self._full(fitted)

    def leave_one_out(self, test_features: Tensor, test_labels: Tensor, train_indices: Tensor) -> Tensor:
        """Return what influence estimates: how much each test loss rises if the layer is trained without an image.

        Args:
            test_features: (T, P).
            test_labels: int64 (T,).
            train_indices: int64 (M,), left out one at a time; or (M, k), k of them together.

        Returns:
            (T, M).
        """
        check_labels(train_indices.flatten(), train_indices.numel(), len(self.labels), name="train_indices")
        inputs = pad(test_features.to(self.theta), (0, 1), value=1.0)
        before = logistic.cross_entropies(self.logits(test_features), test_labels)
        after = [
            logistic.cross_entropies(inputs @ self.retrained(index).T, test_labels) for index in train_indices.tolist()
        ]
        return torch.stack(after, 1) - before.unsqueeze(1)

    def _influence(self, test_features: Tensor, test_labels: Tensor, training: Tensor) -> Tensor:
        """g_t^T H^-1 g_i / n with the training gradients training_i (x) phi_i, which are never formed."""
        inputs, residual = self._test(test_features, test_labels)
        parts = []
        for z, r in zip(torch.split(inputs, CHUNK), torch.split(residual, CHUNK), strict=True):
            solved = self._solve(r.unsqueeze(2) * z.unsqueeze(1))
            parts.append(((solved @ self._inputs.T) * training.T).sum(1))
        return torch.cat(parts) / len(self.labels)

    def _test(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Test images as the solver sees them: inputs (T, D) and residuals (T, K - 1)."""
        logistic.check_features(features, "test_features", self.features.shape[1])
        check_labels(labels, len(features), self.num_classes, name="test_labels")
        inputs = pad(features.to(self.theta), (0, 1), value=1.0)
        residual = logistic.residuals(self.logits(features), labels) @ self._basis
        return inputs if self._span is None else inputs @ self._span, residual

    def _solve(self, gradients: Tensor) -> Tensor:
        """H^-1 g for each of (B, K - 1, D)."""
        return torch.cholesky_solve(gradients.flatten(1).T, self._lower).T.view_as(gradients)

    def _full(self, reduced: Tensor) -> Tensor:
        """(..., K - 1, D) in the parameters' own coordinates (..., K, P + 1)."""
        full = self._basis @ reduced
        return full if self._span is None else full @ self._span.T

    @cached_property
    def _hats(self) -> Tensor:
        """C_i of every training image, (N, K - 1, K - 1)."""
        eye = torch.eye(self.num_classes - 1).to(self.theta)
        parts = []
        for z in self._inputs.split(max(1, CHUNK // len(eye))):
            columns = torch.einsum("nd,ab->adnb", z, eye).reshape(len(self._lower), -1)
            half = torch.linalg.solve_triangular(self._lower, columns, upper=False).view(-1, len(z), len(eye))
            parts.append(torch.einsum("mna,mnb->nab", half, half))
        return torch.cat(parts) / len(self.labels)

    @cached_property
    def _corrected(self) -> Tensor:
        """(I - A_i C_i)^-1 r_i, (N, K - 1)."""
        eye = torch.eye(self.num_classes - 1).to(self.theta)
        residual: Tensor = torch.linalg.solve(eye - self._curvature @ self._hats, self._residuals)
        return residual
