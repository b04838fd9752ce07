# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Patches snap, stay inside, repeat by seed, and are as many as the sampler says."""

import itertools
import math

import numpy as np
import pytest
import shapely
import shapely.affinity
import torch
from lightning.pytorch import seed_everything
from torch.utils.data import DataLoader

from torchgeo_anysensor.datasets import MultiSensorDataset, collate_sensors
from torchgeo_anysensor.samplers import AlignedGridSampler, AlignedPatchSampler
from torchgeo_anysensor.samplers.positions import in_blocks


@pytest.fixture
def dataset(demo_sensors):
    return MultiSensorDataset(demo_sensors, tolerance=3)


def box(index):
    x, y, _ = index
    return shapely.box(x.start, y.start, x.stop, y.stop)


@pytest.mark.parametrize('sampler', [AlignedPatchSampler, AlignedGridSampler])
def test_patches_lie_on_the_lattice_and_inside(dataset, sampler):
    lattice = dataset.lattice(0)
    ground = dataset.index.geometry.union_all().buffer(0.1)
    patches = list(sampler(dataset, size=240))
    assert patches
    for x, y, _ in patches:
        assert (x.start - lattice.x) % 60 == pytest.approx(0, abs=1e-6)
        assert (y.stop - lattice.y) % 60 == pytest.approx(0, abs=1e-6)
        assert x.stop - x.start == y.stop - y.start == 240
        assert ground.covers(shapely.box(x.start, y.start, x.stop, y.stop))


@pytest.mark.parametrize('sampler', [AlignedPatchSampler, AlignedGridSampler])
@pytest.mark.parametrize('size', [60, 300, 600])
def test_length_is_honest(dataset, sampler, size):
    made = sampler(dataset, size=size)
    assert len(made) == len(list(made)) > 0


def test_patch_as_large_as_the_ground_is_found(dataset):
    west, _, east, _ = dataset.index.geometry.iloc[0].bounds
    size = (east - west) // 60 * 60
    assert len(list(AlignedPatchSampler(dataset, size=size, length=3))) == 3


def test_patches_come_from_every_acquisition(dataset):
    times = {t.start for _, _, t in AlignedPatchSampler(dataset, size=120, length=200)}
    assert times == set(dataset.index.index.left)


def test_epoch_repeats_by_seed_and_changes_with_its_number(dataset):
    def epoch(seed, number):
        sampler = AlignedPatchSampler(dataset, size=120, length=20, seed=seed)
        sampler.set_epoch(number)
        assert list(sampler) == list(sampler)
        return list(sampler)

    assert epoch(1, 0) == epoch(1, 0)
    assert epoch(1, 0) != epoch(1, 1)
    assert epoch(1, 0) != epoch(2, 0)


def test_seed_everything_seeds_the_sampler(dataset):
    def draw(seed):
        seed_everything(seed)
        return list(AlignedPatchSampler(dataset, size=120, length=20))

    assert draw(3) == draw(3) != draw(4)


def test_drawing_patches_leaves_the_global_generator_alone(dataset):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(AlignedPatchSampler(dataset, size=120, length=20))
    assert torch.equal(before, torch.get_rng_state())


def test_grid_covers_the_ground(dataset):
    patches = list(AlignedGridSampler(dataset, size=240))
    first = [box(p) for p in patches if p[2].start == dataset.index.index.left[0]]
    ground = dataset.index.geometry.iloc[0]
    # What remains is narrower than the lattice: it cannot be read untouched
    assert ground.difference(shapely.union_all(first)).buffer(-60).is_empty


def test_stride_gives_overlapping_patches(dataset):
    apart = AlignedGridSampler(dataset, size=240)
    overlapping = AlignedGridSampler(dataset, size=240, stride=120)
    assert len(overlapping) > 2 * len(apart)


def test_patches_stay_inside_the_region(dataset):
    west, south, east, north = dataset.index.geometry.iloc[0].bounds
    roi = shapely.box(west, south, (west + east) / 2, north)
    for sampler in (
        AlignedPatchSampler(dataset, size=120, length=50, roi=roi),
        AlignedGridSampler(dataset, size=120, roi=roi),
    ):
        assert all(roi.buffer(0.1).covers(box(index)) for index in sampler)


def test_single_sensor_dataset_has_a_lattice_of_its_own(demo_sensors):
    sampler = AlignedPatchSampler(demo_sensors['landsat_c2l2'], size=90, length=5)
    sample = demo_sensors['landsat_c2l2'][next(iter(sampler))]
    assert sample['image'].shape[-2:] == (3, 3)


def test_loader_makes_batches(dataset):
    sampler = AlignedPatchSampler(dataset, size=120, length=4)
    batch = next(iter(DataLoader(dataset, 4, sampler=sampler, collate_fn=collate_sensors)))
    assert batch['sensors']['sentinel2_l2a'][0]['image'].shape == (4, 4, 12, 12)
    assert batch['sensors']['landsat_c2l2'][0]['image'].shape == (4, 7, 4, 4)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'size': 100}, r'size=100 m is not a multiple of 60 m.*use 60 or 120'),
        ({'size': 60_000}, r'no patch of 60000 m fits: the widest ground is'),
        ({'size': 120, 'length': 0}, r'length=0 must be at least 1'),
        ({'size': 120, 'file_block': 0}, r'file_block=0 must be a width in metres'),
        ({'size': 120, 'file_block': math.inf}, r'file_block=inf must be a width'),
        ({'size': 120, 'file_block': math.nan}, r'file_block=nan must be a width'),
        ({'size': 120, 'roi': shapely.box(0, 0, 1, 1)}, r'or a larger region'),
    ],
)
def test_what_cannot_be_sampled_is_said(dataset, arguments, message):
    with pytest.raises(ValueError, match=message):
        AlignedPatchSampler(dataset, **arguments)


