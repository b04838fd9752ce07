# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

import numpy as np
import pytest
from torchgeo.datasets import DatasetNotFoundError

from torchgeo_anysensor.datasets import StackDataset
from torchgeo_anysensor.sensors import QA, Band, Sensor

BANDS = ['B04', 'B03', 'B02', 'QUALITY']
MASK = QA('QUALITY', bad_values=(7,))


@pytest.fixture
def stack(tmp_path, code):
    """Writer of one file: the band at place i of the file is 1000 * (i + 1)."""

    def write(name='chip_20200614.tif', *, count=4, quality=None, left=None, value=1000, **profile):
        grid = code.grid(code.left if left is None else left, code.top, 10, (6, 6))
        data = np.stack([np.full((6, 6), value * (i + 1), 'int16') for i in range(count)])
        if quality is not None:
            data[-1] = 0
            data[-1, 2, 3] = quality
        return code.write(tmp_path / 'stack' / name, data, grid, **profile)

    return write


def make(path, **options):
    defaults = {'bands': BANDS, 'scale': 1e-4}
    return StackDataset('sentinel2_l2a', path, **(defaults | options))


def first_pixel(dataset):
    return dataset[dataset.bounds]['image'][:, 0, 0].tolist()


def test_bands_come_in_the_order_of_the_file(stack):
    dataset = make(stack())
    assert dataset.bands == ('B04', 'B03', 'B02')
    assert first_pixel(dataset) == pytest.approx([0.1, 0.2, 0.3])
    assert dataset[dataset.bounds]['wavelength'].tolist() == pytest.approx([0.6646, 0.5598, 0.4927])


def test_by_default_a_file_holds_the_bands_of_the_table(stack, tmp_path):
    table = tmp_path / 'bands.csv'
    table.write_text('name,center_wavelength_um,fwhm_um,gsd_m\nb,0.6,0.01,10\na,0.5,0.02,10\n')
    dataset = StackDataset(str(table), stack(count=2), scale=1e-4)
    assert first_pixel(dataset) == pytest.approx([0.1, 0.2])
    assert dataset[dataset.bounds]['wavelength'].tolist() == pytest.approx([0.6, 0.5])


def test_select_delivers_in_its_own_order(stack):
    assert first_pixel(make(stack(), select=['B02', 'B04'])) == pytest.approx([0.3, 0.1])


def test_scale_and_offset_may_differ_by_band(stack):
    dataset = make(
        stack(), scale={'B04': 1, 'B03': 2, 'B02': 3}, offset={'B04': 0, 'B03': 5, 'B02': 6}
    )
    assert first_pixel(dataset) == [1000, 4005, 9006]
    assert first_pixel(make(stack(), scale=1, offset=-10)) == [990, 1990, 2990]


@pytest.mark.parametrize('case', [str.upper, str.lower])
def test_separate_files_are_one_acquisition_whatever_the_case_of_the_band(stack, case):
    for value, band in ((1000, 'b04'), (2000, 'b03'), (3000, 'b02')):
        path = stack(f'chip_20200614_{case(band)}.tif', count=1, value=value)
    regex = r'chip_(?P<date>\d{8})_(?P<band>\w+)\.tif'
    dataset = make(path.parent, bands=['B02', 'B03', 'B04'], filename_regex=regex)
    assert len(dataset) == 1
    assert first_pixel(dataset) == pytest.approx([0.3, 0.2, 0.1])


def test_constant_date_does_without_dates_in_the_names(stack):
    path = stack('chip.tif')
    dataset = make(path, filename_regex='.*', date='20210527')
    expected = np.datetime64('2021-05-27T12:00:00').astype(float)
    assert float(dataset[dataset.bounds]['t']) == expected


def test_date_of_another_format_is_read(stack):
    path = stack('chip_2020-06-14T10-15.tif')
    regex, form = r'.*_(?P<date>\d{4}-\d\d-\d\dT\d\d-\d\d)', '%Y-%m-%dT%H-%M'
    dataset = make(path, filename_regex=regex, date_format=form)
    assert float(dataset[dataset.bounds]['t']) == np.datetime64('2020-06-14T10:15:00').astype(float)
    with pytest.raises(ValueError, match=r"(?s)chip_2020.*is no date in the format '%Y%m%d'"):
        make(path, filename_regex=regex, strict=True)


def invalid(dataset):
    return (~dataset[dataset.bounds]['valid']).nonzero().tolist()


def test_quality_band_inside_of_the_stack_masks(stack):
    path = stack(quality=7)
    assert invalid(make(path, qa=MASK)) == [[2, 3]]
    assert invalid(make(path)) == []


