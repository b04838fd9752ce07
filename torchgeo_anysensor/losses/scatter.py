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
    there = inputs.ranks.gather(inputs.there, dim=1)
    z = inputs.ranks.gather(inputs.z, dim=1)  # (M, B, D)
    together = there & (there.sum(dim=0) > 1)
    weight = together.to(z.dtype).unsqueeze(-1)  # (M, B, 1)
    count = weight.sum(dim=0)  # (B, 1)
    places = int((count > 0).sum())
    with torch.autocast(z.device.type, enabled=False):
        centre = (weight * z).sum(dim=0) / count.clamp(min=1)
        apart = (weight * (z - centre)).flatten(0, 1)
        within = apart.T @ apart / (count.sum() - places).clamp(min=1)
        mean = (weight * z).sum(dim=(0, 1)) / count.sum().clamp(min=1)
        around = (weight * (z - mean)).flatten(0, 1)
        total = around.T @ around / count.sum().clamp(min=1)
    return Scatter(mean, total, within, places)
