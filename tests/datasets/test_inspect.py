# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

import gzip
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
import rasterio
from matplotlib.image import imread
from pyproj import Transformer

from torchgeo_anysensor import datasets
from torchgeo_anysensor.datasets.inspect import draw, inspect_path, picture_path
from torchgeo_anysensor.sensors import SENSORS

# What the builder writes of each product by default, without metadata of its own
PARTS = {'hls_s30': ('hls', 'S30'), 'hls_l30': ('hls', 'L30')}
ALL = pytest.mark.parametrize('name', SENSORS)


def build(world, name, **options):
    method, *args = PARTS.get(name, (name,))
    return getattr(world, method)(*args, **{'size': 240} | options)


def told(path):
    """The rows of the only thing at a path."""
    (found,) = inspect_path(path)
    return dict(found.rows)


def fill(value, part=np.s_[:]):
    def edit(data):
        data[part] = value

    return edit


def zipped(folder, path):
    with zipfile.ZipFile(path, 'w') as archive:
        for file in sorted(folder.rglob('*')):
            archive.write(file, file.relative_to(folder.parent))
    return path


# -- products ----------------------------------------------------------------------------------


@ALL
def test_every_product_is_known_and_drawn(world, name):
    build(world, name)
    (found,) = inspect_path(world.root)
    rows, sensor = dict(found.rows), SENSORS[name]
    assert found.title == f'{sensor.title} ({name})'
    assert rows['products'] == ['1']
    assert rows['dates'] == [f'2020-06-14 10:{"04" if "landsat" in name else "15"} UTC']
    assert rows['bands'][0].split() == [*sensor.band_names, *(qa.band for qa in sensor.qa)]
    assert rows['missing'] == ['none']
    assert rows['clear'][0].startswith('1.00  2020-06-14 10:')
    assert 'problems' not in rows
    title, picture = found.look()
    assert title.startswith(f'{sensor.title}\n')
    assert picture[..., 3].all()
    assert picture[..., :3].std() > 0.1


@ALL
def test_call_that_is_told_reads_the_product(world, name):
    build(world, name)
    (call,) = told(world.root)['read with']
    assert len(eval(call.split(';')[0], vars(datasets))) == 1


@ALL
def test_nothing_is_written(world, name):
    build(world, name)
    before = sorted(world.root.parent.rglob('*'))
    inspect_path(world.root)[0].look()
    assert sorted(world.root.parent.rglob('*')) == before


def test_product_is_described(world):
    world.sentinel2_l2a(platform='S2B')
    rows = told(world.root)
    assert rows['platforms'] == ['sentinel-2b']
    assert rows['baselines'] == ['05.09']
    assert rows['tiles'] == ['T32TPQ']
    assert rows['extent'] == [
        'longitude 10.2523 to 10.2675, latitude 44.2356 to 44.2466',
        'EPSG:32632: x 600000 to 601200, y 4898820 to 4900020',
    ]
    sixty = [name for name in rows['bands'][0].split() if name != 'B08']
    assert rows['grids'] == [
        '10 m, 120 x 120 pixels, corner 600000, 4900020: B02 B03 B04 B08',
        '20 m, 60 x 60 pixels, corner 600000, 4900020: B02 B03 B04 B05 B06 B07 B8A B11 B12 SCL',
        f'60 m, 20 x 20 pixels, corner 600000, 4900020: {" ".join(sixty)}',
    ]
    assert rows['clear'][0].endswith('S2B_MSIL2A_20200614T101559_N0509_R065_T32TPQ_20220101T000000')
    assert rows['read with'][0].endswith('; res=20 or res=60 for its other grids')


def test_extent_over_the_antimeridian_is_small(world):
    x, _ = Transformer.from_crs('EPSG:4326', 'EPSG:32601', always_xy=True).transform(-180, 44.2)
    world.hls(epsg=32601, left=round(x / 60) * 60 - 600)
    words = told(world.root)['extent'][0].split()
    west, east = float(words[1]), float(words[3].rstrip(','))
    assert 179.9 < west < 180
    assert -180 < east < -179.9


