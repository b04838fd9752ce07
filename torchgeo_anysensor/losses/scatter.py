# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""How features differ between places, and between the sensors at one place.

Letters as in :mod:`torchgeo_anysensor.types`, and ``M`` sensors.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from .inputs import read_inputs


class Scatter(NamedTuple):
    """How features lie around their mean, and around that of the sensors at the same place."""

    mean: Tensor  #: ``(D,)``
    total: Tensor  #: ``(D, D)`` covariance over all sensors and places
    within: Tensor  #: ``(D, D)`` covariance of the sensors around the mean of their place
    places: int  #: that two sensors saw


@torch.no_grad()
def scatter(
    embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None
) -> Scatter:
    """Measure how features differ between places, and between the sensors at one place.

    Places that a single sensor saw have no part in it. Of a batch that is spread over ranks, all
    ranks get the scatter of the whole. The cost is linear in the number of sensors.

    Args:
        embeddings: ``(B, D)`` for each sensor; anything in rows that are absent.
        present: ``(B,)`` bool for each sensor, or None if all are there.

    Raises:
        ValueError: If there are fewer than two sensors, or keys or shapes disagree.
    """
    inputs = read_inputs(embeddings, present, over_ranks=True)
    z, ranks = inputs.z, inputs.ranks
    weight = (inputs.there & (inputs.there.sum(dim=0) > 1)).to(z.dtype).unsqueeze(-1)  # (M, B, 1)
    seen = weight.sum(dim=0)  # (B, 1)
    count, places = ranks.sum(torch.stack([seen.sum(), (seen > 0).sum()]))
    with torch.autocast(z.device.type, enabled=False):
        mean = ranks.sum((weight * z).sum(dim=(0, 1))) / count.clamp(min=1)
        centre = (weight * z).sum(dim=0) / seen.clamp(min=1)
        apart, around = ((weight * (z - x)).flatten(0, 1) for x in (centre, mean))
        within = ranks.sum(apart.T @ apart) / (count - places).clamp(min=1)
        total = ranks.sum(around.T @ around) / count.clamp(min=1)
    return Scatter(mean, total, within, int(places))
