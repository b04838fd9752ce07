# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

import ast
import dataclasses
import re
import sys
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pyrsr
import pytest

from torchgeo_anysensor import sensors
from torchgeo_anysensor.sensors import QA, SENSORS, Band, Sensor, get_sensor
from torchgeo_anysensor.sensors.table import bands_table, sensors_table

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

# sensor, file name, product, acquisition, band
REAL_FILES = (
    (
        'sentinel2_l2a',
        'T31UES_20170831T105651_B02_10m.jp2',
        'T31UES_20170831T105651',
        datetime(2017, 8, 31, 10, 56, 51),
        'B02',
    ),
    (
        'sentinel2_l2a',
        'T22HBD_20210122T133229_B8A_20m.tif',
        'T22HBD_20210122T133229',
        datetime(2021, 1, 22, 13, 32, 29),
        'B8A',
    ),
    (
        'sentinel2_l2a',
        'T22HBD_20210122T133229_SCL_60m.jp2',
        'T22HBD_20210122T133229',
        datetime(2021, 1, 22, 13, 32, 29),
        'SCL',
    ),
    (
        'sentinel2_l1c',
        'T46RER_20210908T042701_B10.jp2',
        'T46RER_20210908T042701',
        datetime(2021, 9, 8, 4, 27, 1),
        'B10',
    ),
    (
        'landsat_c2l2',
        'LC08_L2SP_008059_20191201_20200825_02_T1_SR_B2.TIF',
        'LC08_L2SP_008059_20191201_20200825_02_T1',
        datetime(2019, 12, 1),
        'SR_B2',
    ),
    (
        'landsat_c2l2',
        'LC09_L2SP_010065_20220129_20220131_02_T2_ST_B10.TIF',
        'LC09_L2SP_010065_20220129_20220131_02_T2',
        datetime(2022, 1, 29),
        'ST_B10',
    ),
    (
        'landsat_c2l2',
        'LC08_L2SR_008059_20191201_20200825_02_T1_QA_PIXEL.TIF',
        'LC08_L2SR_008059_20191201_20200825_02_T1',
        datetime(2019, 12, 1),
        'QA_PIXEL',
    ),
    (
        'landsat_c2l1',
        'LC08_L1TP_069014_20240429_20240430_02_RT_B8.TIF',
        'LC08_L1TP_069014_20240429_20240430_02_RT',
        datetime(2024, 4, 29),
        'B8',
    ),
    (
        'landsat_c2l1',
        'LC09_L1GT_069014_20240429_20240430_02_T2_B11.TIF',
        'LC09_L1GT_069014_20240429_20240430_02_T2',
        datetime(2024, 4, 29),
        'B11',
    ),
    (
        'hls_s30',
        'HLS.S30.T15SXU.2021123T170000.v2.0.B8A.tif',
        'HLS.S30.T15SXU.2021123T170000.v2.0',
        datetime(2021, 5, 3, 17),
        'B8A',
    ),
    (
        'hls_l30',
        'HLS.L30.T06WVS.2024120T211159.v2.0.Fmask.tif',
        'HLS.L30.T06WVS.2024120T211159.v2.0',
        datetime(2024, 4, 29, 21, 11, 59),
        'Fmask',
    ),
)

# Other files of the same products, which are not bands
NO_BANDS = (
    'T22HBD_20210122T133229_TCI_10m.jp2',
    'T22HBD_20210122T133229_AOT_20m.jp2',
    'T22HBD_20210122T133229_WVP_60m.jp2',
    'T22HBD_20210122T133229_PVI.jp2',
    'T46RER_20210908T042701_TCI.jp2',
    'T22HBD_20210122T133229_B02_10m.jp2.aux.xml',
    'T22HBD_20210122T133229_B13_10m.jp2',
    'T22HBD_20210122T133229_B00_10m.jp2',
    'MSK_CLDPRB_20m.jp2',
    'MSK_CLASSI_B00.jp2',
    'MSK_QUALIT_B02.jp2',
    'LC08_L2SP_008059_20191201_20200825_02_T1_ST_TRAD.TIF',
    'LC08_L2SP_008059_20191201_20200825_02_T1_ST_QA.TIF',
    'LC08_L2SP_008059_20191201_20200825_02_T1_SR_QA_AEROSOL.TIF',
    'LC08_L2SP_008059_20191201_20200825_02_T1_QA_RADSAT.TIF',
    'LC08_L2SP_008059_20191201_20200825_02_T1_MTL.txt',
    'LC08_L2SP_008059_20191201_20200825_02_T1_SR_stac.json',
    'LC08_L1TP_008059_20191201_20200825_02_T1_VZA.TIF',
    'LC08_L1TP_008059_20191201_20200825_02_T1_SAA.TIF',
    'LC08_L1TP_008059_20191201_20200825_02_T1_B12.TIF',
    'LC08_L1TP_008059_20191201_20200825_01_T1_B2.TIF',  # Collection 1 is calibrated otherwise
    'LE07_L2SP_008059_20191201_20200825_02_T1_SR_B2.TIF',  # ETM+ sees other light in B2
    'LT05_L1TP_008059_20101201_20200825_02_T1_B2.TIF',
    'HLS.S30.T15SXU.2021123T170000.v2.0.VZA.tif',
    'HLS.L30.T06WVS.2024120T211159.v2.0.SAA.tif',
    'HLS.L30.T06WVS.2024120T211159.v2.0.jpg',
    'HLS.L30.T06WVS.2024120T211159.v2.0.B08.tif',
    'HLS.L30.T06WVS.2024120T211159.v2.0.B8A.tif',
    'HLS.L30.T06WVS.2024120T211159.v1.5.B02.tif',
)

