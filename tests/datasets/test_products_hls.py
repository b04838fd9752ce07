# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

import re
import warnings

import numpy as np
import pytest
import rasterio
import torch
from torchgeo.datasets import DatasetNotFoundError

from torchgeo_anysensor.datasets import HLSL30, HLSS30, collate_sensors
from torchgeo_anysensor.sensors import QA

PRODUCTS = pytest.mark.parametrize(('product', 'dataset'), [('S30', HLSS30), ('L30', HLSL30)])
START = 1_592_129_759  # 2020-06-14T10:15:59Z, day 166, in seconds since 1970
S30_BANDS = ('B01', 'B02', 'B03', 'B04', 'B05', 'B06', 'B07', 'B08', 'B8A', 'B09', 'B10')
BANDS = {
    'S30': (*S30_BANDS, 'B11', 'B12'),
    'L30': ('B01', 'B02', 'B03', 'B04', 'B05', 'B06', 'B07', 'B09', 'B10', 'B11'),
}


def write_codes(codes):
    def edit(data):
        data.flat[: len(codes)] = codes

    return edit


def fill(value):
    return lambda data: data.fill(value)


def tag(folder, band, **tags):
    """Change the tags of the file of one band."""
    (path,) = folder.glob(f'*.{band}.tif')
    with rasterio.open(path, 'r+') as dst:
        dst.update_tags(**tags)


@PRODUCTS
def test_every_band_lies_where_it_says(world, code, product, dataset):
    world.hls(product, size=240)
    ds = dataset(world.root, bands=BANDS[product], calibrate=False)
    sample = ds[ds.bounds]
    grid = code.grid(code.left, code.top, 30, (8, 8))
    expected = [np.round(code.encode(i, *code.centres(grid))) for i in range(len(BANDS[product]))]
    assert np.array_equal(sample['image'], np.stack(expected))
    assert sample['valid'].all()


# Fmask of the user guide, version 2.0: bit 0 cirrus (reserved, not used), 1 cloud, 2 next to cloud
# or shadow, 3 shadow, 4 snow or ice, 5 water, 6 and 7 aerosol level
FMASK = {
    0b00000000: 'land, aerosol by climatology',
    0b01000000: 'land, low aerosol',
    0b10000000: 'land, moderate aerosol',
    0b11000000: 'land, high aerosol',
    0b11100000: 'water, high aerosol',
    0b01010000: 'snow',
    0b01110000: 'snow on water',
    0b01000001: 'the bit that is not used',
    0b01000010: 'cloud',
    0b01000100: 'next to cloud',
    0b01001000: 'shadow',
    0b01100100: 'water next to cloud',
    0b11010010: 'cloud and snow',
    0b01001110: 'all three',
    0b11111111: 'fill',
}
CLEAR = {0b00000000, 0b01000000, 0b10000000, 0b11000000, 0b11100000, 0b01000001}
SNOW = {0b01010000, 0b01110000}
CLOUD = {0b01000010, 0b11010010, 0b01001110, 0b11111111}


@PRODUCTS
@pytest.mark.parametrize(
    ('qa', 'good'),
    [
        (True, CLEAR | SNOW),
        (QA('Fmask', bad_bits=(1, 2, 3, 4)), CLEAR),
        (QA('Fmask', bad_bits=(1,)), set(FMASK) - CLOUD),
        (QA('Fmask', bad_values=(255,)), set(FMASK) - {255}),
        (False, set(FMASK)),
    ],
)
def test_bits_of_fmask_that_are_good_are_the_documented_ones_or_the_users(
    world, product, dataset, qa, good
):
    world.hls(product, size=240, edit={'Fmask': write_codes(list(FMASK))})
    ds = dataset(world.root, qa=qa)
    valid = ds[ds.bounds]['valid'].flatten()
    assert {value for value, told in zip(FMASK, valid) if told} == good
    assert valid[len(FMASK) :].all()


@PRODUCTS
def test_nodata_is_not_valid_and_negative_reflectance_is(world, product, dataset):
    edit = {'B04': write_codes([-9999, -9998, -1, 0])}
    world.hls(product, size=240, edit=edit)
    ds = dataset(world.root, bands=['B03', 'B04'])
    sample = ds[ds.bounds]
    assert sample['valid'].flatten()[:4].tolist() == [False, True, True, True]
    expected = [0, -0.9998, -0.0001, 0]
    assert sample['image'][1].flatten()[:4].tolist() == pytest.approx(expected, abs=1e-7)


