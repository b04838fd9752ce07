# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from pyproj import Transformer
from torchgeo.datasets import DatasetNotFoundError

from torchgeo_anysensor.datasets import (
    HLSL30,
    HLSS30,
    LandsatC2L1,
    LandsatC2L2,
    SensorDataset,
    Sentinel2L1C,
    Sentinel2L2A,
)
from torchgeo_anysensor.sensors import QA, SENSORS

DATASETS = {
    cls.sensor.name: cls
    for cls in (Sentinel2L2A, Sentinel2L1C, LandsatC2L2, LandsatC2L1, HLSS30, HLSL30)
}
ALL = pytest.mark.parametrize('name', DATASETS)
# What the builder writes of each product by default, without metadata of its own
PARTS = {'hls_s30': ('hls', 'S30'), 'hls_l30': ('hls', 'L30')}


def build(world, name, **options):
    """One acquisition of a sensor; the dataset's folder."""
    method, *args = PARTS.get(name, (name,))
    getattr(world, method)(*args, **options)
    return world.root


def set_at(row, col, value):
    """An edit of one pixel."""

    def edit(data):
        data[row, col] = value

    return edit


def digital_numbers(code, dataset, grid):
    """What the builder wrote at the pixels of *grid*, ``(C, H, W)``."""
    places = [dataset.sensor.band_names.index(band) for band in dataset.bands]
    return np.stack([np.round(code.encode(place, *code.centres(grid))) for place in places])


def whole(dataset):
    """The whole of the only acquisition, and its grid."""
    path = dataset.index.filepath.iloc[0]
    left, bottom, right, top = dataset.index.total_bounds
    grid, dx, dy = dataset.native_grid(
        path, left=left, top=top, width=right - left, height=top - bottom
    )
    assert (dx, dy) == (0, 0)
    return dataset.view(path, grid), grid


def test_every_sensor_of_the_table_has_a_dataset():
    assert set(DATASETS) == set(SENSORS)


@ALL
def test_pixels_lie_where_they_say(world, code, name):
    dataset = DATASETS[name](build(world, name), calibrate=False)
    sample, grid = whole(dataset)
    assert sample['valid'].all()
    assert np.array_equal(sample['image'].numpy(), digital_numbers(code, dataset, grid))


@ALL
def test_patch_of_a_query_is_read_in_place(world, code, name):
    dataset = DATASETS[name](build(world, name), calibrate=False)
    left, _, _, top = dataset.index.total_bounds
    res = dataset.res[0]
    sample = dataset[left + 3 * res : left + 11 * res, top - 9 * res : top - 4 * res]
    grid = code.grid(left + 3 * res, top - 4 * res, res, (5, 8))
    assert np.array_equal(sample['image'].numpy(), digital_numbers(code, dataset, grid))


# Those of Landsat Level-1 are the scene's: test_products_landsat.py
@pytest.mark.parametrize('name', [name for name in DATASETS if name != 'landsat_c2l1'])
def test_scale_and_offset_are_the_tables(world, code, name):
    dataset = DATASETS[name](build(world, name))
    sample, grid = whole(dataset)
    dn = digital_numbers(code, dataset, grid)
    for layer, band in enumerate(dataset.sensor.select(dataset.bands)):
        np.testing.assert_allclose(
            sample['image'][layer], dn[layer] * band.scale + band.offset, atol=1e-6
        )


@ALL
def test_facts_of_the_bands_are_the_tables(world, name):
    dataset = DATASETS[name](build(world, name, size=120))
    sample, _ = whole(dataset)
    platform = 'landsat-9' if name == 'landsat_c2l1' else ''
    known = {band.name: band for band in dataset.sensor.bands_of(platform)}
    bands = [known[band] for band in dataset.bands]
    for key, field in (
        ('wavelength', 'center_wavelength_um'),
        ('bandwidth', 'fwhm_um'),
        ('gsd', 'gsd_m'),
    ):
        expected = torch.tensor([getattr(band, field) for band in bands])
        assert torch.equal(sample[key], expected), key
    assert sample['res'] == dataset.res[0]
    assert sample['image'].dtype == torch.float32
    assert sample['valid'].dtype == torch.bool
    assert sample['t'].dtype == torch.float64


@ALL
def test_place_and_level_are_told(world, name):
    sample, grid = whole(DATASETS[name](build(world, name, size=120)))
    left, bottom, right, top = grid.bounds
    to_degrees = Transformer.from_crs(grid.crs.to_wkt(), 'EPSG:4326', always_xy=True)
    lon, lat = to_degrees.transform((left + right) / 2, (bottom + top) / 2)
    assert (float(sample['lon']), float(sample['lat'])) == pytest.approx((lon, lat), abs=1e-9)
    assert float(sample['level']) == (0 if name in ('sentinel2_l1c', 'landsat_c2l1') else 1)


