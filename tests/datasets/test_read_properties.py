# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Laws of windows, of lattices and of the ends of files, at random places."""

import io
import math

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer
from rasterio.enums import Resampling
from rasterio.windows import Window

from torchgeo_anysensor.datasets import Sentinel2L2A, scan
from torchgeo_anysensor.datasets.geometry import Lattice
from torchgeo_anysensor.datasets.read import read

RED = ('B04', 'SCL')
JP2 = {'driver': 'JP2OpenJPEG', 'QUALITY': '100', 'REVERSIBLE': 'YES'}

SIZES = (10, 20, 30, 60)
WIDE, HIGH = 37, 23  # pixels of each file; unlike, so that rows and columns do not pass as equal
MANY = settings(max_examples=150, deadline=None, derandomize=True)


@pytest.fixture(scope='module')
def rasters(tmp_path_factory, code):
    """Two bands of noise at each pixel size: path, and the whole of it."""
    folder = tmp_path_factory.mktemp('rasters')
    rng = np.random.default_rng(0)
    options = {'tiled': True, 'blockxsize': 16, 'blockysize': 16, 'compress': 'deflate'}
    found = {}
    for res in SIZES:
        data = rng.integers(1, 60_000, (2, HIGH, WIDE), dtype='uint16')
        grid = code.grid(code.left, code.top, res, (HIGH, WIDE))
        found[res] = code.write(folder / f'{res}.tif', data, grid, **options), data
    return found


def cut(data, col, row, shape):
    """A window of the whole raster, and where it lies inside: pixel by pixel."""
    rows, cols = row + np.arange(shape[0]), col + np.arange(shape[1])
    inside = ((rows >= 0) & (rows < HIGH))[:, None] & (cols >= 0) & (cols < WIDE)
    window = data[:, rows.clip(0, HIGH - 1)][:, :, cols.clip(0, WIDE - 1)]
    return window, inside


def same(path, grid, data, inside, *, indexes=(1, 2), resampling=Resampling.bilinear):
    """Whether what is read is what was cut, bit for bit."""
    got, covered = read(str(path), grid, indexes=list(indexes), nodata=None, resampling=resampling)
    assert np.array_equal(covered, inside)
    assert got.dtype == data.dtype
    order = [index - 1 for index in indexes]
    assert np.array_equal(got[:, inside], data[order][:, inside])


PLACES = {
    'col': st.integers(-WIDE - 4, WIDE + 4),
    'row': st.integers(-HIGH - 4, HIGH + 4),
    'shape': st.tuples(st.integers(1, HIGH + 9), st.integers(1, WIDE + 9)),
}


@MANY
@given(
    res=st.sampled_from(SIZES),
    indexes=st.sampled_from([(1,), (2,), (1, 2), (2, 1)]),
    resampling=st.sampled_from([Resampling.nearest, Resampling.bilinear]),
    **PLACES,
)
def test_window_is_the_same_window_of_the_whole(
    rasters, code, res, indexes, resampling, col, row, shape
):
    path, data = rasters[res]
    grid = code.grid(code.left + col * res, code.top - row * res, res, shape)
    same(path, grid, *cut(data, col, row, shape), indexes=indexes, resampling=resampling)


@MANY
@given(
    pair=st.sampled_from([(f, c) for c in SIZES for f in (5, *SIZES) if f < c and c % f == 0]),
    skip=st.tuples(st.integers(0, 11), st.integers(0, 11)),
    **PLACES,
)
def test_finer_nested_window_repeats_the_pixels_of_the_whole(
    rasters, code, pair, skip, col, row, shape
):
    fine, coarse = pair
    path, data = rasters[coarse]
    n = coarse // fine
    col, row = col * n + skip[0] % n, row * n + skip[1] % n  # in fine pixels
    rows, cols = (row + np.arange(shape[0])) // n, (col + np.arange(shape[1])) // n
    window, inside = cut(
        data, int(cols[0]), int(rows[0]), (rows[-1] - rows[0] + 1, np.ptp(cols) + 1)
    )
    block = np.ix_(rows - rows[0], cols - cols[0])
    grid = code.grid(code.left + col * fine, code.top - row * fine, fine, shape)
    same(path, grid, window[:, *block], inside[block])