def test_source_of_the_calibration_is_told(world):
    world.sentinel2_l2a(size=120)
    world.sentinel2_l2a('20200615T101559', baseline='0214', offset=None, size=120)
    world.sentinel2_l2a('20200616T101559', xml='', size=120)
    assert [line.split(': ')[1] for line in told(world.root)['calibration']] == [
        f'scale 0.0001, offset {source} (1 of 3 products)'
        for source in (
            '-0.1, from MTD_MSIL2A.xml',
            '0, from MTD_MSIL2A.xml',
            '-0.1, from the baseline 05.09 in the name',
        )
    ]


def test_calibration_of_thermal_bands_is_to_kelvin(world):
    build(world, 'hls_l30')
    assert (
        "kelvin: scale 0.01, offset 273.15, from the sensor's table"
        in told(world.root)['calibration']
    )
    shutil.rmtree(world.root)
    build(world, 'landsat_c2l1')
    assert told(world.root)['calibration'] == [
        'reflectance: scale 4e-05, offset -0.2, from MTL.txt',
        "kelvin by Planck's law: scale 0.00038, offset 0.1, from MTL.txt",
        "kelvin by Planck's law: scale 0.000349, offset 0.1, from MTL.txt",
    ]


def test_product_that_cannot_be_calibrated_is_described(world):
    build(world, 'landsat_c2l1', time=None)
    rows = told(world.root)
    assert rows['dates'] == ['2020-06-14']  # the time of day is not known
    (line,) = rows['calibration']
    assert line.startswith('not known for 1 of 1 products: ')
    assert 'sun elevation' in line


def test_missing_bands_are_named(world):
    world.hls(size=120)
    world.hls(time='2020167T101559', size=120, bands=['B02', 'B03', 'B04', 'Fmask'])
    rows = told(world.root)
    assert rows['products'] == ['2']
    (line,) = rows['missing']
    bands, where = line.split(' in 1 of 2 products: ')
    assert bands == 'B01 B05 B06 B07 B08 B8A B09 B10 B11 B12'
    assert where == 'HLS.S30.T32TPQ.2020167T101559.v2.0'


def test_incomplete_product_is_drawn_by_its_first_band(world):
    build(world, 'sentinel2_l2a', bands=['B02', 'B05'])
    (found,) = inspect_path(world.root)
    rows = dict(found.rows)
    assert rows['bands'] == ['B02 B05']
    assert rows['missing'] == ['B01 B03 B04 B06 B07 B08 B8A B09 B11 B12 SCL']
    assert rows['clear'][0].startswith('   -  ')
    assert rows['read with'] == [f"Sentinel2L2A('{world.root}', bands=['B02'], qa=False)"]
    title, picture = found.look()
    assert 'B02' in title
    assert picture[..., 3].all()


def test_quality_band_alone_is_drawn(world):
    cloud = fill(0b10, np.s_[:2])
    build(world, 'hls_s30', bands=['Fmask'], edit={'Fmask': cloud})
    (found,) = inspect_path(world.root)
    assert dict(found.rows)['read with'][0].startswith('nothing')
    _, picture = found.look()
    assert picture[..., 3].tolist() == [[0] * 8] * 2 + [[1] * 8] * 6
    assert (picture[2:, :, :3] == 1).all()


def test_clouds_show_through_and_are_not_valid(world):
    bright, cloud = fill(20_000, np.s_[:4]), fill(0b10, np.s_[:4])
    edit = {'B02': bright, 'B03': bright, 'B04': bright, 'Fmask': cloud}
    build(world, 'hls_s30', edit=edit)
    _, picture = inspect_path(world.root)[0].look()
    assert picture[..., 3].tolist() == [[0] * 8] * 4 + [[1] * 8] * 4
    assert (picture[:4, :, :3] > 0.8).all()


