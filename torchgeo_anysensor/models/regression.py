# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Logistic regression, fitted to convergence.

Letters: ``n`` pixels, ``F`` features of a pixel, ``K`` classes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Penalties to choose from, strongest first.
PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
#: What the second derivative of the cross entropy by a logit is taken for, where features are off.
_CURVATURE = 1 / 32


class SoftmaxRegression(nn.Module):
    """Multinomial logistic regression on standardised features, fitted to convergence."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, num_features: int, num_classes: int, *, groups: Sequence[int] | None = None
    ) -> None:
        """Make a regression that finds all classes alike likely.

        Args:
            num_features: Number ``F`` of features.
            num_classes: Number ``K`` of classes.
            groups: Numbers of features that have one unit, and so are divided by one number; their
                sum is ``F``. By default each feature is divided by its own deviation.
        """
        super().__init__()
        self.groups = list(groups) if groups else [1] * num_features
        self.register_buffer('mean', torch.zeros(num_features))
        self.register_buffer('std', torch.ones(num_features))
        self.linear = nn.Linear(num_features, num_classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Give logits ``(..., K)`` of features ``(..., F)``."""
        logits: Tensor = self.linear((x - self.mean) / self.std)
        return logits

    def predict(self, x: Tensor) -> Tensor:
        """Give classes ``(...)`` of features ``(..., F)``."""
        return self(x).argmax(dim=-1)

    def fit(
        self,
        x: Tensor,
        y: Tensor,
        *,
        val: tuple[Tensor, Tensor] | None = None,
        penalties: Sequence[float] = PENALTIES,
        noise: Tensor | None = None,
        max_iter: int = 1000,
    ) -> float:
        """Minimise the mean cross entropy plus ``penalty / 2`` times the squared weights.

        The problem is convex; it is solved by L-BFGS in float64. Of several penalties, the one with
        the least cross entropy on validation pixels stays.

        If features will be off by *noise*, the cross entropy to expect is that without plus
        ``noise / 2`` times the squared weights times its second derivative by the logits. This is
        minimised then, with 1/32 for that derivative: it is 1/2 at most (Böhning 1992,
        doi:10.1007/BF00048682), and near 0 where the classes are sure.

        Args:
            x: ``(n, F)`` features.
            y: ``(n,)`` classes.
            val: Features and classes to choose the penalty by.
            penalties: To choose from; each starts from the solution of the one before.
            noise: ``(F,)`` variances of what features will be off by, where they are read.
            max_iter: Most steps for each penalty.

        Returns:
            The penalty.

        Raises:
            ValueError: If there is nothing to fit, or nothing to choose the penalty by.
        """
        if not len(x) or not penalties:
            raise ValueError(f'{len(x)} pixels and penalties={penalties} leave nothing to fit')
        if val is None and len(penalties) > 1:
            raise ValueError(f'choosing from penalties={penalties} needs val')
        self.mean.copy_(x.double().mean(dim=0))
        variances = torch.split(x.double().var(dim=0, unbiased=False), self.groups)
        std = torch.cat([each.mean().sqrt().expand(len(each)) for each in variances])
        self.std.copy_(torch.where(std > 1e-6, std, 1.0))  # a constant feature stays 0
        z = (x.double() - self.mean) / self.std
        expected = torch.zeros_like(z[0])
        if noise is not None:
            expected = _CURVATURE * noise.double() / self.std.double().square()
        solution = self.linear.weight.double(), self.linear.bias.double()
        best = torch.inf, penalties[0], solution
        for penalty in penalties:
            each = penalty + expected
            solution = _minimise(z, y, *solution, penalties=each, max_iter=max_iter)
            self.linear.weight.copy_(solution[0])
            self.linear.bias.copy_(solution[1])
            loss = float(F.cross_entropy(self(val[0]), val[1])) if val is not None else 0.0
            if loss < best[0]:
                best = loss, penalty, solution
        self.linear.weight.copy_(best[2][0])
        self.linear.bias.copy_(best[2][1])
        return best[1]


def _minimise(
    z: Tensor, y: Tensor, weight: Tensor, bias: Tensor, *, penalties: Tensor, max_iter: int
) -> tuple[Tensor, Tensor]:
    """Find weights ``(K, F)`` and bias ``(K,)`` of a penalised regression, from a first guess.

    The squared weights of each feature have a penalty of their own, ``(F,)``. Steps are taken along
    the principal axes of the features, each in its own unit: bands and their squares are nearly
    collinear. The problem stays the same.
    """
    variances, axes = torch.linalg.eigh(z.T @ z / len(z))
    units = (variances.clamp(min=0) + penalties.mean()).sqrt()
    steps = axes / units
    u = z @ steps
    w = (weight @ axes * units).requires_grad_()
    b = bias.clone().requires_grad_()
    optimizer: torch.optim.Optimizer = torch.optim.LBFGS(
        [w, b],
        max_iter=max_iter,
        history_size=20,
        tolerance_grad=1e-5,
        tolerance_change=1e-10,
        line_search_fn='strong_wolfe',
    )

    def closure() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(u, w, b), y)
        loss = loss + (penalties / 2 * (w @ steps.T).square()).sum()
        torch.autograd.backward(loss)
        return float(loss.detach())

    with torch.enable_grad():
        optimizer.step(closure)
    return w.detach() @ steps.T, b.detach()