@ALL
def test_default_bands_are_the_reflectance_of_the_reds_grid(world, name):
    dataset = DATASETS[name](build(world, name, size=120))
    table = dataset.sensor.bands
    red = next(band for band in table if band.common_name == 'red')
    assert dataset.bands == tuple(
        b.name for b in table if b.unit == 'reflectance' and b.gsd_m == red.gsd_m
    )
    assert dataset.res == (red.gsd_m, red.gsd_m)


@ALL
def test_nodata_in_one_band_makes_the_pixel_invalid_in_all(world, name):
    table = SENSORS[name]
    bands = DATASETS[name](build(world, name, size=120)).bands
    places = {band: divmod(number, 4) for number, band in enumerate(bands)}
    edits = {band: set_at(*place, table.nodata) for band, place in places.items()}
    sample, _ = whole(DATASETS[name](build(world, name, size=240, edit=edits)))
    bad = {tuple(place) for place in (~sample['valid']).nonzero().tolist()}
    assert bad == {*places.values()}


@ALL
def test_masks_before_scaling(world, name):
    """A masked pixel is 0, not what scale and offset make of nodata."""
    table = SENSORS[name]
    band = DATASETS[name](build(world, name, size=120)).bands[0]
    build(world, name, size=240, edit={band: set_at(1, 2, table.nodata)})
    sample, _ = whole(DATASETS[name](world.root))
    assert not sample['valid'][1, 2]
    assert (sample['image'][:, 1, 2] == 0).all()
    assert (sample['image'][:, sample['valid']] != 0).all()


@pytest.mark.parametrize(
    ('name', 'dn', 'expected'),
    [
        ('sentinel2_l2a', 900, -0.01),
        ('sentinel2_l1c', 1, -0.0999),
        ('landsat_c2l2', 7000, -0.0075),
        ('hls_s30', -50, -0.005),
        ('hls_l30', -50, -0.005),
    ],
)
def test_negative_reflectance_is_kept(world, name, dn, expected):
    band = SENSORS[name].rgb[0]
    build(world, name, size=120, edit={band: set_at(1, 1, dn)})
    dataset = DATASETS[name](world.root)
    sample, _ = whole(dataset)
    assert sample['valid'].all()
    value = sample['image'][dataset.bands.index(band), 1, 1]
    assert float(value) == pytest.approx(expected, abs=1e-6)


# The masks of Level-1C are a format of their own: test_products_sentinel2.py
WITH_QA = pytest.mark.parametrize('name', [n for n in DATASETS if n != 'sentinel2_l1c'])


def codes_of(qa, dtype_bits):
    """All codes to try, one a pixel: each single bit, and each small value."""
    return [0, *(1 << bit for bit in range(dtype_bits))] if qa.bad_bits else list(range(12))


def write_codes(codes):
    def edit(data):
        data.flat[: len(codes)] = codes

    return edit


@WITH_QA
def test_quality_bits_and_values_mask_as_the_table_says(world, name):
    qa = SENSORS[name].qa[0]
    codes = codes_of(qa, 8)
    build(world, name, size=240, edit={qa.band: write_codes(codes)})
    options = {'res': 20} if name == 'sentinel2_l2a' else {}
    sample, _ = whole(DATASETS[name](world.root, **options))
    told = sample['valid'].flatten()[: len(codes)].tolist()
    good = [c not in qa.bad_values and not any(c >> b & 1 for b in qa.bad_bits) for c in codes]
    assert told == good
    assert sample['valid'].flatten()[len(codes) :].all()


@WITH_QA
def test_without_quality_only_nodata_masks(world, name):
    qa = SENSORS[name].qa[0]
    build(world, name, size=240, edit={qa.band: write_codes(codes_of(qa, 8))})
    assert whole(DATASETS[name](world.root, qa=False))[0]['valid'].all()


@WITH_QA
def test_quality_of_ones_own_replaces_the_tables(world, name):
    band = SENSORS[name].qa[0].band
    build(world, name, size=240, edit={band: write_codes([16, 8, 3, 5])})
    options = {'res': 20} if name == 'sentinel2_l2a' else {}
    bits = whole(DATASETS[name](world.root, qa=QA(band, bad_bits=(4,)), **options))[0]
    assert bits['valid'].flatten()[:4].tolist() == [False, True, True, True]
    values = whole(DATASETS[name](world.root, qa=QA(band, bad_values=(3, 5)), **options))[0]
    assert values['valid'].flatten()[:4].tolist() == [True, True, False, False]


