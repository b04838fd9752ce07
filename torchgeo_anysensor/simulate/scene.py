# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""The ground of a place at a time, and what a band sees of it through the air."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..sensors import Band
from .classes import COLORS, GUESTS, STATES, class_spectra, class_temperatures
from .clouds import Clouds
from .fields import Field, box_mean, fractal, generator
from .landcover import CELL_M, WATER, Landscape
from .responses import Platform, band_values
from .spectra import cloud

# What the cirrus band has left of the ground, and of a low cloud: water vapour hides both
_CIRRUS_UM = (1.34, 1.41)
_CIRRUS_GROUND = 0.0015
_CIRRUS_CLOUD = 0.03
# Share of the light that a full shadow takes away; the blue sky still shines into it
_SHADOW = 0.62
_CLOUD_TOP_K = 268.0
# Air between ground and satellite makes brightness temperature lower than surface temperature
_AIR_LOSS_K = {'lwir11': 1.6, 'lwir12': 2.6}


@dataclass(frozen=True, slots=True)
class Acquisition:
    """One satellite over a place at one time."""

    platform: Platform
    time: np.datetime64  #: UTC, to the second
    sun: tuple[float, float]  #: azimuth and elevation in degrees
    season: float  #: 0 spring to 1 summer


@dataclass(frozen=True, slots=True)
class Ground:
    """State of every cell at one time."""

    classes: NDArray[np.uint8]  #: ``(N, N)`` as on the map
    seen: NDArray[np.uint8]  #: ``(N, N)`` class of the cell itself, its guests among them
    entry: NDArray[np.int32]  #: ``(N, N)`` row of a table of spectra: class seen, lower state
    above: Field  #: ``(N, N)`` way to the next state, 0 to 1
    color: Field  #: ``(N, N)`` way from one kind to the other, 0 to 1


@dataclass(frozen=True, slots=True)
class Scene:
    """All that one satellite could see at one time, before it is sampled."""

    ground: Ground
    clouds: Clouds
    light: Field  #: ``(N, N)`` sunlight on the slope, about 1
    haze: Field  #: ``(N, N)`` optical depth that atmospheric correction left, of either sign
    missing: NDArray[np.bool_]  #: ``(N, N)`` outside of the swath
    acquisition: Acquisition


def make_ground(landscape: Landscape, *, seed: int, place: int, season: float) -> Ground:
    """Variation inside the classes: by field, by smooth fields, by cell, and by season.

    Args:
        landscape: The place.
        seed: Seed of the whole.
        place: Number of the place.
        season: 0 spring to 1 summer. One season of one place has one state, whoever looks.
    """
    size = landscape.classes.shape[0]
    lasting = generator(seed, 'ground', place)
    passing = generator(seed, 'ground', place, round(season * 1000))
    fields = int(landscape.parcels.max()) + 1
    outside = landscape.parcels == 0

    def variation(rng: np.random.Generator, by_field: float, smooth: float, fine: float) -> Field:
        of_field = rng.standard_normal(fields).astype(np.float32)
        of_field[0] = 0
        wide = fractal(rng, size=size, largest=size / 5, smallest=6, slope=1.6)
        near = fractal(rng, size=size, largest=12, smallest=1.5, slope=1.0)
        # Outside of fields the smooth part does what differences between fields do inside
        wide *= np.where(outside, np.float32(smooth + 0.6 * by_field), np.float32(smooth))
        return np.float32(by_field) * of_field[landscape.parcels] + wide + np.float32(fine) * near

    middle = (STATES - 1) / 2
    state = variation(lasting, 0.30, 0.22, 0.14) + variation(passing, 0.22, 0.12, 0.08)
    color = variation(lasting, 0.26, 0.12, 0.06)
    seen = _with_guests(landscape, generator(seed, 'guests', place))
    state = np.clip(middle + middle * state, 0, STATES - 1).astype(np.float32)
    color = np.clip(0.5 + color, 0, 1).astype(np.float32)
    lower = np.minimum(state.astype(np.int32), STATES - 2)
    entry = seen.astype(np.int32) * STATES + lower
    return Ground(landscape.classes, seen, entry, state - lower.astype(np.float32), color)


