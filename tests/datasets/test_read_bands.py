# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""The fast ways to read a view, and that they read what the slow ones do."""

import math
import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer
from rasterio.enums import Resampling
from rasterio.errors import RasterioIOError
from rasterio.warp import transform as warp_points

from torchgeo_anysensor.datasets import HLSS30, MultiSensorDataset
from torchgeo_anysensor.datasets import read as reading
from torchgeo_anysensor.datasets.geometry import raster_crs
from torchgeo_anysensor.datasets.grid import Grid
from torchgeo_anysensor.datasets.handles import layers, open_raster
from torchgeo_anysensor.datasets.read import read, read_bands
from torchgeo_anysensor.datasets.resample import local_map

SIZE = 120  # pixels along each side of the files
MANY = settings(max_examples=80, deadline=None, derandomize=True)


@pytest.fixture(scope='module')
def files(tmp_path_factory, code):
    """Two bands in one file, and two in files of their own: 10 m, noise, with holes."""
    folder = tmp_path_factory.mktemp('bands')
    rng = np.random.default_rng(0)
    data = rng.integers(1, 60_000, (4, SIZE, SIZE), dtype='uint16')
    data[0, 20:30, 40:60], data[3, 70:80, 70:75] = 0, 65535
    grid = code.grid(code.left, code.top, 10, (SIZE, SIZE))
    options = {'tiled': True, 'blockxsize': 32, 'blockysize': 32, 'compress': 'deflate'}
    both = code.write(folder / 'both.tif', data[:2], grid, **options)
    ones = [code.write(folder / f'{i}.tif', data[i], grid, **options) for i in (2, 3)]
    return [(str(both), 1), (str(ones[0]), 1), (str(ones[1]), 1), (str(both), 2)]


def slowly(places, grid, *, nodata=0, saturated=65535):
    """Band by band, in the type of the file."""
    layers, valid = [], True
    for path, number in places:
        data, inside = read(
            path, grid, indexes=[number], nodata=nodata, resampling=Resampling.bilinear
        )
        layers.append(data[0].astype('float32'))
        valid = valid & inside & (data[0] != nodata) & (data[0] != saturated)
    return np.stack(layers), valid


@MANY
@given(
    res=st.sampled_from([10, 5, 2, 20, 7]),
    corner=st.tuples(st.integers(-20, SIZE), st.integers(-20, SIZE)),
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    order=st.permutations(range(4)),
)
def test_fast_and_slow_ways_give_the_same_pixels(files, code, res, corner, shape, order):
    places = [files[i] for i in order]
    grid = code.grid(code.left + 10 * corner[0], code.top - 10 * corner[1], res, shape)
    image, valid = read_bands(places, grid, nodata=0, saturated=65535)
    truth, good = slowly(places, grid)
    assert image.dtype in {np.dtype('uint16'), np.dtype('float32')}
    if res == 20:  # the slow way lets saturated pixels into means
        fine = code.grid(grid.left, grid.top, 10, (2 * shape[0], 2 * shape[1]))
        full = (slowly(places, fine)[0] == 65535).any(axis=0)
        good &= ~full.reshape(shape[0], 2, shape[1], 2).any(axis=(1, 3))
    if res == 7:  # and rounds
        good &= valid
        assert np.array_equal(valid, good)
        apart = abs(image - truth)[:3][:, valid]
        assert (apart[[i for i in range(3) if order[i] != 2]] <= 0.51).all()
    else:
        assert np.array_equal(valid, good)
        assert np.array_equal(image[:, valid], truth[:, valid])


def test_bands_of_one_grid_are_read_at_once_in_however_many_files(files, code, tmp_path):
    both, one, other, _ = files
    coarse = code.grid(code.left, code.top, 20, (60, 60))
    path = code.write(tmp_path / 'coarse.tif', np.ones((60, 60), 'uint16'), coarse)
    parts = layers([both, one, (str(path), 1), other, (both[0], 2)])
    assert [part.rows for part in parts] == [[0, 1, 3, 4], [2]]
    whole, alone = parts
    assert alone.raster.src is open_raster(str(path))
    with rasterio.open(both[0]) as pair, rasterio.open(one[0]) as a, rasterio.open(other[0]) as b:
        truth = np.stack([pair.read(1), a.read(1), b.read(1), pair.read(2)])
    assert np.array_equal(whole.raster.src.read(whole.indexes), truth)
    assert whole.raster.src.dtypes == ('uint16',) * 4


