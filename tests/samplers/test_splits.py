# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""No ground is in two splits."""

import itertools

import pytest
import shapely

from torchgeo_anysensor.datasets import MultiSensorDataset
from torchgeo_anysensor.samplers import AlignedGridSampler, AlignedPatchSampler, BlockSplit


@pytest.fixture
def dataset(demo_sensors):
    return MultiSensorDataset(demo_sensors, tolerance=3)


def ground(sampler):
    return shapely.union_all([shapely.box(x.start, y.start, x.stop, y.stop) for x, y, _ in sampler])


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('buffer', [0, 60])
def test_patches_of_two_splits_share_no_ground(dataset, seed, buffer):
    splits = BlockSplit(300, (0.5, 0.25, 0.25), buffer=buffer, seed=seed)(dataset)
    areas = [
        ground(AlignedPatchSampler(dataset, size=60, length=300, roi=splits.train)),
        ground(AlignedGridSampler(dataset, size=60, roi=splits.val)),
        ground(AlignedGridSampler(dataset, size=60, roi=splits.test)),
    ]
    for one, other in itertools.combinations(areas, 2):
        assert one.intersection(other).area == pytest.approx(0, abs=1e-3)
        assert one.distance(other) >= buffer - 0.1


def test_without_buffer_all_ground_is_dealt(dataset):
    splits = BlockSplit(300)(dataset)
    whole = dataset.index.geometry.union_all()
    lost = whole.difference(shapely.union_all(list(splits)))
    assert lost.area < 0.15 * whole.area  # the rim before the first lattice point


def test_fractions_are_kept(dataset):
    splits = BlockSplit(120, (0.5, 0.3, 0.2))(dataset)
    total = sum(area.area for area in splits)
    assert [a.area / total for a in splits] == pytest.approx([0.5, 0.3, 0.2], abs=0.05)


def test_seed_decides_the_deal(dataset):
    assert BlockSplit(300, seed=1)(dataset) == BlockSplit(300, seed=1)(dataset)
    assert BlockSplit(300, seed=1)(dataset) != BlockSplit(300, seed=2)(dataset)


def test_block_holds_a_patch_of_its_own_width(dataset):
    splits = BlockSplit(300)(dataset)
    assert len(AlignedGridSampler(dataset, size=300, roi=splits.test)) > 0


def test_report_says_what_is_shared(dataset):
    report = BlockSplit(300, buffer=60)(dataset).report()
    assert 'train and test: 0.000 km2 shared, 60 m apart' in report


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'size': 0}, 'size=0 must be positive'),
        ({'size': 60, 'buffer': -1}, 'buffer=-1 not < 0'),
        ({'size': 60, 'fractions': (0.5, 0.4, 0.2)}, 'sum to 1'),
    ],
)
def test_numbers_out_of_range_are_said(arguments, message):
    with pytest.raises(ValueError, match=message):
        BlockSplit(**arguments)


def test_too_few_blocks_are_said(dataset):
    with pytest.raises(ValueError, match='1 blocks of 60000 m cannot make 3 splits'):
        BlockSplit(60_000)(dataset)
