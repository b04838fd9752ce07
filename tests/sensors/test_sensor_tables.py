# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

import ast
import dataclasses
import sys
from pathlib import Path

import pytest

from torchgeo_anysensor import sensors
from torchgeo_anysensor.sensors import SENSORS, Band, get_sensor

NAMES = ('sentinel2_l2a', 'sentinel2_l1c', 'landsat_c2l2', 'landsat_c2l1', 'hls_s30', 'hls_l30')

# STAC EO extension 2.0: common name to band range in um
STAC_RANGES = {
    'coastal': (0.40, 0.45),
    'blue': (0.45, 0.53),
    'green': (0.51, 0.60),
    'red': (0.62, 0.69),
    'pan': (0.40, 1.00),
    'rededge071': (0.69, 0.73),
    'rededge075': (0.73, 0.76),
    'rededge078': (0.76, 0.79),
    'nir': (0.76, 1.00),
    'nir08': (0.80, 0.90),
    'nir09': (0.90, 1.00),
    'cirrus': (1.35, 1.40),
    'swir16': (1.55, 1.75),
    'swir22': (2.08, 2.35),
    'lwir11': (10.5, 11.5),
    'lwir12': (11.5, 12.5),
}

every_sensor = pytest.mark.parametrize('sensor', SENSORS.values(), ids=SENSORS.keys())


def test_package_imports_the_standard_library_alone():
    for path in Path(sensors.__file__).parent.glob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level <= 1, path
                imported = [node.module] if node.level == 0 else []
            else:
                continue
            assert {name.split('.')[0] for name in imported} <= sys.stdlib_module_names, path


def test_registry_has_the_documented_sensors_under_their_own_names():
    assert type(SENSORS) is dict
    assert tuple(SENSORS) == NAMES
    assert all(name == sensor.name for name, sensor in SENSORS.items())


@pytest.mark.parametrize(
    ('name', 'bands'),
    [
        ('sentinel2_l2a', 'B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B11 B12'),
        ('sentinel2_l1c', 'B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B10 B11 B12'),
        ('landsat_c2l2', 'SR_B1 SR_B2 SR_B3 SR_B4 SR_B5 SR_B6 SR_B7 ST_B10'),
        ('landsat_c2l1', 'B1 B2 B3 B4 B5 B6 B7 B8 B9 B10 B11'),
        ('hls_s30', 'B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B10 B11 B12'),
        ('hls_l30', 'B01 B02 B03 B04 B05 B06 B07 B09 B10 B11'),
    ],
)
def test_bands_are_those_of_the_product(name, bands):
    assert SENSORS[name].band_names == tuple(bands.split())


@pytest.mark.parametrize(
    ('name', 'band', 'dn', 'value', 'unit'),
    [
        ('sentinel2_l2a', 'B04', 3000, 0.2, 'reflectance'),
        ('sentinel2_l1c', 'B10', 1000, 0.0, 'reflectance'),
        ('landsat_c2l2', 'SR_B4', 7273, 0.0000075, 'reflectance'),
        ('landsat_c2l2', 'SR_B4', 43636, 0.99999, 'reflectance'),
        ('landsat_c2l2', 'ST_B10', 44177, 299.99786954, 'kelvin'),
        ('landsat_c2l1', 'B4', 5000, 0.0, 'reflectance'),
        ('landsat_c2l1', 'B10', 26000, 8.7892, 'kelvin'),  # radiance, before Planck
        ('hls_s30', 'B04', 3000, 0.3, 'reflectance'),
        ('hls_s30', 'B01', 3000, 0.3, 'reflectance'),
        ('hls_l30', 'B04', 3000, 0.3, 'reflectance'),
        ('hls_l30', 'B10', 2685, 26.85, 'celsius'),
    ],
)
def test_calibration_gives_the_documented_value(name, band, dn, value, unit):
    (band,) = SENSORS[name].select([band])
    assert dn * band.scale + band.offset == pytest.approx(value, abs=1e-6)
    assert band.unit == unit


@every_sensor
def test_bands_of_reflectance_share_one_calibration(sensor):
    assert len({(b.scale, b.offset) for b in sensor.bands if b.unit == 'reflectance'}) == 1


@pytest.mark.parametrize(
    ('name', 'gsds'),
    [
        ('sentinel2_l2a', '60 10 10 10 20 20 20 10 20 60 20 20'),
        ('sentinel2_l1c', '60 10 10 10 20 20 20 10 20 60 60 20 20'),
        ('landsat_c2l2', '30 30 30 30 30 30 30 100'),
        ('landsat_c2l1', '30 30 30 30 30 30 30 15 30 100 100'),
        ('hls_s30', '60 30 30 30 30 30 30 30 30 60 60 30 30'),
        ('hls_l30', '30 30 30 30 30 30 30 30 100 100'),
    ],
)
def test_gsd_is_what_the_instrument_measures(name, gsds):
    assert ' '.join(f'{band.gsd_m:g}' for band in SENSORS[name].bands) == gsds


@every_sensor
def test_common_names_are_of_stac_and_fit_the_light(sensor):
    for band in sensor.bands:
        low, high = STAC_RANGES[band.common_name]
        assert low <= band.center_wavelength_um <= high, band
    assert len({band.common_name for band in sensor.bands}) == len(sensor.bands)


@every_sensor
def test_rgb_is_long_to_short_wavelengths(sensor):
    red, green, blue = (band.center_wavelength_um for band in sensor.select(sensor.rgb))
    assert red > green > blue


