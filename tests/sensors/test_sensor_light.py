# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Wavelengths and widths of every platform, against responses that were measured."""

import dataclasses
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyrsr
import pytest

from torchgeo_anysensor.sensors import SENSORS, Band

MSI = ('sentinel2_l2a', 'sentinel2_l1c', 'hls_s30')
OLI_TIRS = ('landsat_c2l2', 'landsat_c2l1', 'hls_l30')

# Platform to what pyrsr calls it; pyrsr 0.8 has no Sentinel-2C
PYRSR = {
    'sentinel-2a': ('Sentinel-2A', 'MSI'),
    'sentinel-2b': ('Sentinel-2B', 'MSI'),
    'landsat-8': ('Landsat-8', 'OLI_TIRS'),
    'landsat-9': ('Landsat-9', 'OLI_TIRS'),
}

# Where the response of Sentinel-2C crosses half of its maximum, in nm, from the samples around it
# in ESA's COPE-GSEG-EOPG-TN-15-0007, version 4.0
HALF_MAXIMUM_2C = {
    '1': (433.8, 454.2),
    '2': (456.1, 521.4),
    '3': (542.9, 578.3),
    '4': (651.3, 681.7),
    '5': (699.4, 714.7),
    '6': (733.4, 748.7),
    '7': (774.6, 794.9),
    '8': (785.7, 881.5),
    '8A': (855.7, 875.7),
    '9': (937.4, 957.5),
    '10': (1355.7, 1388.8),
    '11': (1566.3, 1656.6),
    '12': (2100.5, 2283.7),
}

every_sensor = pytest.mark.parametrize('sensor', SENSORS.values(), ids=SENSORS.keys())


@pytest.fixture(scope='module')
def responses():
    """Measured response per platform and band: wavelength (um), response of maximum 1."""
    found = {}
    for platform, names in PYRSR.items():
        rsr = pyrsr.RSR(*names)
        found[platform] = {
            band: (rsr.rsrs_wvl / 1000, rsr.rsrs_norm01[band] / rsr.rsrs_norm01[band].max())
            for band in rsr.bands
        }
    return found


def key(band: Band) -> str:
    """``SR_B2`` and ``B02`` to ``2``."""
    return re.sub(r'^.*B0?', '', band.name)


def weighted_center(wavelength, response):
    return np.trapezoid(wavelength * response, wavelength) / np.trapezoid(response, wavelength)


def half_maximum_edges(wavelength, response):
    inside = np.flatnonzero(response >= 0.5)
    first, last = inside[0], inside[-1]
    low = np.interp(0.5, response[[first - 1, first]], wavelength[[first - 1, first]])
    high = np.interp(0.5, response[[last + 1, last]], wavelength[[last + 1, last]])
    return low, high


@pytest.mark.parametrize('platform', ['sentinel-2a', 'sentinel-2b'])
@pytest.mark.parametrize('name', MSI)
def test_msi_agrees_with_the_measured_response(name, platform, responses):
    for band in SENSORS[name].bands_of(platform):
        response = responses[platform][key(band)]
        low, high = half_maximum_edges(*response)
        # pyrsr has version 3.0, whose blue differs a little from the metadata of products
        assert band.center_wavelength_um == pytest.approx(weighted_center(*response), abs=0.4e-3)
        assert band.fwhm_um == pytest.approx(high - low, abs=0.8e-3), band


@pytest.mark.parametrize('platform', ['landsat-8', 'landsat-9'])
@pytest.mark.parametrize('name', OLI_TIRS)
def test_oli_and_tirs_agree_with_the_measured_response(name, platform, responses):
    for band in SENSORS[name].bands_of(platform):
        low, high = half_maximum_edges(*responses[platform][key(band)])
        # One definition throughout. pyrsr has version 1.0 of OLI-2, the table is of version 2; the
        # edges of TIRS are published to 10 nm
        center, width = 0.2e-3, 0.3e-3
        if band.unit != 'reflectance':
            center, width = (6e-3, 13e-3) if platform == 'landsat-8' else (1e-3, 1e-3)
        assert band.center_wavelength_um == pytest.approx((low + high) / 2, abs=center), band
        assert band.fwhm_um == pytest.approx(high - low, abs=width), band