# -- blocks of files: the ground is 1200 m wide, and so is the file --------------------------------


def side_by_side(dataset, file_block, *, epoch=0, length=3600, **options):
    """Patches of 60 m in groups of 3 by 3, as time, left and top from the corner of the file."""
    sampler = AlignedPatchSampler(
        dataset, size=60, length=length, neighbours=9, file_block=file_block, seed=1, **options
    )
    sampler.set_epoch(epoch)
    lattice = dataset.lattice(0)
    assert len(sampler) == length
    return [(t.start, x.start - lattice.x, lattice.y - y.stop) for x, y, t in sampler]


def blocks_across(group, file_block):
    """Most blocks that a group lies in along an axis."""
    starts = np.array([place for _, *place in group]).round(6)
    first = np.floor(starts.min(axis=0) / file_block)
    return int((np.ceil((starts.max(axis=0) + 60) / file_block) - first).max())


# 200 m is no multiple of the lattice: a group of 180 m does not fit into every such block
@pytest.mark.parametrize(('file_block', 'most'), [(240, 1), (120, 2), (200, 2), (3000, 1)])
def test_groups_lie_in_few_blocks(dataset, file_block, most):
    groups = [*itertools.batched(side_by_side(dataset, file_block), 9)]
    assert all(len(set(group)) == 9 and len({t for t, *_ in group}) == 1 for group in groups)
    assert max(blocks_across(group, file_block) for group in groups) == most
    if file_block < 1200:
        anywhere = itertools.batched(side_by_side(dataset, None), 9)
        assert max(blocks_across(group, file_block) for group in anywhere) > most


@pytest.mark.parametrize('file_block', [240, 120, 200])
def test_groups_in_few_blocks_reach_all_ground(dataset, file_block):
    everywhere = {(x, y) for x in range(0, 1200, 60) for y in range(0, 1200, 60)}
    found = side_by_side(dataset, file_block, length=18_000)
    assert {(round(x), round(y)) for _, x, y in found} == everywhere
    assert {t for t, *_ in found} == set(dataset.index.index.left)


def test_groups_in_few_blocks_repeat_by_seed_and_epoch(dataset):
    assert side_by_side(dataset, 120) == side_by_side(dataset, 120)
    assert side_by_side(dataset, 120) != side_by_side(dataset, 120, epoch=1)
    assert side_by_side(dataset, 120) != side_by_side(dataset, None)


@pytest.mark.parametrize('width', [60, 120, 300])
def test_ground_in_which_no_group_fits_is_drawn_all_the_same(dataset, width):
    lattice = dataset.lattice(0)
    # From a fourth of a block on
    roi = shapely.box(lattice.x + 60, lattice.y - 900, lattice.x + 60 + width, lattice.y)
    found = side_by_side(dataset, 240, length=900, roi=roi)
    assert {round(x) for _, x, _ in found} == set(range(60, 60 + width, 60))


def test_patch_that_is_in_no_group_of_few_blocks_is_drawn_alone(dataset):
    lattice = dataset.lattice(0)
    # Of blocks of 180 m, groups 60 m wide with gaps of 60 m leave the middle out
    squares = [shapely.box(left, 60, left + 60, 120) for left in (0, 780)]
    roi = shapely.affinity.translate(shapely.union_all(squares), lattice.x, lattice.y - 180)
    sampler = AlignedPatchSampler(
        dataset, size=60, length=50, neighbours=4, spacing=120, file_block=180, roi=roi, seed=0
    )
    assert {round(x.start - lattice.x) for x, _, _ in sampler} == {0, 780}


def test_ground_at_the_edge_of_a_block_is_drawn_half_as_often():
    rng = np.random.default_rng(0)
    ground = {'width': 8880, 'block': 5120, 'step': 60, 'rng': rng}
    drawn = np.zeros(1830)  # 109.8 km, in steps
    for place in rng.uniform(0, 109_800, 100_000):
        start = in_blocks(place, 0, 109_800, **ground)
        if start is not None:
            drawn[int(start / 60) : int(start / 60) + 148] += 1
    inner = drawn[200:1600] / drawn[200:1600].max()
    assert inner.min() == pytest.approx(0.5, abs=0.06)
    assert inner.mean() == pytest.approx(0.85, abs=0.03)
    assert drawn[:1790].min() > 0


def test_stretch_that_fits_nowhere_is_none():
    ground = {'width': 180, 'block': 240, 'step': 60, 'rng': np.random.default_rng(0)}
    assert in_blocks(300, 0, 480, **ground) in (240, 300)
    assert in_blocks(300, 320, 480, **ground) is None
    assert in_blocks(470, 0, 470, **ground) == 240
    assert in_blocks(470, 0, 410, **ground) is None