def test_bands_of_several_types_keep_their_numbers(tmp_path, code):
    grid = code.grid(code.left, code.top, 10, (8, 8))
    values = {'uint8': 200, 'int16': -5, 'float32': 0.25, 'int32': 2**20, 'int8': -100}
    places = [
        (str(code.write(tmp_path / f'{kind} & {i}.tif', np.full((8, 8), value, kind), grid)), 1)
        for kind, value in values.items()
        for i in range(2)
    ]
    image, valid = read_bands(places, grid, nodata=0)
    assert valid.all()
    assert image[:, 3, 3].tolist() == [value for value in values.values() for _ in range(2)]


@pytest.fixture
def pair(tmp_path, code):
    """Two files of one grid, deflate in blocks of 16 pixels, and what they hold."""
    grid = code.grid(code.left, code.top, 10, (256, 256))
    data = np.stack([code.encode(place, *code.centres(grid)) for place in (0, 1)]).astype('uint16')
    options = {'tiled': True, 'blockxsize': 16, 'blockysize': 16, 'compress': 'deflate'}
    paths = [code.write(tmp_path / f'{i}.tif', data[i], grid, **options) for i in range(2)]
    return [(str(path), 1) for path in paths], data


def test_joined_file_that_is_written_anew_is_read_anew_within_a_second(pair, code, monkeypatch):
    places, data = pair
    grid = code.grid(code.left, code.top, 10, (256, 256))
    monkeypatch.setattr('torchgeo_anysensor.datasets.handles.monotonic', lambda: 5.1)
    assert np.array_equal(read_bands(places, grid, nodata=None)[0], data)
    code.write(Path(places[1][0]), np.full((256, 256), 7, 'uint16'), grid)
    monkeypatch.setattr('torchgeo_anysensor.datasets.handles.monotonic', lambda: 6.0)
    image, _ = read_bands(places, grid, nodata=None)
    assert np.array_equal(image[0], data[0])
    assert (image[1] == 7).all()


def test_files_are_looked_at_once_a_second(pair, code, monkeypatch):
    places, _ = pair
    looks = []
    monkeypatch.setattr(
        'torchgeo_anysensor.datasets.handles.stamp', lambda path: looks.append(path) or (1, 1)
    )
    monkeypatch.setattr('torchgeo_anysensor.datasets.handles.monotonic', lambda: 7.5)
    layers(places)
    first = len(looks)  # to open them takes looks too
    layers(places)
    assert len(looks) == first
    monkeypatch.setattr('torchgeo_anysensor.datasets.handles.monotonic', lambda: 8.0)
    layers(places)
    assert looks[first:] == [path for path, _ in places]


def right_pixels(places, data, code, seed):
    """Whether windows all over two files have their own pixels."""
    for col, row in np.random.default_rng(seed).integers(0, 240, (150, 2)):
        part = code.grid(code.left + col * 10, code.top - row * 10, 10, (16, 16))
        image, _ = read_bands(places, part, nodata=None)
        if not np.array_equal(image, data[:, row : row + 16, col : col + 16]):
            return False
    return True


def test_forked_reader_of_joined_files_gets_the_right_pixels(pair, code):
    places, data = pair
    assert right_pixels(places, data, code, 0)  # the parent holds the files
    context = multiprocessing.get_context('fork')
    answers = context.Queue()
    children = [
        context.Process(target=lambda: answers.put(right_pixels(places, data, code, os.getpid())))
        for _ in range(2)
    ]
    for child in children:
        child.start()
    assert right_pixels(places, data, code, 1)
    assert [answers.get(timeout=30) for _ in children] == [True, True]
    for child in children:
        child.join()


def test_each_thread_has_handles_of_its_own(pair):
    places, _ = pair
    with ThreadPoolExecutor(1) as pool:
        there = pool.submit(lambda: layers(places)[0].raster.src).result()
    here = layers(places)[0].raster.src
    assert here is layers(places)[0].raster.src
    assert here is not there


