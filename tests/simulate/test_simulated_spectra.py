# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

import numpy as np
import pytest

from torchgeo_anysensor.sensors import Band, get_sensor
from torchgeo_anysensor.simulate import LAND_COVER
from torchgeo_anysensor.simulate.classes import class_spectra, class_temperatures
from torchgeo_anysensor.simulate.responses import PLATFORMS, Platform, noise_sigma, response
from torchgeo_anysensor.simulate.spectra import (
    WAVELENGTH_UM,
    Leaf,
    built,
    canopy,
    cloud,
    leaf_albedo,
    soil,
    water,
)


def at(spectrum: np.ndarray, um: float) -> float:
    return float(np.interp(um, WAVELENGTH_UM, spectrum))


def test_chlorophyll_absorbs_red_and_leaf_water_absorbs_swir():
    pale, green = leaf_albedo(Leaf(10, 0.01, 0.005)), leaf_albedo(Leaf(50, 0.01, 0.005))
    wet = leaf_albedo(Leaf(10, 0.03, 0.005))
    assert at(green, 0.67) < at(pale, 0.67)
    assert at(green, 0.705) < at(pale, 0.705) - 0.1
    assert at(green, 0.86) == pytest.approx(at(pale, 0.86), abs=1e-3)
    assert at(wet, 1.61) < at(pale, 1.61) - 0.1
    assert at(wet, 0.67) == pytest.approx(at(pale, 0.67), abs=1e-3)


def test_canopy_shows_its_background_without_leaves_and_not_under_many():
    albedo = leaf_albedo(Leaf(40, 0.012, 0.005))
    dark, bright = soil(0.15, moisture=1, iron=0), soil(0.45, moisture=0, iron=0)
    np.testing.assert_allclose(canopy(albedo, lai=0, background=bright), bright)
    np.testing.assert_allclose(
        canopy(albedo, lai=40, background=bright),
        canopy(albedo, lai=40, background=dark),
        atol=0.01,
    )


def test_two_layers_of_leaves_are_one_layer_over_another():
    albedo = leaf_albedo(Leaf(40, 0.012, 0.005))
    ground = soil(0.3, moisture=0.2, iron=0.5)
    lower = canopy(albedo, lai=1.3, background=ground)
    np.testing.assert_allclose(
        canopy(albedo, lai=0.9, background=lower), canopy(albedo, lai=2.2, background=ground)
    )


def test_water_is_dark_in_infrared_and_turbid_water_brighter():
    clear, turbid = water(1, chlorophyll_mg_m3=2), water(15, chlorophyll_mg_m3=2)
    assert at(clear, 0.86) < 0.02
    assert at(turbid, 1.61) < 0.02
    assert at(turbid, 0.56) > 2 * at(clear, 0.56)


def test_wet_soil_is_darker_at_every_wavelength():
    dry, wet = (soil(0.35, moisture=m, iron=0.5) for m in (0, 1))
    assert (wet < dry).all()
    assert at(wet, 1.94) / at(dry, 1.94) < at(wet, 0.86) / at(dry, 0.86)


@pytest.mark.parametrize('season', [0.0, 0.5, 1.0])
def test_every_spectrum_is_a_reflectance(season):
    table = class_spectra(season)
    assert (table[0] == 0).all()
    assert (table[1:] > 0).all()
    assert (table[1:] < 0.75).all()
    kelvin = class_temperatures(season)[1:]
    assert (kelvin > 270).all()
    assert (kelvin < 320).all()
    assert len(LAND_COVER) >= 6
    for other in (built(0.3, tile=1), cloud()):
        assert ((other > 0) & (other < 1)).all()


@pytest.mark.parametrize(
    ('name', 'code'),
    [
        ('sentinel2_l2a', 'S2A'),
        ('sentinel2_l2a', 'S2B'),
        ('landsat_c2l2', 'LC08'),
        ('landsat_c2l2', 'LC09'),
        ('hls_s30', 'S2B'),
        ('hls_l30', 'LC09'),
    ],
)
def test_responses_are_where_the_table_says(name, code):
    for band in get_sensor(name).bands:
        if band.unit != 'reflectance':
            continue
        weight = response(band, platform=PLATFORMS[code])
        assert weight.sum() == pytest.approx(1)
        center = (weight * WAVELENGTH_UM).sum()
        # 2A and 2B differ by up to 17 nm
        assert center == pytest.approx(band.center_wavelength_um, abs=0.018)


def test_platforms_see_different_light():
    (band,) = get_sensor('sentinel2_l2a').select(['B12'])
    centers = [
        (response(band, platform=PLATFORMS[code]) * WAVELENGTH_UM).sum() for code in ('S2A', 'S2B')
    ]
    assert 0.010 < centers[0] - centers[1] < 0.025


def test_an_unknown_satellite_gets_a_gaussian():
    band = Band('B01', 'red', 0.66, 0.04, 10, 1e-4, 0)
    weight = response(band, platform=Platform('X', 'X', ('Nowhere-1', 'EYE')))
    half = WAVELENGTH_UM[weight > weight.max() / 2]
    assert (weight * WAVELENGTH_UM).sum() == pytest.approx(0.66, abs=1e-3)
    assert half[-1] - half[0] == pytest.approx(0.04, abs=0.011)


@pytest.mark.parametrize(
    ('name', 'code'), [('sentinel2_l1c', 'S2A'), ('landsat_c2l2', 'LC08'), ('hls_l30', 'LC09')]
)
def test_every_band_has_noise_below_its_signal(name, code):
    signal = np.array([0.0, 0.2, 0.6], dtype=np.float32)
    for band in get_sensor(name).bands:
        sigma = noise_sigma(
            band, platform=PLATFORMS[code], reflectance=signal, sun_elevation_deg=50
        )
        assert sigma.dtype == np.float32
        assert (sigma > 0).all()
        assert (np.diff(sigma) >= 0).all()
        if band.unit == 'reflectance':
            assert sigma[1] < 0.01
