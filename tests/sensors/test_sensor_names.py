# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Which files belong to which sensor, in every layout that the agencies and clouds deliver."""

import re
from datetime import datetime

import pytest

from torchgeo_anysensor.sensors import SENSORS

S2 = ('sentinel2_l2a', 'sentinel2_l1c')
LEVEL_2A, LEVEL_1C = S2

# The groups that a pattern may have, as in the docstring of Sensor
GROUPS = {'band', 'product', 'date', 'res', 'tile', 'platform'}


def s2(tile=None, date=None, band=None, res=None):
    return {'tile': tile, 'date': date, 'band': band, 'res': res}


def l1c(tile=None, date=None, band=None):
    return {'tile': tile, 'date': date, 'band': band}


def landsat(product, band):
    platform, _, tile, date = product.split('_')[:4]
    return {
        'product': product, 'platform': platform, 'tile': tile, 'date': date, 'band': band
    }  # fmt: skip


def hls(product, band):
    _, _, tile, date, *_ = product.split('.')
    return {'product': product, 'tile': tile, 'date': date, 'band': band}


L2SP = 'LC08_L2SP_008059_20191201_20200825_02_T1'
L2SR = 'LO09_L2SR_010065_20220129_20220131_02_RT'
L1TP = 'LC09_L1TP_069014_20240429_20240430_02_T2'
L1GS = 'LT08_L1GS_069014_20240429_20240430_02_T2'
S30 = 'HLS.S30.T15SXU.2021123T170000.v2.0'
L30 = 'HLS.L30.T06WVS.2024120T211159.v2.0'

# sensor, file name, groups
ACCEPTED = (
    # SAFE trees: now, as GeoTIFF on Planetary Computer, and up to baseline 02.06
    (LEVEL_2A, 'T32TPQ_20200614T101559_B02_10m.jp2', s2('T32TPQ', '20200614T101559', 'B02', '10')),
    (LEVEL_2A, 'T22HBD_20210122T133229_B8A_20m.tif', s2('T22HBD', '20210122T133229', 'B8A', '20')),
    (LEVEL_2A, 'T22HBD_20210122T133229_SCL_60m.jp2', s2('T22HBD', '20210122T133229', 'SCL', '60')),
    (
        LEVEL_2A,
        'L2A_T32TNR_20170703T101021_B02_10m.jp2',
        s2('T32TNR', '20170703T101021', 'B02', '10'),
    ),
    (LEVEL_2A, 'T32TPQ_20200614T101559_B12_20m.tiff', s2('T32TPQ', '20200614T101559', 'B12', '20')),
    (LEVEL_1C, 'T46RER_20210908T042701_B10.jp2', l1c('T46RER', '20210908T042701', 'B10')),
    (LEVEL_1C, 'T46RER_20210908T042701_B01.tif', l1c('T46RER', '20210908T042701', 'B01')),
    (LEVEL_1C, 'T46RER_20210908T042701_B8A.tiff', l1c('T46RER', '20210908T042701', 'B8A')),
    # Public clouds: one folder for each product, bands in it
    (LEVEL_2A, 'B02.tif', s2(band='B02')),
    (LEVEL_2A, 'B02.tiff', s2(band='B02')),
    (LEVEL_2A, 'B02.jp2', s2(band='B02')),
    (LEVEL_2A, 'SCL.tif', s2(band='SCL')),
    (LEVEL_2A, 'B8A_20m.jp2', s2(band='B8A', res='20')),
    (LEVEL_1C, 'B02.jp2', l1c(band='B02')),
    (LEVEL_1C, 'B02.tif', l1c(band='B02')),
    (LEVEL_1C, 'B10.jp2', l1c(band='B10')),
    ('landsat_c2l2', f'{L2SP}_SR_B2.TIF', landsat(L2SP, 'SR_B2')),
    ('landsat_c2l2', f'{L2SP}_SR_B7.tif', landsat(L2SP, 'SR_B7')),
    ('landsat_c2l2', f'{L2SP}_ST_B10.TIF', landsat(L2SP, 'ST_B10')),
    ('landsat_c2l2', f'{L2SP}_QA_PIXEL.TIF', landsat(L2SP, 'QA_PIXEL')),
    ('landsat_c2l2', f'{L2SR}_QA_RADSAT.TIF', landsat(L2SR, 'QA_RADSAT')),
    ('landsat_c2l1', f'{L1TP}_B8.TIF', landsat(L1TP, 'B8')),
    ('landsat_c2l1', f'{L1TP}_B11.TIF', landsat(L1TP, 'B11')),
    ('landsat_c2l1', f'{L1TP}_QA_RADSAT.TIF', landsat(L1TP, 'QA_RADSAT')),
    ('landsat_c2l1', f'{L1GS}_B10.tif', landsat(L1GS, 'B10')),
    (
        'landsat_c2l1',
        f'{L1TP.replace("L1TP", "L1GT")}_B1.TIF',
        landsat(L1TP.replace('L1TP', 'L1GT'), 'B1'),
    ),
    ('hls_s30', f'{S30}.B8A.tif', hls(S30, 'B8A')),
    ('hls_s30', f'{S30}.B10.tif', hls(S30, 'B10')),
    ('hls_l30', f'{L30}.Fmask.tif', hls(L30, 'Fmask')),
    ('hls_l30', f'{L30}.B09.tif', hls(L30, 'B09')),
)

