# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""All acquisitions of a query in the order of their time, and batches of them."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from torchgeo_anysensor.datasets import HLSS30, LandsatC2L2, Sentinel2L2A, collate_series

RED = ('B03', 'B04', 'B05', 'SCL', 'Fmask')
DAYS = (180, 160, 170)  # written out of order


def day(t):
    """Days of the year of times in seconds."""
    return [stamp.day_of_year for stamp in pd.to_datetime(t.tolist(), unit='s')]


def fill(value, where=slice(None)):
    def edit(data):
        data[where] = value

    return edit


@pytest.fixture
def series(world):
    """S30 of three days; B04 tells the day, and the row of the day is under cloud."""
    for turn, number in enumerate(DAYS):
        edit = {'B04': fill(number), 'Fmask': fill(2, turn)}
        world.hls(time=f'2020{number}T101559', size=120, bands=RED, edit=edit)
    raw = {'bands': ['B04', 'B05'], 'calibrate': False}
    return lambda **options: HLSS30(world.root, **raw, time_series=True, **options)


# -- the dataset -------------------------------------------------------------------------------


def test_dates_come_in_the_order_of_time_with_one_valid_each(series):
    sample = (dataset := series())[dataset.bounds]
    assert sample['image'].shape == (3, 2, 4, 4)
    assert sample['valid'].shape == (3, 4, 4)
    assert sample['t'].shape == (3,)
    assert sample['t'].dtype == torch.float64
    assert day(sample['t']) == [160, 170, 180]
    for turn, (number, row) in enumerate(((160, 1), (170, 2), (180, 0))):
        clear = torch.ones(4, 4, dtype=torch.bool)
        clear[row] = False
        assert torch.equal(sample['valid'][turn], clear)
        assert (sample['image'][turn, 0][clear] == number).all()
        assert (sample['image'][turn][:, ~clear] == 0).all()


def test_each_date_is_what_a_query_of_it_alone_reads(series):
    dataset = series()
    x, y, t = dataset.bounds
    whole = dataset[x, y, t]
    for turn, span in enumerate(dataset.index.index):
        alone = dataset[x, y, span.left : span.right]
        for key in ('image', 'valid', 't'):
            assert torch.equal(alone[key][0], whole[key][turn]), key


def test_query_of_a_time_gets_its_dates(series):
    dataset = series()
    x, y, _ = dataset.bounds
    span = slice(pd.Timestamp('2020-06-10'), pd.Timestamp('2020-06-30'))
    assert day(dataset[x, y, span]['t']) == [170, 180]
    assert dataset[x, y, dataset.index.index[1].left :]['t'].shape == (2,)


def test_one_date_is_a_series_of_one(series):
    dataset = series(max_cloud=0.3)
    x, y, _ = dataset.bounds
    span = dataset.index.index[0]
    assert dataset[x, y, span.left : span.right]['image'].shape == (1, 2, 4, 4)


def test_tiles_of_one_pass_are_one_date(world, code):
    for turn, tile in enumerate(('T32TPQ', 'T32TQQ')):
        for number in (160, 170):
            options = {'left': code.left + 120 * turn, 'size': 120, 'bands': RED}
            world.hls(time=f'2020{number}T101559', tile=tile, **options)
    dataset = HLSS30(world.root, bands=['B04'], time_series=True)
    sample = dataset[dataset.bounds]
    assert sample['image'].shape == (2, 1, 4, 8)
    assert sample['valid'].all()


def test_date_that_covers_a_part_is_valid_there(world, code):
    world.hls(time='2020160T101559', size=240, bands=RED)
    world.hls(time='2020170T101559', size=120, bands=RED, left=code.left + 120)
    dataset = HLSS30(world.root, bands=['B04'], time_series=True)
    valid = dataset[dataset.bounds]['valid']
    assert valid[0].all()
    assert valid[1].nonzero().unique(dim=0).shape == (16, 2)
    assert valid[1, :4, 4:].all()


def test_facts_of_the_bands_are_told_for_each_date_where_platforms_differ(world):
    for platform, clock in (('S2A', '10'), ('S2B', '11'), ('S2A', '12')):
        world.sentinel2_l2a(f'20200614T{clock}1559', platform=platform, size=120, bands=RED)
    dataset = Sentinel2L2A(world.root, bands=['B03', 'B04'], time_series=True)
    sample = dataset[dataset.bounds]
    assert sample['wavelength'].shape == (3, 2)
    rows = sample['wavelength'].tolist()
    assert rows[0] == rows[2] != rows[1]
    assert sample['gsd'].tolist() == [10, 10]


def test_date_alone_counts_as_its_noon_in_the_order(world):
    bands = ('SR_B4', 'QA_PIXEL', 'QA_RADSAT')
    for date, clock in (('20200616', None), ('20200614', '10:04:31.1Z'), ('20200615', None)):
        world.landsat_c2l2(date, time=clock, size=120, bands=bands)
    world.landsat_c2l2('20200615', time='10:04:31.1Z', pathrow='192029', size=120, bands=bands)
    dataset = LandsatC2L2(world.root, bands=['SR_B4'], time_series=True)
    t = dataset[dataset.bounds]['t']
    assert day(t) == [166, 167, 167, 168]
    assert [stamp.hour for stamp in pd.to_datetime(t.tolist(), unit='s')] == [10, 10, 12, 12]


# -- batches -----------------------------------------------------------------------------------


