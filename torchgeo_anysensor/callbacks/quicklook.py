# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What a sensor saw of a patch, for the eye."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from ..datasets.plot import true_color
from ..models import to_grid
from ..types import BAND_FACTS, SensorSample

#: Red, green and blue in micrometres.
_RGB_UM = (0.66, 0.56, 0.49)

#: A view shows a colour if it has a band as near to it, in micrometres.
_NEAR_UM = 0.06

#: Most pixels along a side.
_PIXELS = 64


class QuickLook(NamedTuple):
    """One patch, not stretched."""

    rgb: Tensor  #: ``(3, H, W)`` float16, in the unit of the bands
    valid: Tensor  #: ``(H, W)`` bool


def quick_look(views: Sequence[SensorSample], row: int) -> QuickLook:
    """Take the colours of one patch, on the pixels of the sensor, or fewer if they are many.

    Args:
        views: Batched views of one sensor, finest first.
        row: Of the patch.

    Returns:
        Red, green and blue of the finest view that has all three, or else what comes nearest to
        them in the finest view.
    """
    view, bands = next((v, b) for v, b, near in _by_colour(views) if near)
    one = cast(Mapping[str, Tensor], view)
    shown = {key: one[key] if key == 'res' else one[key][row : row + 1] for key in ('dx', 'dy')}
    shown |= {'res': one['res'], 'valid': one['valid'][row : row + 1]}
    shown['image'] = one['image'][row : row + 1, bands]
    shown |= {
        fact: (one[fact][row : row + 1] if one[fact].ndim == 2 else one[fact])[..., bands]
        for fact in BAND_FACTS
    }
    height, width = shown['image'].shape[-2:]
    raster = to_grid([cast(SensorSample, shown)], (min(height, _PIXELS), min(width, _PIXELS)))
    valid = (raster.seen[0] > 0.5).all(dim=0)
    return QuickLook(raster.image[0].half().cpu(), valid.cpu())


def _by_colour(views: Sequence[SensorSample]) -> list[tuple[SensorSample, list[int], bool]]:
    """Views with the places of their red, green and blue, and whether they are; one always is."""
    found = []
    for view in views:
        centre = view['wavelength'] if view['wavelength'].ndim == 1 else view['wavelength'][0]
        away = (centre - centre.new_tensor(_RGB_UM)[:, None]).abs()  # (3, C)
        near, places = away.min(dim=1)
        found.append((view, places.tolist(), bool((near < _NEAR_UM).all())))
    finest, bands, _ = found[0]
    return [*found, (finest, bands, True)]


def stretched(looks: Sequence[QuickLook]) -> list[Tensor]:
    """Colours ``(H, W, 4)`` of patches of one sensor, with one stretch for all, so that they compare.

    Args:
        looks: Of patches of one size.
    """
    height = looks[0].rgb.shape[1]
    below = torch.cat([look.rgb for look in looks], dim=1).float()  # (3, n H, W)
    picture = true_color(below, torch.cat([look.valid for look in looks]))
    return list(torch.split(picture, height))