@MANY
@given(res=st.sampled_from(SIZES), shift=st.floats(-0.009, 0.009), **PLACES)
def test_corner_off_by_less_than_a_hundredth_of_a_pixel_changes_nothing(
    rasters, code, res, shift, col, row, shape
):
    path, data = rasters[res]
    grid = code.grid(code.left + (col + shift) * res, code.top - (row + shift) * res, res, shape)
    same(path, grid, *cut(data, col, row, shape))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    pair=st.sampled_from([(10, 20), (10, 30), (10, 60), (20, 60), (30, 60)]),
    col=st.integers(0, 6),
    row=st.integers(0, 3),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 5)),
)
def test_coarser_nested_window_is_the_area_average_of_the_whole(
    rasters, code, pair, col, row, shape
):
    fine, coarse = pair
    path, data = rasters[fine]
    n = coarse // fine
    shape = min(shape[0], HIGH // n), min(shape[1], WIDE // n)
    row, col = min(row, HIGH - shape[0] * n), min(col, WIDE - shape[1] * n)
    window = data[:, row : row + shape[0] * n, col : col + shape[1] * n].astype(float)
    mean = window.reshape(2, shape[0], n, shape[1], n).mean(axis=(2, 4))
    grid = code.grid(code.left + col * fine, code.top - row * fine, coarse, shape)
    got, inside = read(str(path), grid, indexes=[1, 2], nodata=None, resampling=Resampling.bilinear)
    assert inside.all()
    assert abs(got - mean).max() <= 1  # GDAL rounds to the file's integers


# -- lattices ----------------------------------------------------------------------------------


@st.composite
def places(draw):
    """A UTM zone, north or south, and a place in it or up to one tile beside it."""
    zone = draw(st.integers(1, 60))
    lat = draw(st.floats(-80, 83))
    beside = math.degrees(110 / 6371) / math.cos(math.radians(lat))
    lon = 6 * zone - 183 + draw(st.floats(-3 - beside, 3 + beside))
    return f'EPSG:{(32600 if lat > 0 else 32700) + zone}', lon, lat


@st.composite
def patches(draw):
    """A lattice, and a patch on it."""
    crs, lon, lat = draw(places())
    step = draw(st.sampled_from([3, *SIZES, 90]))
    origin = draw(st.integers(-30, 30)) + 600_000, draw(st.integers(-30, 30)) + 4_900_020
    lattice = Lattice(*origin, step, crs)
    x, y = Transformer.from_crs('EPSG:4326', crs, always_xy=True).transform(lon, lat)
    left = origin[0] + round((x - origin[0]) / step) * step
    top = origin[1] + round((y - origin[1]) / step) * step
    return lattice, left, top, draw(st.integers(1, 10_000 // step)) * step


def neighbour(crs, by):
    """The zone beside a zone, around the globe."""
    code = int(crs[5:])
    return f'EPSG:{code // 100 * 100 + (code % 100 - 1 + by) % 60 + 1}'


INDEXES = [-1, 0, 1, 'EPSG:4326', 'EPSG:6933', 'EPSG:3857']


@settings(max_examples=400, deadline=None, derandomize=True)
@given(patch=patches(), index=st.sampled_from(INDEXES))
def test_window_of_a_query_is_the_patch_it_was_made_of(patch, index):
    lattice, left, top, size = patch
    crs = neighbour(lattice.crs, index) if isinstance(index, int) else index
    x, y = lattice.query(left, top, size, crs)
    assert lattice.window(x, y, crs) == pytest.approx((left, top, size, size), abs=1e-6)
    assert lattice.made(x, y, crs)


@pytest.mark.parametrize('crs', ['EPSG:4326', 'EPSG:32601', 'EPSG:32660', 'EPSG:6933', 'EPSG:3857'])
@pytest.mark.parametrize('zone', ['EPSG:32601', 'EPSG:32660'])
@pytest.mark.parametrize('lat', [0.5, 52, 65, 71, 83])
@pytest.mark.parametrize('east', [-1800, -600, 0, 600])
def test_window_of_a_query_over_the_antimeridian_is_the_patch(crs, zone, lat, east):
    x, y = Transformer.from_crs('EPSG:4326', zone, always_xy=True).transform(180, lat)
    left, top = round(x / 60) * 60 + east, round(y / 60) * 60 + 600
    lattice = Lattice(0, 0, 60, zone)
    query = lattice.query(left, top, 1200, crs)
    assert lattice.window(*query, crs) == pytest.approx((left, top, 1200, 1200), abs=1e-6)
    assert query[0].start < query[0].stop
    assert query[0].stop - query[0].start < (1200 * 20 if crs != 'EPSG:4326' else 0.2)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(patch=patches(), off=st.tuples(st.floats(-0.49, 0.49), st.floats(-0.49, 0.49)))
def test_query_snaps_to_the_nearest_point(patch, off):
    lattice, left, top, size = patch
    x0, y1 = left + off[0] * lattice.step, top + off[1] * lattice.step
    window = lattice.window(slice(x0, x0 + size), slice(y1 - size, y1), lattice.crs)
    assert window == pytest.approx((left, top, size, size), abs=1e-6)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(patch=patches(), index=st.sampled_from(INDEXES))
def test_query_has_the_centre_and_the_ground_lengths_of_its_patch(patch, index):
    lattice, left, top, size = patch
    crs = neighbour(lattice.crs, index) if isinstance(index, int) else index
    x, y = lattice.query(left, top, size, crs)
    to_globe = Transformer.from_crs(crs, 'EPSG:4978', always_xy=True)
    own = Transformer.from_crs(lattice.crs, 'EPSG:4978', always_xy=True)
    cx, cy = (x.start + x.stop) / 2, (y.start + y.stop) / 2
    mx, my = left + size / 2, top - size / 2

    def metres(transformer, xs, ys):
        points = np.stack(transformer.transform(xs, ys, [0.0, 0.0]))
        return float(np.linalg.norm(points[:, 1] - points[:, 0]))

    assert np.allclose(to_globe.transform(cx, cy, 0), own.transform(mx, my, 0), atol=1e-3)
    for one, other in (
        (([x.start, x.stop], [cy, cy]), ([left, left + size], [my, my])),
        (([cx, cx], [y.start, y.stop]), ([mx, mx], [top - size, top])),
    ):
        assert metres(to_globe, *one) == pytest.approx(metres(own, *other), rel=2e-3)


@pytest.mark.parametrize('crs', ['EPSG:32632', 'EPSG:32633', 'EPSG:4326'])
@pytest.mark.parametrize('side', [0, 1])
@pytest.mark.parametrize('axis', [0, 1])
def test_query_moved_by_a_centimetre_was_not_made(crs, side, axis):
    lattice = Lattice(0, 0, 60, 'EPSG:32632')
    query = list(lattice.query(600_000, 4_900_020, 1200, crs))
    assert lattice.made(*query, crs)
    ends = [query[axis].start, query[axis].stop]
    ends[side] += 0.01 if crs != 'EPSG:4326' else 0.01 / 111_320
    query[axis] = slice(*ends)
    assert not lattice.made(*query, crs)


def test_query_of_one_zone_was_not_made_by_the_next():
    zone, beside = (Lattice(0, 0, 60, f'EPSG:{code}') for code in (32632, 32633))
    for east in range(0, 6000, 600):
        query = zone.query(690_000 + east, 4_900_020, 1200, 'EPSG:32632')
        assert zone.made(*query, 'EPSG:32632')
        assert not beside.made(*query, 'EPSG:32632')
        other = beside.query(*_near(690_000 + east, 4_900_020), 1200, 'EPSG:32632')
        assert beside.made(*other, 'EPSG:32632')
        assert not zone.made(*other, 'EPSG:32632')


def _near(x, y):
    """A point of zone 33 on its lattice near to one of zone 32."""
    move = Transformer.from_crs('EPSG:32632', 'EPSG:32633', always_xy=True).transform
    return tuple(round(value / 60) * 60 for value in move(x, y))


# -- files that end too early ------------------------------------------------------------------


def jp2(path, code, **profile):
    """A JPEG 2000 file of noise."""
    data = np.random.default_rng(0).integers(1, 9000, (64, 64), dtype='uint16')
    grid = code.grid(code.left, code.top, 10, (64, 64))
    return code.write(path, data, grid, **(JP2 | profile))


def open_ended(content):
    """The length of the codestream's box is left out: it goes up to the end of the file."""
    at = content.index(b'jp2c') - 4
    return content[:at] + bytes(4) + content[at + 4 :]


def long_box(content):
    """The length of the codestream's box is told in eight bytes, as if it were above 4 GB."""
    at = content.index(b'jp2c') - 4
    length = int.from_bytes(content[at : at + 4]) + 8
    return content[:at] + b'\0\0\0\1jp2c' + length.to_bytes(8) + content[at + 8 :]


def codestream(content):
    """Without any box."""
    return content[content.index(b'jp2c') + 4 :]


@pytest.mark.parametrize('form', [bytes, open_ended, long_box, codestream])
def test_end_of_a_jpeg2000_file_is_told_by_its_boxes(tmp_path, code, form):
    content = form(jp2(tmp_path / 'a.jp2', code).read_bytes())
    path = tmp_path / 'b.jp2'
    rng = np.random.default_rng(1)
    for length in (len(content), len(content) + 1):
        path.write_bytes(content.ljust(length, b'\0'))
        if length == len(content) or form in (bytes, long_box):
            assert scan._jpeg2000_end(io.BytesIO(path.read_bytes()), length) <= length
    for length in (0, 1, 8, 40, *rng.integers(2, len(content), 60), len(content) - 1):
        file = io.BytesIO(content[:length])
        assert scan._jpeg2000_end(file, int(length)) > length, length


@pytest.mark.parametrize('form', [bytes, open_ended, long_box])
def test_truncated_jpeg2000_is_noticed_when_the_index_is_built(world, code, form):
    good, bad = (
        world.sentinel2_l2a(
            f'202006{day}T101559', size=600, bands=RED, extension='jp2', profile=JP2
        )
        for day in (14, 24)
    )
    for path in (*good.rglob('*B04_10m.jp2'), *bad.rglob('*B04_10m.jp2')):
        path.write_bytes(form(path.read_bytes()))
    assert len(Sentinel2L2A(world.root, bands=['B04'], strict=True)) == 2
    (path,) = bad.rglob('*B04_10m.jp2')
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=r'1 of 2 .*\n.*20200624.*B04_10m\.jp2: was cut off'):
        dataset = Sentinel2L2A(world.root, bands=['B04'])
    assert dataset[dataset.bounds]['valid'].all()


TIFF = {'tiled': True, 'blockxsize': 16, 'blockysize': 16}


@pytest.mark.parametrize(
    'profile',
    [
        {},
        {'compress': 'deflate'},
        TIFF,
        TIFF | {'compress': 'lzw', 'interleave': 'pixel'},
        TIFF | {'interleave': 'band'},
        {'driver': 'COG', 'compress': 'deflate'},
        {'BIGTIFF': 'YES'},
    ],
)
@pytest.mark.filterwarnings('ignore:Dataset has no geotransform')
def test_truncated_tiff_is_noticed_wherever_it_was_cut(tmp_path, code, profile):
    data = np.random.default_rng(0).integers(1, 9000, (2, 64, 64), dtype='uint16')
    grid = code.grid(code.left, code.top, 10, (64, 64))
    path = code.write(tmp_path / 'a.tif', data, grid, **profile)
    content = path.read_bytes()
    scan._read_header(str(path))
    with rasterio.open(path) as src:
        end = scan._tiff_end(src)
    for length in [*np.random.default_rng(1).integers(0, end, 30).tolist(), end - 1]:
        path.write_bytes(content[:length])
        with pytest.raises((ValueError, rasterio.errors.RasterioIOError)):
            scan._read_header(str(path))


def test_last_pixels_of_a_tiff_need_not_be_those_of_its_last_block(tmp_path, code):
    """As in the files of HLS, which several threads wrote."""
    grid = code.grid(code.left, code.top, 10, (64, 64))
    profile = {'driver': 'GTiff', 'dtype': 'uint16', 'count': 1, 'crs': grid.crs, 'height': 64}
    profile |= {'width': 64, 'transform': grid.transform, 'compress': 'deflate', **TIFF}
    path = tmp_path / 'a.tif'
    noise = np.random.default_rng(0).integers(1, 9000, (16, 16), dtype='uint16')
    for block in reversed(range(16)):
        with rasterio.open(path, 'r+' if path.exists() else 'w', **profile) as dst:
            dst.write(noise, 1, window=Window(block % 4 * 16, block // 4 * 16, 16, 16))
    scan._read_header(str(path))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match='was cut off'):
        scan._read_header(str(path))


def test_blocks_that_were_never_written_are_no_problem(tmp_path, code):
    grid = code.grid(code.left, code.top, 10, (64, 64))
    profile = {'driver': 'GTiff', 'dtype': 'uint16', 'count': 1, 'crs': grid.crs, 'height': 64}
    profile |= {'width': 64, 'transform': grid.transform, 'SPARSE_OK': True, **TIFF}
    with rasterio.open(tmp_path / 'a.tif', 'w', **profile):
        pass
    assert scan._read_header(str(tmp_path / 'a.tif')).header.width == 64