def test_clearest_acquisition_is_drawn(world):
    for day, clouds in ((164, 4), (165, 1), (166, 8)):
        cloud = fill(0b10, np.s_[:clouds])
        world.hls(time=f'2020{day}T101559', size=240, edit={'Fmask': cloud})
    (found,) = inspect_path(world.root)
    assert [line[:16] for line in dict(found.rows)['clear']] == [
        '0.50  2020-06-12',
        '0.88  2020-06-13',
        '0.00  2020-06-14',
    ]
    title, picture = found.look()
    assert title.endswith('T32TPQ 2020-06-13, clear 0.88')
    assert (picture[..., 3] == 0).sum() == 8


def test_twenty_acquisitions_are_listed(world):
    for day in range(1, 24):
        world.landsat_c2l2(date=f'202006{day:02}', size=60, bands=['SR_B4', 'QA_PIXEL'])
    rows = told(world.root)
    assert rows['dates'] == ['2020-06-01 10:04 to 2020-06-23 10:04 UTC, on 23 days']
    assert len(rows['clear']) == 21
    assert rows['clear'][-1] == 'and 3 more; of all, from 1.00 to 1.00, median 1.00'


def test_tiles_of_one_pass_are_one_acquisition_and_one_picture(world, code):
    world.sentinel2_l2a(size=240)
    world.sentinel2_l2a(tile='T32TQQ', left=code.left + 240, size=240)
    (found,) = inspect_path(world.root)
    rows = dict(found.rows)
    assert rows['products'] == ['2, in 1 acquisition']
    assert '2 corners' in rows['grids'][0]
    assert rows['clear'][0].endswith(' and 1 more')
    _, picture = found.look()
    assert picture.shape == (24, 48, 4)
    assert picture[..., 3].all()


def test_clouds_of_one_tile_stay_in_the_picture_of_two(world, code):
    for tile, left, code_of_clouds in (('T32TPQ', 0, 0), ('T32TQQ', 240, 0b10)):
        cloud = {'Fmask': fill(code_of_clouds)}
        world.hls(tile=tile, left=code.left + left, size=240, edit=cloud)
    _, picture = inspect_path(world.root)[0].look()
    assert picture[..., 3].tolist() == [[1] * 8 + [0] * 8] * 8


def test_ground_that_was_not_observed_is_grey_in_the_picture_of_the_quality_band(world):
    part = {'Fmask': fill(255, np.s_[:2])}
    build(world, 'hls_s30', bands=['Fmask'], edit=part)
    _, picture = inspect_path(world.root)[0].look()
    assert picture[0, 0].tolist() == [0.5, 0.5, 0.5, 0]


def test_picture_is_of_a_grid_that_all_its_bands_have(world, monkeypatch):
    monkeypatch.setattr('torchgeo_anysensor.datasets.plot._PIXELS', 30)
    safe = world.sentinel2_l2a()
    next(safe.rglob('*_B03_20m.tif')).unlink()
    title, picture = inspect_path(world.root)[0].look()
    assert title.startswith('Sentinel-2 MSI Level-2A\n')
    assert picture.shape == (30, 30, 4)  # 120 pixels of 10 m, every fourth


def test_large_product_is_thinned_from_its_coarsest_grid_that_is_enough(world, monkeypatch):
    monkeypatch.setattr('torchgeo_anysensor.datasets.plot._PIXELS', 30)
    world.sentinel2_l2a(edit={f'{band}_20': fill(0) for band in ('B02', 'B03', 'B04')})
    _, picture = inspect_path(world.root)[0].look()
    assert picture.shape == (30, 30, 4)  # 60 pixels of 20 m, every other
    assert not picture[..., 3].any()


# -- ways that products come -------------------------------------------------------------------


@pytest.mark.parametrize('name', ['', 'renamed.zip'])
def test_archive_of_sentinel2_is_opened(world, tmp_path, name):
    safe = build(world, 'sentinel2_l2a')
    path = zipped(safe, tmp_path / (name or f'{safe.name}.zip'))
    (found,) = inspect_path(path)
    assert str(found).replace(str(path), 'PATH') == str(inspect_path(safe)[0]).replace(
        str(safe), 'PATH'
    )
    assert found.look()[1].equal(inspect_path(safe)[0].look()[1])