# Names without a level, which are told apart by the folder
BARE = {name for _, name, groups in ACCEPTED if not groups.get('tile')}

# sensor, name of a file that tells about a product
METADATA = (
    (LEVEL_2A, 'MTD_MSIL2A.xml'),
    (LEVEL_1C, 'MTD_MSIL1C.xml'),
    (LEVEL_1C, 'MSK_CLASSI_B00.jp2'),
    (LEVEL_1C, 'MSK_CLASSI_B00.tif'),
    (LEVEL_1C, 'MSK_CLOUDS_B00.gml'),
    ('landsat_c2l2', f'{L2SP}_MTL.txt'),
    ('landsat_c2l2', f'{L2SP}_MTL.json'),
    ('landsat_c2l2', f'{L2SR}_MTL.xml'),
    ('landsat_c2l1', f'{L1TP}_MTL.txt'),
    ('landsat_c2l1', f'{L1GS}_MTL.xml'),
)

ARCHIVES = (
    (LEVEL_2A, 'S2B_MSIL2A_20200614T101559_N0500_R065_T32TPQ_20230508T052718.zip'),
    (LEVEL_2A, 'S2C_MSIL2A_20250614T101559_N0511_R065_T32TPQ_20250614T135718.SAFE.zip'),
    (LEVEL_1C, 'S2A_MSIL1C_20200614T101559_N0500_R065_T32TPQ_20230508T052718.SAFE.zip'),
    ('landsat_c2l2', f'{L2SP}.tar'),
    ('landsat_c2l2', f'{L2SR}.tar'),
    ('landsat_c2l1', f'{L1TP}.tar'),
)

