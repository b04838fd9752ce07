# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Patches of several zones and of ground that is dealt to several acquisitions.

Where a patch was read is told by its pixels alone: B05 holds the easting, B04 the northing, each in
the zone of the granule.
"""

import itertools

import numpy as np
import pandas as pd
import pytest
import shapely
from pyproj import Transformer

from torchgeo_anysensor.datasets import HLSL30, HLSS30, MultiSensorDataset
from torchgeo_anysensor.datasets.geometry import project
from torchgeo_anysensor.samplers import AlignedGridSampler, AlignedPatchSampler, BlockSplit

BANDS = ('B04', 'B05', 'Fmask')
RAW = {'bands': ['B05', 'B04'], 'calibrate': False}
ZONES = {160: 32632, 170: 32633, 180: 32631}  # by the day of the year
SAMPLERS = pytest.mark.parametrize('sampler', [AlignedPatchSampler, AlignedGridSampler])
INDEXES = pytest.mark.parametrize('crs', [None, 'EPSG:32633', 'EPSG:4326', 'EPSG:6933'])


@pytest.fixture
def zones(world):
    """One granule of S30 in each of three zones, on three days."""
    for day, epsg in ZONES.items():
        world.hls(time=f'2020{day}T101559', epsg=epsg, bands=BANDS)
    return lambda crs=None, **options: MultiSensorDataset(
        {'s30': HLSS30(world.root, crs=crs, **RAW)}, **options
    )


def told(code, view):
    """Left, top and width of a view of 30 m pixels, by its pixels; they must be in rows."""
    east, north = (
        code.decode(place, layer.double().numpy()) for place, layer in zip((4, 3), view['image'])
    )
    assert view['valid'].all()
    n = east.shape[0]
    assert np.array_equal(east, np.broadcast_to(east[0, 0] + 30 * np.arange(n), (n, n)))
    assert np.array_equal(
        north, np.broadcast_to((north[0, 0] - 30 * np.arange(n))[:, None], (n, n))
    )
    return float(east[0, 0]) - 15, float(north[0, 0]) + 15, 30.0 * n


def day(view):
    return pd.Timestamp(float(view['t']), unit='s').day_of_year


def globe(left, top, size, epsg):
    """A square of a zone in longitude and latitude."""
    return project(shapely.box(left, top - size, left + size, top), f'EPSG:{epsg}', 'EPSG:4326')


# -- several zones -----------------------------------------------------------------------------


@INDEXES
@SAMPLERS
def test_patches_snap_to_the_pixels_of_their_own_zone_and_lie_inside(zones, code, sampler, crs):
    dataset = zones(crs)
    days = set()
    for query in sampler(dataset, size=240):
        view = dataset[query]['sensors']['s30'][0]
        left, top, size = told(code, view)
        assert size == 240
        assert (left - code.left) % 30 == (code.top - top) % 30 == 0
        assert code.left <= left <= code.left + code.size - 240
        assert code.top - code.size + 240 <= top <= code.top
        days.add(day(view))
    assert days == set(ZONES)


@INDEXES
@SAMPLERS
def test_what_is_read_is_the_patch_that_the_sampler_meant(zones, code, sampler, crs):
    dataset = zones(crs)
    made = sampler(dataset, size=300)
    meant = [
        (made._slices(row, left, top), ZONES[row * 10 + 160], left, top)
        for row, positions in enumerate(made._positions)
        for left, top in positions[:: max(1, len(positions) // 20)]
    ]
    assert len(meant) > 40
    for query, epsg, left, top in meant:
        view = dataset[query]['sensors']['s30'][0]
        assert told(code, view) == (left, top, 300)
        assert ZONES[day(view)] == epsg


@INDEXES
def test_grid_is_complete_in_every_zone(zones, code, crs):
    dataset = zones(crs)
    found = {epsg: [] for epsg in ZONES.values()}
    for query in AlignedGridSampler(dataset, size=480):
        view = dataset[query]['sensors']['s30'][0]
        left, top, _ = told(code, view)
        found[ZONES[day(view)]].append((left - code.left, code.top - top))
    expected = list(itertools.product([0, 480, 720], repeat=2))
    assert all(sorted(corners) == expected for corners in found.values())


@pytest.mark.parametrize('crs', [None, 'EPSG:4326'])
@SAMPLERS
def test_region_holds_the_patches_of_every_zone(zones, code, sampler, crs):
    dataset = zones(crs)
    ground = dataset.index.geometry
    # In each zone a part that is turned against its pixels
    roi = shapely.union_all([shapely.affinity.scale(g, 0.6, 0.6) for g in ground])
    length = {'length': 40} if sampler is AlignedPatchSampler else {}
    days = set()
    for query in sampler(dataset, size=180, roi=roi, **length):
        view = dataset[query]['sensors']['s30'][0]
        left, top, size = told(code, view)
        patch = project(globe(left, top, size, ZONES[day(view)]), 'EPSG:4326', dataset.crs.srs)
        assert patch.difference(roi).area < 1e-3 * patch.area
        days.add(day(view))
    assert days == set(ZONES)


def test_splits_of_several_zones_share_no_ground(zones, code):
    dataset = zones()
    splits = BlockSplit(400, (0.4, 0.3, 0.3), seed=1)(dataset)
    squares = {}
    for name, roi in splits._asdict().items():
        squares[name] = []
        for query in AlignedGridSampler(dataset, size=120, roi=roi):
            view = dataset[query]['sensors']['s30'][0]
            squares[name].append(globe(*told(code, view), ZONES[day(view)]))
    for one, other in itertools.combinations(map(shapely.union_all, squares.values()), 2):
        assert one.intersection(other).area < 1e-4 * one.area
    for epsg in ZONES.values():
        zone = globe(code.left, code.top, code.size, epsg)
        assert all(any(s.intersects(zone) for s in parts) for parts in squares.values())


def one_pass(folder, code, lons):
    """Granules of one pass in zones 32 and 33, around a longitude each; their corners by CRS."""
    corners = {}
    for epsg, lon in zip((32632, 32633), lons):
        move = Transformer.from_crs('EPSG:4326', f'EPSG:{epsg}', always_xy=True).transform
        left, top = (round(v / 60) * 60 + half for v, half in zip(move(lon, 44.2), (-600, 600)))
        grid = code.grid(left, top, 30, (40, 40), epsg=epsg)
        name = f'HLS.S30.T{epsg % 100}TPQ.2020166T101559.v2.0'
        x, y = code.centres(grid)
        east, north = code.encode(4, x - left + code.left, y), code.encode(3, x, y - top + code.top)
        for band, data in (('B05', east), ('B04', north), ('Fmask', np.full((40, 40), 64))):
            code.write(folder / f'{name}.{band}.tif', data.astype('int16'), grid)
        corners[f'EPSG:{epsg}'] = left, top
    return corners


@pytest.mark.parametrize('crs', [None, 'EPSG:32633', 'EPSG:4326'])
def test_patch_of_one_pass_in_two_zones_is_that_of_its_own_zone(tmp_path, code, crs):
    """Both granules cover the patch, at one time: the pixels of the meant one must come."""
    corners = one_pass(tmp_path, code, (12.0, 12.0))
    dataset = MultiSensorDataset({'s30': HLSS30(tmp_path, crs=crs, **RAW)})
    made = AlignedGridSampler(dataset, size=240)
    for row, positions in enumerate(made._positions):
        home = corners[made.lattices[row].crs]
        for left, top in positions:
            view = dataset[made._slices(row, left, top)]['sensors']['s30'][0]
            assert float(view['transform'][2]) == left
            assert told(code, view)[:2] == (left - home[0] + code.left, top - home[1] + code.top)


def test_query_of_ones_own_is_answered_by_the_larger_share(tmp_path, code):
    """It lies on the lattice of zone 32, which saw a fifth of it; zone 33 saw all."""
    left, top = one_pass(tmp_path, code, (12.0, 12.009))['EPSG:32632']
    dataset = MultiSensorDataset({'s30': HLSS30(tmp_path, **RAW)})
    x = slice(left + 1200 - 60, left + 1200 + 240)
    (view,) = dataset[x, top - 750 : top - 450]['sensors']['s30']
    assert view['valid'].float().mean() > 0.9


def test_dataset_of_one_sensor_answers_in_its_own_crs_for_every_zone(world, zones, code):
    dataset = HLSS30(world.root, **RAW)
    lattice = dataset.lattice(0)
    for x, y, t in AlignedGridSampler(dataset, size=240):
        sample = dataset[x, y, t]
        assert sample['image'].shape == (2, 8, 8)
        assert (x.start - lattice.x) % 30 == pytest.approx(0, abs=1e-6)
        if day(sample) == 160:
            assert told(code, sample) == (x.start, y.stop, 240)
        else:
            assert sample['valid'].all()


# -- what is not sampled -----------------------------------------------------------------------


@SAMPLERS
def test_min_clear_leaves_out_cloudy_acquisitions(world, sampler):
    for number, cover in ((160, 90), (170, 50), (180, 10)):
        tags = {'cloud_coverage': str(cover)}
        world.hls(time=f'2020{number}T101559', size=240, bands=BANDS, tags=tags)
    single = HLSS30(world.root, **RAW)
    length = {'length': 40} if sampler is AlignedPatchSampler else {}
    for dataset in (single, MultiSensorDataset({'s30': single})):
        for least, days in ((0, {160, 170, 180}), (0.5, {170, 180}), (0.51, {180}), (0.9, {180})):
            made = sampler(dataset, size=120, min_clear=least, **length)
            assert {t.start.day_of_year for _, _, t in made} == days
        with pytest.raises(ValueError, match='or a smaller min_clear'):
            sampler(dataset, size=120, min_clear=0.95, **length)


def test_combination_is_as_clear_as_its_cloudiest(world):
    for number, s30, l30 in ((160, 10, 80), (170, 10, 20)):
        world.hls(
            time=f'2020{number}T101559', size=240, bands=BANDS, tags={'cloud_coverage': f'{s30}'}
        )
        options = {'size': 240, 'bands': BANDS, 'tags': {'cloud_coverage': f'{l30}'}}
        world.hls('L30', f'2020{number}T100000', **options)
    dataset = MultiSensorDataset({'s': HLSS30(world.root, **RAW), 'l': HLSL30(world.root, **RAW)})
    assert dataset.index.clear_fraction.tolist() == pytest.approx([0.2, 0.8])
    sampler = AlignedGridSampler(dataset, size=240, min_clear=0.5)
    assert [t.start.day_of_year for _, _, t in sampler] == [170]


def test_acquisition_of_unknown_clouds_counts_as_clear(world):
    world.hls(size=240, bands=BANDS)
    dataset = HLSS30(world.root, **RAW)
    dataset.index['clear_fraction'] = np.nan
    assert len(AlignedGridSampler(dataset, size=240, min_clear=1)) == 1


@pytest.mark.parametrize('res', [None, 0.00027, 0.0003])
def test_samplers_and_splits_refuse_a_dataset_in_degrees(world, res):
    world.hls(bands=BANDS)
    dataset = HLSS30(world.root, crs='EPSG:4326', res=res, **RAW)
    for make in (
        lambda: AlignedPatchSampler(dataset, size=240),
        lambda: AlignedGridSampler(dataset, size=240),
        lambda: BlockSplit(240)(dataset),
    ):
        with pytest.raises(ValueError, match=r'squares in metres.* projected crs'):
            make()
    several = MultiSensorDataset({'s30': HLSS30(world.root, crs='EPSG:4326', **RAW)})
    with pytest.raises(ValueError, match=r'squares in metres.* projected crs'):
        BlockSplit(240)(several)


# -- ground that is dealt ----------------------------------------------------------------------


@pytest.fixture
def dealt(world, code):
    """S30 over 1.2 km; L30 of the same day over its west, of the next day over its middle."""
    world.hls(bands=BANDS)
    for turn, (east, size) in enumerate(((-600, 1200), (0, 900))):
        options = {
            'left': code.left + east,
            'size': size,
            'bands': BANDS,
            'tile': f'T32TP{"PR"[turn]}',
        }
        world.hls('L30', f'2020{166 + turn}T101600', **options)

    def build(**options):
        members = {'s30': HLSS30(world.root, **RAW), 'l30': HLSL30(world.root, **RAW)}
        return MultiSensorDataset(members, tolerance=2, **options)

    return build


def test_rest_of_the_ground_goes_to_the_next_nearest(dealt, code):
    dataset = dealt()
    west, top = code.left, code.top
    first, second = dataset.index.geometry
    assert first.equals(shapely.box(west, top - 1200, west + 600, top))
    assert second.equals(shapely.box(west + 600, top - 900, west + 900, top))
    for x, expected in ((west, 166), (west + 480, 166), (west + 600, 167), (west + 840, 167)):
        sensors = dataset[x : x + 60, top - 60 : top]['sensors']
        assert day(sensors['l30'][0]) == expected
        assert sensors['l30'][0]['valid'].all()
        assert told(code, sensors['l30'][0]) == told(code, sensors['s30'][0]) == (x, top, 60)


def test_require_keeps_the_rest_that_no_other_covers(dealt, code):
    dataset = dealt(require=1)
    names = [list(combination) for combination in dataset.index.combination]
    assert names == [['s30', 'l30'], ['s30', 'l30'], ['s30']]
    whole = shapely.box(code.left, code.top - 1200, code.left + 1200, code.top)
    assert dataset.index.geometry.union_all().equals(whole)
    assert dataset.index.geometry.area.sum() == whole.area
    sample = dataset[code.left + 900 : code.left + 1200, code.top - 300 : code.top]
    assert list(sample['sensors']) == ['s30']


@SAMPLERS
def test_patch_lies_in_one_combination_and_all_its_sensors_are_whole(dealt, code, sampler):
    dataset = dealt(require=1)
    length = {'length': 60} if sampler is AlignedPatchSampler else {}
    seen = set()
    for query in sampler(dataset, size=240, **length):
        sensors = dataset[query]['sensors']
        corner = told(code, sensors['s30'][0])
        patch = shapely.box(corner[0], corner[1] - 240, corner[0] + 240, corner[1])
        (row,) = np.flatnonzero(dataset.index.covers(patch.buffer(-0.01, join_style='mitre')))
        assert list(sensors) == list(dataset.index.combination.iloc[row])
        if 'l30' in sensors:
            assert told(code, sensors['l30'][0]) == corner
        seen.add(int(row))
    assert seen == {0, 1, 2}


@pytest.mark.parametrize('seed', range(4))
def test_every_place_has_the_nearest_of_those_that_cover_it(world, code, seed):
    rng = np.random.default_rng(seed)
    covers = {}
    for number in (160, 163):
        world.hls(time=f'2020{number}T101559', bands=BANDS)
    for number in rng.permutation(range(157, 167))[:6]:
        east, south = rng.integers(-20, 20, 2) * 30
        options = {'left': code.left + east, 'top': code.top - south, 'size': 900, 'bands': BANDS}
        world.hls('L30', f'2020{number}T101559', **options)
        left, top = options['left'], options['top']
        covers[int(number)] = shapely.box(left, top - 900, left + 900, top)
    members = {'s30': HLSS30(world.root, **RAW), 'l30': HLSL30(world.root, **RAW)}
    dataset = MultiSensorDataset(members, tolerance=3, require=1)
    points = shapely.points(
        rng.uniform((code.left, code.top - 1200), (code.left + 1200, code.top), (60, 2))
    )
    for span, rows in dataset.index.groupby(level=0):
        number = span.left.day_of_year
        grounds = rows.geometry.to_numpy()
        for one, other in itertools.combinations(grounds, 2):
            assert one.intersection(other).area < 1e-6
        for point in points:
            inside = [row for row, ground in enumerate(grounds) if ground.covers(point)]
            gaps = [
                abs(n - number)
                for n, box in covers.items()
                if box.covers(point) and abs(n - number) <= 3
            ]
            if not inside:  # a sliver below a lattice cell that no patch fits in
                continue
            (row,) = inside
            paths = rows.combination.iloc[row].get('l30')
            own = (
                abs(int(paths[0].split('.L30.')[1].split('.')[1][4:7]) - number) if paths else None
            )
            assert own == (min(gaps) if gaps else None)
        lost = shapely.box(code.left, code.top - 1200, code.left + 1200, code.top)
        assert lost.difference(shapely.union_all(grounds)).area < 6 * dataset.step**2