# Of the responses in pyrsr, the satellite that a table is made from, and its sister
SATELLITES = {
    'sentinel2': ('Sentinel-2A', 'Sentinel-2B', 'MSI'),
    'hls_s30': ('Sentinel-2A', 'Sentinel-2B', 'MSI'),
    'landsat': ('Landsat-8', 'Landsat-9', 'OLI_TIRS'),
    'hls_l30': ('Landsat-8', 'Landsat-9', 'OLI_TIRS'),
}

every_sensor = pytest.mark.parametrize('sensor', SENSORS.values(), ids=SENSORS.keys())


def match(sensor: Sensor, filename: str) -> re.Match[str] | None:
    """As TorchGeo does it: a glob to find, a verbose regex to parse."""
    if not fnmatchcase(filename, sensor.filename_glob):
        return None
    return re.match(sensor.filename_regex, filename, re.VERBOSE)


@pytest.fixture(scope='module')
def responses():
    """Measured response per satellite and band: wavelength (um), response of maximum 1."""
    found = {}
    for satellite, sister, instrument in set(SATELLITES.values()):
        for name in (satellite, sister):
            rsr = pyrsr.RSR(name, instrument)
            found[name] = {
                band: (rsr.rsrs_wvl / 1000, rsr.rsrs_norm01[band] / rsr.rsrs_norm01[band].max())
                for band in rsr.bands
            }
    return found


def satellites(sensor: Sensor) -> tuple[str, str]:
    (pair,) = (v[:2] for k, v in SATELLITES.items() if sensor.name.startswith(k))
    return pair


def response_key(band: Band) -> str:
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
        ('hls_l30', 'B04', 3000, 0.3, 'reflectance'),
        ('hls_l30', 'B10', 2685, 26.85, 'celsius'),
    ],
)
def test_calibration_gives_the_documented_value(name, band, dn, value, unit):
    (band,) = SENSORS[name].select([band])
    assert dn * band.scale + band.offset == pytest.approx(value, abs=1e-6)
    assert band.unit == unit


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


@every_sensor
def test_center_agrees_with_the_measured_response(sensor, responses):
    satellite, _ = satellites(sensor)
    for band in sensor.bands:
        wavelength, response = responses[satellite][response_key(band)]
        # 5 nm in the optical; 20 nm in the thermal infrared, where the table has band edges
        tolerance = 0.005 if band.unit == 'reflectance' else 0.020
        center = weighted_center(wavelength, response)
        assert band.center_wavelength_um == pytest.approx(center, abs=tolerance), band
        assert np.interp(band.center_wavelength_um, wavelength, response) >= 0.5, band


@every_sensor
def test_fwhm_agrees_with_the_measured_response(sensor, responses):
    satellite, _ = satellites(sensor)
    for band in sensor.bands:
        low, high = half_maximum_edges(*responses[satellite][response_key(band)])
        assert band.fwhm_um == pytest.approx(high - low, rel=0.03, abs=0.001), band


@every_sensor
def test_sister_satellite_is_within_half_a_band(sensor, responses):
    _, sister = satellites(sensor)
    for band in sensor.bands:
        center = weighted_center(*responses[sister][response_key(band)])
        assert abs(band.center_wavelength_um - center) < band.fwhm_um / 2, band


@pytest.mark.parametrize(
    ('name', 'other'),
    [('sentinel2_l1c', 'hls_s30'), ('landsat_c2l1', 'hls_l30'), ('landsat_c2l1', 'landsat_c2l2')],
)
def test_one_instrument_sees_the_same_light_in_every_product(name, other):
    light = {response_key(b): (b.center_wavelength_um, b.fwhm_um) for b in SENSORS[name].bands}
    assert all(
        light[response_key(b)] == (b.center_wavelength_um, b.fwhm_um) for b in SENSORS[other].bands
    )


def test_same_band_name_is_other_light_on_s30_and_l30():
    (s30,) = SENSORS['hls_s30'].select(['B05'])
    (l30,) = SENSORS['hls_l30'].select(['B05'])
    assert (s30.common_name, l30.common_name) == ('rededge071', 'nir08')
    assert l30.center_wavelength_um - s30.center_wavelength_um > 0.15


