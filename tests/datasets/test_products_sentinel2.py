# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

import shutil

import numpy as np
import pytest
import torch

from torchgeo_anysensor.datasets import Sentinel2L1C, Sentinel2L2A, collate_sensors
from torchgeo_anysensor.sensors import QA

KINDS = {'MSIL1C': ('sentinel2_l1c', Sentinel2L1C), 'MSIL2A': ('sentinel2_l2a', Sentinel2L2A)}
LEVELS = pytest.mark.parametrize(('level', 'dataset'), KINDS.values())
TEN = ('B02', 'B03', 'B04', 'B08', 'SCL')
START = 1_592_129_759  # 2020-06-14T10:15:59Z, in seconds since 1970


def first_pixel(dataset):
    return dataset[dataset.bounds]['image'][:, 0, 0].tolist()


def fill(value):
    return lambda data: data.fill(value)


def set_at(row, col, value):
    def edit(data):
        data[row, col] = value

    return edit


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


@LEVELS
def test_product_of_a_future_baseline_is_read_by_its_metadata_alone(world, level, dataset):
    safe = getattr(world, level)(baseline='0700', offset=-2000, size=60, edit={'B04': fill(4000)})
    assert first_pixel(dataset(world.root, bands=['B04'])) == pytest.approx([0.2])
    (metadata,) = safe.glob('MTD_MSI*.xml')
    metadata.unlink()
    told = r"baseline='07\.00': offsets are known up to 05\.99; this product needs its MTD_MSIL1C"
    with pytest.raises(ValueError, match=told):
        dataset(world.root, bands=['B04'])
    assert first_pixel(dataset(world.root, bands=['B04'], calibrate=False)) == [4000]
    assert first_pixel(dataset(world.root, bands=['B04'], baseline='05.09')) == pytest.approx([0.3])


@LEVELS
def test_saturated_and_missing_pixels_are_not_valid_and_their_neighbours_are(world, level, dataset):
    edits = {'B02': set_at(1, 2, 65535), 'B08': set_at(3, 4, 0), 'B03': set_at(5, 5, 65534)}
    getattr(world, level)(size=600, edit=edits)
    ds = dataset(world.root, bands=['B02', 'B03', 'B08'])
    sample = ds[ds.bounds]
    assert (~sample['valid']).nonzero().tolist() == [[1, 2], [3, 4]]
    assert (sample['image'][:, ~sample['valid']] == 0).all()
    red = dataset(world.root, bands=['B04'])
    assert red[red.bounds]['valid'].all()


# Scene classification, PSD table: 0 no data, 1 saturated or defective, 2 dark or terrain shadow,
# 3 cloud shadow, 4 vegetation, 5 bare, 6 water, 7 unclassified, 8 and 9 cloud, 10 cirrus, 11 snow
@pytest.mark.parametrize(
    ('qa', 'good'),
    [
        (True, {2, 4, 5, 6, 7, 11}),
        (QA('SCL', bad_values=(0, 1, 2, 3, 7, 8, 9, 10, 11)), {4, 5, 6}),
        (False, set(range(12))),
    ],
)
def test_scene_classes_that_are_good_are_the_documented_ones_or_the_users(world, qa, good):
    def classes(data):
        data.flat[:12] = range(12)

    world.sentinel2_l2a(size=120, edit={'SCL_20': classes})
    dataset = Sentinel2L2A(world.root, res=20, qa=qa)
    valid = dataset[dataset.bounds]['valid'].flatten()
    assert {code for code in range(12) if valid[code]} == good
    assert valid[12:].all()


# Layers of MSK_CLASSI: opaque cloud, cirrus, snow or ice
@pytest.mark.parametrize(
    ('qa', 'good'),
    [
        (True, {(0, 0, 0), (0, 0, 1)}),
        (QA('MSK_CLASSI', bad_bits=(0, 1, 2)), {(0, 0, 0)}),
        (QA('MSK_CLASSI', bad_bits=(1,)), {(0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 0, 1)}),
    ],
)
def test_layers_of_the_cloud_mask_that_are_bad_are_the_documented_ones_or_the_users(
    world, qa, good
):
    codes = [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)]

    def layers(data):
        data.reshape(3, -1)[:, :8] = np.transpose(codes)

    world.sentinel2_l1c(size=600, edit={'MSK_CLASSI': layers})
    dataset = Sentinel2L1C(world.root, bands=['B01'], qa=qa)
    valid = dataset[dataset.bounds]['valid'].flatten()
    assert {code for code, told in zip(codes, valid) if told} == good
    assert valid[8:].all()


