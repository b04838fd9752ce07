# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from pyproj import CRS

from torchgeo_anysensor.datasets import (
    HLSL30,
    HLSS30,
    LabelRaster,
    LandsatC2L2,
    MultiSensorDataset,
    Sentinel2L2A,
    StackDataset,
)
from torchgeo_anysensor.samplers import AlignedGridSampler

RED = ('B04', 'SCL', 'Fmask', 'SR_B4', 'QA_PIXEL', 'QA_RADSAT')
BANDS = {'bands': ['B04']}


def hls_time(day, clock='101559'):
    return f'2020{day:03d}T{clock}'


def days(dataset):
    """Day of the year of each row's acquisition, by sensor."""
    return [
        {
            name: pd.Timestamp(float(view['t']), unit='s').day_of_year
            for name, (view,) in row_views(dataset, row).items()
        }
        for row in range(len(dataset))
    ]


def row_views(dataset, row):
    left, _, _, top = dataset.index.total_bounds
    place = {'left': left, 'top': top, 'width': dataset.step, 'height': dataset.step}
    return {
        name: [
            m.view(path, m.native_grid(path, **place)[0])
            for m, path in zip(dataset.datasets[name], paths)
        ]
        for name, paths in dataset.index.combination.iloc[row].items()
    }


@pytest.fixture
def series(world):
    """S30 on day 100, 110 and 120; L30 where a test puts it."""

    def build(*l30_days, **options):
        for day in (100, 110, 120):
            world.hls(time=hls_time(day), size=240, bands=RED)
        for day in l30_days:
            world.hls('L30', hls_time(day), size=240, bands=RED)
        pair = {'s30': HLSS30(world.root, **BANDS), 'l30': HLSL30(world.root, **BANDS)}
        return MultiSensorDataset(pair, **options)

    return build


def test_nearest_in_time_wins(series):
    assert days(series(97, 101, 109, 112, 119, tolerance=5)) == [
        {'s30': 100, 'l30': 101},
        {'s30': 110, 'l30': 109},
        {'s30': 120, 'l30': 119},
    ]


@pytest.mark.parametrize('tolerance', [3, 3.0, pd.Timedelta(days=3), pd.Timedelta(hours=72)])
def test_gap_at_the_tolerance_counts_and_beyond_does_not(series, tolerance):
    assert days(series(103, 106, 124, tolerance=tolerance)) == [{'s30': 100, 'l30': 103}]


def test_gap_a_little_beyond_the_tolerance_does_not_count(world):
    world.hls(time=hls_time(100, '100000'), size=120, bands=RED)
    world.hls('L30', hls_time(100, '100005'), size=120, bands=RED)
    pair = {'s30': HLSS30(world.root, **BANDS), 'l30': HLSL30(world.root, **BANDS)}
    assert len(MultiSensorDataset(pair, tolerance=pd.Timedelta(seconds=5))) == 1
    with pytest.raises(ValueError, match='no combination'):
        MultiSensorDataset(pair, tolerance=pd.Timedelta(seconds=3))


def test_another_date_of_the_same_sensor(world):
    for day in (100, 110, 124):
        world.hls(time=hls_time(day), size=240, bands=RED)
    twice = {'s30': HLSS30(world.root, **BANDS), 'another date': HLSS30(world.root, **BANDS)}
    assert days(MultiSensorDataset(twice, gaps={'another date': (1, 14)})) == [
        {'s30': 100, 'another date': 110},
        {'s30': 110, 'another date': 100},
        {'s30': 124, 'another date': 110},
    ]
    assert days(MultiSensorDataset(twice, gaps={'another date': (12, 30)})) == [
        {'s30': 100, 'another date': 124},
        {'s30': 110, 'another date': 124},
        {'s30': 124, 'another date': 110},
    ]


@pytest.mark.parametrize(('day', 'found'), [(165, False), (166, True), (167, False)])
def test_date_alone_spans_its_day(world, day, found):
    world.landsat_c2l2('20200614', time=None, size=240, bands=RED)  # day 166
    world.hls(time=hls_time(day, '235900'), size=240, bands=RED)
    pair = {'s30': HLSS30(world.root, **BANDS), 'l8': LandsatC2L2(world.root, bands=['SR_B4'])}
    gap = pd.Timedelta(minutes=0)
    if found:
        assert len(MultiSensorDataset(pair, tolerance=gap)) == 1
    else:
        with pytest.raises(ValueError, match='no combination'):
            MultiSensorDataset(pair, tolerance=gap)