@pytest.mark.parametrize(('name', 'filename', 'product', 'date', 'band'), REAL_FILES)
def test_real_file_is_parsed_by_its_sensor_alone(name, filename, product, date, band):
    found = {key for key, sensor in SENSORS.items() if match(sensor, filename)}
    assert found == {name}
    sensor = SENSORS[name]
    groups = match(sensor, filename).groupdict()
    assert (groups['product'], groups['band']) == (product, band)
    assert datetime.strptime(groups['date'], sensor.date_format) == date


@pytest.mark.parametrize('filename', NO_BANDS)
def test_file_that_is_no_band_matches_no_sensor(filename):
    assert not [name for name, sensor in SENSORS.items() if match(sensor, filename)]


@every_sensor
def test_every_band_and_the_qa_band_have_a_file_name(sensor):
    filename, band = next((f, b) for name, f, _, _, b in REAL_FILES if name == sensor.name)
    names = sensor.band_names + ((sensor.qa.band,) if sensor.qa else ())
    for name in names:
        found = match(sensor, filename.replace(band, name))
        assert found, name
        assert found['band'] == name


@pytest.mark.parametrize('res', ['10', '20', '60'])
def test_grid_of_sentinel2_l2a_is_in_the_name(res):
    found = match(SENSORS['sentinel2_l2a'], f'T31UES_20170831T105651_B02_{res}m.jp2')
    assert found['res'] == res


def is_bad(qa: QA, value: int) -> bool:
    return value in qa.bad_values or any(value >> bit & 1 for bit in qa.bad_bits)


@pytest.mark.parametrize(
    ('name', 'good', 'bad'),
    [
        # Codes of the scene classification
        ('sentinel2_l2a', (2, 4, 5, 6, 7, 11), (0, 1, 3, 8, 9, 10)),
        # Common values: clear land, clear water, snow; fill, dilated cloud, cloud, cirrus, shadow
        ('landsat_c2l2', (21824, 21952, 30048), (1, 21826, 22280, 54596, 23888)),
        ('landsat_c2l1', (21824, 21952, 30048), (1, 21826, 22280, 54596, 23888)),
        # Clear land with low and high aerosol, water, snow; cloud, adjacent, shadow, fill
        ('hls_s30', (64, 192, 96, 80), (66, 68, 72, 255)),
        ('hls_l30', (64, 192, 96, 80), (66, 68, 72, 255)),
    ],
)
def test_qa_keeps_ground_and_drops_cloud_shadow_and_fill(name, good, bad):
    qa = SENSORS[name].qa
    assert not [value for value in good if is_bad(qa, value)]
    assert not [value for value in bad if not is_bad(qa, value)]


@pytest.mark.parametrize(
    ('name', 'nodata'), [(n, -9999 if n.startswith('hls') else 0) for n in NAMES]
)
def test_nodata_is_that_of_the_product(name, nodata):
    assert SENSORS[name].nodata == nodata


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


def test_regex_without_a_needed_group_raises():
    with pytest.raises(ValueError, match=r"lacks the groups \['date', 'product'\]"):
        dataclasses.replace(SENSORS['hls_l30'], filename_regex=r'(?P<band>B\d\d)\.tif')


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


def test_sensors_table_has_one_aligned_row_per_sensor():
    lines = sensors_table().splitlines()
    assert max(map(len, lines)) <= 100
    rows = {line.split()[0]: line for line in lines if not line.startswith(' ')}
    assert tuple(rows) == ('name', *NAMES)
    text = ' '.join(sensors_table().split())
    for sensor in SENSORS.values():
        row = rows[sensor.name]
        start = lines[0].index('title')
        assert row[start:].startswith(sensor.title)
        assert row[: lines[0].index('GSD')].split()[-1] == str(len(sensor.bands))
        assert sensor.qa is None or sensor.qa.band in row
        assert all(word in text for word in sensor.source.split())


@every_sensor
def test_bands_table_has_one_aligned_row_per_band(sensor):
    header, *rows = bands_table(sensor.name).splitlines()
    assert max(map(len, rows)) <= 100
    assert len(rows) == len(sensor.bands)
    for row, band in zip(rows, sensor.bands):
        name, common_name, center, fwhm, gsd, scale, offset, unit = row.split()
        assert (name, common_name, unit) == (band.name, band.common_name, band.unit)
        assert float(center) == pytest.approx(band.center_wavelength_um, abs=5.1e-5)
        assert float(fwhm) == pytest.approx(band.fwhm_um, abs=5.1e-5)
        facts = tuple(map(float, (gsd, scale, offset)))
        assert facts == (band.gsd_m, band.scale, band.offset)
        assert row.index(unit) == header.index('unit')


def test_bands_table_takes_a_sensor_of_ones_own():
    own = dataclasses.replace(
        SENSORS['hls_l30'], name='own', bands=(Band('X', None, 0.5, 0.01, 3, 1, 0),)
    )
    assert bands_table(own).splitlines()[1].split()[:2] == ['X', '-']


def test_bands_table_of_an_unknown_sensor_raises():
    with pytest.raises(ValueError, match='did you mean'):
        bands_table('hls_s3')
