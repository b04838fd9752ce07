# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Latents with a variance in each dimension, and how those of several sensors become one.

Letters as in :mod:`torchgeo_anysensor.types`, ``M`` sensors and ``P`` dimensions of a latent.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Ways to fuse: precision weighting, the least variance of each dimension, the plain mean.
Fusion = Literal['precision', 'max_confidence', 'mean']


class Gaussian(NamedTuple):
    """Estimates of latents, with independent errors in their dimensions."""

    mean: Tensor  #: ``(..., P)``
    log_var: Tensor  #: ``(..., P)`` natural logarithm of the variance of the error


class GaussianHead(nn.Module):
    """Mean and log-variance of a latent, read from the features of a token or a patch.

    Means have a root mean square of 1 over their dimensions. Contrast compares directions, and so
    loses nothing by that; variances get a scale that no weight can shrink. Log-variances approach
    their bounds slowly (the slope falls with the cube of the distance), so that a head that went
    too far finds its way back. All is float32 within ``autocast``, too.
    """

    def __init__(
        self, dim: int, out_dim: int, *, log_var_bounds: Sequence[float] = (-8.0, 4.0)
    ) -> None:
        """Make the head; all variances are alike at the start.

        Args:
            dim: Length of the features.
            out_dim: Length ``P`` of the latent.
            log_var_bounds: What the log-variances stay between.

        Raises:
            ValueError: If the bounds are not two rising numbers.
        """
        super().__init__()
        low, high = log_var_bounds
        if not -math.inf < low < high < math.inf:
            raise ValueError(
                f'log_var_bounds must be two finite numbers that rise, got {[low, high]}; '
                'try [-8, 4]'
            )
        self.low, self.high = float(low), float(high)
        self.mean = _layers(dim, out_dim)
        self.log_var = _layers(dim, out_dim)
        for parameter in self.log_var[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Gaussian:
        """Read features ``(..., D)``."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            mean: Tensor = self.mean(x)
            middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
            u: Tensor = self.log_var(x) / half
            return Gaussian(
                math.sqrt(mean.shape[-1]) * F.normalize(mean, dim=-1),
                middle + half * u / (1 + u.square()).sqrt(),
            )


def _layers(dim: int, out_dim: int) -> nn.Sequential:
    """Two layers, as the contrast has without variances."""
    return nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, out_dim))


def fuse(
    latents: Mapping[str, Gaussian],
    seen: Mapping[str, Tensor] | None = None,
    *,
    how: Fusion = 'precision',
) -> Gaussian:
    """Make one estimate of those of several sensors, each dimension by itself.

    All ways are weighted means, with weights that do not depend on the means, and the variance is
    that of such a mean of independent errors. ``'precision'`` weighs by the inverse variance: the
    posterior of a linear-Gaussian model with a flat prior, and the mean of least variance.
    ``'max_confidence'`` takes the sensor of the least variance; of equal ones the mean.
    ``'mean'`` weighs all alike. The cost is linear in the number of sensors.

    Args:
        latents: Of each sensor, all of one shape ``(..., P)``.
        seen: ``(...)`` bool for each sensor; the others are left out there, whatever they hold,
            NaN too. All if not given.
        how: The way.

    Returns:
        ``(..., P)``; where no sensor has seen anything, the mean is 0 and the variance infinite.

    Raises:
        ValueError: If the way is not known, there is no sensor, or *seen* names others.
    """
    if how not in get_args(Fusion):
        raise ValueError(f'how={how!r} is no way to fuse; known are {", ".join(get_args(Fusion))}')
    if not latents:
        raise ValueError('fuse needs the latents of at least one sensor, got none')
    if seen is not None and seen.keys() != latents.keys():
        raise ValueError(f'seen must name the sensors {sorted(latents)}, got {sorted(seen)}')
    mean = torch.stack([g.mean for g in latents.values()])  # (M, ..., P)
    log_var = torch.stack([g.log_var for g in latents.values()])
    there = torch.ones_like(mean, dtype=torch.bool)
    if seen is not None:
        there = torch.stack([seen[name].bool() for name in latents])[..., None].expand_as(mean)
    there = there & (log_var != math.inf)  # what was fused of nothing says nothing
    nowhere = ~there.any(dim=0)
    use = there | nowhere  # sums over nothing would have no gradient
    mean, log_var = torch.where(there, mean, 0.0), torch.where(there, log_var, 0.0)
    log_weight = _log_weight(log_var, use, how)
    fused = (log_weight.exp() * mean).sum(dim=0)
    spread = torch.where(log_weight.isinf(), -math.inf, 2 * log_weight + log_var)
    return Gaussian(fused, torch.where(nowhere, math.inf, spread.logsumexp(dim=0)))


def _log_weight(log_var: Tensor, use: Tensor, how: Fusion) -> Tensor:
    """Logarithms ``(M, ..., P)`` of weights that add up to 1 over the sensors in use."""
    if how == 'precision':
        return (-log_var).masked_fill(~use, -math.inf).log_softmax(dim=0)
    if how == 'max_confidence':
        known = log_var.masked_fill(~use, math.inf)
        use = use & (known == known.amin(dim=0))
    return torch.where(use, 0.0, -math.inf) - use.sum(dim=0).log()


class Reliability(NamedTuple):
    """Predicted against observed errors, in bins of equal numbers of rising predicted variance."""

    predicted: Tensor  #: ``(bins,)`` root mean predicted variance
    observed: Tensor  #: ``(bins,)`` root mean square error
    ence: Tensor  #: ``()`` expected normalised calibration error


def reliability(error: Tensor, log_var: Tensor, *, bins: int = 10) -> Reliability:
    """Compare errors with the variances that were predicted for them.

    Args:
        error: Any shape.
        log_var: The same shape.
        bins: How many.

    Returns:
        The curve, and its mean of ``|observed - predicted| / predicted`` over bins, which is 0 for a
        calibrated prediction (ENCE, Levi et al. 2022, arXiv 1905.11659).

    Raises:
        ValueError: If shapes differ, or there are fewer values than bins.
    """
    if error.shape != log_var.shape or not 1 <= bins <= error.numel():
        raise ValueError(
            f'reliability needs a variance for each error, and at least one for each bin, got '
            f'errors {tuple(error.shape)}, variances {tuple(log_var.shape)} and {bins=}'
        )
    order = log_var.flatten().argsort()
    var = log_var.flatten()[order].double().exp().tensor_split(bins)
    square = error.flatten()[order].double().square().tensor_split(bins)
    predicted = torch.stack([x.mean() for x in var]).sqrt()
    observed = torch.stack([x.mean() for x in square]).sqrt()
    return Reliability(predicted, observed, ((observed - predicted).abs() / predicted).mean())