def test_damaged_file_among_others_is_named(pair, code):
    places, _ = pair
    damaged = Path(places[1][0])
    damaged.write_bytes(damaged.read_bytes()[:-2000])
    with pytest.raises(RasterioIOError) as found:
        read_bands(places, code.grid(code.left, code.top, 10, (256, 256)), nodata=None)
    assert damaged.name in f'{found.value} {found.value.__cause__}'


def test_numbers_that_float32_cannot_hold_are_compared_as_they_are(tmp_path, code):
    grid = code.grid(code.left, code.top, 10, (4, 4))
    data = np.full((4, 4), 2**24 + 1, 'int32')
    data[0] = 2**24
    path = code.write(tmp_path / 'int.tif', data, grid)
    _, valid = read_bands([(str(path), 1)], grid, nodata=2**24)
    assert valid.tolist() == [[False] * 4] + [[True] * 4] * 3


@pytest.mark.parametrize('shift', [0, 4])
def test_what_is_no_number_is_not_valid_and_is_not_mixed_in(tmp_path, code, shift):
    grid = code.grid(code.left, code.top, 10, (20, 20))
    data = np.full((20, 20), 0.5, 'float32')
    data[8:12, 8:12] = np.nan
    data[2, 2] = np.inf
    path = code.write(tmp_path / 'real.tif', data, grid)
    part = code.grid(code.left + 10 + shift, code.top - 10 - shift, 10, (16, 16))
    image, valid = read_bands([(str(path), 1)], part, nodata=None)
    assert np.array_equal(valid, np.isfinite(data[1:17, 1:17]))
    assert (image[0][valid] == 0.5).all()


# -- another zone --------------------------------------------------------------------------------