def test_pixel_beyond_the_quality_file_is_not_valid(world, code):
    world.hls(size=240)
    (path,) = world.root.rglob('*Fmask.tif')
    code.write(path, np.zeros((4, 8), 'uint8'), code.grid(code.left, code.top, 30, (4, 8)))
    sample, _ = whole(HLSS30(world.root))
    assert sample['valid'][:4].all()
    assert not sample['valid'][4:].any()


@WITH_QA
def test_missing_quality_file_is_named_and_can_be_done_without(world, name):
    build(world, name, size=120)
    band = SENSORS[name].qa[0].band
    for path in list(world.root.rglob(f'*{band}*')):
        path.unlink()
    with pytest.warns(UserWarning, match=rf'no {band}'), pytest.raises(DatasetNotFoundError):
        DATASETS[name](world.root)
    assert whole(DATASETS[name](world.root, qa=False))[0]['valid'].all()


@ALL
def test_acquisition_without_a_band_is_named_and_left_out(world, name):
    times = {'hls_s30': '2020170T101559', 'hls_l30': '2020170T101559'}
    build(world, name, size=120)
    band = DATASETS[name](world.root).bands[-1]
    quality = [qa.band for qa in SENSORS[name].qa]
    keep = [b for b in (*SENSORS[name].band_names, *quality) if b != band]
    method, *args = PARTS.get(name, (name,))
    late = times.get(name, '20200618' if 'landsat' in name else '20200618T101559')
    getattr(world, method)(*args, late, size=120, bands=keep)
    day = late[4:7] if name in times else '0618'
    with pytest.warns(UserWarning, match=rf'1 of 2 .*\n.*{day}.*: no {band}$'):
        dataset = DATASETS[name](world.root)
    assert len(dataset) == 1
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert len(DATASETS[name](world.root, bands=dataset.bands[:1])) == 2


@ALL
def test_unknown_band_is_named_with_those_that_are_known(world, name):
    with pytest.raises(ValueError, match=rf'{name} has no band B99; known are .*\w'):
        DATASETS[name](world.root, bands=['B99'])


@ALL
@pytest.mark.parametrize('make', [True, False])
@pytest.mark.filterwarnings('ignore:Could not find any relevant files')
def test_nothing_found_raises_the_error_of_torchgeo(tmp_path, name, make):
    folder = tmp_path / 'empty'
    if make:
        folder.mkdir()
    with pytest.raises(DatasetNotFoundError, match='empty'):
        DATASETS[name](folder)


def test_files_that_only_look_alike_are_passed_over(world):
    world.hls(size=120)
    (world.root / 'HLS.S30.T32TPQ.2020166T101559.v2.0.SAA.tif').write_text('angles')
    (world.root / 'HLS.S30.T32TPQ.2020166T101559.v2.0.B04.tif.aux.xml').write_text('<PAM/>')
    assert len(HLSS30(world.root)) == 1


@pytest.mark.parametrize('damage', ['truncated', 'text', 'empty'])
def test_unreadable_file_is_named_and_left_out(world, damage):
    world.hls(size=120)
    world.hls(time='2020171T101559', size=120)
    (path,) = world.root.rglob('*2020171*.B02.tif')
    content = {'truncated': path.read_bytes()[:60], 'text': b'not a raster', 'empty': b''}
    path.write_bytes(content[damage])
    with pytest.warns(UserWarning, match=r'1 of 2 .* left out:\n.*2020171T101559\.v2\.0\.B02'):
        dataset = HLSS30(world.root)
    assert len(dataset) == 1


def test_file_without_a_crs_is_named_and_left_out(world, code):
    world.hls(size=120)
    world.hls(time='2020171T101559', size=120, profile={'crs': None})
    with pytest.warns(UserWarning, match=r'2020171.*no coordinate reference system'):
        assert len(HLSS30(world.root)) == 1


def test_file_without_its_last_pixels_is_named_and_left_out(world):
    for time in ('2020166T101559', '2020171T101559'):
        world.hls(time=time, size=1200, profile={'compress': 'none'})
    (path,) = world.root.rglob('*2020171*.B04.tif')
    path.write_bytes(path.read_bytes()[:-1])
    told = (
        r'1 of 2 .*\n.*2020171.*\.B04\.tif: was cut off: it has \d+ bytes, its pixels end at byte'
    )
    with pytest.warns(UserWarning, match=told):
        assert len(HLSS30(world.root)) == 1


