# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Ground and pixels of several UTM zones, and of tiles on the antimeridian.

A granule's DN are metres from a corner of its own zone, B04 to the east and B05 to the north, so
that a warped pixel still tells the place that it was measured at.
"""

import numpy as np
import pytest
import shapely
from pyproj import Geod, Transformer

from torchgeo_anysensor.datasets import HLSL30, HLSS30, MultiSensorDataset
from torchgeo_anysensor.datasets.geometry import footprints, project, raster_crs, rectangle
from torchgeo_anysensor.datasets.grid import Grid

RAW = {'bands': ['B04', 'B05'], 'calibrate': False}
ZERO = 8000  # DN of the corner


def move(source, target, x, y):
    """Points in another CRS."""
    return Transformer.from_crs(source, target, always_xy=True).transform(x, y)


class Granule:
    """A granule of HLS whose middle lies at a longitude and latitude."""

    def __init__(self, root, code, epsg, lon, lat, *, size=2400, product='S30', **options):
        self.crs, n = f'EPSG:{epsg}', round(size / 30)
        x, y = move('EPSG:4326', self.crs, lon, lat)
        self.left, self.top = (
            round((v + half) / 60) * 60 for v, half in ((x, -size / 2), (y, size / 2))
        )
        self.size = size
        grid = code.grid(self.left, self.top, 30, (n, n), epsg=epsg)
        east, north = code.centres(grid)
        tile = options.get('tile') or f'T{epsg % 100:02d}WCP'
        name = f'HLS.{product}.{tile}.{options.get("time", "2020166T101559")}.v2.0'
        fmask = options.get('fmask')
        layers = {
            'B04': east - self.left + ZERO,
            'B05': north - self.top + ZERO,
            'Fmask': np.full((n, n), 64) if fmask is None else fmask((n, n)),
        }
        for band, data in layers.items():
            kind = 'uint8' if band == 'Fmask' else 'int16'
            code.write(root / name / f'{name}.{band}.tif', np.round(data).astype(kind), grid)

    def told(self, view):
        """Easting and northing ``(H, W)`` that the pixels tell."""
        image = view['image'].double().numpy()
        return image[0] - ZERO + self.left, image[1] - ZERO + self.top

    def error(self, view, grid):
        """Metres by which the valid pixels lie off, at most."""
        x = grid.left + (np.arange(grid.width) + 0.5) * grid.xres
        y = grid.top - (np.arange(grid.height) + 0.5) * grid.yres
        truth = move(grid.crs.to_string(), self.crs, *np.meshgrid(x, y))
        valid = view['valid'].numpy()
        return max(abs(a - b)[valid].max() for a, b in zip(self.told(view), truth))


@pytest.fixture
def granule(tmp_path, code):
    """Builder of granules in one folder."""
    return lambda epsg, lon, lat, **options: Granule(tmp_path, code, epsg, lon, lat, **options)


# -- footprints --------------------------------------------------------------------------------

PLACES = [(32632, 9, 45), (32632, 11.9, 60), (32733, 12.1, -33), (32601, -177, 65), (32633, 15, 83)]
TARGETS = ['EPSG:4326', 'OGC:CRS84', 'EPSG:6933', 'EPSG:3857', 'next zone']


@pytest.mark.parametrize(('epsg', 'lon', 'lat'), PLACES)
@pytest.mark.parametrize('target', TARGETS)
@pytest.mark.parametrize('size', [600, 109_800])
def test_footprint_covers_what_its_box_covers(epsg, lon, lat, target, size):
    source = f'EPSG:{epsg}'
    target = f'EPSG:{epsg + 1}' if target == 'next zone' else target
    x, y = move('EPSG:4326', source, lon, lat)
    box = shapely.box(x - size / 2, y - size / 2, x + size / 2, y + size / 2)
    (found,) = footprints([box], [source], target)
    assert found.is_valid
    points = np.random.default_rng(0).uniform(-0.55, 0.55, (400, 2)) * size + (x, y)
    edge = abs(abs(points - (x, y)).max(axis=1) - size / 2)
    points = points[edge > 1e-4 * size]  # straight lines between the points of a bent edge
    moved = shapely.points(*move(source, target, *points.T))
    assert np.array_equal(found.covers(moved), box.covers(shapely.points(points)))


def test_footprints_of_many_zones_are_those_of_each_alone():
    crs = ['EPSG:32631', 'EPSG:32632', 'EPSG:32631', 'EPSG:32733']
    boxes = [shapely.box(4e5 + i, 4.9e6, 5e5 + i, 5e6) for i in range(4)]
    together = footprints(boxes, crs, 'EPSG:32632')
    for one, box, own in zip(together, boxes, crs):
        assert one.equals(footprints([box], [own], 'EPSG:32632')[0])
    assert together[1].equals(boxes[1])


@pytest.mark.parametrize('zone', [1, 60])
@pytest.mark.parametrize('lat', [0.5, 52, 65, 80, -70])
@pytest.mark.parametrize('size', [1200, 109_800])
def test_footprint_on_the_antimeridian_is_cut_there(zone, lat, size):
    source = f'EPSG:{(32600 if lat > 0 else 32700) + zone}'
    x, y = move('EPSG:4326', source, 180, lat)
    box = shapely.box(x - size / 2, y - size / 2, x + size / 2, y + size / 2)
    (found,) = footprints([box], [source], 'EPSG:4326')
    assert found.is_valid
    assert found.geom_type == 'MultiPolygon'
    assert len(found.geoms) == 2
    west, east = sorted(found.geoms, key=lambda part: part.bounds[0])
    assert (west.bounds[0], east.bounds[2]) == (-180, 180)
    area = sum(abs(Geod(ellps='WGS84').geometry_area_perimeter(part)[0]) for part in found.geoms)
    assert area == pytest.approx(size**2, rel=3e-3)  # the scale of UTM


@pytest.mark.parametrize('target', ['EPSG:3857', 'EPSG:6933', 'EPSG:4087', 'ESRI:54030'])
@pytest.mark.parametrize('size', [1200, 109_800])
def test_footprint_over_the_edge_of_a_map_is_not_drawn(target, size):
    x, y = move('EPSG:4326', 'EPSG:32601', 180, 65)
    box = shapely.box(x - size / 2, y - size / 2, x + size / 2, y + size / 2)
    beside = shapely.box(x + size, y, x + 2 * size, y + size)
    over, well = footprints([box, beside], ['EPSG:32601'] * 2, target)
    assert not np.isfinite(over.bounds).any()
    assert well.is_valid
    assert np.isfinite(well.bounds).all()


@pytest.mark.parametrize('crs', ['EPSG:3857', 'EPSG:6933'])
def test_dataset_over_the_edge_of_its_map_says_which_map_would_do(granule, tmp_path, crs):
    granule(32601, 180, 65)
    with pytest.raises(ValueError, match=rf"WCP.* cannot be drawn in {crs}.* crs='EPSG:4326'"):
        HLSS30(tmp_path, crs=crs, **RAW)


@pytest.mark.parametrize('zone', [1, 60])
def test_ground_that_the_antimeridian_cut_becomes_one_again(zone):
    source = f'EPSG:326{zone:02}'
    x, y = move('EPSG:4326', source, 180, 65)
    box = shapely.box(x - 1200, y - 1200, x + 1200, y + 1200)
    (found,) = footprints([box], [source], 'EPSG:4326')
    again = project(found, 'EPSG:4326', source)
    assert len(shapely.get_parts(again)) == 1
    assert again.symmetric_difference(box).area < 10


def test_query_beyond_the_antimeridian_is_ground_on_both_sides():
    y = slice(64, 65)
    whole = rectangle(slice(179, 181.5), y, 'EPSG:4326')
    assert whole.equals(
        shapely.union(shapely.box(179, 64, 180, 65), shapely.box(-180, 64, -178.5, 65))
    )
    assert whole.equals(rectangle(slice(-181, -178.5), y, 'EPSG:4326'))
    plain = shapely.box(5, 64, 6, 65)
    for crs in ('EPSG:4326', 'EPSG:32632'):
        assert rectangle(slice(5, 6), y, crs).equals(plain)
    assert rectangle(slice(-180, 180), y, 'EPSG:4326').area == 360
    assert rectangle(slice(170, 190), y, 'EPSG:32632').equals(shapely.box(170, 64, 190, 65))


# -- one sensor in several zones ---------------------------------------------------------------


@pytest.fixture
def two_zones(granule):
    """One pass over two zones: granules of the same ground, two thirds of it, at 12 degrees."""
    return {
        'EPSG:32632': granule(32632, 11.99, 44.2, tile='T32TQP'),
        'EPSG:32633': granule(32633, 12.0, 44.2, tile='T33TUJ'),
    }


@pytest.mark.parametrize('crs', [None, 'EPSG:32632', 'EPSG:32633', 'EPSG:6933'])
def test_sensor_dataset_answers_in_its_own_crs_and_warps_the_other_zone_once(
    two_zones, tmp_path, crs
):
    dataset = HLSS30(tmp_path, crs=crs, **RAW)
    assert dataset.crs == (crs or 'EPSG:32632')
    assert len(dataset) == 2
    grounds = dataset.index.geometry
    assert grounds.iloc[0].intersection(grounds.iloc[1]).area > 0.5 * grounds.iloc[0].area
    x, y = move('EPSG:4326', dataset.crs, 11.995, 44.2)
    grid = Grid.over(
        raster_crs(dataset.crs.to_string()),
        x // 30 * 30 - 300,
        y // 30 * 30 + 300,
        600,
        600,
        30,
        30,
    )
    for path, acquisition in dataset.acquisitions.items():
        view, own = dataset.view(path, grid), two_zones[acquisition.crs]
        assert view['valid'].all()
        warped = acquisition.crs != dataset.crs
        if not warped:
            assert own.error(view, grid) == 0
        elif crs != 'EPSG:6933':
            assert 0 < own.error(view, grid) < 3  # a tenth of a pixel: bilinear, not nearest


@pytest.mark.parametrize('crs', ['EPSG:32632', 'EPSG:32633'])
def test_mosaic_of_two_zones_has_no_gap_where_they_meet(two_zones, tmp_path, crs):
    dataset = HLSS30(tmp_path, crs=crs, **RAW)
    middle = dataset.index.union_all().centroid
    west, _, east, _ = dataset.index.total_bounds
    x, y = slice(west + 150, east - 150), slice(middle.y - 150, middle.y + 150)
    assert dataset[x, y]['valid'].all()


def test_quality_of_another_zone_takes_the_nearest_code(granule, tmp_path):
    def stripes(shape):
        codes = np.full(shape, 64)
        codes[:, ::2] = 2  # one column clear, one under cloud: bilinear would make 33 of them
        return codes

    own = granule(32632, 11.9, 44.2, fmask=stripes)
    dataset = HLSS30(tmp_path, crs='EPSG:32633', **RAW)
    x, y = move('EPSG:4326', 'EPSG:32633', 11.9, 44.2)
    grid = Grid.over(
        raster_crs('EPSG:32633'), x // 30 * 30 - 300, y // 30 * 30 + 300, 600, 600, 30, 30
    )
    view = dataset.view(dataset.index.filepath.iloc[0], grid)
    qa = HLSS30(tmp_path, crs='EPSG:32633', qa=False, **RAW)
    east, _ = own.told(qa.view(qa.index.filepath.iloc[0], grid))
    column = (east - own.left) / 30 - 0.5
    sure = abs(column - np.round(column)) < 0.4  # where bilinear and nearest agree on the column
    assert np.array_equal(view['valid'].numpy()[sure], (np.round(column) % 2 == 1)[sure])
    assert sure.mean() > 0.7


# -- the antimeridian --------------------------------------------------------------------------

LAT = 65.2


@pytest.fixture
def over_180(granule):
    """S30 in zone 01 and L30 in zone 60, both around the antimeridian."""
    return granule(32601, 180.003, LAT), granule(32660, 179.998, LAT, product='L30')


@pytest.mark.parametrize('crs', [None, 'EPSG:32601', 'EPSG:32660'])
def test_tile_on_the_antimeridian_is_read_in_place(over_180, tmp_path, crs):
    dataset = HLSS30(tmp_path, crs=crs, **RAW)
    x, y = move('EPSG:4326', dataset.crs, 180, LAT)
    x, y = round(x / 30) * 30, round(y / 30) * 30
    view = dataset[x - 300 : x + 300, y - 300 : y + 300]
    grid = Grid.over(raster_crs(dataset.crs.to_string()), x - 300, y + 300, 600, 600, 30, 30)
    assert view['valid'].all()
    assert over_180[0].error(view, grid) < (3 if crs == 'EPSG:32660' else 1e-6)


@pytest.mark.parametrize('west', [179.997, 180.0, -180.003, -180.0, 179.9999])
def test_tile_on_the_antimeridian_is_read_in_place_in_degrees(over_180, tmp_path, west):
    dataset = HLSS30(tmp_path, crs='EPSG:4326', **RAW)
    res = dataset.res[0]
    assert res == pytest.approx(30 / 111_320)
    view = dataset[west : west + 20 * res, LAT : LAT + 20 * res]
    grid = Grid.over(raster_crs('EPSG:4326'), west, LAT + 20 * res, 20 * res, 20 * res, res, res)
    assert view['valid'].shape == (20, 20)
    assert view['valid'].all()
    assert over_180[0].error(view, grid) < 3


@pytest.mark.parametrize('crs', [None, 'EPSG:32601', 'EPSG:4326'])
def test_tiles_of_zone_60_and_zone_01_are_in_one_dataset(granule, tmp_path, crs):
    west = granule(32660, 179.97, LAT, tile='T60WWV')
    east = granule(32601, -179.97, LAT, tile='T01WCP')
    dataset = HLSS30(tmp_path, crs=crs, **RAW)
    assert len(dataset) == 2
    assert {a.crs for a in dataset.acquisitions.values()} == {'EPSG:32660', 'EPSG:32601'}
    one, other = dataset.index.geometry
    assert one.distance(other) > 0 if crs != 'EPSG:4326' else one.disjoint(other)
    assert not one.intersects(other)
    for path, ground in zip(dataset.index.filepath, dataset.index.geometry):
        res = dataset.res[0]
        x, y = (round(v / res) * res for v in (ground.centroid.x, ground.centroid.y))
        view = dataset[x - 5 * res : x + 5 * res, y - 5 * res : y + 5 * res]
        grid = Grid.over(
            raster_crs(dataset.crs.to_string()),
            x - 5 * res,
            y + 5 * res,
            10 * res,
            10 * res,
            res,
            res,
        )
        own = west if dataset.acquisitions[path].crs == west.crs else east
        assert view['valid'].all()
        assert own.error(view, grid) < 3


def test_query_over_the_antimeridian_finds_what_lies_on_either_side(granule, tmp_path):
    granule(32660, 179.97, LAT, tile='T60WWV')
    granule(32601, -179.97, LAT, tile='T01WCP')
    dataset = HLSS30(tmp_path, crs='EPSG:4326', **RAW)
    for west in (179.95, -180.05):
        valid = dataset[west : west + 0.1, LAT : LAT + 0.002]['valid']
        assert valid[:, 100].all()
        assert valid[:, -100].all()


@pytest.mark.parametrize('crs', [None, 'EPSG:32660', 'EPSG:32601'])
def test_two_sensors_are_matched_over_the_antimeridian(over_180, tmp_path, crs):
    check_match(over_180, tmp_path, crs)


def test_two_sensors_are_matched_over_the_antimeridian_in_degrees(over_180, tmp_path):
    check_match(over_180, tmp_path, 'EPSG:4326')


def check_match(over_180, tmp_path, crs):
    """Reference untouched in its own zone, the other sensor warped to it."""
    s30, l30 = over_180
    dataset = MultiSensorDataset(
        {'s': HLSS30(tmp_path, crs=crs, **RAW), 'l': HLSL30(tmp_path, **RAW)}
    )
    assert len(dataset) == 1
    assert dataset.lattice(0).crs == s30.crs
    x, y = (round(v / 30) * 30 for v in move('EPSG:4326', s30.crs, 180, LAT))
    left, top = s30.left + (x - s30.left) // 30 * 30 - 300, y + 300
    query = dataset.lattice(0).query(left, top, 600, dataset.crs.to_string())
    sensors = dataset[query]['sensors']
    grid = Grid.over(raster_crs(s30.crs), left, top, 600, 600, 30, 30)
    (one,), (other,) = sensors['s'], sensors['l']
    assert one['valid'].all()
    assert s30.error(one, grid) == 0
    assert other['valid'].all()
    assert l30.error(other, grid) < 3