def test_same_band_name_is_other_light_on_s30_and_l30():
    (s30,) = SENSORS['hls_s30'].select(['B05'])
    (l30,) = SENSORS['hls_l30'].select(['B05'])
    assert (s30.common_name, l30.common_name) == ('rededge071', 'nir08')
    assert l30.center_wavelength_um - s30.center_wavelength_um > 0.15


@pytest.mark.parametrize(
    ('name', 'nodata'), [(n, -9999 if n.startswith('hls') else 0) for n in NAMES]
)
def test_nodata_is_that_of_the_product(name, nodata):
    assert SENSORS[name].nodata == nodata


@pytest.mark.parametrize('name', NAMES)
def test_saturated_is_the_special_value_of_sentinel2_alone(name):
    assert SENSORS[name].saturated == (65535 if name.startswith('sentinel2') else None)


@every_sensor
def test_facts_name_their_source_and_are_frozen(sensor):
    assert sensor.source
    with pytest.raises(dataclasses.FrozenInstanceError):
        sensor.nodata = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        sensor.bands[0].scale = 1
    assert hash(sensor.bands[0]) == hash(dataclasses.replace(sensor.bands[0]))


def test_wavelength_in_nm_is_asked_about():
    message = r'^B02: center_wavelength_um=492.7 is not in \[0.3, 15\] um; is it in nm\?$'
    with pytest.raises(ValueError, match=message):
        Band('B02', 'blue', 492.7, 0.065, 10, 1e-4, 0)


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('center_wavelength_um', 0.1),
        ('center_wavelength_um', float('nan')),
        ('fwhm_um', 65.0),
        ('fwhm_um', 0.0),
        ('gsd_m', 0.0),
        ('gsd_m', 1e6),
        ('unit', 'fahrenheit'),
    ],
)
def test_value_out_of_range_names_band_and_field(field, value):
    band = SENSORS['sentinel2_l2a'].bands[1]
    with pytest.raises(ValueError, match=f'^B02: {field}='):
        dataclasses.replace(band, **{field: value})


def test_two_bands_of_one_name_raise():
    sensor = SENSORS['hls_l30']
    with pytest.raises(ValueError, match='hls_l30: two bands share a name'):
        dataclasses.replace(sensor, bands=sensor.bands + sensor.bands[:1])


def test_regex_without_the_group_of_the_band_raises():
    with pytest.raises(ValueError, match=r'hls_l30: filename_regex lacks the group \(\?P<band>'):
        dataclasses.replace(SENSORS['hls_l30'], filename_regex=r'(?P<date>\d{8})\.tif')


def test_platform_with_a_band_that_the_sensor_has_not_raises():
    platforms = {'sentinel-2b': {'B10': (1.3769, 0.030)}}
    with pytest.raises(ValueError, match='sentinel2_l2a has no band B10'):
        dataclasses.replace(SENSORS['sentinel2_l2a'], platforms=platforms)


def test_platform_in_nm_raises():
    platforms = {'sentinel-2b': {'B02': (492.3, 65)}}
    with pytest.raises(ValueError, match=r'B02: center_wavelength_um=492.3 .* is it in nm\?'):
        dataclasses.replace(SENSORS['sentinel2_l2a'], platforms=platforms)


@every_sensor
def test_select_keeps_the_order_asked_for(sensor):
    names = sensor.band_names[::-1]
    assert tuple(band.name for band in sensor.select(names)) == names


def test_select_of_an_unknown_band_lists_the_known():
    with pytest.raises(ValueError, match='hls_l30 has no band B8A; known are B01, B02'):
        SENSORS['hls_l30'].select(['B02', 'B8A'])


@every_sensor
def test_get_sensor_takes_a_name_or_a_sensor(sensor):
    assert get_sensor(sensor.name) is sensor
    own = dataclasses.replace(sensor, name='own')
    assert get_sensor(own) is own


@pytest.mark.parametrize(
    ('wrong', 'right'),
    [('sentinel2l2a', 'sentinel2_l2a'), ('HLS_S30', 'hls_s30'), ('landsat_c2_l1', 'landsat_c2l1')],
)
def test_unknown_sensor_gets_a_suggestion_and_the_known_names(wrong, right):
    with pytest.raises(ValueError, match=f'did you mean {right!r}') as error:
        get_sensor(wrong)
    assert all(name in str(error.value) for name in NAMES)


def test_sensor_unlike_any_other_gets_no_suggestion():
    with pytest.raises(ValueError, match='known are sentinel2_l2a') as error:
        get_sensor('xyz')
    assert 'did you mean' not in str(error.value)


def test_table_of_bands_in_a_file(tmp_path):
    path = tmp_path / 'mine.csv'
    path.write_text('name,center_wavelength_um,fwhm_um,gsd_m,unit\nA,0.5,0.01,30,reflectance\n')
    sensor = get_sensor(str(path))
    assert sensor.name == 'mine'
    assert sensor.bands == (Band('A', None, 0.5, 0.01, 30, 1, 0),)


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('name,center_wavelength_um,fwhm_um,gsd_m\nA,500,10,30\n', 'is it in nm'),
        ('name,center_wavelength_um,fwhm_um\nA,0.5,0.01\n', 'gsd_m'),
        ('name,center_wavelength_um,fwhm_um,gsd_m,color\nA,0.5,0.01,30,red\n', 'color'),
        ('name,center_wavelength_um,fwhm_um,gsd_m\nA,blue,0.01,30\n', 'blue'),
        ('name,center_wavelength_um,fwhm_um,gsd_m\n', 'no band'),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path, text, said):
    path = tmp_path / 'mine.csv'
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        get_sensor(str(path))


def test_a_table_that_is_not_there_is_said():
    with pytest.raises(ValueError, match='no band table nowhere'):
        get_sensor('nowhere.csv')
