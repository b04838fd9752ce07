# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Reflectance spectra of leaves, canopies, soils, water and built surfaces, 0.4 to 2.5 um.

Small closed formulas, each with its source. They give the shape that a sensor sees (pigment and
water absorption, red edge, soil line, the dark infrared of water), not the last percent.
A spectrum is a float64 array on :data:`WAVELENGTH_UM`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

type Spectrum = NDArray[np.float64]

#: Wavelengths of every spectrum, in um
WAVELENGTH_UM: Spectrum = np.arange(400, 2501, 5) / 1000

# Absorption of pure liquid water in 1/cm. Below 0.72 um from Pope and Fry (1997),
# doi:10.1364/AO.36.008710, above it from Hale and Querry (1973), doi:10.1364/AO.12.000555,
# (4 pi k / wavelength), with the peaks at 1.45 and 1.94 um of Kou et al. (1993),
# doi:10.1364/AO.32.003531. Rounded, and interpolated in the logarithm.
_WATER_1_CM = (
    (0.40, 6.6e-5), (0.44, 6.4e-5), (0.50, 2.0e-4), (0.55, 5.7e-4), (0.60, 2.2e-3),
    (0.65, 3.4e-3), (0.70, 6.2e-3), (0.75, 0.026), (0.80, 0.020), (0.85, 0.043), (0.90, 0.068),
    (0.925, 0.144), (0.95, 0.39), (0.975, 0.45), (1.00, 0.36), (1.07, 0.15), (1.10, 0.19),
    (1.15, 0.95), (1.20, 1.04), (1.27, 1.0), (1.32, 1.6), (1.40, 12.4), (1.45, 29.0), (1.50, 19.0),
    (1.60, 6.7), (1.68, 5.2), (1.80, 8.0), (1.88, 25.0), (1.94, 122.0), (2.00, 69.0), (2.10, 24.0),
    (2.20, 16.5), (2.30, 24.0), (2.40, 50.0), (2.50, 88.0),
)  # fmt: skip


def _gaussian(center_um: float, sigma_um: float, wavelength_um: Spectrum) -> Spectrum:
    """A peak of height 1."""
    return np.exp(-0.5 * ((wavelength_um - center_um) / sigma_um) ** 2)


def _peaks(*rows: tuple[float, float, float]) -> Spectrum:
    """Sum of Gaussian peaks given as (centre um, sigma um, height)."""
    total = np.zeros_like(WAVELENGTH_UM)
    for center, sigma, height in rows:
        total += height * _gaussian(center, sigma, WAVELENGTH_UM)
    return total


def _water_absorption() -> Spectrum:
    """Absorption coefficient of liquid water in 1/cm."""
    wavelength, coefficient = np.array(_WATER_1_CM).T
    return np.exp(np.interp(WAVELENGTH_UM, wavelength, np.log(coefficient)))


WATER_1_CM = _water_absorption()

# Specific absorption of chlorophyll in leaves, cm2/ug: positions of chlorophyll a and b in vivo
# (Lichtenthaler 1987, doi:10.1016/0076-6879(87)48036-1, moved 10 to 15 nm to the red as in leaves),
# heights of the order of Feret et al. (2008), doi:10.1016/j.rse.2008.02.012.
_CHLOROPHYLL_CM2_UG = _peaks(
    (0.435, 0.024, 0.048), (0.475, 0.020, 0.026), (0.540, 0.060, 0.008), (0.620, 0.024, 0.015),
    (0.650, 0.018, 0.017), (0.677, 0.013, 0.038), (0.692, 0.016, 0.014),
)  # fmt: skip
# Cellulose and lignin, cm2/g: bands listed by Curran (1989), doi:10.1016/0034-4257(89)90069-2
_DRY_MATTER_CM2_G = 2.5 + _peaks(
    (0.40, 0.15, 18), (1.20, 0.06, 1.5), (1.50, 0.08, 4), (1.73, 0.04, 6), (2.10, 0.07, 22),
    (2.30, 0.06, 24), (2.50, 0.09, 28),
)  # fmt: skip
# Brown pigments fall exponentially to the near infrared (as in PROSPECT, arbitrary units)
_BROWN = 0.9 * np.exp(-(WAVELENGTH_UM - 0.4) / 0.16)


@dataclass(frozen=True, slots=True)
class Leaf:
    """Contents of a leaf that absorb light."""

    chlorophyll_ug_cm2: float
    water_cm: float
    dry_matter_g_cm2: float
    brown: float = 0.0  #: 0 green to about 2 dead


def leaf_albedo(leaf: Leaf) -> Spectrum:
    """Single-scattering albedo of a leaf (reflectance plus transmittance).

    Absorption is the sum over contents times their specific coefficients, the idea of PROSPECT
    (Jacquemoud and Baret 1990, doi:10.1016/0034-4257(90)90100-Z). Instead of its exact integral:
    diffuse light crosses a layer on a path of twice its thickness, inner reflections make that
    2.5 times, and 6 % never enter the leaf.
    """
    absorption = (
        leaf.chlorophyll_ug_cm2 * _CHLOROPHYLL_CM2_UG
        + leaf.water_cm * WATER_1_CM
        + leaf.dry_matter_g_cm2 * _DRY_MATTER_CM2_G
        + leaf.brown * _BROWN
    )
    return 0.06 + 0.92 * np.exp(-2.5 * absorption)


