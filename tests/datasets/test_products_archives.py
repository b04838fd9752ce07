# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Products read in place from the archives that they are delivered in."""

import io
import os
import shutil
import tarfile
import zipfile

import pytest
import torch
from torchgeo.datasets import DatasetNotFoundError

from torchgeo_anysensor.datasets import LandsatC2L1, LandsatC2L2, Sentinel2L1C, Sentinel2L2A

JP2 = {'extension': 'jp2'}
JP2 |= {'profile': {'driver': 'JP2OpenJPEG', 'QUALITY': '100', 'REVERSIBLE': 'YES'}}
OPAQUE = ('OPAQUE', '600000 4900020 600060 4900020 600060 4899960 600000 4899960 600000 4900020')
# name: builder, options, dataset, bands. An offset that the name of the product does not tell
PRODUCTS = {
    'L2A': ('sentinel2_l2a', {'offset': -500}, Sentinel2L2A, ['B04', 'B8A']),
    'L2A JP2': ('sentinel2_l2a', {'offset': -500, 'size': 240} | JP2, Sentinel2L2A, ['B04']),
    'L1C': ('sentinel2_l1c', {'offset': -500}, Sentinel2L1C, ['B04', 'B10']),
    'L1C polygons': (
        'sentinel2_l1c',
        {'baseline': '0301', 'offset': None, 'clouds': [OPAQUE]},
        Sentinel2L1C,
        ['B04'],
    ),
    'Landsat L2': ('landsat_c2l2', {}, LandsatC2L2, ['SR_B4', 'ST_B10']),
    'Landsat L1': ('landsat_c2l1', {}, LandsatC2L1, ['B4', 'B8', 'B11']),
}
ALL = pytest.mark.parametrize('name', PRODUCTS)
ONE_OF_EACH = pytest.mark.parametrize('name', ['L2A', 'Landsat L1'])


def cloud(data):
    """Mark the first pixel in a quality band, and the second as missing in the others."""
    data.reshape(-1)[0] = 24 if data.dtype == 'uint16' else 9


EDIT = {'SCL_20': cloud, 'QA_PIXEL': cloud, 'MSK_CLASSI': cloud, 'B04': lambda d: d[-1].fill(0)}


def build(world, name, *args, **changes):
    """Folder of a product."""
    builder, options, _, _ = PRODUCTS[name]
    return getattr(world, builder)(*args, **({'size': 120, 'edit': EDIT} | options | changes))


def zipped(folder, target, *, prefix='', inside=True, method=zipfile.ZIP_DEFLATED):
    """Archive of a folder, with the folder in it or what is in the folder."""
    root = folder.parent if inside else folder
    with zipfile.ZipFile(target, 'w', method) as file:
        for path in sorted(folder.rglob('*')):
            file.write(path, f'{prefix}{path.relative_to(root)}')
    return target


def tarred(folder, target, *, prefix='', mode='w'):
    """Archive of what is in a folder."""
    with tarfile.open(target, mode) as file:
        for path in sorted(folder.iterdir()):
            file.add(path, f'{prefix}{path.name}')
    return target


def archived(folder, where, **options):
    """Archive as it is delivered: SAFE.zip, or tar of the files."""
    where.mkdir(parents=True, exist_ok=True)
    if folder.suffix == '.SAFE':
        return zipped(folder, where / f'{folder.name}.zip', **options)
    return tarred(folder, where / f'{folder.name}.tar', **options)


def same(name, paths, folder, **options):
    """Assert that two places have the same acquisition, pixels and rows of the index."""
    _, _, dataset, bands = PRODUCTS[name]
    packed, plain = (dataset(p, bands=bands, strict=True, **options) for p in (paths, folder))
    assert len(packed) == len(plain) == 1
    columns = ['tile', 'platform', 'baseline', 'clear_fraction']
    assert packed.index[columns].equals(plain.index[columns])
    assert packed.index.index.equals(plain.index.index)
    one, other = packed[packed.bounds], plain[plain.bounds]
    assert one.keys() == other.keys()
    for key in one:
        assert torch.equal(one[key], other[key]), key
    assert one['valid'].any()
    assert not one['valid'].all()
    return packed


