# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Files become tiles, tiles of one pass one acquisition, acquisitions rows of the index."""

import os
import threading
import time

import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from torchgeo_anysensor.datasets import (
    HLSL30,
    HLSS30,
    LandsatC2L2,
    MultiSensorDataset,
    Sentinel2L1C,
    Sentinel2L2A,
    StackDataset,
    catalog,
    scan,
)
from torchgeo_anysensor.datasets.index import find_tiles
from torchgeo_anysensor.sensors import QA

RED = ('B04', 'SCL', 'Fmask', 'SR_B4', 'QA_PIXEL', 'QA_RADSAT')
RAW = {'bands': ['B04'], 'calibrate': False}


def fill(value, where=slice(None)):
    def edit(data):
        data[where] = value

    return edit


def seconds(text):
    return float(np.datetime64(text, 's').astype(float))


# -- from the headers --------------------------------------------------------------------------


def test_index_is_made_without_reading_a_pixel_where_metadata_tell_the_clouds(world, monkeypatch):
    world.hls(size=120, bands=RED, tags={'cloud_coverage': '25'})
    world.landsat_c2l2(size=120, bands=RED)
    monkeypatch.setattr(catalog, 'read', None)
    dataset = HLSS30(world.root, bands=['B04'], cache=False)
    assert dataset.index.clear_fraction.tolist() == [0.75]
    with pytest.raises(TypeError):  # without metadata, the quality band tells
        LandsatC2L2(world.root, bands=['SR_B4'], cache=False)


def test_headers_of_several_products_are_read_at_the_same_time(world, monkeypatch):
    for day in (160, 170):
        world.hls(time=f'2020{day}T101559', size=120, bands=RED)
    meet, read_header = threading.Barrier(2, timeout=20), scan._read_header

    def wait(path):
        if path.endswith('.B04.tif'):
            meet.wait()  # a single reader would wait in vain
        return read_header(path)

    monkeypatch.setattr(scan, '_read_header', wait)
    assert len(HLSS30(world.root, bands=['B04'], strict=True)) == 2


def test_progress_counts_the_products_and_names_the_sensor(world, monkeypatch):
    for day in (160, 170, 180):
        world.hls(time=f'2020{day}T101559', size=120, bands=RED)
    bars = []

    def bar(steps, **options):
        steps = list(steps)
        bars.append((len(steps), options['total'], options['desc']))
        return steps

    monkeypatch.setattr(scan, 'tqdm', bar)
    title = HLSS30(world.root, bands=['B04']).sensor.title
    HLSS30(world.root, bands=['B04'])  # all is known: there is nothing to wait for
    world.hls(time='2020190T101559', size=120, bands=RED)
    HLSS30(world.root, bands=['B04'])
    assert bars == [(3, 3, title), (1, 1, title)]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data())
def test_order_of_the_files_does_not_matter(data):
    regex = r'(?P<product>(?P<tile>T\w+)_(?P<date>\d+))_(?P<band>B\d+)(?:_(?P<res>\d+)m)?\.tif'
    files = [f'/d/{t}_{d}_{b}.tif' for t in ('T1', 'T2') for d in '12' for b in ('B1', 'B2_10m')]
    mixed = data.draw(st.permutations([*files, '/d/other.txt', '/d/T1.tif']))
    tiles = find_tiles(mixed, filename_regex=regex, name=lambda path, match: match['product'])
    assert [(t.name, t.date, t.tile) for t in tiles] == [
        (f'{t}_{d}', d, t) for t in ('T1', 'T2') for d in '12'
    ]
    for tile in tiles:
        assert tile.files['B1'] == {0: f'/d/{tile.name}_B1.tif'}
        assert tile.files['B2'] == {10: f'/d/{tile.name}_B2_10m.tif'}


# -- tiles of one pass -------------------------------------------------------------------------


def two_tiles(world, code, name, **options):
    """Two tiles of one pass that overlap by 120 m; a dataset of the red band."""
    for turn, tile in enumerate(('T32TPQ', 'T32TQQ')):
        more = {'left': code.left + 120 * turn, 'size': 240, 'bands': RED, **options}
        if name == 'landsat':
            more |= {'pathrow': f'19302{8 + turn}', 'left': more['left'] - 15}
            world.landsat_c2l2(**more)
        else:
            getattr(world, name)(tile=tile, **more)
    dataset, band = {
        'hls': (HLSS30, 'B04'),
        'sentinel2_l2a': (Sentinel2L2A, 'B04'),
        'landsat': (LandsatC2L2, 'SR_B4'),
    }[name]
    return lambda **more: dataset(world.root, bands=[band], **more)