def test_archive_of_landsat_is_opened(world, tmp_path):
    folder = build(world, 'landsat_c2l1')
    path = tmp_path / f'{folder.name}.tar'
    with tarfile.open(path, 'w') as archive:
        for file in sorted(folder.iterdir()):
            archive.add(file, file.name)
    (found,) = inspect_path(path)
    rows, unpacked = dict(found.rows), told(folder)
    assert {key: rows[key] for key in rows if key != 'read with'} == {
        key: unpacked[key] for key in rows if key != 'read with'
    }
    assert found.look()[1][..., 3].all()


def test_single_band_is_told_with_its_product(world):
    safe = build(world, 'sentinel2_l2a')
    (found,) = inspect_path(next(safe.rglob('*_B05_20m.tif')))
    rows = dict(found.rows)
    assert rows['bands'] == ['B05']
    assert 'missing' not in rows
    assert rows['baselines'] == ['05.09']
    assert rows['calibration'] == ['reflectance: scale 0.0001, offset -0.1, from MTD_MSIL2A.xml']
    assert rows['read with'] == [f'Sentinel2L2A({str(safe)!r})']
    assert 'B05' in found.look()[0]


def test_single_band_of_landsat_is_told_with_the_time_of_day(world):
    folder = build(world, 'landsat_c2l2')
    assert told(folder / f'{folder.name}_SR_B4.TIF')['dates'] == ['2020-06-14 10:04 UTC']


def test_metadata_without_bands_are_a_problem(world):
    safe, folder = build(world, 'sentinel2_l1c'), build(world, 'landsat_c2l2')
    for file in [*safe.rglob('*.tif'), *folder.rglob('*.TIF')]:
        file.unlink()
    found = inspect_path(world.root)
    assert [section.look for section in found] == [None, None]
    assert [dict(section.rows)['problems'] for section in found] == [
        [f'{safe.name}: has metadata (MTD_MSIL1C.xml), but no bands'],
        [f'{folder.name}: has metadata ({folder.name}_MTL.txt), but no bands'],
    ]


def test_broken_band_is_a_problem_and_the_rest_is_described(world):
    folder = build(world, 'landsat_c2l2', size=1200)
    path = folder / f'{folder.name}_SR_B3.TIF'
    path.write_bytes(path.read_bytes()[:2000])
    (found,) = inspect_path(world.root)
    (problem,) = dict(found.rows)['problems']
    assert problem.startswith(f'{folder.name}, SR_B3: was cut off')
    assert 'SR_B1' in found.look()[0]


def test_broken_archive_in_a_folder_is_a_problem(world):
    safe = build(world, 'sentinel2_l2a')
    path = world.root / safe.name.replace('S2A', 'S2B').replace('.SAFE', '.zip')
    path.write_bytes(b'nothing')
    (problem,) = told(world.root)['problems']
    assert problem.startswith(f'{path.name}: not a readable archive')


def test_cloud_mask_of_level_2_is_no_product_of_level_1(world):
    safe = build(world, 'sentinel2_l2a')
    mask = safe / 'GRANULE' / 'L2A_T32TPQ' / 'QI_DATA' / 'MSK_CLASSI_B00.jp2'
    mask.parent.mkdir(parents=True)
    mask.touch()
    found = inspect_path(world.root)
    assert [section.title.split('(')[-1] for section in found[:-1]] == ['sentinel2_l2a)']
    assert found[-1].rows[0][1][0] == 'MSK_CLASSI_B00.jp2'


def test_several_sensors_and_other_rasters(world, code):
    for name in ('hls_l30', 'landsat_c2l2', 'sentinel2_l2a', 'hls_s30'):
        build(world, name)
    grid = code.grid(code.left, code.top, 10, (4, 4))
    code.write(world.root / 'labels' / 'a.tif', np.ones((4, 4), 'uint8'), grid)
    *found, others = inspect_path(world.root)
    names = [section.title.split('(')[-1].rstrip(')') for section in found]
    assert names == ['sentinel2_l2a', 'landsat_c2l2', 'hls_s30', 'hls_l30']
    assert others.rows[0] == ('files', ['a.tif', 'to see one, inspect it by its own path'])


