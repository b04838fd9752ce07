# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Changes of geometry, the same for all sensors and the mask."""

from typing import cast

import torch
from torch import Tensor, nn

from ..types import MultiSensorSample, SensorSample


class RandomFlipRotate(nn.Module):
    """Turn a batch by a multiple of 90 degrees and mirror it, with one draw for everything in it.

    The offsets ``dx`` and ``dy`` of the views turn with the pixels. Patches must be square.
    """

    def forward(self, batch: MultiSensorSample) -> MultiSensorSample:
        """Draw one of the eight symmetries of the square.

        Args:
            batch: A batch (or a single sample).

        Returns:
            A new batch; the given one is left as it is.
        """
        turns, mirror = int(torch.randint(4, ())), bool(torch.randint(2, ()))
        out = cast(MultiSensorSample, dict(batch))
        out['sensors'] = {
            name: tuple(_turn_view(view, turns, mirror=mirror) for view in views)
            for name, views in batch['sensors'].items()
        }
        if 'mask' in batch:
            out['mask'] = _turn(batch['mask'], turns, mirror=mirror)
        return out


def _turn(x: Tensor, turns: int, *, mirror: bool) -> Tensor:
    """Turn ``(..., H, W)`` counter-clockwise, then mirror east and west."""
    x = torch.rot90(x, turns, dims=(-2, -1))
    return x.flip(-1) if mirror else x


def _turn_view(view: SensorSample, turns: int, *, mirror: bool) -> SensorSample:
    """Turn the pixels of a view and its offset."""
    out = cast(SensorSample, dict(view))
    out['image'] = _turn(view['image'], turns, mirror=mirror)
    out['valid'] = _turn(view['valid'], turns, mirror=mirror)
    east, north = view['dx'], view['dy']
    for _ in range(turns):
        east, north = -north, east
    out['dx'], out['dy'] = (-east if mirror else east), north
    return out
