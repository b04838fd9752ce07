# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Vectors for what is known of a band, and of the acquisition that it belongs to.

Letters as in :mod:`torchgeo_anysensor.types`.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ..types import THERMAL_FROM_UM, SensorSample
from .memo import Memo

#: Cycles per e-fold of the wavelength: lowest and highest of the 64 frequencies.
WAVELENGTH_CYCLES = (0.15, 6.0)
#: Cycles per e-fold of the ground sample distance: lowest and highest of the 8 frequencies.
GSD_CYCLES = (1 / 16, 1.0)
KIND_DIM = 16
#: What may be known of an acquisition.
Fact = Literal['time', 'place', 'level']
SECONDS_PER_YEAR = 365.2425 * 86_400
#: Processing levels: 0 at the top of the atmosphere, 1 at the surface.
LEVELS = 2
#: Turns of a place's unit vector: powers of 2, to about 300 km on the ground.
PLACE_OCTAVES = 7


def is_thermal(wavelength: Tensor) -> Tensor:
    """Say which bands are thermal, from their centre wavelengths in micrometres."""
    return wavelength > THERMAL_FROM_UM


def _radians(cycles: tuple[float, float], count: int, device: torch.device) -> Tensor:
    """Space angular frequencies evenly in their logarithm."""
    low, high = (math.log10(2 * math.pi * c) for c in cycles)
    return torch.logspace(low, high, count, device=device, dtype=torch.float32)


def wavelength_features(wavelength: Tensor, bandwidth: Tensor) -> Tensor:
    """Describe bands by Fourier features of ``ln(wavelength)``, averaged over the band.

    A frequency ``w`` is damped by ``exp(-(w s)^2 / 2)``, its mean over a Gaussian response of width
    ``s``: a broad band keeps only the slow ones. The idea is the integrated positional encoding of
    mip-NeRF (Barron et al. 2021, https://arxiv.org/abs/2103.13415), here along the spectrum.

    Args:
        wavelength: ``(...)`` centre wavelengths in micrometres.
        bandwidth: ``(...)`` full widths at half maximum in micrometres.

    Returns:
        ``(..., 128)`` float32.
    """
    w = _radians(WAVELENGTH_CYCLES, 64, wavelength.device)
    u = torch.log(wavelength.float() / 0.4)[..., None]
    # FWHM of a Gaussian is 2.355 standard deviations; d ln(x) = dx / x
    sigma = (bandwidth.float() / (2.355 * wavelength.float()))[..., None]
    damping = torch.exp(-((w * sigma) ** 2) / 2)
    return torch.cat([damping * torch.cos(w * u), damping * torch.sin(w * u)], dim=-1)


def gsd_features(gsd: Tensor) -> Tensor:
    """Describe ground sample distances ``(...)`` in metres by ``(..., 16)`` Fourier features."""
    w = _radians(GSD_CYCLES, 8, gsd.device)
    phase = w * torch.log(gsd.float() / 10.0)[..., None]
    return torch.cat([torch.cos(phase), torch.sin(phase)], dim=-1)


class BandCode(nn.Module):
    """A vector for each band, made from what is known of the band and never from its name.

    The light of a band is described by :func:`wavelength_features`. Subclasses describe it in
    another way; they are there to be compared with (``benchmarks/spectral_transfer.py``).
    """

    def __init__(self, dim: int = 128) -> None:
        """Make the code.

        Args:
            dim: Length of the vector.
        """
        super().__init__()
        self.kind = nn.Embedding(2, KIND_DIM)  # reflectance, kelvin
        self.mlp = nn.Sequential(
            nn.Linear(128 + 16 + KIND_DIM, dim),
            nn.GELU(),
            nn.Linear(dim, dim),
            nn.LayerNorm(dim),  # unit scale, so that band tokens show their band from the start
        )
        self._memo = Memo()

    def light(self, wavelength: Tensor, bandwidth: Tensor) -> Tensor:
        """Describe the light of bands, both ``(...)`` in micrometres, by ``(..., 128)``."""
        return wavelength_features(wavelength, bandwidth)

    def forward(self, wavelength: Tensor, bandwidth: Tensor, gsd: Tensor) -> Tensor:
        """Encode bands; in evaluation on the CPU once for each sensor.

        (To look at the facts on another device takes longer than to encode them.)

        Args:
            wavelength: ``(C,)`` or ``(B, C)`` centre wavelengths in micrometres.
            bandwidth: Full widths at half maximum in micrometres, ``(C,)`` or ``(B, C)``.
            gsd: Native ground sample distances in metres, ``(C,)`` or ``(B, C)``.

        Returns:
            ``(C, dim)`` or ``(B, C, dim)``.
        """
        # Two platforms of a sensor differ in some facts and share others
        shape = max((wavelength.shape, bandwidth.shape, gsd.shape), key=len)
        wavelength, bandwidth, gsd = (fact.expand(shape) for fact in (wavelength, bandwidth, gsd))
        if wavelength.device.type != 'cpu' or torch.compiler.is_compiling():
            return self._encode(wavelength, bandwidth, gsd)
        key = tuple(tuple(fact.flatten().tolist()) for fact in (wavelength, bandwidth, gsd))
        return self._memo.get(
            (shape, key), self.parameters(), lambda: self._encode(wavelength, bandwidth, gsd)
        )

    def _encode(self, wavelength: Tensor, bandwidth: Tensor, gsd: Tensor) -> Tensor:
        """As :meth:`forward`, of facts of one shape."""
        facts = [
            self.light(wavelength, bandwidth),
            gsd_features(gsd),
            self.kind(is_thermal(wavelength).long()),
        ]
        code: Tensor = self.mlp(torch.cat(facts, dim=-1))
        return code


