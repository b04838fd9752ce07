# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

import copy
import math

import numpy as np
import pytest
import torch
from rasterio.crs import CRS
from rasterio.warp import transform as warp_points

from torchgeo_anysensor.datasets import (
    HLSS30,
    LabelRaster,
    LandsatC2L2,
    MultiSensorDataset,
    Sentinel2L2A,
)

MINE = ('B02', 'B03', 'B04', 'B05', 'B06', 'B8A', 'SCL')


@pytest.fixture
def members(world):
    """Sentinel-2 at 10 and 20 m, HLS at 30 m and Landsat on its own 30 m grid: digital numbers."""
    world.sentinel2_l2a(bands=MINE)
    world.hls()
    world.landsat_c2l2()
    raw = {'calibrate': False}
    return {
        'sentinel2_l2a': [
            Sentinel2L2A(world.root, bands=['B05', 'B06'], res=20, **raw),
            Sentinel2L2A(world.root, bands=['B03', 'B02'], **raw),
        ],
        'hls_s30': HLSS30(world.root, bands=['B03', 'B02'], **raw),
        'landsat_c2l2': LandsatC2L2(world.root, bands=['SR_B1', 'SR_B2'], **raw),
    }


def told(code, member, view):
    """Easting and northing ``(H, W)`` that a view's own pixels tell."""
    out = {}
    for layer, band in enumerate(member.bands):
        place = member.sensor.band_names.index(band)
        out['xy'[place % 2]] = code.decode(place, view['image'][layer].double().numpy())
    return out['x'], out['y']


def should(view, left, top):
    """Where the pixels of a view must lie, from the patch, ``res``, ``dx`` and ``dy`` alone."""
    res, (h, w) = float(view['res']), view['valid'].shape
    x = left + float(view['dx']) + (np.arange(w) + 0.5) * res
    y = top + float(view['dy']) - (np.arange(h) + 0.5) * res
    return np.broadcast_to(x, (h, w)), np.broadcast_to(y[:, None], (h, w))


@pytest.mark.parametrize('east', [60, 120, 480])
@pytest.mark.parametrize('south', [60, 300])
def test_every_pixel_proves_its_place_on_the_ground(members, code, east, south):
    dataset = MultiSensorDataset(members)
    left, top = code.left + east, code.top - south
    sample = dataset[left : left + 240, top - 240 : top]
    assert list(sample['sensors']) == ['sentinel2_l2a', 'hls_s30', 'landsat_c2l2']
    for name, views in sample['sensors'].items():
        for member, view in zip(dataset.datasets[name], views):
            n = round(240 / member.res[0])
            assert view['valid'].shape == (n, n)
            assert view['valid'].all()
            for a, b in zip(told(code, member, view), should(view, left, top)):
                assert np.array_equal(a, b), name


def test_grids_of_a_sensor_come_finest_first(members):
    dataset = MultiSensorDataset(members)
    assert [m.res[0] for m in dataset.datasets['sentinel2_l2a']] == [10, 20]
    assert dataset.res == (10, 10)
    views = dataset[dataset.bounds]['sensors']['sentinel2_l2a']
    assert [float(view['res']) for view in views] == [10, 20]


def test_grids_that_agree_have_no_offset_and_landsat_says_its_own(members, code):
    dataset = MultiSensorDataset(members)
    sensors = dataset[code.left + 60 : code.left + 180, code.top - 180 : code.top - 60]['sensors']
    for name in ('sentinel2_l2a', 'hls_s30'):
        for view in sensors[name]:
            assert (float(view['dx']), float(view['dy'])) == (0, 0)
    view = sensors['landsat_c2l2'][0]
    assert abs(float(view['dx'])) == abs(float(view['dy'])) == 15


@pytest.mark.parametrize(('off_x', 'off_y'), [(-5, 5), (10, 0), (0, -10), (-14, 14)])
def test_offset_is_east_and_north_of_the_patch(world, code, off_x, off_y):
    world.sentinel2_l2a(bands=MINE)
    world.landsat_c2l2(left=code.left - 60 + off_x, top=code.top + 60 + off_y, size=1320)
    s2 = Sentinel2L2A(world.root, bands=['B02'])
    dataset = MultiSensorDataset({'s2': s2, 'l8': LandsatC2L2(world.root, bands=['SR_B1'])})
    sample = dataset[code.left + 60 : code.left + 180, code.top - 180 : code.top - 60]
    (view,) = sample['sensors']['l8']
    assert (float(view['dx']), float(view['dy'])) == (off_x, off_y)


def test_members_are_never_changed(members):
    flat = [m for ms in members.values() for m in (ms if isinstance(ms, list) else [ms])]
    before = [(m.res, m.crs, m.index.copy(deep=True), copy.deepcopy(m.acquisitions)) for m in flat]
    dataset = MultiSensorDataset(members)
    _ = dataset[dataset.bounds]
    for member, (res, crs, index, acquisitions) in zip(flat, before):
        assert member.res == res
        assert member.crs == crs
        assert member.index.equals(index)
        assert list(member.index.columns) == list(index.columns)
        assert member.acquisitions == acquisitions


