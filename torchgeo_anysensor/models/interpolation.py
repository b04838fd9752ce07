# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""The spectrum that the bands of any sensor show, at wavelengths that are always the same.

Letters as in :mod:`torchgeo_anysensor.types`, and ``K`` anchors, ``d`` features of a band.
"""

import torch
from torch import Tensor, nn

from .codes import is_thermal
from .spectral import SpectralAttention

#: Wavelengths in micrometres at which spectra are seen, the last two thermal.
ANCHORS_UM = (
    *(0.491, 0.547, 0.610, 0.670, 0.758, 0.846, 0.943, 1.05, 1.24, 1.63, 2.02, 2.25),
    *(10.9, 12.0),
)
#: Where spectra of land jump, in micrometres, within which width, and for how much of ln(wavelength)
#: that stands: the red edge, and two absorptions by water.
EDGES_UM = ((0.725, 0.012, 1.0), (1.40, 0.03, 0.5), (1.90, 0.03, 0.5))
#: Here the atmosphere's water lets no light of the ground through: bands for cirrus clouds.
OPAQUE_UM = ((1.33, 1.47), (1.79, 1.97))
#: Distance in ln(wavelength) within which a band counts in full.
_REACH = 0.05


def interpolation_weights(wavelength: Tensor, bandwidth: Tensor) -> Tensor:
    """Weigh bands by how near they are to each anchor.

    The weight falls with the fourth power of the distance in ``ln(wavelength)`` (inverse distance
    weighting, Shepard 1968, doi:10.1145/800186.810616) beyond the width of the band and a least
    reach. Across an edge at which spectra of land jump the distance is longer: what lies there is seen
    by the bands on its own side, for any sensor alike. Reflectance does not help where temperature is asked for, nor the reverse, and bands in
    which the atmosphere is opaque help nowhere.

    Args:
        wavelength: ``(..., C)`` in micrometres.
        bandwidth: ``(..., C)`` full widths at half maximum in micrometres.

    Returns:
        ``(..., K, C)`` float32 from 0 to 1, of any sum.
    """
    anchors = torch.tensor(ANCHORS_UM, device=wavelength.device)[:, None]
    wave, width = wavelength.float().unsqueeze(-2), bandwidth.float().unsqueeze(-2)
    reach = _REACH**2 + (width / (2.355 * wave)) ** 2  # d ln(x) = dx / x
    weight = (1 + (_along(wave) - _along(anchors)) ** 2 / reach) ** -2
    opaque = torch.zeros_like(wave, dtype=torch.bool)
    for low, high in OPAQUE_UM:
        opaque = opaque | ((wave > low) & (wave < high))
    return weight * ((is_thermal(wave) == is_thermal(anchors)) & ~opaque)


def _along(wavelength: Tensor) -> Tensor:
    """Where wavelengths lie: their logarithm, with the edges drawn out."""
    place = torch.log(wavelength)
    for centre, width, length in EDGES_UM:
        place = place + length * torch.sigmoid((wavelength - centre) / width)
    return place


def interpolate(x: Tensor, seen: Tensor, weights: Tensor) -> Tensor:
    """See what bands show at the anchors.

    Args:
        x: ``(B, N, C, d)``, 0 where not *seen*.
        seen: ``(B, N, C)`` bool.
        weights: ``(K, C)`` or ``(B, K, C)``; see :func:`interpolation_weights`.

    Returns:
        ``(B, N, K, d)`` weighted means of the bands that were seen; 0 where none counts.
    """
    weights = weights.unsqueeze(-3).to(x.dtype)  # ([B,] 1, K, C)
    total = (seen.to(x.dtype).unsqueeze(-2) @ weights.mT).mT  # (B, N, K, 1)
    return weights @ x / total.clamp(min=1e-6)


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
        self.attention = SpectralAttention(
            dim, out_dim=out_dim, latents=latents, depth=depth, heads=heads
        )
        for parameter in self.attention.mix[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, plain: Tensor, bands: Tensor, seen: Tensor, weights: Tensor) -> Tensor:
        """Join bands.

        Args:
            plain: ``(B, N, C, d)`` what the pixels show, 0 where not *seen*: never changed by what is
                known of the band.
            bands: ``(B, N, C, dim)`` band tokens.
            seen: ``(B, N, C)`` bool.
            weights: As for :func:`interpolate`.

        Returns:
            ``(B, N, D)``; a learned vector where no band has data.
        """
        spectrum: Tensor = self.spectrum(interpolate(plain, seen, weights).flatten(-2))
        return spectrum + self.attention(bands, seen)
