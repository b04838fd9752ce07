# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What a band sees of a spectrum, and how noisy it is."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from pyrsr import RSR

from ..sensors import Band
from .spectra import WAVELENGTH_UM, Spectrum

# Signal-to-noise ratio at a reference radiance (W m-2 sr-1 um-1) and the sun's irradiance in the
# band (W m-2 um-1), by common name. MSI: ESA Sentinel-2 User Handbook, table of SNR
# specifications, and the irradiance in product metadata. OLI: Landsat 8 Data Users Handbook
# (LSDS-1574), specified SNR at typical radiance.
_MSI_NOISE = {
    'coastal': (129, 129.1, 1884.7), 'blue': (154, 128.0, 1959.7), 'green': (168, 128.0, 1823.2),
    'red': (142, 108.0, 1512.1), 'rededge071': (117, 74.6, 1424.6), 'rededge075': (89, 68.2, 1287.6),
    'rededge078': (105, 67.0, 1162.1), 'nir': (174, 103.0, 1041.6), 'nir08': (72, 52.4, 955.3),
    'nir09': (114, 8.8, 812.9), 'cirrus': (50, 6.0, 367.2), 'swir16': (100, 4.0, 245.6),
    'swir22': (100, 1.5, 85.3),
}  # fmt: skip
_OLI_NOISE = {
    'coastal': (130, 40.0, 1895.3), 'blue': (130, 40.0, 2004.6), 'green': (100, 30.0, 1820.8),
    'red': (90, 22.0, 1549.5), 'nir08': (90, 14.0, 951.8), 'swir16': (100, 4.0, 247.6),
    'swir22': (100, 1.7, 85.5), 'cirrus': (50, 6.0, 367.0),
}  # fmt: skip
# Signal-to-noise ratio of EnMAP over ground of reflectance 0.3, by wavelength in um: the
# specification in Guanter et al. (2015), doi:10.3390/rs70708830
_SPECTROMETER_SNR = ((0.495, 500), (2.2, 150))
_SPECTROMETER_REFERENCE = 0.3
# Noise of TIRS: 0.4 K by specification, near 0.05 K in flight (the same handbook)
_THERMAL_NOISE_K = 0.05


@dataclass(frozen=True, slots=True)
class Platform:
    """One satellite: the name in its products and where its responses are found."""

    code: str  #: S2A, S2B, LC08, LC09
    title: str  #: as ``SPACECRAFT_NAME`` or ``SPACECRAFT_ID`` in the metadata
    rsr: tuple[str, str] | None  #: satellite and sensor of ``pyrsr``, if it has them


PLATFORMS: dict[str, Platform] = {
    'S2A': Platform('S2A', 'Sentinel-2A', ('Sentinel-2A', 'MSI')),
    'S2B': Platform('S2B', 'Sentinel-2B', ('Sentinel-2B', 'MSI')),
    'LC08': Platform('LC08', 'LANDSAT_8', ('Landsat-8', 'OLI_TIRS')),
    'LC09': Platform('LC09', 'LANDSAT_9', ('Landsat-9', 'OLI_TIRS')),
    'SPEC': Platform('SPEC', 'imaging spectrometer', None),
}


@lru_cache(maxsize=8)
def _measured(satellite: str, sensor: str) -> dict[str, tuple[Spectrum, Spectrum]]:
    """Measured responses by the band's name in ``pyrsr``: wavelength in um and weight."""
    try:
        responses = RSR(satellite, sensor, no_thermal=True, no_pan=True)
    except (FileNotFoundError, ValueError):  # no file, or no such sensor
        return {}
    wavelength = np.asarray(responses.rsrs_wvl, dtype=np.float64) / 1000
    return {
        name: (wavelength, np.asarray(weight, dtype=np.float64))
        for name, weight in responses.rsrs.items()
    }


def response(band: Band, *, platform: Platform) -> Spectrum:
    """Weights of a band on ``WAVELENGTH_UM``, of sum 1.

    The measured response of the satellite if ``pyrsr`` has it, else a Gaussian with the centre
    and width of the band table.
    """
    measured = {} if platform.rsr is None else _measured(*platform.rsr)
    # SR_B1, B01 and B8A are 1, 1 and 8A in pyrsr
    name = band.name.rpartition('B')[2].lstrip('0')
    if name in measured:
        weight = np.interp(WAVELENGTH_UM, *measured[name], left=0, right=0)
        weight = np.maximum(weight, 0)
    else:
        sigma = band.fwhm_um / 2.3548
        weight = np.exp(-0.5 * ((WAVELENGTH_UM - band.center_wavelength_um) / sigma) ** 2)
    return weight / weight.sum()


def band_values(
    spectra: NDArray[np.float64], *, bands: tuple[Band, ...], platform: Platform
) -> NDArray[np.float64]:
    """Reflectance in bands.

    Args:
        spectra: ``(..., W)`` on ``WAVELENGTH_UM``.
        bands: Bands of reflectance.
        platform: The satellite.

    Returns:
        ``(..., C)``
    """
    weights = np.stack([response(band, platform=platform) for band in bands], axis=-1)
    return np.einsum('...w,wc->...c', spectra, weights)


def noise_sigma(
    band: Band, *, platform: Platform, reflectance: NDArray[np.float32], sun_elevation_deg: float
) -> NDArray[np.float32]:
    """Standard deviation of the noise of a pixel, in the band's unit.

    Shot noise: the variance at the reference radiance, from the published SNR, grows with the
    light; a third of that stays in the dark (the instrument, and the light of the air).
    """
    if band.unit != 'reflectance':
        return np.full_like(reflectance, _THERMAL_NOISE_K)
    if platform.rsr is None:
        wavelength, snr_log = np.array(_SPECTROMETER_SNR).T
        snr = float(np.exp(np.interp(band.center_wavelength_um, wavelength, np.log(snr_log))))
        return _shot_noise(reflectance, _SPECTROMETER_REFERENCE, snr)
    table = _MSI_NOISE if platform.rsr[1] == 'MSI' else _OLI_NOISE
    snr, radiance, irradiance = table[band.common_name or '']
    reference = np.pi * radiance / (irradiance * np.sin(np.deg2rad(sun_elevation_deg)))
    return _shot_noise(reflectance, reference, snr)


def _shot_noise(
    reflectance: NDArray[np.float32], reference: float, snr: float
) -> NDArray[np.float32]:
    """Standard deviation, from the signal-to-noise ratio at a reference reflectance."""
    share = np.clip(reflectance / reference, 0, None)
    return ((reference / snr) * np.sqrt((0.5 + share) / 1.5)).astype(np.float32)
