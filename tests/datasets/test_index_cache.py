# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What was learnt of products is kept, and is trusted no longer than it holds."""

import os
import shutil
import zipfile

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest

from torchgeo_anysensor.datasets import (
    HLSS30,
    LandsatC2L1,
    LandsatC2L2,
    Sentinel2L1C,
    Sentinel2L2A,
    StackDataset,
    catalog,
    scan,
)
from torchgeo_anysensor.sensors import QA

RED = ('B04', 'SCL', 'Fmask')
LANDSAT = ('SR_B4', 'B4', 'B10', 'QA_PIXEL', 'QA_RADSAT')
FOLDER = '.torchgeo_anysensor'


@pytest.fixture
def opened(monkeypatch):
    """Names of the files whose headers are read."""
    names: list[str] = []
    read_header = scan._read_header

    def count(path):
        names.append(os.path.basename(path))
        return read_header(path)

    monkeypatch.setattr(scan, '_read_header', count)
    return names


@pytest.fixture
def hls(world):
    """Three granules, and what makes a dataset of them."""
    for day in (160, 170, 180):
        world.hls(time=f'2020{day}T101559', size=120, bands=RED)
    return lambda **options: HLSS30(world.root, bands=['B04'], **options)


def days(names):
    """Days of the year of the granules that files belong to."""
    return sorted({int(name.split('.')[3][4:7]) for name in names})


def kept(folder):
    """Files in the cache beside the data."""
    return sorted((folder / FOLDER).glob('*'))


def same(one, other):
    """Two datasets know and read the same."""
    assert one.index.equals(other.index)
    assert one.index.index.dtype == other.index.index.dtype
    assert one.index.columns.tolist() == other.index.columns.tolist()
    a, b = one[one.bounds], other[other.bounds]
    assert all(a[key].equal(b[key]) for key in a)


# -- what is kept ------------------------------------------------------------------------------


def test_cache_is_geoparquet_in_longitude_and_latitude(world, hls):
    dataset = hls()
    (path,) = kept(world.root)
    frame = gpd.read_parquet(path)
    assert len(frame) == 3
    assert frame.crs.is_geographic
    assert frame.crs.axis_info[0].direction == 'east'
    expected = dataset.index.geometry.to_crs('OGC:CRS84').union_all()
    assert frame.union_all().symmetric_difference(expected).area < 1e-4 * expected.area
    assert frame.total_bounds.round(2).tolist() == [10.25, 44.25, 10.25, 44.25]


def test_ground_over_the_antimeridian_is_kept_as_two_parts(tmp_path, code):
    grid = code.grid(357_960, 7_212_420, 30, (40, 40), epsg=32601)  # around 180 E, 65 N
    for band in ('B04', 'Fmask'):
        path = tmp_path / f'HLS.S30.T01WCP.2020166T101559.v2.0.{band}.tif'
        code.write(path, np.full((40, 40), 64, 'int16'), grid)
    HLSS30(tmp_path, bands=['B04'])
    frame = gpd.read_parquet(kept(tmp_path)[0])
    (geometry,) = frame.geometry
    assert geometry.geom_type == 'MultiPolygon'
    assert geometry.is_valid
    assert frame.total_bounds[[0, 2]].tolist() == [-180, 180]
    assert sum(part.bounds[2] - part.bounds[0] for part in geometry.geoms) < 0.1


def test_everything_that_is_learnt_is_kept(world):
    world.sentinel2_l2a(size=120, bands=RED)
    world.sentinel2_l1c(size=120, bands=RED, offset=-500)
    world.landsat_c2l1(size=120, bands=LANDSAT)
    for cls, bands in ((Sentinel2L2A, 'B04'), (Sentinel2L1C, 'B04'), (LandsatC2L1, 'B10')):
        one, other = (cls(world.root, bands=[bands]) for _ in range(2))
        same(one, other)
        assert one.acquisitions.keys() == other.acquisitions.keys()
        for a, b in zip(one.acquisitions.values(), other.acquisitions.values()):
            for tile in (*a.tiles, *b.tiles):
                tile.tags.clear()  # headers tell them, and nothing asks for them again
                tile.counts.clear()
            assert a == b


