# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

import shutil

import numpy as np
import pytest

from torchgeo_anysensor.datasets import Sentinel2L1C, Sentinel2L2A

LEVELS = pytest.mark.parametrize(
    ('level', 'dataset'), [('sentinel2_l1c', Sentinel2L1C), ('sentinel2_l2a', Sentinel2L2A)]
)
TEN = ('B02', 'B03', 'B04', 'B08', 'SCL')


def first_pixel(dataset):
    return dataset[dataset.bounds]['image'][:, 0, 0].tolist()


def fill(value):
    return lambda data: data.fill(value)


@LEVELS
@pytest.mark.parametrize(
    ('baseline', 'offset', 'expected'),
    [
        ('0509', -1000, 0.1),
        # The metadata count, not the name and not the date: reprocessed and relabelled trees
        ('0214', -1000, 0.1),
        ('0509', None, 0.2),
        ('0400', -500, 0.15),
    ],
)
def test_offset_is_what_the_metadata_say(world, level, dataset, baseline, offset, expected):
    build = getattr(world, level)
    build(baseline=baseline, offset=offset, size=60, bands=TEN, edit={'B04': fill(2000)})
    assert first_pixel(dataset(world.root, bands=['B04'])) == pytest.approx([expected])


@LEVELS
@pytest.mark.parametrize(
    ('baseline', 'expected'), [('0214', 0.2), ('0301', 0.2), ('0400', 0.1), ('0511', 0.1)]
)
def test_offset_is_that_of_the_baseline_where_there_are_no_metadata(
    world, level, dataset, baseline, expected
):
    getattr(world, level)(
        time='20180614T101559', baseline=baseline, xml='', size=60, edit={'B04': fill(2000)}
    )
    assert first_pixel(dataset(world.root, bands=['B04'])) == pytest.approx([expected])


@LEVELS
def test_offset_that_nothing_tells_is_an_error(world, tmp_path, level, dataset):
    safe = getattr(world, level)(size=60, xml='', bands=TEN)
    shutil.move(safe / 'GRANULE', tmp_path / 'loose')
    with pytest.raises(ValueError, match=r'cannot tell whether .* offset.*\.SAFE'):
        dataset(tmp_path / 'loose', bands=['B04'], qa=False)
    assert first_pixel(dataset(tmp_path / 'loose', bands=['B04'], qa=False, calibrate=False))


def test_offset_of_each_band_is_its_own(world, code):
    offsets = ''.join(
        f'<RADIO_ADD_OFFSET band_id="{i}">{-100 * i}</RADIO_ADD_OFFSET>' for i in range(13)
    )
    name = 'S2A_MSIL1C_20200614T101559_N0509_R065_T32TPQ_20220101T000000.SAFE'
    xml = code.s2_metadata(name, None, extra=offsets).replace('>10000<', '>5000<')
    bands = ('B02', 'B8A', 'B09', 'B10', 'B12')
    world.sentinel2_l1c(xml=xml, size=120, edit={band: fill(3000) for band in bands})
    expected = [(3000 - 100 * i) / 5000 for i in (1, 8, 9, 10, 12)]
    assert first_pixel(Sentinel2L1C(world.root, bands=bands)) == pytest.approx(expected)


@LEVELS
@pytest.mark.parametrize(
    ('xml', 'message'),
    [
        (
            '<!DOCTYPE p [<!ENTITY a "b">]><p><QUANTIFICATION_VALUE>1</QUANTIFICATION_VALUE></p>',
            'has no DOCTYPE, this one does',
        ),
        ('<p><QUANTIFICATION', 'not a readable XML file'),
        ('<p>hello</p>', 'has no QUANTIFICATION_VALUE'),
    ],
)
def test_metadata_that_are_none_are_refused_by_name(world, level, dataset, xml, message):
    getattr(world, level)(xml=xml, size=60, bands=TEN)
    getattr(world, level)('20200624T101559', size=60, bands=TEN)
    told = rf'1 of 2 products .*\n.*20200614.*MTD_MSIL.*xml: .*{message}'
    with pytest.warns(UserWarning, match=told):
        assert len(dataset(world.root)) == 1
    with pytest.raises(ValueError, match=told):
        dataset(world.root, strict=True)


@LEVELS
def test_two_baselines_of_one_datatake_stay_apart(world, level, dataset):
    build = getattr(world, level)
    build(baseline='0214', offset=None, size=60, edit={'B04': fill(2000)})
    build(baseline='0500', offset=-1000, size=60, edit={'B04': fill(3001)})
    both = dataset(world.root, bands=['B04'])
    assert len(both) == 2
    values = [both.view(path, grid_of(both, path))['image'] for path in both.index.filepath]
    assert sorted(float(v.max()) for v in values) == pytest.approx([0.2, 0.2001])