def made(dates, *, bands=2, size=3, wavelength=0.5):
    """A series whose pixels tell the date, all of them valid."""
    t = torch.arange(dates, dtype=torch.float64) + 100
    image = t.float()[:, None, None, None].expand(dates, bands, size, size).clone()
    facts = {key: torch.full((bands,), wavelength) for key in ('wavelength', 'bandwidth', 'gsd')}
    patch = {key: torch.tensor(0.0) for key in ('dx', 'dy', 'res')}
    patch |= {key: torch.zeros(9) for key in ('bounds', 'transform')}
    valid = torch.ones(dates, size, size, dtype=torch.bool)
    return {'image': image, 'valid': valid, 't': t, **facts, **patch}


def check(batch, dates, length):
    """What holds of every batch."""
    b = len(dates)
    assert batch['image'].shape[:2] == batch['valid'].shape[:2] == (b, length)
    assert batch['t'].shape == batch['observed'].shape == (b, length)
    assert batch['t'].dtype == torch.float64
    for row, n in enumerate(dates):
        seen = batch['observed'][row]
        k = min(n, length)
        assert seen.tolist() == [True] * k + [False] * (length - k)
        t = batch['t'][row]
        assert (t[:k].diff() > 0).all()  # in order, and none twice
        assert (batch['image'][row, :k] == t[:k, None, None, None]).all()  # image goes with its t
        assert batch['valid'][row, :k].all()
        assert not batch['valid'][row, k:].any()
        assert (batch['image'][row, k:] == 0).all()
        assert (t[k:] == 0).all()


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    dates=st.lists(st.integers(1, 90), min_size=1, max_size=4),
    length=st.integers(1, 40),
    random=st.booleans(),
)
def test_series_of_any_lengths_make_a_batch_of_one_length(dates, length, random):
    batch = collate_series([made(n, size=1) for n in dates], length=length, random=random)
    check(batch, dates, length)
    if not random:
        for row, n in enumerate(dates):
            k = min(n, length)
            assert batch['t'][row, 0] == 100
            if k > 1:
                assert batch['t'][row, k - 1] == 99 + n  # from the first to the last
                gaps = batch['t'][row, :k].diff()
                assert gaps.max() - gaps.min() <= 1  # evenly


def test_random_dates_are_drawn_by_torchs_generator_and_all_have_a_chance():
    torch.manual_seed(0)
    draws = [collate_series([made(9)], length=3, random=True)['t'] for _ in range(60)]
    torch.manual_seed(0)
    again = [collate_series([made(9)], length=3, random=True)['t'] for _ in range(60)]
    assert all(torch.equal(a, b) for a, b in zip(draws, again))
    assert torch.cat(draws).unique().tolist() == [100 + n for n in range(9)]


def test_facts_are_kept_once_where_all_agree_and_for_each_date_otherwise():
    same = collate_series([made(2), made(5)], length=3)
    assert same['wavelength'].tolist() == [0.5, 0.5]
    other = collate_series([made(2), made(5, wavelength=0.6)], length=3)
    assert other['wavelength'].shape == (2, 3, 2)
    assert other['wavelength'][0].unique().tolist() == pytest.approx([0.5])
    assert other['wavelength'][1].unique().tolist() == pytest.approx([0.6])
    mixed = made(5)
    mixed['wavelength'] = torch.arange(10.0).reshape(5, 2)  # each date has its own
    batch = collate_series([mixed], length=3)
    assert batch['wavelength'][0, :, 0].tolist() == [0, 4, 8]  # those of the dates that are kept
    assert batch['gsd'].shape == (2,)


def test_what_belongs_to_the_patch_is_told_once_for_each_sample():
    batch = collate_series([made(2), made(5)], length=3)
    assert batch['bounds'].shape == batch['transform'].shape == (2, 9)
    assert batch['dx'].shape == batch['dy'].shape == (2,)
    assert batch['res'].shape == ()


def test_samples_are_left_as_they_are():
    sample = made(5)
    before = {key: value.clone() for key, value in sample.items()}
    batch = collate_series([sample], length=7)
    batch['image'] += 1
    assert all(torch.equal(sample[key], before[key]) for key in before)


@pytest.mark.parametrize(
    ('samples', 'length', 'message'),
    [
        ([], 2, 'at least one sample and date, got 0 and 2'),
        ([made(2)], 0, 'at least one sample and date, got 1 and 0'),
        ([{'image': torch.zeros(2, 3, 3)}], 2, r'time_series=True'),
    ],
)
def test_what_makes_no_batch_is_said(samples, length, message):
    with pytest.raises(ValueError, match=message):
        collate_series(samples, length=length)


def test_loader_makes_batches_of_patches_with_different_numbers_of_dates(world, code):
    for turn, number in enumerate(DAYS):
        options = {'size': 240 + 120 * turn, 'bands': RED}
        world.hls(time=f'2020{number}T101559', **options)
    dataset = HLSS30(world.root, bands=['B04'], time_series=True)
    _, _, t = dataset.bounds
    top = code.top
    queries = [
        (slice(code.left + east, code.left + east + 120), slice(top - 120, top), t)
        for east in (0, 120, 240, 360)
    ]
    loader = DataLoader(
        dataset, 4, sampler=queries, collate_fn=lambda samples: collate_series(samples, length=3)
    )
    (batch,) = loader
    assert batch['image'].shape == (4, 3, 1, 4, 4)
    assert batch['observed'].sum(dim=1).tolist() == [3, 3, 2, 1]
    assert torch.equal(batch['valid'].flatten(2).all(dim=2), batch['observed'])
    assert np.allclose(batch['t'][3, 1:], 0)
