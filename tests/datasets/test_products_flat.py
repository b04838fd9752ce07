# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Sentinel-2 as public clouds have it: one file a band, all in one folder."""

import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from torchgeo.datasets import DatasetNotFoundError

from torchgeo_anysensor.datasets import Sentinel2L1C, Sentinel2L2A

KINDS = {'MSIL1C': ('sentinel2_l1c', Sentinel2L1C), 'MSIL2A': ('sentinel2_l2a', Sentinel2L2A)}
LEVELS = pytest.mark.parametrize(('level', 'dataset'), KINDS.values())
NAMES = pytest.mark.parametrize('bare', [True, False], ids=['B02.tif', 'T32TPQ_time_B02.tif'])
START = 1_592_129_759  # 2020-06-14T10:15:59Z, in seconds since 1970
COG = {'driver': 'COG'}
# Each band on its own grid
NATIVE = re.compile(
    r'_(B02_10m|B03_10m|B04_10m|B08_10m|B05_20m|B06_20m|B07_20m|B8A_20m|B11_20m|B12_20m|SCL_20m'
    r'|B01_60m|B09_60m|B\d[\dA](?!_))'
)


@pytest.fixture
def flat(world, tmp_path):
    """Puts the bands of a tree into one folder, with their names or as ``B02.tif``."""

    def build(level, folder, *args, bare, metadata=True, **options):
        safe = getattr(world, level)(*args, **({'size': 120} | options))
        target = tmp_path / 'flat' / folder
        target.mkdir(parents=True, exist_ok=True)
        for path in safe.rglob('*.*'):
            native = NATIVE.search(path.name)
            if path.name.startswith('MSK_') or (path.name.startswith('MTD_') and metadata):
                path.rename(target / path.name)
            elif native:
                path.rename(target / (f'{native[1][:3]}.tif' if bare else path.name))
        shutil.rmtree(safe)
        return target

    return build


def fill(value):
    return lambda data: data.fill(value)


def first_pixel(dataset):
    return dataset[dataset.bounds]['image'][:, 0, 0].tolist()


