# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Which bands a training has met, and views without the others.

Letters as in :mod:`torchgeo_anysensor.types`.
"""

import math
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ..types import SensorSample, take_bands
from .base import WAVELENGTH_RANGE_UM

#: A band is taken for one that was met within this share of its wavelength: for that of another
#: sensor which sees nearly the same (the blue of Landsat and of Sentinel-2 differ by 0.021).
NEAR = 0.03
#: Wavelengths are remembered to this share of themselves.
_STEP = 0.0025


class MetBands(nn.Module):
    """The wavelengths of the bands that were met, and those near them."""

    known: Tensor

    def __init__(self) -> None:
        """Start with none."""
        super().__init__()
        low, high = map(math.log, WAVELENGTH_RANGE_UM)
        places = round((high - low) / _STEP) + 1
        self.register_buffer('known', torch.zeros(places, dtype=torch.bool))

    @torch.no_grad()
    def meet(self, wavelength: Tensor) -> None:
        """Remember bands, of wavelengths of any shape in micrometres."""
        reach = round(NEAR / _STEP)
        around = torch.arange(-reach, reach + 1, device=self.known.device)
        near = self._place(wavelength).flatten()[:, None] + around
        self.known[near.clamp(0, len(self.known) - 1)] = True

    def knows(self, wavelength: Tensor) -> Tensor:
        """Say of which bands, of any shape, one was met that sees nearly the same."""
        return self.known[self._place(wavelength)]

    def _place(self, wavelength: Tensor) -> Tensor:
        """Where a wavelength is remembered."""
        place = (wavelength.to(self.known.device).float() / WAVELENGTH_RANGE_UM[0]).log() / _STEP
        return place.round().long().clamp(0, len(self.known) - 1)


def known_views(
    bands: MetBands, views: Sequence[SensorSample]
) -> tuple[list[SensorSample], set[str]]:
    """Leave out the bands that are not known.

    Of a sample that no known band has seen, all bands stay: each sample is treated as it would be
    alone.

    Args:
        bands: Those that are known.
        views: Batched views of the same patches.

    Returns:
        The views, of which one may be several, valid for some of the samples each; and the
        wavelengths that were left out, in micrometres, as text.
    """
    known = [bands.knows(view['wavelength']) for view in views]
    if bool(torch.cat([each.flatten() for each in known]).all()):
        return [*views], set()
    parts = [part for view, own in zip(views, known) for part in _alike(view, own)]
    helped = [view['valid'].flatten(1).any(dim=1) for view, keep in parts if bool(keep.any())]
    if not helped:
        return [*views], set()
    served = torch.stack(helped).any(dim=0)  # (B,) samples that a known band has seen
    found, without = [], set()
    for view, keep in parts:
        if bool(keep.any()):
            found.append(view if bool(keep.all()) else take_bands(view, keep))
        elif not bool(served.all()):
            found.append(_valid_for(view, ~served))
        without |= {f'{wave:.2f}' for wave in view['wavelength'][..., ~keep].flatten().tolist()}
    return found, without


def _alike(view: SensorSample, known: Tensor) -> Iterator[tuple[SensorSample, Tensor]]:
    """A view for each set of bands ``(C,)`` that is known of some of its samples."""
    if known.ndim == 1:
        yield view, known
        return
    for keep in known.unique(dim=0):  # type: ignore[no-untyped-call]
        yield _valid_for(view, (known == keep).all(dim=1)), keep


def _valid_for(view: SensorSample, rows: Tensor) -> SensorSample:
    """A view of which some samples ``(B,)`` alone are valid."""
    return cast(SensorSample, {**view, 'valid': view['valid'] & rows[:, None, None]})