# Other files of the same products, and products that are none of the sensors
REFUSED = (
    'T22HBD_20210122T133229_TCI_10m.jp2',
    'T22HBD_20210122T133229_AOT_20m.jp2',
    'T22HBD_20210122T133229_WVP_60m.jp2',
    'T22HBD_20210122T133229_PVI.jp2',
    'T46RER_20210908T042701_TCI.jp2',
    'T22HBD_20210122T133229_SCL.jp2',
    'T22HBD_20210122T133229_B02_10m.jp2.aux.xml',
    'T22HBD_20210122T133229_B02_10m_copy.jp2',
    'T22HBD_20210122T133229_B02_30m.jp2',
    'T22HBD_20210122T133229_B10_60m.jp2',  # not corrected, so not delivered
    'T22HBD_20210122T133229_B13_10m.jp2',
    'T22HBD_20210122T133229_B00_10m.jp2',
    'T22HBD_20210122_B02_10m.jp2',
    'xT22HBD_20210122T133229_B02_10m.jp2',
    'L2A_B02_10m.jp2',
    'TCI.tif',
    'AOT.tif',
    'B2.tif',
    'B00.jp2',
    'B13.jp2',
    'xB02.tif',
    'B02.png',
    'MSK_CLDPRB_20m.jp2',
    'MSK_CLOUDS_B02.gml',
    'MSK_CLASSI_B01.jp2',
    'MSK_DETFOO_B00.gml',
    'MSK_QUALIT_B02.jp2',
    'MTD_DS.xml',
    'INSPIRE.xml',
    'S2A_MSIL2A_20200614T101559_N0500_R065_T32TPQ_20230508T052718.SAFE',
    'S3A_OL_1_EFR____20200614T101559.zip',
    f'{L2SP}_ST_TRAD.TIF',
    f'{L2SP}_ST_QA.TIF',
    f'{L2SP}_SR_QA_AEROSOL.TIF',
    f'{L2SP}_SR_B8.TIF',
    f'{L2SP}_SR_stac.json',
    f'{L2SP}_ANG.txt',
    f'{L2SP}_SR_B2.TIF.ovr',
    f'{L2SP}.tar.gz.part',
    f'{L1TP}_VZA.TIF',
    f'{L1TP}_SAA.TIF',
    f'{L1TP}_B12.TIF',
    f'{L1TP}_B1_copy.TIF',
    'LC08_L1TP_008059_20191201_20200825_01_T1_B2.TIF',  # Collection 1 is calibrated otherwise
    'LC08_L1TP_008059_20191201_20200825_01_T1_MTL.txt',
    'LE07_L2SP_008059_20191201_20200825_02_T1_SR_B2.TIF',  # ETM+ sees other light in B2
    'LT05_L1TP_008059_20101201_20200825_02_T1_B2.TIF',
    'LT08_L2SP_008059_20191201_20200825_02_T1_SR_B2.TIF',  # TIRS alone gives no Level-2
    'LE07_L2SP_008059_20191201_20200825_02_T1.tar',
    *(f'{S30}.{angle}.tif' for angle in ('VZA', 'VAA', 'SZA', 'SAA')),
    *(f'{L30}.{angle}.tif' for angle in ('VZA', 'VAA', 'SZA', 'SAA')),
    f'{L30}.jpg',
    f'{L30}_stac.json',
    f'{L30}.B08.tif',
    f'{L30}.B8A.tif',
    f'{S30}.B13.tif',
    'HLS.L30.T06WVS.2024120T211159.v1.5.B02.tif',
    'HLS.S10.T06WVS.2024120T211159.v2.0.B02.tif',
)


def match(pattern, name):
    """As a dataset does it: a verbose pattern, from the start of the name."""
    return re.match(pattern, name, re.VERBOSE)


def matching(name, field='filename_regex'):
    return {key for key, sensor in SENSORS.items() if match(getattr(sensor, field), name)}


@pytest.mark.parametrize(('name', 'filename', 'groups'), ACCEPTED)
def test_file_is_parsed(name, filename, groups):
    assert match(SENSORS[name].filename_regex, filename).groupdict() == groups


@pytest.mark.parametrize(('name', 'filename'), [row[:2] for row in ACCEPTED if row[1] not in BARE])
def test_file_with_a_tile_belongs_to_one_sensor_alone(name, filename):
    assert matching(filename) == {name}


@pytest.mark.parametrize('filename', sorted(BARE))
def test_file_without_a_tile_is_of_sentinel2_of_the_levels_that_have_the_band(filename):
    band = re.match('[A-Z0-9]+', filename)[0]
    levels = {name for name in S2 if band in (*SENSORS[name].band_names, 'SCL')}
    if filename.startswith('SCL') or '_' in filename:
        levels.discard(LEVEL_1C)
    assert matching(filename) == levels


