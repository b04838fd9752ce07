# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Where patches and their tokens lie.

Letters as in :mod:`torchgeo_anysensor.types`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from ..models import Features
from ..types import SensorSample
from .base import spread_rows

#: Metres, and none: the ellipsoid of WGS 84 (NGA.STND.0036).
_EQUATOR, _ECCENTRICITY = 6378137.0, 0.0818191908426

_PLACE: tuple[Literal['lon'], Literal['lat']] = ('lon', 'lat')


def axes_of_patches(
    sensors: Mapping[str, Sequence[SensorSample]], present: Mapping[str, Tensor]
) -> Tensor:
    """Where patches lie: their centre, and the directions of east and north there.

    Args:
        sensors: Views by sensor, of the samples that it saw.
        present: ``(B,)`` bool by sensor.

    Returns:
        ``(B, 3, 3)`` float64: the centre in metres from that of the Earth (WGS 84), and two unit
        vectors; NaN where no view says where it is.
    """
    first = next(iter(present.values()))
    lon, lat = torch.full((2, len(first)), math.nan, dtype=torch.float64, device=first.device)
    for name, (view, *_) in sensors.items():
        if 'lon' in view and 'lat' in view:
            unknown = lon.new_full((), math.nan)
            x, y = (spread_rows(view[k].double(), present[name], fill=unknown) for k in _PLACE)
            lon, lat = torch.where(lon.isnan(), x, lon), torch.where(lat.isnan(), y, lat)
    lon, lat = lon.deg2rad(), lat.deg2rad()
    flat, nothing = lat.cos(), torch.zeros_like(lon)
    up = torch.stack([flat * lon.cos(), flat * lon.sin(), lat.sin()], dim=1)
    east = torch.stack([-lon.sin(), lon.cos(), nothing], dim=1)
    radius = _EQUATOR / (1 - _ECCENTRICITY**2 * lat.sin().square()).sqrt()
    squeezed = torch.stack([nothing, nothing, _ECCENTRICITY**2 * lat.sin()], dim=1)
    return torch.stack([radius[:, None] * (up - squeezed), east, up.cross(east, dim=1)], dim=1)


def places_of_tokens(
    where: Tensor, cells: Tensor, features: Features, sensors: Mapping[str, Sequence[SensorSample]]
) -> Tensor:
    """Where tokens lie, in metres from the centre of the Earth.

    Distances within a patch are exact. Between patches they are those of a batch that is north-up:
    a transform that turns all patches about their centres leaves the centres alone right.

    Args:
        where: Of :func:`axes_of_patches`.
        cells: ``(B, n)`` numbers of the tokens.
        features: Of one sensor, for the grid.
        sensors: Views by sensor, for the width of the patch.

    Returns:
        ``(B n, 3)`` float64.
    """
    view = next(iter(sensors.values()))[0]
    rows, columns = features.grid
    height = view['image'].shape[-2] * view['res'].double() / rows  # of a token
    width = view['image'].shape[-1] * view['res'].double() / columns
    east = (cells % columns - (columns - 1) / 2) * width
    south = (cells // columns - (rows - 1) / 2) * height
    centre, to_east, to_north = where[:, None].unbind(dim=2)  # (B, 1, 3) each
    return (centre + east[..., None] * to_east - south[..., None] * to_north).flatten(0, 1)
