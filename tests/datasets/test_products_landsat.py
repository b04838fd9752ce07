# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

import json
import math

import numpy as np
import pytest
import rasterio
import torch
from torchgeo.datasets import DatasetNotFoundError

from torchgeo_anysensor.datasets import LandsatC2L1, LandsatC2L2, collate_sensors
from torchgeo_anysensor.datasets.geometry import raster_crs
from torchgeo_anysensor.datasets.grid import Grid
from torchgeo_anysensor.sensors import QA

LEVELS = pytest.mark.parametrize(
    ('level', 'dataset'), [('landsat_c2l1', LandsatC2L1), ('landsat_c2l2', LandsatC2L2)]
)


def seconds(text):
    return np.datetime64(text).astype('datetime64[s]').astype(float)


def fill(value):
    return lambda data: data.fill(value)


def write_codes(codes):
    def edit(data):
        data.flat[: len(codes)] = codes

    return edit


def rewrite_mtl(folder, text, end='txt'):
    """Replace the metadata of a product."""
    for path in folder.glob('*_MTL.*'):
        path.unlink()
    (folder / f'{folder.name}_MTL.{end}').write_text(text)


@LEVELS
def test_time_of_day_comes_from_the_metadata(world, level, dataset):
    getattr(world, level)(size=120, time='10:04:31.9234560Z')
    ds = dataset(world.root)
    assert float(ds[ds.bounds]['t']) == seconds('2020-06-14T10:04:31')
    assert (ds.index.index.right - ds.index.index.left).max().total_seconds() < 1


def test_date_alone_is_noon_and_spans_the_day(world):
    world.landsat_c2l2(size=120, time=None)
    ds = LandsatC2L2(world.root)
    assert float(ds[ds.bounds]['t']) == seconds('2020-06-14T12:00:00')
    (span,) = ds.index.index
    assert str(span.left) == '2020-06-14 00:00:00'
    assert str(span.right) == '2020-06-14 23:59:59.999999'


def test_level_1_reflectance_is_divided_by_the_sine_of_the_suns_elevation(world):
    world.landsat_c2l1(size=120, edit={'B4': fill(10_000), 'B8': fill(6000)})
    red = LandsatC2L1(world.root, bands=['B4'])
    # (10000 * 2e-5 - 0.1) / sin 30 deg = 0.2
    assert float(red[red.bounds]['image'].max()) == pytest.approx(0.2, abs=1e-6)
    pan = LandsatC2L1(world.root, bands=['B8'])
    assert pan.res == (15, 15)
    assert float(pan[pan.bounds]['image'].max()) == pytest.approx(0.04, abs=1e-6)


def test_level_1_thermal_is_kelvin_by_plancks_law(world):
    world.landsat_c2l1(size=120, edit={'B10': fill(25_000), 'B11': fill(25_000)})
    dataset = LandsatC2L1(world.root, bands=['B4', 'B11', 'B10'])
    image = dataset[dataset.bounds]['image']
    # L = 25000 * 3.49e-4 + 0.1 = 8.825 and 25000 * 3.8e-4 + 0.1 = 9.6 W m-2 sr-1 um-1
    expected = [
        1198.3494 / math.log(475.6581 / 8.825 + 1),
        1329.2405 / math.log(799.0284 / 9.6 + 1),
    ]
    assert image[1:, 0, 0].tolist() == pytest.approx(expected, abs=0.01)
    assert expected == pytest.approx([299.2, 299.8], abs=0.1)


def test_level_1_digital_numbers_need_no_metadata(world):
    world.landsat_c2l1(size=120, time=None)
    with pytest.raises(
        ValueError, match=r'MTL\.txt .* is missing: .*sun elevation.*calibrate=False'
    ):
        LandsatC2L1(world.root)
    raw = LandsatC2L1(world.root, bands=['B10'], calibrate=False)
    assert float(raw[raw.bounds]['image'].min()) > 1000


def test_invalid_thermal_pixel_is_zero(world):
    world.landsat_c2l1(size=120, edit={'B10': fill(0)})
    dataset = LandsatC2L1(world.root, bands=['B10'])
    sample = dataset[dataset.bounds]
    assert not sample['valid'].any()
    assert (sample['image'] == 0).all()


def test_level_2_temperature_is_kelvin(world):
    world.landsat_c2l2(size=120, edit={'ST_B10': fill(44_000)})
    dataset = LandsatC2L2(world.root, bands=['ST_B10'])
    expected = 44_000 * 0.00341802 + 149
    assert float(dataset[dataset.bounds]['image'].max()) == pytest.approx(expected, abs=1e-3)