@pytest.mark.parametrize('name', MSI)
def test_sentinel_2c_agrees_with_the_edges_of_its_response(name):
    for band in SENSORS[name].bands_of('sentinel-2c'):
        low, high = (nm / 1000 for nm in HALF_MAXIMUM_2C[key(band)])
        # The weighted mean lies off the middle where the response leans: by 1 nm in B08
        tolerance = 1.2e-3 if key(band) in ('8', '11', '12') else 0.4e-3
        assert band.center_wavelength_um == pytest.approx((low + high) / 2, abs=tolerance), band
        assert band.fwhm_um == pytest.approx(high - low, abs=0.6e-3), band


@pytest.mark.parametrize(
    ('platform', 'folder'),
    [
        ('sentinel-2a', 'S2A_MSIL1C_20210908T042701_N0301_R133_T46RER_20210908T070248.SAFE'),
        ('sentinel-2b', 'S2B_MSIL2A_20220413T150759_N0400_R025_T33XWJ_20220414T082126.SAFE'),
    ],
)
def test_centers_are_those_in_the_metadata_of_real_products(platform, folder):
    (*found,) = (Path(__file__).parents[3] / 'shared/data/safe' / folder).glob('MTD_MSIL*.xml')
    if not found:
        pytest.skip(f'needs {folder}')
    told = {
        row.attrib['physicalBand'].removeprefix('B'): float(row.findtext('Wavelength/CENTRAL'))
        for row in ElementTree.parse(found[0]).iter('Spectral_Information')
    }
    bands = SENSORS['sentinel2_l1c'].bands_of(platform)
    assert {key(b): round(1000 * b.center_wavelength_um, 1) for b in bands} == told


def test_sentinel_2a_and_2b_see_other_light_in_b12():
    a, b = (SENSORS['sentinel2_l2a'].bands_of(f'sentinel-2{x}')[-1] for x in 'ab')
    assert (a.name, b.name) == ('B12', 'B12')
    assert a.center_wavelength_um - b.center_wavelength_um == pytest.approx(0.0167)
    assert b.fwhm_um - a.fwhm_um == pytest.approx(0.009)


def test_tirs_2_sees_a_wider_band_10():
    for name in OLI_TIRS:
        sensor = SENSORS[name]
        place = sensor.band_names.index('ST_B10' if name == 'landsat_c2l2' else 'B10')
        first, second = (sensor.bands_of(f'landsat-{n}')[place] for n in (8, 9))
        assert second.fwhm_um > 1.2 * first.fwhm_um
        assert first.center_wavelength_um - second.center_wavelength_um > 0.06


@every_sensor
def test_platforms_start_with_the_one_of_the_table_and_the_others_know_every_band(sensor):
    (_, same), *others = sensor.platforms.items()
    assert same == {}
    assert others
    assert all(tuple(bands) == sensor.band_names for _, bands in others)
    assert set(sensor.platform_codes.values()) <= set(sensor.platforms)


@every_sensor
def test_platforms_lie_within_half_a_band_and_are_not_the_first(sensor):
    for platform in list(sensor.platforms)[1:]:
        bands = sensor.bands_of(platform)
        assert bands != sensor.bands
        for first, band in zip(sensor.bands, bands):
            shift = abs(first.center_wavelength_um - band.center_wavelength_um)
            assert shift < first.fwhm_um / 2, (platform, band)


@every_sensor
def test_platform_changes_the_light_and_nothing_else(sensor):
    for platform in sensor.platforms:
        for first, band in zip(sensor.bands, sensor.bands_of(platform)):
            light = {'center_wavelength_um': first.center_wavelength_um, 'fwhm_um': first.fwhm_um}
            assert dataclasses.replace(band, **light) == first


@every_sensor
def test_platform_that_is_not_listed_sees_what_the_first_does(sensor):
    assert sensor.bands_of('') == sensor.bands
    assert sensor.bands_of('sentinel-9z') == sensor.bands
    assert sensor.bands_of(next(iter(sensor.platforms))) == sensor.bands


@pytest.mark.parametrize(
    ('name', 'other'),
    [
        ('sentinel2_l1c', 'sentinel2_l2a'),
        ('sentinel2_l1c', 'hls_s30'),
        ('landsat_c2l1', 'hls_l30'),
        ('landsat_c2l1', 'landsat_c2l2'),
    ],
)
def test_one_instrument_sees_the_same_light_in_every_product(name, other):
    assert list(SENSORS[name].platforms) == list(SENSORS[other].platforms)
    for platform in SENSORS[name].platforms:
        light = {
            key(b): (b.center_wavelength_um, b.fwhm_um) for b in SENSORS[name].bands_of(platform)
        }
        for b in SENSORS[other].bands_of(platform):
            assert light[key(b)] == (b.center_wavelength_um, b.fwhm_um)
