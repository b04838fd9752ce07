# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

import math

import numpy as np
import pytest

from torchgeo_anysensor.datasets import LandsatC2L1, LandsatC2L2

LEVELS = pytest.mark.parametrize(
    ('level', 'dataset'), [('landsat_c2l1', LandsatC2L1), ('landsat_c2l2', LandsatC2L2)]
)


def seconds(text):
    return np.datetime64(text).astype('datetime64[s]').astype(float)


def fill(value):
    return lambda data: data.fill(value)


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


def test_real_product_is_read(shared_data):
    dataset = LandsatC2L2(shared_data / 'landsat_c2l2', bands=['SR_B4', 'SR_B5', 'ST_B10'])
    assert len(dataset) == 1
    sample = dataset[dataset.bounds]
    values = sample['image'][:, sample['valid']]
    assert values.shape[1] > 0
    assert values[:2].min() >= -0.2
    assert values[:2].max() < 1.7
    assert 200 < values[2].mean() < 320
    assert float(sample['t']) % 86400 not in (0, 43200)  # from the MTL
