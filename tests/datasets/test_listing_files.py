# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Files in folders and archives, found and read without GDAL."""

import io
import os
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio

from torchgeo_anysensor.datasets.files import (
    as_list,
    folder_name,
    list_files,
    on_disk,
    read_bytes,
    stamp,
)

MEMBERS = {'a.tif': b'one', 'sub/b.tif': b'two', 'sub/notes.txt': b'three'}
KINDS = pytest.mark.parametrize('kind', ['zip', 'tar'])


def wanted(name):
    return name.endswith('.tif')


def is_product(name):
    return name.startswith('product')


def find(paths):
    return list_files(paths, wanted, is_product)


def pack(path, members=MEMBERS, prefix=''):
    """Archive of a kind that its name tells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == '.zip':
        with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as file:
            for name, content in members.items():
                file.writestr(prefix + name, content)
        return path
    with tarfile.open(path, 'w') as file:
        for name, content in members.items():
            info = tarfile.TarInfo(prefix + name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'')
    return [str(path) for path in sorted(paths)]


def test_files_are_found_at_any_depth_and_sorted(tmp_path):
    expected = touch(tmp_path / 'c.tif', tmp_path / 'b/d/a.tif', tmp_path / 'b/z.tif')
    touch(tmp_path / 'b/other.txt', tmp_path / 'tif')
    assert find(tmp_path).files == expected
    assert find([tmp_path, tmp_path / 'b', tmp_path / 'c.tif']).files == expected
    assert find([]).files == []


@pytest.mark.parametrize('paths', ['{}/*.tif', '{}/**/*.tif', '{}/[ab].tif', '{}/absent', '{}/*.x'])
def test_patterns_find_what_the_shell_finds(tmp_path, paths):
    touch(tmp_path / 'a.tif', tmp_path / 'sub/b.tif')
    count = {'*.tif': 1, '**/*.tif': 2, '[ab].tif': 1}.get(paths.removeprefix('{}/'), 0)
    assert len(find(paths.format(tmp_path)).files) == count


def test_what_is_not_there_is_told(tmp_path):
    (file,) = touch(tmp_path / 'a.tif')
    typo, pattern = str(tmp_path / 'typo'), str(tmp_path / 'typo/*.tif')
    found = find([file, typo, pattern])
    assert found.files == [file]
    assert found.broken == dict.fromkeys([typo, pattern], 'no such file or folder')


def test_folder_that_one_may_not_read_is_told(tmp_path, monkeypatch):
    touch(tmp_path / 'a.tif', tmp_path / 'secret/b.tif')
    scan = os.scandir

    def guarded(folder):
        if str(folder).endswith('secret'):
            raise PermissionError(13, 'Permission denied')
        return scan(folder)

    monkeypatch.setattr(os, 'scandir', guarded)
    found = find(tmp_path)
    assert [os.path.basename(file) for file in found.files] == ['a.tif']
    assert found.broken == {str(tmp_path / 'secret'): 'cannot be read (Permission denied)'}


def test_file_is_taken_by_its_name_even_if_it_is_given_itself(tmp_path):
    (path,) = touch(tmp_path / 'notes.txt')
    assert find(path).files == []


def test_links_that_make_a_circle_end(tmp_path):
    expected = touch(tmp_path / 'a/x.tif', tmp_path / 'b/y.tif')
    (tmp_path / 'a' / 'up').symlink_to(tmp_path)
    (tmp_path / 'a' / 'z').symlink_to(tmp_path / 'a')
    found = [os.path.realpath(path) for path in find(tmp_path).files]
    assert sorted(found) == expected
    assert found == [os.path.realpath(path) for path in find(tmp_path).files]


def test_linked_folders_and_files_are_followed(tmp_path):
    touch(tmp_path / 'real/x.tif')
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'link').symlink_to(tmp_path / 'real')
    (tmp_path / 'data' / 'y.tif').symlink_to(tmp_path / 'real' / 'x.tif')
    (tmp_path / 'data' / 'gone').symlink_to(tmp_path / 'nowhere')
    names = [str(Path(path).relative_to(tmp_path)) for path in find(tmp_path / 'data').files]
    assert names == ['data/link/x.tif', 'data/y.tif']


@KINDS
@pytest.mark.parametrize('prefix', ['', './', 'folder/'])
def test_members_are_spelled_as_gdal_opens_them(tmp_path, code, kind, prefix):
    raster = code.write(tmp_path / 'x.tif', np.ones((2, 2), 'uint8'), code.grid(0, 0, 10, (2, 2)))
    members = {'a.tif': raster.read_bytes(), 'sub/b.tif': raster.read_bytes()}
    archive = pack(tmp_path / 'in' / f'product.{kind}', members, prefix)
    found = find(tmp_path / 'in')
    inner = prefix.removeprefix('./')
    assert found.files == [f'/vsi{kind}/{archive}/{inner}{name}' for name in members]
    assert not found.broken
    for path in found.files:
        with rasterio.open(path) as src:
            assert src.shape == (2, 2)
        assert read_bytes(path) == raster.read_bytes()
        assert on_disk(path) == str(archive)


@KINDS
def test_archives_of_a_folder_are_chosen_by_name_and_those_that_are_given_are_not(tmp_path, kind):
    pack(tmp_path / f'product.{kind}')
    other = pack(tmp_path / f'other.{kind}')
    touch(tmp_path / f'broken.{kind}')
    found = find(tmp_path)
    assert [on_disk(path) for path in found.files] == [str(tmp_path / f'product.{kind}')] * 2
    assert not found.broken
    assert [on_disk(path) for path in find(other).files] == [str(other)] * 2


@KINDS
def test_archive_without_what_its_name_promises_is_told(tmp_path, kind):
    path = pack(tmp_path / f'product.{kind}', {'readme.txt': b'x'})
    assert find(tmp_path).broken == {str(path): 'has none of the files that its name promises'}
    other = pack(tmp_path / f'other.{kind}', {'readme.txt': b'x'})
    assert find(other) == ([], {})


@KINDS
def test_gdal_paths_find_what_is_below_them(tmp_path, kind):
    archive = pack(tmp_path / f'x.{kind}', MEMBERS | {'subway/c.tif': b'', 'sub.tif': b''})
    root = f'/vsi{kind}/{archive}'
    for paths in (root, f'{root}/'):
        assert len(find(paths).files) == 4
    for paths in (f'{root}/sub', f'{root}/sub/', f'{root}/sub/b.tif'):
        assert find(paths).files == [f'{root}/sub/b.tif']
    assert find(f'{root}/none').files == []
    assert find('/vsicurl/https://example.org/b.tif').files == [
        '/vsicurl/https://example.org/b.tif'
    ]


@KINDS
@pytest.mark.parametrize('content', [b'', b'text' * 200, b'PK\x03\x04' * 50])
def test_archive_that_cannot_be_read_is_told_and_not_raised(tmp_path, kind, content):
    (tmp_path / 'fine.tif').write_bytes(b'')
    path = tmp_path / f'product.{kind}'
    path.write_bytes(content)
    for paths in (tmp_path, [path, tmp_path], [f'/vsi{kind}/{path}', tmp_path / 'fine.tif']):
        found = find(paths)
        assert found.files == [str(tmp_path / 'fine.tif')]
        (reason,) = found.broken.values()
        assert reason.startswith('not a readable archive (')


@KINDS
def test_archive_that_one_may_not_open_is_told(tmp_path, kind, monkeypatch):
    path = pack(tmp_path / f'product.{kind}')

    def refuse(*args, **kwargs):
        raise PermissionError('Permission denied')

    monkeypatch.setattr('zipfile.ZipFile', refuse)
    monkeypatch.setattr('tarfile.open', refuse)
    assert find(path).broken == {str(path): 'not a readable archive (Permission denied)'}


def flip(path, signature, offset, value):
    """Change a field of each header of a zip file."""
    data = bytearray(path.read_bytes())
    position = data.find(signature)
    while position >= 0:
        struct.pack_into('<H', data, position + offset, value)
        position = data.find(signature, position + 4)
    path.write_bytes(data)


LOCAL, CENTRAL = b'PK\x03\x04', b'PK\x01\x02'


def encrypt(path):
    """Set the flag of encryption; its offset differs in the two kinds of headers."""
    flip(path, LOCAL, 6, 1)
    flip(path, CENTRAL, 8, 1)


def other_method(path):
    """Claim a compression that Python has not."""
    flip(path, LOCAL, 8, 97)
    flip(path, CENTRAL, 10, 97)


def damage(path):
    """Overwrite the compressed bytes of the first member."""
    data = path.read_bytes()
    start = 30 + len('big.xml')
    path.write_bytes(data[: start + 8] + b'\xff' * 60 + data[start + 68 :])


def no_deflate(path):
    """Begin the compressed bytes with a kind of block that there is not."""
    data = path.read_bytes()
    start = 30 + len('big.xml')
    path.write_bytes(data[:start] + b'\x07' + data[start + 1 :])


@pytest.mark.parametrize('change', [encrypt, other_method, damage, no_deflate])
def test_member_that_cannot_be_read_is_an_os_error_with_its_name(tmp_path, change):
    content = os.urandom(30).hex().encode() * 100 + os.urandom(200)
    archive = pack(tmp_path / 'x.zip', {'big.xml': content})
    change(archive)
    with pytest.raises(OSError, match=r'^/vsizip/.*x\.zip/big\.xml: '):
        read_bytes(f'/vsizip/{archive}/big.xml')


@KINDS
@pytest.mark.parametrize('member', ['none.xml', 'sub', ''])
def test_member_that_is_not_there_is_an_os_error(tmp_path, kind, member):
    archive = pack(tmp_path / f'x.{kind}')
    with pytest.raises(OSError, match='is not in the archive'):
        read_bytes(f'/vsi{kind}/{archive}/{member}')


def test_file_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_bytes(str(tmp_path / 'none.xml'))
    with pytest.raises(OSError, match='none'):
        read_bytes(f'/vsizip/{tmp_path}/none.zip/a.xml')


@KINDS
def test_stamp_changes_with_the_archive(tmp_path, kind):
    archive = pack(tmp_path / f'x.{kind}')
    path = f'/vsi{kind}/{archive}/a.tif'
    before = stamp(path)
    assert before == stamp(str(archive)) == (archive.stat().st_size, archive.stat().st_mtime_ns)
    os.utime(archive, ns=(1, 1))
    assert stamp(path) == (before[0], 1)
    assert stamp(str(tmp_path / 'none')) == (0, 0)


@pytest.mark.parametrize('paths', ['a', Path('a'), ['a'], (Path('a'),), iter(['a'])])
def test_paths_of_any_kind_are_a_list_of_texts(paths):
    assert as_list(paths) == ['a']


def test_folders_that_a_pattern_matches_are_searched(tmp_path):
    for folder in ('a1/deep', 'a2', 'b'):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / 'x.tif').touch()
    found = list_files(tmp_path / 'a*', lambda name: name.endswith('.tif')).files
    assert found == [str(tmp_path / 'a1' / 'deep' / 'x.tif'), str(tmp_path / 'a2' / 'x.tif')]


@pytest.mark.parametrize(
    'path', ['', 'a', '/', '/a', '//a', 'a/', 'a/b', 'a//b', '/a/b/c', '/vsizip//a.zip/b', 'a///b']
)
def test_folder_of_a_path_is_that_of_the_library(path):
    assert folder_name(path) == os.path.dirname(path)