NAMES = pytest.mark.parametrize('name', ['hls', 'sentinel2_l2a', 'landsat'])


@NAMES
def test_tiles_of_one_pass_are_one_row_over_the_ground_of_both(world, code, name):
    dataset = two_tiles(world, code, name)(calibrate=False)
    assert len(dataset) == 1
    left = code.left - (15 if name == 'landsat' else 0)
    top = code.top + (15 if name == 'landsat' else 0)
    ground = shapely.box(left, top - 240, left + 360, top)
    assert dataset.index.geometry.iloc[0].equals(ground)
    assert len(dataset.index.tile.iloc[0].split(',')) == 2


@NAMES
def test_patch_over_the_border_of_two_tiles_is_whole_and_in_place(world, code, name):
    dataset = two_tiles(world, code, name)(calibrate=False)
    sample = dataset[dataset.bounds]
    assert sample['valid'].all()
    left, _, _, top = dataset.index.total_bounds
    rows, cols = sample['valid'].shape
    grid = code.grid(left, top, dataset.pixel, (rows, cols))
    place = dataset.sensor.band_names.index(dataset.bands[0])
    truth = np.round(code.encode(place, *code.centres(grid)))
    assert np.array_equal(sample['image'][0], truth)


def test_first_valid_pixel_wins_in_the_order_of_the_names(world, code):
    """Cloud in the first tile is filled by the second, and nothing else."""
    shared = (slice(None), slice(4, 8))  # columns of the first tile that the second sees too
    cloud = (slice(None), slice(4, 6))
    first = {'B04': fill(1), 'Fmask': fill(2, cloud)}
    world.hls(tile='T32TPQ', size=240, bands=RED, edit=first)
    options = {'tile': 'T32TQQ', 'size': 240, 'bands': RED, 'left': code.left + 120}
    world.hls(**options, edit={'B04': fill(2)})
    dataset = HLSS30(world.root, **RAW)
    image = dataset[dataset.bounds]['image'][0]
    assert image.shape == (8, 12)
    assert (image[:, :4] == 1).all()
    assert (image[cloud] == 2).all()
    assert (image[shared][:, 2:] == 1).all()
    assert (image[:, 8:] == 2).all()


def test_pixel_comes_from_one_tile_in_all_bands(world, code):
    """What lacks one band in the first tile takes none of its others."""
    bands = ('B03', 'B04', 'Fmask')
    hole = fill(-9999, (0, 5))
    world.hls(size=240, bands=bands, edit={'B03': hole, 'B04': fill(1)})
    edit = {'B03': fill(2), 'B04': fill(2)}
    world.hls(tile='T32TQQ', size=240, bands=bands, edit=edit, left=code.left + 120)
    dataset = HLSS30(world.root, bands=['B03', 'B04'], calibrate=False)
    sample = dataset[dataset.bounds]
    assert sample['image'][:, 0, 5].tolist() == [2, 2]
    assert sample['image'][1, 0, 6] == 1
    assert sample['valid'].all()


def test_pixel_that_no_tile_saw_well_is_not_valid(world, code):
    two_tiles(world, code, 'hls', edit={'Fmask': fill(2, (slice(None), slice(4, 6)))})
    sample = (dataset := HLSS30(world.root, **RAW))[dataset.bounds]
    # The clouds of the second tile lie 120 m further east, where the first one does not reach
    assert (~sample['valid']).nonzero()[:, 1].unique().tolist() == [8, 9]
    assert (sample['image'][:, ~sample['valid']] == 0).all()


