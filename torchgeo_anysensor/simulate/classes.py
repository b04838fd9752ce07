# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""The land-cover classes and the range of spectra that each may show.

A class is not one spectrum but a small table of them: ``STATES`` steps of its state (leaf area,
moisture, turbidity, brightness) times ``COLORS`` kinds (leaf contents, soil colour, roof kind).
A place on the ground lies between the entries, by linear interpolation.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .spectra import WAVELENGTH_UM, Leaf, Spectrum, built, canopy, leaf_albedo, soil, water

STATES = 3
COLORS = 2


@dataclass(frozen=True, slots=True)
class LandCover:
    """Name and colour of a class on the map."""

    name: str
    color: tuple[int, int, int]  #: red, green, blue, 0 to 255


#: Code in the truth raster to class; 0 is no data
LAND_COVER: dict[int, LandCover] = {
    1: LandCover('water', (44, 110, 190)),
    2: LandCover('broadleaf forest', (60, 150, 60)),
    3: LandCover('conifer forest', (16, 84, 56)),
    4: LandCover('grassland', (170, 214, 110)),
    5: LandCover('cereal', (240, 214, 90)),
    6: LandCover('legume', (232, 130, 170)),
    7: LandCover('bare soil', (158, 112, 72)),
    8: LandCover('built-up', (200, 60, 50)),
    9: LandCover('wetland', (110, 190, 190)),
}


@dataclass(frozen=True, slots=True)
class _Plant:
    """A canopy in one season: leaf area at three states, leaves of two kinds."""

    lai: tuple[float, float, float]
    leaves: tuple[Leaf, Leaf]
    shade: float = 1.0


# Leaf contents within the ranges of the LOPEX93 and ANGERS collections (Feret et al. 2008); leaf
# area within the global ranges of Asner et al. (2003), doi:10.1046/j.1466-822X.2003.00026.x.
_SPRING: dict[int, _Plant] = {
    2: _Plant((1.2, 2.6, 4.4), (Leaf(24, 0.008, 0.004, 0.1), Leaf(44, 0.013, 0.006)), 0.74),
    3: _Plant((2.0, 3.6, 5.5), (Leaf(40, 0.016, 0.012, 0.1), Leaf(62, 0.026, 0.020, 0.1)), 0.60),
    4: _Plant((0.7, 2.0, 3.8), (Leaf(20, 0.008, 0.006, 0.30), Leaf(40, 0.015, 0.006, 0.10))),
    5: _Plant((0.8, 2.4, 4.6), (Leaf(34, 0.010, 0.005, 0.1), Leaf(58, 0.016, 0.006))),
    6: _Plant((0.7, 2.2, 4.2), (Leaf(26, 0.017, 0.0035), Leaf(46, 0.030, 0.0040))),
    9: _Plant((0.8, 1.7, 3.2), (Leaf(12, 0.008, 0.009, 0.9), Leaf(28, 0.014, 0.007, 0.3))),
}
_SUMMER: dict[int, _Plant] = {
    2: _Plant((2.4, 4.2, 6.2), (Leaf(32, 0.009, 0.006), Leaf(54, 0.014, 0.007)), 0.74),
    3: _Plant((2.2, 3.8, 5.6), (Leaf(42, 0.016, 0.013, 0.1), Leaf(66, 0.024, 0.021, 0.1)), 0.60),
    4: _Plant((0.6, 1.8, 3.4), (Leaf(10, 0.004, 0.008, 0.70), Leaf(36, 0.013, 0.007, 0.10))),
    5: _Plant((0.6, 1.6, 3.0), (Leaf(3, 0.002, 0.009, 1.2), Leaf(24, 0.009, 0.008, 0.40))),
    6: _Plant((0.9, 2.8, 5.2), (Leaf(26, 0.016, 0.0040, 0.1), Leaf(50, 0.030, 0.0040))),
    9: _Plant((1.0, 2.2, 3.8), (Leaf(18, 0.009, 0.008, 0.5), Leaf(38, 0.015, 0.007, 0.1))),
}

#: What is found here and there within a class: gaps, weeds, other trees, gardens
GUESTS: dict[int, tuple[int, int]] = {
    1: (9, 1),
    2: (3, 4),
    3: (2, 4),
    4: (6, 7),
    5: (7, 4),
    6: (4, 7),
    7: (4, 5),
    8: (4, 7),
    9: (4, 1),
}