def test_lattice_is_the_common_multiple_from_the_references_corner(members, code, world):
    dataset = MultiSensorDataset(members)
    assert dataset.step == math.lcm(10, 20, 30)
    lattice = dataset.lattice(0)
    assert (lattice.x, lattice.y, lattice.step) == (code.left, code.top, 60)
    turned = MultiSensorDataset(dict(reversed(members.items())))
    lattice = turned.lattice(0)
    assert (lattice.x, lattice.y, lattice.step) == (code.left - 15, code.top + 15, 60)


def test_pixel_sizes_of_the_labels_count_for_the_lattice(members, world, code):
    grid = code.grid(code.left, code.top, 30, (40, 40))
    code.write(world.root / 'labels' / 'a.tif', np.ones((40, 40), 'uint8'), grid)
    labels = LabelRaster(world.root / 'labels', res=50)
    assert MultiSensorDataset(members, labels=labels).step == 300
    assert MultiSensorDataset(members, labels=LabelRaster(world.root / 'labels')).step == 60


@pytest.mark.parametrize('off', [(13, -7), (-29, 29), (25, 25)])
def test_query_off_the_lattice_snaps_to_the_nearest_point(members, code, off):
    dataset = MultiSensorDataset(members)
    left, top = code.left + 240, code.top - 240
    shifted = dataset[left + off[0] : left + off[0] + 245, top + off[1] - 236 : top + off[1]]
    straight = dataset[left : left + 240, top - 240 : top]
    for name, views in straight['sensors'].items():
        for one, other in zip(views, shifted['sensors'][name]):
            assert torch.equal(one['image'], other['image'])


def test_query_smaller_than_the_step_gets_one_step(members, code):
    dataset = MultiSensorDataset(members)
    sample = dataset[code.left + 61 : code.left + 71, code.top - 71 : code.top - 61]
    assert [tuple(v['valid'].shape) for v in sample['sensors']['sentinel2_l2a']] == [(6, 6), (3, 3)]


def test_query_beside_the_common_ground_is_an_error(members, code):
    dataset = MultiSensorDataset(members)
    with pytest.raises(IndexError, match='not found in dataset with bounds'):
        dataset[code.left - 600 : code.left, code.top - 60 : code.top]


def test_part_beyond_the_file_is_not_valid(members, code):
    dataset = MultiSensorDataset(members)
    sample = dataset[code.left - 120 : code.left + 120, code.top - 240 : code.top]
    for view in (*sample['sensors']['sentinel2_l2a'], *sample['sensors']['hls_s30']):
        half = view['valid'].shape[1] // 2
        assert not view['valid'][:, :half].any()
        assert view['valid'][:, half:].all()
        assert (view['image'][:, :, :half] == 0).all()


