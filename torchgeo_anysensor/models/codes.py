# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""A vector for each band, from its wavelength, width and ground sample distance.

Letters as in :mod:`torchgeo_anysensor.types`.
"""

import math

import torch
from torch import Tensor, nn

#: Bands with a longer wavelength, in micrometres, hold emitted light in kelvin.
THERMAL_FROM_UM = 3.0
#: Cycles per e-fold of the wavelength: lowest and highest of the 64 frequencies.
WAVELENGTH_CYCLES = (0.15, 6.0)
#: Cycles per e-fold of the ground sample distance: lowest and highest of the 8 frequencies.
GSD_CYCLES = (1 / 16, 1.0)
KIND_DIM = 16


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

    def light(self, wavelength: Tensor, bandwidth: Tensor) -> Tensor:
        """Describe the light of bands, both ``(...)`` in micrometres, by ``(..., 128)``."""
        return wavelength_features(wavelength, bandwidth)

    def forward(self, wavelength: Tensor, bandwidth: Tensor, gsd: Tensor) -> Tensor:
        """Encode bands.

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