def canopy(albedo: Spectrum, *, lai: float, background: Spectrum, shade: float = 1.0) -> Spectrum:
    """Reflectance of a leaf layer over a background.

    The two-stream solution of Goudriaan (1977), "Crop micrometeorology", for isotropic leaves:
    reflectance of the endless canopy (1 - g) / (1 + g) with g = sqrt(1 - albedo), extinction g
    times that of black leaves, and the background seen through the layer.

    Args:
        albedo: Single-scattering albedo of the leaves.
        lai: Leaf area index, m2 leaf per m2 ground.
        background: Reflectance under the leaves.
        shade: Factor for shadow between crowns, 1 for a closed smooth canopy.
    """
    root = np.sqrt(1 - albedo)
    endless = (1 - root) / (1 + root)
    through = np.exp(-2 * 0.7 * root * lai)
    contrast = (background - endless) / (1 - background * endless)
    return shade * (endless + contrast * through) / (1 + contrast * endless * through)


def soil(brightness: float, *, moisture: float, iron: float) -> Spectrum:
    """Reflectance of bare soil.

    A concave rise with the absorption of iron oxide (0.5 and 0.87 um), bound water and clay
    (1.41, 1.92 and 2.21 um; Ben-Dor 2002, doi:10.1016/S0065-2113(02)75005-0). Moisture darkens
    as a water film does (the model of Bach and Mauser 1994, IGARSS): inner reflections times
    Beer-Lambert in 0.05 cm of water.

    Args:
        brightness: Reflectance at 1.6 um when dry.
        moisture: 0 dry to 1 wet.
        iron: 0 grey to 1 red soil.
    """
    rise = 1 - 0.95 * np.exp(-(WAVELENGTH_UM - 0.33) / 0.45)
    oxide = _peaks((0.40, 0.10, 0.5), (0.50, 0.05, 0.25), (0.87, 0.07, 0.10))
    bound = _peaks((1.41, 0.03, 0.10), (1.92, 0.04, 0.18), (2.21, 0.025, 0.08), (2.5, 0.12, 0.15))
    dry = brightness * rise * (1 - iron * oxide) * (1 - bound)
    return dry * (1 - 0.42 * moisture) * np.exp(-2 * 0.05 * moisture * np.minimum(WATER_1_CM, 30))


def water(turbidity_g_m3: float, *, chlorophyll_mg_m3: float, glint: float = 0.01) -> Spectrum:
    """Reflectance of deep water, from its absorption and backscattering.

    Gordon et al. (1988), doi:10.1029/JD093iD09p10909, for the remote-sensing reflectance
    0.0949 u + 0.0794 u**2, u = b / (a + b); coloured matter falls by exp(-0.014 nm-1) and
    phytoplankton has the two peaks of chlorophyll (Bricaud et al. 1995, doi:10.1029/95JC00463).

    Args:
        turbidity_g_m3: Suspended sediment.
        chlorophyll_mg_m3: Phytoplankton pigment.
        glint: Light reflected by the surface itself.
    """
    colored = 0.3 * np.exp(-14 * (WAVELENGTH_UM - 0.44))  # 1/m
    pigment = 0.035 * chlorophyll_mg_m3**0.7 * _peaks((0.44, 0.04, 1.0), (0.675, 0.012, 0.5))
    absorption = (
        100 * WATER_1_CM
        + colored
        + pigment
        + 0.02 * turbidity_g_m3**0.8 * np.exp(-11 * (WAVELENGTH_UM - 0.44))
    )
    scattering = 0.0012 * (0.55 / WAVELENGTH_UM) ** 4 + 0.012 * turbidity_g_m3 * (
        0.55 / WAVELENGTH_UM
    )
    u = scattering / (absorption + scattering)
    return np.pi * 0.54 * (0.0949 * u + 0.0794 * u**2) + glint


def built(brightness: float, *, tile: float) -> Spectrum:
    """Reflectance of built surfaces, from asphalt over concrete to bright roofs.

    Nearly flat, with the step of fired clay at 0.58 um for red tiles and weak cement bands, in the
    order of the field spectra of Herold et al. (2004), doi:10.1016/j.rse.2004.02.013.

    Args:
        brightness: Reflectance at 1 um.
        tile: 0 grey to 1 red tile.
    """
    grey = 0.72 + 0.28 * (1 - np.exp(-(WAVELENGTH_UM - 0.4) / 0.35))
    red = 0.22 + 0.90 / (1 + np.exp(-(WAVELENGTH_UM - 0.60) / 0.03))
    cement = _peaks((1.93, 0.05, 0.06), (2.33, 0.05, 0.07))
    return brightness * ((1 - tile) * grey + tile * red) * (1 - cement)


def cloud() -> Spectrum:
    """Reflectance of a thick water cloud: white, dimmed where droplets absorb."""
    droplets = np.exp(-0.055 * np.sqrt(np.minimum(WATER_1_CM, 60)))
    return 0.74 * droplets * (1 - 0.10 * (WAVELENGTH_UM - 0.4))
