# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What is broken is named and does no harm to the rest: products, files, and the cache."""

import io
import os
import re
import shutil
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
from PIL import Image
from rasterio.crs import CRS
from torchgeo.datasets import DatasetNotFoundError

from torchgeo_anysensor.datasets import HLSS30, Sentinel2L2A, StackDataset, cache, scan

RED = ('B04', 'SCL', 'Fmask')


def granule(world, day, **options):
    """One granule of HLS, and the file of its red band."""
    folder = world.hls(time=f'2020{day}T101559', size=120, bands=RED, **options)
    return next(folder.glob('*.B04.tif'))


def build(world, **options):
    return HLSS30(world.root, bands=['B04'], **options)


def broken_products(world, code):
    """Products with one thing wrong each, two good ones around them, and the reason of each."""
    good = granule(world, 150)
    granule(world, 250)
    granule(world, 151).write_bytes(b'no raster')
    granule(world, 152).write_bytes(good.read_bytes()[:-1])
    granule(world, 153, profile={'crs': None})
    granule(world, 154).unlink()
    granule(world, 155, tile='T33TUJ')
    beside = code.grid(code.left, code.top, 30, (4, 4), epsg=32633)
    mask = next(granule(world, 156).parent.glob('*Fmask.tif'))
    code.write(mask, np.zeros((4, 4), 'uint8'), beside)
    with rasterio.open(granule(world, 157), 'r+') as dst:
        dst.transform = rasterio.Affine(30, 0, code.left, 0, 30, code.top)
    Image.fromarray(np.ones((4, 4), 'uint8')).save(granule(world, 159))
    lost = granule(world, 158)
    lost.unlink()
    lost.symlink_to('/nowhere/B04.tif')
    return {
        '2020151': r'\.B04\.tif: not recognized',
        '2020152': r'\.B04\.tif: was cut off',
        '2020153': r'\.B04\.tif: has no coordinate reference system',
        '2020154': 'no B04',
        '2020155': 'tile T33TUJ lies in UTM zone 33, its files say EPSG:32632',
        '2020156': r'\.Fmask\.tif: is in EPSG:32633, the other bands in EPSG:32632',
        '2020157': r'\.B04\.tif: is not north up',
        '2020159': r'\.B04\.tif: has no coordinate reference system',
        '2020158': r'\.B04\.tif: .*No such file',
    }


def test_all_that_is_left_out_is_named_in_one_warning_with_a_count_and_reasons(world, code):
    expected = broken_products(world, code)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        dataset = build(world)
    assert len(told) == 1
    first, *lines = str(told[0].message).splitlines()
    assert first.startswith('9 of 11 products of hls_s30 cannot be used')
    for day, why in expected.items():
        (line,) = [line for line in lines if f'.{day}T' in line.split(':')[0]]
        assert re.search(rf': .*{why}', line), line
    assert [span.left.day_of_year for span in dataset.index.index] == [150, 250]
    assert sorted(dataset.problems) == sorted(
        {f'HLS.S30.{"T33TUJ" if "155" in day else "T32TPQ"}.{day}T101559.v2.0' for day in expected}
    )


def test_good_products_are_read_as_if_the_broken_ones_were_not_there(world, code, tmp_path):
    granule(world, 150)
    granule(world, 250)
    shutil.copytree(world.root, tmp_path / 'good')
    alone = HLSS30(tmp_path / 'good', bands=['B04'])
    broken_products(world, code)
    with pytest.warns(UserWarning, match='9 of 11'):
        dataset = build(world)
    assert alone.index.drop(columns='filepath').equals(dataset.index.drop(columns='filepath'))
    assert alone[alone.bounds]['image'].equal(dataset[dataset.bounds]['image'])


def test_strict_raises_what_is_otherwise_a_warning(world, code):
    broken_products(world, code)
    with pytest.warns(UserWarning, match='9 of 11') as told:
        build(world)
    with pytest.raises(ValueError, match='9 of 11') as raised:
        build(world, strict=True)
    assert str(raised.value) == str(told[0].message)


def test_strict_is_silent_where_all_is_well(world):
    granule(world, 150)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert len(build(world, strict=True)) == 1


def test_long_list_is_cut_in_the_warning_and_whole_in_the_attribute(world):
    for day in range(100, 130):
        path = granule(world, day)
        if day > 101:
            path.write_bytes(b'')
    with pytest.warns(UserWarning, match='28 of 30 products') as told:
        dataset = build(world)
    _, *lines, last = str(told[0].message).splitlines()
    assert sum('.B04.tif:' in line for line in lines) == len(lines) == 20
    assert last == '  and 8 more; see the attribute `problems`'
    assert len(dataset.problems) == 28
    assert all('B04.tif' in why for why in dataset.problems.values())


