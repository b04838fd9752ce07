# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Positions of patches on large ground: whole tiles and long passes."""

import math
import tracemalloc

import numpy as np
import pytest
import rasterio
import shapely

from torchgeo_anysensor.datasets import HLSS30
from torchgeo_anysensor.datasets.geometry import Lattice, footprints, project
from torchgeo_anysensor.samplers import AlignedGridSampler, AlignedPatchSampler, BlockSplit
from torchgeo_anysensor.samplers.positions import inside, on_lattice


@pytest.fixture
def tile(tmp_path, code):
    """A whole tile of 110 km without a pixel in it."""
    for band, kind in (('B04', 'int16'), ('B05', 'int16'), ('Fmask', 'uint8')):
        path = tmp_path / f'HLS.S30.T32TPQ.2020166T101559.v2.0.{band}.tif'
        grid = code.grid(code.left, code.top, 30, (3660, 3660))
        profile = {'crs': grid.crs, 'transform': grid.transform, 'dtype': kind, 'count': 1}
        shape = {'width': 3660, 'height': 3660, 'tiled': True, 'SPARSE_OK': True}
        with rasterio.open(path, 'w', driver='GTiff', **profile, **shape):
            pass
    return HLSS30(tmp_path, bands=['B05', 'B04'], calibrate=False)


def test_positions_of_a_whole_tile_are_thinned_evenly_and_fit_into_memory(tile, code):
    tracemalloc.start()
    made = AlignedPatchSampler(tile, size=240, length=4)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    (positions,) = made._positions
    assert 20_000 < len(positions) <= 100_000
    assert peak < 100e6  # 13 million positions would be 214 MB
    for axis, start in ((0, code.left), (1, code.top - 109_800 + 240)):
        values = np.unique(positions[:, axis]) - start
        assert np.ptp(values) > 109_000
        assert len(set(np.diff(values))) == 1


def test_every_block_of_the_size_of_a_patch_is_sampled_on_a_large_tile(tile):
    splits = BlockSplit(2400, (0.7, 0.15, 0.15))(tile)
    grid = AlignedGridSampler(tile, size=2400, roi=splits.train)
    made = AlignedPatchSampler(tile, size=2400, roi=splits.train, length=4)
    patches = shapely.union_all(
        [shapely.box(left, top - 2400, left + 2400, top) for left, top in made._positions[0]]
    )
    assert splits.train.area > 400 * 2400**2
    missed = splits.train.difference(patches)
    whole = [part for part in shapely.get_parts(missed) if part.buffer(-1199).area > 0]
    assert whole == []
    assert len(grid) > 400


@pytest.mark.parametrize('top', [1_000_020, 5_000_040, 6_700_020, 8_300_040])
@pytest.mark.parametrize(
    ('own', 'index'),
    [('EPSG:32633', 'EPSG:32632'), ('EPSG:32632', 'EPSG:4326'), ('EPSG:32632', 'EPSG:6933')],
)
def test_a_whole_tile_is_covered_to_its_edge(own, index, top):
    """Its sides are chords in the index, and bend inwards when they come back."""
    left, width, size = 600_000, 109_800, 2520.0
    tile = shapely.box(left, top - width, left + width, top)
    back = project(footprints([tile], [own], index)[0], index, own)
    options = {'step': size, 'size': size, 'flush': True}
    found = inside(on_lattice(back.bounds, Lattice(left, top, 60.0, own), **options), back, size)
    assert len(found) == math.ceil(width / size) ** 2


def test_no_patch_leaves_a_long_region():
    """A pass of 1500 km that is no box, on the lattice of its own CRS."""
    region = shapely.Polygon([(0, 0), (180_000, 0), (480_000, 1_500_000), (300_000, 1_500_000)])
    size = 2520.0
    lattice = Lattice(0.0, 1_500_000.0, 60.0, 'EPSG:32632')
    found = inside(on_lattice(region.bounds, lattice, step=size, size=size), region, size)
    squares = shapely.box(found[:, 0], found[:, 1] - size, found[:, 0] + size, found[:, 1])
    assert len(squares) > 30_000
    assert shapely.covers(region.buffer(0.4), squares).all()