@PRODUCTS
def test_files_of_angles_are_passed_over(world, code, product, dataset):
    folder = world.hls(product, size=240)
    wrong = code.grid(code.left, code.top, 60, (4, 4), epsg=32633)
    for angle in ('SAA', 'SZA', 'VAA', 'VZA'):
        code.write(folder / f'{folder.name}.{angle}.tif', np.ones((4, 4), 'uint16'), wrong)
    (folder / f'{folder.name}.cmr.xml').write_text('<Granule/>')
    (folder / f'{folder.name}.jpg').write_bytes(b'x')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ds = dataset(world.root, strict=True)
    (acquisition,) = ds.acquisitions.values()
    assert set(acquisition.tiles[0].files) == {*BANDS[product], 'Fmask'}


SCALES = {'scale_factor': '0.0001', 'add_offset': '0'}


@PRODUCTS
@pytest.mark.parametrize('tags', [{}, SCALES, {'scale_factor': '1e-4', 'add_offset': '0.0'}])
def test_tags_that_agree_with_the_table_are_silent(world, product, dataset, tags):
    folder = world.hls(product, size=120, edit={'B04': fill(2000)})
    for band in BANDS[product]:
        thermal = product == 'L30' and band in ('B10', 'B11')
        tag(folder, band, **(tags | {'scale_factor': '0.01'} if thermal else tags))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ds = dataset(world.root, bands=['B04'], strict=True)
    assert float(ds[ds.bounds]['image'].max()) == pytest.approx(0.2)


@PRODUCTS
@pytest.mark.parametrize(
    ('tags', 'told'),
    [
        ({'scale_factor': '0.001'}, 'scale_factor=0.001, add_offset=0'),
        (SCALES | {'add_offset': '-0.1'}, 'scale_factor=0.0001, add_offset=-0.1'),
    ],
)
def test_tags_that_differ_from_the_table_warn_once_and_do_not_change_what_is_read(
    world, product, dataset, tags, told
):
    for day in range(166, 170):
        folder = world.hls(product, f'2020{day}T101559', size=120, edit={'B04': fill(2000)})
        tag(folder, 'B04', **tags)
    for _ in range(2):  # the second time by what is kept
        with pytest.warns(UserWarning, match=f'4 products.*B04 says {re.escape(told)}') as caught:
            ds = dataset(world.root, bands=['B03', 'B04'])
        assert len(caught) == 1
        assert ds[ds.bounds]['image'][1].unique().tolist() == pytest.approx([0.2])


S2 = 'S2{}_MSIL1C_20200614T101559_N0209_R065_T32TPQ_20200614T120000'
L8 = 'LC0{}_L1TP_193029_20200614_20200615_02_T1'
# tags, platform; in L30 they name each of the scenes that a tile is made of
SOURCES = [
    ('S30', {'PRODUCT_URI': f'{S2.format("A")}.SAFE'}, 'sentinel-2a'),
    ('S30', {'PRODUCT_URI': f'{S2.format("B")}.SAFE'}, 'sentinel-2b'),
    ('S30', {'PRODUCT_URI': f'{S2.format("C")}.SAFE + {S2.format("C")}.SAFE'}, 'sentinel-2c'),
    ('L30', {'LANDSAT_PRODUCT_ID': f'{L8.format(8)}; {L8.format(8)}'}, 'landsat-8'),
    ('L30', {'LANDSAT_PRODUCT_ID': L8.format(9)}, 'landsat-9'),
    ('S30', {}, ''),
    ('L30', {'LANDSAT_PRODUCT_ID': 'unknown'}, ''),
]


@pytest.mark.parametrize(('product', 'tags', 'platform'), SOURCES)
def test_row_of_the_index_and_the_second_of_the_acquisition(world, product, tags, platform):
    world.hls(product, size=120, tags=tags | {'cloud_coverage': '12'})
    ds = {'S30': HLSS30, 'L30': HLSL30}[product](world.root)
    (row,) = ds.index.itertuples()
    assert (row.tile, row.platform, row.baseline) == ('T32TPQ', platform, '2.0')
    assert row.clear_fraction == pytest.approx(0.88)
    assert float(ds[ds.bounds]['t']) == START


# Centre and width in um of B07 (COPE-GSEG-EOPG-TN-15-0007; Barsi et al. 2014 and NASA for L30)
LIGHT = {
    'S30': {'sentinel-2a': (0.7828, 0.019), 'sentinel-2b': (0.7797, 0.020)},
    'L30': {'landsat-8': (2.20073, 0.18666), 'landsat-9': (2.20012, 0.18948)},
}


