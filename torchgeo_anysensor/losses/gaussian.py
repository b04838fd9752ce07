# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What makes the variances of several sensors true.

Letters as in :mod:`torchgeo_anysensor.types`, ``M`` sensors and ``P`` dimensions of a latent.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from .inputs import read_inputs


class Disagreement(NamedTuple):
    """How sensors that estimate the same latents differ."""

    nll: Tensor  #: ``()`` negative log-likelihood of a difference, mean over dimensions and rows
    chi2: Tensor  #: ``()`` squares of differences over their variances; 1 if these are true


def disagreement_nll(
    mean: Mapping[str, Tensor],
    log_var: Mapping[str, Tensor],
    present: Mapping[str, Tensor] | None = None,
) -> Disagreement:
    """Negative log-likelihood of the differences between sensors, given their variances.

    Sensor ``m`` says of a latent ``z`` that it is ``mean[m]``, with an error of variance ``v[m]``
    that is independent of those of the others. Of ``z`` nothing is known. Then the ``M - 1``
    differences between the sensors of a row have, in each dimension and but for a constant, the
    negative log-likelihood ::

        (sum log v + log sum 1/v + sum (mean - fused)^2 / v) / 2

    where ``fused`` is the mean weighted by ``1/v``: the restricted likelihood of Patterson and
    Thompson (1971, doi:10.1093/biomet/58.3.545). For two sensors it is that of their difference,
    with variance ``v[1] + v[2]``; for more it is that of each against the fused ones before it,
    in any order. Its cost is linear in the number of sensors.

    The means get no gradient: variances shall follow the errors, and sensors would agree best on
    nothing. So the variances can neither pull the means together nor weigh down what is difficult
    (the failure that Seitzer et al. 2022, arXiv 2203.09168, mend), and what holds the scale of the
    means is not this loss.

    With three sensors or more the differences tell the variance of each. With two they tell only
    the sum; what is left open is a constant part that can be moved from one to the other, since a
    variance that is read from a sensor's own view cannot follow the other's. Errors that sensors
    share, such as those of two products of one acquisition, leave no trace in the differences:
    such sensors become too sure.

    Args:
        mean: ``(B, P)`` for each sensor; anything, NaN too, in rows that are absent.
        log_var: The same.
        present: ``(B,)`` bool for each sensor; all if not given.

    Returns:
        The likelihood, float32 (float64 if it gets that), of a single difference, and a check on the
        variances, without a gradient; 0 both if no row has two sensors.

    Raises:
        ValueError: If there are fewer than two sensors, or keys or shapes disagree.
    """
    means, variances = read_inputs(mean, present), read_inputs(log_var, present)
    if means.names != variances.names or means.z.shape != variances.z.shape:
        raise ValueError(
            f'each mean needs its log-variance, got {list(means.names)} {tuple(means.z.shape)} and '
            f'{list(variances.names)} {tuple(variances.z.shape)}'
        )
    with torch.autocast(means.z.device.type, enabled=False):
        ok = means.there.sum(dim=0) > 1  # (B,)
        there = (means.there & ok)[..., None]
        z, s = means.z.detach(), variances.z  # (M, B, P), zero where absent
        precision = torch.where(there, (-s).exp(), 0.0)
        total = torch.where(ok[:, None], precision.sum(dim=0), 1.0)
        fused = (precision * z).sum(dim=0) / total
        square = (precision * (z - fused).square()).sum(dim=0)  # (B, P)
        volume = torch.where(there, s, 0.0).sum(dim=0) + total.log()
        count = (there.sum(dim=0) - 1).clamp(min=0).sum() * z.shape[-1]  # of differences
        nll = 0.5 * (volume + square).sum() / count.clamp(min=1)
        return Disagreement(nll, square.detach().sum() / count.clamp(min=1))
