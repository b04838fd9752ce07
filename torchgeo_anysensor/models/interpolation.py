# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""The spectrum that the bands of any sensor show, at wavelengths that are always the same.

Letters as in :mod:`torchgeo_anysensor.types`, and ``K`` anchors, ``d`` features of a band.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .codes import is_thermal
from .spectral import SpectralAttention

#: Wavelengths in micrometres at which spectra are seen, the last two thermal.
ANCHORS_UM = (
    *(0.491, 0.547, 0.610, 0.670, 0.790, 0.846, 0.943, 1.05, 1.24, 1.63, 2.02, 2.25),
    *(10.9, 12.0),
)
#: Where spectra of land jump, in micrometres, within which width, and for how much of ln(wavelength)
#: that stands: the red edge, and two absorptions by water.
EDGES_UM = ((0.725, 0.012, 1.0), (1.40, 0.03, 0.5), (1.90, 0.03, 0.5))
#: Here the atmosphere's water lets no light of the ground through: bands for cirrus clouds.
OPAQUE_UM = ((1.33, 1.47), (1.79, 1.97))
#: Distances in ln(wavelength): within the first, bands count alike; beyond the second, one farther
#: away by as much counts a third of the nearer one.
_REACH, _FALL = 0.02, 0.1


def is_opaque(wavelength: Tensor) -> Tensor:
    """Say which bands see no ground; see :data:`OPAQUE_UM`."""
    opaque = torch.zeros_like(wavelength, dtype=torch.bool)
    for low, high in OPAQUE_UM:
        opaque = opaque | ((wavelength > low) & (wavelength < high))
    return opaque


def interpolation_weights(wavelength: Tensor, seen: Tensor) -> Tensor:
    """Weigh the bands that a cell has so that their sum is the spectrum at each anchor.

    From the bands next below an anchor to those next above the spectrum is taken for a straight line in
    ``ln(wavelength)``, and beyond the outermost band it stays as it is. So a spectrum that is straight
    looks the same through any bands. Bands of about one distance, as those of an imaging spectrometer,
    are averaged. Across an edge at which spectra of land jump the distance is longer: what lies there
    is seen by the bands on its own side, for any sensor alike. Reflectance does not help where
    temperature is asked for, nor the reverse, and bands in which the atmosphere is opaque help nowhere.

    Args:
        wavelength: ``(C,)`` or ``(B, C)`` in micrometres.
        seen: ``(B, N, C)`` bool, where a band has data.

    Returns:
        ``(B, N, K, C)`` float32 of sum 1 over the bands, or 0 where none helps.
    """
    anchors = torch.tensor(ANCHORS_UM, device=wavelength.device)[:, None]
    wave = wavelength.float().unsqueeze(-2)
    helps = (is_thermal(wave) == is_thermal(anchors)) & ~is_opaque(wave)
    apart = _along(wave) - _along(anchors)  # ([B,] K, C)
    near = (1 + (apart / _REACH) ** 2) ** -4 * torch.exp(-apart.abs() / _FALL) * helps
    low, there = apart <= 0, seen.float()
    below, above = near * low, near * ~low
    with torch.autocast(wave.device.type, enabled=False):
        # Of the bands that are there: sums of the weights, and of the weights times the distances
        each = torch.cat([below, above, below * apart.abs(), above * apart.abs()], dim=-2)
        lows, highs, under, over = (there @ each.mT).chunk(4, dim=-1)  # (B, N, K) each
        under, over = under / lows.clamp(min=1e-37), over / highs.clamp(min=1e-37)
        share = under / (under + over).clamp(min=1e-9)  # of the bands above
        share = torch.where(lows > 0, share, 1.0)
        share = torch.where(highs > 0, share, 0.0)
        one, other = (1 - share) / lows.clamp(min=1e-37), share / highs.clamp(min=1e-37)
        scale = torch.where(low.unsqueeze(-3), one.unsqueeze(-1), other.unsqueeze(-1))
        return scale * near.unsqueeze(-3) * there.unsqueeze(-2)


def _along(wavelength: Tensor) -> Tensor:
    """Where wavelengths lie: their logarithm, with the edges drawn out."""
    place = torch.log(wavelength)
    for centre, width, length in EDGES_UM:
        place = place + length * torch.sigmoid((wavelength - centre) / width)
    return place


def join_wavelengths(wavelengths: Sequence[Tensor], batch: int) -> Tensor:
    """Wavelengths ``(C,)`` or ``(B, C)`` of views, of all their bands, ``(C,)`` if samples are alike."""
    if any(wave.ndim > 1 for wave in wavelengths):
        wavelengths = [wave.expand(batch, -1) for wave in wavelengths]
    return torch.cat([*wavelengths], dim=-1)


def interpolate(x: Tensor, seen: Tensor, wavelength: Tensor) -> Tensor:
    """See what bands show at the anchors.

    Args:
        x: ``(B, N, C, d)``, 0 where not *seen*.
        seen: ``(B, N, C)`` bool.
        wavelength: ``(C,)`` or ``(B, C)`` in micrometres.

    Returns:
        ``(B, N, K, d)`` weighted means of the bands that were seen; 0 where none counts.
    """
    return interpolation_weights(wavelength, seen).to(x.dtype) @ x


class SpectralJoin(nn.Module):
    """Join any set of bands at a ground cell to one vector.

    It is the sum of two ways. A linear map of the spectrum, interpolated to fixed wavelengths, means
    the same for every sensor from the start, those never met included. Spectral attention learns
    what that leaves out (narrow bands, resolution, date), and begins with nothing.
    """

    def __init__(
        self, dim: int, *, out_dim: int, plain_dim: int, latents: int, depth: int, heads: int
    ) -> None:
        """Make both ways.

        Args:
            dim: Length of a band token.
            out_dim: Length ``D`` of the result.
            plain_dim: Features ``d`` of a band that are interpolated.
            latents: Of :class:`~.spectral.SpectralAttention`, like the others.
            depth: Number of looks.
            heads: Attention heads of each look.
        """
        super().__init__()
        self.spectrum = nn.Linear(len(ANCHORS_UM) * plain_dim, out_dim, bias=False)
        # Of the interpolation: with another one the weights of a checkpoint mean something else,
        # and one without this does not load
        self.register_buffer('edition', torch.tensor(2))
        self.attention = SpectralAttention(
            dim, out_dim=out_dim, latents=latents, depth=depth, heads=heads
        )
        for parameter in self.attention.mix[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, plain: Tensor, bands: Tensor, seen: Tensor, wavelength: Tensor) -> Tensor:
        """Join bands.

        Args:
            plain: ``(B, N, C, d)`` what the pixels show, 0 where not *seen*: never changed by what is
                known of the band.
            bands: ``(B, N, C, dim)`` band tokens.
            seen: ``(B, N, C)`` bool.
            wavelength: ``(C,)`` or ``(B, C)`` in micrometres.

        Returns:
            ``(B, N, D)``; a learned vector where no band has data.
        """
        spectrum: Tensor = self.spectrum(interpolate(plain, seen, wavelength).flatten(-2))
        return spectrum + self.attention(bands, seen)