@PRODUCTS
def test_light_of_each_platform_is_its_own_and_a_batch_keeps_both(world, product, dataset):
    tags = {platform: tags for _, tags, platform in SOURCES}
    views = []
    for platform, light in LIGHT[product].items():
        folder = world.hls(product, size=120, tags=tags[platform])
        ds = dataset(folder, bands=['B07', 'B04'], cache=False)
        views.append(ds[ds.bounds])
        told = [float(views[-1][key][0]) for key in ('wavelength', 'bandwidth')]
        assert told == pytest.approx(light, abs=1e-6)
    batch = collate_sensors([{'sensors': {'hls': (view,)}} for view in views])
    (stacked,) = batch['sensors']['hls']
    assert stacked['wavelength'].shape == (2, 2)
    expected = torch.tensor([light for light, _ in LIGHT[product].values()])
    assert torch.allclose(stacked['wavelength'][:, 0], expected)


def test_bands_of_one_name_are_other_light_in_the_two_products(world):
    world.hls('S30', size=120)
    world.hls('L30', size=120)
    light = {}
    for dataset in (HLSS30, HLSL30):
        ds = dataset(world.root, bands=['B05'], strict=True)
        assert len(ds) == 1
        light[dataset] = float(ds[ds.bounds]['wavelength'])
    assert light == {HLSS30: pytest.approx(0.7041), HLSL30: pytest.approx(0.86467)}


@PRODUCTS
@pytest.mark.parametrize('size', [1200, 15_600], ids=['each pixel', 'thinned'])
def test_clear_fraction_is_counted_in_fmask_where_no_tag_tells_it(world, product, dataset, size):
    def scene(data):  # a quarter was not observed; a third of the rest is next to cloud or snow
        n = len(data)
        data[: n // 4] = 255
        data[n // 4 : n // 2] = 0b01000100
        data[n // 2 : 3 * n // 4] = 0b01010000

    world.hls(product, size=size, bands=['B04', 'Fmask'], edit={'Fmask': scene})
    ds = dataset(world.root, bands=['B04'])
    assert ds.index.clear_fraction.tolist() == pytest.approx([2 / 3], abs=0.01)


@PRODUCTS
def test_band_in_another_crs_is_named_and_does_not_harm_the_others(world, code, product, dataset):
    folder = world.hls(product, size=120)
    (path,) = folder.glob('*.B03.tif')
    wrong = code.grid(code.left, code.top, 30, (4, 4), epsg=32633)
    code.write(path, np.ones((4, 4), 'int16'), wrong)
    told = r'\.B03\.tif: is in EPSG:32633, the other bands in EPSG:32632'
    with pytest.warns(UserWarning, match=told), pytest.raises(DatasetNotFoundError):
        dataset(world.root, bands=['B03', 'B04'])
    assert len(dataset(world.root, bands=['B04'], strict=True)) == 1


@PRODUCTS
def test_tile_of_another_zone_than_its_files_is_named_and_left_out(world, product, dataset):
    world.hls(product, size=120)
    world.hls(product, tile='T33TPQ', size=120, epsg=32632)
    told = 'T33TPQ.*: tile T33TPQ lies in UTM zone 33, its files say EPSG:32632'
    with pytest.warns(UserWarning, match=told):
        assert list(dataset(world.root).index.tile) == ['T32TPQ']


def test_tile_south_of_the_equator_may_be_in_the_northern_zone(world):
    # HLS gives all tiles northern zones, with negative northings in the south
    world.hls(tile='T32MPQ', size=120, top=-999_960)
    (row,) = HLSS30(world.root, strict=True).index.itertuples()
    assert row.tile == 'T32MPQ'


@pytest.fixture(scope='module')
def granule(shared_data):
    """Folder of a real granule, of which there is Fmask alone."""
    (folder,) = (shared_data / 'hls').glob('HLS.L30.*')
    return folder


def test_real_granule_is_masked_as_the_user_guide_says(granule, tmp_path, code):
    folder = tmp_path / granule.name
    folder.mkdir()
    for path in granule.iterdir():
        (folder / path.name).symlink_to(path)
    with rasterio.open(granule / f'{granule.name}.Fmask.tif') as src:
        fmask, t = src.read(1), src.transform
    band = np.full((3660, 3660), 1234, 'int16')
    grid = code.grid(t.c, t.f, 30, band.shape, epsg=32606)
    code.write(folder / f'{granule.name}.B04.tif', band, grid, compress='deflate')
    ds = HLSL30(tmp_path, bands=['B04'], strict=True)
    (row,) = ds.index.itertuples()
    assert (row.tile, row.platform, row.baseline) == ('T06WVS', 'landsat-8', '2.0')
    assert row.clear_fraction == pytest.approx(0.94)  # cloud_coverage 6
    sample = ds[ds.bounds]
    assert float(sample['t']) == np.datetime64('2024-04-29T21:11:59').astype(float)
    good = ~(np.isin(fmask, 255) | (fmask // 2 % 8 > 0))
    assert np.array_equal(sample['valid'], good)
    assert 0 < good.sum() < good.size
    assert sample['image'][0, good].unique().tolist() == pytest.approx([0.1234])