def ring(code, rows, cols):
    """Corners of a rectangle of pixels of 60 m, which polygons of clouds follow."""
    west, east = (code.left + 60 * col for col in cols)
    north, south = (code.top - 60 * row for row in rows)
    points = ((west, north), (east, north), (east, south), (west, south), (west, north))
    return ' '.join(f'{x:g} {y:g}' for x, y in points)


@pytest.mark.parametrize('bands', [['B02'], ['B05'], ['B01']])
@pytest.mark.parametrize('bad_bits', [(0, 1), (0,), (1,)])
def test_polygons_and_rasters_mask_the_same_pixels_of_the_same_clouds(world, code, bands, bad_bits):
    clouds = [('OPAQUE', (1, 4), (2, 3)), ('CIRRUS', (3, 6), (2, 7)), ('OPAQUE', (8, 9), (9, 10))]

    def layers(data):
        for kind, rows, cols in clouds:
            data[('OPAQUE', 'CIRRUS').index(kind), slice(*rows), slice(*cols)] = 1

    rings = [(kind, ring(code, rows, cols)) for kind, rows, cols in clouds]
    world.sentinel2_l1c('20210614T101559', baseline='0301', size=600, clouds=rings)
    world.sentinel2_l1c('20220614T101559', baseline='0400', size=600, edit={'MSK_CLASSI': layers})
    dataset = Sentinel2L1C(world.root, bands=bands, qa=QA('MSK_CLASSI', bad_bits=bad_bits))
    old, new = (
        dataset.view(path, grid_of(dataset, path))['valid'] for path in dataset.index.filepath
    )
    assert torch.equal(old, new)
    seen = {(0, 1): 3 + 15 - 1 + 1, (0,): 3 + 1, (1,): 15}[bad_bits]  # pixels of 60 m
    assert (~old).sum() == seen * (60 / dataset.res[0]) ** 2


# Centre and width of B12 in um (COPE-GSEG-EOPG-TN-15-0007)
B12 = {'S2A': (2.2024, 0.174), 'S2B': (2.1857, 0.183), 'S2C': (2.1913, 0.183)}


@LEVELS
@pytest.mark.parametrize('xml', [None, ''], ids=['metadata', 'name'])
def test_light_of_each_platform_is_its_own_and_a_batch_keeps_all(world, level, dataset, xml):
    views = []
    for platform, light in B12.items():
        safe = getattr(world, level)(platform=platform, size=60, xml=xml)
        ds = dataset(safe, bands=['B12', 'B11'])
        assert list(ds.index.platform) == [f'sentinel-{platform[1:].lower()}']
        views.append(ds[ds.bounds])
        told = [float(views[-1][key][0]) for key in ('wavelength', 'bandwidth')]
        assert told == pytest.approx(light)
    batch = collate_sensors([{'sensors': {level: (view,)}} for view in views])
    stacked = batch['sensors'][level][0]
    assert stacked['wavelength'].shape == stacked['bandwidth'].shape == (3, 2)
    assert stacked['wavelength'][:, 0].tolist() == pytest.approx([a for a, _ in B12.values()])


@LEVELS
@pytest.mark.parametrize('xml', [None, ''], ids=['metadata', 'name'])
def test_row_of_the_index_and_the_second_of_the_acquisition(world, level, dataset, xml):
    getattr(world, level)(platform='S2B', baseline='0214', offset=None, size=60, xml=xml)
    ds = dataset(world.root)
    (row,) = ds.index.itertuples()
    assert (row.tile, row.platform, row.baseline) == ('T32TPQ', 'sentinel-2b', '02.14')
    assert float(ds[ds.bounds]['t']) == START


