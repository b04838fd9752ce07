# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""How far predicted pixels are from those that were seen.

Letters as in :mod:`torchgeo_anysensor.types`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

#: Least deviation of a band in a batch, in the unit of the pixels: what is flatter counts as noise.
MIN_SPREAD = 0.05


def reconstruction_loss(predicted: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Compare the pixels that are known, each band by its own spread in the batch.

    Smooth L1 (Huber), so that a cloud's edge that nobody masked does not rule; the mean over bands
    that have known pixels, so that a band counts alike whatever its pixels are.

    Args:
        predicted: ``(B, N, C, p, p)``.
        target: The same of what was there.
        known: The same, bool.

    Returns:
        ``()`` float32, 0 if nothing is known.
    """
    axes = (0, 1, 3, 4)
    target = torch.where(known, target.detach().float(), 0.0)
    count = known.sum(dim=axes)  # (C,)
    some = count.clamp(min=1)
    mean = target.sum(dim=axes) / some
    off = torch.where(known, target - mean[:, None, None], 0.0)
    spread = (off.square().sum(dim=axes) / some).sqrt().clamp(min=MIN_SPREAD)[:, None, None]
    error = F.smooth_l1_loss(predicted.float() / spread, target / spread, reduction='none')
    each = torch.where(known, error, 0.0).sum(dim=axes) / some
    return each.sum() / (count > 0).sum().clamp(min=1)


def decorrelation_loss(shared: Tensor, private: Tensor) -> Tensor:
    """Mean square of the correlations between two groups of features.

    As the terms off the diagonal in Barlow Twins (Zbontar et al. 2021, arXiv 2103.03230), between
    two parts of one vector (DeCUR, Wang et al. 2023, arXiv 2309.05300).

    Args:
        shared: ``(n, S)``.
        private: ``(n, P)``.

    Returns:
        ``()`` float32, 0 for fewer than two rows.
    """
    if len(shared) < 2:
        return (shared.sum() + private.sum()) * 0.0
    with torch.autocast(shared.device.type, enabled=False):
        a, b = (F.normalize(x.float() - x.float().mean(dim=0), dim=0) for x in (shared, private))
        return (a.T @ b).square().mean()