@pytest.mark.parametrize(
    ('other', 'rows'),
    [
        ({'tile': 'T32TQQ'}, 1),
        ({'tile': 'T32TQQ', 'time': '20200614T101600'}, 2),
        ({'tile': 'T32TQQ', 'platform': 'S2B'}, 2),
        ({'tile': 'T32TQQ', 'baseline': '0510'}, 2),
        ({'tile': 'T33TUJ', 'epsg': 32633}, 2),
        ({'time': '20200617T102559'}, 2),  # the neighbouring orbit
    ],
)
def test_one_pass_has_one_time_platform_baseline_and_zone(world, other, rows):
    for options in ({}, other):
        world.sentinel2_l2a(size=120, bands=RED, **options)
    dataset = Sentinel2L2A(world.root, **RAW)
    assert len(dataset) == rows
    assert sum(len(a.tiles) for a in dataset.acquisitions.values()) == 2


def test_two_paths_of_one_day_are_two_acquisitions_and_two_rows_of_a_path_one(world):
    for pathrow, clock in (('193029', '10:04:31'), ('193030', '10:04:55'), ('192029', '09:58:00')):
        world.landsat_c2l2(pathrow=pathrow, time=f'{clock}.5Z', size=120, bands=RED)
    index = LandsatC2L2(world.root, bands=['SR_B4']).index
    assert [tile.split(',') for tile in index.tile] == [['192029'], ['193029', '193030']]
    assert index.index[1].left == pd.Timestamp('2020-06-14T10:04:31')
    assert index.index[1].right == pd.Timestamp('2020-06-14T10:04:55.999999')


def test_two_tiles_of_one_pass_are_one_row_of_combinations(world, code):
    two_tiles(world, code, 'hls')
    world.hls('L30', tile='T32TPQ', left=code.left, size=360, bands=RED)
    dataset = MultiSensorDataset({'s': HLSS30(world.root, **RAW), 'l': HLSL30(world.root, **RAW)})
    assert len(dataset) == 1
    sample = dataset[code.left : code.left + 360, code.top - 240 : code.top]
    (s30,), (l30,) = sample['sensors']['s'], sample['sensors']['l']
    assert s30['valid'].all()
    assert s30['valid'].shape == (8, 12)
    assert l30['image'].equal(s30['image'])  # B04 is at one place of both tables


# -- time --------------------------------------------------------------------------------------


@pytest.mark.parametrize('zone', ['UTC', 'Pacific/Auckland', 'America/Los_Angeles'])
def test_t_is_the_acquisition_in_utc_wherever_the_computer_is(world, monkeypatch, zone):
    world.hls(time='2020166T235959', size=120, bands=RED)
    world.sentinel2_l2a('20200614T101559', size=120, bands=RED)
    world.landsat_c2l2(time='10:04:31.9234560Z', size=120, bands=RED)
    monkeypatch.setitem(os.environ, 'TZ', zone)
    time.tzset()
    try:
        for cls, band, expected in (
            (HLSS30, 'B04', '2020-06-14T23:59:59'),
            (Sentinel2L2A, 'B04', '2020-06-14T10:15:59'),
            (LandsatC2L2, 'SR_B4', '2020-06-14T10:04:31'),
        ):
            for _ in range(2):  # from the files and from the cache
                dataset = cls(world.root, bands=[band])
                assert float(dataset[dataset.bounds]['t']) == seconds(expected)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_t_is_that_of_the_tile_that_the_patch_lies_in(world, code):
    clocks = ('10:04:31', '10:04:55')
    for turn, clock in enumerate(clocks):
        world.landsat_c2l2(
            pathrow=f'19302{8 + turn}', time=f'{clock}.5Z', left=code.left + 120 * turn, size=240,
            bands=RED,
        )  # fmt: skip
    dataset = LandsatC2L2(world.root, bands=['SR_B4'])
    top = code.top
    for east, clock in ((0, 0), (90, 0), (180, 0), (210, 0), (240, 1), (300, 1)):
        sample = dataset[code.left + east : code.left + east + 60, top - 60 : top]
        assert float(sample['t']) == seconds(f'2020-06-14T{clocks[clock]}'), east


def test_s2_without_dates_in_its_names_has_the_time_of_its_metadata_to_the_second(world):
    safe = world.sentinel2_l2a('20200614T101559', size=120, bands=RED)
    for path in list(safe.rglob('*.tif')):
        path.rename(path.with_name(f'{path.stem.split("_", 2)[2]}.tif'))
    dataset = Sentinel2L2A(world.root, bands=['B04'])
    assert float(dataset[dataset.bounds]['t']) == seconds('2020-06-14T10:15:59')


