# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Products that were written again are read as before, to the bit."""

import os
import tarfile
import zipfile

import numpy as np
import pytest
import rasterio
import torch

from torchgeo_anysensor.datasets import HLSS30, LandsatC2L2, Sentinel2L1C, Sentinel2L2A
from torchgeo_anysensor.main import main
from torchgeo_anysensor.prepare import retile

JP2 = {'extension': 'jp2', 'profile': {'driver': 'JP2OpenJPEG', 'QUALITY': 100, 'REVERSIBLE': True}}


def check(kind, before, after, **options):
    """Both folders have the same products and pixels."""
    one, other = kind(before, **options), kind(after, **options)
    columns = ['tile', 'platform', 'baseline', 'clear_fraction']
    assert one.index[columns].equals(other.index[columns])
    assert one.index.geometry.geom_equals(other.index.geometry).all()
    assert (one.index.index == other.index.index).all()
    first, second = one[one.bounds], other[other.bounds]
    assert set(first) == set(second)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert first['valid'].any()


def rasters(folder):
    return sorted(p for p in folder.rglob('*') if p.suffix.lower() in ('.tif', '.jp2'))


@pytest.mark.parametrize(
    ('kind', 'build', 'options'),
    [
        (Sentinel2L2A, 'sentinel2_l2a', {}),
        (Sentinel2L2A, 'sentinel2_l2a', JP2),
        (Sentinel2L1C, 'sentinel2_l1c', {}),
        (LandsatC2L2, 'landsat_c2l2', {}),
        (HLSS30, 'hls', {'tags': {'cloud_coverage': '12', 'PRODUCT_URI': 'S2B_MSIL1C_x'}}),
    ],
    ids=['SAFE', 'SAFE, JPEG 2000', 'Level-1C', 'Landsat', 'HLS'],
)
def test_same_products_and_pixels(kind, build, options, world, tmp_path):
    getattr(world, build)(size=600, **options)
    report = retile(world.root, tmp_path / 'new')
    assert not report.problems
    assert report.written == len(rasters(world.root))
    check(kind, world.root, tmp_path / 'new')
    for path in rasters(tmp_path / 'new'):
        with rasterio.open(path) as src:
            assert src.block_shapes == [(128, 128)] * src.count
            assert src.compression.name == 'zstd'
            assert path.suffix != '.jp2'


def test_pixels_tags_and_nodata_stay(tmp_path, code):
    rng = np.random.default_rng(0)
    data = rng.integers(-500, 9000, (2, 300, 310)).astype('int16')
    grid = code.grid(code.left, code.top, 30, (300, 310))
    source = code.write(tmp_path / 'a' / 'b' / 'x.TIF', data, grid, nodata=-9999)
    with rasterio.open(source, 'r+') as dst:
        dst.update_tags(cloud_coverage='7')
        dst.update_tags(2, add_offset='0')
        dst.descriptions = ('red', 'blue')
        dst.scales = (1e-4, 1e-4)
    (tmp_path / 'a' / 'notes.xml').write_text('<x/>')
    report = retile(tmp_path / 'a', tmp_path / 'new')
    assert (report.written, report.copied) == (1, 1)
    with rasterio.open(source) as one, rasterio.open(tmp_path / 'new/b/x.TIF') as other:
        assert np.array_equal(one.read(), other.read())
        for key in ('dtypes', 'nodata', 'crs', 'transform', 'descriptions', 'scales', 'offsets'):
            assert getattr(one, key) == getattr(other, key)
        assert one.tags().items() <= other.tags().items()
        assert one.tags(2).items() <= other.tags(2).items()
    assert (tmp_path / 'new/notes.xml').read_text() == '<x/>'
    assert sorted(p.name for p in (tmp_path / 'new').rglob('*') if p.is_file()) == [
        'notes.xml',
        'x.TIF',
    ]


def test_jpeg2000_of_15_bits_is_not_packed(tmp_path, code):
    data = np.random.default_rng(0).integers(0, 2**15, (1, 200, 200)).astype('uint16')
    grid = code.grid(code.left, code.top, 10, (200, 200))
    code.write(tmp_path / 'a/x.jp2', data, grid, **JP2['profile'], NBITS=15)
    retile(tmp_path / 'a', tmp_path / 'new')
    with rasterio.open(tmp_path / 'new/x.tif') as src:
        assert np.array_equal(src.read(), data)
        assert 'NBITS' not in src.tags(1, ns='IMAGE_STRUCTURE')


