# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Patches snap, stay inside, repeat by seed, and are as many as the sampler says."""

import pytest
import shapely
import torch
from lightning.pytorch import seed_everything
from torch.utils.data import DataLoader

from torchgeo_anysensor.datasets import MultiSensorDataset, collate_sensors
from torchgeo_anysensor.samplers import AlignedGridSampler, AlignedPatchSampler


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
        ({'size': 120, 'roi': shapely.box(0, 0, 1, 1)}, r'or a larger region'),
    ],
)
def test_what_cannot_be_sampled_is_said(dataset, arguments, message):
    with pytest.raises(ValueError, match=message):
        AlignedPatchSampler(dataset, **arguments)