@pytest.mark.parametrize('as_string', [True, False])
def test_quality_in_files_of_its_own_masks(stack, as_string):
    path = stack('chip_20200614.tif', count=3)
    stack('chip_20200619.tif', count=3)
    stack('mask_20200614.tif', count=1, quality=7)
    stack('mask_20200619.tif', count=1, quality=0)
    folder = str(path.parent) if as_string else path.parent
    options = {
        'bands': BANDS[:3],
        'filename_glob': 'chip*.tif',
        'qa': QA('whatever', bad_values=(7,)),
        'qa_regex': r'mask_(?P<date>\d{8})\.tif',
    }
    dataset = make(folder, **options)
    assert len(dataset) == 2
    views = []
    for file in dataset.index.filepath:
        grid, _, _ = dataset.native_grid(
            file, left=dataset.bounds[0].start, top=dataset.bounds[1].stop, width=60, height=60
        )
        views.append((~dataset.view(file, grid)['valid']).nonzero().tolist())
    assert views == [[[2, 3]], []]


def test_two_quality_files_of_one_date_are_refused(stack, code):
    path = stack('chip_a_20200614.tif', count=3)
    stack('chip_b_20200614.tif', count=3, left=code.left + 600)
    stack('mask_a_20200614.tif', count=1, quality=7)
    stack('mask_b_20200614.tif', count=1, quality=0, left=code.left + 600)
    options = {'filename_glob': 'chip*.tif', 'qa': MASK, 'bands': BANDS[:3]}
    with pytest.raises(ValueError, match='several quality files of one date'):
        make(path.parent, qa_regex=r'mask_.*(?P<date>\d{8})\.tif', **options)


def test_nodata_is_the_tag_unless_it_is_given(stack):
    assert not make(stack(nodata=2000))[slice(None)]['valid'].any()
    assert make(stack(nodata=2000), nodata=-1)[slice(None)]['valid'].all()
    assert make(stack())[slice(None)]['valid'].all()


def test_sensor_of_ones_own_is_read(stack):
    drone = Sensor(
        name='drone',
        title='A camera',
        bands=(
            Band('R', 'red', 0.66, 0.05, 0.1, 1, 0),
            Band('T', None, 10.5, 4, 0.1, 1, 0, 'celsius'),
        ),
        nodata=0,
        qa=(),
        filename_regex=r'(?P<product>(?P<date>\d{8})(?P<band>.))',
        date_format='%Y%m%d',
        source='a test',
    )
    options = {'bands': ['R', 'T'], 'scale': 0.01, 'offset': {'R': 0, 'T': 273.15}}
    dataset = StackDataset(drone, stack(count=2), select=['T', 'R'], **options)
    sample = dataset[dataset.bounds]
    assert sample['image'][:, 0, 0].tolist() == pytest.approx([20 + 273.15, 10])
    assert sample['gsd'].tolist() == pytest.approx([0.1, 0.1])
    assert dataset.res == (10, 10)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'filename_regex': '.*'}, r'no group .*date.*; add one, or give the date'),
        ({'qa': QA('SCL', bad_values=(1,))}, r"quality band 'SCL' is not in bands=.*qa_regex"),
        ({'scale': {'B04': 1, 'B03': 1}}, 'scale lacks B02'),
        ({'offset': {'B04': 1}}, 'offset lacks B03, B02'),
        ({'select': ['B12']}, r"no band to deliver: select=\['B12'\]"),
        ({'bands': ['x', 'y']}, 'no band to deliver'),
        ({'select': ['QUALITY']}, 'has no band QUALITY'),
    ],
)
def test_what_is_not_said_is_asked_for(stack, options, message):
    with pytest.raises(ValueError, match=message):
        make(stack(), **options)


def test_file_that_lacks_bands_is_left_out(stack):
    short = stack('short_20200615.tif', count=3)
    both = stack().parent
    assert len(make(both)) == 2  # the fourth band is not read
    with pytest.warns(
        UserWarning, match=r'short_20200615.*has 3 bands, and QUALITY should be band 4'
    ):
        dataset = make(both, qa=MASK)
    assert list(dataset.problems) == [str(short)]
    assert first_pixel(dataset) == pytest.approx([0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match='short_20200615'):
        make(short, qa=MASK, strict=True)


def test_unknown_sensor_is_refused(stack):
    with pytest.raises(ValueError, match="did you mean 'sentinel2_l2a'"):
        StackDataset('sentinel2_l2', stack(), bands=['B04'], scale=1)


def test_nothing_found_raises_the_error_of_torchgeo(tmp_path):
    with pytest.raises(DatasetNotFoundError):
        make(tmp_path)


def test_real_mosaic_that_is_not_in_utm_is_read(shared_data):
    bands = ['B02', 'B03', 'B04', 'B05', 'B06', 'B07', 'B08', 'B8A', 'B11', 'B12']
    path = shared_data / 'aberystwyth' / 'S2_20210527_aber_10band.tif'
    dataset = make(path, bands=bands, scale=1e-3, nodata=0)
    assert dataset.crs.to_epsg() == 27700
    x, y, t = dataset.bounds
    sample = dataset[x.start + 2000 : x.start + 2640, y.start + 2000 : y.start + 2640, t]
    assert sample['image'].shape == (10, 64, 64)
    assert sample['valid'].all()