@ALL
def test_pixels_from_the_archive_are_those_of_the_folder(world, tmp_path, name):
    folder = build(world, name)
    archive = archived(folder, tmp_path / 'archives')
    ds = same(name, tmp_path / 'archives', folder)
    assert str(archive) in ds.index.filepath.iloc[0]
    same(name, tmp_path / 'archives', folder)  # by what the cache keeps


@pytest.mark.parametrize('name', ['L2A', 'L1C', 'L1C polygons'])
@pytest.mark.parametrize('method', [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize('safe', [True, False], ids=['SAFE.zip', 'zip'])
@pytest.mark.parametrize('inside', [True, False], ids=['folder in it', 'no folder in it'])
def test_zip_is_read_with_and_without_safe_in_its_name(world, tmp_path, name, method, safe, inside):
    folder = build(world, name)
    target = tmp_path / f'{folder.name if safe else folder.stem}.zip'
    same(name, zipped(folder, target, inside=inside, method=method), folder)


@ONE_OF_EACH
def test_names_of_members_may_begin_with_a_dot(world, tmp_path, name):
    folder = build(world, name)
    same(name, archived(folder, tmp_path / 'archives', prefix='./'), folder)


@ONE_OF_EACH
@pytest.mark.parametrize(
    'paths',
    [
        lambda archive: archive,
        lambda archive: str(archive.parent / '*.*'),
        lambda archive: [archive, archive.parent],
        lambda archive: archive.relative_to(archive.parents[1]),
        lambda archive: f'/vsi{archive.suffix[1:]}/{archive}',
        lambda archive: f'/vsi{archive.suffix[1:]}/{archive.relative_to(archive.parents[1])}/',
        lambda archive: archive.rename(archive.with_stem('my download (1)')),
    ],
    ids=['path', 'pattern', 'list', 'relative', 'GDAL', 'relative GDAL', 'another name'],
)
def test_archive_may_be_named_in_any_way(world, tmp_path, monkeypatch, name, paths):
    folder = build(world, name)
    archive = archived(folder, tmp_path / 'archives')
    monkeypatch.chdir(tmp_path)
    same(name, paths(archive), folder, cache=False)


def empty_archive(data, target):
    """An archive without members."""
    if target.suffix == '.zip':
        zipfile.ZipFile(target, 'w').close()
    else:
        tarfile.open(target, 'w').close()


def compressed(data, target):
    """A tar.gz that is called tar, or a zip."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode='w:gz') as file:
        file.addfile(tarfile.TarInfo('a.txt'))
    target.write_bytes(content.getvalue())


def write(change):
    return lambda data, target: target.write_bytes(change(data))


DAMAGE = {
    'no bytes': (write(lambda data: b''), 'not a readable archive'),
    'half': (write(lambda data: data[: len(data) // 2 + 100]), 'not a readable archive'),
    'text': (write(lambda data: b'<html>404 not found</html>' * 40), 'not a readable archive'),
    'compressed': (compressed, 'not a readable archive'),
    'no members': (empty_archive, 'has none of the files that its name promises'),
}


@ONE_OF_EACH
@pytest.mark.parametrize(('damage', 'told'), DAMAGE.values(), ids=DAMAGE)
def test_broken_archive_is_named_and_does_not_hide_the_others(world, tmp_path, name, damage, told):
    times = (
        ('20200614', '20200624') if 'Landsat' in name else ('20200614T101559', '20200624T101559')
    )
    _, good = (archived(build(world, name, time), tmp_path / 'archives') for time in times)
    bad = next(path for path in good.parent.iterdir() if times[0] in path.name)
    damage(bad.read_bytes(), bad)
    _, _, dataset, bands = PRODUCTS[name]
    match = rf'1 of 2 products .* left out:\n  {bad}: {told}'
    with pytest.warns(UserWarning, match=match):
        ds = dataset(good.parent, bands=bands)
    assert len(ds) == 1
    assert list(ds.problems) == [str(bad)]
    with pytest.raises(ValueError, match=match):
        dataset(good.parent, bands=bands, strict=True)
    with pytest.warns(UserWarning, match=told), pytest.raises(DatasetNotFoundError):
        dataset(bad, bands=bands)


@ONE_OF_EACH
@pytest.mark.parametrize('inside', ['', '/', '/GRANULE'])
def test_gdal_path_into_a_broken_archive_is_named(world, tmp_path, name, inside):
    archive = archived(build(world, name), tmp_path / 'archives')
    archive.write_bytes(b'')
    _, _, dataset, bands = PRODUCTS[name]
    path = f'/vsi{archive.suffix[1:]}/{archive}{inside}'
    told = f'{path}: not a readable archive'
    with pytest.warns(UserWarning, match=told), pytest.raises(DatasetNotFoundError):
        dataset(path, bands=bands)


def test_tar_that_ends_between_two_members_lacks_bands(world, tmp_path):
    folder = build(world, 'Landsat L2')
    archive = archived(folder, tmp_path / 'archives')
    with tarfile.open(archive) as file:
        cut = next(info.offset for info in file if info.name.endswith('SR_B4.TIF'))
    archive.write_bytes(archive.read_bytes()[:cut])
    told = 'no SR_B4, SR_B5, SR_B6, SR_B7'
    with pytest.warns(UserWarning, match=told), pytest.raises(DatasetNotFoundError):
        LandsatC2L2(archive, qa=False)
    assert len(LandsatC2L2(archive, bands=['SR_B2', 'SR_B3'], qa=False, strict=True)) == 1


@pytest.mark.parametrize('member', ['MTD_MSIL2A.xml', '_B04_10m.tif', '_SCL_20m.tif'])
def test_damage_inside_of_a_zip_is_an_error_and_never_wrong_pixels(world, tmp_path, member):
    folder = build(world, 'L2A', size=600)
    archive = zipped(folder, tmp_path / f'{folder.name}.zip')
    with zipfile.ZipFile(archive) as file:
        info = next(i for i in file.infolist() if i.filename.endswith(member))
    data = bytearray(archive.read_bytes())
    middle = info.header_offset + 30 + len(info.filename) + info.compress_size // 2
    data[middle : middle + 40] = b'\x55' * 40
    archive.write_bytes(data)

    def read():
        ds = Sentinel2L2A(archive, bands=['B04'], strict=True)
        return ds[ds.bounds]

    with pytest.raises((ValueError, OSError), match=r'are left out|[Rr]ead failed'):
        read()


def test_archive_that_was_written_anew_is_read_anew(world, tmp_path):
    folder = build(world, 'L2A', edit={'B04': lambda data: data.fill(2000)})
    archive = zipped(folder, tmp_path / f'{folder.name}.zip')
    ds = Sentinel2L2A(archive, bands=['B04'])
    assert float(ds[ds.bounds]['image'].max()) == pytest.approx(0.15)
    build(world, 'L2A', offset=-1000, edit={'B04': lambda data: data.fill(3001)})
    zipped(folder, archive)
    os.utime(archive, (2e9, 2e9))
    again = Sentinel2L2A(archive, bands=['B04'])
    assert float(again[again.bounds]['image'].max()) == pytest.approx(0.2001)


def test_folder_and_archive_of_one_product_are_one_acquisition(world, tmp_path):
    folder = build(world, 'L2A')
    archived(folder, tmp_path / 'all')
    shutil.move(folder, tmp_path / 'all')
    assert len(Sentinel2L2A(tmp_path / 'all', strict=True)) == 1


def test_archives_of_the_other_level_or_sensor_are_passed_over(world, tmp_path):
    where = tmp_path / 'archives'
    for name in ('L2A', 'L1C', 'Landsat L2', 'Landsat L1'):
        archived(build(world, name), where)
    broken = where / 'S2A_MSIL1C_20210614T101559_N0500_R065_T32TPQ_20220101T000000.SAFE.zip'
    broken.write_text('not one of Level-2A')
    for name in ('L2A', 'Landsat L2', 'Landsat L1'):
        _, _, dataset, bands = PRODUCTS[name]
        assert len(dataset(where, bands=bands, strict=True)) == 1


def test_real_products_are_the_same_in_archives(shared_data, tmp_path):
    safe = next((shared_data / 'safe').glob('*N0214*'))
    landsat = shared_data / 'landsat_c2l2'
    archives = {
        'L2A': (zipped(safe, tmp_path / f'{safe.name.removeprefix("esa_")}.zip'), safe),
        'Landsat L2': (
            tarred(landsat, tmp_path / 'LC08_L2SP_008059_20191201_20200825_02_T1.tar'),
            landsat,
        ),
    }
    for name, (archive, folder) in archives.items():
        same(name, archive, folder, cache=False)
