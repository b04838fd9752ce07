# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Matching and look-ups against loops that look at everything."""

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely

from torchgeo_anysensor.datasets.lookup import IndexedDataset, Lookup
from torchgeo_anysensor.datasets.matching import Matcher

SLIVER = 200.0
NOTHING = pd.Timedelta(0)


def draw_index(rng, name, *, count=25, jitter=True):
    """Footprints of a few places, times that are often equal, names that some grids lack."""
    corners = np.array([40.0, 40.0]) * rng.integers(0, (6, 4), (count, 2))
    if jitter:
        corners += rng.integers(-9, 9, (count, 2))
    x, y = corners.T
    left = pd.Timestamp('2020-01-01') + pd.to_timedelta(rng.integers(0, 24, count) * 12, unit='h')
    right = left + pd.to_timedelta(rng.choice([0, 24], count), unit='h')
    data = {
        'filepath': [f'{name}-{i}' for i in range(count)],
        'product': [f'p{i}' for i in rng.integers(0, count, count)],
        'clear_fraction': rng.random(count),
    }
    return gpd.GeoDataFrame(
        data,
        index=pd.IntervalIndex.from_arrays(left, right, closed='both', name='datetime'),
        geometry=shapely.box(x, y, x + rng.choice([50, 60, 100], count), y + 60),
        crs='EPSG:32632',
    )


# -- the definition ----------------------------------------------------------------------------


def on_all_grids(grids, row, ground):
    """Paths of one acquisition and the ground that its grids share, or None."""
    finest = grids[0]
    paths, common = [finest.filepath.iloc[row]], finest.geometry.iloc[row].intersection(ground)
    for grid in grids[1:]:
        same = [i for i, p in enumerate(grid['product']) if p == finest['product'].iloc[row]]
        same = same or [i for i, t in enumerate(grid.index) if t.left == finest.index[row].left]
        if not same:
            return None
        pieces = [grid.geometry.iloc[i].intersection(common) for i in same]
        best = int(np.argmax([piece.area for piece in pieces]))
        common = pieces[best]
        paths.append(grid.filepath.iloc[same[best]])
    return (tuple(paths), common) if common.area > 0 else None


def gap(one, other):
    return max(one.left - other.right, other.left - one.right, NOTHING)


def deal(combination, ground, others, time, within):
    """Ground to the nearest in time of each sensor; what it does not cover to the next nearest."""
    if not others:
        return [(combination, ground)]
    (name, grids), *rest = others
    finest, whole, found = grids[0], ground, []
    order = sorted(range(len(finest)), key=lambda i: abs(finest.index[i].mid - time.mid))
    for row in order:
        if not within[name][0] <= gap(finest.index[row], time) <= within[name][1]:
            continue
        own = on_all_grids(grids, row, whole)
        common = own[1].intersection(ground) if own else shapely.Polygon()
        if common.area < SLIVER:
            continue
        found += deal(combination | {name: own[0]}, common, rest, time, within)
        ground = ground.difference(common)
        if ground.area < SLIVER:
            return found
    return found + deal(combination, ground, rest, time, within)


def slow(indexes, within):
    (first, grids), *others = indexes.items()
    for row, time in enumerate(grids[0].index):
        own = on_all_grids(grids, row, grids[0].geometry.iloc[row])
        if own:
            for combination, ground in deal({first: own[0]}, own[1], others, time, within):
                yield row, combination, ground


@pytest.mark.parametrize('seed', range(12))
def test_matches_are_those_of_the_definition(seed):
    rng = np.random.default_rng(seed)
    indexes = {
        f's{i}': [
            draw_index(rng, f's{i}.{grid}', count=int(rng.integers(1, 25)), jitter=bool(seed % 2))
            for grid in range(rng.integers(1, 3))
        ]
        for i in range(1 + seed % 3)
    }
    within = {
        name: (pd.Timedelta(days=int(rng.choice([0, 0, 1]))), pd.Timedelta(days=int(greatest)))
        for name, greatest in zip(indexes, rng.choice([0, 1, 3, 1000], len(indexes)))
    }
    expected = list(slow(indexes, within))
    found = list(Matcher(indexes, within=within, sliver=SLIVER))
    assert [(m.row, list(m.combination.items())) for m in found] == [
        (row, list(combination.items())) for row, combination, _ in expected
    ]
    for match, (_, _, ground) in zip(found, expected):
        assert match.ground.equals_exact(ground, 0)
        paths = {name: indexes[name][0].filepath.iloc[row] for name, row in match.rows.items()}
        assert paths == {name: own[0] for name, own in match.combination.items()}


def test_references_beyond_a_chunk_are_matched_too(monkeypatch):
    rng = np.random.default_rng(0)
    indexes = {name: [draw_index(rng, name)] for name in ('a', 'b')}
    within = dict.fromkeys(indexes, (NOTHING, pd.Timedelta(days=1)))
    whole = list(Matcher(indexes, within=within, sliver=SLIVER))
    monkeypatch.setattr('torchgeo_anysensor.datasets.matching._CHUNK', 7)
    monkeypatch.setattr('torchgeo_anysensor.datasets.matching._REMEMBERED', 5)
    assert list(Matcher(indexes, within=within, sliver=SLIVER)) == whole


# -- look-ups ----------------------------------------------------------------------------------


@pytest.mark.parametrize('seed', range(4))
def test_lookup_finds_what_a_look_at_every_row_finds(seed):
    rng = np.random.default_rng(seed)
    index = draw_index(rng, 'a', count=60)
    lookup = Lookup(index)
    for _ in range(40):
        (west, south), (width, height) = rng.integers(0, 250, 2) - 20, rng.integers(1, 60, 2)
        start = pd.Timestamp('2020-01-01') + pd.Timedelta(hours=int(rng.integers(-24, 320)))
        stop = start + pd.Timedelta(hours=int(rng.choice([0, 12, 100])))
        query = shapely.box(west, south, west + width, south + height)
        expected = {
            row: geometry.intersection(query).area
            for row, (time, geometry) in enumerate(zip(index.index, index.geometry))
            if time.overlaps(pd.Interval(start, stop, 'both'))
        }
        rows, shared = lookup(
            slice(west, west + width), slice(south, south + height), slice(start, stop)
        )
        assert dict(zip(rows.tolist(), shared)) == {r: a for r, a in expected.items() if a > 0}
        lefts = index.index.left[rows]
        assert list(zip(lefts, rows)) == sorted(zip(lefts, rows))


class Bare(IndexedDataset):
    """Nothing but an index."""

    def __init__(self, index):
        self.index = index
        self._res = (10.0, 10.0)

    def __getitem__(self, index):
        raise NotImplementedError


def test_bounds_follow_the_index_and_its_crs():
    rng = np.random.default_rng(0)
    dataset = Bare(draw_index(rng, 'a'))
    before = dataset.bounds
    assert (before[0].start, before[1].stop) == tuple(dataset.index.total_bounds[[0, 3]])
    assert (before[2].start, before[2].stop) == (
        dataset.index.index.left.min(),
        dataset.index.index.right.max(),
    )
    dataset.index = dataset.index.iloc[:1]
    assert dataset.bounds[0].stop == dataset.index.total_bounds[2]
    dataset.crs = 'EPSG:32633'
    assert dataset.crs.to_epsg() == 32633
    assert dataset.bounds[0].start == dataset.index.total_bounds[0] != before[0].start