# Surface minus air temperature at mid-morning in K, for the states of each class in spring and
# summer: low leaf area, dry soil and dark roofs are warm, water is near its own temperature
_WARMTH_K: dict[int, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    1: ((-2.0, -1.5, -1.0), (-3.0, -2.5, -2.0)),
    2: ((2.5, 1.8, 1.0), (2.2, 1.4, 0.8)),
    3: ((2.0, 1.2, 0.6), (2.0, 1.2, 0.6)),
    4: ((5.0, 3.8, 2.5), (8.0, 6.0, 4.0)),
    5: ((4.5, 3.0, 1.8), (9.0, 7.8, 6.5)),
    6: ((4.5, 3.0, 1.8), (4.0, 2.6, 1.4)),
    7: ((10.0, 7.0, 4.5), (14.0, 11.0, 7.5)),
    8: ((9.0, 7.5, 5.5), (12.0, 10.5, 8.0)),
    9: ((1.8, 1.2, 0.8), (2.0, 1.4, 0.8)),
}
_AIR_K = (286.0, 295.0)

_FIELD_SOILS = (soil(0.30, moisture=0.35, iron=0.9), soil(0.34, moisture=0.30, iron=0.3))


def _background(code: int) -> tuple[Spectrum, Spectrum]:
    """What is seen between the leaves, for the two kinds of a class."""
    if code == 9:  # wet soil, partly under water
        wet = 0.6 * water(8, chlorophyll_mg_m3=12) + 0.4 * soil(0.24, moisture=1, iron=0.2)
        return wet, wet
    if code in (2, 3):  # litter
        litter = leaf_albedo(Leaf(0, 0.001, 0.012, 1.6)) * 0.42
        return litter, litter
    return _FIELD_SOILS


def _season(code: int, color: int, season: float) -> tuple[Leaf, NDArray[np.float64], float]:
    """Leaf, leaf area of the states and shade, between spring (0) and summer (1)."""
    spring, summer = _SPRING[code], _SUMMER[code]
    a, b = spring.leaves[color], summer.leaves[color]

    def mix(x: float, y: float) -> float:
        return (1 - season) * x + season * y

    leaf = Leaf(
        mix(a.chlorophyll_ug_cm2, b.chlorophyll_ug_cm2),
        mix(a.water_cm, b.water_cm),
        mix(a.dry_matter_g_cm2, b.dry_matter_g_cm2),
        mix(a.brown, b.brown),
    )
    lai = (1 - season) * np.array(spring.lai) + season * np.array(summer.lai)
    return leaf, lai, mix(spring.shade, summer.shade)


def _spectra_of(code: int, color: int, season: float) -> list[Spectrum]:
    """Spectra of the states of one kind of a class."""
    if code == 1:
        return [water(t, chlorophyll_mg_m3=(3.0, 25.0)[color]) for t in (1.5, 6.0, 18.0)]
    if code == 7:
        dry = 0.15 * season
        kinds = ((0.33, 0.9), (0.40, 0.2))
        brightness, iron = kinds[color]
        wet = (0.10, 0.40, 0.75)
        return [soil(brightness, moisture=max(w - dry, 0), iron=iron) for w in wet]
    if code == 8:
        tile = (0.05, 0.50)[color]
        return [built(b, tile=tile) for b in (0.12, 0.20, 0.30)]
    leaf, lai, shade = _season(code, color, season)
    albedo = leaf_albedo(leaf)
    ground = _background(code)[color]
    return [canopy(albedo, lai=float(x), background=ground, shade=shade) for x in lai]


@lru_cache(maxsize=8)
def class_spectra(season: float) -> NDArray[np.float64]:
    """Reflectance of every class.

    Args:
        season: 0 in spring to 1 in summer.

    Returns:
        ``(K + 1, STATES, COLORS, W)`` on ``WAVELENGTH_UM``; row 0 is no class, all zero.
    """
    table = np.zeros((max(LAND_COVER) + 1, STATES, COLORS, WAVELENGTH_UM.size))
    for code in LAND_COVER:
        for color in range(COLORS):
            table[code, :, color] = _spectra_of(code, color, season)
    table.flags.writeable = False
    return table


@lru_cache(maxsize=8)
def class_temperatures(season: float) -> NDArray[np.float64]:
    """Surface temperature in kelvin, ``(K + 1, STATES, COLORS)``; see :func:`class_spectra`."""
    table = np.zeros((max(LAND_COVER) + 1, STATES, COLORS))
    air = (1 - season) * _AIR_K[0] + season * _AIR_K[1]
    for code, (spring, summer) in _WARMTH_K.items():
        warmth = (1 - season) * np.array(spring) + season * np.array(summer)
        table[code] = (air + warmth)[:, None]
    table.flags.writeable = False
    return table