def grid_of(dataset, path):
    left, bottom, right, top = dataset.index.total_bounds
    return dataset.native_grid(path, left=left, top=top, width=right - left, height=top - bottom)[0]


def test_one_row_for_each_acquisition(world):
    world.sentinel2_l2a(size=120)
    world.sentinel2_l2a(time='20200619T101559', size=120)
    world.sentinel2_l2a(tile='T32TQQ', size=120)  # seen in the same pass as the first
    world.sentinel2_l2a(tile='T32TQQ', platform='S2B', size=120)
    for res in (10, 20, 60):
        index = Sentinel2L2A(world.root, res=res).index
        assert sorted(index.tile) == ['T32TPQ', 'T32TPQ,T32TQQ', 'T32TQQ']


@pytest.mark.parametrize('res', [10, 20, 60])
def test_band_is_read_from_the_file_of_the_grid(world, res):
    edit = {f'B02_{r}': fill(2000 + r) for r in (10, 20, 60)}
    world.sentinel2_l2a(size=120, edit=edit)
    dataset = Sentinel2L2A(world.root, bands=['B02'], res=res)
    sample = dataset[dataset.bounds]
    assert sample['image'].shape == (1, 120 // res, 120 // res)
    assert float(sample['image'].max()) == pytest.approx((1000 + res) / 1e4)
    assert sample['gsd'].tolist() == [10]
    assert sample['res'] == res


@pytest.mark.parametrize(
    ('res', 'bands'),
    [
        (10, ('B02', 'B03', 'B04', 'B08')),
        (20, ('B05', 'B06', 'B07', 'B8A', 'B11', 'B12')),
        (60, ('B01', 'B09')),
    ],
)
def test_default_bands_of_a_grid_are_those_native_to_it(world, res, bands):
    world.sentinel2_l2a(size=120)
    dataset = Sentinel2L2A(world.root, res=res)
    assert dataset.bands == bands
    assert dataset.res == (res, res)


def test_grid_that_the_sensor_lacks_names_those_it_has(world):
    world.sentinel2_l2a(size=120)
    with pytest.raises(ValueError, match=r'native grid of 30 m .it has 10, 20, 60 m'):
        Sentinel2L2A(world.root, res=30)


def test_coarse_band_on_the_fine_grid_is_repeated(world, code):
    world.sentinel2_l2a(size=240)
    dataset = Sentinel2L2A(world.root, bands=['B02', 'B8A', 'B09'], calibrate=False)
    image = dataset[dataset.bounds]['image'].numpy()
    for layer, (place, res) in enumerate(((1, 10), (8, 20), (9, 60))):
        grid = code.grid(code.left, code.top, res, (240 // res, 240 // res))
        own = code.encode(place, *code.centres(grid))
        n = res // 10
        assert np.array_equal(image[layer], own.repeat(n, axis=0).repeat(n, axis=1))


def test_scene_classification_masks_the_fine_grid(world):
    def cloud(data):
        data[1, 2] = 9

    world.sentinel2_l2a(size=120, edit={'SCL_20': cloud})
    dataset = Sentinel2L2A(world.root)
    invalid = ~dataset[dataset.bounds]['valid'].numpy()
    assert invalid.sum() == 4
    assert invalid[2:4, 4:6].all()


@LEVELS
def test_jpeg2000_tree_is_read(world, code, level, dataset):
    profile = {'driver': 'JP2OpenJPEG', 'QUALITY': '100', 'REVERSIBLE': 'YES'}
    options = {'extension': 'jp2', 'profile': profile, 'bands': TEN, 'size': 600}
    getattr(world, level)(**options)
    ds = dataset(world.root, calibrate=False)
    grid = code.grid(code.left, code.top, 10, (60, 60))
    assert np.array_equal(ds[ds.bounds]['image'][0], code.encode(1, *code.centres(grid)))


def test_real_tree_is_read_on_each_grid(shared_data):
    for res in (10, 20, 60):
        dataset = Sentinel2L2A(shared_data / 'safe', res=res)
        assert len(dataset) == 1
        x, y, _ = dataset.bounds
        middle = (x.start + x.stop) // 2, (y.start + y.stop) // 2
        sample = dataset[middle[0] : middle[0] + 64 * res, middle[1] : middle[1] + 64 * res]
        assert sample['image'].shape == (len(dataset.bands), 64, 64)
        assert sample['image'].isfinite().all()
        assert (sample['image'][:, ~sample['valid']] == 0).all()