@pytest.fixture
def flat(world, tmp_path):
    """Bands of 10 m with bare names in a folder whose name tells the date and the tile."""
    folder = tmp_path / 'flat' / 'S2A_32TPQ_20200614_0_L2A'
    folder.mkdir(parents=True)
    for file in build(world, 'sentinel2_l2a').rglob('*_10m.tif'):
        shutil.copy(file, folder / f'{file.stem.split("_")[2]}.tif')
    return folder


def test_name_of_a_folder_tells_the_level(flat):
    (found,) = inspect_path(flat)
    rows = dict(found.rows)
    assert found.title.endswith('(sentinel2_l2a)')
    assert rows['clear'][0].endswith('2020-06-14  S2A_32TPQ_20200614_0_L2A')
    assert rows['calibration'][0].startswith('not known')


def test_bare_names_that_fit_two_levels_are_told_of_both(flat):
    bare = flat.rename(flat.parent / 'bare')
    found = inspect_path(bare)
    assert [dict(section.rows)['notes'] for section in found] == [
        ['bare: its names fit sentinel2_l1c as well'],
        ['bare: its names fit sentinel2_l2a as well'],
    ]
    assert dict(found[0].rows)['problems'][0].startswith('bare: nothing tells when')
    assert dict(found[0].rows)['grids'][0].startswith('10 m, 24 x 24 pixels')


@pytest.mark.parametrize(('band', 'level'), [('SCL', 'l2a'), ('B10', 'l1c')])
def test_level_that_explains_more_of_the_files_has_them(flat, band, level):
    bare = flat.rename(flat.parent / 'bare')
    shutil.copy(bare / 'B02.tif', bare / f'{band}.tif')
    (found,) = inspect_path(bare)
    assert found.title.endswith(f'(sentinel2_{level})')
    assert 'notes' not in dict(found.rows)


def test_metadata_beside_bare_names_tell_the_level(world, tmp_path):
    folder = tmp_path / 'flat'
    folder.mkdir()
    safe = build(world, 'sentinel2_l1c')
    for file in safe.rglob('*_B0[2-4].tif'):
        shutil.copy(file, folder / f'{file.stem.split("_")[2]}.tif')
    shutil.copy(safe / 'MTD_MSIL1C.xml', folder)
    (found,) = inspect_path(folder)
    assert found.title.endswith('(sentinel2_l1c)')
    assert 'problems' not in dict(found.rows)


# -- rasters -----------------------------------------------------------------------------------


def test_other_raster_is_described(code, tmp_path):
    grid = code.grid(code.left, code.top, 10, (30, 20))
    path = tmp_path / 'chip_20200614.tif'
    code.write(path, np.arange(1200, dtype='int16').reshape(2, 30, 20), grid, nodata=-1)
    with rasterio.open(path, 'r+') as dst:
        dst.scales, dst.offsets = (1e-4, 1e-4), (-0.1, -0.1)
        dst.set_band_description(1, 'B04')
        dst.set_band_description(2, 'B08')
    found, hint = inspect_path(path)
    assert found.title == 'Raster of no known product'
    assert dict(found.rows) == {
        'files': ['chip_20200614.tif'],
        'format': ['GTiff'],
        'grid': ['10 m, 20 x 30 pixels'],
        'bands': ['2, int16, nodata -1'],
        'names': ['B04 B08'],
        'tags': ['scale 0.0001, offset -0.1'],
        'CRS': ['EPSG:32632'],
        'extent': [
            'longitude 10.2524 to 10.2550, latitude 44.2438 to 44.2466',
            'EPSG:32632: x 600000 to 600200, y 4899720 to 4900020',
        ],
        'read with': [
            f"StackDataset(sensor, '{path}', bands=['B04', 'B08'], scale=..., offset=...)"
        ],
    }
    assert 'torchgeo-anysensor sensors' in str(hint)
    assert found.look()[1].shape == (30, 20, 4)