def test_length_is_the_number_of_matched_references(series):
    assert len(series(100, 101, 102, 110, tolerance=2)) == 2


def test_absent_sensor_is_absent_where_fewer_are_required(series):
    dataset = series(100, 121, tolerance=2, require=1)
    assert days(dataset) == [{'s30': 100, 'l30': 100}, {'s30': 110}, {'s30': 120, 'l30': 121}]
    middle = dataset.index.index[1]
    x, y, _ = dataset.bounds
    assert list(dataset[x, y, middle.left : middle.right]['sensors']) == ['s30']


def test_another_place_is_no_match_however_near_in_time(world, code):
    world.hls(size=240, bands=RED)
    world.hls('L30', size=240, bands=RED, left=code.left + 240)
    pair = {'s30': HLSS30(world.root, **BANDS), 'l30': HLSL30(world.root, **BANDS)}
    with pytest.raises(ValueError, match='no combination'):
        MultiSensorDataset(pair)
    world.hls('L30', hls_time(167), tile='T32TPR', size=240, bands=RED, left=code.left + 120)
    pair['l30'] = HLSL30(world.root, **BANDS)
    dataset = MultiSensorDataset(pair, tolerance=2)
    assert days(dataset) == [{'s30': 166, 'l30': 167}]
    assert dataset.index.total_bounds[0] == code.left + 120  # the ground that both share


def test_query_takes_the_combination_of_its_time(series):
    dataset = series(100, 110, 120)
    x, y, _ = dataset.bounds
    for row, day in enumerate((100, 110, 120)):
        span = dataset.index.index[row]
        view = dataset[x, y, span.left : span.right]['sensors']['l30'][0]
        assert pd.Timestamp(float(view['t']), unit='s').day_of_year == day


def test_baselines_of_one_datatake_do_not_mix(world):
    for baseline, value in (('0214', 2000), ('0500', 3000)):
        edit = {band: (lambda data, value=value: data.fill(value)) for band in ('B04', 'B05')}
        world.sentinel2_l2a(baseline=baseline, size=120, edit=edit)
    grids = [
        Sentinel2L2A(world.root, bands=[band], res=res, calibrate=False)
        for band, res in (('B04', 10), ('B05', 20))
    ]
    dataset = MultiSensorDataset({'s2': grids})
    assert len(dataset) == 2
    for row in range(2):
        fine, coarse = row_views(dataset, row)['s2']
        assert fine['image'].max() == coarse['image'].max()


# -- what the user may get wrong ---------------------------------------------------------------


@pytest.fixture
def pair(world):
    world.hls(size=120, bands=RED)
    world.hls('L30', size=120, bands=RED)
    return {'s30': HLSS30(world.root, **BANDS), 'l30': HLSL30(world.root, **BANDS)}


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'require': 0}, r"require=0 must be 'all' or from 1 to 2, .*s30, l30"),
        ({'require': 3}, r'require=3 must be'),
        ({'tolerance': -1}, 'tolerance=-1 is negative'),
        ({'gaps': {'s30': (1, 2)}}, r"\['s30'\] must be sensors after the first, of .*l30"),
        ({'gaps': {'l30': (2, 1)}}, r"\['l30'\] must be"),
        ({'gaps': {'l8': (1, 2)}}, r"\['l8'\] must be"),
        ({'tolerance': pd.Timedelta(days=-1)}, 'is negative'),
    ],
)
def test_options_that_make_no_sense_are_refused(pair, options, message):
    with pytest.raises(ValueError, match=message):
        MultiSensorDataset(pair, **options)


def test_no_dataset_is_refused():
    with pytest.raises(ValueError, match='at least one sensor'):
        MultiSensorDataset({})


def test_two_datasets_of_one_grid_are_refused(pair):
    with pytest.raises(ValueError, match=r's30: give one dataset for each grid.*30.*30'):
        MultiSensorDataset({'s30': [pair['s30'], pair['s30']]})
    with pytest.raises(ValueError, match='s30: give one dataset for each grid'):
        MultiSensorDataset({'s30': []})


def test_no_combination_counts_what_there_is(world):
    world.hls(size=120, bands=RED)
    world.hls(time=hls_time(170), size=120, bands=RED)
    world.hls('L30', hls_time(200), size=120, bands=RED)
    pair = {'s30': HLSS30(world.root, **BANDS), 'l30': HLSL30(world.root, **BANDS)}
    with pytest.raises(ValueError, match=r'no combination of 2 .* s30: 2, l30: 1\. Raise the tol'):
        MultiSensorDataset(pair, tolerance=1)