# -- clear fraction ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('name', 'dataset', 'qa', 'bad', 'fill_value'),
    [
        ('hls', HLSS30, 'Fmask', 2, 255),
        ('sentinel2_l2a', Sentinel2L2A, 'SCL', 9, 0),
        ('landsat_c2l2', LandsatC2L2, 'QA_PIXEL', 8, 1),
    ],
)
def test_clear_fraction_is_the_clear_share_of_what_was_observed(
    world, code, name, dataset, qa, bad, fill_value
):
    def edit(data):
        n = len(data) // 4
        data[: 2 * n] = fill_value
        data[2 * n : 3 * n] = bad

    size = {'left': code.left, 'top': code.top, 'size': 1200} if name == 'landsat_c2l2' else {}
    getattr(world, name)(edit={qa: edit}, bands=RED, **size)
    bands = ['SR_B4'] if name == 'landsat_c2l2' else ['B04']
    assert dataset(world.root, bands=bands).index.clear_fraction.tolist() == [0.5]


def test_clear_fraction_of_two_tiles_counts_their_ground(world, code):
    world.hls(size=240, bands=RED, tags={'cloud_coverage': '80'})
    options = {'tile': 'T32TQQ', 'left': code.left + 240, 'bands': RED}
    world.hls(size=480, tags={'cloud_coverage': '20'}, **options)
    # (0.2 * 1 + 0.8 * 4) / 5
    assert HLSS30(world.root, **RAW).index.clear_fraction.tolist() == pytest.approx([0.68])


def test_clear_fraction_of_a_tile_without_any_pixel_is_none(world):
    world.hls(size=240, bands=RED, edit={'Fmask': fill(255)})
    assert HLSS30(world.root, **RAW).index.clear_fraction.tolist() == [0]


def test_clear_fraction_that_nothing_tells_is_unknown(tmp_path, code):
    grid = code.grid(code.left, code.top, 10, (6, 6))
    code.write(tmp_path / 'a_20200614.tif', np.full((6, 6), 9, 'uint16'), grid)
    index = StackDataset('sentinel2_l2a', tmp_path, bands=['B04'], scale=1).index
    assert index.clear_fraction.isna().all()


def test_large_quality_band_is_thinned_and_still_measured(world):
    def half(data):
        data[:, : len(data) // 2] = 2

    world.hls(size=30 * 1000, bands=('Fmask', 'B04'), edit={'Fmask': half, 'B04': fill(5)})
    clear = HLSS30(world.root, **RAW).index.clear_fraction.iloc[0]
    assert clear == pytest.approx(0.5, abs=0.01)


def test_max_cloud_asks_the_index_and_reads_no_pixel(world, monkeypatch):
    for day, cover in ((160, 10), (170, 50), (180, 90)):
        tags = {'cloud_coverage': str(cover)}
        world.hls(time=f'2020{day}T101559', size=120, bands=RED, tags=tags)
    monkeypatch.setattr(catalog, 'read', None)
    for most, rows in ((0.05, 0), (0.1, 1), (0.49, 1), (0.5, 2), (0.9, 3), (1, 3)):
        if rows:
            assert len(HLSS30(world.root, max_cloud=most, **RAW)) == rows
        else:
            with pytest.raises(ValueError, match=r'none of 3 .* the clearest has 0\.10'):
                HLSS30(world.root, max_cloud=most, **RAW)


def test_level_1c_counts_its_cloud_masks(world):
    edit = {'MSK_CLASSI': fill(1, (0, slice(0, 5)))}
    world.sentinel2_l1c(bands=RED, edit=edit)
    assert Sentinel2L1C(world.root, **RAW).index.clear_fraction.tolist() == [0.75]


def test_quality_of_ones_own_is_measured_too(tmp_path, code):
    grid = code.grid(code.left, code.top, 10, (10, 10))
    data = np.stack([np.full((10, 10), 9), np.arange(100).reshape(10, 10)]).astype('uint16')
    code.write(tmp_path / 'a_20200614.tif', data, grid)
    qa = QA('Q', bad_values=tuple(range(30)))
    options = {'bands': ['B04', 'Q'], 'scale': 1, 'qa': qa}
    index = StackDataset('sentinel2_l2a', tmp_path, **options).index
    assert index.clear_fraction.tolist() == [0.7]
