# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

import dataclasses

import pytest

from torchgeo_anysensor.sensors import SENSORS, Band
from torchgeo_anysensor.sensors.table import bands_table, sensors_table

every_sensor = pytest.mark.parametrize('sensor', SENSORS.values(), ids=SENSORS.keys())


def test_sensors_table_has_one_aligned_row_per_sensor():
    lines = sensors_table().split('\n\n')[0].splitlines()
    assert max(map(len, lines)) <= 100
    rows = {line.split()[0]: line for line in lines}
    assert tuple(rows) == ('name', *SENSORS)
    header = rows.pop('name')
    for name, row in rows.items():
        sensor = SENSORS[name]
        assert row[header.index('title') :].startswith(sensor.title)
        assert row[: header.index('GSD')].split()[-1] == str(len(sensor.bands))
        quality = row[header.index('QA') : header.index('platforms')].strip()
        assert quality == ', '.join(qa.band for qa in sensor.qa)


def test_sensors_table_names_the_platforms_of_a_family_in_one_word():
    text = sensors_table().split('\n\n')[0]
    assert text.count('sentinel-2a/2b/2c') == 3
    assert text.count('landsat-8/9') == 3


def test_sensors_table_ends_with_the_sources():
    lines = sensors_table().split('\n\n')[1].splitlines()
    assert max(map(len, lines)) <= 100
    assert [line.split()[0] for line in lines] == ['name', *SENSORS]
    for line, sensor in zip(lines[1:], SENSORS.values()):
        assert line.split(maxsplit=1)[1] == sensor.source


@every_sensor
def test_bands_table_has_one_aligned_row_per_band(sensor):
    header, *rows = bands_table(sensor.name).split('\n\n')[0].splitlines()
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


@every_sensor
def test_bands_table_tells_what_each_platform_sees(sensor):
    title, header, *rows = bands_table(sensor).split('\n\n')[1].splitlines()
    assert title == 'centre / FWHM (um)'
    assert header.split() == ['name', *sensor.platforms]
    assert max(map(len, rows)) <= 100
    assert [row.split()[0] for row in rows] == list(sensor.band_names)
    for place, platform in enumerate(sensor.platforms):
        for row, band in zip(rows, sensor.bands_of(platform)):
            center, fwhm = row.replace('/', ' ').split()[1 + 2 * place : 3 + 2 * place]
            assert float(center) == pytest.approx(band.center_wavelength_um, abs=5.1e-5)
            assert float(fwhm) == pytest.approx(band.fwhm_um, abs=5.1e-5)
            assert row[header.index(platform) :].startswith(center)


def test_bands_table_takes_a_sensor_of_ones_own_that_has_no_platforms():
    bands = (Band('X', None, 0.5, 0.01, 3, 1, 0),)
    own = dataclasses.replace(SENSORS['hls_l30'], name='own', bands=bands, platforms={})
    (_, row) = bands_table(own).splitlines()
    assert row.split()[:2] == ['X', '-']


def test_bands_table_of_an_unknown_sensor_raises():
    with pytest.raises(ValueError, match='did you mean'):
        bands_table('hls_s3')