def test_what_the_user_should_know_is_said_from_the_cache_too(world):
    world.hls(size=120, bands=RED, tags={'scale_factor': '0.1'})
    world.landsat_c2l1(size=120, time=None, bands=LANDSAT)
    for _ in range(2):
        with pytest.warns(UserWarning, match='scale_factor=0.1'):
            HLSS30(world.root, bands=['B04'])
        with pytest.raises(ValueError, match='needs the sun'):
            LandsatC2L1(world.root, bands=['B4'])
    assert len(kept(world.root)) == 2


# -- when it is trusted ------------------------------------------------------------------------


def test_no_header_is_opened_the_second_time(hls, opened):
    one = hls()
    assert len(opened) == 6
    opened.clear()
    same(one, hls())
    assert opened == []


def test_no_quality_pixel_is_read_the_second_time(hls, monkeypatch):
    hls()
    monkeypatch.setattr(catalog, 'read', None)
    assert hls().index.clear_fraction.tolist() == [1, 1, 1]


def touch(path):
    """Change the time of a file, and nothing else."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def grow(path):
    """Change the size of a file, and not its time."""
    status = path.stat()
    path.write_bytes(path.read_bytes() + b'0')
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize('change', [touch, grow])
@pytest.mark.parametrize('band', ['B04', 'Fmask'])
def test_product_with_a_changed_file_is_read_anew_and_no_other(world, hls, opened, change, band):
    one = hls()
    opened.clear()
    change(next(world.root.rglob(f'*2020170*{band}.tif')))
    same(one, hls())
    assert days(opened) == [170]
    opened.clear()
    hls()
    assert opened == []


def test_metadata_that_changed_count_as_a_changed_product(world):
    world.landsat_c2l2(size=120, bands=LANDSAT)
    (mtl,) = world.root.rglob('*_MTL.txt')

    def start():
        return LandsatC2L2(world.root, bands=['SR_B4']).index.index[0].left

    assert start() == pd.Timestamp('2020-06-14T10:04:31')
    mtl.write_text(mtl.read_text().replace('10:04:31', '10:04:41'))
    assert start() == pd.Timestamp('2020-06-14T10:04:41')
    mtl.unlink()
    assert start() == pd.Timestamp('2020-06-14')


def test_new_product_is_read_and_no_other(world, hls, opened):
    hls()
    opened.clear()
    world.hls(time='2020190T101559', size=120, bands=RED)
    assert len(hls()) == 4
    assert days(opened) == [190]
    opened.clear()
    assert len(hls()) == 4
    assert opened == []


def test_product_that_is_gone_is_forgotten_and_no_other_is_read(world, hls, opened):
    hls()
    opened.clear()
    shutil.rmtree(next(world.root.glob('*2020170*')))
    assert [span.left.day_of_year for span in hls().index.index] == [160, 180]
    assert opened == []


def test_renamed_product_is_read_anew(world, hls, opened):
    hls()
    opened.clear()
    for path in next(world.root.glob('*2020170*')).iterdir():
        path.rename(path.with_name(path.name.replace('2020170', '2020171')))
    assert [span.left.day_of_year for span in hls().index.index] == [160, 171, 180]
    assert days(opened) == [171]


def test_content_that_changed_is_seen(world, hls):
    assert hls().index.clear_fraction.tolist() == [1, 1, 1]
    world.hls(time='2020170T101559', size=120, bands=RED, edit={'Fmask': lambda data: data.fill(2)})
    assert hls().index.clear_fraction.tolist() == [1, 0, 1]


def test_unreadable_product_is_not_kept_as_such(hls, opened, monkeypatch):
    """It may be the disk or the network: the next time it is tried again, and it alone."""
    count = scan._read_header

    def fail(path):
        if '2020170' in path:
            raise OSError('the network is down')
        return count(path)

    with monkeypatch.context() as patch:
        patch.setattr(scan, '_read_header', fail)
        with pytest.warns(UserWarning, match=r'1 of 3 .*\n.*2020170.*the network is down'):
            assert len(hls()) == 2
    opened.clear()
    assert len(hls()) == 3
    assert days(opened) == [170]


# -- where it is kept --------------------------------------------------------------------------


def test_whole_folder_may_be_moved(world, hls, opened, tmp_path):
    one = hls()
    opened.clear()
    shutil.move(world.root, tmp_path / 'else' / 'where')
    moved = HLSS30(tmp_path / 'else' / 'where', bands=['B04'])
    assert opened == []
    assert moved[moved.bounds]['valid'].all()
    assert moved.index.drop(columns='filepath').equals(one.index.drop(columns='filepath'))


def test_several_folders_may_be_moved_together(world, opened, tmp_path):
    for name, day in (('a', 160), ('b', 170)):
        world.root = tmp_path / 'old' / name
        world.hls(time=f'2020{day}T101559', size=120, bands=RED)
    HLSS30([tmp_path / 'old' / 'a', tmp_path / 'old' / 'b'], bands=['B04'])
    opened.clear()
    shutil.move(tmp_path / 'old', tmp_path / 'new')
    assert len(HLSS30([tmp_path / 'new' / 'a', tmp_path / 'new' / 'b'], bands=['B04'])) == 2
    assert opened == []


def test_archives_may_be_moved_and_are_trusted_as_a_whole(world, opened, tmp_path):
    safe = world.sentinel2_l2a(size=120, bands=RED)
    (tmp_path / 'zip').mkdir()
    with zipfile.ZipFile(tmp_path / 'zip' / f'{safe.stem}.zip', 'w') as zipped:
        for path in safe.rglob('*'):
            zipped.write(path, path.relative_to(world.root))
    Sentinel2L2A(tmp_path / 'zip', bands=['B04'])
    assert len(opened) == 5
    opened.clear()
    shutil.move(tmp_path / 'zip', tmp_path / 'moved')
    dataset = Sentinel2L2A(tmp_path / 'moved', bands=['B04'])
    assert dataset[dataset.bounds]['valid'].all()
    assert opened == []
    touch(tmp_path / 'moved' / f'{safe.stem}.zip')
    Sentinel2L2A(tmp_path / 'moved', bands=['B04'])
    assert len(opened) == 5


def test_path_as_text_or_with_a_slash_or_relative_is_the_same(world, hls, opened, monkeypatch):
    hls()
    opened.clear()
    monkeypatch.chdir(world.root.parent)
    for path in (str(world.root), f'{world.root}/', world.root.name, f'./{world.root.name}'):
        assert len(HLSS30(path, bands=['B04'])) == 3
    assert opened == []


def test_read_only_data_are_kept_in_the_users_cache(world, hls, opened, monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'xdg'))
    monkeypatch.setattr(os, 'access', lambda path, mode: os.fspath(path) != str(world.root))
    one = hls()
    assert not (world.root / FOLDER).exists()
    assert len(list((tmp_path / 'xdg' / 'torchgeo_anysensor').glob('*.parquet'))) == 1
    opened.clear()
    same(one, hls())
    assert opened == []


def test_without_xdg_the_users_cache_is_in_the_home_folder(world, hls, monkeypatch, tmp_path):
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    monkeypatch.setattr(os, 'access', lambda path, mode: False)
    hls()
    assert len(list((tmp_path / 'home' / '.cache' / 'torchgeo_anysensor').iterdir())) == 1


def test_folder_of_ones_own_holds_the_cache(world, hls, opened, tmp_path):
    for folder in (tmp_path / 'mine', str(tmp_path / 'mine')):
        hls(cache=folder)
    assert len(opened) == 6
    assert not (world.root / FOLDER).exists()
    assert len(list((tmp_path / 'mine').iterdir())) == 1


def test_two_places_do_not_share_a_row_in_one_folder(world, hls, opened, tmp_path):
    hls(cache=tmp_path / 'mine')
    shutil.copytree(world.root, tmp_path / 'copy')  # the same names, sizes and times
    world.hls(time='2020160T101559', size=120, bands=RED, edit={'Fmask': lambda data: data.fill(2)})
    opened.clear()
    other = HLSS30(tmp_path / 'copy', bands=['B04'], cache=tmp_path / 'mine')
    assert days(opened) == [160, 170, 180]
    assert other.index.clear_fraction.tolist() == [1, 1, 1]
    assert hls(cache=tmp_path / 'mine').index.clear_fraction.tolist() == [0, 1, 1]


def test_without_a_cache_nothing_is_written_or_trusted(world, hls, opened):
    for _ in range(2):
        hls(cache=False)
    assert len(opened) == 12
    assert not (world.root / FOLDER).exists()


def test_folder_that_cannot_be_written_costs_time_and_nothing_else(hls, opened, tmp_path):
    (tmp_path / 'file').write_text('in the way')
    for _ in range(2):
        assert len(hls(cache=tmp_path / 'file' / 'folder')) == 3
    assert len(opened) == 12
    assert (tmp_path / 'file').read_text() == 'in the way'


# -- who shares it -----------------------------------------------------------------------------


def test_all_grids_of_a_sensor_share_it(world, opened):
    world.sentinel2_l2a(size=120)
    for res in (10, 20, 60):
        Sentinel2L2A(world.root, res=res)
    Sentinel2L2A(world.root, bands=['B8A'], res=10, qa=False, baseline='02.14', crs='EPSG:32633')
    assert len(opened) == len(list(world.root.rglob('*.tif')))
    assert len(kept(world.root)) == 1


def test_levels_of_a_sensor_do_not_mix(world):
    world.sentinel2_l2a(size=120, bands=RED)
    world.sentinel2_l1c(size=120, bands=RED)
    for _ in range(2):
        assert Sentinel2L2A(world.root, bands=['B04']).sensor.name[-3:] == 'l2a'
        assert Sentinel2L1C(world.root, bands=['B04']).sensor.name[-3:] == 'l1c'
    assert [path.name.split('-')[0] for path in kept(world.root)] == [
        'sentinel2_l1c',
        'sentinel2_l2a',
    ]


STACK = {'bands': ['B04', 'B03', 'CLOUD'], 'scale': 1e-4}
DECLARED = [
    STACK | {'qa': QA('CLOUD', bad_values=(7,))},
    STACK | {'qa': QA('CLOUD', bad_values=(8,))},
    STACK | {'qa': QA('CLOUD', bad_values=(7,)), 'bands': ['B04', 'CLOUD', 'B03']},
    STACK | {'qa': QA('CLOUD', bad_values=(7,)), 'date': '20200101', 'filename_regex': '.*'},
    STACK | {'date': '20200102', 'filename_regex': '.*'},
]


def test_differently_declared_stacks_of_one_folder_do_not_mix(tmp_path, code):
    grid = code.grid(code.left, code.top, 10, (10, 10))
    data = np.full((3, 10, 10), 1000, 'int16')
    data[1], data[2, :3], data[2, 3] = 5, 7, 8
    code.write(tmp_path / 'stack' / 'chip_20200614.tif', data, grid)

    def build(options, **more):
        return StackDataset('sentinel2_l2a', tmp_path / 'stack', **options, **more)

    alone = [build(options, cache=False) for options in DECLARED]
    clear = [dataset.index.clear_fraction.iloc[0] for dataset in alone]
    assert clear[:4] == pytest.approx([0.7, 0.9, 1, 0.7])
    for _ in range(2):
        for one, options in zip(alone, DECLARED):
            same(one, build(options))