@LEVELS
@NAMES
@pytest.mark.parametrize(
    ('bands', 'res'), [(['B04', 'B08'], 10), (['B05', 'B8A', 'B12'], 20), (['B01', 'B09'], 60)]
)
def test_pixels_lie_where_they_say(flat, code, level, dataset, bare, bands, res):
    folder = flat(level, 'any', bare=bare, profile=COG)
    ds = dataset(folder, bands=bands, calibrate=False)
    sample = ds[ds.bounds]
    grid = code.grid(code.left, code.top, res, (120 // res, 120 // res))
    places = [ds.sensor.band_names.index(band) for band in bands]
    expected = np.stack([code.encode(place, *code.centres(grid)) for place in places])
    assert np.array_equal(sample['image'], expected)
    assert sample['valid'].all()


@LEVELS
@NAMES
def test_metadata_beside_tell_offset_platform_tile_and_time(flat, level, dataset, bare):
    options = {'platform': 'S2B', 'baseline': '0214', 'offset': -500, 'edit': {'B04': fill(2000)}}
    ds = dataset(flat(level, 'any', bare=bare, **options), bands=['B04'])
    assert first_pixel(ds) == pytest.approx([0.15])
    (row,) = ds.index.itertuples()
    assert (row.tile, row.platform, row.baseline) == ('T32TPQ', 'sentinel-2b', '02.14')
    assert float(ds[ds.bounds]['t']) == START


@LEVELS
@NAMES
def test_quality_beside_masks(flat, level, dataset, bare):
    def cloud(data):
        data[..., :1, :1] = 9

    edit = {'SCL_20': cloud, 'MSK_CLASSI': cloud}
    ds = dataset(flat(level, 'any', bare=bare, size=600, edit=edit))
    valid = ds[ds.bounds]['valid'].numpy()
    n = 6 if level == 'sentinel2_l1c' else 2
    assert not valid[:n, :n].any()
    assert valid.sum() == 60 * 60 - n * n


DAY = 'S2B_32TPQ_20200614_0_{}'
NOON = START // 86_400 * 86_400 + 43_200


@LEVELS
@NAMES
@pytest.mark.parametrize(
    ('folder', 't', 'baseline', 'expected'),
    [
        (DAY, NOON, '05.09', 0.1),
        (DAY, NOON, '02.14', 0.2),
        ('S2B_T32TPQ_20200614T101559_{}', START, 'N0400', 0.1),
        ('S2B_T32TPQ_20200614T101559_{}', START, '03.01', 0.2),
    ],
)
def test_baseline_that_is_given_tells_the_offset(
    flat, level, dataset, bare, folder, t, baseline, expected
):
    folder = flat(
        level,
        folder.format(level[-3:].upper()),
        bare=bare,
        metadata=False,
        edit={'B04': fill(2000)},
    )
    ds = dataset(folder, bands=['B04'], baseline=baseline)
    assert first_pixel(ds) == pytest.approx([expected])
    (row,) = ds.index.itertuples()
    digits = baseline.removeprefix('N').replace('.', '')
    assert (row.tile, row.platform) == ('T32TPQ', 'sentinel-2b')
    assert row.baseline == f'{digits[:2]}.{digits[2:]}'
    assert float(ds[ds.bounds]['t']) == (t if bare else START)


@LEVELS
@NAMES
def test_offset_that_nothing_tells_is_an_error_that_says_what_to_do(flat, level, dataset, bare):
    name = DAY.format(level[-3:].upper())
    # Its date is of the time without offsets, which does not matter
    folder = flat(level, name, '20170614T101559', bare=bare, metadata=False)
    told = rf"{name}.*: cannot tell whether .* offset.*neither its MTD_MSI.*give baseline='05\.09'"
    with pytest.raises(ValueError, match=told):
        dataset(folder)
    raw = dataset(folder, calibrate=False)
    assert raw[raw.bounds]['image'].min() > 1000


@LEVELS
def test_time_that_nothing_tells_is_named(flat, level, dataset):
    folder = flat(level, 'any', bare=True, metadata=False)
    told = r'any: nothing tells when it was acquired: .*B02_10m\.tif.*MTD_MSIL'
    with pytest.warns(UserWarning, match=told), pytest.raises(DatasetNotFoundError):
        dataset(folder, baseline='05.09')


@LEVELS
@NAMES
def test_baseline_that_is_given_goes_before_metadata_and_names(flat, world, level, dataset, bare):
    edit = {'edit': {'B04': fill(2000)}}
    folder = flat(level, 'any', bare=bare, **edit)
    getattr(world, level)(size=120, **edit)
    for path in (folder, world.root):  # the provider has removed the offset
        assert first_pixel(dataset(path, bands=['B04'], baseline='03.01')) == pytest.approx([0.2])
        # What was given is not remembered
        assert first_pixel(dataset(path, bands=['B04'])) == pytest.approx([0.1])


@pytest.mark.parametrize(
    ('baseline', 'told'),
    [('5.9', 'not like 05.09'), ('06.00', 'known up to 05.99'), ('latest', 'not like 05.09')],
)
def test_baseline_that_is_none_is_refused(world, baseline, told):
    with pytest.raises(ValueError, match=f"^baseline='{re.escape(baseline)}'.*{told}"):
        Sentinel2L2A(world.root, baseline=baseline)


@LEVELS
@pytest.mark.parametrize(
    'other', [('20200624T101559', {}), ('20200614T101559', {'tile': 'T32TQQ'})]
)
def test_metadata_of_one_product_are_not_taken_for_those_of_another(flat, level, dataset, other):
    time, options = other
    edit = {'B04': fill(2000)}
    flat(level, 'any', bare=False, offset=-500, edit=edit)
    folder = flat(level, 'any', time, bare=False, metadata=False, edit=edit, **options)
    with pytest.raises(ValueError, match=rf'{time}: cannot tell whether .* offset'):
        dataset(folder, bands=['B04'])
    both = dataset(folder, bands=['B04'], baseline='05.09')
    assert sum(tile.count(',') + 1 for tile in both.index.tile) == 2
    assert first_pixel(both) == pytest.approx([0.1])


def test_levels_in_one_folder_do_not_disturb_each_other(flat, world):
    offsets = {'sentinel2_l1c': -500, 'sentinel2_l2a': -1000}
    times = ('20200614T101559', '20200624T101559', '20200704T101559', '20200714T101559')
    root = world.root.parent / 'flat'
    for level, offset in offsets.items():
        options = {'offset': offset, 'edit': {'B04': fill(2000)}}
        flat(level, f'bare/{level}', times[0], bare=True, **options)
        flat(level, 'both', times[1], bare=False, **options)
        flat(level, f'S2A_32TPQ_20200704_0_{level[-3:].upper()}', times[2], bare=True, **options)
        shutil.move(getattr(world, level)(times[3], size=120, **options), root)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for (level, dataset), qa in [(kind, qa) for kind in KINDS.values() for qa in (True, False)]:
            ds = dataset(root, bands=['B04'], strict=True, qa=qa)
            days = [span.left.strftime('%m%d') for span in ds.index.index]
            assert days == [time[4:8] for time in times]
            x, y, _ = ds.bounds
            values = [float(ds[x, y, s.left : s.left]['image'].max()) for s in ds.index.index]
            assert values == pytest.approx([(2000 + offsets[level]) / 1e4] * 4)


@NAMES
@pytest.mark.parametrize(
    ('product', 'expected', 'clear'),
    [
        # 0.308523 + 0.137727 + 0.001557 percent are clouds of the three kinds, and no shadow
        ('esa_S2B_MSIL2A_20210122T133229_N0214_R081_T22HBD_20210122T155500', 0.2, 0.99552193),
        ('S2A_MSIL1C_20210908T042701_N0301_R133_T46RER_20210908T070248', 0.2, 0.117028),
        # 4.630229 + 94.313979 percent
        ('S2B_MSIL2A_20220413T150759_N0400_R025_T33XWJ_20220414T082126', 0.1, 0.01055792),
    ],
)
def test_real_metadata_of_each_baseline_are_read_to_the_digit(
    flat, shared_data, bare, product, expected, clear
):
    platform, kind, time, number, _, tile, _ = product.removeprefix('esa_').split('_')
    level, dataset = KINDS[kind]
    xml = (shared_data / 'safe' / f'{product}.SAFE' / f'MTD_{kind}.xml').read_text()
    epsg = 32600 + int(tile[1:3]) + (100 if tile[3] < 'N' else 0)
    options = {'platform': platform, 'tile': tile, 'epsg': epsg, 'edit': {'B04': fill(2000)}}
    ds = dataset(flat(level, 'any', time, bare=bare, xml=xml, **options), bands=['B04'])
    assert first_pixel(ds) == pytest.approx([expected], abs=1e-7)
    (row,) = ds.index.itertuples()
    assert (row.tile, row.baseline) == (tile, f'{number[1:3]}.{number[3:]}')
    assert row.platform == f'sentinel-{platform[1:].lower()}'
    assert row.clear_fraction == pytest.approx(clear, abs=1e-9)


def test_bands_that_are_missing_are_named(flat):
    folder = Path(flat('sentinel2_l2a', 'any', bare=True))
    (folder / 'B03.tif').unlink()
    told = r'1 of 1 products of sentinel2_l2a .*\n.*any: no B03$'
    with pytest.warns(UserWarning, match=told), pytest.raises(DatasetNotFoundError):
        Sentinel2L2A(folder)
    assert len(Sentinel2L2A(folder, bands=['B02', 'B04'], strict=True)) == 1


@LEVELS
@NAMES
@pytest.mark.parametrize('baseline', ['0301', '0509'])
def test_quality_that_is_broken_is_named_and_can_be_done_without(
    flat, level, dataset, bare, baseline
):
    folder = Path(flat(level, 'any', bare=bare, baseline=baseline))
    (path,) = folder.glob('*SCL*' if level == 'sentinel2_l2a' else 'MSK_CL*')
    path.write_bytes(b'<a')
    told = rf'any\S*: {path}: '
    with pytest.warns(UserWarning, match=told), pytest.raises(DatasetNotFoundError):
        dataset(folder)
    assert len(dataset(folder, qa=False, strict=True)) == 1


@LEVELS
def test_zone_that_only_the_metadata_tell_is_checked_too(flat, world, level, dataset):
    folder = flat(level, 'any', bare=True)
    metadata = next(folder.glob('MTD_*.xml'))
    metadata.write_text(metadata.read_text().replace('T32TPQ', 'T33TPQ'))
    with pytest.raises(ValueError, match='T33TPQ lies in UTM zone 33, its files say EPSG:32632'):
        dataset(folder, bands=['B04'], strict=True)