@pytest.mark.parametrize('own_folder', [True, False])
def test_archives_are_unpacked(own_folder, world, tmp_path):
    """A SAFE.zip holds its folder; a Landsat tar holds bare files."""
    safe = world.sentinel2_l2a(size=600)
    scene = world.landsat_c2l2(size=600)
    packed = tmp_path / 'packed'
    packed.mkdir()
    with zipfile.ZipFile(packed / f'{safe.stem}.zip', 'w') as archive:
        for path in filter(os.path.isfile, safe.rglob('*')):
            archive.write(path, path.relative_to(safe.parent))
    with tarfile.open(packed / f'{scene.name}.tar', 'w') as archive:
        for path in scene.iterdir():
            archive.add(path, f'{scene.name}/{path.name}' if own_folder else path.name)
    report = retile(packed, tmp_path / 'new')
    assert not report.problems
    found = {p.relative_to(tmp_path / 'new') for p in rasters(tmp_path / 'new')}
    assert found == {p.relative_to(world.root) for p in rasters(world.root)}
    check(Sentinel2L2A, packed, tmp_path / 'new')
    check(LandsatC2L2, packed, tmp_path / 'new')


def test_one_product_keeps_its_name(world, tmp_path):
    safe = world.sentinel2_l2a(size=600, xml='')  # its name alone tells the baseline
    retile(safe, tmp_path / 'new')
    check(Sentinel2L2A, safe, tmp_path / 'new')


def test_goes_on_where_it_stopped(world, tmp_path):
    world.hls(size=600)
    new = tmp_path / 'new'
    total = retile(world.root, new).written
    path = rasters(new)[0]
    content = path.read_bytes()
    path.unlink()
    (path.parent / f'.{path.name}.0123.part').write_bytes(content[:100])  # of a run that was killed
    report = retile(world.root, new)
    assert (report.written, report.there) == (1, total - 1)
    assert path.read_bytes() == content
    assert not list(new.rglob('*.part'))
    source = rasters(world.root)[1]
    os.utime(source)  # changed since
    assert retile(world.root, new).written == 1


def test_bad_file_is_named_and_hinders_no_other(world, tmp_path, capsys):
    folder = world.hls(size=600, profile={'tiled': True, 'blockxsize': 16, 'blockysize': 16})
    whole = len(rasters(folder))
    cut, text = rasters(folder)[:2]
    cut.write_bytes(cut.read_bytes()[:-300])
    text.write_text('no raster')
    with pytest.raises(SystemExit, match='1'):
        main(['retile', str(world.root), str(tmp_path / 'new')])
    printed = capsys.readouterr().out
    assert '2 could not be written' in printed
    assert f'{cut}: was cut off' in printed
    assert str(text) in printed
    assert len(rasters(tmp_path / 'new')) == whole - 2


def test_processes_write_the_same(world, tmp_path):
    world.hls(size=600)
    retile(world.root, tmp_path / 'one')
    retile(world.root, tmp_path / 'two', workers=2)
    one, two = rasters(tmp_path / 'one'), rasters(tmp_path / 'two')
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]


@pytest.mark.parametrize('place', ['.', 'new', '..'])
def test_writes_neither_into_its_source_nor_around_it(place, world):
    world.hls(size=240)
    with pytest.raises(ValueError, match='must lie outside'):
        retile(world.root, world.root / place)


def test_refuses_what_makes_no_sense(world, tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match='there is no such file'):
        retile(tmp_path / 'nowhere', tmp_path / 'new')
    world.hls(size=240)
    with pytest.raises(SystemExit):
        main(['retile', str(world.root), str(tmp_path / 'new'), '--block', '100'])
    assert 'block=100 must be a multiple of 16' in capsys.readouterr().err


def test_two_files_of_one_name_are_refused(tmp_path):
    (tmp_path / 'a').mkdir()
    for name in ('x.jp2', 'x.tif'):
        (tmp_path / 'a' / name).touch()
    with pytest.raises(ValueError, match='would both become'):
        retile(tmp_path / 'a', tmp_path / 'new')
