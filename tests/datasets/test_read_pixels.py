# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

import http.server
import multiprocessing
import os
import threading

import numpy as np
import pytest
import rasterio
from rasterio.enums import Resampling
from rasterio.errors import RasterioIOError
from rasterio.warp import transform as warp_points

from torchgeo_anysensor.datasets.handles import open_raster
from torchgeo_anysensor.datasets.read import read


@pytest.fixture
def field(tmp_path, code):
    """A file of two bands at 10 m: eastings and northings."""
    grid = code.grid(code.left, code.top, 10, (60, 60))
    data = np.stack([code.encode(place, *code.centres(grid)) for place in (0, 1)])
    return code.write(tmp_path / 'field.tif', data.astype('uint16'), grid)


def look(path, grid, *, indexes=(1, 2), nodata=0, resampling=Resampling.bilinear):
    return read(str(path), grid, indexes=list(indexes), nodata=nodata, resampling=resampling)


def position(code, data):
    """Eastings and northings that the two bands tell."""
    return tuple(code.decode(place, data[place].astype(float)) for place in (0, 1))


@pytest.mark.parametrize('resampling', [Resampling.nearest, Resampling.bilinear])
def test_aligned_window_is_the_file_bit_for_bit(field, code, resampling):
    data, inside = look(
        field, code.grid(code.left + 70, code.top - 130, 10, (20, 30)), resampling=resampling
    )
    with rasterio.open(field) as src:
        assert np.array_equal(data, src.read()[:, 13:33, 7:37])
    assert data.dtype == np.uint16
    assert inside.all()


def test_bands_come_in_the_order_asked_for(field, code):
    grid = code.grid(code.left, code.top, 10, (4, 4))
    data, _ = look(field, grid, indexes=(2, 1))
    assert np.array_equal(data[::-1], look(field, grid)[0])


@pytest.mark.parametrize(
    ('east', 'north'), [(-50, 50), (550, 30), (-50, -570), (570, -570), (-20, 20)]
)
def test_pixels_outside_of_the_file_are_marked_and_the_others_in_place(field, code, east, north):
    grid = code.grid(code.left + east, code.top + north, 10, (64, 64))
    data, inside = look(field, grid)
    x, y = code.centres(grid)
    truth = (x > code.left) & (x < code.left + 600) & (y < code.top) & (y > code.top - 600)
    assert np.array_equal(inside, truth)
    told_x, told_y = position(code, data)
    assert np.array_equal(told_x[inside], x[inside])
    assert np.array_equal(told_y[inside], y[inside])


@pytest.mark.parametrize('shift', [(0, 0), (4000, 0), (3, 4000)])
def test_window_beside_the_file_is_all_outside(field, code, shift):
    grid = code.grid(code.left + 600 + shift[0], code.top + shift[1], 10, (8, 8))
    _, inside = look(field, grid)
    assert not inside.any()


@pytest.mark.parametrize('res', [5, 2, 10 / 3])
@pytest.mark.parametrize('skip', [0, 1, 3])
def test_finer_nested_grid_repeats_pixels_exactly(field, code, res, skip):
    grid = code.grid(code.left + skip * res, code.top - skip * res, res, (33, 41))
    data, inside = look(field, grid)
    assert inside.all()
    x, y = code.centres(grid)
    told_x, told_y = position(code, data)
    # The centre of the file's pixel around each target pixel
    assert np.array_equal(told_x, code.left + np.floor((x - code.left) / 10) * 10 + 5)
    assert np.array_equal(told_y, code.top - np.floor((code.top - y) / 10) * 10 - 5)


