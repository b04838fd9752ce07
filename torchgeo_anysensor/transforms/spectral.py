# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Changes of what a sensor sees."""

from typing import cast

import torch
from torch import nn

from ..types import MultiSensorSample, SensorSample, take_bands


class RandomBandDrop(nn.Module):
    """Leave out bands, drawn anew for each view of each batch.

    An encoder that has met many band sets depends on none of them.
    """

    def __init__(self, p: float = 0.2) -> None:
        """Make the transform.

        Args:
            p: Probability that a band is left out; one band of each view always stays.

        Raises:
            ValueError: If *p* is no probability below 1.
        """
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f'p={p} must be at least 0 and below 1')
        self.p = p

    def forward(self, batch: MultiSensorSample) -> MultiSensorSample:
        """Leave out bands.

        Args:
            batch: A batch (or a single sample).

        Returns:
            A new batch; the given one is left as it is.
        """
        out = cast(MultiSensorSample, dict(batch))
        out['sensors'] = {
            name: tuple(self._drop(view) for view in views)
            for name, views in batch['sensors'].items()
        }
        return out

    def _drop(self, view: SensorSample) -> SensorSample:
        """Select the bands that stay."""
        count = view['image'].shape[-3]
        keep = torch.rand(count) >= self.p
        keep[torch.randint(count, ())] = True
        return take_bands(view, keep)
