# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Sensors that nobody built, made from what was measured.

Letters as in :mod:`torchgeo_anysensor.types`, and ``K`` bands of a virtual sensor.
"""

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..types import THERMAL_FROM_UM, MultiSensorSample, SensorSample, take_bands

#: Least number of bands, and least share of neighbours that touch, of a view that holds spectra.
SPECTRA_FROM = (16, 0.8)
#: Least and greatest number of bands that are drawn from spectra.
DRAWN_BANDS = (3, 20)
#: Greatest width of a response that is drawn from spectra, in micrometres.
DRAWN_WIDTH_UM = 0.15
#: Full width at half maximum of a Gaussian, in standard deviations.
_FWHM = 2.355


class _Facts(NamedTuple):
    """Facts of the bands of a view on the host, of its first sample if samples differ."""

    wavelength: Tensor  #: ``(C,)`` um
    bandwidth: Tensor  #: ``(C,)`` um
    order: Tensor  #: ``(C,)`` places of the bands, by rising wavelength
    touches: Tensor  #: ``(C - 1,)`` bool, in that order: the next band lies next to this one
    res: float  #: pixel size in metres


class VirtualSensors(nn.Module):
    """Replace views by those of virtual sensors, drawn anew for each view of each batch.

    In this order, each with a probability of its own:

    - **Spectra**: a view of many bands side by side (an imaging spectrometer) is seen through 3 to
      20 Gaussian responses of random centre, and of a width between that of the bands there and
      0.15 um. A response ends where its run of neighbouring bands ends.
    - **Merged bands**, of any other view: neighbours become one wider band. They are neighbours if
      they are of one kind (reflectance or kelvin) and the gap between them is not wider than the
      wider of the two.
    - **A subset** of these bands; one always stays.
    - **Coarser pixels**: valid pixels are averaged by area, by a whole factor that divides rows and
      columns. If none does that stays within *max_gsd_m*, the view keeps its pixels.

    A new band is a weighted mean of the old ones in the same pixel, with weights ``w`` of sum 1, and
    its centre is the same mean of their centres. Merged bands weigh as much as they are wide, and
    reach from the lowest to the highest wavelength at which one of them has half of its height. For
    two halves of a box that gives the box; for Gaussians side by side the full width at half maximum
    of their sum, to 3 % if they are equally wide, and to 8 % if one is 2.5 times as wide. The width
    of a drawn response is that of a Gaussian of the same variance,
    ``2.355 * sqrt(sum(w * (s**2 + (c - centre)**2)))`` with the centres ``c`` and standard
    deviations ``s`` of the bands. The ground sample distance is the greatest of the bands joined,
    and at least the size of the pixels.

    The ground of the view, its offset (``dx``, ``dy``), its time and the mask stay, and so do
    ``bounds`` and ``transform``, which are for display. The views of a sensor stay in the order of
    their pixel size.
    """

    def __init__(
        self,
        p: float = 0.5,
        *,
        spectra: float = 0.8,
        merge: float = 0.3,
        subset: float = 0.2,
        coarsen: float = 0.3,
        max_gsd_m: float = 60.0,
        min_valid: float = 1.0,
    ) -> None:
        """Make the transform; 0 turns a part of it off.

        Args:
            p: Probability that a view is replaced.
            spectra: Probability that one that holds spectra is seen through random responses.
            merge: Probability that two neighbouring bands become one.
            subset: Probability that a band is left out.
            coarsen: Probability that pixels become coarser.
            max_gsd_m: Largest size of such pixels in metres.
            min_valid: Share of the ground of a coarser pixel that must be valid.

        Raises:
            ValueError: If a probability or share is none, or there is no pixel size.
        """
        super().__init__()
        for name, value in {'p': p, 'spectra': spectra, 'merge': merge, 'coarsen': coarsen}.items():
            if not 0 <= value <= 1:
                raise ValueError(f'{name}={value} must be a probability, 0 to 1')
        if not 0 <= subset < 1:
            raise ValueError(f'subset={subset} must be at least 0 and below 1')
        if not 0 < min_valid <= 1:
            raise ValueError(f'min_valid={min_valid} must be a share above 0, at most 1')
        if not max_gsd_m > 0:
            raise ValueError(f'max_gsd_m must be positive metres, got {max_gsd_m}')
        self.p = p
        self.spectra = spectra
        self.merge = merge
        self.subset = subset
        self.coarsen = coarsen
        self.max_gsd_m = max_gsd_m
        self.min_valid = min_valid

    def forward(self, batch: MultiSensorSample) -> MultiSensorSample:
        """Replace views.

        Args:
            batch: A batch (or a single sample).

        Returns:
            A new batch; the given one is left as it is.
        """
        out = cast(MultiSensorSample, dict(batch))
        out['sensors'] = {name: self._replace(views) for name, views in batch['sensors'].items()}
        return out

    def _replace(self, views: tuple[SensorSample, ...]) -> tuple[SensorSample, ...]:
        """Replace some of the views of one sensor, and keep the finest first."""
        made = [self._virtual(view) if _chance(self.p) else view for view in views]
        return tuple(sorted(made, key=lambda view: -view['image'].shape[-1]))  # of one ground

    def _virtual(self, view: SensorSample) -> SensorSample:
        """Make the view of a virtual sensor."""
        facts = _look(view)
        if _holds_spectra(facts) and _chance(self.spectra):
            view = _see_through(view, *_draw_responses(facts))
        else:
            view = _merge(view, facts, p=self.merge)
            keep = torch.rand(view['image'].shape[-3]) >= self.subset
            keep[torch.randint(len(keep), ())] = True
            view = view if bool(keep.all()) else take_bands(view, keep)
        if _chance(self.coarsen) and (factors := self._factors(view, facts.res)):
            factor = factors[int(torch.randint(len(factors), ()))]
            view = _average(view, factor, min_valid=self.min_valid)
        return view

    def _factors(self, view: SensorSample, res: float) -> list[int]:
        """How many pixels along an axis can become one."""
        height, width = view['valid'].shape[-2:]
        most = int(self.max_gsd_m / res + 1e-5)
        return [k for k in range(2, most + 1) if height % k == 0 and width % k == 0]


def _chance(p: float) -> bool:
    """Say yes with a probability."""
    return bool(torch.rand(()) < p)


def _look(view: SensorSample) -> _Facts:
    """Bring the facts of a view to the host, all at once."""
    count = view['image'].shape[-3]
    bands = [view[name].reshape(-1, count)[0] for name in ('wavelength', 'bandwidth')]
    looked = torch.cat([*bands, view['res'].reshape(1)]).cpu()
    wavelength, bandwidth, res = looked[:count], looked[count:-1], float(looked[-1])
    order = wavelength.argsort()
    centre, width = wavelength[order], bandwidth[order]
    gap = centre.diff() - (width[1:] + width[:-1]) / 2
    thermal = centre > THERMAL_FROM_UM
    # 1e-5: centres and widths are rounded
    near = gap <= torch.maximum(width[1:], width[:-1]) + 1e-5
    return _Facts(wavelength, bandwidth, order, near & (thermal[1:] == thermal[:-1]), res)


def _holds_spectra(facts: _Facts) -> bool:
    """Say whether a view has many bands side by side."""
    count, share = SPECTRA_FROM
    return len(facts.order) >= count and float(facts.touches.float().mean()) >= share


def _runs(facts: _Facts, joined: Tensor) -> Tensor:
    """Number the runs ``(C,)`` of bands of which each is joined ``(C - 1,)`` with the next."""
    number = torch.zeros_like(facts.order)
    number[facts.order[1:]] = (~joined).long().cumsum(0)
    return number


def _merge(view: SensorSample, facts: _Facts, *, p: float) -> SensorSample:
    """Make one band of neighbours, each two of them with a probability."""
    joined = facts.touches & (torch.rand(len(facts.touches)) < p)
    if not bool(joined.any()):
        return view
    run = _runs(facts, joined)
    members = (run == torch.arange(int(run.max()) + 1)[:, None]).to(view['image'].device)
    centre, width = (view[name].unsqueeze(-2) for name in ('wavelength', 'bandwidth'))
    top = torch.where(members, centre + width / 2, -torch.inf).amax(-1)
    bottom = torch.where(members, centre - width / 2, torch.inf).amin(-1)
    return _join(view, members * width, bandwidth=top - bottom)


def _draw_responses(facts: _Facts) -> tuple[Tensor, Tensor, Tensor]:
    """Draw Gaussian responses that the bands of a view cover.

    Returns:
        Centres and full widths at half maximum in micrometres, both ``(K, 1)``, and which bands
        lie in the same run as the response ``(K, C)`` bool.
    """
    low, high = DRAWN_BANDS
    near = torch.randint(len(facts.order), (int(torch.randint(low, high + 1, ())), 1))
    place, share = torch.rand(2, len(near), 1)
    least = facts.bandwidth[near]
    centre = facts.wavelength[near] + (place - 0.5) * least
    run = _runs(facts, facts.touches)
    inside = run == run[near]
    top = torch.where(inside, facts.wavelength + facts.bandwidth / 2, -torch.inf)
    bottom = torch.where(inside, facts.wavelength - facts.bandwidth / 2, torch.inf)
    # 98 % of a Gaussian lies within its full width at half maximum on either side
    room = torch.minimum(top.amax(-1, True) - centre, centre - bottom.amin(-1, True))
    most = torch.maximum(room.clamp(max=DRAWN_WIDTH_UM), least)
    return centre, least * (most / least) ** share, inside


def _see_through(view: SensorSample, centre: Tensor, width: Tensor, inside: Tensor) -> SensorSample:
    """See a view through Gaussian responses; see :func:`_draw_responses`."""
    centre, width, inside = (x.to(view['image'].device) for x in (centre, width, inside))
    bands, widths = (view[name].unsqueeze(-2) for name in ('wavelength', 'bandwidth'))
    weights = inside * widths * torch.exp(-(((bands - centre) * _FWHM / width) ** 2) / 2)
    weights = weights / weights.sum(-1, keepdim=True)
    mean = (weights * bands).sum(-1, keepdim=True)
    variance = (weights * ((widths / _FWHM) ** 2 + (bands - mean) ** 2)).sum(-1)
    return _join(view, weights, bandwidth=_FWHM * variance.sqrt())


def _join(view: SensorSample, weights: Tensor, *, bandwidth: Tensor) -> SensorSample:
    """Make bands that are weighted means of bands.

    Args:
        view: A view.
        weights: ``(K, C)`` or ``(B, K, C)``, of any sum.
        bandwidth: ``(K,)`` or ``(B, K)`` full widths at half maximum of the new bands in micrometres.
    """
    weights = weights / weights.sum(-1, keepdim=True)
    image = view['image']
    counts = weights.reshape(-1, *weights.shape[-2:]).amax(0) > 1e-3
    joined = {
        'image': torch.einsum('...kc,...chw->...khw', weights, image),
        'wavelength': (weights * view['wavelength'].unsqueeze(-2)).sum(-1),
        'bandwidth': bandwidth,
        'gsd': torch.where(counts, view['gsd'].unsqueeze(-2), 0.0).amax(-1),
    }
    return cast(SensorSample, {**view, **joined})


def _average(view: SensorSample, factor: int, *, min_valid: float) -> SensorSample:
    """Average the valid pixels of a view by area.

    Args:
        view: A view.
        factor: Pixels along an axis that become one.
        min_valid: Share of them that must be valid.
    """
    valid = view['valid'].unsqueeze(-3)
    share = F.avg_pool2d(valid.to(view['image'].dtype), factor)
    total = F.avg_pool2d(view['image'].masked_fill(~valid, 0.0), factor)
    seen = (share > 0) & (share >= min_valid - 1e-6)
    res = view['res'] * factor
    coarse = {
        'image': torch.where(seen, total / share, 0.0),
        'valid': seen.squeeze(-3),
        'res': res,
        'gsd': torch.maximum(view['gsd'], res),
    }
    return cast(SensorSample, {**view, **coarse})