def test_one_row_for_each_pass(world):
    world.landsat_c2l2(size=120)
    world.landsat_c2l2(pathrow='193030', size=120)  # the next row of the same path and day
    world.landsat_c2l2(pathrow='192029', size=120)
    world.landsat_c2l2(date='20200630', size=120)
    dataset = LandsatC2L2(world.root)
    assert sorted(dataset.index.tile) == ['192029', '193029', '193029,193030']


@LEVELS
def test_every_band_lies_where_it_says_on_the_grid_of_its_file(world, code, level, dataset):
    getattr(world, level)(size=120)
    for band in dataset.sensor.band_names:
        ds = dataset(world.root, bands=[band], calibrate=False)
        sample = ds[ds.bounds]
        res = 15 if band == 'B8' else 30
        grid = code.grid(code.left - 15, code.top + 15, res, (120 // res, 120 // res))
        place = dataset.sensor.band_names.index(band)
        expected = np.round(code.encode(place, *code.centres(grid)))
        assert np.array_equal(sample['image'][0], expected), band
        assert sample['valid'].all()


# Values of QA_PIXEL and what the pixel is (LSDS-1619, table 6-3)
QA_PIXEL = {
    1: 'fill',
    21824: 'clear',
    21826: 'dilated cloud',
    21888: 'water',
    21890: 'dilated cloud over water',
    22080: 'cloud of middle confidence, not marked as cloud',
    22280: 'cloud',
    23888: 'cloud shadow',
    23952: 'water with cloud shadow',
    24088: 'cloud of middle confidence with shadow',
    24344: 'cloud with shadow',
    30048: 'snow or ice',
    54596: 'cirrus',
    55052: 'cirrus and cloud',
}
CLEAR = {21824, 21888, 22080}


@LEVELS
@pytest.mark.parametrize(
    ('qa', 'good'),
    [
        (True, {*CLEAR, 30048}),
        (QA('QA_PIXEL', bad_bits=(0, 1, 2, 3, 4, 5)), CLEAR),
        (QA('QA_PIXEL', bad_values=(1, 21826)), set(QA_PIXEL) - {1, 21826}),
        (False, set(QA_PIXEL)),
    ],
)
def test_values_of_qa_pixel_that_are_good_are_the_documented_ones_or_the_users(
    world, level, dataset, qa, good
):
    getattr(world, level)(size=240, edit={'QA_PIXEL': write_codes(list(QA_PIXEL))})
    ds = dataset(world.root, qa=qa)
    valid = ds[ds.bounds]['valid'].flatten()
    assert {value for value, told in zip(QA_PIXEL, valid) if told} == good
    assert valid[len(QA_PIXEL) :].all()


# Bits of QA_RADSAT (LSDS-1619, table 6-4, and LSDS-1822): bands 1 to 7, 9; 11 is hidden terrain
RADSAT = {'B1': 0, 'B2': 1, 'B3': 2, 'B4': 3, 'B5': 4, 'B6': 5, 'B7': 6, 'B9': 8}


@LEVELS
def test_saturation_masks_only_where_the_saturated_band_is_read(world, level, dataset):
    getattr(world, level)(size=120, edit={'QA_RADSAT': write_codes([1 << b for b in range(12)])})
    for band in dataset.sensor.band_names:
        ds = dataset(world.root, bands=[band], res=30)
        invalid = (~ds[ds.bounds]['valid']).flatten().nonzero().flatten().tolist()
        own = RADSAT.get(band.removeprefix('SR_'))
        assert invalid == sorted({own, 11} - {None}), band
    both = dataset(
        world.root, bands=[b for b in dataset.sensor.band_names if b.endswith(('B2', 'B7'))]
    )
    assert (~both[both.bounds]['valid']).flatten().nonzero().flatten().tolist() == [1, 6, 11]


def as_json(text):
    lines = text.replace('"', '').splitlines()[2:-6]
    pairs = dict(line.strip().split(' = ') for line in lines[::-1])  # the first of two counts
    return json.dumps({'LANDSAT_METADATA_FILE': {'IMAGE_ATTRIBUTES': pairs}})


def as_xml(text):
    pairs = json.loads(as_json(text))['LANDSAT_METADATA_FILE']['IMAGE_ATTRIBUTES'].items()
    inside = ''.join(f'<{key}>{value}</{key}>' for key, value in pairs)
    return f'<LANDSAT_METADATA_FILE><A>{inside}</A></LANDSAT_METADATA_FILE>'


@LEVELS
@pytest.mark.parametrize(('end', 'write'), [('txt', str), ('json', as_json), ('xml', as_xml)])
def test_metadata_are_read_in_each_of_their_formats(world, code, level, dataset, end, write):
    folder = getattr(world, level)(size=120, edit={'B4': fill(10_000)})
    text = code.mtl('20200614', '10:04:31.9234560Z', ['CLOUD_COVER = 12.34', 'SUN_ELEVATION = 90'])
    rewrite_mtl(folder, write(text), end)
    ds = dataset(world.root)
    sample = ds[ds.bounds]
    assert float(sample['t']) == seconds('2020-06-14T10:04:31')
    assert ds.index.clear_fraction.tolist() == pytest.approx([0.8766])
    if dataset is LandsatC2L1:  # (10000 * 2e-5 - 0.1) / sin 90 deg
        assert sample['image'][ds.bands.index('B4')].unique().tolist() == pytest.approx([0.1])


@LEVELS
@pytest.mark.parametrize('cover', ['CLOUD_COVER = -1.00', ''], ids=['not assessed', 'missing'])
def test_clear_fraction_is_counted_in_qa_pixel_where_no_metadata_tell_it(
    world, code, level, dataset, cover
):
    def scene(data):  # 10 by 10 pixels: 40 were not observed; of the 60 others 15 are not clear
        data[:4] = 1
        data[4, :] = 22280
        data[5, :5] = 23888
        data[6, :] = 30048

    folder = getattr(world, level)(size=300, edit={'QA_PIXEL': scene})
    rewrite_mtl(folder, code.mtl('20200614', '10:04:31Z', [cover] if cover else []))
    assert dataset(world.root).index.clear_fraction.tolist() == [0.75]
    with pytest.raises(ValueError, match=r'the clearest has 0\.25'):
        dataset(world.root, max_cloud=0.2)


@pytest.mark.parametrize(
    ('level', 'dataset', 'prefix'),
    [
        *(('landsat_c2l2', LandsatC2L2, p) for p in ('LC08_L2SP', 'LC09_L2SR', 'LO09_L2SR')),
        *(('landsat_c2l1', LandsatC2L1, p) for p in ('LC08_L1TP', 'LC09_L1GT', 'LO08_L1GS')),
    ],
)
@pytest.mark.parametrize('tier', ['T1', 'T2', 'RT'])
def test_row_of_the_index_of_each_kind_of_product_and_tier(world, level, dataset, prefix, tier):
    getattr(world, level)(size=120, prefix=prefix, tier=tier)
    (row,) = dataset(world.root, strict=True).index.itertuples()
    platform = f'landsat-{prefix[3]}'
    assert (row.tile, row.platform, row.baseline) == ('193029', platform, f'02 {tier}')


def test_product_without_a_thermal_band_is_read_and_says_so_where_it_is_wanted(world):
    bands = [*(f'SR_B{n}' for n in range(1, 8)), 'QA_PIXEL', 'QA_RADSAT']
    world.landsat_c2l2(size=120, prefix='LC08_L2SR', bands=bands)
    assert LandsatC2L2(world.root, strict=True).bands == tuple(bands[:7])
    with pytest.warns(UserWarning, match='no ST_B10'), pytest.raises(DatasetNotFoundError):
        LandsatC2L2(world.root, bands=['SR_B4', 'ST_B10'])


def test_product_of_the_thermal_instrument_alone_is_read(world):
    bands = ['B10', 'B11', 'QA_PIXEL', 'QA_RADSAT']
    world.landsat_c2l1(size=120, prefix='LT08_L1GT', bands=bands, edit={'B10': fill(25_000)})
    dataset = LandsatC2L1(world.root, bands=['B10'], strict=True)
    # 25000 * 3.8e-4 + 0.1 = 9.6 W m-2 sr-1 um-1
    expected = 1329.2405 / math.log(799.0284 / 9.6 + 1)
    assert float(dataset[dataset.bounds]['image'].max()) == pytest.approx(expected, abs=0.01)


def test_scene_of_the_night_has_temperature_and_no_reflectance(world, code):
    night = code.mtl('20200614', '22:04:31Z', ['SUN_ELEVATION = -30.0'])
    rewrite_mtl(world.landsat_c2l1(size=120), night)
    world.landsat_c2l1('20200615', size=120)
    with pytest.warns(UserWarning, match=r'20200614.*_B4\.TIF: seen by night .SUN_ELEVATION=-30'):
        assert len(LandsatC2L1(world.root, bands=['B4', 'B10'])) == 1
    assert len(LandsatC2L1(world.root, bands=['B10'], strict=True)) == 2


# Centre and width in um: Barsi et al. 2014 (OLI), L9_OLI2_Ball_BA_RSR.v2
LIGHT = {'LC08': {'B1': (0.44296, 0.01598), 'B7': (2.20073, 0.18666)}}
LIGHT |= {'LC09': {'B1': (0.44281, 0.01551), 'B7': (2.20012, 0.18948)}}


@LEVELS
@pytest.mark.parametrize('band', ['B1', 'B7'])
def test_light_of_each_platform_is_its_own_and_a_batch_keeps_both(world, level, dataset, band):
    views = []
    for craft, light in LIGHT.items():
        prefix = f'{craft}_{"L1TP" if dataset is LandsatC2L1 else "L2SP"}'
        name = band if dataset is LandsatC2L1 else f'SR_{band}'
        ds = dataset(getattr(world, level)(size=120, prefix=prefix), bands=[name])
        views.append(ds[ds.bounds])
        told = [float(views[-1][key]) for key in ('wavelength', 'bandwidth')]
        assert told == pytest.approx(light[band], abs=1e-6)
    batch = collate_sensors([{'sensors': {level: (view,)}} for view in views])
    stacked = batch['sensors'][level][0]
    expected = torch.tensor([[light[band][0]] for light in LIGHT.values()])
    assert torch.allclose(stacked['wavelength'], expected)


@LEVELS
def test_band_in_another_crs_is_named_and_does_not_harm_the_others(world, code, level, dataset):
    folder = getattr(world, level)(size=120)
    (path,) = folder.glob('*_B3.TIF')
    path.unlink()  # else GDAL deletes the MTL file with it
    wrong = code.grid(code.left - 15, code.top + 15, 30, (4, 4), epsg=32633)
    code.write(path, np.full((4, 4), 9000, 'uint16'), wrong)
    three, four = (b for b in dataset.sensor.band_names if b.endswith(('B3', 'B4')))
    told = r'_B3\.TIF: is in EPSG:32633, the other bands in EPSG:32632'
    with pytest.warns(UserWarning, match=told), pytest.raises(DatasetNotFoundError):
        dataset(world.root, bands=[three, four])
    assert len(dataset(world.root, bands=[four], strict=True)) == 1


def test_metadata_without_a_value_of_the_calibration_are_named(world, code):
    folder = world.landsat_c2l1(size=120)
    text = code.mtl('20200614', '10:04:31Z').replace('REFLECTANCE_MULT_BAND_4', 'OTHER')
    rewrite_mtl(folder, text)
    told = r'_MTL\.txt: has no REFLECTANCE_MULT_BAND_4'
    with pytest.warns(UserWarning, match=told), pytest.raises(DatasetNotFoundError):
        LandsatC2L1(world.root)


@pytest.mark.parametrize('end', ['txt', 'json', 'xml'])
def test_real_product_is_read_to_the_digit(shared_data, tmp_path, end):
    name = 'LC08_L2SP_008059_20191201_20200825_02_T1'
    for path in (shared_data / 'landsat_c2l2').glob(f'{name}_*'):
        if '_MTL.' not in path.name or path.suffix == f'.{end}':
            (tmp_path / path.name).symlink_to(path)
    ds = LandsatC2L2(tmp_path, bands=['SR_B4', 'SR_B5', 'ST_B10'], strict=True)
    (row,) = ds.index.itertuples()
    assert (row.tile, row.platform, row.baseline) == ('008059', 'landsat-8', '02 T1')
    assert row.clear_fraction == pytest.approx(1 - 0.8102)
    files = {}
    for path in tmp_path.glob('*.TIF'):
        with rasterio.open(path) as src:
            files[path.stem.removeprefix(f'{name}_')] = src.read(1).astype(int)
            t, (height, width) = src.transform, src.shape
    # Its pixels were thinned, and are not square any more
    grid = Grid(raster_crs(str(ds.crs)), t.c, t.f, t.a, -t.e, width, height)
    sample = ds.view(row.filepath, grid)
    assert float(sample['t']) == seconds('2019-12-01T15:13:51')
    red, nir, thermal = (files[band] for band in ds.bands)
    saturated = files['QA_RADSAT'] & 0b100000011000  # of bands 4 and 5, or hidden terrain
    good = (files['QA_PIXEL'] & 0b11111 == 0) & (saturated == 0)
    good &= (red != 0) & (nir != 0) & (thermal != 0)
    assert 0 < good.sum() < good.size
    assert np.array_equal(sample['valid'], good)
    expected = np.stack([red * 2.75e-5 - 0.2, nir * 2.75e-5 - 0.2, thermal * 0.00341802 + 149])
    np.testing.assert_allclose(sample['image'][:, good], expected[:, good], rtol=1e-5, atol=1e-6)


def test_real_metadata_of_landsat_9_tell_the_second(world, shared_data):
    name = 'LC09_L2SP_010065_20220129_20220131_02_T1_MTL.txt'
    folder = world.landsat_c2l2('20220129', pathrow='010065', prefix='LC09_L2SP', size=120)
    rewrite_mtl(folder, (shared_data / 'landsat_mtl' / name).read_text())
    ds = LandsatC2L2(world.root)
    assert float(ds[ds.bounds]['t']) == seconds('2022-01-29T15:28:34')