def test_rasters_of_one_kind_are_described_together(code, tmp_path):
    for name, n in (('a', 4), ('b', 4), ('c', 5)):
        grid = code.grid(code.left + n * 10, code.top, 10, (n, n))
        code.write(tmp_path / f'{name}.tif', np.ones((n, n), 'uint8'), grid)
    both, one, _ = inspect_path(tmp_path)
    assert both.title == '2 rasters of no known product'
    assert dict(both.rows)['files'] == ['a.tif, b.tif']
    assert dict(one.rows)['read with'][1] == (
        f"LabelRaster('{tmp_path / 'c.tif'}') if its values are classes"
    )


def test_rasters_in_an_archive_are_named_by_their_place_in_it(code, tmp_path):
    for name in ('a', 'b'):
        grid = code.grid(code.left, code.top, 10, (4, 4))
        code.write(tmp_path / 'all' / 'in' / f'{name}.tif', np.ones((4, 4), 'uint8'), grid)
    path = zipped(tmp_path / 'all', tmp_path / 'x.zip')
    rows = dict(inspect_path(path)[0].rows)
    assert rows['files'] == ['all/in/a.tif, all/in/b.tif']
    assert rows['read with'][1].startswith(f"LabelRaster('{path}')")
    rows = dict(inspect_path(tmp_path / 'all')[0].rows)
    assert rows['read with'][1].startswith(f"LabelRaster('{tmp_path / 'all' / 'in'}')")


def test_raster_without_a_place_is_described_and_drawn(tmp_path):
    path = tmp_path / 'photo.tif'
    colors = np.zeros((3, 6, 8), 'uint8')
    colors[0, :, :4] = 200
    profile = {'driver': 'GTiff', 'count': 3, 'height': 6, 'width': 8, 'dtype': 'uint8'}
    with (
        pytest.warns(rasterio.errors.NotGeoreferencedWarning),
        rasterio.open(path, 'w', photometric='RGB', **profile) as dst,
    ):
        dst.write(colors)
    found, _ = inspect_path(path)
    rows = dict(found.rows)
    assert rows['CRS'] == ['none']
    assert rows['grid'][0].startswith('8 x 6 pixels; not north up')
    assert 'extent' not in rows
    title, picture = found.look()
    assert title.endswith('red, green, blue')
    assert picture[0, 0].tolist() == [1, 0, 0, 1]


def test_nodata_of_a_raster_is_not_valid(code, tmp_path):
    grid = code.grid(code.left, code.top, 10, (2, 2))
    data = np.array([[1, 2], [np.nan, -9]], 'float32')
    found, _ = inspect_path(code.write(tmp_path / 'a.tif', data, grid, nodata=-9))
    assert found.look()[1][..., 3].tolist() == [[1, 1], [0, 0]]


def test_real_data_are_described(shared_data):
    (safe, other, _) = inspect_path(shared_data / 'safe')
    assert dict(safe.rows)['calibration'] == [
        'reflectance: scale 0.0001, offset 0, from MTD_MSIL2A.xml'
    ]
    assert 'T33XWJ' in dict(safe.rows)['problems'][0]
    assert 'T46RER' in dict(other.rows)['problems'][0]
    landsat = dict(inspect_path(shared_data / 'landsat_c2l2')[0].rows)
    assert landsat['clear'] == ['0.19  2019-12-01 15:13  LC08_L2SP_008059_20191201_20200825_02_T1']
    (fmask,) = inspect_path(shared_data / 'hls')
    assert dict(fmask.rows)['platforms'] == ['landsat-8']
    assert [section.title for section in inspect_path(shared_data / 'zion')] == [
        '4 rasters of no known product',
        'Raster of no known product',
        'Raster of no known product',
        'To read them',
    ]


# -- errors ------------------------------------------------------------------------------------


def test_path_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r'nowhere: there is no such file or folder'):
        inspect_path(tmp_path / 'nowhere')