PERCENT = {'NODATA_PIXEL': 20, 'SATURATED_DEFECTIVE_PIXEL': 1, 'CLOUD_SHADOW': 4, 'SNOW_ICE': 30}
PERCENT |= {'MEDIUM_PROBA_CLOUDS': 8, 'HIGH_PROBA_CLOUDS': 16, 'THIN_CIRRUS': 0.25}
CLASSES = ''.join(f'<{k}_PERCENTAGE>{v}</{k}_PERCENTAGE>' for k, v in PERCENT.items())
COVER = f'<Image_Content_QI>{CLASSES}</Image_Content_QI>'
COVER += '<Cloud_Coverage_Assessment>12.5</Cloud_Coverage_Assessment>'


# 1 + 4 + 8 + 16 + 0.25 percent of what was observed; Level-1C knows clouds alone
@pytest.mark.parametrize(('kind', 'clear'), [('MSIL2A', 0.7075), ('MSIL1C', 0.875)])
def test_clear_fraction_is_what_the_metadata_say(world, code, kind, clear):
    level, dataset = KINDS[kind]
    name = f'S2A_{kind}_20200614T101559_N0509_R065_T32TPQ_20220101T000000.SAFE'
    getattr(world, level)(size=60, xml=code.s2_metadata(name, -1000, extra=COVER))
    ds = dataset(world.root, max_cloud=1 - clear + 0.001)
    assert ds.index.clear_fraction.tolist() == pytest.approx([clear])
    with pytest.raises(ValueError, match=f'the clearest has {1 - clear:.2f}'):
        dataset(world.root, max_cloud=1 - clear - 0.001)


def test_clear_fraction_is_counted_in_the_quality_band_where_no_metadata_tell_it(world, code):
    def classes(data):
        data[:30] = 0  # half was not observed, and half of the rest is cloud
        data[30:45] = 9

    world.sentinel2_l2a(edit={'SCL_20': classes})
    assert Sentinel2L2A(world.root).index.clear_fraction.tolist() == [0.5]

    def layers(data):
        data[0, :5] = data[1, :, :5] = 1  # 20 by 20 pixels: 15 by 15 of them are clear
        data[2] = 1

    world.sentinel2_l1c('20210614T101559', edit={'MSK_CLASSI': layers})
    rings = [('OPAQUE', ring(code, (0, 5), (0, 20))), ('CIRRUS', ring(code, (0, 20), (0, 5)))]
    world.sentinel2_l1c('20200614T101559', baseline='0301', clouds=rings)
    assert Sentinel2L1C(world.root).index.clear_fraction.tolist() == [0.5625, 0.5625]


@LEVELS
@pytest.mark.parametrize('band', ['B01', 'B03'])  # the first that is looked at, and another
def test_band_in_another_crs_is_named_and_does_not_harm_the_others(
    world, code, level, dataset, band
):
    safe = getattr(world, level)(size=120)
    getattr(world, level)('20200624T101559', size=120)
    for path in safe.rglob(f'*_{band}*.tif'):
        data = np.ones((2, 2), 'uint16')
        code.write(path, data, code.grid(code.left, code.top, 60, (2, 2), epsg=32633))
    told = rf'1 of 2 .*\n.*_{band}\S*\.tif: is in EPSG:32633, the other bands in EPSG:32632'
    with pytest.warns(UserWarning, match=told):
        assert len(dataset(world.root, bands=['B04', band])) == 1
    assert len(dataset(world.root, bands=['B04'], strict=True)) == 2


@LEVELS
def test_tile_of_another_zone_than_its_files_is_named_and_left_out(world, level, dataset):
    getattr(world, level)(size=60)
    getattr(world, level)(size=60, tile='T33TPQ', epsg=32632)
    told = r'1 of 2 .*\n.*T33TPQ.*: tile T33TPQ lies in UTM zone 33, its files say EPSG:32632'
    with pytest.warns(UserWarning, match=told):
        assert list(dataset(world.root).index.tile) == ['T32TPQ']