@pytest.mark.parametrize('res', [20, 30, 60])
def test_coarser_grid_is_the_area_average(tmp_path, code, res):
    fine = code.grid(code.left, code.top, 10, (60, 60))
    noise = np.random.default_rng(0).uniform(0, 1, (60, 60)).astype('float32')
    path = code.write(tmp_path / 'noise.tif', noise, fine)
    n = res // 10
    grid = code.grid(code.left, code.top, res, (60 // n, 60 // n))
    data, inside = look(path, grid, indexes=(1,), nodata=None)
    assert inside.all()
    blocks = noise.reshape(60 // n, n, 60 // n, n).mean(axis=(1, 3))
    np.testing.assert_allclose(data[0], blocks, atol=1e-5)


@pytest.mark.parametrize('n', [3, 5, 40])
def test_misaligned_image_is_bilinear(field, code, n):
    grid = code.grid(code.left + 53.5, code.top - 57.5, 10, (n, n))
    data, _ = look(field, grid)
    told_x, told_y = position(code, data)
    x, y = code.centres(grid)
    assert abs(told_x - x).max() <= 0.25  # half a digital number is a quarter of a metre
    assert abs(told_y - y).max() <= 0.25


def test_misaligned_quality_is_nearest(field, code):
    grid = code.grid(code.left + 53.5, code.top - 57.5, 10, (40, 40))
    data, _ = look(field, grid, nodata=None, resampling=Resampling.nearest)
    told_x, told_y = position(code, data)
    x, y = code.centres(grid)
    assert np.array_equal(told_x, np.floor((x - code.left) / 10) * 10 + code.left + 5)
    assert np.array_equal(told_y, code.top - np.floor((code.top - y) / 10) * 10 - 5)


def test_nodata_does_not_bleed_into_a_resampling(tmp_path, code):
    grid = code.grid(code.left, code.top, 10, (40, 40))
    values = np.full((40, 40), 5000, dtype='uint16')
    values[10:20, 10:20] = 0
    path = code.write(tmp_path / 'hole.tif', values, grid)
    for res, shift in ((10, 4), (30, 0)):
        target = code.grid(code.left + shift, code.top - shift, res, (12, 12))
        data, _ = look(path, target, indexes=(1,))
        assert set(np.unique(data)) <= {0, 5000}


def truth_in_zone(code, grid, epsg):
    """Where the pixel centres of *grid* lie in another zone."""
    x, y = code.centres(grid)
    xs, ys = warp_points(grid.crs, rasterio.CRS.from_epsg(epsg), x.ravel(), y.ravel())
    return np.reshape(xs, x.shape), np.reshape(ys, y.shape)


@pytest.fixture
def wide_field(tmp_path, code):
    """3 km at 10 m, and a grid of zone 33 in the midst of it."""
    grid = code.grid(code.left, code.top, 10, (300, 300))
    data = np.stack([code.encode(place, *code.centres(grid)) for place in (0, 1)])
    path = code.write(tmp_path / 'wide.tif', data.astype('uint16'), grid)
    middle = [code.left + 1500], [code.top - 1500]
    (x,), (y,) = warp_points(grid.crs, rasterio.CRS.from_epsg(32633), *middle)
    left, top = x // 60 * 60 - 900, y // 60 * 60 + 900
    return path, code.grid(left, top, 10, (180, 180), epsg=32633)


def test_another_utm_zone_stays_within_a_tenth_of_a_pixel(wide_field, code):
    path, grid = wide_field
    data, inside = look(path, grid)
    assert inside.all()
    told_x, told_y = position(code, data)
    x, y = truth_in_zone(code, grid, code.epsg)
    assert abs(told_x - x).max() < 1
    assert abs(told_y - y).max() < 1


@pytest.mark.parametrize('n', [3, 5, 16, 40])
def test_bilinear_does_not_depend_on_the_size_of_the_patch(wide_field, code, n):
    path, grid = wide_field
    part = code.grid(grid.left + 100, grid.top - 100, 10, (n, n), epsg=32633)
    whole, _ = look(path, grid)
    data, _ = look(path, part)
    assert abs(data.astype(int) - whole[:, 10 : 10 + n, 10 : 10 + n]).max() <= 1


def test_another_utm_zone_takes_quality_from_the_nearest_pixel(wide_field, code):
    path, grid = wide_field
    data, _ = look(path, grid, nodata=None, resampling=Resampling.nearest)
    told_x, told_y = position(code, data)
    x, y = truth_in_zone(code, grid, code.epsg)
    assert abs(told_x - x).max() < 6
    assert abs(told_y - y).max() < 6


@pytest.mark.parametrize('res', [7.0, 10.0, 13.0, 20.0, 30.0, 47.0])
@pytest.mark.parametrize('epsg', [32632, 32633])
def test_quality_codes_are_never_invented(tmp_path, code, res, epsg):
    grid = code.grid(code.left, code.top, 10, (100, 100))
    codes = np.random.default_rng(0).choice([3, 64, 200], (100, 100)).astype('uint8')
    path = code.write(tmp_path / 'codes.tif', codes, grid)
    middle = warp_points(
        grid.crs, rasterio.CRS.from_epsg(epsg), [code.left + 500], [code.top - 500]
    )
    target = code.grid(middle[0][0] - 203, middle[1][0] + 203, res, (8, 8), epsg=epsg)
    data, _ = look(path, target, indexes=(1,), nodata=None, resampling=Resampling.nearest)
    assert set(np.unique(data)) <= {3, 64, 200}


def test_handles_are_kept_for_each_process(field):
    handle = open_raster(str(field))
    assert open_raster(str(field)) is handle
    context = multiprocessing.get_context('fork')
    answers = context.Queue()
    child = context.Process(
        target=lambda: answers.put((open_raster(str(field)) is handle, os.getpid()))
    )
    child.start()
    shares, pid = answers.get(timeout=20)
    child.join()
    assert pid != os.getpid()
    assert not shares


def test_file_written_anew_is_read_anew(field, code):
    grid = code.grid(code.left, code.top, 10, (60, 60))
    look(field, grid)
    code.write(field, np.full((2, 60, 60), 7, 'uint16'), grid)
    assert (look(field, grid)[0] == 7).all()


def test_forked_reader_gets_the_right_pixels(tmp_path, code):
    grid = code.grid(code.left, code.top, 10, (256, 256))
    data = np.stack([code.encode(place, *code.centres(grid)) for place in (0, 1)])
    options = {'tiled': True, 'blockxsize': 16, 'blockysize': 16, 'compress': 'deflate'}
    path = code.write(tmp_path / 'tiles.tif', data.astype('uint16'), grid, **options)
    look(path, code.grid(code.left, code.top, 10, (16, 16)))  # the parent holds a handle

    def right():
        rng = np.random.default_rng(os.getpid())
        for col, row in rng.integers(0, 240, (150, 2)):
            part = code.grid(code.left + col * 10, code.top - row * 10, 10, (16, 16))
            told = position(code, look(path, part)[0])
            if not all(np.array_equal(a, b) for a, b in zip(told, code.centres(part))):
                return False
        return True

    context = multiprocessing.get_context('fork')
    answers = context.Queue()
    children = [context.Process(target=lambda: answers.put(right())) for _ in range(2)]
    for child in children:
        child.start()
    assert right()
    assert [answers.get(timeout=30) for _ in children] == [True, True]
    for child in children:
        child.join()


@pytest.fixture
def listener():
    """A server on this machine, and the paths that were asked of it."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1], asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize('kind', ['simple', 'warped'])
def test_vrt_named_tif_is_refused_before_it_opens_its_source(tmp_path, listener, kind):
    port, asked = listener
    source = f'/vsicurl/http://127.0.0.1:{port}/source.tif'
    simple = (
        '<VRTDataset rasterXSize="2" rasterYSize="2"><VRTRasterBand dataType="Byte" band="1">'
        f'<SimpleSource><SourceFilename>{source}</SourceFilename><SourceBand>1</SourceBand>'
        '</SimpleSource></VRTRasterBand></VRTDataset>'
    )
    warped = (
        '<VRTDataset rasterXSize="2" rasterYSize="2" subClass="VRTWarpedDataset">'
        '<VRTRasterBand dataType="Byte" band="1" subClass="VRTWarpedRasterBand"/>'
        f'<GDALWarpOptions><SourceDataset>{source}</SourceDataset>'
        '<BandList><BandMapping src="1" dst="1"/></BandList></GDALWarpOptions></VRTDataset>'
    )
    path = tmp_path / 'picture.tif'
    path.write_text({'simple': simple, 'warped': warped}[kind])
    with pytest.raises(RasterioIOError, match=r'picture\.tif'):
        open_raster(str(path))
    assert asked == []


def test_few_of_many_files_stay_open(tmp_path, code):
    grid = code.grid(code.left, code.top, 10, (2, 2))
    before = len(os.listdir('/dev/fd'))
    for number in range(200):
        pixels = np.full((1, 2, 2), number, 'uint16')
        handle = open_raster(str(code.write(tmp_path / f'{number}.tif', pixels, grid)))
        assert handle.read(1)[0, 0] == number
    assert len(os.listdir('/dev/fd')) - before <= 70  # 64 handles


def test_jpeg2000_is_read(tmp_path, code):
    grid = code.grid(code.left, code.top, 10, (64, 64))
    data = code.encode(0, *code.centres(grid)).astype('uint16')
    options = {'driver': 'JP2OpenJPEG', 'QUALITY': '100', 'REVERSIBLE': 'YES'}
    path = code.write(tmp_path / 'field.jp2', data, grid, **options)
    part, _ = look(path, code.grid(code.left + 100, code.top - 100, 10, (9, 9)), indexes=(1,))
    assert np.array_equal(part[0], data[10:19, 10:19])