@pytest.mark.parametrize('order', [1, -1])
def test_degrees_are_refused_wherever_they_stand(pair, tmp_path, code, order):
    grid = code.grid(9.0, 44.3, 0.0001, (50, 50), epsg=4326)
    code.write(tmp_path / 'a_20200614.tif', np.ones((50, 50), 'uint16'), grid)
    degrees = StackDataset('sentinel2_l2a', tmp_path, bands=['B04'], scale=1e-4)
    both = {'odd': degrees, 's30': pair['s30']}
    with pytest.raises(ValueError, match=r'odd is in WGS 84: .*metres.*projected crs'):
        MultiSensorDataset(dict(list(both.items())[::order]))


def test_degrees_are_warped_if_a_crs_in_metres_is_given(tmp_path, pair, code):
    grid = code.grid(10.2, 44.3, 0.0001, (900, 900), epsg=4326)
    code.write(tmp_path / 'a_20200614.tif', np.full((900, 900), 3000, 'uint16'), grid)
    utm = CRS.from_epsg(code.epsg)
    options = {'bands': ['B04'], 'scale': 1e-4, 'crs': utm, 'res': 10}
    odd = StackDataset('sentinel2_l2a', tmp_path, **options)
    dataset = MultiSensorDataset({'s30': pair['s30'], 'odd': odd})
    view = dataset[dataset.bounds]['sensors']['odd'][0]
    assert view['valid'].shape == (12, 12)
    assert view['valid'].all()
    assert float(view['image'].mean()) == pytest.approx(0.3)


def test_sizes_without_a_common_multiple_are_refused(pair, world):
    odd = HLSL30(world.root, **BANDS, res=31.234)
    with pytest.raises(ValueError, match='no common multiple below 10 km'):
        MultiSensorDataset({'s30': pair['s30'], 'odd': odd})


def test_labels_in_degrees_are_refused(pair, tmp_path, code):
    grid = code.grid(9.0, 44.3, 0.0001, (50, 50), epsg=4326)
    code.write(tmp_path / 'a.tif', np.ones((50, 50), 'uint8'), grid)
    with pytest.raises(ValueError, match=r'pixel sizes .*0\.0001.* no common multiple'):
        MultiSensorDataset(pair, labels=LabelRaster(tmp_path, res=0.0001))


def test_transforms_get_the_whole_sample(pair):
    seen = MultiSensorDataset(pair, transforms=lambda sample: sample | {'seen': True})
    assert seen[seen.bounds]['seen']


def test_plot_draws_each_sensor_and_the_mask(pair, world, code):
    world.sentinel2_l2a(size=120)
    grid = code.grid(code.left, code.top, 10, (12, 12))
    code.write(world.root / 'labels' / 'a.tif', np.ones((12, 12), 'uint8'), grid)
    dataset = MultiSensorDataset(
        {'s2': Sentinel2L2A(world.root), **pair}, labels=LabelRaster(world.root / 'labels')
    )
    figure = dataset.plot(dataset[dataset.bounds], suptitle='here')
    assert isinstance(figure, Figure)
    assert [ax.get_title() for ax in figure.axes] == ['s2', 's30', 'l30', 'mask']
    plt.close(figure)


def test_acquisitions_of_one_time_and_ground_are_all_read(tmp_path, code):
    """Two files of one day, of which the first has a hole where the second has none."""
    grid = code.grid(code.left, code.top, 30, (8, 8))
    for name, value in (('a', 10), ('b', 20)):
        data = np.full((1, 8, 8), value, 'uint16')
        data[:, :, :4] *= name == 'b'
        code.write(tmp_path / f'x_20200614_{name}.tif', data, grid)
    stack = StackDataset('hls_s30', tmp_path, bands=['B04'], scale=1.0, nodata=0)
    dataset = MultiSensorDataset({'hls': stack})
    assert len(dataset) == 2
    views = [dataset[query]['sensors']['hls'][0] for query in AlignedGridSampler(dataset, size=240)]
    assert [float(view['image'].max()) for view in views] == [10, 20]
    assert [bool(view['valid'].all()) for view in views] == [False, True]
    assert dataset[dataset.bounds]['sensors']['hls'][0]['image'].max() == 10