def _with_guests(landscape: Landscape, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Classes with small patches of others, more in some fields than in others."""
    size = landscape.classes.shape[0]
    share = rng.beta(1.1, 6, int(landscape.parcels.max()) + 1).astype(np.float32)
    wide = fractal(rng, size=size, largest=size / 6, smallest=8, slope=1.6)
    amount = np.where(landscape.parcels > 0, share[landscape.parcels], 0.10 * np.exp(0.7 * wide))
    patches = fractal(rng, size=size, largest=8, smallest=1.5, slope=1.0)
    # The logistic curve is close to the distribution of the patches' field
    guest = 1 / (1 + np.exp(1.702 * patches)) < amount
    table = np.zeros((2, 256), dtype=np.uint8)
    for code, others in GUESTS.items():
        table[:, code] = others
    which = (wide > 0).astype(np.int64)
    return np.where(guest, table[which, landscape.classes], landscape.classes)


def make_haze(rng: np.random.Generator, *, size: int) -> Field:
    """What atmospheric correction leaves behind: an error of the aerosol optical depth.

    Its size is of the order of the differences to ground measurements that Doxani et al. (2018),
    doi:10.3390/rs10020352, found for the processors of both satellites.

    Args:
        rng: Source of everything random.
        size: Cells along a side.
    """
    wide = fractal(rng, size=size, largest=size / 2, smallest=size / 12, slope=2.5)
    return np.float32(0.035) * wide + np.float32(rng.normal(0, 0.03))


def sunlight(landscape: Landscape, sun: tuple[float, float]) -> Field:
    """Sunlight on the slopes of a place relative to flat ground.

    Args:
        landscape: The place.
        sun: Azimuth and elevation in degrees.
    """
    down, east = np.gradient(landscape.relief)
    spread = np.hypot(down, east).std() + 1e-6
    azimuth = np.deg2rad(sun[0])
    # Ground that falls towards the sun is bright
    facing = (np.cos(azimuth) * down - np.sin(azimuth) * east) / spread
    light = 1 + np.clip(0.03 * facing / np.tan(np.deg2rad(sun[1])), -0.15, 0.15)
    return np.where(landscape.classes == WATER, 1, light).astype(np.float32)


def _interpolate(ground: Ground, table: NDArray[np.float64]) -> Field:
    """Value of every cell from ``(K + 1, STATES, COLORS)``."""
    rows = table.astype(np.float32).reshape(-1, COLORS)
    # Bilinear in state and kind: a + b * above + (c + d * above) * color
    kind = rows[:, 1] - rows[:, 0]
    next_row = np.roll(rows[:, 0], -1) - rows[:, 0]
    next_kind = np.roll(kind, -1) - kind
    value = next_kind[ground.entry]
    value *= ground.above
    value += kind[ground.entry]
    value *= ground.color
    value += next_row[ground.entry] * ground.above
    value += rows[:, 0][ground.entry]
    return value


def _temperature(scene: Scene, band: Band) -> Field:
    """What a thermal band sees, in the band's unit, blurred to its footprint."""
    kelvin = _interpolate(scene.ground, class_temperatures(scene.acquisition.season))
    clouds = scene.clouds
    kelvin -= 4 * clouds.shadow
    kelvin += clouds.opacity * (_CLOUD_TOP_K - kelvin)
    if band.unit == 'celsius':
        kelvin -= np.float32(273.15 + _AIR_LOSS_K[band.common_name or 'lwir11'])
    return box_mean(kelvin, round(band.gsd_m / CELL_M))


def _haze(band: Band) -> float:
    """Optical depth relative to 0.55 um (Angstrom exponent 1.3), times a scattering share."""
    return 0.6 * (0.55 / band.center_wavelength_um) ** 1.3


def see(scene: Scene, band: Band) -> Field:
    """What a band sees without noise, on fine cells, in the band's unit.

    Args:
        scene: The scene.
        band: A band of the satellite that made the acquisition.

    Returns:
        ``(N, N)``
    """
    if band.unit != 'reflectance':
        return _temperature(scene, band)
    platform, season = scene.acquisition.platform, scene.acquisition.season
    table = band_values(class_spectra(season), bands=(band,), platform=platform)[..., 0]
    top = float(band_values(cloud(), bands=(band,), platform=platform)[0])
    clouds = scene.clouds
    if _CIRRUS_UM[0] < band.center_wavelength_um < _CIRRUS_UM[1]:
        return _CIRRUS_GROUND + _CIRRUS_CLOUD * clouds.opacity
    ground = _interpolate(scene.ground, table) * scene.light
    # Single scattering: haze brightens what is dark and dims what is bright, most in the blue
    ground += scene.haze * np.float32(_haze(band)) * (np.float32(0.30) - ground)
    # Skylight fills shadows with blue
    dark = np.float32(_SHADOW + 0.25 * (1 - np.exp(-(band.center_wavelength_um - 0.44) / 0.4)))
    ground *= 1 - dark * clouds.shadow
    return (ground + clouds.opacity * (np.float32(top) * clouds.texture - ground)).astype(
        np.float32
    )