class PointBandCode(BandCode):
    """As :class:`BandCode`, but blind to how wide a band is."""

    def light(self, wavelength: Tensor, bandwidth: Tensor) -> Tensor:
        """Describe the centre of a band; see :meth:`BandCode.light`."""
        return wavelength_features(wavelength, torch.zeros_like(bandwidth))


class NanometreBandCode(BandCode):
    """Sine and cosine of the wavelength in nanometres, as a transformer codes a position.

    So do DOFA (https://arxiv.org/abs/2403.15356) and Panopticon (https://arxiv.org/abs/2503.10845):
    64 frequencies from 1 down to about 1/10000 radian for a nanometre. Blind to the width of a band.
    """

    def light(self, wavelength: Tensor, bandwidth: Tensor) -> Tensor:
        """Describe the centre of a band; see :meth:`BandCode.light`."""
        exponent = torch.arange(64, device=wavelength.device, dtype=torch.float32) / 64
        phase = 1000 * wavelength.float()[..., None] * 10_000**-exponent
        return torch.cat([torch.sin(phase), torch.cos(phase)], dim=-1)


class FourierBandCode(BandCode):
    """Sine and cosine of the wavelength and of the width, at periods spaced over many decades.

    So does Copernicus-FM (https://arxiv.org/abs/2503.11849): periods from 100 to 1e9 nm for the
    wavelength, and from 1 to 1e9 nm for the width. Here each has half of the features.
    """

    def light(self, wavelength: Tensor, bandwidth: Tensor) -> Tensor:
        """Describe a band; see :meth:`BandCode.light`."""
        parts = []
        for fact, shortest in ((wavelength, 2), (bandwidth, 0)):
            period = torch.logspace(shortest, 9, 32, device=fact.device)  # nm
            phase = 2 * math.pi * 1000 * fact.float()[..., None] / period
            parts += [torch.sin(phase), torch.cos(phase)]
        return torch.cat(parts, dim=-1)


def known_facts(view: SensorSample) -> Tensor:
    """Gather what is known of the acquisitions of a batch.

    Args:
        view: One batched view; ``lon``, ``lat`` and ``level`` need not be there.

    Returns:
        ``(B, 4)`` float32: share of the year that is over (0 to 1), longitude and latitude in
        degrees, processing level; NaN for what is not known, another level included.
    """
    t = view['t'].double()
    unknown = torch.full_like(t, math.nan)
    year = (t / SECONDS_PER_YEAR) % 1.0
    place = view.get('lon', unknown), view.get('lat', unknown)
    level = view.get('level', unknown).double()
    level = torch.where(torch.isin(level, torch.arange(LEVELS).to(level)), level, unknown)
    facts = (year, *place, level)
    return torch.stack([fact.double() for fact in facts], dim=-1).float()


class AcquisitionCode(nn.Module):
    """A vector for each acquisition, made from what is known of it.

    It is added to the codes of its bands, so that of several acquisitions each keeps its own date.
    What is not known has a learned vector.
    """

    def __init__(self, dim: int, *, facts: Sequence[Fact]) -> None:
        """Make the code.

        Args:
            dim: Length of the vector.
            facts: What to listen to; nothing else has an effect.

        Raises:
            ValueError: If a fact is not known.
        """
        super().__init__()
        lengths = {'time': 4, 'place': 6 * PLACE_OCTAVES, 'level': LEVELS}
        if unknown := [fact for fact in facts if fact not in lengths]:
            raise ValueError(f'facts={unknown} are none of {list(lengths)}')
        self.maps = nn.ModuleDict({fact: nn.Linear(lengths[fact], dim) for fact in facts})
        self.absent = nn.ParameterDict({fact: 0.02 * torch.randn(dim) for fact in facts})

    def forward(self, known: Tensor) -> Tensor:
        """Encode acquisitions.

        Args:
            known: ``(B, 4)``; see :func:`known_facts`.

        Returns:
            ``(B, dim)``.
        """
        total = known.new_zeros(known.shape[0], 1)
        for fact, linear in self.maps.items():
            columns = known[:, {'time': [0], 'place': [1, 2], 'level': [3]}[fact]]
            present = columns.isfinite().all(dim=-1, keepdim=True)
            features = _FEATURES[fact](columns.nan_to_num())
            total = total + torch.where(present, linear(features), self.absent[fact])
        return total


def _time_of_year(year: Tensor) -> Tensor:
    """Sine and cosine of the year and of half of it, ``(B, 4)``."""
    phase = 2 * math.pi * year * torch.tensor([1.0, 2.0], device=year.device)
    return torch.cat([phase.sin(), phase.cos()], dim=-1)


def _place(degrees: Tensor) -> Tensor:
    """Sine and cosine of the unit vector to a place, at octaves, ``(B, 6 * octaves)``."""
    lon, lat = torch.deg2rad(degrees).unbind(-1)
    vector = torch.stack([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()], dim=-1)
    turns = 2.0 ** torch.arange(PLACE_OCTAVES, device=degrees.device)
    phase = (math.pi * vector[..., None] * turns).flatten(-2)
    return torch.cat([phase.sin(), phase.cos()], dim=-1)


def _level(level: Tensor) -> Tensor:
    """Which of the levels it is, ``(B, LEVELS)``."""
    levels = torch.arange(LEVELS, device=level.device)
    return (level == levels).float()


_FEATURES = {'time': _time_of_year, 'place': _place, 'level': _level}