def test_labels_lie_on_the_references_finest_grid_or_on_their_own(members, world, code):
    grid = code.grid(code.left - 25, code.top + 25, 25, (60, 60))
    x, _ = code.centres(grid)
    codes = ((x - code.left) // 25 + 2).astype('uint8')
    code.write(world.root / 'labels' / 'a.tif', codes, grid)
    left, top = code.left + 300, code.top - 300
    for res in (None, 30, 60):
        labels = LabelRaster(world.root / 'labels', res=res)
        mask = MultiSensorDataset(members, labels=labels)[left : left + 300, top - 300 : top][
            'mask'
        ]
        size = res or 10
        assert mask.shape == (300 // size, 300 // size)
        assert mask.dtype == torch.int64
        centre = 300 + (np.arange(300 // size) + 0.5) * size
        assert mask[0].tolist() == (centre // 25 + 2).tolist()


@pytest.fixture
def two_zones(world, code):
    """Sentinel-2 in zone 32, and HLS of the same ground in zone 33: digital numbers."""
    world.sentinel2_l2a(bands=MINE, size=1200)
    middle = [code.left + 600], [code.top - 600]
    (x,), (y,) = warp_points(CRS.from_epsg(code.epsg), CRS.from_epsg(32633), *middle)
    left, top, n = x // 30 * 30 - 1200, y // 30 * 30 + 1200, 80
    grid = code.grid(left, top, 30, (n, n), epsg=32633)
    xs, ys = code.centres(grid)
    east, north = warp_points(
        CRS.from_epsg(32633), CRS.from_epsg(code.epsg), xs.ravel(), ys.ravel()
    )
    east, north = np.reshape(east, xs.shape), np.reshape(north, ys.shape)
    folder = world.root / 'HLS'
    for place, band in ((1, 'B02'), (2, 'B03')):
        dn = np.round(code.encode(place, east, north)).astype('int16')
        code.write(folder / f'HLS.S30.T33TUJ.2020166T101559.v2.0.{band}.tif', dn, grid)
    fmask = np.full((n, n), 64, 'uint8')
    fmask[: n // 2] = 2
    code.write(folder / 'HLS.S30.T33TUJ.2020166T101559.v2.0.Fmask.tif', fmask, grid)
    return {
        's2': Sentinel2L2A(world.root, bands=['B02', 'B03'], calibrate=False),
        'hls': HLSS30(folder, bands=['B02', 'B03'], calibrate=False, qa=False),
    }


def test_another_utm_zone_is_warped_once_and_still_aligned(two_zones, code):
    dataset = MultiSensorDataset(two_zones)
    left, top = code.left + 300, code.top - 300
    view = dataset[left : left + 600, top - 600 : top]['sensors']['hls'][0]
    assert view['valid'].shape == (20, 20)
    assert view['valid'].all()
    assert (float(view['dx']), float(view['dy'])) == (0, 0)
    x, y = told(code, two_zones['hls'], view)
    true_x, true_y = should(view, left, top)
    assert abs(x - true_x).max() < 3  # a tenth of a pixel
    assert abs(y - true_y).max() < 3
    assert two_zones['hls'].crs.to_epsg() == 32633


def test_quality_of_another_utm_zone_stays_a_code(two_zones, world, code):
    two_zones['hls'] = HLSS30(world.root / 'HLS', bands=['B02', 'B03'])
    dataset = MultiSensorDataset(two_zones)
    sample = dataset[code.left : code.left + 1200, code.top - 1200 : code.top]
    valid = sample['sensors']['hls'][0]['valid']
    assert not valid[:15].any()
    assert valid[25:].all()


def test_patch_is_read_in_the_zone_of_its_reference(two_zones, code):
    """The index has the zone of the first acquisition; pixels of another are still untouched."""
    reference = HLSS30(
        two_zones['hls'].paths,
        bands=['B02', 'B03'],
        crs=two_zones['s2'].crs,
        calibrate=False,
        qa=False,
    )
    dataset = MultiSensorDataset({'hls': reference, 's2': two_zones['s2']})
    assert dataset.crs.to_epsg() == code.epsg
    left, top = code.left + 300, code.top - 300
    sensors = dataset[left : left + 300, top - 300 : top]['sensors']
    hls = sensors['hls'][0]
    x, y = told(code, dataset.datasets['hls'][0], hls)
    assert len(set(np.round(y[0] - y[0, 0]))) > 1  # rows of zone 33 are turned in zone 32
    west, *_ = hls['bounds'].tolist()
    grid = code.grid(west, hls_top(hls), 30, (10, 10), epsg=32633)
    assert np.array_equal(np.round(code.encode(2, *in_zone(code, grid))), hls['image'][1].numpy())
    s2 = sensors['s2'][0]
    x, y = told(code, dataset.datasets['s2'][0], s2)
    true_x, true_y = in_zone(code, code.grid(west, hls_top(hls), 10, (30, 30), epsg=32633))
    assert abs(x - true_x).max() < 1  # a tenth of a pixel
    assert abs(y - true_y).max() < 1


def test_zone_of_the_other_hemisphere_keeps_its_pixels(world, code):
    """South of the equator some deliver the northern zone: the ground is 10,000 km away, no more."""
    world.sentinel2_l2a(bands=MINE, size=1200)
    south = 10_000_000
    grid = code.grid(code.left - 95, code.top + south + 85, 30, (50, 50), epsg=code.epsg + 100)
    xs, ys = code.centres(grid)
    folder = world.root / 'HLS'
    for place, band in ((1, 'B02'), (2, 'B03')):
        dn = code.encode(place, xs, ys - south).astype('int16')
        code.write(folder / f'HLS.S30.T32TUJ.2020166T101559.v2.0.{band}.tif', dn, grid)
    hls = HLSS30(folder, bands=['B02', 'B03'], calibrate=False, qa=False)
    s2 = Sentinel2L2A(world.root, bands=['B02', 'B03'], calibrate=False)
    left, top = code.left + 300, code.top - 300
    view = MultiSensorDataset({'s2': s2, 'hls': hls})[left : left + 600, top - 600 : top][
        'sensors'
    ]['hls'][0]
    assert (float(view['dx']), float(view['dy'])) == (-5, -5)
    for found, true in zip(told(code, hls, view), should(view, left, top)):
        assert np.array_equal(found, true)


def hls_top(view):
    """North edge of a view, in the CRS it was read in."""
    return float(view['transform'][5])


def in_zone(code, grid):
    """Pixel centres of a grid, in the zone of the code."""
    x, y = code.centres(grid)
    xs, ys = warp_points(grid.crs, CRS.from_epsg(code.epsg), x.ravel(), y.ravel())
    return np.reshape(xs, x.shape), np.reshape(ys, y.shape)
