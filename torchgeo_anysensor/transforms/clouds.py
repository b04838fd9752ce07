# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Clouds that the quality band missed."""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..types import THERMAL_FROM_UM, MultiSensorSample, SensorSample

#: Width in metres of the squares between whose corners the opacity is linear. A pixel inside of one
#: then has at its centre the mean of its ground, so that coarse and fine grids agree.
_CELL_M = 60.0
#: Least and largest reflectance of a cloud, and temperature of its top in kelvin.
_REFLECTANCE, _KELVIN = (0.4, 0.8), (240.0, 280.0)


class RandomClouds(nn.Module):
    """Paint haze and soft clouds into some views, and tell nobody.

    ``valid`` stays as it is: these are the clouds that a quality band missed, from which a model
    learns when not to be sure. A sensor has the same clouds in all of its grids, and other sensors
    have others, or none. Clouds are flat in their spectrum and cold in thermal bands; they throw no
    shadow.
    """

    def __init__(
        self,
        p: float = 0.3,
        *,
        sensors: Sequence[str] | None = None,
        opacity: Sequence[float] = (0.1, 1.0),
        width_m: float = 300.0,
    ) -> None:
        """Make the transform.

        Args:
            p: Probability that a sensor has clouds in a sample. How much of the patch they cover is
                drawn, too: from nothing to all.
            sensors: Names of those that may have clouds; all by default.
            opacity: Of the thickest part of a patch's clouds, drawn between these two shares.
            width_m: Of the largest structures, in metres.

        Raises:
            ValueError: If *p* is no probability, *opacity* not two shares that rise, or *width_m*
                not positive.
        """
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f'p={p} must be a probability, from 0 to 1')
        low, high = opacity
        if not 0 <= low <= high <= 1:
            raise ValueError(f'opacity must be two shares, the lower first, got {[low, high]}')
        if not width_m > 0:
            raise ValueError(f'width_m must be positive metres, got {width_m}')
        self.p = p
        self.sensors = None if sensors is None else tuple(sensors)
        self.opacity = (float(low), float(high))
        self.width_m = width_m

    def forward(self, batch: MultiSensorSample) -> MultiSensorSample:
        """Paint clouds.

        Args:
            batch: Of :func:`~..datasets.collate_sensors`.

        Returns:
            A new batch; the given one is left as it is.
        """
        out = cast(MultiSensorSample, dict(batch))
        out['sensors'] = {
            name: views if self.sensors is not None and name not in self.sensors
            else self._paint(views)
            for name, views in batch['sensors'].items()
        }  # fmt: skip
        return out

    def _paint(self, views: Sequence[SensorSample]) -> tuple[SensorSample, ...]:
        """Give the views of one sensor the same clouds."""
        image = views[0]['image']
        batch, _, height, width = image.shape
        res = float(views[0]['res'])
        opacity = self._opacity(batch, (height * res, width * res), image.device)
        reflectance, kelvin = (
            low + (high - low) * torch.rand(batch, 1, device=image.device)
            for low, high in (_REFLECTANCE, _KELVIN)
        )
        painted = []
        for view in views:
            thermal = view['wavelength'].expand(view['image'].shape[:2]) > THERMAL_FROM_UM
            cloud = torch.where(thermal, kelvin, reflectance)[..., None, None]  # (B, C, 1, 1)
            part = torch.where(view['valid'], _at_pixels(opacity, view), 0.0)[:, None]
            new = cast(SensorSample, dict(view))
            new['image'] = view['image'] + part * (cloud - view['image'])
            painted.append(new)
        return tuple(painted)

    def _opacity(self, batch: int, extent: tuple[float, float], device: torch.device) -> Tensor:
        """Draw opacities ``(B, h, w)`` at the corners of squares, one around the patch included."""
        rows, columns = (int(-(-metres // _CELL_M)) + 3 for metres in extent)
        shape = (rows, columns)
        field = torch.zeros(batch, 1, *shape, device=device)
        step, amplitude = max(1.0, self.width_m / _CELL_M), 1.0
        while True:
            coarse = [int(n // step) + 2 for n in shape]
            noise = torch.randn(batch, 1, *coarse, device=device)
            large = [round((n - 1) * step) + 1 for n in coarse]
            smooth = F.interpolate(noise, large, mode='bilinear', align_corners=True)
            field = field + amplitude * smooth[..., :rows, :columns]
            if step == 1:
                break
            step, amplitude = max(1.0, step / 2), amplitude / 2
        # Where the field is above a level: none of a patch, part of it, or all
        level, thickest, drawn = torch.rand(3, batch, 1, 1, device=device)
        low, high = self.opacity
        shape_of = torch.sigmoid((field[:, 0] + 4 * (level - 0.5)) * 3)
        return (drawn < self.p) * (low + (high - low) * thickest) * shape_of


def _at_pixels(opacity: Tensor, view: SensorSample) -> Tensor:
    """Opacity ``(B, H, W)`` at the centres of a view's pixels."""
    height, width = view['image'].shape[-2:]
    res, device = float(view['res']), opacity.device
    rows, columns = opacity.shape[-2:]
    batch = len(opacity)
    # Places in squares from the first corner, which lies one square off the patch
    south = (
        1 + ((torch.arange(height, device=device) + 0.5) * res - view['dy'].view(-1, 1)) / _CELL_M
    )
    east = 1 + ((torch.arange(width, device=device) + 0.5) * res + view['dx'].view(-1, 1)) / _CELL_M
    y = (2 * south / (rows - 1) - 1).float()[:, :, None].expand(batch, height, width)
    x = (2 * east / (columns - 1) - 1).float()[:, None].expand(batch, height, width)
    places = torch.stack([x, y], dim=-1)
    found = F.grid_sample(
        opacity[:, None], places, mode='bilinear', padding_mode='border', align_corners=True
    )
    return found[:, 0]
