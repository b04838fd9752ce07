# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

import numpy as np
import pandas as pd
import pytest
import shapely
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch.utils.data import DataLoader
from torchgeo.datasets import RGBBandsMissingError, stack_samples
from torchgeo.samplers import (
    GriddedPatchSampler,
    RandomPatchSampler,
    RandomTimestampSampler,
    SequentialTimestampSampler,
)

from torchgeo_anysensor.datasets import HLSL30, HLSS30, LabelRaster, LandsatC2L2, Sentinel2L2A

RAW = {'calibrate': False}


@pytest.fixture
def s2(world):
    return Sentinel2L2A(world.sentinel2_l2a(size=600), **RAW)


@pytest.fixture
def hls(world):
    return HLSS30(world.hls(size=600), bands=['B02', 'B03'], **RAW)


@pytest.fixture
def labels(world, code):
    grid = code.grid(code.left, code.top, 20, (30, 30))
    x, _ = code.centres(grid)
    codes = ((x - code.left) // 20).astype('uint8')
    return LabelRaster(code.write(world.root / 'labels' / 'a.tif', codes, grid))


def test_whole_dataset_is_one_query(s2):
    sample = s2[s2.bounds]
    assert sample['image'].shape == (4, 60, 60)
    assert sample['bounds'].shape == sample['transform'].shape == (9,)
    assert sample['bounds'][[0, 3]].tolist() == pytest.approx([600_000, 4_899_420])


def test_query_outside_is_an_error(s2, code):
    with pytest.raises(IndexError, match='not found in dataset with bounds'):
        s2[code.left - 500 : code.left - 100, code.top - 100 : code.top]
    x, y, _ = s2.bounds
    with pytest.raises(IndexError, match='not found'):
        s2[x, y, pd.Timestamp('2019-01-01') : pd.Timestamp('2019-02-01')]


def test_step_of_the_query_is_the_pixel_size(s2):
    x, y, _ = s2.bounds
    sample = s2[x.start : x.stop : 30, y.start : y.stop : 30]
    assert sample['image'].shape == (4, 20, 20)
    assert sample['res'] == 30


def test_intersection_has_the_bands_of_both_on_the_first_grid(s2, hls, code):
    both = s2 & hls
    sample = both[both.bounds]
    assert sample['image'].shape == (6, 60, 60)
    assert sample['wavelength'].shape == sample['gsd'].shape == (6,)
    assert sample['gsd'].tolist() == [10] * 4 + [30] * 2
    assert sample['bounds'].shape == (9,)
    fine = code.grid(code.left, code.top, 10, (60, 60))
    coarse = code.grid(code.left, code.top, 30, (20, 20))
    assert np.array_equal(sample['image'][0], code.encode(1, *code.centres(fine)))
    own = code.encode(1, *code.centres(coarse)).repeat(3, axis=0).repeat(3, axis=1)
    assert np.array_equal(sample['image'][4], own)


def test_intersection_is_valid_where_both_are(world):
    def hole(row, col):
        return lambda data: data.__setitem__((row, col), 0)

    a = Sentinel2L2A(world.sentinel2_l2a(size=600, edit={'B02_10': hole(0, 0)}))
    b = LandsatC2L2(world.landsat_c2l2(edit={'SR_B4': hole(10, 10)}, time='10:15:59.5Z'))
    both = a & b
    invalid = ~both[both.bounds]['valid']
    assert invalid[0, 0]
    assert 9 < invalid.sum() <= 1 + 40 * 40 // 100


def test_intersection_with_labels_has_the_mask(s2, labels, code):
    both = s2 & labels
    sample = both[code.left + 100 : code.left + 300, code.top - 300 : code.top - 100]
    assert sample['image'].shape == (4, 20, 20)
    assert sample['mask'].shape == (20, 20)
    assert sample['mask'].dtype == torch.int64
    assert sample['mask'][0].tolist() == [5 + i // 2 for i in range(20)]


@pytest.mark.parametrize('order', ['images first', 'labels first', 'bracketed'])
def test_joins_can_be_joined_again(s2, hls, labels, order):
    three = {
        'images first': lambda: s2 & hls & labels,
        'labels first': lambda: labels & s2 & hls,
        'bracketed': lambda: s2 & (hls & labels),
    }[order]()
    sample = three[three.bounds]
    n = 30 if order == 'labels first' else 60
    assert sample['image'].shape == (6, n, n)
    assert sample['mask'].shape == (n, n)
    assert sample['bounds'].shape == (9,)


def test_unions_can_be_joined_again(world, labels, code):
    tiles = [
        HLSS30(world.hls(tile=tile, size=300, left=code.left + 300 * i), bands=['B04'])
        for i, tile in enumerate(('T32TPQ', 'T32TQQ', 'T32TRQ'))
    ]
    everything = (tiles[0] | tiles[1] | tiles[2]) & labels
    sample = everything[code.left : code.left + 600, code.top - 300 : code.top]
    assert sample['valid'].all()
    assert sample['mask'].shape == sample['valid'].shape


def test_union_takes_the_first_valid_pixel(world):
    def cloud(data):
        data[:5] = 2

    s30 = HLSS30(world.hls(size=600, edit={'Fmask': cloud}), bands=['B04'])
    l30 = HLSL30(world.hls('L30', size=600), bands=['B04'])
    first, second = s30[s30.bounds], l30[l30.bounds]
    either = s30 | l30
    sample = either[either.bounds]
    assert sample['valid'].all()
    assert torch.equal(sample['image'][:, :5], second['image'][:, :5])
    assert torch.equal(sample['image'][:, 5:], first['image'][:, 5:])


def test_union_answers_where_only_one_lies(world, code):
    west = HLSS30(world.hls(size=600), bands=['B04'])
    east = HLSS30(world.hls(tile='T32TQQ', size=600, left=code.left + 600), bands=['B04'])
    either = west | east
    sample = either[code.left + 700 : code.left + 800, code.top - 100 : code.top]
    assert sample['valid'].all()


def test_true_colour_is_drawn_with_mask_and_prediction(s2, labels):
    both = s2 & labels
    sample = both[both.bounds]
    sample['prediction'] = sample['mask']
    figure = s2.plot(sample, suptitle='here')
    assert isinstance(figure, Figure)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ['Sentinel-2 MSI Level-2A', 'mask', 'prediction']
    plt.close(figure)
    bare = s2.plot(s2[s2.bounds], show_titles=False)
    assert [ax.get_title() for ax in bare.axes] == ['']
    plt.close(bare)


def test_pixels_that_are_not_valid_are_grey(s2):
    sample = s2[s2.bounds]
    sample['valid'][0, 0] = False
    figure = s2.plot(sample)
    picture = figure.axes[0].images[0].get_array()
    assert picture[0, 0].tolist() == [0.5, 0.5, 0.5]
    plt.close(figure)
    sample['valid'][:] = False
    plt.close(s2.plot(sample))


def test_true_colour_needs_red_green_and_blue(hls):
    with pytest.raises(RGBBandsMissingError):
        hls.plot(hls[hls.bounds])


@pytest.mark.parametrize('spatial', ['random', 'gridded'])
def test_samplers_of_torchgeo_feed_a_data_loader(s2, code, spatial):
    roi = shapely.box(*s2.index.total_bounds)
    if spatial == 'random':
        sampler = RandomPatchSampler(s2, size=16, length=8, roi=roi) @ RandomTimestampSampler(s2)
    else:
        sampler = GriddedPatchSampler(s2, size=16, roi=roi) @ SequentialTimestampSampler(s2)
    loader = DataLoader(s2, sampler=sampler, batch_size=4, collate_fn=stack_samples)
    seen = 0
    for batch in loader:
        images, n = batch['image'].double().numpy(), len(batch['image'])
        assert images.shape[1:] == (4, 16, 16)
        assert batch['valid'].shape == (n, 16, 16)
        assert batch['wavelength'].shape == (n, 4)
        assert batch['t'].shape == (n,)
        # B02 holds the northing and B03 the easting: whole pixels, all in a row
        for layer, axis in ((0, 1), (1, 2)):
            steps = np.diff(images[:, layer], axis=axis)
            valid = batch['valid'].numpy()
            inner = np.delete(valid, 0, axis) & np.delete(valid, -1, axis)
            assert set(np.abs(steps[inner])) == {20}
        seen += n
    assert seen >= 8


def test_labels_travel_with_the_samplers(s2, labels):
    both = s2 & labels
    sampler = GriddedPatchSampler(both, size=20) @ SequentialTimestampSampler(both)
    batch = next(iter(DataLoader(both, sampler=sampler, batch_size=2, collate_fn=stack_samples)))
    assert batch['mask'].shape == (2, 20, 20)


def test_quality_of_a_misaligned_query_is_not_interpolated(world, code):
    def snow_here_and_there(data):
        data[:, ::2] = 64 | 16  # snow is kept, and the mean of this and 64 has the bit of shadow

    ds = HLSS30(world.hls(size=600, edit={'Fmask': snow_here_and_there}), bands=['B04'])
    sample = ds[code.left + 45 : code.left + 345, code.top - 345 : code.top - 45]
    assert sample['valid'].all()