def beside(code, x, y, size, *, res=10, epsg=32633):
    """A grid of another zone in the midst of a place of the code's zone."""
    (x,), (y,) = warp_points(raster_crs(f'EPSG:{code.epsg}'), raster_crs(f'EPSG:{epsg}'), [x], [y])
    left, top = round(x / 30) * 30 - size * res / 2, round(y / 30) * 30 + size * res / 2
    return code.grid(left, top, res, (size, size), epsg=epsg)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    zone=st.integers(1, 60),
    lat=st.floats(-80, 83),
    off=st.floats(-1, 1),
    km=st.sampled_from([0.3, 2.22, 6.0]),
    res=st.sampled_from([10, 30]),
)
def test_straight_map_is_within_a_tenth_of_a_pixel_of_the_projection(zone, lat, off, km, res):
    hemisphere = 32600 if lat > 0 else 32700
    own, other = (f'EPSG:{hemisphere + z}' for z in (zone, zone % 60 + 1))
    lon = 6 * zone - 180 + off / math.cos(math.radians(lat))  # about the border of the two
    x, y = Transformer.from_crs('EPSG:4326', own, always_xy=True).transform(lon, lat)
    sx, sy = Transformer.from_crs(own, other, always_xy=True).transform(x, y)
    n = round(1000 * km / res)
    target = Grid(raster_crs(own), x - n * res / 2, y + n * res / 2, res, res, n, n)
    source = Grid(raster_crs(other), sx - 60_000, sy + 60_000, res, res, *[120_000 // res] * 2)
    found = local_map(source, target)
    if found is None:  # too bent: the slow way reads it
        assert km == 6.0
        return
    cols, rows = np.meshgrid(np.arange(n)[:: n // 9], np.arange(n)[:: n // 9])
    move = Transformer.from_crs(own, other, always_xy=True)
    xs, ys = move.transform(target.left + (cols + 0.5) * res, target.top - (rows + 0.5) * res)
    left, top, width, height = found.window
    assert abs(found.x[rows, cols] + left - (xs - source.left) / res).max() < 0.1
    assert abs(found.y[rows, cols] + top - (source.top - ys) / res).max() < 0.1
    assert found.x.min() >= 0.5
    assert found.x.max() <= width - 0.5
    assert found.y.min() >= 0.5
    assert found.y.max() <= height - 0.5


def test_a_country_is_not_read_by_a_straight_map(code):
    source = Grid(raster_crs('EPSG:32632'), 0, 6_000_000, 30, 30, 40_000, 40_000)
    assert local_map(source, beside(code, 600_000, 4_900_000, 2000, res=30)) is None


@pytest.fixture
def holes(tmp_path, code):
    """Two bands of one value, 3 km wide, with nodata and saturated pixels in one of them."""
    grid = code.grid(code.left, code.top, 10, (300, 300))
    data = np.full((2, 300, 300), 5000, 'uint16')
    rng = np.random.default_rng(0)
    data[0, *rng.integers(0, 300, (2, 2000))] = 0
    data[0, *rng.integers(0, 300, (2, 2000))] = 65535
    path = code.write(tmp_path / 'holes.tif', data, grid)
    return [(str(path), 1), (str(path), 2)], data, grid


def test_missing_neighbours_are_never_mixed_in(holes, code):
    places, data, source = holes
    grid = beside(code, code.left + 1500, code.top - 1500, 180)
    found = local_map(source, grid)
    image, valid = read_bands(places, grid, nodata=0, saturated=65535)
    assert np.allclose(image[:, valid], 5000, rtol=1e-6)
    left, top, *_ = found.window
    own = data[:, (found.y + top).astype(int), (found.x + left).astype(int)]
    assert np.array_equal(valid, ((own != 0) & (own != 65535)).all(axis=0))
    assert 0.8 < valid.mean() < 1


@pytest.mark.parametrize(
    ('corner', 'res'),
    [(1500, 60), (1500, 15), (1505, 15), (-65, 10), (-65, 12), (-60, 15), (-61, 5), (-63, 4)],
)
def test_saturated_pixels_are_in_no_mean(holes, code, corner, res):
    """Neither in that of an area, nor between the pixels at the end of the file."""
    places, _, _ = holes
    grid = code.grid(code.left + corner, code.top - 1500, res, (20, 20))
    image, valid = read_bands(places, grid, nodata=0, saturated=65535)
    assert np.allclose(image[:, valid], 5000, rtol=1e-6)
    assert 0.1 < valid.mean() < 1


def test_straight_map_and_gdal_agree(holes, code, monkeypatch):
    places, _, grid = holes
    bands = np.stack([code.encode(place, *code.centres(grid)) for place in (0, 1)])
    bands[0, 100:110] = 0
    with rasterio.open(places[0][0], 'r+') as dst:
        dst.write(bands.astype('uint16'))
    target = beside(code, code.left + 1500, code.top - 1500, 120)
    fast, valid = read_bands(places, target, nodata=0)
    nearest = {'indexes': [1], 'nodata': None, 'resampling': Resampling.nearest}
    codes, _ = read(places[0][0], target, **nearest)
    monkeypatch.setattr(reading, 'local_map', lambda source, grid: None)
    slow, good = read_bands(places, target, nodata=0)
    assert (valid == good).mean() > 0.99
    assert abs(fast - slow)[:, valid & good].max() <= 0.05 * 20 + 0.51  # of a pixel, and rounding
    same, _ = read(places[0][0], target, **nearest)
    assert (same == codes).mean() > 0.98  # but for centres on the border of two pixels


@pytest.mark.parametrize('north', [-1500, -40, 40])
def test_end_of_the_file_is_the_end_of_what_is_valid_in_another_zone(holes, code, north):
    places, _, source = holes
    grid = beside(code, code.left + 1500, code.top + north, 60)
    xs, ys = code.centres(grid)
    xs, ys = warp_points(grid.crs, source.crs, xs.ravel(), ys.ravel())
    inside = (np.array(ys) < code.top).reshape(60, 60)
    _, valid = read_bands(places[1:], grid, nodata=0)
    assert np.array_equal(valid, inside)


def test_views_do_not_share_what_a_transform_may_write_to(world):
    world.hls()
    member = HLSS30(world.root, bands=['B03'])
    dataset = MultiSensorDataset({'hls': member})
    first = dataset[dataset.bounds]['sensors']['hls'][0]
    kept = {key: value.clone() for key, value in first.items()}
    for value in first.values():
        value.zero_()
    again = dataset[dataset.bounds]['sensors']['hls'][0]
    assert all(again[key].equal(value) for key, value in kept.items())
    again['t'].zero_()
    assert again['lon'].equal(kept['lon'])