def test_folder_without_rasters_is_an_error_that_tells_what_was_expected(tmp_path):
    (tmp_path / 'notes.txt').write_text('nothing')
    with pytest.raises(
        ValueError, match=r'found no product.*Sentinel-2 MSI Level-2A.*HLS'
    ) as error:
        inspect_path(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_file_that_is_no_raster_is_an_error(tmp_path):
    path = tmp_path / 'notes.txt'
    path.write_text('nothing')
    with pytest.raises(ValueError, match=r'notes\.txt: found no band of a known sensor, and no re'):
        inspect_path(path)


def test_broken_archive_is_an_error(tmp_path):
    path = tmp_path / 'a.zip'
    path.write_bytes(b'nothing')
    with pytest.raises(ValueError, match=r'a\.zip: not a readable archive'):
        inspect_path(path)


def test_compressed_archive_is_to_be_unpacked(tmp_path):
    path = tmp_path / 'LC08_L2SP_193029_20200614_20210101_02_T1.tar.gz'
    path.write_bytes(gzip.compress(b'nothing'))
    with pytest.raises(ValueError, match='unpack it first'):
        inspect_path(path)


# -- the text and the picture ------------------------------------------------------------------


def test_text_is_a_table_that_fits_the_terminal(world):
    build(world, 'sentinel2_l2a')
    lines = str(inspect_path(world.root)[0]).splitlines()
    assert max(len(line) for line in lines if str(world.root) not in line) <= 100
    assert lines[0] == 'Sentinel-2 MSI Level-2A (sentinel2_l2a)'
    assert lines[1] == '  products     1'
    starts = {len(line) - len(line.lstrip()) for line in lines[1:]}
    assert starts == {2, 15, 17}  # a label, a further line of it, and one that was wrapped


def test_quick_look_is_a_picture(world, tmp_path):
    build(world, 'hls_s30')
    build(world, 'landsat_c2l2')
    out = picture_path(world.root, tmp_path / 'a.png')
    assert draw(inspect_path(world.root), out) == (2, [])
    height, width, _ = imread(out).shape
    assert 1.5 * height < width < 2000  # two panels
    assert picture_path(world.root, out) == out  # an earlier quick-look may be replaced


def test_what_cannot_be_drawn_is_told(world, tmp_path):
    build(world, 'hls_s30')
    found = inspect_path(world.root)
    for file in world.root.rglob('*.tif'):
        file.unlink()
    drawn, (reason,) = draw(found, str(tmp_path / 'a.png'))
    assert drawn == 0
    assert reason.startswith('HLS v2.0 S30')
    assert not (tmp_path / 'a.png').exists()


@pytest.mark.parametrize(
    ('path', 'name'),
    [
        ('x/S2A_MSIL2A_N0509.SAFE', 'S2A_MSIL2A_N0509.png'),
        ('x/S2A_MSIL2A_N0509.SAFE.zip', 'S2A_MSIL2A_N0509.png'),
        ('LC08_02_T1.tar', 'LC08_02_T1.png'),
        ('x/HLS.S30.T32TPQ.2020166T101559.v2.0/', 'HLS.S30.T32TPQ.2020166T101559.v2.0.png'),
        ('x/LC08_SR_B4.TIF', 'LC08_SR_B4.png'),
        ('/', 'root.png'),
    ],
)
def test_quick_look_is_named_after_the_product(path, name):
    assert picture_path(path, None) == name


def test_quick_look_of_the_current_folder_has_its_name(tmp_path, monkeypatch):
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    assert picture_path('.', None) == 'here.png'


def test_other_files_are_not_overwritten(tmp_path):
    path = tmp_path / 'a.png'
    path.write_bytes(b'a picture of the user')
    with pytest.raises(ValueError, match=r'a\.png: is there, and is no earlier quick-look'):
        picture_path('x', path)
    with pytest.raises(ValueError, match='is a folder'):
        picture_path('x', tmp_path)
    with pytest.raises(ValueError, match='there is no folder'):
        picture_path('x', tmp_path / 'nowhere' / 'a.png')