def test_nothing_left_is_the_error_of_torchgeo_after_the_warning(world):
    granule(world, 150).write_bytes(b'')
    with pytest.warns(UserWarning, match='1 of 1 products'), pytest.raises(DatasetNotFoundError):
        build(world)


def test_broken_band_that_is_not_asked_for_does_no_harm(world):
    folder = world.hls(size=120, bands=('B03', 'B04', 'Fmask'))
    next(folder.glob('*.B03.tif')).write_bytes(b'')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert len(build(world, strict=True)) == 1
    with pytest.warns(UserWarning, match=r'B03\.tif'), pytest.raises(DatasetNotFoundError):
        HLSS30(world.root, bands=['B03', 'B04'])


def test_archives_that_are_none_are_counted_and_named(world, tmp_path):
    safe = world.sentinel2_l2a(size=120, bands=RED)
    archives = tmp_path / 'zip'
    archives.mkdir()
    with zipfile.ZipFile(archives / f'{safe.stem}.zip', 'w') as zipped:
        for path in safe.rglob('*'):
            zipped.write(path, path.relative_to(world.root))
    whole = (archives / f'{safe.stem}.zip').read_bytes()
    for turn, content in enumerate((b'', b'text', whole[: len(whole) // 2], whole[:-1])):
        (archives / f'{safe.stem}{turn}.zip').write_bytes(content)
    with pytest.warns(UserWarning, match='4 of 5 products') as told:
        dataset = Sentinel2L2A(archives, bands=['B04'])
    assert len(dataset) == 1
    for turn in range(4):
        assert f'{safe.stem}{turn}.zip: not a readable archive' in str(told[0].message)


# -- files that are not what was expected ------------------------------------------------------


@pytest.fixture
def chips(tmp_path, code):
    """Writer of chips of one band, and what makes a dataset of them."""

    def write(name='chip_20200614.tif', crs=None, **profile):
        grid = code.grid(code.left, code.top, 10, (12, 12))
        profile = ({'crs': crs} if crs else {}) | profile
        return code.write(
            tmp_path / 'chips' / name, np.full((12, 12), 2000, 'uint16'), grid, **profile
        )

    options = {'bands': ['B04'], 'scale': 1e-4, 'filename_glob': '*_20*'}
    return write, lambda **more: StackDataset(
        'sentinel2_l2a', tmp_path / 'chips', **(options | more)
    )


def test_name_of_a_file_need_not_end_like_its_format(chips):
    write, make = chips
    for turn, name in enumerate(('a_20200614.img', 'b_20200615', 'c_20200616.TIFF')):
        write(name)
        assert len(make(strict=True)) == turn + 1


def test_file_that_is_no_raster_is_named_whatever_its_name(chips):
    write, make = chips
    write().with_name('notes_20200615.txt').write_text('no raster')
    with pytest.warns(UserWarning, match=r'1 of 2 .*\n.*notes_20200615.txt: not recognized'):
        assert len(make()) == 1


LOCAL = CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1]]')


def test_raster_that_is_not_bound_to_the_globe_is_read_and_kept(chips, tmp_path):
    write, make = chips
    write(crs=LOCAL)
    for _ in range(2):
        dataset = make()
        assert dataset[dataset.bounds]['image'].mean() == pytest.approx(0.2)
    (path,) = (tmp_path / 'chips' / '.torchgeo_anysensor').iterdir()
    assert gpd.read_parquet(path).geometry.tolist() == [None]


@pytest.mark.parametrize('crs', [None, 'EPSG:32632', 'EPSG:4326'])
def test_raster_that_the_index_cannot_show_is_named(chips, crs):
    write, make = chips
    write('a_20200614.tif', crs=LOCAL)
    write('b_20200615.tif')
    with pytest.raises(ValueError, match=r'_2020061\d.tif .*cannot be drawn in .* crs='):
        make(crs=crs)


# -- the cache ---------------------------------------------------------------------------------


def overwrite(**columns):
    """Other values in columns of a cache."""

    def change(path):
        pd.read_parquet(path).assign(**columns).to_parquet(path)

    return change


DAMAGE = {
    'empty': lambda path: path.write_bytes(b''),
    'text': lambda path: path.write_text('no parquet'),
    'half': lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    'head cut off': lambda path: path.write_bytes(path.read_bytes()[100:]),
    'foreign': lambda path: pd.DataFrame({'a': [1]}).to_parquet(path),
    'another format': overwrite(format=0),
    'facts are no JSON': overwrite(facts='{'),
    'facts lack what is needed': overwrite(facts='{}'),
    'facts are a number': overwrite(facts=3),
}


@pytest.fixture
def opened(monkeypatch):
    """Names of the files whose headers are read."""
    names: list[str] = []
    read_header = scan._read_header
    monkeypatch.setattr(scan, '_read_header', lambda path: names.append(path) or read_header(path))
    return names


@pytest.fixture
def hls(world):
    """Three granules, and what makes a dataset of them."""
    for day in (160, 170, 180):
        granule(world, day)
    return lambda: build(world)


def kept(folder):
    """Files in the cache beside the data."""
    return sorted((folder / '.torchgeo_anysensor').glob('*'))


def same(one, other):
    """Two datasets know and read the same."""
    assert one.index.equals(other.index)
    assert one[one.bounds]['image'].equal(other[other.bounds]['image'])


@pytest.mark.parametrize('damage', DAMAGE)
def test_damaged_or_foreign_cache_is_ignored_and_written_anew(world, hls, opened, damage):
    one = hls()
    (path,) = kept(world.root)
    DAMAGE[damage](path)
    opened.clear()
    same(one, hls())
    assert len(opened) == 6
    assert len(gpd.read_parquet(path)) == 3
    opened.clear()
    same(one, hls())
    assert opened == []


def test_no_flipped_bit_is_believed(world, hls):
    dataset = hls()
    (path,) = kept(world.root)
    good, rng = path.read_bytes(), np.random.default_rng(0)

    def load():
        tiles = dataset._tiles(dataset._list().files)
        new = cache.load(path, tiles, cache.stamps(tiles, str(world.root)))
        return new, tiles

    expected = load()[1]
    ignored = 0
    for bit in rng.integers(0, 8 * len(good), 150):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        new, tiles = load()
        ignored += len(new) == 3
        assert all(tile in new or tile == other for tile, other in zip(tiles, expected))
        assert all(not tile.crs and not tile.headers for tile in new)
    assert ignored > 10


def test_text_that_was_changed_in_place_is_not_believed(world, hls, opened):
    one = hls()
    (path,) = kept(world.root)
    path.write_bytes(path.read_bytes().replace(b'EPSG:32632', b'EPSG:32633'))
    opened.clear()
    same(one, hls())
    assert len(opened) == 6


def test_writer_that_is_interrupted_leaves_the_old_file(world, hls, monkeypatch):
    hls()
    (path,) = kept(world.root)
    good = path.read_bytes()
    world.hls(time='2020190T101559', size=120, bands=RED)

    def half(self, draft, **options):
        draft.write_bytes(good[: len(good) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(gpd.GeoDataFrame, 'to_parquet', half)
    with pytest.raises(KeyboardInterrupt):
        hls()
    assert kept(world.root) == [path]
    assert path.read_bytes() == good


def test_full_disk_costs_time_and_nothing_else(world, hls, monkeypatch):
    def full(self, draft, **options):
        draft.write_bytes(b'PAR1')
        raise OSError('No space left on device')

    monkeypatch.setattr(gpd.GeoDataFrame, 'to_parquet', full)
    assert len(hls()) == 3
    assert kept(world.root) == []


def test_writers_at_the_same_time_never_leave_a_half_file(world, hls):
    dataset = hls()
    (path,) = kept(world.root)
    files = dataset._list().files
    tiles = dataset._tiles(files)
    marks = cache.stamps(tiles, str(world.root))
    cache.load(path, tiles, marks)

    def write(turn):
        some = slice(0, 1 + turn // 3 % 3)
        cache.save(path, tiles[some], marks[some])

    def look(turn):
        return len(gpd.read_parquet(io.BytesIO(path.read_bytes())))

    def load(turn):
        return 3 - len(cache.load(path, dataset._tiles(files), marks))

    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit((write, look, load)[turn % 3], turn) for turn in range(150)]
    for kind in (look, load):
        assert {job.result() for job in jobs[1 + (kind is load) :: 3]} == {1, 2, 3}
    assert kept(world.root) == [path]


def test_datasets_made_at_the_same_time_are_all_right(world, hls):
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda turn: hls(), range(6)))
    for dataset in made:
        same(made[0], dataset)
    assert len(kept(world.root)) == 1


def test_cache_can_be_read_by_others(world, hls):
    old = os.umask(0o022)
    try:
        hls()
    finally:
        os.umask(old)
    assert kept(world.root)[0].stat().st_mode & 0o777 == 0o644