@pytest.mark.parametrize('filename', REFUSED)
def test_other_file_matches_no_sensor(filename):
    for field in ('filename_regex', 'metadata_regex', 'archive_regex'):
        assert not matching(filename, field), field


@pytest.mark.parametrize(('name', 'filename'), METADATA)
def test_metadata_belong_to_one_sensor_and_are_no_bands(name, filename):
    assert matching(filename, 'metadata_regex') == {name}
    assert not matching(filename)


@pytest.mark.parametrize(('name', 'filename'), ARCHIVES)
def test_archive_belongs_to_one_sensor(name, filename):
    assert matching(filename, 'archive_regex') == {name}
    assert not matching(filename) | matching(filename, 'metadata_regex')


@pytest.mark.parametrize(
    ('filename', 'date'),
    [
        ('T31UES_20170831T105651_B02_10m.jp2', datetime(2017, 8, 31, 10, 56, 51)),
        ('T46RER_20210908T042701_B10.jp2', datetime(2021, 9, 8, 4, 27, 1)),
        # The first of the two dates: the second is of the processing
        (f'{L2SP}_SR_B2.TIF', datetime(2019, 12, 1)),
        (f'{L1TP}_B8.TIF', datetime(2024, 4, 29)),
        (f'{S30}.B8A.tif', datetime(2021, 5, 3, 17)),
        (f'{L30}.B05.tif', datetime(2024, 4, 29, 21, 11, 59)),
    ],
)
def test_date_is_that_of_the_acquisition(filename, date):
    (name,) = matching(filename)
    sensor = SENSORS[name]
    text = match(sensor.filename_regex, filename)['date']
    assert datetime.strptime(text, sensor.date_format) == date


@pytest.mark.parametrize('name', SENSORS)
def test_every_band_and_every_quality_band_has_a_file_name(name):
    sensor = SENSORS[name]
    filename, band = next((f, g['band']) for n, f, g in ACCEPTED if n == name)
    # The cloud mask of L1C is composed of the files of metadata_regex
    quality = [qa.band for qa in sensor.qa if qa.band != 'MSK_CLASSI']
    for other in (*sensor.band_names, *quality):
        found = match(sensor.filename_regex, filename.replace(band, other))
        assert found, other
        assert found['band'] == other


@pytest.mark.parametrize('name', SENSORS)
def test_patterns_have_the_documented_groups_alone(name):
    assert set(re.compile(SENSORS[name].filename_regex, re.VERBOSE).groupindex) <= GROUPS
    assert 'product' not in re.compile(SENSORS[LEVEL_2A].filename_regex, re.VERBOSE).groupindex


@pytest.mark.parametrize(
    ('code', 'platform'),
    [
        ('LC08', 'landsat-8'),
        ('LO08', 'landsat-8'),
        ('LT08', 'landsat-8'),
        ('LC09', 'landsat-9'),
        ('LO09', 'landsat-9'),
        ('LT09', 'landsat-9'),
    ],
)
def test_code_in_the_name_of_a_landsat_product_tells_the_platform(code, platform):
    sensor = SENSORS['landsat_c2l1']
    found = match(sensor.filename_regex, f'{code}{L1GS[4:]}_B10.TIF')
    assert sensor.platform_codes[found['platform']] == platform
    assert sensor.platform_codes == SENSORS['landsat_c2l2'].platform_codes


@pytest.mark.parametrize('name', S2)
def test_code_in_the_name_of_a_safe_folder_tells_the_platform(name):
    codes = {'S2A': 'sentinel-2a', 'S2B': 'sentinel-2b', 'S2C': 'sentinel-2c'}
    assert SENSORS[name].platform_codes == codes