def test_pixels_cut_off_later_raise_when_they_are_read(world):
    world.hls(size=1200, profile={'compress': 'none'})
    dataset = HLSS30(world.root)
    (path,) = world.root.rglob('*.B04.tif')
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(OSError, match='Read failed'):
        dataset[dataset.bounds]


def test_thermal_band_comes_only_when_asked_for(world):
    world.landsat_c2l2(size=120)
    assert 'ST_B10' not in LandsatC2L2(world.root).bands
    sample, _ = whole(LandsatC2L2(world.root, bands=['SR_B4', 'ST_B10']))
    assert sample['image'].shape[0] == 2
    assert sample['image'][0].max() < 1
    assert sample['image'][1].min() > 170


def test_thermal_band_alone_is_on_the_grid_of_its_file(world):
    world.landsat_c2l2(size=120)
    dataset = LandsatC2L2(world.root, bands=['ST_B10'])
    assert dataset.res == (30, 30)
    assert whole(dataset)[0]['gsd'].tolist() == [100]


def test_celsius_becomes_kelvin(world):
    world.hls('L30', size=120, edit={'B10': set_at(0, 0, 2500), 'B11': set_at(0, 0, -1050)})
    sample, _ = whole(HLSL30(world.root, bands=['B04', 'B10', 'B11']))
    assert sample['image'][1:, 0, 0].tolist() == pytest.approx([298.15, 262.65], abs=1e-3)


def test_instant_of_the_name_is_the_time_of_the_view(world):
    world.hls(time='2020166T101559', size=120)
    dataset = HLSS30(world.root)
    expected = np.datetime64('2020-06-14T10:15:59').astype('datetime64[s]').astype(float)
    assert float(dataset[dataset.bounds]['t']) == expected


def test_time_is_the_acquisitions_and_not_the_querys(world):
    world.hls(time='2020166T101559', size=120)
    world.hls(time='2020176T101559', size=120)
    dataset = HLSS30(world.root)
    late = dataset.index.index[1].left
    x, y, t = dataset.bounds
    first, second = dataset[x, y, t], dataset[x, y, late : late + 10 * (late - late)]
    assert float(second['t'] - first['t']) == 10 * 86400


def test_earliest_valid_pixel_wins(world):
    world.hls(time='2020166T101559', size=120, edit={'Fmask': set_at(0, 0, 2)})
    world.hls(time='2020176T101559', size=120, edit={'B04': lambda data: data.fill(1)})
    dataset = HLSS30(world.root, bands=['B04'], calibrate=False)
    image = dataset[dataset.bounds]['image'][0]
    assert image[0, 0] == 1
    assert (image.flatten()[1:] != 1).all()


def test_time_is_that_of_the_first_with_a_pixel(world):
    world.hls(time='2020166T101559', size=120, edit={'Fmask': lambda data: data.fill(2)})
    world.hls(time='2020176T101559', size=120)
    sample = (dataset := HLSS30(world.root))[dataset.bounds]
    assert sample['valid'].all()
    assert float(sample['t']) == np.datetime64('2020-06-24T10:15:59').astype(float)


def test_neighbour_that_shares_an_edge_is_no_answer(world, code):
    world.hls(tile='T32TPQ', time='2020176T101559', size=120)
    world.hls(tile='T32TQQ', time='2020166T101559', size=120, left=code.left + 120)
    dataset = HLSS30(world.root)
    sample = dataset[code.left : code.left + 120, code.top - 120 : code.top]
    assert float(sample['t']) == np.datetime64('2020-06-24T10:15:59').astype(float)
    with pytest.raises(IndexError, match='not found in dataset with bounds'):
        dataset[code.left : code.left + 120, code.top : code.top + 60]


def test_patch_over_two_tiles_is_whole(world, code):
    world.hls(tile='T32TPQ', size=120)
    world.hls(tile='T32TQQ', size=120, left=code.left + 120)
    dataset = HLSS30(world.root, calibrate=False)
    sample = dataset[dataset.bounds]
    grid = code.grid(code.left, code.top, 30, (4, 8))
    assert sample['valid'].all()
    assert np.array_equal(sample['image'].numpy(), digital_numbers(code, dataset, grid))


def test_sensor_of_ones_own_needs_a_table_and_nothing_else(world):
    table = SENSORS['hls_s30']
    red = replace(table.select(['B04'])[0], scale=1.0, offset=3.0)

    class Mine(SensorDataset):
        sensor = replace(table, name='mine', bands=(red,), qa=(), platforms={})

    world.hls(size=120, edit={'B04': set_at(0, 0, 39), 'Fmask': set_at(0, 0, 2)})
    dataset = Mine(world.root)
    assert dataset[dataset.bounds]['image'][:, 0, 0].tolist() == [42]
