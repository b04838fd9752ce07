# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""How a training fills the moments of its encoder: what a batch shows, and what others would see."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from ..losses import Scatter, scatter
from ..losses.gather import meet
from ..models import CrossSensorMoments
from ..models.base import WAVELENGTH_RANGE_UM
from ..models.ground import pixels_per_cell
from ..models.interpolation import is_opaque
from ..models.met_bands import MetBands
from ..types import MultiSensorSample, SensorSample, take_bands
from .base import spread_rows

#: Features ``(b, n, d)`` by sensor, and where they saw something ``(b, n)``.
Seen = dict[str, tuple[Tensor, Tensor]]

#: Share of the bands that the look of other sensors goes without, and weight of that look.
_FEWER, _OTHER_WEIGHT = 0.2, 0.05
#: Deviations of the logarithms of the wavelengths and bandwidths that this look is told.
_ELSEWHERE, _WIDER = 0.02, 0.3


def meet_bands(bands: MetBands, batch: MultiSensorSample) -> None:
    """Remember the bands of a batch of all ranks."""
    views = [view for views in batch['sensors'].values() for view in views]
    own = {wave for view in views for wave in view['wavelength'].flatten().tolist()}
    everywhere, _ = meet(own)
    bands.meet(torch.tensor(sorted(set().union(*everywhere))))


def of_others(batch: MultiSensorSample, *, seed: int) -> MultiSensorSample:
    """A batch as other sensors would have seen it; see :func:`_other`."""
    generator = torch.Generator().manual_seed(seed)
    out = cast(MultiSensorSample, dict(batch))
    out['sensors'] = {
        name: tuple(_other(view, generator) for view in views)
        for name, views in batch['sensors'].items()
    }
    return out


def _other(view: SensorSample, generator: torch.Generator) -> SensorSample:
    """A view of other bands, and up to half a pixel aside.

    Some bands are gone, at least one of which stays, and of the others other wavelengths and widths
    are told: as far off as those of sensors that see nearly the same.
    """
    draw = torch.rand(view['image'].shape[1], generator=generator)
    fewer = take_bands(view, (draw >= _FEWER) | (draw == draw.max()))
    off = torch.randn(2, fewer['image'].shape[1], generator=generator).to(view['dx'].device)
    wave = fewer['wavelength']
    other = (wave * (_ELSEWHERE * off[0]).exp()).clamp(*WAVELENGTH_RANGE_UM)
    aside = torch.randint(-1, 2, (2, len(view['image'])), generator=generator) / 2
    dx, dy = (aside.to(view['dx'].device) * view['res']).to(view['dx'].dtype)
    told = {
        'wavelength': torch.where(is_opaque(wave) | is_opaque(other), wave, other),
        'bandwidth': fewer['bandwidth'] * (_WIDER * off[1]).exp(),
        'dx': view['dx'] + dx,
        'dy': view['dy'] + dy,
    }
    return cast(SensorSample, {**fewer, **told})


def take_in(
    moments: CrossSensorMoments, looks: Sequence[Seen], present: Mapping[str, Tensor]
) -> None:
    """Take a batch into moments.

    Args:
        moments: Of features ``d``.
        looks: Features of each sensor as it is, and then as if it were another, which counts little.
        present: ``(B,)`` bool by sensor.
    """
    double = {name: (x.double(), seen) for name, (x, seen) in looks[0].items()}
    first = _scatter([double], present)
    if not first.places or not bool(first.total.isfinite().all()):
        return
    moments.settle(mean=first.mean, total=first.total, within=first.within)
    bent = [{n: (moments.features(x), seen) for n, (x, seen) in look.items()} for look in looks]
    whole, both = _scatter(bent[:1], present), _scatter(bent, present)
    mean, total, within = (torch.lerp(x, y, _OTHER_WEIGHT) for x, y in zip(whole[:3], both[:3]))
    if bool((total + within).isfinite().all()):
        moments.update(mean=mean, total=total, within=within)


def finest(batch: MultiSensorSample) -> float:
    """Metres of the finest pixels of a batch of which cells can be cut from all of its views."""
    sizes = sorted({float(v['res']) for views in batch['sensors'].values() for v in views})
    return next(m for m in sizes if m == sizes[-1] or all(_divides(m, res) for res in sizes))


def _divides(cell_m: float, res: float) -> bool:
    """Whether cells can be cut from pixels."""
    try:
        return bool(pixels_per_cell(res, cell_m))
    except ValueError:
        return False


def _scatter(looks: Sequence[Seen], present: Mapping[str, Tensor]) -> Scatter:
    """Scatter of what sensors saw, each as often as it was looked at."""
    rows, seen = {}, {}
    for number, look in enumerate(looks):
        for name, (x, there) in look.items():
            key = f'{name}, look {number}'
            rows[key] = spread_rows(x, present[name]).flatten(0, 1)
            seen[key] = spread_rows(there, present[name]).flatten()
    return scatter(rows, seen)
